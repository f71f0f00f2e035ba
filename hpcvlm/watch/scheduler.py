"""Asks the scheduler: one squeue for all jobs, sacct for those that squeue has forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands, parse
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.reasons import reason_remedy, reason_sentence
from hpcvlm.slurm.states import JobPhase, base_job_id, held_sentence
from hpcvlm.submit.adopt import ASK_TIMEOUT_S, adopted, look_up
from hpcvlm.submit.cluster import cluster_here
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed, Runner
from hpcvlm.system.processes import is_alive
from hpcvlm.watch.model import SchedulerView

UNCONFIRMED = SchedulerView(False, reason="Slurm has not said whether it took the job")

_FORGOTTEN = SchedulerView(True, None)
# One argument may have 128 KiB (MAX_ARG_STRLEN in execve(2)), and numbers have up to 8 digits.
_MOST_IDS = 10_000
# What sacct says, or the shell, at a site that keeps no accounts; such a site is supported.
_NO_ACCOUNTS = ("accounting storage is disabled", "there is no sacct command")


class SchedulerSource(Protocol):
    """Gives the scheduler's view of one job."""

    def view(self, record: JobRecord) -> SchedulerView:
        """What the scheduler says now; never raises, an unreachable one is `answered=False`."""
        ...

    def confirm(self, record: JobRecord) -> tuple[JobRecord, SchedulerView | None]:
        """The record of a submission that nobody saw the end of, with its job's number if found.

        Without a number a view comes with it: of a scheduler that could not be asked, or that
        knows no such job.
        """
        ...


@dataclass(frozen=True, slots=True)
class LiveSource:
    """Asks this machine or Slurm for one job at a time."""

    runner: Runner

    def view(self, record: JobRecord) -> SchedulerView:
        """What the scheduler says now."""
        return views([record], self.runner)[record.name]

    def confirm(self, record: JobRecord) -> tuple[JobRecord, SchedulerView | None]:
        """The record with its job's number if found, else with a view that says why not."""
        records, unconfirmed = confirm([record], self.runner)
        return records[0], unconfirmed.get(record.name)


def confirm(
    records: Sequence[JobRecord], runner: Runner
) -> tuple[list[JobRecord], dict[str, SchedulerView]]:
    """The records, with the numbers of those jobs whose submission nobody saw the end of.

    Costs no Slurm call where every record has its number, and else two, however many have none.

    Returns:
        The records in their order, and by name what is known of those still without a number.
    """
    answers: dict[str, Completed] = {}

    def once(
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        if argv[0] not in answers:
            answers[argv[0]] = runner(argv, env=env, timeout_s=timeout_s, cwd=cwd)
        return answers[argv[0]]

    known: dict[str, JobRecord] = {}
    unconfirmed: dict[str, SchedulerView] = {}
    # The oldest first: what the accounts tell since its submission holds for all of them.
    for record in sorted((r for r in records if not r.job_id), key=lambda r: r.submitted):
        found = look_up(record, once)
        away = _accounts_away(answers.get("sacct"))
        if found.job_id:
            known[record.name] = adopted(record, found)
        elif found.answered and not away:
            unconfirmed[record.name] = SchedulerView(True, None)
        else:
            unconfirmed[record.name] = SchedulerView(False, reason=found.why or away)
    return [known.get(record.name, record) for record in records], unconfirmed


def views(records: Sequence[JobRecord], runner: Runner) -> dict[str, SchedulerView]:
    """The scheduler's view of each job, by name, with at most two Slurm calls in all.

    A third one is made where there are jobs that Slurm does not know and that may be another
    cluster's.
    """
    found = {r.name: UNCONFIRMED for r in records if not r.job_id}
    known = [r for r in records if r.job_id]
    found |= {r.name: _local_view(r) for r in known if r.executor == "local"}
    slurm = [r for r in known if r.executor == "slurm"]
    if slurm:
        found |= _slurm_views(slurm, runner)
    return found


def _local_view(record: JobRecord) -> SchedulerView:
    alive = record.job_id.isdigit() and is_alive(int(record.job_id), record.process_started)
    ends = record.submitted + record.time_limit_s
    if alive:
        return SchedulerView(True, JobPhase.RUNNING, "running", nodes="this machine", ends=ends)
    return SchedulerView(True, JobPhase.FAILED, "that the job's process is gone")


def _slurm_views(records: Sequence[JobRecord], runner: Runner) -> dict[str, SchedulerView]:
    jobs, problem = _ask(_squeue([r.job_id for r in records]), parse.parse_squeue, runner)
    if problem:
        return {r.name: SchedulerView(False, reason=problem) for r in records}
    by_id = _by_number(jobs)
    forgotten, unknown = [r.job_id for r in records if r.job_id not in by_id], _FORGOTTEN
    if forgotten:
        past, problem = _ask(commands.sacct(forgotten[-_MOST_IDS:]), parse.parse_sacct, runner)
        problem = _but_no_accounts(problem)
        # The accounts go on calling a job running that the controller has lost, or whose end
        # they were not told; the controller knows better.
        by_id |= _by_number([job for job in past if job.state.over])
        if problem:
            unknown = SchedulerView(True, None, reason=problem, accounts_away=True)
    elsewhere = _elsewhere([r for r in records if r.job_id not in by_id], runner)
    return {
        r.name: elsewhere.get(r.name) or _view(by_id.get(r.job_id), r, unknown) for r in records
    }


def _elsewhere(strangers: Sequence[JobRecord], runner: Runner) -> dict[str, SchedulerView]:
    """The jobs of another cluster, by name, among those that Slurm here does not know.

    Only such jobs cost this further Slurm call.
    """
    named = [record for record in strangers if record.cluster]
    here = cluster_here(runner) if named else ""
    if not here:
        return {}
    return {
        record.name: SchedulerView(
            False,
            reason=f"it is a job of cluster {record.cluster!r}, and this is {here!r}",
            cluster=record.cluster,
        )
        for record in named
        if record.cluster != here
    }


def _accounts_away(answer: Completed | None) -> str:
    """Why the accounts did not answer; empty where they did, or there are none."""
    try:
        if answer is not None:
            parse.refuse_failed("sacct", answer.code, answer.stderr)
    except HpcvlmError as error:
        return _but_no_accounts(error.sentence)
    return ""


def _but_no_accounts(problem: str) -> str:
    return "" if any(words in problem for words in _NO_ACCOUNTS) else problem


def _squeue(job_ids: Sequence[str]) -> commands.Argv:
    """By number, since a job may be another user's; so many that no argument is too long."""
    return commands.squeue(job_ids) if len(job_ids) <= _MOST_IDS else commands.squeue_user()


def _by_number(jobs: Iterable[SlurmJob]) -> dict[str, SlurmJob]:
    """Each job by the number that sbatch gave; of several parts the one that is least over."""
    found: dict[str, SlurmJob] = {}
    for job in jobs:
        number = base_job_id(job.job_id)
        before = found.get(number)
        if before is None or (before.state.over and not job.state.over):
            found[number] = job
    return found


def _ask(
    argv: Sequence[str], parser: Callable[[int, str, str], Iterable[SlurmJob]], runner: Runner
) -> tuple[list[SlurmJob], str]:
    environment = commands.query_environment(os.environ)
    try:
        done = runner(argv, env=environment, timeout_s=ASK_TIMEOUT_S)
        return list(parser(done.code, done.stdout, done.stderr)), ""
    except HpcvlmError as error:
        return [], error.sentence
    except OSError as error:  # no further process can be started
        return [], f"no further process can be started for {argv[0]} ({error.strerror})"


def _view(job: SlurmJob | None, record: JobRecord, unknown: SchedulerView) -> SchedulerView:
    if job is None:
        return unknown
    if job.name and job.name != record.name:
        # Numbers are unique in one cluster only, and home folders are often shared by several.
        why = f"Slurm's job {job.job_id} is called {job.name!r}: is this another cluster's Slurm?"
        return SchedulerView(False, reason=why)
    pending, over = job.state is JobPhase.PENDING, job.state.over
    start, end = (moment.timestamp() if moment else None for moment in (job.start, job.end))
    reason = ""
    if pending:
        reason = reason_sentence(job.reason) or held_sentence(job.raw_state)
    return SchedulerView(
        answered=True,
        phase=job.state,
        raw=job.raw_state,
        reason=reason,
        nodes=job.nodes,
        expected_start=start if pending else None,
        ends=end if not pending and not over else None,
        exit_code=job.exit_code,
        started=start if not pending else None,
        ended=end if over else None,
        time_limit_s=job.time_limit_s,
        remedy=reason_remedy(job.reason, record.job_id, job.raw_state) if pending else "",
    )
