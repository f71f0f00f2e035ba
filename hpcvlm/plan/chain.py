"""Endpoints that last longer than a job may: how many jobs, and when each may begin.

Job n+1 is submitted with ``--dependency=after:JOB+MINUTES`` (sbatch(1)), which counts from the
moment at which job n begins. The minutes are whole, and rounded down: a successor never begins
after its predecessor's end because of them.
"""

from __future__ import annotations

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.time import format_time_limit

MINUTE_S = 60
# No endpoint can be called so: --name takes no tilde.
GENERATION_MARK = "~"
# Beyond its own start: until the name has moved over and the last requests are answered.
HAND_OVER_S = 600
# What the engine itself did wrong before it was ever ready: it would do so again.
START_FAILURES = (
    "engine-exited",
    "start-timeout",
    "not-locked",
    "model-not-listed",
    "text-not-answered",
    "image-not-answered",
    "image-not-taken-in",
)


def overlap_s(time_limit_s: int, start_timeout_s: int, asked_s: int | None = None) -> int:
    """Seconds before the end of a job at which its successor may begin.

    Args:
        time_limit_s: of each job.
        start_timeout_s: how long a start may take.
        asked_s: what the site says; the start and ten minutes for the hand-over when None.

    Returns:
        At most half of the time limit, and such that the rest is a number of whole minutes.
    """
    wanted = asked_s if asked_s is not None else start_timeout_s + HAND_OVER_S
    wanted = min(wanted, time_limit_s // 2)
    return time_limit_s - delay_minutes(time_limit_s, wanted) * MINUTE_S


def delay_minutes(time_limit_s: int, overlap_s: int) -> int:
    """Minutes after the beginning of a job at which its successor may begin."""
    return max(0, time_limit_s - overlap_s) // MINUTE_S


def job_count(keep_s: int | None, time_limit_s: int, overlap_s: int) -> int:
    """How many jobs keep an endpoint for so long; 1 where nobody asked for that.

    Raises:
        HpcvlmError: ``time-invalid`` where a job is so short that no successor fits into it.
    """
    if keep_s is None or keep_s <= time_limit_s:
        return 1
    step = delay_minutes(time_limit_s, overlap_s) * MINUTE_S
    if step < MINUTE_S:
        raise HpcvlmError(
            "time-invalid",
            f"--keep needs jobs of two minutes or more, not of {format_time_limit(time_limit_s)}",
            "--time 1h",
        )
    return 1 + -(-(keep_s - time_limit_s) // step)


def even_time_s(keep_s: int, longest_s: int, start_timeout_s: int, asked_s: int | None) -> int:
    """The time of each of as few jobs as possible, so that together they last just long enough.

    Args:
        keep_s: how long the endpoint is kept.
        longest_s: the longest time of a job.
        start_timeout_s: how long a start may take.
        asked_s: as for `overlap_s`.

    Returns:
        Whole minutes, at most `longest_s`.
    """
    overlap = overlap_s(longest_s, start_timeout_s, asked_s)
    count = job_count(keep_s, longest_s, overlap)
    even = -(-(keep_s + (count - 1) * overlap) // count)
    each = min(longest_s, -(-even // MINUTE_S) * MINUTE_S)
    # A shorter job may overlap longer, since that is rounded to minutes.
    while each < longest_s and (
        job_count(keep_s, each, overlap_s(each, start_timeout_s, asked_s)) > count
    ):
        each = min(longest_s, each + MINUTE_S)
    return each


def generation_name(endpoint: str, generation: int) -> str:
    """Name of the job, and of its folder: the endpoint's own for the first one."""
    return endpoint if generation == 1 else f"{endpoint}{GENERATION_MARK}{generation}"
