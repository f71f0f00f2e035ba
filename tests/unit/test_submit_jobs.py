"""Submitting: a job that was accepted is never lost, one that was refused leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.chain import generation_name
from hpcvlm.plan.model import LaunchPlan, LaunchRequest
from hpcvlm.render.model import JobFile, RenderedJob
from hpcvlm.submit.adopt import look_up
from hpcvlm.submit.cluster import AskedMeanwhile, cluster_here
from hpcvlm.submit.job import submit_jobs
from hpcvlm.submit.record import JobRecord, read_record
from hpcvlm.system.files import write_atomically
from hpcvlm.system.process import Completed, Runner
from hpcvlm.watch.scheduler import confirm
from tests.job_fixtures import make_plan
from tests.slurm_stand_in import AWAY, LOST, REFUSED, TIMED_OUT, FakeClock, FakeSlurm

WARNED = Completed(0, "4711\n", "sbatch: warning: the partition is slow today\n")
NO_NUMBER = Completed(0, "Submitted\n", "")
FAILED_AFTER = Completed(1, "", "sbatch: error: the mail about your quota could not be sent\n")
KILLED = Completed(-9, "", "")


@pytest.fixture(autouse=True)
def srun_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's Slurm executor looks for srun before it does anything."""
    fake = tmp_path / "bin" / "srun"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")


def adopt(record: JobRecord, runner: Runner) -> JobRecord | None:
    """The record with the number that was found; None without one."""
    (known,), _ = confirm([record], runner)
    return known if known.job_id else None


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs"


def planned(jobs: Path, name: str = "mine", **over: object) -> LaunchPlan:
    asked = LaunchRequest("tiny-vlm", gpus="A100:1", time="1h", restarts=2, idle="30m")
    plan = make_plan(asked, name=name, folder=str(jobs / name)).plan
    return replace(plan, **over)  # type: ignore[arg-type]


def chain(jobs: Path, count: int) -> list[tuple[LaunchPlan, RenderedJob]]:
    """An endpoint of so many jobs of an hour, which overlap by ten minutes."""
    return [
        (
            planned(
                jobs,
                generation_name("mine", number),
                endpoint="mine",
                generation=number,
                keep_s=7200,
                overlap_s=600,
            ),
            rendered(),
        )
        for number in range(1, count + 1)
    ]


def rendered() -> RenderedJob:
    return RenderedJob("#!/bin/bash\n", (JobFile("job.sbatch", "#!/bin/bash\n", 0o700),))


def submitted(
    jobs: Path, slurm: FakeSlurm, clock: FakeClock | None = None, count: int = 1
) -> tuple[JobRecord, ...]:
    return submit_jobs(chain(jobs, count), runner=slurm, clock=clock or FakeClock())


def refusal(jobs: Path, slurm: FakeSlurm, count: int = 1) -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        submitted(jobs, slurm, count=count)
    return caught.value


def names(jobs: Path) -> list[str]:
    return sorted(folder.name for folder in jobs.iterdir())


def test_a_job_is_known_by_its_number_and_its_cluster(jobs: Path) -> None:
    records = submitted(jobs, FakeSlurm(cluster="alpha"), count=2)
    assert [record.cluster for record in records] == ["alpha", "alpha"]
    assert read_record(jobs / "mine~2") == records[1]


def test_a_controller_that_does_not_say_its_cluster_s_name_holds_nobody_up(jobs: Path) -> None:
    answer = threading.Event()

    class Slow(FakeSlurm):
        def __call__(self, argv: Sequence[str], **options: Any) -> Completed:
            if argv[0] == "scontrol":
                answer.wait(60)
            return super().__call__(argv, **options)

    asked = AskedMeanwhile(Slow(cluster="alpha"))
    assert asked.name(wait_s=0.05) == ""
    assert asked.name(wait_s=60) == ""  # it has been waited for once
    answer.set()
    away = FakeSlurm(cluster="alpha")
    assert AskedMeanwhile(away).name() == "alpha"
    assert cluster_here(lambda *_args, **_options: AWAY) == ""


def test_the_record_stands_before_sbatch_runs(jobs: Path) -> None:
    seen: list[JobRecord | None] = []
    slurm = FakeSlurm(before=lambda folder: seen.append(read_record(Path(folder))))
    (record,) = submit_jobs([(planned(jobs), rendered())], runner=slurm, clock=FakeClock())
    (before,) = seen
    assert before is not None
    assert before.job_id == ""
    assert record == replace(before, job_id="4711") == read_record(jobs / "mine")
    assert (record.requeue, record.restarts, record.idle_s) == (True, 2, 1800)
    assert (record.endpoint, record.generation, record.keep_until) == ("mine", 1, None)
    assert slurm.asked == [("sbatch", "--parsable", str(jobs / "mine" / "job.sbatch"))]
    assert names(jobs / "mine") == ["job.sbatch", "key", "media", "record.json"]
    assert not list((jobs.parent / "new").iterdir())
    for path in (jobs / "mine", jobs, *(jobs / "mine").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_warning_is_kept(jobs: Path) -> None:
    (record,) = submitted(jobs, FakeSlurm([(WARNED, True)]))
    assert record.warnings == ("sbatch: warning: the partition is slow today",)


@pytest.mark.parametrize("answer", [TIMED_OUT, LOST, NO_NUMBER, FAILED_AFTER, KILLED])
def test_a_job_that_was_accepted_is_found_whatever_sbatch_said(
    jobs: Path, answer: Completed
) -> None:
    slurm = FakeSlurm([(answer, True)])
    (record,) = submitted(jobs, slurm)
    assert record.job_id == "4711"
    assert "but Slurm has the job" in record.warnings[0]
    assert read_record(jobs / "mine") == record
    assert slurm.count("sbatch") == 1


def test_a_job_that_was_accepted_and_is_over_is_found_in_the_accounts(jobs: Path) -> None:
    slurm = FakeSlurm([(TIMED_OUT, True)], forgotten=True)
    assert submitted(jobs, slurm)[0].job_id == "4711"
    assert slurm.count("sacct") == 1


def test_a_job_folder_behind_a_link_is_found(jobs: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    jobs.parent.symlink_to(real)
    assert submitted(jobs, FakeSlurm([(TIMED_OUT, True)]))[0].job_id == "4711"


@pytest.mark.parametrize("answer", [TIMED_OUT, LOST, NO_NUMBER, KILLED])
def test_one_that_slurm_does_not_have_was_not_submitted(jobs: Path, answer: Completed) -> None:
    slurm, clock = FakeSlurm([answer]), FakeClock()
    with pytest.raises(HpcvlmError, match="Slurm has no such job, so nothing was submitted"):
        submitted(jobs, slurm, clock)
    assert slurm.count("squeue") == 2
    assert sum(clock.slept) > 1
    assert slurm.count("sbatch") == 1
    assert names(jobs) == []


def test_a_refusal_is_told_as_slurm_words_it_and_leaves_nothing(jobs: Path) -> None:
    error = refusal(jobs, FakeSlurm([REFUSED]))
    assert (error.code, error.sentence) == (
        "sbatch-refused",
        "sbatch refused the job: Invalid account",
    )
    assert names(jobs) == []


@pytest.mark.parametrize("answer", [TIMED_OUT, LOST])
def test_where_nobody_can_be_asked_the_folder_stays(jobs: Path, answer: Completed) -> None:
    slurm = FakeSlurm([(answer, True)], down=lambda: True)
    error = refusal(jobs, slurm)
    assert error.code == "submission-unconfirmed"
    assert error.sentence.endswith("; whether the job of mine was accepted is not known")
    assert error.remedy.startswith("hpcvlm status mine tells once Slurm answers; hpcvlm stop mine")
    record = read_record(jobs / "mine")
    assert record is not None
    assert record.job_id == ""
    # Once Slurm answers again, anybody who looks finds the job.
    assert not look_up(record, slurm).answered
    assert adopt(record, FakeSlurm(jobs=slurm.jobs)) == replace(record, job_id="4711")
    assert read_record(jobs / "mine") == replace(record, job_id="4711")


def test_a_controller_that_comes_back_within_a_minute_is_waited_for(jobs: Path) -> None:
    clock = FakeClock()
    slurm = FakeSlurm([(LOST, True)], down=lambda: sum(clock.slept) < 20)
    assert submitted(jobs, slurm, clock)[0].job_id == "4711"
    assert slurm.count("sbatch") == 1


def test_what_slurm_cannot_take_just_now_is_asked_again(jobs: Path) -> None:
    slurm, clock = FakeSlurm([AWAY, AWAY, AWAY]), FakeClock()
    assert submitted(jobs, slurm, clock)[0].job_id == "4711"
    assert (slurm.count("sbatch"), len(slurm.jobs)) == (4, 1)
    assert clock.slept == sorted(clock.slept)


def test_but_not_for_ever(jobs: Path) -> None:
    slurm, clock = FakeSlurm([AWAY] * 99), FakeClock()
    with pytest.raises(HpcvlmError) as caught:
        submitted(jobs, slurm, clock)
    assert caught.value.code == "slurm-unavailable"
    assert 30 < sum(clock.slept) <= 60
    assert names(jobs) == []


def test_a_retry_that_ends_in_doubt_is_not_repeated(jobs: Path) -> None:
    slurm = FakeSlurm([AWAY, (TIMED_OUT, True)])
    assert submitted(jobs, slurm)[0].job_id == "4711"
    assert (slurm.count("sbatch"), len(slurm.jobs)) == (2, 1)


def test_a_chain_is_one_endpoint_with_one_key(jobs: Path) -> None:
    slurm = FakeSlurm()
    records = submitted(jobs, slurm, count=3)
    assert [job.dependency for job in slurm.jobs] == ["", "after:4711+50", "after:4712+50"]
    assert [record.name for record in records] == ["mine", "mine~2", "mine~3"]
    assert {record.shown_name for record in records} == {"mine"}
    assert [record.generation for record in records] == [1, 2, 3]
    assert {record.keep_until for record in records} == {records[0].submitted + 7200}
    assert len({(jobs / name / "key").read_text() for name in names(jobs)}) == 1


def test_a_refusal_part_way_takes_all_back(jobs: Path) -> None:
    slurm = FakeSlurm([True, True, REFUSED])
    error = refusal(jobs, slurm, count=3)
    assert error.sentence == "sbatch refused the job: Invalid account"
    assert error.details[-2:] == (
        "of 3 jobs 2 had been accepted: none is kept",
        "cancelled: 4711, 4712",
    )
    assert slurm.alive == []
    cancelled = [argv[-1] for argv in slurm.asked if argv[:1] == ("scancel",) and len(argv) == 2]
    # The newest first: a successor would take the end of a cancelled predecessor for its start.
    assert cancelled == ["4712", "4711"]
    assert names(jobs) == []


def test_a_job_that_cannot_be_taken_back_stays_in_sight(jobs: Path) -> None:
    slurm = FakeSlurm([True, REFUSED])
    slurm.down = lambda: slurm.count("scancel") > 0
    error = refusal(jobs, slurm, count=2)
    assert "job 4711 of mine is still there: hpcvlm stop mine" in error.details
    assert names(jobs) == ["mine"]
    kept = read_record(jobs / "mine")
    assert kept is not None
    assert kept.job_id == "4711"


def test_doubt_part_way_keeps_what_may_be_there(jobs: Path) -> None:
    slurm = FakeSlurm([True, TIMED_OUT], down=lambda: True)
    error = refusal(jobs, slurm, count=3)
    assert error.code == "submission-unconfirmed"
    assert "job 4711 of mine was accepted, and stays" in error.details
    assert names(jobs) == ["mine", "mine~2"]


def test_a_successor_of_a_running_job_begins_as_soon_as_it_can(jobs: Path) -> None:
    slurm = FakeSlurm()
    (first,) = submitted(jobs, slurm)
    one_more = (planned(jobs, "mine~2", endpoint="mine", generation=2), rendered())
    key = (jobs / "mine" / "key").read_text()
    submit_jobs([one_more], runner=slurm, clock=FakeClock(), predecessor=first, key=key)
    assert slurm.jobs[1].dependency == "after:4711"
    assert (jobs / "mine~2" / "key").read_text() == key


def test_a_name_that_is_taken_is_not_touched(jobs: Path) -> None:
    (jobs / "mine~2").mkdir(parents=True)
    (jobs / "mine~2" / "file").write_text("somebody's")
    slurm = FakeSlurm()
    error = refusal(jobs, slurm, count=2)
    assert error.code == "name-taken"
    assert slurm.asked == []
    assert names(jobs) == ["mine~2"]
    assert (jobs / "mine~2" / "file").read_text() == "somebody's"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_folder_that_cannot_be_written_leaves_nothing(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    count = 0

    def full(path: Path, content: str | bytes, mode: int = 0o600) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(number, os.strerror(number), str(path))
        write_atomically(path, content, mode)

    monkeypatch.setattr("hpcvlm.submit.folders.write_atomically", full)
    slurm = FakeSlurm()
    error = refusal(jobs, slurm, count=2)
    assert error.code == "state-unwritable"
    name = "mine" if at < 4 else "mine~2"
    assert error.sentence.startswith(f"cannot write the job folder {jobs / name}: ")
    assert os.strerror(number) in error.sentence
    assert ("GB are free there" in error.sentence) is (number != errno.EROFS)
    assert slurm.asked == []
    assert names(jobs) == []
    assert list((jobs.parent / "new").iterdir()) == []


def test_a_record_that_cannot_be_written_after_sbatch_loses_no_job(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_record: JobRecord) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hpcvlm.submit.job.write_record", full)
    slurm = FakeSlurm()
    (record,) = submitted(jobs, slurm)
    assert record.job_id == "4711"
    assert record.warnings[-1].endswith("No space left on device")
    kept = read_record(jobs / "mine")
    assert kept is not None
    assert kept.job_id == ""
    adopted = adopt(kept, slurm)
    assert adopted is not None
    assert adopted.job_id == "4711"


def test_a_machine_without_room_for_another_process(jobs: Path) -> None:
    def full(_folder: str) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    error = refusal(jobs, FakeSlurm(before=full))
    assert error.code == "processes-exhausted"
    assert error.sentence.endswith("nothing was submitted")
    assert names(jobs) == []


def test_a_machine_without_srun(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    error = refusal(jobs, FakeSlurm())
    assert error.code == "slurm-unavailable"
    assert "srun" in error.sentence
    assert names(jobs) == []


def test_a_job_that_has_begun_says_its_number_itself(jobs: Path) -> None:
    slurm = FakeSlurm([(TIMED_OUT, True)], down=lambda: True)
    refusal(jobs, slurm)
    (jobs / "mine" / "state.json").write_text(json.dumps({"job_id": "4711", "phase": "engine"}))
    record = read_record(jobs / "mine")
    assert record is not None
    found = adopt(record, slurm)
    assert found is not None
    assert found.job_id == "4711"


# The controller outlives this process: nobody here waits for it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_local_job_is_found_by_its_folder_while_it_lives(jobs: Path) -> None:
    plan = make_plan(
        LaunchRequest("tiny-vlm", gpus="0", time="1h"),
        executor="local",
        name="here",
        folder=str(jobs / "here"),
    ).plan
    script = "#!/bin/bash\nexec sleep 60\n"
    job = RenderedJob(script, (JobFile("job.sbatch", script, 0o700),))
    (record,) = submit_jobs([(plan, job)], runner=FakeSlurm(), clock=FakeClock())
    lost = replace(record, job_id="", process_started=None)
    try:
        assert adopt(lost, FakeSlurm()) == record
    finally:
        _end(record)
    assert adopt(lost, FakeSlurm()) is None
    assert look_up(lost, FakeSlurm()).answered
    (jobs / "here" / "state.json").write_text(json.dumps({"job_id": record.job_id}))
    over = adopt(lost, FakeSlurm())
    assert over is not None
    assert (over.job_id, over.process_started) == (record.job_id, 0)


def _end(record: JobRecord) -> None:
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

    from hpcvlm.system.processes import is_alive, kill_session

    kill_session(int(record.job_id))
    Retrying(retry=retry_if_result(bool), stop=stop_after_delay(10), wait=wait_fixed(0.05))(
        lambda: is_alive(int(record.job_id), record.process_started)
    )
