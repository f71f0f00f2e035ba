"""Watches one job until there is something final to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.clock import Clock
from hpcvlm.watch.scheduler import SchedulerSource
from hpcvlm.watch.state import JobState, read_state
from hpcvlm.watch.verdict import (
    Ended,
    Failed,
    Observation,
    Ready,
    SchedulerView,
    Verdict,
    decide,
)

# state.json is read often, since it costs one small file; the scheduler is asked seldom, since
# everybody shares it.
STATE_EVERY_S = 0.25
SCHEDULER_EVERY_S = 2.0
SCHEDULER_EVERY_RUNNING_S = 5.0


@dataclass(frozen=True, slots=True)
class Glance:
    """One look at a job: the verdict and what it was made from."""

    verdict: Verdict
    state: JobState | None
    scheduler: SchedulerView


def watch(
    record: JobRecord,
    *,
    source: SchedulerSource,
    clock: Clock,
    on_glance: Callable[[Glance], None] = lambda _glance: None,
    queue_timeout_s: float | None = None,
) -> Glance:
    """Look again and again until the job is ready, failed or ended.

    Args:
        record: the job.
        source: gives the scheduler's view of it.
        clock: time, so that tests need not wait.
        on_glance: called after every look, for progress.
        queue_timeout_s: seconds after which a job that still waits in the queue is given back as
            it is; None waits for ever.

    Returns:
        The last look. Its verdict is Ready, Failed or Ended, or Waiting or Unknown when
        `queue_timeout_s` ran out. Nothing is cancelled.
    """
    folder = Path(record.folder)
    view = SchedulerView(answered=False)
    asked_at, gone_since = float("-inf"), None
    known_start: float | None = None
    while True:
        state = read_state(folder)
        now = clock.now()
        if now - asked_at >= _patience(state, view) or _has_news(state, known_start):
            view, asked_at = source.view(record), clock.now()
            known_start = state.started if state is not None else None
            # The job may have spoken its last word while the scheduler was asked.
            state = read_state(folder)
        gone = view.answered and view.phase is None
        gone_since = (gone_since if gone_since is not None else now) if gone else None
        verdict = decide(Observation(now, record.submitted, state, view, gone_since))
        glance = Glance(verdict, state, view)
        on_glance(glance)
        if isinstance(verdict, (Ready, Failed, Ended)):
            return glance
        waited = now - record.submitted
        if state is None and queue_timeout_s is not None and waited > queue_timeout_s:
            return glance
        clock.sleep(STATE_EVERY_S)


def _patience(state: JobState | None, view: SchedulerView) -> float:
    """Seconds between two questions to the scheduler."""
    waits = state is None or view.phase is JobPhase.PENDING
    return SCHEDULER_EVERY_S if waits else SCHEDULER_EVERY_RUNNING_S


def _has_news(state: JobState | None, known_start: float | None) -> bool:
    """Whether the job has begun (again) or ended since the scheduler was asked last."""
    return state is not None and (state.started != known_start or state.phase == "ended")
