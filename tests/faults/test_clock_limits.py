"""A clock that jumps moves no limit; a login node whose clock is wrong still tells the truth."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.engines.vllm import activity_metrics
from tests.faults.place import FaultCluster, Place
from tests.faults.test_clock import SHIM
from tests.job_fixtures import RunningJob, local_plan

pytestmark = [pytest.mark.slow]

DAY = 86400
LIMIT_S = 25
# It is seen late where the machine is busy.
SLACK_S = 20
# An engine that hangs is asked three times, which takes longer.
LIMITS = {
    "idle_s": {"idle_s": LIMIT_S},
    "lease_s": {"lease_s": LIMIT_S},
    "hang_timeout_s": {"hang_timeout_s": LIMIT_S // 2},
}

Start = Callable[..., RunningJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a job with a limit on a clock that can be set; its file is ``clock`` in its `tmp`."""
    library = preload(tmp_path)
    jobs: list[RunningJob] = []

    def begin(mode: str, **limits: Any) -> RunningJob:
        place = tmp_path / f"job{len(jobs)}"
        plan = local_plan(place / "mine", f"environment.FAKE_VLLM_MODE={mode}").plan
        values = {"activity": activity_metrics("0.32.0"), "stop_timeout_s": 2, **limits}
        environment = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(place / "run" / "clock")}
        job = RunningJob.start(
            dataclasses.replace(plan, **values), place / "run", environment=environment
        )
        jobs.append(job)
        return job

    yield begin
    for job in jobs:
        job.close()


def preload(folder: Path) -> Path:
    """A library that puts a clock of our own before the C library's: for what it is loaded into,
    the time of day is some seconds off. The kernel's own clock stays, which all share."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIM, encoding="utf-8")
    argv = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    try:
        subprocess.run(argv, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler to make a clock that can be set")
    return library


def test_clock_jumps_and_no_limit_moves(start: Start) -> None:
    """A day ahead and a day back, for each of the limits that a job keeps while it serves."""
    jobs = {
        (limit, jump): start("hang-after-ready" if limit == "hang_timeout_s" else "ok", **values)
        for jump in (DAY, -DAY)
        for limit, values in LIMITS.items()
    }
    for job in jobs.values():
        job.reach("ready")
    # By the clock that all had until now.
    begun = {key: job.state["phases"]["ready"] for key, job in jobs.items()}
    for (limit, jump), job in jobs.items():
        if limit == "lease_s":
            (job.folder / "lease").touch()
            begun[limit, jump] = time.time()
    time.sleep(2)
    for (_, jump), job in jobs.items():
        (job.tmp / "clock").write_text(str(jump))
    over: dict[tuple[str, int], float] = {}
    while len(over) < len(jobs) and time.time() < max(begun.values()) + 4 * LIMIT_S:
        for key in jobs.keys() - over.keys():
            if jobs[key].process.poll() is not None:
                over[key] = time.time() - begun[key]
        time.sleep(0.1)
    assert over.keys() == jobs.keys()
    why = {"idle_s": "idle", "lease_s": "lease-lost", "hang_timeout_s": "engine-hung"}
    for key, job in jobs.items():
        limit, jump = key
        assert job.state["reason"] == why[limit], (key, job.events)
        least = 0 if limit == "hang_timeout_s" else LIMIT_S - 2
        assert over[key] > least, (key, over)
        assert over[key] < LIMIT_S + SLACK_S, (key, over)
        assert abs(job.state["since"] - job.state["phases"]["ready"] - jump) < 3 * LIMIT_S
        assert job.broken_states == []
        job.until_gone()


def test_clock_jumps_and_a_used_endpoint_goes_on(start: Start) -> None:
    """Neither idle, nor without its lease, nor hung, however often the clock jumps."""
    job = start("ok", idle_s=LIMIT_S, lease_s=LIMIT_S, hang_timeout_s=LIMIT_S)
    job.reach("ready")
    for turn, jump in enumerate((DAY, 0, -DAY, 0)):
        (job.tmp / "clock").write_text(str(jump))
        (job.folder / "lease").write_text(str(turn))
        assert job.chat()[0] == 200
        seen = job.activity
        job.until(lambda seen=seen: job.activity != seen)  # type: ignore[misc]
        assert job.state["phase"] == "ready", job.events
    assert job.activity["requests"] == 4
    assert job.end(term=True) == 0
    assert job.state["reason"] == "stopped"


# ---- the login node ------------------------------------------------------------------------------


@pytest.fixture
def wrong(place: Place) -> Iterator[Callable[[int], Place]]:
    """Sets the clock of `hpcvlm` and of the Slurm commands that it runs, and of nothing else."""
    library = preload(place.folder)
    path = place.folder / "clock"

    def by(seconds: int) -> Place:
        path.write_text(str(seconds))
        return place

    place.hpcvlm.environment |= {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(path)}
    # Not for the job: it runs on a node whose clock is right.
    place.program("sbatch", 'exec "$REAL" --export=ALL,LD_PRELOAD=,FAULT_CLOCK= "$@"')
    yield by
    path.write_text("0")


@pytest.mark.slurm
@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_login_node_s_clock_is_a_day_off(
    wrong: Callable[[int], Place], cluster: FaultCluster, seconds: int
) -> None:
    place = wrong(seconds)
    place.launch("off")
    row = place.status("off")
    assert row["state"] == "ready", row
    assert cluster.queue()[0].split()[0] == row["job_id"]
    place.answers("off")
    os.kill(place.engine("off"), signal.SIGKILL)
    row = place.becomes("off", "failed")
    assert row["verdict"]["reason"] == "engine-exited", row
    # The verdict is the same once the clock is right, and from a login node where it always was.
    wrong(0)
    assert place.status("off")["verdict"]["reason"] == "engine-exited"


@pytest.mark.slurm
def test_login_node_s_clock_jumps_while_it_waits(
    wrong: Callable[[int], Place], cluster: FaultCluster
) -> None:
    place = wrong(0)
    process = place.hpcvlm.start(*place.arguments("jumps", mode="slow"))
    place.reaches("jumps", "engine")
    wrong(-DAY)
    time.sleep(1)
    wrong(DAY)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert place.status("jumps")["state"] == "ready"
    stopping = place.hpcvlm.start("stop", "jumps")
    wrong(-DAY)
    _, said = stopping.communicate(timeout=90)
    assert stopping.returncode == 0, said
    assert cluster.queue() == []
