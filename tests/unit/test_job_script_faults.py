"""The script where the node fails it: full disks, no processes, stray children; and on a socket."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.engines.vllm import activity_metrics
from hpcvlm.plan.model import LaunchPlan, PlannedEngine
from hpcvlm.watch.state import parse_state
from tests.command import ROOT
from tests.job_fixtures import FAKE, FAKE_SITE, MARK, RunningJob, local_plan

pytestmark = pytest.mark.slow

Start = Callable[..., RunningJob]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do to a node what this does")
NOBODY_ELSE = 54321  # a user who has no other process


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script of a plan; the job is gone when the test is over."""
    jobs: list[RunningJob] = []

    def begin(plan: LaunchPlan, *, tmp: Path | None = None, **over: Any) -> RunningJob:
        job = RunningJob.start(plan, tmp or tmp_path / f"run{len(jobs)}", **over)
        jobs.append(job)
        return job

    yield begin
    for job in jobs:
        job.close()


def plan_of(folder: Path, mode: str = "ok", *settings: str, **over: Any) -> LaunchPlan:
    """The bundled model with the stand-in engine."""
    plan = local_plan(folder, f"environment.FAKE_VLLM_MODE={mode}", *settings).plan
    values = {"activity": activity_metrics("0.32.0"), "stop_timeout_s": 2, **over}
    return dataclasses.replace(plan, **values)


def assert_nothing_left(job: RunningJob) -> None:
    job.until_gone()
    assert list((job.scratch).iterdir()) == []


# ---- disks ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the space."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return filler


@as_root
def test_a_full_disk_changes_no_state_and_ends_no_job(
    tmp_path: Path, small_disk: Path, start: Start
) -> None:
    plan = plan_of(small_disk / "mine", cache=str(tmp_path / "cache"), drain_grace_s=600)
    job = start(plan)
    job.reach("ready")
    job.until(lambda: job.events != [])
    text = (job.folder / "state.json").read_text()
    (job.folder / "drain.later").write_text("handed-over mine~2\n")
    filler = fill(small_disk)
    (job.folder / "drain.later").rename(job.folder / "drain")
    checked = job.activity["checked"]
    tried = job.folder / ".state.json.new"
    job.until(lambda: tried.exists() and tried.read_text() == "")
    assert (job.folder / "state.json").read_text() == text
    assert job.activity["checked"] == checked
    assert job.chat()[0] == 200
    filler.unlink()
    job.until(lambda: job.state["phase"] == "draining")
    assert job.end(term=True) == 0
    assert job.broken_states == []
    assert_nothing_left(job)


@as_root
@pytest.mark.parametrize("with_key", [True, False])
def test_a_disk_that_is_full_from_the_start_is_said(
    tmp_path: Path, small_disk: Path, start: Start, with_key: bool
) -> None:
    plan = plan_of(small_disk / "mine", cache=str(tmp_path / "cache"))
    Path(plan.folder).mkdir()
    Path(plan.media_root).mkdir()
    if with_key:
        (Path(plan.folder) / "key").write_text("a-key-of-its-user\n")
    fill(small_disk)
    job = start(plan)
    assert job.end() == 1
    assert job.said.endswith("cannot be written. The job ended: folder-unwritable\n")
    assert not (job.folder / "state.json").exists()
    key = job.folder / "key"
    assert key.exists() is with_key
    assert not with_key or key.read_text() == "a-key-of-its-user\n"
    assert_nothing_left(job)


@as_root
def test_a_full_scratch_disk_is_not_taken_for_a_hung_engine(
    tmp_path: Path, small_disk: Path, start: Start
) -> None:
    plan = plan_of(tmp_path / "mine", hang_timeout_s=3)
    job = start(plan, environment={"TMPDIR": str(small_disk)})
    job.reach("ready")
    filler = fill(small_disk)
    checked = job.activity["checked"]
    job.until(lambda: job.activity["checked"] > checked + 5)
    assert job.state["phase"] == "ready"
    assert job.activity["answered"] >= job.activity["checked"]
    filler.unlink()
    assert job.end(term=True) == 0
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, start: Start) -> None:
    (tmp_path / "file").touch()
    job = start(plan_of(tmp_path / "file" / "mine"))
    assert job.end() == 1
    assert "cannot be written. The job ended: folder-unwritable" in job.said
    job.until_gone()


# ---- processes --------------------------------------------------------------------------------


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can enter."""
    place = Path(tempfile.mkdtemp(prefix="hpcvlm-test-"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


@as_root
def test_no_process_right_after_the_engine_s_start(open_place: Path, start: Start) -> None:
    """bash then waits for the last process that it could start, which is the engine."""
    engine = open_place / "engine"
    limit = "prlimit --pid $PPID --nproc=1:1"
    engine.write_text(f'#!/bin/sh\n{limit}\nexec {FAKE} "$@"\n')
    engine.chmod(0o755)
    site_text = FAKE_SITE.replace(str(FAKE), str(engine))
    plan = local_plan(open_place / "mine", "start_timeout=10s", site_text=site_text).plan
    environment = {"PATH": "/usr/bin:/bin"}
    job = start(plan, tmp=open_place / "run", environment=environment, user=NOBODY_ELSE)
    assert job.process.wait(60) == 1
    assert (job.state["phase"], job.state["reason"]) == ("ended", "fork-failed")
    assert "fork: Resource temporarily unavailable" in job.said
    job.until_gone()


@as_root
def test_a_full_process_table_ends_the_job_with_its_reason(open_place: Path, start: Start) -> None:
    plan = plan_of(open_place / "mine", hang_timeout_s=4)
    environment = {"PATH": "/usr/bin:/bin"}
    job = start(plan, tmp=open_place / "run", environment=environment, user=NOBODY_ELSE)
    job.reach("ready")
    pid = job.state["engine_pid"]
    limit = ["prlimit", "--pid", str(job.process.pid), "--nproc=1:1"]
    subprocess.run(limit, check=True, user=NOBODY_ELSE, extra_groups=())
    # bash tries for 15 s before it gives up.
    assert job.process.wait(60) == 1
    assert (job.state["phase"], job.state["reason"]) == ("ended", "fork-failed")
    assert parse_state(json.dumps(job.state)) is not None
    assert "Resource temporarily unavailable" in job.said
    assert job.events[-1] == ("failed", "fork-failed")
    assert pid not in job.left()
    job.until_gone()


# One is known by its environment alone, one by where it writes alone.
STRAYS = """
import signal
for elsewhere in (True, False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if elsewhere:
                null = os.open("/dev/null", os.O_WRONLY)
                os.dup2(null, 1), os.dup2(null, 2)
                time.sleep(300)
            os.execve("/bin/sleep", ["sleep", "300"], {MARK: os.environ[MARK]})
        os._exit(0)
fake_vllm.main()
"""


@pytest.mark.parametrize("course", ["stopped", "killed", "dies"])
def test_children_that_left_the_process_group_are_found(
    tmp_path: Path, start: Start, course: str
) -> None:
    program = tmp_path / "engine.py"
    top = f"#!/usr/bin/env python3\nimport os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
    program.write_text(f"{top}from tests import fake_vllm\nMARK = {MARK!r}\n{STRAYS}")
    program.chmod(0o755)
    engine = PlannedEngine("vllm", "0.32.0", (str(program),), None)
    mode = "die-loading" if course == "dies" else "ok"
    job = start(plan_of(tmp_path / "mine", mode, engine=engine))
    if course != "dies":
        job.reach("ready")
    if course == "killed":
        os.kill(job.state["engine_pid"], signal.SIGKILL)
    assert job.end(term=course == "stopped") == (0 if course == "stopped" else 1)
    assert job.state["reason"] == ("stopped" if course == "stopped" else "engine-exited")
    assert_nothing_left(job)


def test_an_engine_killed_while_it_loads_is_not_waited_for(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path / "mine", "hang"))
    job.reach("warm-up")
    os.kill(job.state["engine_pid"], signal.SIGKILL)
    assert job.end() == 1
    state = job.state
    assert (state["reason"], state["engine_exit"]) == ("engine-exited", 128 + signal.SIGKILL)
    assert_nothing_left(job)


def test_an_engine_that_hangs_while_it_loads_times_out(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path / "mine", "hang", start_timeout_s=3))
    job.reach("warm-up")
    os.kill(job.state["engine_pid"], signal.SIGSTOP)
    assert job.end() == 1
    assert job.state["reason"] == "start-timeout"
    assert_nothing_left(job)


# ---- a Unix socket ----------------------------------------------------------------------------


def test_an_engine_on_a_socket(tmp_path: Path, start: Start) -> None:
    echo = tmp_path / "echo.json"
    plan = plan_of(
        tmp_path / "mine",
        "ok",
        f"environment.FAKE_VLLM_ECHO={echo}",
        listen="socket",
        drain_grace_s=0,
        drain_timeout_s=20,
    )
    job = start(plan)
    job.reach("ready")
    state = job.state
    path = Path(state["socket"])
    assert state["port"] is None
    argv = json.loads(echo.read_text())["argv"]
    assert argv[-2:] == ["--uds", str(path)]
    assert not {"--host", "--port"} & set(argv)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.is_relative_to(job.scratch)
    assert job.chat()[0] == 200
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    inodes = set()
    for descriptor in Path(f"/proc/{state['engine_pid']}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(descriptor.readlink()))
    assert inodes
    tcp = {f"socket:[{line.split()[9]}]" for line in listening.splitlines() if ":" in line}
    assert not inodes & tcp
    (job.folder / "drain").write_text("drained\n")
    assert job.end() == 0
    assert job.state["reason"] == "drained"
    assert_nothing_left(job)


def test_a_path_that_no_socket_can_have_is_said(tmp_path: Path, start: Start) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    plan = plan_of(tmp_path / "mine", listen="socket")
    job = start(plan, environment={"TMPDIR": str(deep)})
    assert job.end() == 1
    assert job.state["reason"] == "socket-path-too-long"
    assert list(deep.iterdir()) == []


def test_the_engine_does_not_outlive_a_script_that_was_killed(tmp_path: Path, start: Start) -> None:
    """Nobody else would end it where processes are not tracked by cgroups."""
    job = start(plan_of(tmp_path / "mine"))
    job.reach("ready")
    job.process.kill()
    job.process.wait()
    job.until(lambda: not job.left())
