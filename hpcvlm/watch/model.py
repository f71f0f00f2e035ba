"""What is seen of a job at one moment, and what can be true of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.activity import Activity
from hpcvlm.watch.state import JobState


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """What Slurm, or this machine's process table, says of the job.

    Attributes:
        phase: None when it does not know the job (any more).
        answered: False when it could not be asked; the phase then says nothing.
        raw: its own word for the state.
        reason: why the job is pending, as a sentence; why it could not be asked.
        nodes: that the job has or had, in Slurm's short form.
        expected_start: seconds since the epoch, None when unknown.
        ends: seconds since the epoch at which the time limit is reached, None when unknown.
        exit_code: of the batch script, None when unknown.
        started: seconds since the epoch at which the present run began, None when unknown.
        ended: seconds since the epoch at which it ended, None while it has not, or when unknown.
        time_limit_s: seconds that the job may run, also where that was changed; None when unknown.
        remedy: what to do about a job that no waiting starts; else empty.
        accounts_away: whether the accounts, which would know a job that the controller does not
            know any more, could not be asked; `reason` says why. A site without any has none away.
        cluster: the cluster that must be asked, where that is another one; else empty.
    """

    answered: bool
    phase: JobPhase | None = None
    raw: str = ""
    reason: str = ""
    nodes: str = ""
    expected_start: float | None = None
    ends: float | None = None
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    time_limit_s: float | None = None
    remedy: str = ""
    accounts_away: bool = False
    cluster: str = ""

    @property
    def over(self) -> bool:
        """Whether it answered that the job will never run (again), or that it knows none."""
        return self.answered and (self.phase is None or self.phase.over)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything seen of a job at one moment.

    Attributes:
        now: seconds since the epoch, by the clock of who looks.
        submitted: seconds since the epoch.
        state: the job's own state.json; None when it has written none yet.
        scheduler: what the scheduler says.
        gone_since: when the scheduler was first seen to say that the job is over, or not to know
            it; None while it does not, 0.0 where nobody watched.
        activity: the job's own activity.json; None when it has written none yet.
        state_age: seconds since state.json was replaced, by clocks that are known to agree; None
            when that is not known.
        activity_age: the same of activity.json.
        node_ahead_s: seconds by which the node's clock is ahead of the file system's, where that
            is known; else 0.
        state_broken: whether there is a state.json that cannot be understood.
        vision: whether the model is proved with an image; else a text will do.
        requeueable: whether Slurm may put the job back into its queue.
        job_id: the job's number, where a state.json of another job must not count; else empty.
        submission_confirmed: False while nobody knows whether the scheduler took the job.
    """

    now: float
    submitted: float
    state: JobState | None
    scheduler: SchedulerView
    gone_since: float | None = None
    activity: Activity | None = None
    state_age: float | None = None
    activity_age: float | None = None
    node_ahead_s: float = 0.0
    state_broken: bool = False
    vision: bool = True
    requeueable: bool = False
    job_id: str = ""
    submission_confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not ready (any more), but it may become so, or ends in order.

    Attributes:
        phase: ``queued``, ``suspended``, ``unresponsive``, or one of the job's own phases.
        since: seconds since the epoch at which the phase began.
        detail: a pending reason, a node.
        expected_start: seconds since the epoch at which Slurm expects a queued job to begin.
        remedy: what to do about a job that no waiting starts; else empty.
    """

    phase: str
    since: float
    detail: str = ""
    expected_start: float | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has answered an image, and the job's last look; the scheduler says that it runs.

    Attributes:
        host: the node.
        port: None where it listens on a socket.
        since: seconds since the epoch, by the node's clock.
        ends: seconds since the epoch at which its time is over, None when unknown.
        socket: path of the Unix socket on the node, where it listens on one.
    """

    host: str
    port: int | None
    since: float
    ends: float | None
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not become ready, or is not any more, and nobody wanted that.

    Attributes:
        reason: stable identifier: a reason of state.json, or what the scheduler said.
        evidence: what says so.
        engine_exit: exit code of the engine, None when unknown.
        at: seconds since the epoch at which it was over, None when unknown.
    """

    reason: str
    evidence: str
    engine_exit: int | None = None
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended on purpose: stopped, or in the order that was asked for.

    Attributes:
        how: in a few words.
        reason: stable identifier.
        at: seconds since the epoch at which it was over, None when unknown.
    """

    how: str
    reason: str = field(default="", compare=False)
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing can be said now.

    Attributes:
        why: that is so.
        last_seen: the last phase that was known.
        known_at: seconds since the epoch at which it was known, None when unknown.
    """

    why: str
    last_seen: str
    known_at: float | None = field(default=None, compare=False)


Verdict = Waiting | Ready | Failed | Ended | Unknown
FINAL = (Failed, Ended)
