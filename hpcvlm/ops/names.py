"""Makes a name free for another launch when its last jobs are over; their folders are kept."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.plan.chain import GENERATION_MARK
from hpcvlm.submit.record import JobRecord, read_record

_GONE = {errno.ENOENT}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


def make_way(folder: Path, name: str, ctx: Context) -> None:
    """Let a name be used again when all jobs of its last launch are over.

    Args:
        folder: job folder of the first job of that name.
        name: of the endpoint.
        ctx: the outside.

    Raises:
        HpcvlmError: ``name-taken`` when one of them is not over, or when another launch was faster.
    """
    for place, record in refuse_taken(folder, name, ctx):
        _put_aside(place, record, name)


def refuse_taken(folder: Path, name: str, ctx: Context) -> list[tuple[Path, JobRecord]]:
    """The jobs of a name's last launch, all of them over, with their folders; changes nothing.

    Args:
        folder: job folder of the first job of that name.
        name: of the endpoint.
        ctx: the outside.

    Raises:
        HpcvlmError: ``name-taken`` when one of them is not over.
    """
    folders = family(folder)
    if not folders:
        return []
    from hpcvlm.ops.endpoints import look
    from hpcvlm.watch.verdict import Ended, Failed

    known = [(place, record) for place in folders if (record := read_record(place)) is not None]
    rows = look([record for _, record in known], ctx)
    over = all(isinstance(row.verdict, (Failed, Ended)) for row in rows)
    if len(known) < len(folders) or not over:
        raise _taken(name)
    return known


def family(folder: Path) -> list[Path]:
    """The folders of all generations of an endpoint that are there."""
    later = folder.parent.glob(f"{folder.name}{GENERATION_MARK}*")
    return [place for place in (folder, *sorted(later)) if place.exists()]


def _put_aside(place: Path, record: JobRecord, name: str) -> None:
    """Move one folder away, in one step and to a place that belongs to this very job.

    Of two launches that found the job over, the slower one may come when the faster one's fresh
    folder stands there already. It then tries to move that to where the old one lies by now, and
    rename(2) replaces no folder that has something in it.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(record.submitted))
    thousandths = int(record.submitted * 1000) % 1000
    old = place.parent.parent / "ended"
    try:
        old.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unmovable(place, old, error) from None
    try:
        place.rename(old / f"{place.name}.{stamp}.{thousandths:03}-{record.job_id or 'none'}")
    except OSError as error:
        if error.errno in _TAKEN:
            raise _taken(name) from None
        if error.errno not in _GONE:
            raise _unmovable(place, old, error) from None


def _unmovable(place: Path, old: Path, error: OSError) -> HpcvlmError:
    return HpcvlmError(
        "state-unwritable",
        f"cannot move {place} to {old}: {error.strerror}",
        "set HPCVLM_STATE to a folder that login and compute nodes share",
    )


def _taken(name: str) -> HpcvlmError:
    return HpcvlmError(
        "name-taken",
        f"there is an endpoint called {name!r} already",
        f"hpcvlm status {name}, hpcvlm stop {name}, or choose another --name",
    )
