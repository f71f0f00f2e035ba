"""The loop and the scheduler's view, with a clock that does not wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed
from hpcvlm.system.processes import is_alive, start_ticks
from hpcvlm.watch.loop import SCHEDULER_EVERY_RUNNING_S, SCHEDULER_EVERY_S, Glance, watch
from hpcvlm.watch.scheduler import views
from hpcvlm.watch.verdict import Ended, Failed, Ready, SchedulerView, Waiting

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
    }
    (folder / "state.json").write_text(json.dumps(state))


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


def test_the_scheduler_is_asked_seldom(tmp_path: Path) -> None:
    source = Source(PENDING)
    end = watch(job(tmp_path), source=source, clock=FakeClock(), queue_timeout_s=100)
    assert isinstance(end.verdict, Waiting)
    assert source.asked <= 100 / SCHEDULER_EVERY_S + 2
    say(tmp_path, "weights", 1001)
    source = Source(RUNNING)
    stop_at = 1000 + 20 * SCHEDULER_EVERY_RUNNING_S

    def tick(now: float) -> None:
        if now > stop_at:
            say(tmp_path, "ended", now, "engine-exited")

    watch(job(tmp_path), source=source, clock=FakeClock(tick))
    assert source.asked <= 23


def test_a_death_is_seen_at_the_next_look(tmp_path: Path) -> None:
    say(tmp_path, "weights", 1001)
    clock = FakeClock(lambda now: say(tmp_path, "ended", now, "engine-exited"))
    end = watch(job(tmp_path), source=Source(RUNNING), clock=clock)
    assert isinstance(end.verdict, Failed)
    assert clock.time - 1000 <= 0.5


def test_a_stopped_job_ends_the_loop(tmp_path: Path) -> None:
    say(tmp_path, "ended", 1001, "stopped")
    assert watch(job(tmp_path), source=Source(RUNNING), clock=FakeClock()).verdict == Ended(
        "stopped"
    )


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
