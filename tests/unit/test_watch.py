"""The loop and the scheduler's view, with a clock that does not wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed
from hpcvlm.system.processes import is_alive, start_ticks
from hpcvlm.watch.latch import VERDICT_NAME, keep_verdict, parse_verdict, read_verdict
from hpcvlm.watch.loop import SCHEDULER_EVERY_MOST_S, Glance, watch
from hpcvlm.watch.observe import clocks
from hpcvlm.watch.reading import age, read_folder
from hpcvlm.watch.scheduler import confirm, views
from hpcvlm.watch.state import parse_state
from hpcvlm.watch.verdict import Ended, Failed, Ready, SchedulerView, Unknown, Waiting

RUNNING = SchedulerView(True, JobPhase.RUNNING, "RUNNING", nodes="gpu01")
PENDING = SchedulerView(True, JobPhase.PENDING, "PENDING", "no GPU is free")


class FakeClock:
    def __init__(self, on_tick: Callable[[float], None] = lambda _now: None) -> None:
        self.time, self.on_tick = 1000.0, on_tick

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_tick(self.time)


class Source:
    """Gives one view until told otherwise, and counts the questions."""

    def __init__(self, view: SchedulerView) -> None:
        self.now, self.asked = view, 0

    def view(self, record: JobRecord) -> SchedulerView:
        self.asked += 1
        return self.now

    def confirm(self, record: JobRecord) -> tuple[JobRecord, SchedulerView | None]:
        return record, SchedulerView(False, reason="away")


def job(folder: Path, **over: object) -> JobRecord:
    values: dict[str, object] = {
        "schema": 1,
        "name": "t",
        "model": "m",
        "served_name": "m",
        "executor": "slurm",
        "job_id": "7",
        "submitted": 1000.0,
        "folder": str(folder),
        "time_limit_s": 600,
        "start_timeout_s": 60,
        "gpus": "A100:1",
        "partition": None,
        "vision": True,
        "image_limit": 1,
        "media_root": "/m",
        "engine": "vllm 0.32.0",
        "loopback": False,
    }
    return JobRecord(**{**values, **over})  # type: ignore[arg-type]


def say(folder: Path, phase: str, now: float, reason: str = "") -> None:
    state = {
        "phase": phase,
        "reason": reason,
        "since": now,
        "started": 1002.0,
        "job_id": "7",
        "host": "gpu01",
        "port": 2345,
        "phases": {phase: now},
        "proof": "image",
    }
    path = folder / "state.json"
    path.write_text(json.dumps(state))
    os.utime(path, (now, now))  # the time here is not the clock's


def test_the_loop_follows_a_job_to_ready(tmp_path: Path) -> None:
    source = Source(PENDING)

    def tick(now: float) -> None:
        if now >= 1003:
            source.now = RUNNING
            say(tmp_path, "weights" if now < 1005 else "ready", now)

    seen: list[str] = []

    def keep(glance: Glance) -> None:
        seen.append(getattr(glance.verdict, "phase", "ready"))

    clock = FakeClock(tick)
    end = watch(job(tmp_path), source=source, clock=clock, on_glance=keep)
    assert isinstance(end.verdict, Ready)
    assert list(dict.fromkeys(seen)) == ["queued", "weights", "ready"]
    assert clock.time < 1006


def test_the_scheduler_is_asked_ever_more_seldom_while_nothing_changes(tmp_path: Path) -> None:
    source, asked = Source(PENDING), list[float]()
    clock = FakeClock()
    view = source.view

    def ask(record: JobRecord) -> SchedulerView:
        asked.append(clock.time)
        return view(record)

    source.view = ask  # type: ignore[method-assign]
    end = watch(job(tmp_path), source=source, clock=clock, queue_timeout_s=300)
    assert isinstance(end.verdict, Waiting)
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps[0] >= 2
    assert SCHEDULER_EVERY_MOST_S <= max(gaps) <= 1.5 * SCHEDULER_EVERY_MOST_S
    assert len(asked) <= 25


def test_a_scheduler_that_answers_slowly_is_left_alone_for_longer(tmp_path: Path) -> None:
    clock, source = FakeClock(), Source(PENDING)

    def slow(record: JobRecord) -> SchedulerView:
        clock.time += 30
        source.asked += 1
        return PENDING

    source.view = slow  # type: ignore[method-assign]
    watch(job(tmp_path), source=source, clock=clock, queue_timeout_s=900)
    assert source.asked <= 11


def test_a_scheduler_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    """It is asked in a thread: the phases go on, and the silence is told."""
    release, waits = threading.Event(), list[float]()

    class Hanging(Source):
        def view(self, record: JobRecord) -> SchedulerView:
            release.wait(20)
            return RUNNING

    def keep(glance: Glance) -> None:
        waits.append(glance.asked_for_s)
        if len(waits) >= 40:
            say(tmp_path, "ready", clock.now())
        assert len(waits) < 20_000
        if len(waits) == 60:
            assert isinstance(glance.verdict, Unknown)
            assert glance.verdict.last_seen == "ready"
            release.set()

    clock = FakeClock(lambda _now: time.sleep(0.001))
    say(tmp_path, "weights", 1001)
    source = Hanging(PENDING)
    end = watch(job(tmp_path), source=source, clock=clock, on_glance=keep, patient=True)
    assert isinstance(end.verdict, Ready)
    assert waits[59] == 59 * 0.25


def test_a_death_is_seen_at_the_next_look(tmp_path: Path) -> None:
    say(tmp_path, "weights", 1001)
    clock = FakeClock(lambda now: say(tmp_path, "ended", now, "engine-exited"))
    end = watch(job(tmp_path), source=Source(RUNNING), clock=clock)
    assert isinstance(end.verdict, Failed)
    assert clock.time - 1000 <= 0.5


def test_a_stopped_job_ends_the_loop(tmp_path: Path) -> None:
    say(tmp_path, "ended", 1001, "stopped")
    over = SchedulerView(True, JobPhase.DONE, "COMPLETED", ended=1002.0)
    source = Source(RUNNING)

    def tick(now: float) -> None:
        if now > 1010:
            source.now = over

    clock = FakeClock(tick)
    assert watch(job(tmp_path), source=source, clock=clock).verdict == Ended("stopped")
    assert clock.time < 1013


def test_a_job_put_back_into_the_queue_is_followed_through_its_next_run(tmp_path: Path) -> None:
    say(tmp_path, "weights", 1001)
    source = Source(RUNNING)

    def tick(now: float) -> None:
        if now == 1010:
            say(tmp_path, "ended", now, "stopped")
            source.now = SchedulerView(True, JobPhase.ENDING, "COMPLETING")
        elif now == 1012:
            source.now = PENDING
        elif now == 1060:
            say(tmp_path, "ready", now)
            source.now = RUNNING

    seen: list[str] = []

    def keep(glance: Glance) -> None:
        seen.append(getattr(glance.verdict, "phase", "ready"))

    record = job(tmp_path, requeue=True)
    end = watch(record, source=source, clock=FakeClock(tick), on_glance=keep)
    assert isinstance(end.verdict, Ready)
    assert list(dict.fromkeys(seen)) == ["weights", "draining", "queued", "ready"]


def test_a_final_verdict_is_kept_and_nothing_contradicts_it(tmp_path: Path) -> None:
    say(tmp_path, "ended", 1001, "engine-exited")
    first = watch(job(tmp_path), source=Source(RUNNING), clock=FakeClock()).verdict
    assert isinstance(first, Failed)
    assert (tmp_path / VERDICT_NAME).stat().st_mode & 0o777 == 0o600
    say(tmp_path, "ready", 1100)
    assert watch(job(tmp_path), source=Source(RUNNING), clock=FakeClock()).verdict == first
    # Another job in the same folder is another matter.
    assert read_verdict(tmp_path, "8") is None


@pytest.mark.parametrize(
    "verdict",
    [
        Failed("engine-hung", "state.json", 137, 12.5),
        Failed("node-failed", "the scheduler says NODE_FAIL"),
        Ended("idle", "idle", 3.0),
    ],
)
def test_a_kept_verdict_is_read_as_it_was(tmp_path: Path, verdict: Failed | Ended) -> None:
    assert keep_verdict(tmp_path, "7", verdict, 20.0)
    found = read_verdict(tmp_path, "7")
    assert found == verdict
    assert found is not None
    assert found.at == verdict.at
    text = (tmp_path / VERDICT_NAME).read_text()
    assert all(parse_verdict(text[:cut], "7") is None for cut in range(len(text) - 2))


def test_what_is_not_certain_is_not_kept(tmp_path: Path) -> None:
    vanished = Failed("vanished", "the scheduler no longer knows the job")
    for verdict in (vanished, Waiting("queued", 1.0), Unknown("away", "ready")):
        assert not keep_verdict(tmp_path, "7", verdict, 1.0)
    assert not keep_verdict(tmp_path, "", Ended("stopped", "stopped"), 1.0)
    assert not keep_verdict(tmp_path / "gone", "7", Ended("stopped", "stopped"), 1.0)
    assert list(tmp_path.iterdir()) == []


class FakeSlurm:
    """Answers squeue and sacct from tables and keeps what was asked."""

    def __init__(self, squeue: Completed, sacct: Completed) -> None:
        self.answers, self.asked = {"squeue": squeue, "sacct": sacct}, list[str]()

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        self.asked.append(argv[0])
        return self.answers[argv[0]]


SQUEUE = Completed(0, "7|RUNNING|None|gpu01|1000|1600|10:00|gpu|t\n", "")
SACCT = Completed(0, "8|FAILED|1:0|gpu01|900|950|10:00|gpu|u\n", "")


def test_two_calls_serve_any_number_of_jobs(tmp_path: Path) -> None:
    slurm = FakeSlurm(SQUEUE, SACCT)
    jobs = [job(tmp_path, name="t"), job(tmp_path, name="u", job_id="8")]
    jobs += [job(tmp_path, name=f"n{i}", job_id=str(100 + i)) for i in range(50)]
    found = views(jobs, slurm)
    assert slurm.asked == ["squeue", "sacct"]
    assert (found["t"].phase, found["t"].ends) == (JobPhase.RUNNING, 1600.0)
    assert (found["u"].phase, found["u"].exit_code) == (JobPhase.FAILED, 1)
    assert found["n3"] == SchedulerView(True, None)


def test_a_site_without_accounting_is_a_supported_site(tmp_path: Path) -> None:
    disabled = Completed(1, "", "Slurm accounting storage is disabled")
    found = views([job(tmp_path, job_id="9")], FakeSlurm(SQUEUE, disabled))
    assert found["t"] == SchedulerView(True, None)


def test_accounts_that_are_away_are_no_site_without_accounts(tmp_path: Path) -> None:
    away = Completed(1, "", "sacct: error: Problem talking to the database: Connection refused")
    found = views([job(tmp_path, job_id="9")], FakeSlurm(SQUEUE, away))["t"]
    assert (found.answered, found.phase, found.accounts_away) == (True, None, True)
    assert "Connection refused" in found.reason
    missing = Completed(127, "", "sacct: No such file or directory")
    found = views([job(tmp_path, job_id="9")], FakeSlurm(SQUEUE, missing))["t"]
    assert found == SchedulerView(True, None)


def test_accounts_that_still_call_a_lost_job_running_are_not_believed(tmp_path: Path) -> None:
    """squeue answered and does not know it: its end was never told to slurmdbd."""
    lost = Completed(0, "9|RUNNING|0:0|gpu01|900|Unknown|10:00|gpu|t\n", "")
    found = views([job(tmp_path, job_id="9")], FakeSlurm(SQUEUE, lost))
    assert found["t"] == SchedulerView(True, None)


def test_the_same_number_in_another_cluster_is_another_job(tmp_path: Path) -> None:
    found = views([job(tmp_path, name="other")], FakeSlurm(SQUEUE, SACCT))["other"]
    assert not found.answered
    assert "'t'" in found.reason


def test_a_job_of_another_cluster_is_not_gone(tmp_path: Path) -> None:
    """It may wait in the queue there, and say nothing in its folder for days."""
    slurm = FakeSlurm(SQUEUE, SACCT)
    slurm.answers["scontrol"] = Completed(0, "ClusterName             = beta\n", "")
    jobs = [
        job(tmp_path, cluster="alpha"),
        job(tmp_path, name="there", job_id="9", cluster="alpha"),
        job(tmp_path, name="here", job_id="10", cluster="beta"),
        job(tmp_path, name="before", job_id="11"),
    ]
    found = views(jobs, slurm)
    assert slurm.asked == ["squeue", "sacct", "scontrol"]
    assert found["t"].phase is JobPhase.RUNNING
    assert not found["there"].answered
    assert found["there"].reason == "it is a job of cluster 'alpha', and this is 'beta'"
    assert found["there"].cluster == "alpha"
    assert found["here"] == found["before"] == SchedulerView(True, None)
    slurm.answers["scontrol"] = Completed(1, "", "slurm_load_ctl_conf error: Unable to contact")
    assert views(jobs, slurm)["there"] == SchedulerView(True, None)


@pytest.mark.parametrize("shown", ["7_4", "7_[1-3]", "7+0"])
def test_parts_of_a_job_are_that_job(tmp_path: Path, shown: str) -> None:
    more = "None|gpu01|1000|1600|10:00|gpu|t\n"
    rows = f"7_9|COMPLETED|{more}{shown}|RUNNING|{more}"
    found = views([job(tmp_path)], FakeSlurm(Completed(0, rows, ""), SACCT))
    assert found["t"].phase is JobPhase.RUNNING


def test_a_held_job_comes_with_what_to_do(tmp_path: Path) -> None:
    held = Completed(0, "7|PENDING|JobHeldUser||N/A|N/A|10:00|gpu|t\n", "")
    found = views([job(tmp_path)], FakeSlurm(held, SACCT))["t"]
    assert (found.reason, found.remedy) == (
        "held by its user (JobHeldUser)",
        "scontrol release 7 lets it go on",
    )


def test_lost_submissions_are_looked_for_together(tmp_path: Path) -> None:
    lost = [job(tmp_path / name, name=name, job_id="") for name in ("a", "b", "c")]
    for record in lost:
        Path(record.folder).mkdir()
    slurm = FakeSlurm(Completed(0, f"31|{tmp_path}/b\n", ""), Completed(0, "", ""))
    records, unconfirmed = confirm([*lost, job(tmp_path)], slurm)
    assert [record.job_id for record in records] == ["", "31", "", "7"]
    assert unconfirmed == dict.fromkeys(("a", "c"), SchedulerView(True, None))
    assert slurm.asked == ["squeue", "sacct"]
    away = FakeSlurm(Completed(1, "", "Unable to contact slurm controller"), SACCT)
    _, unconfirmed = confirm(lost, away)
    assert not unconfirmed["a"].answered


# ---- files and clocks -------------------------------------------------------------------------


def test_what_a_folder_says_and_since_when(tmp_path: Path) -> None:
    say(tmp_path, "ready", 1_000_000.0)
    os.utime(tmp_path / "state.json", (1_000_100.0, 1_000_100.0))
    seen = read_folder(job(tmp_path))
    assert seen.state is not None
    assert (seen.state_at, seen.node_ahead_s, seen.problem) == (1_000_100.0, -100.0, "")


@pytest.mark.parametrize("text", ["", "{", '{"phase": "rea', "[]", "\0\0"])
def test_a_broken_state_is_said_to_be_broken(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    seen = read_folder(job(tmp_path))
    assert (seen.state, seen.state_broken) == (None, True)
    assert seen.problem == f"{tmp_path}/state.json is broken or cut short"


def test_a_deleted_folder_is_said_to_be_gone(tmp_path: Path) -> None:
    seen = read_folder(job(tmp_path / "no"))
    assert seen.problem == f"the job folder {tmp_path}/no is gone"


def test_the_age_of_a_file_is_told_by_its_own_clock() -> None:
    assert age(1000.0, 1010.0, None) == 10
    assert age(1000.0, 1010.0 + 86_400, -86_400.0) == 10
    assert age(1000.0, 900.0, None) is None
    assert age(None, 900.0, 0.0) is None


def test_two_clocks() -> None:
    text = {"phase": "ready", "since": 150, "started": 130, "job_id": "7", "host": "h"}
    state = parse_state(json.dumps({**text, "phases": {"allocated": 130, "ready": 150}}))
    waiting = clocks(100.0, None, PENDING, 120.0)
    assert (waiting.queued_s, waiting.starting_s, waiting.running_s) == (20, None, None)
    ready = clocks(100.0, state, RUNNING, 190.0)
    assert (ready.queued_s, ready.starting_s, ready.running_s) == (30, 20, 60)


def test_a_controller_that_is_away_is_said_not_guessed(tmp_path: Path) -> None:
    away = Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
    slurm = FakeSlurm(away, SACCT)
    view = views([job(tmp_path)], slurm)["t"]
    assert not view.answered
    assert "Unable to contact slurm controller" in view.reason
    assert slurm.asked == ["squeue"]


def test_local_jobs_ask_no_scheduler(tmp_path: Path) -> None:
    slurm = FakeSlurm(SQUEUE, SACCT)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = job(
            tmp_path,
            executor="local",
            job_id=str(child.pid),
            process_started=start_ticks(child.pid),
        )
        assert views([record], slurm)["t"].phase is JobPhase.RUNNING
        child.kill()
    assert views([record], slurm)["t"].phase is JobPhase.FAILED
    assert slurm.asked == []


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert is_alive(os.getpid(), ticks)
    assert not is_alive(os.getpid(), ticks - 1)
