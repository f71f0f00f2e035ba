"""What is true of a job: a pure function from observations to a verdict.

Ready is proven (by the job, from inside), Failed has evidence, and what is not known is called
Unknown. A log line never decides; it only explains.
"""

from __future__ import annotations

from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.activity import Activity
from hpcvlm.watch.model import (
    FINAL,
    Ended,
    Failed,
    Observation,
    Ready,
    SchedulerView,
    Unknown,
    Verdict,
    Waiting,
)
from hpcvlm.watch.sentences import ENDS
from hpcvlm.watch.state import JobState

__all__ = [
    "FINAL",
    "Ended",
    "Failed",
    "Observation",
    "Ready",
    "SchedulerView",
    "Unknown",
    "Verdict",
    "Waiting",
    "decide",
    "follow",
]

# A job that is over may still have its last words on their way over a network file system; NFS
# clients cache attributes for up to 60 s (acdirmax in nfs(5)).
LAST_WORDS_GRACE_S = 60.0
# Where they change nothing but the words, nobody waits long for them.
SHORT_GRACE_S = 10.0
# Slurm shows a job that it puts back into its queue as NODE_FAIL or PREEMPTED for a moment.
REQUEUE_GRACE_S = 30.0
# The job looks at its engine every 15 s, gives each look a few seconds, and what it writes may
# take 60 s to be seen elsewhere.
STALE_S = 120.0
# A look that fails may be a busy engine; four in a row are not.
ANSWER_S = 60.0
# Slurm's credentials are good for 300 s, so that no clock of a cluster that works is further off
# (munge(7), "TTL").
CLOCKS_APART_S = 300.0
# Slurm tells the script up to 120 s before the time limit that it ends (sbatch(1), --signal).
TIME_UP_S = 150.0
# sbatch is given up after 120 s; a job that Slurm then took is in its queue long before this.
SUBMISSION_S = 300.0
_SAME_END_S = 2.0
_SCRIPT_START_S = 5.0
# The job looks at its engine right before it calls itself ready; an engine that is started again
# takes longer.
_FIRST_LOOK_S = 3.0

_SCHEDULER_FAILURES = {
    JobPhase.FAILED: "job-failed",
    JobPhase.TIMED_OUT: "time-limit",
    JobPhase.OUT_OF_MEMORY: "out-of-memory",
    JobPhase.NODE_FAILED: "node-failed",
    JobPhase.PREEMPTED: "preempted",
}
_OWN_WORD = "state.json, written by the job itself"


def follow(previous: Verdict | None, seen: Observation) -> Verdict:
    """The verdict on one more observation; a final one stays what it is."""
    return previous if isinstance(previous, FINAL) else decide(seen)


def decide(seen: Observation) -> Verdict:  # noqa: PLR0911 - one return for each kind of truth
    """The verdict on one observation.

    The job's own last word wins; then a final word of the scheduler; then the job's phase while
    the scheduler says that it runs. Without the scheduler's word nothing is certain but the job's
    own end.
    """
    if not seen.submission_confirmed:
        return _unconfirmed(seen)
    state, scheduler = _state_of_this_run(seen), seen.scheduler
    if state is not None and state.phase == "ended" and _counts(state, seen):
        return _own_end(state, seen)
    if not scheduler.answered:
        return _unanswered(state, seen)
    if scheduler.phase is None:
        return _forgotten(state, seen)
    if scheduler.over:
        return _scheduler_end(state, seen)
    if scheduler.phase is JobPhase.PENDING:
        return Waiting(
            "queued", seen.submitted, scheduler.reason, scheduler.expected_start, scheduler.remedy
        )
    return _held(state, seen)


def _held(state: JobState | None, seen: Observation) -> Verdict:  # noqa: PLR0911 - as above
    """The scheduler says that it has its allocation."""
    scheduler = seen.scheduler
    if scheduler.phase is JobPhase.UNKNOWN:
        why = f"Slurm calls its state {scheduler.raw!r}, which is not known here"
        return Unknown(why, *_last_seen(state, seen))
    if scheduler.phase is JobPhase.SUSPENDED:
        since = _last_seen(state, seen)[1]
        return Waiting("suspended", since, f"frozen by Slurm ({scheduler.raw})")
    if state is not None and (scheduler.phase is JobPhase.ENDING or state.phase == "ended"):
        return Waiting("draining", state.since, state.host)
    if state is None and seen.state_broken and scheduler.phase is JobPhase.RUNNING:
        why = "it runs, but what it says of itself cannot be read"
        return Unknown(why, "running", scheduler.started or seen.submitted)
    if state is None or scheduler.phase is not JobPhase.RUNNING:
        return Waiting("allocated", scheduler.started or seen.submitted, scheduler.nodes)
    if state.phase == "ready":
        return _ready(state, seen)
    return Waiting(state.phase, state.since, _detail(state))


def _unconfirmed(seen: Observation) -> Verdict:
    scheduler = seen.scheduler
    why = scheduler.reason or "Slurm has not said yet whether it took the job"
    if scheduler.answered:
        why = "the scheduler knows no job of this folder"
        if seen.now - seen.submitted > SUBMISSION_S:
            return Failed("not-submitted", why, at=seen.submitted)
    return Unknown(f"submission not confirmed: {why}", "submitting", seen.submitted)


def _state_of_this_run(seen: Observation) -> JobState | None:
    """The job's own word, unless it is another job's, or that of an earlier run of this one."""
    state, scheduler = seen.state, seen.scheduler
    if state is None:
        return None
    if seen.job_id and state.job_id.isdigit() and state.job_id != seen.job_id:
        return None
    if not seen.requeueable or not scheduler.answered or scheduler.started is None:
        return state
    early = scheduler.started - (state.started - seen.node_ahead_s)
    if early > CLOCKS_APART_S:
        return None
    # Both ends are the controller's, so that they are equal in the same run unless somebody has
    # moved the time limit.
    ends_differ = (
        state.ends is not None
        and scheduler.ends is not None
        and abs(state.ends - scheduler.ends) > _SAME_END_S
    )
    return None if ends_differ and early > _SCRIPT_START_S else state


def _counts(state: JobState, seen: Observation) -> bool:
    """Whether the job's own last word is final already.

    ``stopped`` only says that a signal came; Slurm says whose. A job that Slurm may put back into
    its queue has ended only when Slurm says so, too.
    """
    scheduler = seen.scheduler
    if scheduler.answered and scheduler.phase is JobPhase.PENDING:
        return False
    if scheduler.accounts_away and state.reason == "stopped":
        return False
    if scheduler.over:
        return not _may_come_back(seen)
    return not seen.requeueable and state.reason != "stopped"


def _may_come_back(seen: Observation) -> bool:
    put_back = seen.scheduler.phase in (JobPhase.NODE_FAILED, JobPhase.PREEMPTED)
    return seen.requeueable and put_back and _over_for(seen) < REQUEUE_GRACE_S


def _over_for(seen: Observation) -> float:
    """Seconds for which the scheduler has said that the job is over."""
    if seen.gone_since is None:
        return 0.0
    return max(0.0, seen.now - seen.gone_since)


def _own_end(state: JobState, seen: Observation) -> Verdict:
    if state.reason not in ENDS:
        return Failed(state.reason or "job-ended", _OWN_WORD, state.engine_exit, state.since)
    if state.reason == "stopped":
        return _stopped(state, seen)
    return Ended(ENDS[state.reason], state.reason, state.since)


def _stopped(state: JobState, seen: Observation) -> Verdict:
    """Somebody, or Slurm itself, told the job to end."""
    scheduler = seen.scheduler
    if scheduler.phase is JobPhase.PREEMPTED:
        return Failed("preempted", _evidence(scheduler), state.engine_exit, state.since)
    # The end of the time limit is told by the controller's clock.
    at, ends = scheduler.ended or state.since - seen.node_ahead_s, state.ends
    if scheduler.started is not None and scheduler.time_limit_s is not None:
        ends = scheduler.started + scheduler.time_limit_s
    time_up = ends is not None and at >= ends - TIME_UP_S
    if scheduler.phase is not JobPhase.TIMED_OUT and not time_up:
        return Ended(ENDS["stopped"], "stopped", state.since)
    if "ready" in state.phases:
        return Ended(ENDS["time-limit"], "time-limit", state.since)
    evidence = _OWN_WORD if time_up else _evidence(scheduler)
    return Failed("time-limit", evidence, state.engine_exit, state.since)


def _unanswered(state: JobState | None, seen: Observation) -> Verdict:
    why = seen.scheduler.reason or "the scheduler did not answer"
    return Unknown(why, *_last_seen(state, seen))


def _last_seen(state: JobState | None, seen: Observation) -> tuple[str, float]:
    if state is None:
        return "submitted", seen.submitted
    activity = _activity_of(state, seen.activity)
    if state.phase == "ready" and activity is not None:
        return state.phase, activity.checked
    return state.phase, state.since


def _forgotten(state: JobState | None, seen: Observation) -> Verdict:
    """The scheduler has no such job and keeps no account of it."""
    last, at = _last_seen(state, seen)
    ages = [age for age in (seen.state_age, seen.activity_age) if age is not None]
    own_end = state is not None and state.phase == "ended"
    if state is not None and not own_end and ages and min(ages) < STALE_S:
        why = f"Slurm knows no such job, but it wrote to its folder {min(ages):.0f} s ago"
        return Unknown(why, last, at)
    if seen.scheduler.accounts_away:
        why = f"Slurm's controller no longer knows the job: {seen.scheduler.reason}"
        if own_end:
            why = f"it has ended, and only Slurm's accounts know why: {seen.scheduler.reason}"
        return Unknown(why, last, at)
    if _over_for(seen) < LAST_WORDS_GRACE_S:
        return Unknown(
            "the scheduler no longer lists the job; waiting for its last words", last, at
        )
    return Failed(
        "vanished",
        f"the scheduler no longer knows the job, and its last word was {last!r}",
        at=at,
    )


def _scheduler_end(state: JobState | None, seen: Observation) -> Verdict:
    scheduler = seen.scheduler
    was_ready = state is not None and "ready" in state.phases
    if _over_for(seen) < _grace(seen, was_ready=was_ready):
        why = f"{_evidence(scheduler)}; waiting for its last words"
        return Unknown(why, *_last_seen(state, seen))
    if scheduler.phase is JobPhase.CANCELLED:
        return Ended(ENDS["cancelled"], "cancelled", scheduler.ended)
    if scheduler.phase is JobPhase.DONE:
        # The script ends with 0 only when it was asked to end, or ends itself in order.
        return Ended(ENDS["completed"], "completed", scheduler.ended)
    # A file that cannot be read does not say that it never was ready.
    if scheduler.phase is JobPhase.TIMED_OUT and (was_ready or seen.state_broken):
        return Ended(ENDS["time-limit"], "time-limit", scheduler.ended)
    assert scheduler.phase is not None  # noqa: S101 - the caller looked it up
    reason = _SCHEDULER_FAILURES[scheduler.phase]
    return Failed(reason, _evidence(scheduler), at=scheduler.ended)


def _grace(seen: Observation, *, was_ready: bool) -> float:
    """Seconds for which the job's own last word may change the scheduler's."""
    phase = seen.scheduler.phase
    if phase is JobPhase.TIMED_OUT:
        return 0.0 if was_ready else LAST_WORDS_GRACE_S
    if phase in (JobPhase.NODE_FAILED, JobPhase.PREEMPTED):
        return REQUEUE_GRACE_S if seen.requeueable else 0.0
    return SHORT_GRACE_S if phase in (JobPhase.FAILED, JobPhase.DONE) else 0.0


def _evidence(scheduler: SchedulerView) -> str:
    name = scheduler.raw or (scheduler.phase.name if scheduler.phase else "nothing")
    where = f" on {scheduler.nodes}" if scheduler.nodes else ""
    code = f", exit code {scheduler.exit_code}" if scheduler.exit_code else ""
    return f"the scheduler says {name}{where}{code}"


def _activity_of(state: JobState, activity: Activity | None) -> Activity | None:
    """What the job saw since it was ready last; both times are by the node's clock."""
    ready = state.phases.get("ready", state.since)
    if activity is None or activity.checked < ready - _FIRST_LOOK_S:
        return None
    return activity


def _ready(state: JobState, seen: Observation) -> Verdict:
    """The job calls itself ready: it must have proved it, and its engine must still answer."""
    activity = _activity_of(state, seen.activity)
    last_seen = _last_seen(state, seen)
    if state.proof != "image" and (seen.vision or state.proof != "text"):
        return Unknown("the job calls itself ready, but names no answer that proves it", *last_seen)
    if state.port is None and state.socket is None:
        return Unknown("the job calls itself ready, but names no address", *last_seen)
    if activity is not None and activity.checked - activity.answered > ANSWER_S:
        return Waiting("unresponsive", activity.answered, "the engine does not answer")
    age = seen.activity_age if activity is not None else seen.state_age
    if age is not None and age > STALE_S:
        return Unknown(f"the job has not looked at its engine for {age:.0f} s", *last_seen)
    ends = seen.scheduler.ends or state.ends
    return Ready(state.host, state.port, state.since, ends, state.socket)


def _detail(state: JobState) -> str:
    if state.phase == "restarting":
        times = state.engine_restarts
        return f"{state.host}, for the {times}. time" if times else state.host
    return state.host
