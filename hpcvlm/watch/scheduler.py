"""Asks the scheduler: one squeue for all jobs, sacct for those that squeue has forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands, parse
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.states import JobPhase, reason_sentence
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Runner
from hpcvlm.system.processes import is_alive
from hpcvlm.watch.verdict import SchedulerView

ASK_TIMEOUT_S = 20.0


class SchedulerSource(Protocol):
    """Gives the scheduler's view of one job."""

    def view(self, record: JobRecord) -> SchedulerView:
        """What the scheduler says now; never raises, an unreachable one is `answered=False`."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSource:
    """Asks this machine or Slurm for one job at a time."""

    runner: Runner

    def view(self, record: JobRecord) -> SchedulerView:
        """What the scheduler says now."""
        return views([record], self.runner)[record.name]


def views(records: Sequence[JobRecord], runner: Runner) -> dict[str, SchedulerView]:
    """The scheduler's view of each job, by name, with at most two Slurm calls in all."""
    found = {r.name: _local_view(r) for r in records if r.executor == "local"}
    slurm = [r for r in records if r.executor == "slurm"]
    if slurm:
        found |= _slurm_views(slurm, runner)
    return found


def _local_view(record: JobRecord) -> SchedulerView:
    alive = is_alive(int(record.job_id), record.process_started)
    ends = record.submitted + record.time_limit_s
    if alive:
        return SchedulerView(True, JobPhase.RUNNING, "running", nodes="this machine", ends=ends)
    return SchedulerView(True, JobPhase.FAILED, "that the job's process is gone")


def _slurm_views(records: Sequence[JobRecord], runner: Runner) -> dict[str, SchedulerView]:
    jobs, problem = _ask(commands.squeue([r.job_id for r in records]), parse.parse_squeue, runner)
    if problem:
        return {r.name: SchedulerView(False, reason=problem) for r in records}
    by_id = {job.job_id: job for job in jobs}
    forgotten = [r.job_id for r in records if r.job_id not in by_id]
    if forgotten:
        # Without accounting sacct fails; that is a supported site, and the job is then unknown.
        past, _ = _ask(commands.sacct(forgotten), parse.parse_sacct, runner)
        by_id |= {job.job_id: job for job in past}
    return {r.name: _view(by_id.get(r.job_id)) for r in records}


def _ask(
    argv: Sequence[str], parser: Callable[[int, str, str], Iterable[SlurmJob]], runner: Runner
) -> tuple[list[SlurmJob], str]:
    environment = commands.query_environment(os.environ)
    done = runner(argv, env=environment, timeout_s=ASK_TIMEOUT_S)
    try:
        return list(parser(done.code, done.stdout, done.stderr)), ""
    except HpcvlmError as error:
        return [], error.sentence


def _view(job: SlurmJob | None) -> SchedulerView:
    if job is None:
        return SchedulerView(True, None)
    pending = job.state is JobPhase.PENDING
    return SchedulerView(
        answered=True,
        phase=job.state,
        raw=job.raw_state,
        reason=reason_sentence(job.reason) if pending else "",
        nodes=job.nodes,
        expected_start=job.start.timestamp() if pending and job.start else None,
        ends=job.end.timestamp() if job.end and not pending else None,
        exit_code=job.exit_code,
    )
