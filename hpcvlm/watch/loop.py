"""Watches one job until there is something final to say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hpcvlm.submit.record import JobRecord
from hpcvlm.system.clock import Clock
from hpcvlm.system.patience import each_in_time
from hpcvlm.watch.activity import Activity
from hpcvlm.watch.latch import keep_verdict
from hpcvlm.watch.model import Ended, Failed, Ready, SchedulerView, Unknown, Verdict
from hpcvlm.watch.observe import observe
from hpcvlm.watch.reading import READ_LIMIT_S, FolderView, file_system_ahead, read_folder
from hpcvlm.watch.scheduler import SchedulerSource
from hpcvlm.watch.state import JobState
from hpcvlm.watch.verdict import follow

# state.json is read often, since it costs one small file; the scheduler is asked seldom, since
# everybody shares it, and ever more seldom while nothing changes.
STATE_EVERY_S = 0.25
SCHEDULER_EVERY_S = 2.0
SCHEDULER_EVERY_MOST_S = 20.0
_MORE_SELDOM = 1.5
# Once the job has said its last word, the scheduler's is what is waited for.
_SCHEDULER_EVERY_ENDED_S = 1.0
# A scheduler that took long to answer is left alone for twice as long.
_REST = 2.0
_JITTER = 0.15
_STUCK_EVERY_S = 15.0
NOT_ASKED_YET = "the scheduler has not answered yet"


@dataclass(frozen=True, slots=True)
class Glance:
    """One look at a job: the verdict and what it was made from.

    Attributes:
        verdict: what is true.
        state: the job's own word; the last one that could be read.
        scheduler: the scheduler's last word.
        activity: what the job saw of its engine last.
        asked_for_s: seconds for which the scheduler has not answered the present question.
        problem: why the job's folder could not be read; empty when it could.
    """

    verdict: Verdict
    state: JobState | None
    scheduler: SchedulerView
    activity: Activity | None = None
    asked_for_s: float = 0.0
    problem: str = ""


def watch(
    record: JobRecord,
    *,
    source: SchedulerSource,
    clock: Clock,
    on_glance: Callable[[Glance], None] = lambda _glance: None,
    queue_timeout_s: float | None = None,
    patient: bool = False,
) -> Glance:
    """Look again and again until the job is ready, failed or ended.

    Args:
        record: the job.
        source: gives the scheduler's view of it.
        clock: time, so that tests need not wait.
        on_glance: called after every look, for progress.
        queue_timeout_s: seconds after which a job that still waits in the queue is given back as
            it is; None waits for ever.
        patient: whether the scheduler is asked, and files are read, in threads, so that progress
            goes on while one of them hangs.

    Returns:
        The last look. Its verdict is Ready, Failed or Ended, or Waiting or Unknown when
        `queue_timeout_s` ran out. Nothing is cancelled.
    """
    watcher = _Watcher(record, source, clock, patient=patient)
    while True:
        glance = watcher.look()
        on_glance(glance)
        if isinstance(glance.verdict, (Ready, Failed, Ended)):
            keep_verdict(Path(record.folder), watcher.record.job_id, glance.verdict, clock.now())
            return glance
        waited = clock.now() - record.submitted
        if glance.state is None and queue_timeout_s is not None and waited > queue_timeout_s:
            return glance
        clock.sleep(STATE_EVERY_S)


class _Watcher:
    """What is remembered from one look to the next."""

    def __init__(
        self, record: JobRecord, source: SchedulerSource, clock: Clock, *, patient: bool
    ) -> None:
        self.record = record
        self._clock, self._patient = clock, patient
        self._folder = _Folder(clock, patient=patient)
        self._slurm = _Asker(source, clock, patient=patient)
        self._gone_since: float | None = None
        self._known_start: float | None = None
        self._known_end = False
        self._ahead: float | None = None
        self._ahead_not_before = float("-inf")
        self._verdict: Verdict | None = None

    def look(self) -> Glance:
        """One look."""
        seen = self._folder.read(self.record)
        news = self._has_news(seen.state)
        if self._slurm.ask(self.record, ended=self._ended(seen.state), news=news):
            # The job may have spoken its last word while the scheduler was asked.
            seen = self._folder.read(self.record)
            self._known_start = seen.state.started if seen.state is not None else None
            self._known_end = self._ended(seen.state)
        self.record = self._slurm.record or self.record
        view, now = self._slurm.view, self._clock.now()
        if not view.over:
            self._gone_since = None
        else:  # the earlier one, also when this machine's clock has been set back
            self._gone_since = now if self._gone_since is None else min(now, self._gone_since)
        self._verdict = self._judge(seen, view, now)
        stale = isinstance(self._verdict, Unknown) and view.answered
        if stale and self._compare_clocks(seen, now):
            self._verdict = self._judge(seen, view, now)
        return Glance(
            self._verdict,
            seen.state,
            view,
            seen.activity,
            self._slurm.asked_for_s(),
            seen.problem,
        )

    def _judge(self, seen: FolderView, view: SchedulerView, now: float) -> Verdict:
        observation = observe(
            self.record, seen, view, now, gone_since=self._gone_since, ahead_s=self._ahead
        )
        return follow(self._verdict or seen.verdict, observation)

    def _compare_clocks(self, seen: FolderView, now: float) -> bool:
        """Ask the file system for its time, where the age of a file may have decided."""
        waits = self._ahead_not_before - _STUCK_EVERY_S <= now < self._ahead_not_before
        if waits or seen.problem or (seen.activity_at is None and seen.state_at is None):
            return False
        self._ahead_not_before = now + _STUCK_EVERY_S
        self._ahead = file_system_ahead(Path(self.record.folder).parent, now)
        return self._ahead is not None

    def _has_news(self, state: JobState | None) -> bool:
        """Whether the job has begun (again) or ended since the scheduler was asked last."""
        if state is None:
            return False
        return state.started != self._known_start or (self._ended(state) and not self._known_end)

    @staticmethod
    def _ended(state: JobState | None) -> bool:
        return state is not None and state.phase == "ended"


class _Folder:
    """Reads the job folder; one that hangs is tried again seldom."""

    def __init__(self, clock: Clock, *, patient: bool) -> None:
        self._clock, self._patient = clock, patient
        self._last, self._not_before = FolderView(), float("-inf")

    def read(self, record: JobRecord) -> FolderView:
        """What it says; what it said last while it hangs."""
        if not self._patient:
            return read_folder(record)
        if self._not_before - _STUCK_EVERY_S <= self._clock.now() < self._not_before:
            return self._last
        found = each_in_time(read_folder, [record], READ_LIMIT_S).get(0)
        if found is None:
            self._not_before = self._clock.now() + _STUCK_EVERY_S
            problem = f"{record.folder} has not answered for {READ_LIMIT_S:g} s"
            found = replace(self._last, problem=problem)
        self._last = found
        return found


class _Asker:
    """Asks the scheduler, ever more seldom while nothing changes."""

    def __init__(self, source: SchedulerSource, clock: Clock, *, patient: bool) -> None:
        self.view = SchedulerView(False, reason=NOT_ASKED_YET)
        self.record: JobRecord | None = None
        self._source, self._clock, self._patient = source, clock, patient
        self._every, self._pause, self._not_before = SCHEDULER_EVERY_S, 0.0, float("-inf")
        self._began: float | None = None
        self._answers: list[tuple[JobRecord, SchedulerView]] = []

    def asked_for_s(self) -> float:
        """Seconds for which the present question has not been answered."""
        return 0.0 if self._began is None else max(0.0, self._clock.now() - self._began)

    def ask(self, record: JobRecord, *, ended: bool, news: bool) -> bool:
        """Ask if it is time; whether there is an answer that was not there before."""
        now = self._clock.now()
        # Not yet, but for a clock that has been set back meanwhile.
        early = self._not_before - self._pause <= now < self._not_before
        if self._began is None and (news or not early):
            self._began = now
            if not (self._patient and self._ask_aside(record)):
                self._question(record)
        if not self._answers:
            return False
        self._take(self._answers.pop(), ended=ended)
        return True

    def _ask_aside(self, record: JobRecord) -> bool:
        """In a thread; whether one can be started."""
        try:
            threading.Thread(target=self._question, args=(record,), daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _question(self, record: JobRecord) -> None:
        known, view = (record, None) if record.job_id else self._source.confirm(record)
        self._answers.append((known, view or self._source.view(known)))

    def _take(self, answer: tuple[JobRecord, SchedulerView], *, ended: bool) -> None:
        now, before = self._clock.now(), self.view
        took = self.asked_for_s()
        self.record, self.view = answer
        self._began = None
        if ended:
            self._every = _SCHEDULER_EVERY_ENDED_S
        elif (self.view.phase, self.view.answered) != (before.phase, before.answered):
            self._every = SCHEDULER_EVERY_S
        else:
            self._every = min(self._every * _MORE_SELDOM, SCHEDULER_EVERY_MOST_S)
        # Many waiters that were started at once must not ask at once for ever.
        pause = self._every * random.uniform(1, 1 + 2 * _JITTER)  # noqa: S311 - no secret
        self._pause = max(pause, _REST * took)
        self._not_before = now + self._pause
