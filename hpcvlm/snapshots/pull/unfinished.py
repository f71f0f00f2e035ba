"""Unfinished downloads: whose they are, and which a later one goes on from.

One is named ``HASH.HOST-PID.incomplete``, beside the blobs: huggingface_hub's own unfinished ones
end so, too, and whoever cleans a cache knows them by that.
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
    name = f"{wanted.hub_hash}.{socket.gethostname()}-{os.getpid()}{_INCOMPLETE}"
    own = blobs / name
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
    for path in list(blobs.glob(f"{wanted.hub_hash}.*{_INCOMPLETE}")):
        with suppress(OSError):
            status = path.stat()
            if status.st_uid == os.geteuid() and _is_dead(path, status):
                yield path, status


def _is_dead(path: Path, status: os.stat_result) -> bool:
    owner = path.name.removesuffix(_INCOMPLETE).partition(".")[2]
    host, _, pid = owner.rpartition("-")
    if host == socket.gethostname() and pid.isdigit():
        return int(pid) == os.getpid() or not is_alive(int(pid), None)
    return time.time() - status.st_mtime > _STALE_S
