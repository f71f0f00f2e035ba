"""Takes back jobs that were accepted before one of the same endpoint was refused."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands
from hpcvlm.slurm.parse import parse_squeue
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.clock import Clock
from hpcvlm.system.process import Runner

_ASK_TIMEOUT_S = 20.0
_PATIENCE_S = 40.0  # Slurm's KillWait is 30 s by default (slurm.conf(5))
_PAUSE_S = 0.5


def cancel_all(jobs: Sequence[JobRecord], runner: Runner, clock: Clock) -> list[JobRecord]:
    """Cancel jobs, and wait until they are over; those that may still be there are given back.

    The newest is cancelled first: ``--dependency=after`` also counts the end of a job that never
    began.
    """
    if not jobs:
        return []
    environment = commands.clean_environment(os.environ)
    for job in reversed(jobs):
        # One that has begun stops its engine in its own order; one that waits is just removed.
        for argv in (commands.scancel_term(job.job_id), commands.scancel(job.job_id)):
            runner(argv, env=environment, timeout_s=_ASK_TIMEOUT_S)
    until = clock.now() + _PATIENCE_S
    left = list(jobs)
    while left and clock.now() < until:
        there = _not_over(left, runner)
        if there is not None:
            left = [job for job in left if job.job_id in there]
        if left:
            clock.sleep(_PAUSE_S)
    return left


def _not_over(jobs: Sequence[JobRecord], runner: Runner) -> set[str] | None:
    """The numbers of those that Slurm still works on; None when it does not answer."""
    done = runner(
        commands.squeue([job.job_id for job in jobs]),
        env=commands.query_environment(os.environ),
        timeout_s=_ASK_TIMEOUT_S,
    )
    try:
        seen = parse_squeue(done.code, done.stdout, done.stderr)
    except HpcvlmError:
        return None
    return {job.job_id for job in seen if not job.state.over}
