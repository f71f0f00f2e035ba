"""Unfinished downloads: whose they are, and which a later one goes on from.

One is named ``HASH.HOST-PID.incomplete``, beside the blobs: huggingface_hub's own unfinished ones
end so, too, and whoever cleans a cache knows them by that. Process 0 is nobody: whoever wrote it
has given it up, and may still run.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hpcvlm.snapshots.model import ListedFile
from hpcvlm.system.processes import is_alive

_INCOMPLETE = ".incomplete"
_NOBODY = 0
# The kernel frees a lock a moment before the process that held it is gone.
_DYING_S = 0.5
# Of another machine nobody can ask whether it still writes.
_STALE_S = 120.0


def kept_bytes(blobs: Path, wanted: ListedFile) -> int:
    """Bytes of a blob that an earlier download has left and that the next one goes on from."""
    found = _left_over(blobs, wanted)
    return found[0].stat().st_size if found else 0


def own_partial(blobs: Path, wanted: ListedFile, file_mode: int | None) -> Path:
    """This process's unfinished file; what a dead one left becomes its beginning.

    Its name says who writes it. One rename makes it ours, which only one process can do.
    """
    own = _partial(blobs, wanted, os.getpid())
    _await_the_dying(blobs, wanted)
    for left in _left_over(blobs, wanted)[:1]:
        if not own.exists():
            with suppress(OSError):
                left.rename(own)
    clear_partials(blobs, wanted, own)
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    mode = 0o666 if file_mode is None else file_mode
    descriptor = os.open(own, flags, mode)
    try:
        if file_mode is not None:
            os.fchmod(descriptor, file_mode)
    finally:
        os.close(descriptor)
    return own


def give_up(blobs: Path, wanted: ListedFile) -> None:
    """Leave this process's unfinished file to the next; only for who still holds the blob's lock.

    Whoever waits for the lock goes on from it at once, before this process has ended.
    """
    with suppress(OSError):
        _partial(blobs, wanted, os.getpid()).rename(_partial(blobs, wanted, _NOBODY))


def _await_the_dying(blobs: Path, wanted: ListedFile) -> None:
    """Whoever had the lock before may be about to end; only that of this machine can be known."""
    until = time.monotonic() + _DYING_S
    while time.monotonic() < until and any(map(_is_written_here, _partials(blobs, wanted))):
        time.sleep(_DYING_S / 25)


def _is_written_here(path: Path) -> bool:
    host, process = _writer(path)
    return host == socket.gethostname() and not _is_gone(process)


def _partial(blobs: Path, wanted: ListedFile, process: int) -> Path:
    return blobs / f"{wanted.hub_hash}.{socket.gethostname()}-{process}{_INCOMPLETE}"


def _left_over(blobs: Path, wanted: ListedFile) -> list[Path]:
    """Unfinished files of a blob to go on from, the largest first."""
    found = [
        (status.st_size, path)
        for path, status in _dead(blobs, wanted)
        # One with holes was written in any order, by Xet.
        if 0 < status.st_size <= min(wanted.size, status.st_blocks * 512)
    ]
    return [path for _, path in sorted(found, reverse=True)]


def clear_partials(blobs: Path, wanted: ListedFile, own: Path | None = None) -> None:
    """Remove the unfinished files of a blob that nobody will go on from."""
    for path, _ in _dead(blobs, wanted):
        if path != own:
            with suppress(OSError):
                path.unlink()


def _dead(blobs: Path, wanted: ListedFile) -> Iterator[tuple[Path, os.stat_result]]:
    """Unfinished files of a blob that nobody writes any more.

    Only whoever holds the blob's lock may take one. Where locks do not work, as on file systems
    mounted without them, the name or the age tells.
    """
    for path in _partials(blobs, wanted):
        with suppress(OSError):
            status = path.stat()
            if status.st_uid == os.geteuid() and _is_dead(path, status):
                yield path, status


def _partials(blobs: Path, wanted: ListedFile) -> list[Path]:
    return list(blobs.glob(f"{wanted.hub_hash}.*{_INCOMPLETE}"))


def _is_dead(path: Path, status: os.stat_result) -> bool:
    host, process = _writer(path)
    if host == socket.gethostname():
        return _is_gone(process)
    return time.time() - status.st_mtime > _STALE_S


def _writer(path: Path) -> tuple[str, int]:
    """Machine and process that a file's name tells; no machine for one of huggingface_hub's."""
    owner = path.name.removesuffix(_INCOMPLETE).partition(".")[2]
    host, _, process = owner.rpartition("-")
    return (host, int(process)) if process.isdigit() else ("", _NOBODY)


def _is_gone(process: int) -> bool:
    return process in {_NOBODY, os.getpid()} or not is_alive(process, None)
