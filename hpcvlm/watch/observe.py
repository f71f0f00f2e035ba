"""Puts together what the folder and the scheduler say of a job into one observation."""

from __future__ import annotations

from dataclasses import dataclass

from hpcvlm.submit.record import JobRecord
from hpcvlm.watch.model import Observation, SchedulerView, Verdict, Waiting
from hpcvlm.watch.reading import FolderView, age
from hpcvlm.watch.state import JobState

# The job counts the time of its start itself, and what it writes takes a while to be seen.
OVERDUE_GRACE_S = 120.0
_NOT_STARTING = ("queued", "suspended", "draining")


def observe(
    record: JobRecord,
    folder: FolderView,
    scheduler: SchedulerView,
    now: float,
    *,
    gone_since: float | None = None,
    ahead_s: float | None = None,
) -> Observation:
    """One observation of a job.

    Args:
        record: the job.
        folder: what its folder says.
        scheduler: what the scheduler says.
        now: this machine's clock.
        gone_since: when the scheduler was first seen to say that the job is over; where nobody
            watched, what it says itself counts, or that it was long ago.
        ahead_s: how far the clock of the folder's file system is ahead; None when unknown.
    """
    if scheduler.over:
        # By this machine's clock, as far as it is known.
        ended = None if scheduler.ended is None else scheduler.ended - (ahead_s or 0.0)
        gone_since = min((at for at in (gone_since, ended) if at is not None), default=0.0)
    return Observation(
        now=now,
        submitted=record.submitted,
        state=folder.state,
        scheduler=scheduler,
        gone_since=gone_since if scheduler.over else None,
        activity=folder.activity,
        state_age=age(folder.state_at, now, ahead_s),
        activity_age=age(folder.activity_at, now, ahead_s),
        # A local job's times are all by one clock, whatever that of its files says.
        node_ahead_s=(folder.node_ahead_s or 0.0) if record.executor == "slurm" else 0.0,
        state_broken=folder.state_broken or bool(folder.problem),
        vision=record.vision,
        requeueable=record.requeue,
        job_id=record.job_id if record.executor == "slurm" else "",
        submission_confirmed=bool(record.job_id),
    )


@dataclass(frozen=True, slots=True)
class Clocks:
    """How long a job waited in the queue, and how long it then took to become ready.

    Attributes:
        queued_s: seconds from its submission to its (last) beginning, or until now.
        starting_s: seconds from there to ready, or until now or its end; None before it began.
        running_s: seconds for which it has had its allocation; None before it began.
    """

    queued_s: float
    starting_s: float | None = None
    running_s: float | None = None


def clocks(
    submitted: float, state: JobState | None, scheduler: SchedulerView, now: float
) -> Clocks:
    """The two clocks of a job; all times are seconds since the epoch.

    Times by the node's clock are only compared with each other, but for the beginning.
    """
    began = scheduler.started or (state.started if state is not None else None)
    if began is None:
        return Clocks(max(0.0, (scheduler.ended or now) - submitted))
    queued = max(0.0, began - submitted)
    if state is None:
        return Clocks(queued, max(0.0, (scheduler.ended or now) - began))
    ready, over = state.phases.get("ready"), state.phases.get("ended")
    node_now = over if over is not None else max(now, state.since)
    return Clocks(
        queued,
        max(0.0, (ready if ready is not None else node_now) - state.started),
        max(0.0, node_now - state.started),
    )


def overdue(record: JobRecord, verdict: Verdict, state: JobState | None, starting_s: float) -> bool:
    """Whether a job that starts should have become ready, or have given up, before now.

    A job ends itself when its start takes longer than `start_timeout`. One that does not hangs
    where it cannot count, as in a copy, or was frozen by Slurm for a while: nothing is certain
    but that it is late.

    Args:
        record: the job.
        verdict: what is true of it.
        state: its own word.
        starting_s: seconds since its script began, by one clock.
    """
    if not isinstance(verdict, Waiting) or verdict.phase in _NOT_STARTING:
        return False
    if state is None or "ready" in state.phases:
        return False
    return starting_s > record.start_timeout_s + OVERDUE_GRACE_S
