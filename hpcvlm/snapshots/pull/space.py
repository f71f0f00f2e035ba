"""Whether a store can take what is to come: asked of the file system before the first byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError

# Beside the files themselves: listing, manifest, refs, and what others write meanwhile.
_MARGIN_PART = 0.01
_LEAST_MARGIN = 4_000_000
_MORE_INODES = 20
_INODES_PER_FILE = 3  # blob, link, lock


class Room(NamedTuple):
    """What a file system has for this user.

    Attributes:
        free: bytes; a quota counts where the file system shows it so (XFS projects, Lustre).
        inodes: files and folders that can still be made; None where there is no such limit.
    """

    free: int
    inodes: int | None


def room_at(folder: Path) -> Room:
    """What the file system of a folder has, or of the nearest that exists around it."""
    found = os.statvfs(existing(folder))
    # Some file systems, such as Btrfs, make inodes as they need them and say 0 of 0.
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def existing(folder: Path) -> Path:
    """A folder, or the nearest around it that exists."""
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


def wanted_bytes(size: int) -> int:
    """Bytes that must be free for files of this size, with a margin of 1 percent."""
    return size + max(_LEAST_MARGIN, int(size * _MARGIN_PART)) if size else 0


def check_room(cache: Path, size: int, files: int) -> None:
    """Refuse what would not fit.

    Args:
        cache: the hub cache.
        size: bytes that are still to come.
        files: how many.

    Raises:
        HpcvlmError: ``store-space``, ``store-inodes``.
    """
    room, wanted = room_at(cache), wanted_bytes(size)
    if wanted > room.free:
        raise HpcvlmError(
            "store-space",
            f"{cache}: {wanted:,} bytes are needed, {room.free:,} are free",
            "hpcvlm snapshots prune makes room; --to CACHE names another place",
        )
    inodes = files * _INODES_PER_FILE + _MORE_INODES if files else 0
    if room.inodes is not None and inodes > room.inodes:
        raise HpcvlmError(
            "store-inodes",
            f"{cache}: {inodes:,} files and folders are needed, the file system has room for "
            f"{room.inodes:,} more",
            "hpcvlm snapshots prune makes room; --to CACHE names another place",
        )


def check_writable(cache: Path, repository: Path, commit: str) -> None:
    """Refuse a store that this user may not write to, or that is mounted read-only.

    Raises:
        HpcvlmError: ``store-unwritable``, naming the folder and its owner.
    """
    lock_folder = cache / ".locks" / repository.name
    below = ("blobs", "refs", ".hpcvlm", "snapshots", f"snapshots/{commit}")
    places = [existing(repository), *(repository / name for name in below), lock_folder]
    for place in dict.fromkeys([existing(cache), *places]):
        if place.exists():
            _check(place)


def _check(place: Path) -> None:
    if not place.is_dir():
        raise HpcvlmError(
            "store-unwritable", f"{place} is no folder", "name another cache: --to FOLDER"
        )
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        raise HpcvlmError(
            "store-unwritable",
            f"{place}: the file system is mounted read-only here",
            "pull on a machine that may write to it, or name another cache: --to FOLDER",
        )
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        owner = _owner(place)
        raise HpcvlmError(
            "store-unwritable",
            f"{place}: you may not write there; it belongs to {owner}",
            f"have {owner} pull it, or name a cache of yours: --to FOLDER",
        )


def _owner(place: Path) -> str:
    try:
        return place.owner()
    except (KeyError, OSError):
        return "somebody whom this machine does not know"
