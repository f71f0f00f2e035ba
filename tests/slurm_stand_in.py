"""A Slurm without a cluster: answers what hpcvlm asks, and can be made to misbehave."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcvlm.system.process import Completed

REFUSED = Completed(1, "", "sbatch: error: Batch job submission failed: Invalid account\n")
TIMED_OUT = Completed(124, "", "sbatch: no answer within 120 s")
LOST = Completed(
    1,
    "",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
)
AWAY = Completed(
    1,
    "",
    "sbatch: error: Batch job submission failed: "
    "Unable to contact slurm controller (connect failure)\n",
)
NO_ANSWER = Completed(
    1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
)


@dataclass
class FakeClock:
    """A clock that only goes on when somebody waits."""

    time: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@dataclass
class FakeJob:
    """One job: where it runs, what it waits for, whether it was cancelled."""

    number: str
    folder: str
    dependency: str
    cancelled: bool = False


@dataclass
class FakeSlurm:
    """A runner of Slurm's commands.

    Attributes:
        answers: what the next sbatchs do: True accepts; an answer is given without accepting; a
            pair (answer, True) is given although the job is accepted.
        down: whether squeue and sacct get no answer, asked anew each time.
        before: called at each sbatch, before it decides anything.
        cluster: what the controller calls its cluster; it is asked for that in a thread of its own,
            so that has no place among what was `asked`.
    """

    answers: list[Completed | tuple[Completed, bool] | bool] = field(default_factory=list)
    down: Callable[[], bool] = lambda: False
    before: Callable[[str], None] = lambda _folder: None
    jobs: list[FakeJob] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    forgotten: bool = False
    cluster: str = ""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        if tuple(argv) == ("scontrol", "show", "config"):
            return Completed(0, f"ClusterName             = {self.cluster}\n", "")
        self.asked.append(tuple(argv))
        return self._answer(argv, cwd)

    def _answer(self, argv: Sequence[str], cwd: str | None) -> Completed:
        command = argv[0]
        if command == "sbatch":
            return self._sbatch(argv, cwd or "")
        if self.down():
            return NO_ANSWER
        if command == "sinfo":
            return Completed(0, "gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4\n", "")
        if command == "scancel":
            for job in self.jobs:
                job.cancelled = job.cancelled or (job.number == argv[-1] and "--batch" not in argv)
            return Completed(0, "", "")
        if command == "squeue":
            return Completed(0, self._squeue(argv), "")
        return Completed(0, "".join(f"{job.number}|{job.folder}\n" for job in self.jobs), "")

    def _sbatch(self, argv: Sequence[str], cwd: str) -> Completed:
        self.before(cwd)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Completed):
            return answer
        number = str(4711 + len(self.jobs))
        depends = next((re.sub("^--dependency=", "", w) for w in argv if "--dep" in w), "")
        # Slurm knows the working directory with links followed.
        self.jobs.append(FakeJob(number, str(Path(cwd).resolve()), depends))
        return answer[0] if isinstance(answer, tuple) else Completed(0, f"{number}\n", "")

    def _squeue(self, argv: Sequence[str]) -> str:
        jobs = [] if self.forgotten else self.jobs
        if any("%Z" in word for word in argv):
            return "".join(f"{job.number}|{job.folder}\n" for job in jobs)
        wanted = argv[-1].removeprefix("--jobs=").split(",")
        return "".join(
            f"{job.number}|{'CANCELLED' if job.cancelled else 'PENDING'}|None||N/A|N/A|1:00|gpu|x\n"
            for job in jobs
            if job.number in wanted
        )

    def count(self, command: str) -> int:
        """How often a command was run."""
        return sum(argv[0] == command for argv in self.asked)

    @property
    def alive(self) -> list[FakeJob]:
        """Jobs that were accepted and not cancelled."""
        return [job for job in self.jobs if not job.cancelled]
