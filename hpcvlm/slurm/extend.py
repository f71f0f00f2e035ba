"""More time for a job: the question to Slurm, and what its answer means."""

from __future__ import annotations

from hpcvlm.slurm.commands import Argv
from hpcvlm.slurm.parse import COMMAND_NOT_FOUND, COMMAND_TIMED_OUT, refuse_failed
from hpcvlm.slurm.time import format_time_limit

# Slurm's own words to an owner: only operators may raise the limit of a job that runs (scontrol(1),
# TimeLimit). Of one that waits, its owner may, up to what the partition allows.
_REFUSED = ("access/permission denied", "invalid user id", "operation not permitted")
_TOO_LONG = ("requested time limit is invalid", "time limit specification required", "job violates")
_GONE = ("invalid job id", "already finished", "already completing or completed")

DONE = "done"
REFUSED = "refused"
TOO_LONG = "too-long"
GONE = "gone"


def scontrol_time_limit(job_id: str, seconds: int) -> Argv:
    """Sets the time limit of a job.

    It is given as a whole and not as an increment (``+240``), so that a call which is repeated,
    since its answer was lost, does not add up. Slurm counts whole minutes and rounds up.
    """
    return ("scontrol", "update", f"JobId={job_id}", f"TimeLimit={format_time_limit(seconds)}")


def parse_time_limit_update(code: int, stdout: str, stderr: str) -> tuple[str, str]:
    """What came of it, and Slurm's own words.

    Returns:
        ``done``, ``refused``, ``too-long`` or ``gone``, with the words.

    Raises:
        HpcvlmError: ``slurm-unavailable`` when it is not known whether it was done.
    """
    words = " ".join((stderr + " " + stdout).split()).removeprefix("slurm_update error: ")
    if code == 0:
        return DONE, words
    said = words.lower()
    if code not in (COMMAND_NOT_FOUND, COMMAND_TIMED_OUT):
        for what, phrases in ((REFUSED, _REFUSED), (TOO_LONG, _TOO_LONG), (GONE, _GONE)):
            if any(phrase in said for phrase in phrases):
                return what, words
    refuse_failed("scontrol", code, stderr or stdout)
    return DONE, words
