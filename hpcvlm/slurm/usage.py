"""What jobs have cost, as Slurm's accounts know it: the question, and the answer as values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hpcvlm.slurm.commands import Argv
from hpcvlm.slurm.comments import served_repo
from hpcvlm.slurm.parse import refuse_failed

# A comment may hold any character, so it is last.
_FORMAT = "JobIDRaw,User,Submit,Start,ElapsedRaw,AllocTRES,Comment"
_FIELDS = 7
_GPUS = re.compile(r"(?:^|,)gres/gpu(?::(?P<type>[^=,]+))?=(?P<count>\d+)")


@dataclass(frozen=True, slots=True)
class JobCost:
    """One run of one job within the time that was asked about.

    A job that was requeued has one for each run.

    Attributes:
        submitted: seconds since the epoch.
        elapsed_s: seconds for which it had its allocation within that time.
        gpus: allocated; None where the accounts do not count GPUs (AccountingStorageTRES).
        repo: repository of the snapshot that it served; empty where the accounts keep no comment.
    """

    job_id: str
    user: str
    submitted: float
    elapsed_s: int
    gpus: int | None
    repo: str


def sacct_costs(since: str, *, all_users: bool) -> Argv:
    """Every job's cost since a time; what a job cost before that is not in it (``--truncate``).

    Args:
        since: as sacct(1) takes it: ``2026-11-01T00:00:00``.
        all_users: everybody's jobs, as far as Slurm shows them, instead of the caller's own.
    """
    return (
        *("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "--truncate"),
        *(("--allusers",) if all_users else ()),
        f"--starttime={since}",
        f"--format={_FORMAT}",
    )


def parse_costs(code: int, stdout: str, stderr: str) -> list[JobCost]:
    """The jobs of an answer that have run.

    Raises:
        HpcvlmError: ``slurm-unavailable``, also at a site without accounting.
    """
    refuse_failed("sacct", code, stderr)
    return list(_costs(stdout))


def _costs(stdout: str) -> Iterator[JobCost]:
    for line in stdout.splitlines():
        values = line.split("|", _FIELDS - 1)
        if len(values) != _FIELDS or not values[0].isdigit() or not values[4].isdigit():
            continue  # the rest of a comment with line breaks
        job_id, user, submitted, _, elapsed, tres, comment = values
        yield JobCost(
            job_id=job_id,
            user=user,
            submitted=float(submitted) if submitted.isdigit() else 0.0,
            elapsed_s=int(elapsed),
            gpus=_gpus(tres),
            repo=served_repo(comment),
        )


def _gpus(tres: str) -> int | None:
    """GPUs in ``billing=8,cpu=8,gres/gpu:a100=4,gres/gpu=4``: the untyped count is their sum.

    A site may count typed GPUs alone. One that counts none leaves no trace of them, which is not
    the same as a job without GPUs; both give None.
    """
    counts = {match["type"]: int(match["count"]) for match in _GPUS.finditer(tres)}
    if not counts:
        return None
    return counts[None] if None in counts else sum(counts.values())
