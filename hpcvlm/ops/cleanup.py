"""Takes away what hpcvlm has left of jobs that are over: says what, then does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.cleanup_files import (
    TRASH,
    Seen,
    delete,
    is_clock,
    is_template,
    look_at,
    made_for_a_job,
    made_for_a_session,
    made_here,
    throw_away,
)
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import Row as Look
from hpcvlm.ops.endpoints import describe, look
from hpcvlm.ops.usage_book import note_use, use_of
from hpcvlm.slurm.time import parse_duration
from hpcvlm.snapshots.file_locks import file_lock
from hpcvlm.submit.folders import DRAFTS
from hpcvlm.submit.record import JobRecord, read_record
from hpcvlm.system.files import PRIVATE_FILE
from hpcvlm.watch.latch import VERDICT_NAME, read_verdict
from hpcvlm.watch.state import read_state
from hpcvlm.watch.verdict import Ended, Failed, Unknown

# Whatever is written in one step is written in seconds; nobody comes back to it after a day.
_DEAD_S = 86_400.0
_ASIDE = "ended"
# Slurm here knows no such job: that it is over is likely, but not proved.
_UNPROVED = ("vanished", "not-submitted")
_NO_LAST_WORD = "it said no last word and Slurm here does not know its job; --forgotten takes it"
_LOCK = ".cleanup.lock"

Known = Callable[[str, os.stat_result], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is to go.

    Attributes:
        kind: ``job``, ``earlier job`` (put aside when its name was used again), ``draft`` (never
            submitted), ``session`` (of `hpcvlm connect`), ``leftover`` (half-written),
            ``template`` or ``trash``.
        name: of the endpoint, or of the file.
        why: in words.
        since: seconds since the epoch since when it is of no use.
        record: of the job, None for anything else.
    """

    kind: str
    name: str
    seen: Seen
    why: str
    since: float
    record: JobRecord | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that stays although it might be thought to go."""

    name: str
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class CleanupPlan:
    """What goes and what stays.

    Attributes:
        rows: what goes.
        kept: what stays, and why.
        running: jobs that are not over.
        younger: jobs that are over for less than was asked for.
    """

    rows: tuple[Row, ...]
    kept: tuple[Kept, ...]
    running: int
    younger: int

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(row.seen.size for row in self.rows)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Attributes:
        skipped: why it stays although nothing went wrong.
        problem: what went wrong.
    """

    row: Row
    skipped: str = ""
    problem: str = ""

    @property
    def freed(self) -> int:
        """Bytes that became free."""
        return 0 if self.skipped or self.problem else self.row.seen.size


def parse_age(text: str) -> float:
    """``7d``, ``12h`` or ``0`` in seconds.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    return 0.0 if text.strip() in ("0", "0d", "0h") else float(parse_duration(text, "--older-than"))


def plan_cleanup(older_than_s: float, ctx: Context, *, forgotten: bool = False) -> CleanupPlan:
    """What would go; nothing is deleted. Slurm calls as for `hpcvlm.ops.endpoints.look`.

    A job goes when its verdict is final, never while it is unknown.

    Args:
        older_than_s: seconds for which a job must be over.
        ctx: the outside.
        forgotten: whether jobs go that said no last word and that Slurm does not know (any more).
            Where clusters share a home folder, that may be another cluster's Slurm.
    """
    return _Planner(older_than_s, ctx, forgotten=forgotten).plan()


def execute(plan: CleanupPlan, ctx: Context) -> Iterator[Outcome]:
    """Take away what a plan says, row by row; what fails does not stop the rest.

    Each row goes when its outcome is asked for, if it is still what it was.

    Raises:
        HpcvlmError: ``cleanup-busy`` when another cleanup is at work.
    """
    lock = ctx.settings.state / _LOCK
    with suppress(OSError):
        lock.touch(PRIVATE_FILE)
    with file_lock(lock) as is_ours:
        if not is_ours:
            raise HpcvlmError(
                "cleanup-busy",
                f"another hpcvlm cleanup is at work in {ctx.settings.state}",
                "try again when it is done",
            )
        for row in plan.rows:
            yield _remove(row, ctx)
        with suppress(OSError):
            (ctx.settings.state / TRASH).rmdir()


def _remove(row: Row, ctx: Context) -> Outcome:
    try:
        if row.kind == "trash":
            delete(row.seen.path)
            return Outcome(row)
        if row.record is not None:
            row.seen.path.lstat()
            if read_record(row.seen.path) != row.record:
                return Outcome(row, skipped="it has changed meanwhile")
            if row.kind != "draft":
                # Twice in the book is once in a sum; not at all would be lost.
                note_use(ctx.settings.state, use_of(row.record, row.seen.path))
        if row.kind == "session" and _is_held(row.seen.path / "lock"):
            return Outcome(row, skipped="a connect has begun there")
        return Outcome(row, skipped=throw_away(row.seen, ctx.settings.state, _known(row.kind)))
    except FileNotFoundError:
        if not os.path.lexists(row.seen.path):
            return Outcome(row, skipped="it is gone already")
        raise
    except OSError as error:
        return Outcome(row, problem=f"{error.filename or row.seen.path}: {error.strerror}")


def _known(kind: str) -> Known:
    if kind == "session":
        return made_for_a_session
    return made_for_a_job if kind in ("job", "earlier job", "draft") else _anything


def _is_held(lock: Path) -> bool:
    with file_lock(lock) as is_ours:
        return not is_ours


def _anything(_name: str, _status: os.stat_result) -> bool:
    return True


class _Planner:
    """Looks through the state folder once."""

    def __init__(self, older_than_s: float, ctx: Context, *, forgotten: bool) -> None:
        self._older_than_s = older_than_s
        self._forgotten = forgotten
        self._ctx = ctx
        self._state = ctx.settings.state
        self._now = ctx.clock.now()
        self._rows: list[Row] = []
        self._kept: list[Kept] = []
        self._running = self._younger = 0

    def plan(self) -> CleanupPlan:
        self._trash()
        self._jobs()
        self._put_aside()
        self._drafts()
        self._sessions()
        self._templates()
        rows = sorted(self._rows, key=lambda row: (row.since, row.name))
        return CleanupPlan(tuple(rows), tuple(self._kept), self._running, self._younger)

    def _trash(self) -> None:
        for path in _entries(self._state / TRASH):
            why = "left by a cleanup that was stopped"
            self._add("trash", path, why, self._now, known=made_here)

    def _jobs(self) -> None:
        found: list[tuple[Path, JobRecord]] = []
        for path in _entries(self._ctx.settings.jobs):
            if is_clock(path.name):
                if self._is_dead(path):
                    self._add("leftover", path, "half-written", self._now, known=_anything)
                continue
            record = self._record(path)
            if record is not None:
                found.append((path, replace(record, folder=str(path))))
        looks = look([record for _, record in found], self._ctx)
        alive = {seen.record.shown_name for seen in looks if not seen.is_over}
        for (path, record), seen in zip(found, looks, strict=True):
            self._job(path, record, seen, has_others=record.shown_name in alive)

    def _record(self, path: Path) -> JobRecord | None:
        """The record in a folder; without one the folder stays, and is named."""
        record = None if path.is_symlink() else read_record(path)
        if record is None:
            why = "it has no readable record.json, so whether its job is over is not known"
            if path.is_symlink():
                why = "it is a link"
            elif not path.is_dir():
                why = "hpcvlm did not make it"
            self._kept.append(Kept(path.name, path, why))
        return record

    def _put_aside(self) -> None:
        """Jobs whose name was used again, which needs a final verdict; it was written down."""
        for path in _entries(self._aside):
            record = self._record(path)
            if record is None:
                continue
            verdict = read_verdict(path, record.job_id) or _own_word(path)
            if verdict is None and self._forgotten:
                verdict = Ended("forgotten")
            if verdict is None:
                self._kept.append(Kept(path.name, path, _NO_LAST_WORD))
                continue
            self._over("earlier job", path, record, verdict)

    @property
    def _aside(self) -> Path:
        return self._state / _ASIDE

    def _job(self, path: Path, record: JobRecord, seen: Look, *, has_others: bool) -> None:
        verdict = seen.verdict
        if isinstance(verdict, Unknown):
            self._kept.append(Kept(path.name, path, f"whether it is over is {describe(verdict)}"))
        elif not isinstance(verdict, (Ended, Failed)):
            self._running += 1
        elif isinstance(verdict, Failed) and verdict.reason in _UNPROVED and not self._forgotten:
            self._kept.append(Kept(path.name, path, _NO_LAST_WORD))
        elif has_others:
            why = f"another job of {record.shown_name} is not over"
            self._kept.append(Kept(path.name, path, why))
        else:
            self._over("job", path, record, verdict)

    def _over(self, kind: str, path: Path, record: JobRecord, verdict: Ended | Failed) -> None:
        since = _over_since(path, record, verdict)
        if self._now - since < self._older_than_s:
            self._younger += 1
            return
        why = describe(verdict)
        self._add(kind, path, why, since, known=made_for_a_job, record=record)

    def _drafts(self) -> None:
        """Folders that were being made when hpcvlm was killed; no job was submitted from them."""
        for path in _entries(self._state / DRAFTS):
            if self._is_dead(path):
                record = read_record(path)
                why = "never submitted"
                self._add("draft", path, why, self._now, known=made_for_a_job, record=record)

    def _sessions(self) -> None:
        """What `hpcvlm connect` left when it was killed; one that runs holds its lock."""
        for path in _entries(self._state / "connect"):
            if self._is_dead(path) and not _is_held(path / "lock"):
                why = "left by a connect that was killed"
                self._add("session", path, why, self._now, known=made_for_a_session)

    def _templates(self) -> None:
        for path in _entries(self._state / "cache" / "templates"):
            if is_template(path.name) and self._age(path) >= max(self._older_than_s, _DEAD_S):
                why = "a compiled template, made again when it is needed"
                self._add("template", path, why, self._now, known=_anything)

    def _is_dead(self, path: Path) -> bool:
        return self._age(path) >= _DEAD_S

    def _age(self, path: Path) -> float:
        try:
            return self._now - path.lstat().st_mtime
        except OSError:
            return 0.0

    def _add(
        self,
        kind: str,
        path: Path,
        why: str,
        since: float,
        *,
        known: Known,
        record: JobRecord | None = None,
    ) -> None:
        try:
            seen = look_at(path, known)
        except FileNotFoundError:
            return
        except OSError as error:
            self._kept.append(Kept(path.name, path, f"it cannot be read: {error.strerror}"))
            return
        if seen.problem:
            self._kept.append(Kept(path.name, path, seen.problem))
            return
        self._rows.append(Row(kind, path.name, seen, why, since, record))


def _own_word(path: Path) -> Ended | None:
    state = read_state(path)
    if state is None or state.phase != "ended":
        return None
    return Ended(state.reason, state.reason, state.since)


def _over_since(path: Path, record: JobRecord, verdict: Ended | Failed) -> float:
    """When a job ended: as the verdict says, else the last write to any of its files."""
    if verdict.at is not None:
        return verdict.at
    # What a look at the job may have written says nothing.
    files = [file for file in _entries(path) if file.name != VERDICT_NAME]
    return max((file.lstat().st_mtime for file in files), default=record.submitted)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder of the state; nothing where it is none, or a link to somewhere else."""
    if folder.is_symlink():
        return []
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
