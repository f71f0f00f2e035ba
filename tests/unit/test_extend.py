"""More time: what Slurm is asked, what its answers mean, what the job and the user are told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.extend import extend, submit_successor
from hpcvlm.slurm.extend import parse_time_limit_update, scontrol_time_limit
from hpcvlm.system.process import Completed
from hpcvlm.system.settings import Settings
from tests.job_records import HOUR, NOW, StillClock, record

# Printed by scontrol 22.05.8.
DENIED = "Access/permission denied for job 41\n"
GONE = "Invalid job id specified for job 41\n"


class Slurm:
    """One job, and a controller that changes its limit, or says why it does not."""

    def __init__(self, *, answer: Completed | None = None, **job: Any) -> None:
        self.answer = answer
        self.changes = answer is None or answer.code == 124
        self.state = job.get("state", "RUNNING")
        self.limit: str = job.get("limit", "2:00:00")
        self.left_s = job.get("left_s", HOUR)
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str], **_: object) -> Completed:
        self.asked.append(tuple(argv))
        if argv[0] == "sinfo":
            return Completed(0, "gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4\n", "")
        if argv[0] == "scontrol":
            if self.changes:
                self.limit = argv[-1].removeprefix("TimeLimit=")
                self.left_s += 4 * HOUR
            return self.answer or Completed(0, "", "")
        start = int(NOW - HOUR) if self.state == "RUNNING" else "N/A"
        end = int(NOW + self.left_s) if self.state == "RUNNING" else "N/A"
        line = f"41|{self.state}|None|n1|{start}|{end}|{self.limit}|gpu|e\n"
        return Completed(0, line if self.state else "", "")


def context(tmp_path: Path, slurm: Slurm) -> Context:
    settings = Settings(tmp_path / "state", tmp_path / "c", tmp_path / "s")
    return Context(settings, {}, slurm, StillClock())


def ask(tmp_path: Path, slurm: Slurm, **over: Any) -> Any:
    made = record(tmp_path / "state" / "jobs", "e", **over)
    return extend(made, int(4 * HOUR), context(tmp_path, slurm))


def told(tmp_path: Path) -> str:
    return (tmp_path / "state" / "jobs" / "e" / "ends").read_text()


def test_the_limit_is_given_whole_so_that_a_repeated_call_does_not_add_up(tmp_path: Path) -> None:
    slurm = Slurm()
    done = ask(tmp_path, slurm)
    assert ("scontrol", "update", "JobId=41", "TimeLimit=06:00:00") in slurm.asked
    assert (done.was_s, done.limit_s, done.ends) == (7200, 21600, NOW + 5 * HOUR)
    assert told(tmp_path) == f"{int(NOW + 5 * HOUR)}\n"
    assert scontrol_time_limit("7", 90_000)[-1] == "TimeLimit=1-01:00:00"


def test_a_successor_takes_over_all_the_same(tmp_path: Path) -> None:
    record(tmp_path / "state" / "jobs", "e~2", endpoint="e", generation=2, job_id="42")
    assert ask(tmp_path, Slurm()).note == "e~2 (job 42) takes over all the same when it is ready"


def test_a_submission_in_doubt_cannot_be_extended(tmp_path: Path) -> None:
    slurm = Slurm()
    with pytest.raises(HpcvlmError, match="not known yet"):
        ask(tmp_path, slurm, job_id="")
    assert not slurm.asked


def test_a_job_that_waits_has_no_end_yet(tmp_path: Path) -> None:
    done = ask(tmp_path, Slurm(state="PENDING"))
    assert (done.limit_s, done.ends) == (21600, None)
    assert not (tmp_path / "state" / "jobs" / "e" / "ends").exists()


def test_where_only_operators_may_the_user_is_told_what_else_there_is(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError) as error:
        ask(tmp_path, Slurm(answer=Completed(1, "", DENIED)))
    assert error.value.code == "extend-refused"
    assert "hpcvlm extend e --successor" in error.value.remedy
    latest = time.strftime("%a %d %b %H:%M", time.localtime(NOW + 23 * HOUR))
    details = "\n".join(error.value.details)
    assert "Access/permission denied" in details
    assert f"partition gpu allows 1-00:00:00 in all, so {latest} is the latest end" in details
    assert not (tmp_path / "state" / "jobs" / "e" / "ends").exists()


def test_a_change_that_slurm_took_and_did_not_make_is_no_change(tmp_path: Path) -> None:
    slurm = Slurm()
    slurm.changes = False
    with pytest.raises(HpcvlmError, match="does not give job 41 of e more time"):
        ask(tmp_path, slurm)


def test_an_answer_that_was_lost_is_looked_for_in_the_queue(tmp_path: Path) -> None:
    assert ask(tmp_path, Slurm(answer=Completed(124, "", "no answer"))).limit_s == 21600
    slurm = Slurm(answer=Completed(124, "", "no answer"))
    slurm.changes = False
    with pytest.raises(HpcvlmError) as error:
        ask(tmp_path, slurm)
    assert error.value.code == "slurm-unavailable"


@pytest.mark.parametrize("slurm", [Slurm(state="COMPLETING"), Slurm(state="")])
def test_a_job_that_is_over_gets_none(tmp_path: Path, slurm: Slurm) -> None:
    with pytest.raises(HpcvlmError, match="is over"):
        ask(tmp_path, slurm)
    assert all(argv[0] == "squeue" for argv in slurm.asked)


def test_a_job_that_ends_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError, match="is over"):
        ask(tmp_path, Slurm(answer=Completed(1, "", GONE)))


def test_no_limit_needs_no_more(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError, match="has no time limit"):
        ask(tmp_path, Slurm(limit="UNLIMITED"))


def test_without_slurm_there_is_nothing_to_ask(tmp_path: Path) -> None:
    slurm = Slurm()
    made = record(tmp_path / "state" / "jobs", "l", executor="local")
    for give in (lambda c: extend(made, 60, c), lambda c: submit_successor(made, c)):
        with pytest.raises(HpcvlmError, match="without Slurm"):
            give(context(tmp_path, slurm))
    assert not slurm.asked


def test_a_job_that_cannot_be_told_has_its_time_all_the_same(tmp_path: Path) -> None:
    made = record(tmp_path / "state" / "jobs", "e")
    (Path(made.folder) / "record.json").unlink()
    Path(made.folder).rmdir()
    done = extend(made, int(4 * HOUR), context(tmp_path, Slurm()))
    assert done.limit_s == 21600
    assert "the job cannot be told" in done.note


@pytest.mark.parametrize(
    ("code", "stderr", "what"),
    [
        (0, "", "done"),
        (1, DENIED, "refused"),
        (1, "slurm_update error: Invalid user id for job 1", "refused"),
        (1, "slurm_update error: Requested time limit is invalid (missing or exceeds)", "too-long"),
        (1, GONE, "gone"),
        (1, "slurm_update error: Job has already finished", "gone"),
    ],
)
def test_words_of_scontrol(code: int, stderr: str, what: str) -> None:
    assert parse_time_limit_update(code, "", stderr)[0] == what


@pytest.mark.parametrize(("code", "stderr"), [(1, "Unable to contact slurm controller"), (127, "")])
def test_words_that_leave_it_open(code: int, stderr: str) -> None:
    with pytest.raises(HpcvlmError) as error:
        parse_time_limit_update(code, "", stderr)
    assert error.value.code == "slurm-unavailable"
