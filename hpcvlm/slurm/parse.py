"""What Slurm's commands answered: (exit code, stdout, stderr) to values, or one clear error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.commands import FOLDER_FIELDS, SACCT_FIELDS, SQUEUE_FIELDS
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.states import phase_of, state_name
from hpcvlm.slurm.time import parse_time_limit

COMMAND_NOT_FOUND = 127
COMMAND_TIMED_OUT = 124

_UNREACHABLE = (
    "unable to contact slurm controller",
    "unable to establish control",
    "unable to process configuration file",
    "unable to establish configuration source",
    "connection refused",
    "socket timed out",
    "zero bytes were transmitted or received",
    "authentication credential",
    "munge",
    "problem talking to the database",
    "unable to connect to database",
    "slurm accounting storage is disabled",
    "slurm temporarily unable to accept job",
    "slurm is currently in a maintenance",
)
# What sbatch says when its request, or the answer to it, was lost on the way (the names of these
# errors are SLURM_COMMUNICATIONS_*_ERROR in slurm_errno.c): the job may have been taken.
_LOST_ON_THE_WAY = (
    "socket timed out",
    "zero bytes were transmitted or received",
    "receive failure",
    "send failure",
    "shutdown failure",
    "communications receive error",
    "communications send error",
    "communications shutdown error",
    "connection reset",
    "broken pipe",
    "unexpected message received",
)
# What says that nothing was taken, and that a later attempt may be (sbatch.c, slurm_errno.c).
_TAKEN_LATER = (
    "slurm temporarily unable to accept job",
    "slurm job queue full",
    "job creation temporarily disabled",
    "slurm is currently in a maintenance",
    "(connect failure)",
    "connection refused",
    "communications connection error",
)
_NO_MESSAGE = ('Try "', "sbatch: error: For instance:")
_NO_SUCH_JOB = "invalid job id specified"
_ALREADY_OVER = ("already completing or completed", _NO_SUCH_JOB)
_NO_TIME = {"", "N/A", "Unknown", "None", "NONE", "INVALID"}
_NO_NODES = {"", "None assigned", "None", "(null)", "n/a"}

# Slurm's own words that say what to change. Only those with one clear remedy are here.
_REFUSALS = (
    ("invalid account or account/partition", "name your account: --account NAME, or in site.yaml"),
    ("invalid partition", "sinfo --summarize lists the partitions"),
    ("invalid qos", "sacctmgr show assoc user=$USER format=account,qos lists yours"),
    ("requested node configuration is not available", "sinfo -o '%P %c %m %G' lists the nodes"),
    ("invalid feature specification", "sinfo -o '%P %f' lists the features of nodes"),
    ("requested time limit is invalid", "ask for less time, or for another partition"),
    (
        "job violates accounting/qos policy",
        "ask for less time or fewer GPUs, or wait for your jobs",
    ),
)


@dataclass(frozen=True, slots=True)
class Submission:
    """What sbatch said of a job that it took.

    Attributes:
        cluster: only where several clusters are served.
        warnings: sbatch's further words.
    """

    job_id: str
    cluster: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TestedSubmission:
    """What ``sbatch --test-only`` foresees, in its own words."""

    sentence: str
    start: datetime | None = None


def parse_sbatch(code: int, stdout: str, stderr: str) -> Submission:
    """The job's number: ``ID`` or ``ID;cluster``.

    Raises:
        HpcvlmError: ``sbatch-refused`` with sbatch's own words, or ``slurm-unavailable``.
    """
    words = _lines(stderr)
    if code != 0:
        _refuse_unavailable("sbatch", code, words)
        raise _refusal(words or _lines(stdout))
    *before, last = _lines(stdout) or [""]
    match = re.fullmatch(r"(\d+)(?:;(\S+))?", last)
    if match is None:
        raise HpcvlmError(
            "slurm-output",
            f"sbatch gave no job number but {last!r}",
            "squeue --me shows whether the job was taken",
            tuple(words),
        )
    return Submission(match[1], match[2], (*before, *words))


class NoCommandError(HpcvlmError):
    """Slurm cannot be asked since this machine has no such command."""


class Outcome(Enum):
    """What is known of a submission that did not simply give a number."""

    REFUSED = "refused"
    LATER = "later"
    IN_DOUBT = "in doubt"


def sbatch_outcome(code: int, stdout: str, stderr: str) -> Outcome:
    """Whether an sbatch that gave no job number, or failed, may have submitted a job.

    Returns:
        ``REFUSED`` or ``LATER`` where it is certain that nothing was submitted (``LATER``: the
        same request may be taken in a minute), else ``IN_DOUBT``.
    """
    if code == COMMAND_NOT_FOUND:
        return Outcome.REFUSED
    text = " ".join(_lines(stderr)).lower()
    if code in (0, COMMAND_TIMED_OUT) or code < 0 or re.search(r"^\d+", stdout, re.MULTILINE):
        return Outcome.IN_DOUBT
    if any(phrase in text for phrase in _LOST_ON_THE_WAY):
        return Outcome.IN_DOUBT
    if any(phrase in text for phrase in _TAKEN_LATER):
        return Outcome.LATER
    if any(phrase in text for phrase in _UNREACHABLE) or "sbatch: " not in text:
        return Outcome.IN_DOUBT
    return Outcome.REFUSED


def parse_folders(command: str, code: int, stdout: str, stderr: str) -> dict[str, str]:
    """The working directory of each job, by the job's number.

    Args:
        command: ``squeue`` or ``sacct``, for messages.
        code: its exit code.
        stdout: what it printed.
        stderr: what it complained of.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    refuse_failed(command, code, stderr)
    return {row["job_id"].strip(): row["folder"] for row in _rows(stdout, FOLDER_FIELDS)}


def parse_sbatch_test(code: int, stdout: str, stderr: str) -> TestedSubmission:
    """When and where a job would run.

    Raises:
        HpcvlmError: as `parse_sbatch`.
    """
    words = _lines(stderr) or _lines(stdout)
    if code != 0:
        _refuse_unavailable("sbatch", code, words)
        raise _refusal(words)
    sentence = next((line for line in words if " to start at " in line), " ".join(words))
    sentence = sentence.removeprefix("sbatch: ")
    match = re.search(r"to start at (\S+)", sentence)
    return TestedSubmission(sentence, _time(match[1]) if match else None)


def parse_squeue(code: int, stdout: str, stderr: str) -> list[SlurmJob]:
    """The jobs squeue knows; none when it has forgotten all that were asked for.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    if code != 0 and _NO_SUCH_JOB in stderr.lower():
        return []
    refuse_failed("squeue", code, stderr)
    return [_job(row) for row in _rows(stdout, SQUEUE_FIELDS)]


def parse_sacct(code: int, stdout: str, stderr: str) -> list[SlurmJob]:
    """The jobs in the accounts.

    Raises:
        HpcvlmError: ``slurm-unavailable``, also at a site without accounting, or ``slurm-output``.
    """
    refuse_failed("sacct", code, stderr)
    return [_job(row) for row in _rows(stdout, SACCT_FIELDS)]


def parse_scancel(code: int, stdout: str, stderr: str) -> bool:
    """Whether the job was signalled; False when scancel says that it is over or not known.

    Not every version says so: 22.05 is silent about a job that is gone, and the answer is True.

    Raises:
        HpcvlmError: ``slurm-unavailable``, or ``scancel-refused`` with scancel's own words.
    """
    words = _lines(stderr) + _lines(stdout)
    text = " ".join(words).lower()
    if any(phrase in text for phrase in _ALREADY_OVER):
        return False
    if code != 0:
        _refuse_unavailable("scancel", code, words)
        raise HpcvlmError("scancel-refused", f"scancel: {_own_words(words)}")
    return True


def refuse_failed(command: str, code: int, stderr: str) -> None:
    """Raise when a command that only asks has failed.

    Raises:
        HpcvlmError: ``slurm-unavailable``: whatever the cause, Slurm did not answer.
    """
    if code == 0:
        return
    words = _lines(stderr)
    _refuse_unavailable(command, code, words)
    said = _own_words(words) or f"exit code {code}"
    raise HpcvlmError("slurm-unavailable", f"{command} failed: {said}", f"run {command} by hand")


def _refuse_unavailable(command: str, code: int, words: Sequence[str]) -> None:
    if code == COMMAND_NOT_FOUND:
        raise NoCommandError(
            "slurm-unavailable",
            f"there is no {command} command here",
            "run hpcvlm on a login node of the cluster, or load the site's slurm module",
        )
    if code == COMMAND_TIMED_OUT:
        raise HpcvlmError(
            "slurm-unavailable", f"{command} did not answer in time", "try again in a minute"
        )
    text = " ".join(words).lower()
    if any(phrase in text for phrase in _UNREACHABLE):
        sentence = f"Slurm did not answer: {_own_words(words)}"
        raise HpcvlmError(
            "slurm-unavailable", sentence, "scontrol ping shows the controller's state"
        )


def _refusal(words: Sequence[str]) -> HpcvlmError:
    said = _own_words(words) or "it gave no reason"
    text = " ".join(words).lower()
    remedy = next((remedy for phrase, remedy in _REFUSALS if phrase in text), "")
    others = tuple(line for line in words if _bare(line) != said)
    return HpcvlmError("sbatch-refused", f"sbatch refused the job: {said}", remedy, others)


def _own_words(words: Sequence[str]) -> str:
    """The line that says why, without the program's prefixes: the last one that is a message."""
    messages = [line for line in words if not line.startswith(_NO_MESSAGE)]
    return _bare(messages[-1]) if messages else ""


def _bare(line: str) -> str:
    said = re.sub(r"^(?:[a-z_]+(?: error)?: )?(?:(?:fatal|error): )*", "", line)
    return said.removeprefix("Batch job submission failed: ").removeprefix("allocation failure: ")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _rows(stdout: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    named = False
    for line in stdout.splitlines():
        # With SLURM_CLUSTERS set, squeue heads each cluster's jobs with its name.
        if not line.strip() or line.startswith("CLUSTER: "):
            continue
        values = line.split("|", len(fields) - 1)
        if len(values) == len(fields):
            named = True
            yield dict(zip(fields, values, strict=True))
        elif not named:
            raise HpcvlmError("slurm-output", f"Slurm gave a line that cannot be read: {line!r}")
        # Else it goes on with the name of the job above: a name may have line breaks.


def _job(row: dict[str, str]) -> SlurmJob:
    code, signal = parse_exit(row.get("exit_code", ""))
    phase = phase_of(row["state"])
    reason = row.get("reason", "").strip()
    return SlurmJob(
        job_id=row["job_id"].strip(),
        state=phase,
        raw_state=state_name(row["state"]),
        reason="" if reason == "None" else reason,
        nodes="" if row["nodes"].strip() in _NO_NODES else row["nodes"].strip(),
        start=_time(row["start"]),
        end=_time(row["end"]),
        time_limit_s=_limit(row["time_limit"]),
        partition=row["partition"].strip(),
        name=row["name"],
        exit_code=code if phase.over else None,
        signal=signal,
    )


def _limit(text: str) -> int | None:
    """A job is shown whatever its time limit looks like."""
    try:
        return parse_time_limit(text)
    except HpcvlmError:
        return None


def parse_exit(text: str) -> tuple[int | None, int | None]:
    """``code:signal`` of sacct; None for what it does not say, and for no signal."""
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    return (int(match[1]), int(match[2]) or None) if match else (None, None)


def _time(text: str) -> datetime | None:
    """Seconds since the epoch, or Slurm's standard local time."""
    text = text.strip()
    if text in _NO_TIME:
        return None
    try:
        if text.isdigit():
            return datetime.fromtimestamp(int(text), tz=UTC)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
