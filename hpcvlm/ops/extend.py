"""More time for an endpoint: a later end of its job, where the site lets its users do that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.names import family
from hpcvlm.site.cluster import parse_sinfo
from hpcvlm.slurm import commands
from hpcvlm.slurm.extend import (
    DONE,
    GONE,
    REFUSED,
    TOO_LONG,
    parse_time_limit_update,
    scontrol_time_limit,
)
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.parse import parse_squeue
from hpcvlm.slurm.states import JobPhase
from hpcvlm.slurm.time import format_time_limit
from hpcvlm.submit.record import JobRecord, read_record
from hpcvlm.system.files import write_atomically
from hpcvlm.system.interrupts import deferred_interrupts

ENDS_NAME = "ends"
_ASK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Extension:
    """A job with more time.

    Attributes:
        was_s: its time limit before, in seconds.
        limit_s: its time limit now, as Slurm says it.
        ends: seconds since the epoch at which it ends; None while it waits in the queue.
        note: what else a person should know; empty when there is nothing.
    """

    record: JobRecord
    was_s: int
    limit_s: int
    ends: float | None
    note: str = ""


def extend(record: JobRecord, by_s: int, ctx: Context) -> Extension:
    """Let a job run longer, and tell the job.

    Args:
        record: the job.
        by_s: seconds, which Slurm rounds up to minutes.
        ctx: the outside.

    Raises:
        HpcvlmError: ``extend-refused`` when the site does not let its users do that, with what they
            can do; ``endpoint-not-ready`` when the job is over; ``slurm-unavailable``.
    """
    if record.executor != "slurm":
        raise _without_slurm(record)
    before = _alive(record, _look(record, ctx))
    if before.time_limit_s is None:
        raise HpcvlmError(
            "extend-refused",
            f"job {record.job_id} of {record.shown_name} has no time limit that could be extended",
        )
    wanted = before.time_limit_s + by_s
    with deferred_interrupts():
        after = _change(record, before, wanted, ctx)
        return _told(record, before.time_limit_s, after)


def submit_successor(record: JobRecord, ctx: Context) -> JobRecord:
    """Submit a job that takes over the name and the key as soon as it is ready.

    Any site lets its users do that: the job with a later end is another job.

    Raises:
        HpcvlmError: ``endpoint-not-ready`` when there is nothing to take over from;
            ``extend-refused`` without Slurm; else as `hpcvlm.ops.launch.add_successor`.
    """
    from hpcvlm.ops.launch import add_successor

    if record.executor != "slurm":
        raise _without_slurm(record)
    _alive(record, _look(record, ctx))
    return add_successor(record, ctx)


def _change(record: JobRecord, before: SlurmJob, wanted_s: int, ctx: Context) -> SlurmJob:
    """The job after its limit was changed, as Slurm itself then shows it."""
    argv = scontrol_time_limit(record.job_id, wanted_s)
    environment = commands.clean_environment(ctx.environment)
    done = ctx.runner(argv, env=environment, timeout_s=_ASK_TIMEOUT_S)
    doubt: HpcvlmError | None = None
    what, words = DONE, ""
    try:
        what, words = parse_time_limit_update(done.code, done.stdout, done.stderr)
    except HpcvlmError as error:
        doubt = error  # it may have been done, and only the answer be lost
    if what in (REFUSED, TOO_LONG):
        raise _refused(record, before, words, ctx)
    if what == GONE:
        raise _over(record)
    after = _alive(record, _look(record, ctx))
    if after.time_limit_s is None or after.time_limit_s >= wanted_s:
        return after
    if doubt is not None:
        raise doubt
    raise _refused(record, before, "it took the change, and then did not make it", ctx)


def _told(record: JobRecord, was_s: int, after: SlurmJob) -> Extension:
    """Write down for the job when it ends now; Slurm has the last word anyway."""
    limit = after.time_limit_s if after.time_limit_s is not None else was_s
    ends = after.end.timestamp() if after.end and after.state is JobPhase.RUNNING else None
    note = _successor_note(record)
    if ends is not None:
        try:
            write_atomically(Path(record.folder) / ENDS_NAME, f"{int(ends)}\n")
        except OSError as error:
            note = (
                f"the job cannot be told, since {record.folder} cannot be written "
                f"({error.strerror}); its warnings and its own times stay those of the earlier end"
            )
    return Extension(record, was_s, limit, ends, note)


def _successor_note(record: JobRecord) -> str:
    """What the longer time changes nothing about: a successor that is queued."""
    folders = family(Path(record.folder).parent / record.shown_name)
    later = [found for place in folders if (found := read_record(place)) is not None]
    names = [
        f"{one.name} (job {one.job_id})" for one in later if one.generation > record.generation
    ]
    return f"{names[0]} takes over all the same when it is ready" if names else ""


def _look(record: JobRecord, ctx: Context) -> SlurmJob | None:
    if not record.job_id:
        raise HpcvlmError(
            "endpoint-not-ready",
            f"whether the job of {record.shown_name} was accepted is not known yet",
            f"hpcvlm status {record.shown_name}",
        )
    done = ctx.runner(
        commands.squeue([record.job_id]),
        env=commands.query_environment(ctx.environment),
        timeout_s=_ASK_TIMEOUT_S,
    )
    jobs = parse_squeue(done.code, done.stdout, done.stderr)
    return next((job for job in jobs if job.job_id == record.job_id), None)


def _alive(record: JobRecord, job: SlurmJob | None) -> SlurmJob:
    if job is None or job.state not in (JobPhase.PENDING, JobPhase.RUNNING):
        raise _over(record)
    return job


def _without_slurm(record: JobRecord) -> HpcvlmError:
    return HpcvlmError(
        "extend-refused",
        f"{record.shown_name} runs on this machine without Slurm, where its time cannot be "
        "changed once it runs",
        f"launch another one with a longer --time, then hpcvlm stop {record.shown_name}",
    )


def _over(record: JobRecord) -> HpcvlmError:
    return HpcvlmError(
        "endpoint-not-ready",
        f"job {record.job_id} of {record.shown_name} is over and cannot get more time",
        f"hpcvlm launch {record.model} --name {record.shown_name}",
    )


def _refused(record: JobRecord, job: SlurmJob, words: str, ctx: Context) -> HpcvlmError:
    """Slurm's no, with the end that stays and what the user can do about it."""
    name = record.shown_name
    details = [f"Slurm says: {words}"] if words else []
    if job.state is JobPhase.RUNNING:
        details.append(
            "most sites let only their operators give a job that runs more time (scontrol(1))"
        )
        if job.end is not None:
            details.append(f"it ends at {_clock(job.end.timestamp())}")
    if latest := _latest(job, ctx):
        details.append(latest)
    return HpcvlmError(
        "extend-refused",
        f"Slurm does not give job {record.job_id} of {name} more time",
        f"hpcvlm extend {name} --successor submits a job that takes over its name and key, "
        "or ask your admins for more time",
        tuple(details),
    )


def _latest(job: SlurmJob, ctx: Context) -> str:
    """The end that the partition allows at the most; empty where it has no limit or cannot say."""
    done = ctx.runner(
        commands.sinfo(),
        env=commands.query_environment(ctx.environment),
        timeout_s=_ASK_TIMEOUT_S,
    )
    try:
        place = parse_sinfo(done.code, done.stdout, done.stderr).partition(job.partition)
    except HpcvlmError:
        return ""
    if place is None or place.time_limit_s is None:
        return ""
    sentence = f"partition {place.name} allows {format_time_limit(place.time_limit_s)}"
    if job.state is not JobPhase.RUNNING or job.start is None:
        return f"{sentence} in all"
    return (
        f"{sentence} in all, so {_clock(job.start.timestamp() + place.time_limit_s)} "
        "is the latest end it could have"
    )


def _clock(seconds: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(seconds))
