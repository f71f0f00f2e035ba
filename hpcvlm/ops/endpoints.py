"""Looking at endpoints and waiting for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.endpoints.endpoint import Endpoint, make_endpoint
from hpcvlm.endpoints.registry import (
    Unreadable,
    find_endpoint,
    generations,
    read_jobs,
    the_one_meant,
)
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.stop import stop
from hpcvlm.plan.chain import START_FAILURES
from hpcvlm.submit.record import JobRecord
from hpcvlm.watch.latch import keep_verdict
from hpcvlm.watch.loop import Glance, watch
from hpcvlm.watch.model import FINAL, Ended, Failed, Ready, SchedulerView, Verdict
from hpcvlm.watch.observe import Clocks, clocks, observe, overdue
from hpcvlm.watch.reading import (
    FolderView,
    age,
    file_system_ahead,
    read_folder,
    read_folders,
)
from hpcvlm.watch.scheduler import LiveSource, confirm, views
from hpcvlm.watch.sentences import FAILURES, describe, late_start
from hpcvlm.watch.verdict import follow

if TYPE_CHECKING:
    from hpcvlm.diagnosis.model import Diagnosis

__all__ = [
    "FAILURES",
    "Overview",
    "Row",
    "describe",
    "explain",
    "fails_for_good",
    "listing",
    "look",
    "overview",
    "ready_endpoint",
    "require_ready",
    "status",
    "stop",
    "successors_left",
    "took_over",
    "wait",
]

_OVER = SchedulerView(True, None)
# Clocks further apart than this are told of.
_CLOCKS_APART_S = 60.0
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One job as `ls` and `status` show it.

    Attributes:
        record: what was submitted.
        glance: what was seen, and what is true.
        now: this machine's clock when it was looked at, in seconds since the epoch.
        folder: what its folder said.
        ahead_s: seconds by which the clock of its file system is ahead of this machine's; None
            where nobody has compared them.
        generations: all jobs of its endpoint, oldest first, where they were looked at together.
    """

    record: JobRecord
    glance: Glance
    now: float = 0.0
    folder: FolderView = field(default_factory=FolderView)
    ahead_s: float | None = None
    generations: tuple[Row, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What is true of it."""
        return self.glance.verdict

    @property
    def is_over(self) -> bool:
        """Whether it will never be ready (again)."""
        return isinstance(self.verdict, FINAL)

    @property
    def endpoint(self) -> Endpoint | None:
        """How to reach it; None unless it is ready."""
        verdict = self.verdict
        if not isinstance(verdict, Ready):
            return None
        return make_endpoint(
            self.record, verdict.host, verdict.port, verdict.ends, socket=verdict.socket
        )

    @property
    def ends(self) -> float | None:
        """When its time is over, in seconds since the epoch; None when unknown, or when it is."""
        if self.is_over:
            return None
        state = self.glance.state
        if self.glance.scheduler.ends or state is None:
            return self.glance.scheduler.ends
        # Not every Slurm tells its jobs when they end; 22.05 does not.
        return state.ends or state.started + self.record.time_limit_s

    @property
    def last_url(self) -> str:
        """Where it answered when it was ready last; empty where that was never seen."""
        state = self.glance.state
        if state is None or state.phase != "ready" or self.is_over:
            return ""
        return make_endpoint(
            self.record, state.host, state.port, None, socket=state.socket
        ).base_url

    @property
    def clocks(self) -> Clocks:
        """How long it waited in the queue, started and ran."""
        return clocks(self.record.submitted, self.glance.state, self.glance.scheduler, self.now)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of the job's present run; what earlier runs took stands in Slurm's accounts."""
        running = self.clocks.running_s
        count = re.search(r"(\d+)$", self.record.gpus)
        return (running or 0.0) * int(count[1] if count else 0) / _HOUR_S

    @property
    def idle_for_s(self) -> float | None:
        """Seconds without a request when the job looked last; None when it is not ready."""
        activity = self.glance.activity
        if activity is None or not isinstance(self.verdict, Ready):
            return None
        return max(0.0, activity.checked - activity.active)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a reader should know: a late start, clocks that differ, a broken folder."""
        notes = [self.glance.problem] if self.glance.problem else []
        if self._is_late():
            notes.append(late_start(self.record.start_timeout_s, self.record.name))
        node = self.folder.node_ahead_s
        if node is not None and abs(node) > _CLOCKS_APART_S and not self.is_over:
            notes.append(f"the node's clock is {_off(node)}")
        if self.ahead_s is not None and abs(self.ahead_s) > _CLOCKS_APART_S:
            notes.append(f"this machine's clock is {_off(-self.ahead_s)}")
        return tuple(notes)

    def _is_late(self) -> bool:
        """Whether its start takes too long, where that can be said whatever clocks are off."""
        state, since = self.glance.state, age(self.folder.state_at, self.now, self.ahead_s)
        if state is None or since is None or self.ahead_s is None:
            return False
        starting_s = state.since - state.started + since
        return overdue(self.record, self.verdict, state, starting_s)


@dataclass(frozen=True, slots=True)
class Overview:
    """Every endpoint, one row each.

    Attributes:
        rows: what each name means, oldest first; its generations are in it.
        unreadable: job folders whose record cannot be read.
        problem: why the folders could not be listed; empty when they could.
    """

    rows: tuple[Row, ...]
    unreadable: tuple[Unreadable, ...] = ()
    problem: str = ""


def look(records: Sequence[JobRecord], ctx: Context) -> list[Row]:
    """One look at each job, with at most two Slurm calls in all.

    Lost submissions cost two more, and jobs that may be another cluster's one more.
    """
    folders = read_folders(records)
    confirmed, unconfirmed = confirm(_blind(records, folders), ctx.runner)
    numbered = {record.name: record for record in confirmed}
    records = [numbered.get(record.name, record) for record in records]
    seen = unconfirmed | views(
        [r for r in records if r.job_id and not _has_ended(r, folders[r.name])], ctx.runner
    )
    ahead = _ahead(records, folders, ctx)
    return [
        _row(record, folders[record.name], seen.get(record.name, _OVER), ctx, ahead)
        for record in records
    ]


def _blind(records: Sequence[JobRecord], folders: Mapping[str, FolderView]) -> list[JobRecord]:
    return [r for r in records if not r.job_id and folders[r.name].verdict is None]


def _has_ended(record: JobRecord, folder: FolderView) -> bool:
    """Whether the job's own last word is enough; on a long list it is for most."""
    if folder.verdict is not None:
        return True
    state = folder.state
    told = state is not None and state.phase == "ended" and state.reason != "stopped"
    return told and not record.requeue


def _ahead(
    records: Sequence[JobRecord], folders: Mapping[str, FolderView], ctx: Context
) -> float | None:
    """How far the file system's clock is ahead; asked only where the age of a file counts."""
    for record in records:
        folder = folders[record.name]
        if folder.verdict is None and folder.state_at is not None and not folder.problem:
            return file_system_ahead(Path(record.folder).parent, ctx.clock.now())
    return None


def _row(
    record: JobRecord,
    folder: FolderView,
    view: SchedulerView,
    ctx: Context,
    ahead: float | None,
) -> Row:
    ended = folder.state is not None and folder.state.phase == "ended"
    if view.over and not ended and folder.verdict is None and not folder.problem:
        # The job may have spoken its last word while the scheduler was asked.
        folder = read_folder(record)
    now = ctx.clock.now()
    observation = observe(record, folder, view, now, ahead_s=ahead)
    verdict = follow(folder.verdict, observation)
    if folder.verdict is None:
        keep_verdict(Path(record.folder), record.job_id, verdict, now)
    glance = Glance(verdict, folder.state, view, folder.activity, problem=folder.problem)
    return Row(record, glance, now, folder, ahead)


def listing(ctx: Context) -> list[Row]:
    """Every job that was ever submitted and not cleaned up, oldest first."""
    return look(read_jobs(ctx.settings.jobs).records, ctx)


def overview(ctx: Context) -> Overview:
    """Every endpoint that was ever launched and not cleaned up, oldest first."""
    found = read_jobs(ctx.settings.jobs)
    rows = {row.record.name: row for row in look(found.records, ctx)}
    groups = generations(found.records).values()
    return Overview(
        tuple(_meant([rows[record.name] for record in group]) for group in groups),
        found.unreadable,
        found.problem,
    )


def status(name: str, ctx: Context) -> Row:
    """One endpoint by name, unique prefix or job id: the job that its name means now.

    Raises:
        HpcvlmError: as `find_endpoint`.
    """
    return _meant(look(find_endpoint(ctx.settings.jobs, name), ctx))


def _meant(rows: Sequence[Row]) -> Row:
    meant = the_one_meant(
        rows,
        lambda row: isinstance(row.verdict, Ready),
        lambda row: row.is_over,
        lambda row: row.glance.state is not None and not row.glance.state.was_passed_over,
    )
    return replace(meant, generations=tuple(rows))


def ready_endpoint(name: str, ctx: Context) -> tuple[JobRecord, Endpoint]:
    """An endpoint that is ready.

    Raises:
        HpcvlmError: ``endpoint-not-ready`` with what it is instead.
    """
    row = status(name, ctx)
    return row.record, require_ready(row)


def require_ready(row: Row) -> Endpoint:
    """How to reach an endpoint.

    Raises:
        HpcvlmError: ``endpoint-not-ready`` with what it is instead.
    """
    endpoint = row.endpoint
    if endpoint is None:
        shown = row.record.shown_name
        over = row.is_over
        raise HpcvlmError(
            "endpoint-not-ready",
            f"{shown} is not ready: {describe(row.verdict)}",
            f"hpcvlm why {shown}" if over else f"hpcvlm wait {shown}",
            row.notes,
        )
    return endpoint


def wait(
    record: JobRecord,
    ctx: Context,
    *,
    on_glance: Callable[[Glance], None] = lambda _glance: None,
    queue_timeout_s: float | None = None,
) -> Row:
    """Watch one job until it is ready, failed or ended (or the queue took too long)."""
    glance = watch(
        record,
        source=LiveSource(ctx.runner),
        clock=ctx.clock,
        on_glance=on_glance,
        queue_timeout_s=queue_timeout_s,
        patient=True,
    )
    return Row(record, glance, ctx.clock.now())


def took_over(row: Row, ctx: Context) -> JobRecord | None:
    """The job to which one that is over has handed its endpoint; None when there is none."""
    if not isinstance(row.verdict, Ended) or row.verdict.reason != "handed-over":
        return None
    return next(iter(_later(row, ctx)), None)


def successors_left(row: Row, ctx: Context) -> list[Row]:
    """The later jobs of the same endpoint that are not over."""
    later = _later(row, ctx)
    return [job for job in look(later, ctx) if not job.is_over] if later else []


def fails_for_good(row: Row) -> bool:
    """Whether the first job of an endpoint failed in a way in which its successors would, too.

    They end themselves when they begin, as the job script's `look_back` says.
    """
    state = row.glance.state
    return (
        isinstance(row.verdict, Failed)
        and row.verdict.reason in START_FAILURES
        and row.record.generation == 1
        and state is not None
        and state.restarts == 0
        and "ready" not in state.phases
    )


def _later(row: Row, ctx: Context) -> list[JobRecord]:
    try:
        jobs = find_endpoint(ctx.settings.jobs, row.record.shown_name)
    except HpcvlmError:
        return []
    return [job for job in jobs if job.generation > row.record.generation]


def explain(row: Row) -> Diagnosis:
    """Why a job failed, ended or waits, from its verdict, its logs and Slurm's accounts."""
    from hpcvlm.ops.why import diagnose_row

    return diagnose_row(row)


def _off(seconds: float) -> str:
    minutes = abs(seconds) / 60
    amount = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"  # noqa: PLR2004
    return f"{amount} {'ahead' if seconds > 0 else 'behind'}"
