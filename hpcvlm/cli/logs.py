"""hpcvlm logs: what the job and its engine wrote, and what happened to them."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.cli.output import duration, note, paint
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.submit.record import JobRecord

_EVERY_S = 0.5
# A job that dies without a last word is noticed by asking Slurm, which everybody shares.
_ASK_EVERY_S = 15.0
_FILES = ("job.out", "job.err", "engine.out", "engine.err")
_EVENTS = "events.log"


class Tail:
    """The growing files of one job folder."""

    def __init__(self, folder: Path) -> None:
        self._offsets = {folder / name: 0 for name in (*_FILES, _EVENTS)}

    @property
    def has_events(self) -> bool:
        """Whether the job tells what happens to it."""
        return any(path.name == _EVENTS and offset for path, offset in self._offsets.items())

    def print_new(self) -> None:
        """Print what has been written since the last time."""
        for path, offset in self._offsets.items():
            chunk, self._offsets[path] = _read_from(path, offset)
            if chunk:
                text = chunk.decode("utf-8", errors="replace")
                sys.stdout.write(_marked(text) if path.name == _EVENTS else text)
                sys.stdout.flush()


def _read_from(path: Path, offset: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            # A restarted engine begins a new log.
            stream.seek(offset if size >= offset else 0)
            chunk = stream.read()
            if path.name == _EVENTS:
                chunk = chunk[: chunk.rfind(b"\n") + 1]
            return chunk, (offset if size >= offset else 0) + len(chunk)
    except OSError:
        return b"", offset


def _marked(events: str) -> str:
    """Each event as a line that no log has."""
    lines = []
    for line in events.splitlines():
        when, _, what = line.partition(" ")
        name, _, text = what.partition(" ")
        lines.append(f"== {when} {name}: {text} ==\n" if text else f"== {when} {name} ==\n")
    return "".join(lines)


def show(name: str, ctx: Context, *, follow: bool) -> None:
    """Print the logs of one endpoint; with `follow` until it is over.

    Raises:
        HpcvlmError: as `find_record`; ``folder-gone`` when the job folder was deleted meanwhile.
    """
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.endpoints import took_over

    record = find_record(ctx.settings.jobs, name)
    while True:
        tail = Tail(Path(record.folder))
        tail.print_new()
        if not follow:
            return
        last = _follow(record, tail, ctx)
        after = took_over(last, ctx)
        if after is None:
            _say_end(last, ctx)
            return
        note(paint(f"== {record.name} has handed over to {after.name} ==", "bold"))
        record = after


def _follow(record: JobRecord, tail: Tail, ctx: Context) -> Row:
    """Print until the job is over; the last look at it."""
    from hpcvlm.ops.endpoints import look
    from hpcvlm.watch.expiry import Expiry
    from hpcvlm.watch.state import read_state

    expiry, ends, said = Expiry(record.time_limit_s), None, ""
    asked = ctx.clock.now()
    pause = random.uniform(0.5, 1.0) * _ASK_EVERY_S  # noqa: S311 - no secret
    while True:
        if not Path(record.folder).is_dir():
            raise HpcvlmError(
                "folder-gone",
                f"the job folder {record.folder} was deleted; job {record.job_id} may still run",
                f"scancel {record.job_id}",
            )
        state, now = read_state(Path(record.folder)), ctx.clock.now()
        ended = state is not None and state.phase == "ended"
        if ended or now - asked > pause:
            row = look([record], ctx)[0]
            tail.print_new()
            if row.is_over:
                return row
            asked, pause = now, 1.0 if ended else _ASK_EVERY_S
            ends = row.ends
            said = _say_unknown(row, said)
        if not tail.has_events and (remaining := expiry.due(ends, now)) is not None:
            note(f"{paint('note:', 'yellow')} {record.name} ends in {duration(remaining)}")
        ctx.clock.sleep(_EVERY_S)
        tail.print_new()


def _say_unknown(row: Row, said: str) -> str:
    """Say once that nothing is known, and once that it is known again."""
    from hpcvlm.watch.verdict import Unknown

    why = row.verdict.why if isinstance(row.verdict, Unknown) else ""
    if bool(why) != bool(said):
        name = row.record.name
        note(f"== {name}: {why} ==" if why else f"== {name}: its state is known again ==")
    return why


def _say_end(row: Row, ctx: Context) -> None:
    from hpcvlm.ops.endpoints import describe, status

    note(paint(f"== {row.record.name} is over: {describe(row.verdict)} ==", "bold"))
    shown = row.record.shown_name
    try:
        now = status(shown, ctx)
    except HpcvlmError:
        return
    if not now.is_over and now.record.generation > row.record.generation:
        goes_on = f"{shown} goes on as {now.record.name}, {describe(now.verdict)}"
        note(f"{goes_on}: hpcvlm logs --follow {shown}")
