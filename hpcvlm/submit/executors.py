"""submitit's two executors, made to run our script: the only file that knows submitit's insides.

submitit writes its own script around a pickled call. `launch --dry-run` promises that what it
shows is what is submitted, so both executors are subclassed at the points submitit gives for it.
Contract tests pin these points (tests/contract/test_submitit.py).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from hpcvlm.slurm.commands import clean_environment, sbatch
from hpcvlm.slurm.parse import Submission, parse_sbatch
from hpcvlm.system.process import Completed, Runner

SUBMIT_TIMEOUT_S = 120.0


class ScriptSlurmExecutor(SlurmExecutor):
    """Submits one rendered script, byte for byte, and keeps what sbatch said.

    Attributes:
        answer: of sbatch, also when it cannot be read; None before it was run.
        submission: what it says; None where it says nothing of a job.
    """

    def __init__(
        self, folder: Path, script: Path, runner: Runner, dependency: str | None = None
    ) -> None:
        super().__init__(folder=folder)
        self._script = script
        self._runner = runner
        self._dependency = dependency
        self.answer: Completed | None = None
        self.submission: Submission | None = None

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002
        return self._script.read_text(encoding="utf-8")

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return list(sbatch(str(submission_file_path), self._dependency))

    def _submit_command(self, command: str) -> SlurmJob[Any]:  # noqa: ARG002
        # The script is in its job folder already; a copy under submitit's own name would be
        # a second truth. submitit's runner drops sbatch's warnings, ours keeps them.
        argv = self._make_submission_command(self._script)
        self.answer = done = self._runner(
            argv,
            env=clean_environment(os.environ),
            timeout_s=SUBMIT_TIMEOUT_S,
            cwd=str(self.folder),
        )
        self.submission = parse_sbatch(done.code, done.stdout, done.stderr)
        return SlurmJob(folder=self.folder, job_id=self.submission.job_id, tasks=[0])


class ScriptLocalExecutor(LocalExecutor):
    """Runs the script under submitit's local controller, which outlives this process."""

    def __init__(self, folder: Path, script: Path) -> None:
        super().__init__(folder=folder)
        self._script = script

    def _submit_command(self, command: str) -> LocalJob[Any]:  # noqa: ARG002
        # submitit.local.local.start_controller leaves the controller in the caller's session, so
        # that Ctrl-C and a closed terminal would end the endpoint. Ours gets a session of its own.
        gpus = int(self.parameters.get("gpus_per_node", 0))
        environment = {
            **os.environ,
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_COMMAND": shlex.join(["bash", str(self._script)]),
            "SUBMITIT_LOCAL_TIMEOUT_S": str(int(60 * self.parameters["timeout_min"])),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.parameters["signal_delay_s"]),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(gpus)),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "submitit.local._local", str(self.folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,  # its log files are nobody else's business
        )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])
