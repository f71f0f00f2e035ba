"""What a job serves, written where everybody on the cluster can read it: in its comment."""

from __future__ import annotations

import re
from typing import NamedTuple

from hpcvlm.slurm.parse import refuse_failed

_MARK = "hpcvlm:"
_USE = re.compile(rf"{_MARK}(?P<repo>[^\s@|]+)@(?P<commit>[^\s|]+)")


class CommentedJob(NamedTuple):
    """A job whose comment names a snapshot.

    Attributes:
        job_id: Slurm's number; of an array's task with its index.
        user: whose job.
        name: of the job, which is the endpoint's.
    """

    job_id: str
    user: str
    name: str
    repo: str
    commit: str


def use_comment(repo: str, commit: str) -> str:
    """The comment of a job that serves a snapshot."""
    return f"{_MARK}{repo}@{commit}"


def served_repo(comment: str) -> str:
    """The repository that a job's comment names; empty where it names none."""
    use = _USE.search(comment)
    return use["repo"] if use is not None else ""


def parse_comments(code: int, stdout: str, stderr: str) -> list[CommentedJob]:
    """The jobs whose comments name a snapshot, of all that squeue shows.

    Raises:
        HpcvlmError: ``slurm-unavailable``.
    """
    refuse_failed("squeue", code, stderr)
    found = []
    for line in stdout.splitlines():
        job_id, _, rest = line.partition("|")
        user, _, rest = rest.partition("|")
        use = _USE.search(rest)
        if use is not None:
            name = rest.rpartition("|")[2]
            found.append(CommentedJob(job_id.strip(), user, name, use["repo"], use["commit"]))
    return found
