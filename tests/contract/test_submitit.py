"""The inner names of submitit that hpcvlm/submit/executors.py stands on."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit.local._local as controller
from submitit.local.local import Controller, LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from hpcvlm.submit.executors import ScriptLocalExecutor, ScriptSlurmExecutor
from hpcvlm.system.process import Completed, run
from hpcvlm.system.processes import is_alive, start_ticks


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (SlurmExecutor, "_make_submission_file_text", ["self", "command", "uid"]),
        (SlurmExecutor, "_make_submission_command", ["self", "submission_file_path"]),
        (SlurmExecutor, "_submit_command", ["self", "command"]),
        (LocalExecutor, "_submit_command", ["self", "command"]),
    ],
)
def test_the_names_that_are_overridden_exist(owner: type, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_the_controller_reads_what_we_set() -> None:
    source = inspect.getsource(Controller.__init__)
    for name in (
        "SUBMITIT_LOCAL_NTASKS",
        "SUBMITIT_LOCAL_COMMAND",
        "SUBMITIT_LOCAL_TIMEOUT_S",
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S",
        "SUBMITIT_STDERR_TO_STDOUT",
        "SUBMITIT_LOCAL_WITH_SHELL",
    ):
        assert name in source
    assert Path(controller.__file__).is_file()


def test_jobs_take_the_arguments_that_we_give() -> None:
    for kind in (SlurmJob, LocalJob):
        assert {"folder", "job_id", "tasks"} <= set(inspect.signature(kind).parameters)


@pytest.fixture
def srun_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's Slurm executor looks for srun before it does anything."""
    fake = tmp_path / "bin" / "srun"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")


def test_sbatch_gets_our_file_and_its_warnings_are_kept(tmp_path: Path, srun_on_path: None) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/bash\ntrue\n")
    asked: list[tuple[str, ...]] = []

    def runner(argv, **_options):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN202
        asked.append(tuple(argv))
        return Completed(0, "4711\n", "sbatch: warning: the partition is slow today\n")

    executor = ScriptSlurmExecutor(tmp_path, script, runner)
    assert executor._submit_command("").job_id == "4711"
    assert asked == [("sbatch", "--parsable", str(script))]
    assert executor.submission is not None
    assert executor.submission.warnings == ("sbatch: warning: the partition is slow today",)


def test_the_local_job_has_a_session_of_its_own_and_stops_on_term(tmp_path: Path) -> None:
    script = tmp_path / "a job.sh"
    script.write_text('trap "echo stopped >out; exit 0" TERM\necho $$ >pid\nsleep 60 & wait\n')
    executor = ScriptLocalExecutor(tmp_path, script)
    executor.update_parameters(timeout_min=1, signal_delay_s=5, gpus_per_node=0)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        job = executor._submit_command("")
    finally:
        os.chdir(before)
    pid = int(job.job_id)
    started = start_ticks(pid)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.getsid(pid) == pid != os.getsid(0)
    os.kill(pid, signal.SIGTERM)
    while is_alive(pid, started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid, started)
    assert (tmp_path / "out").read_text() == "stopped\n"
    assert job._process is not None
    assert job._process.wait(10) == 0


def test_the_runner_tells_not_found_from_failed_and_kills_what_hangs() -> None:
    assert run(["no-such-command-at-all"]).code == 127
    failed = run([sys.executable, "-c", "import sys; print('o'); sys.exit('e')"])
    assert (failed.code, failed.stdout, failed.stderr) == (1, "o\n", "e\n")
    assert run([sys.executable, "-c", "input(); import time; time.sleep(9)"]).code == 1
    assert run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5).code == 124
