"""What endpoints have cost: GPU hours from Slurm's accounts, tokens from the jobs' own records."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from hpcvlm.endpoints.registry import all_records
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.usage_book import JobUse, read_book, use_of
from hpcvlm.slurm import commands
from hpcvlm.slurm.records import SlurmConfig, parse_scontrol_config
from hpcvlm.slurm.time import parse_duration
from hpcvlm.slurm.usage import JobCost, parse_costs, sacct_costs
from hpcvlm.submit.record import read_record

# A month of a large cluster's jobs.
_SACCT_TIMEOUT_S = 180.0
_HOUR_S = 3600.0
_DAY_S = 86_400.0
_ROOT = 0
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:T.*)?")


@dataclass(frozen=True, slots=True)
class UsedBy:
    """What one job has used within the time that was asked about.

    Attributes:
        model: as the user named it; the repository where only the job's comment tells.
        gpu_s: seconds times GPUs.
        source: ``accounts`` of Slurm, or the job's own ``records``.
        requests: and tokens of the whole job, None for jobs of others, whose records are private.
    """

    user: str
    model: str
    job_id: str
    gpu_s: float
    source: str
    requests: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """Jobs of one user that served one model, together; fields as in `UsedBy`."""

    user: str
    model: str
    jobs: int
    gpu_hours: float
    requests: int | None
    prompt_tokens: int | None
    generation_tokens: int | None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The usage since a moment.

    Attributes:
        since: seconds since the epoch.
        jobs: each job.
        sums: by user and model, the most GPU hours first.
        total: of all of them.
        notes: what is not known, and why.
    """

    since: float
    jobs: tuple[UsedBy, ...]
    sums: tuple[Sum, ...]
    total: Sum
    notes: tuple[str, ...]


def parse_since(text: str, now: float) -> float:
    """``30d``, ``12h`` or ``2026-11-01`` as seconds since the epoch.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    if not _DATE.fullmatch(text.strip()):
        return now - parse_duration(text, "--since")
    try:
        moment = datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise _no_since(f"--since {text!r} is no date") from None
    if moment > now:
        raise _no_since(f"--since {text} is yet to come")
    return moment


def _no_since(sentence: str) -> HpcvlmError:
    return HpcvlmError("time-invalid", sentence, "such as 30d, 12h or 2026-11-01")


def usage(since: float, ctx: Context, *, all_users: bool = False) -> UsageReport:
    """What endpoints have used since a moment, with at most two Slurm calls.

    Args:
        since: seconds since the epoch.
        ctx: the outside.
        all_users: also everybody else's, as far as Slurm shows and keeps it.
    """
    uses = _known_uses(ctx)
    me = getpass.getuser()
    costs, notes = _costs(since, ctx, uses, all_users=all_users)
    jobs = _joined(costs, uses, since, me)
    if all_users:
        notes += _unknown_of_others(ctx)
    sums = _sums(jobs)
    return UsageReport(since, tuple(jobs), sums, _sum("", "", jobs), tuple(notes))


def _known_uses(ctx: Context) -> list[JobUse]:
    """Every own job that anything is known of: those with a folder, put aside, or cleaned up."""
    found = {use.key: use for use in read_book(ctx.settings.state)}
    records = [(record, None) for record in all_records(ctx.settings.jobs)]
    aside = ctx.settings.state / "ended"
    folders = sorted(aside.iterdir()) if aside.is_dir() else []
    old = [(record, folder) for folder in folders if (record := read_record(folder)) is not None]
    for record, folder in (*records, *old):
        if record.job_id:
            use = use_of(record, folder)
            found[use.key] = use
    return list(found.values())


def _costs(
    since: float, ctx: Context, uses: Sequence[JobUse], *, all_users: bool
) -> tuple[list[JobCost], list[str]]:
    if not all_users and not any(use.executor == "slurm" for use in uses):
        return [], []
    if shutil.which("sacct", path=ctx.environment.get("PATH")) is None:
        return [], ["there is no sacct command here: GPU hours are from the jobs' own records"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    argv = sacct_costs(moment, all_users=all_users)
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(argv, env=environment, timeout_s=_SACCT_TIMEOUT_S)
    try:
        return parse_costs(done.code, done.stdout, done.stderr), []
    except HpcvlmError as error:
        return [], [f"GPU hours are from the jobs' own records: {error.sentence}"]


def _joined(
    costs: Iterable[JobCost], uses: Sequence[JobUse], since: float, me: str
) -> list[UsedBy]:
    by_id: dict[str, list[JobUse]] = {}
    for use in sorted(uses, key=lambda use: use.submitted):
        if use.executor == "slurm":
            by_id.setdefault(use.job_id, []).append(use)
    models = {use.repo: use.model for use in uses if use.repo}
    seconds: dict[JobUse, float] = {}
    others: dict[tuple[str, str, str], float] = {}
    for cost in costs:
        own = _own(cost, by_id.get(cost.job_id, []), me)
        if own is not None:
            gpus = own.gpus if cost.gpus is None else cost.gpus
            seconds[own] = seconds.get(own, 0.0) + cost.elapsed_s * gpus
        elif cost.repo:
            key = cost.user, models.get(cost.repo, cost.repo), cost.job_id
            others[key] = others.get(key, 0.0) + cost.elapsed_s * (cost.gpus or 0)
    jobs = [_used(use, me, since, seconds.get(use)) for use in uses]
    jobs = [job for job, use in zip(jobs, uses, strict=True) if _counts(use, since, seconds)]
    return jobs + [UsedBy(*key, gpu_s, "accounts") for key, gpu_s in others.items()]


def _own(cost: JobCost, uses: Sequence[JobUse], me: str) -> JobUse | None:
    """The own job that a cost is of; Slurm begins again with low numbers one day."""
    if cost.user != me:
        return None
    # A job that is put back is submitted anew, so only the other direction tells them apart.
    return next((use for use in reversed(uses) if cost.submitted >= use.submitted - _DAY_S), None)


def _counts(use: JobUse, since: float, seconds: dict[JobUse, float]) -> bool:
    return use in seconds or use.seconds_since(since) > 0


def _used(use: JobUse, me: str, since: float, gpu_s: float | None) -> UsedBy:
    return UsedBy(
        user=me,
        model=use.model,
        job_id=use.job_id,
        gpu_s=use.seconds_since(since) * use.gpus if gpu_s is None else gpu_s,
        source="records" if gpu_s is None else "accounts",
        requests=use.requests,
        prompt_tokens=use.prompt_tokens,
        generation_tokens=use.generation_tokens,
    )


def _sums(jobs: Sequence[UsedBy]) -> tuple[Sum, ...]:
    groups: dict[tuple[str, str], list[UsedBy]] = {}
    for job in jobs:
        groups.setdefault((job.user, job.model), []).append(job)
    sums = [_sum(user, model, group) for (user, model), group in groups.items()]
    return tuple(sorted(sums, key=lambda one: (-one.gpu_hours, one.user, one.model)))


def _sum(user: str, model: str, jobs: Sequence[UsedBy]) -> Sum:
    return Sum(
        user=user,
        model=model,
        jobs=len(jobs),
        gpu_hours=sum(job.gpu_s for job in jobs) / _HOUR_S,
        requests=_total(job.requests for job in jobs),
        prompt_tokens=_total(job.prompt_tokens for job in jobs),
        generation_tokens=_total(job.generation_tokens for job in jobs),
    )


def _total(numbers: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _unknown_of_others(ctx: Context) -> list[str]:
    """Why others' endpoints may be missing; their tokens always are."""
    notes = ["requests and tokens of other users are in their own records"]
    if shutil.which("scontrol", path=ctx.environment.get("PATH")) is None:
        return notes
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(commands.scontrol_config(), env=environment)
    try:
        config = parse_scontrol_config(done.code, done.stdout, done.stderr)
    except HpcvlmError as error:
        return [*notes, f"Slurm did not say what it keeps and shows: {error.sentence}"]
    if not _keeps_comments(config):
        notes.append(
            "Slurm's accounts keep no comments here (AccountingStoreFlags has no job_comment), so "
            "which jobs of others were endpoints is not known"
        )
    hidden = {"jobs", "usage"} & set(config.get("PrivateData").lower().split(","))
    if hidden and os.geteuid() != _ROOT:
        notes.append(
            f"Slurm hides the jobs of other users here (PrivateData={','.join(sorted(hidden))})"
        )
    return notes


def _keeps_comments(config: SlurmConfig) -> bool:
    """Whether the accounts have jobs' comments: slurm.conf(5), before 21.08 by its own name."""
    flags = config.get("AccountingStoreFlags").lower().split(",")
    return "job_comment" in flags or config.get("AccountingStoreJobComment").lower() == "yes"
