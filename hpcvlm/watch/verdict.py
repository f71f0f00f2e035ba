"""What is true of a job: a pure function from observations to a verdict.

Ready is proven (by the job, from inside), Failed has evidence, and what is not known is called
Unknown. A log line never decides; it only explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.state import JobState

# A job that its scheduler has forgotten may still have its last words on their way over a network
# file system; NFS clients cache attributes for up to 60 s (acdirmax in nfs(5)).
LAST_WORDS_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """What Slurm, or this machine's process table, says of the job.

    Attributes:
        phase: None when it does not know the job (any more).
        answered: False when it could not be asked; the phase then says nothing.
        raw: its own word for the state.
        reason: why the job is pending, as a sentence.
        expected_start: seconds since the epoch, None when unknown.
        ends: seconds since the epoch at which the time limit is reached, None when unknown.
        exit_code: of the batch script, None when unknown.
    """

    answered: bool
    phase: JobPhase | None = None
    raw: str = ""
    reason: str = ""
    nodes: str = ""
    expected_start: float | None = None
    ends: float | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything seen of a job at one moment.

    Attributes:
        now: seconds since the epoch.
        submitted: seconds since the epoch.
        state: the job's own state.json; None when it has written none yet.
        scheduler: what the scheduler says.
        gone_since: when the scheduler was first seen not to know the job, None while it does.
    """

    now: float
    submitted: float
    state: JobState | None
    scheduler: SchedulerView
    gone_since: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not ready yet.

    Attributes:
        phase: ``queued`` or one of the engine's phases, or ``draining``.
        since: seconds since the epoch at which the phase began.
        detail: a pending reason, a node.
    """

    phase: str
    since: float
    detail: str = ""
    expected_start: float | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The job has proved, from inside, that the engine answers an image."""

    host: str
    port: int
    since: float
    ends: float | None


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not become ready, or is not any more.

    Attributes:
        reason: stable identifier: a reason of state.json or a scheduler state.
        evidence: what says so.
    """

    reason: str
    evidence: str
    engine_exit: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """It was stopped on purpose, or ran to its time limit after it had been ready."""

    how: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing can be said now; `last_seen` is the last phase that was known."""

    why: str
    last_seen: str


Verdict = Waiting | Ready | Failed | Ended | Unknown

_SCHEDULER_ENDS = {
    JobPhase.FAILED: "job-failed",
    JobPhase.TIMED_OUT: "time-limit",
    JobPhase.OUT_OF_MEMORY: "out-of-memory",
    JobPhase.NODE_FAILED: "node-failed",
    JobPhase.PREEMPTED: "preempted",
    JobPhase.DONE: "job-ended",
}


def decide(seen: Observation) -> Verdict:  # noqa: PLR0911 - one return for each kind of truth
    """The verdict on one observation.

    The job's own last word wins; then a final word of the scheduler; then the job's phase while
    the scheduler says that it runs, or cannot be asked.
    """
    state, scheduler = seen.state, seen.scheduler
    if state is not None and state.phase == "ended" and scheduler.phase is not JobPhase.PENDING:
        return _own_end(state)
    if scheduler.answered and scheduler.phase in (*_SCHEDULER_ENDS, JobPhase.CANCELLED):
        return _scheduler_end(state, scheduler)
    if scheduler.answered and scheduler.phase is None:
        return _forgotten(seen)
    if scheduler.phase is JobPhase.PENDING:
        return Waiting("queued", seen.submitted, scheduler.reason, scheduler.expected_start)
    if state is None:
        if not scheduler.answered:
            return Unknown(scheduler.reason or "the scheduler did not answer", "submitted")
        return Waiting("allocated", seen.submitted, scheduler.nodes)
    return _running(state, scheduler)


def _running(state: JobState, scheduler: SchedulerView) -> Verdict:
    if scheduler.answered and scheduler.phase is JobPhase.ENDING:
        return Waiting("draining", state.since, state.host)
    if state.phase == "ready" and state.port is not None:
        if not scheduler.answered:
            why = scheduler.reason or "the scheduler did not answer"
            return Unknown(why, "ready")
        return Ready(state.host, state.port, state.since, state.ends or scheduler.ends)
    return Waiting(state.phase, state.since, state.host)


def _own_end(state: JobState) -> Verdict:
    if state.reason == "stopped":
        return Ended("stopped")
    return Failed(state.reason, "state.json, written by the job itself", state.engine_exit)


def _scheduler_end(state: JobState | None, scheduler: SchedulerView) -> Verdict:
    was_ready = state is not None and "ready" in state.phases
    if scheduler.phase is JobPhase.CANCELLED:
        return Ended("cancelled")
    if scheduler.phase is JobPhase.TIMED_OUT and was_ready:
        return Ended("time limit reached")
    assert scheduler.phase is not None  # noqa: S101 - the caller looked it up
    evidence = f"the scheduler says {scheduler.raw or scheduler.phase.name}"
    if scheduler.nodes:
        evidence += f" on {scheduler.nodes}"
    return Failed(_SCHEDULER_ENDS[scheduler.phase], evidence)


def _forgotten(seen: Observation) -> Verdict:
    """The scheduler has no such job and keeps no account of it."""
    last = seen.state.phase if seen.state is not None else "submitted"
    waited = seen.now - (seen.gone_since if seen.gone_since is not None else seen.now)
    if waited < LAST_WORDS_GRACE_S:
        return Unknown("the scheduler no longer lists the job; waiting for its last words", last)
    return Failed(
        "vanished",
        f"the scheduler no longer knows the job, and its last word was {last!r}",
    )
