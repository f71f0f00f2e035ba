"""Deletes from a repository of a hub cache in an order that is right wherever it stops.

Everything first moves into ``.hpcvlm/trash/TOKEN/`` of its repository, by renames, which need no
room on the disk and can be undone: refs, then the snapshot's folder, then the blobs that no
snapshot links to any more. Only then is the trash deleted. Whoever finds a trash that was left puts
back what is needed after all (`empty_trash`), so that at no moment a ref names a commit that is
gone for good, or a link a blob.

A blob is moved while its lock is held that huggingface_hub's downloads hold, too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots import shared_blobs
from hpcvlm.snapshots.file_locks import (
    blob_lock,
    file_lock,
    is_downloading,
    locks_folder,
    repository_lock,
)
from hpcvlm.snapshots.manifest import OWN_FOLDER, listing_path, manifest_path
from hpcvlm.snapshots.model import StoredSnapshot
from hpcvlm.snapshots.prune.model import DAY_S, UNREFERENCED, Row
from hpcvlm.snapshots.prune.plan import last_use
from hpcvlm.snapshots.prune.references import Inode
from hpcvlm.snapshots.store import scan_repository

TRASH = "trash"
# huggingface_hub polls a lock every 0.05 s: who waited for one held here has made its link by then.
SETTLE_S = 0.2

_ABSENT = ".no_exist"  # where huggingface_hub notes the files that a commit does not have

Sleep = Callable[[float], None]


class Outcome(NamedTuple):
    """What became of one row.

    Attributes:
        freed: bytes that became free.
        skipped: why nothing, or not everything, was deleted although nothing went wrong.
        problem: what went wrong, with the path.
    """

    row: Row
    freed: int
    skipped: str = ""
    problem: str = ""


def delete(row: Row, protected: Callable[[Row], str], sleep: Sleep = time.sleep) -> Outcome:
    """Delete what a row says, if it is still what it was and nobody needs it.

    Args:
        row: of a plan.
        protected: why a snapshot must stay now, asked right before it goes; empty when it may go.
        sleep: waits for those who had to wait for a lock that was held here.
    """
    try:
        with repository_lock(row.folder) as is_alone:
            if not is_alone:
                return Outcome(row, 0, "a pull or another prune is at work in this repository")
            return _delete(row, protected, sleep)
    except OSError as error:
        if not row.folder.exists():
            return Outcome(row, 0, "it is gone already")
        return Outcome(row, 0, problem=_words(error, row.folder))


def trash_bytes(folder: Path) -> int | None:
    """Bytes in the trash of a repository; None when there is none."""
    trash = _trash(folder)
    if not trash.is_dir():
        return None
    return sum(_size_of(path) for bin_ in trash.iterdir() for path in _counted(bin_))


def links_problem(folder: Path) -> str:
    """Why not all links of a repository can be read; empty when they can."""
    try:
        linked_blobs(folder)
    except OSError as error:
        return f"its links cannot all be read: {_words(error, folder)}"
    return ""


def linked_blobs(folder: Path) -> set[str]:
    """The blobs of a repository that any link of any of its snapshots leads to.

    Raises:
        OSError: not everything can be read, so that the answer would not be whole.
    """
    found = set()
    top = str(folder / "snapshots")
    waiting = [top]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        found.add(Path(entry.path).readlink().name)
                    # A commit may be a link to the folder of another.
                    if entry.is_dir(follow_symlinks=place == top):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue
    return found


def other_names(folder: Path) -> dict[Inode, int]:
    """How many names each file of a repository has, for those that have more than one.

    A blob that is a link leads to huggingface_hub's store of blobs that repositories share
    (huggingface_hub.utils._shared_blobs): its names are the links that this store knows of.
    """
    found: dict[Inode, int] = {}
    for place in (folder / "blobs", folder / "snapshots"):
        for path in _files_below(place):
            with suppress(OSError):
                own = path.lstat()
                if stat.S_ISREG(own.st_mode) and own.st_nlink > 1:
                    found[own.st_dev, own.st_ino] = own.st_nlink
                elif stat.S_ISLNK(own.st_mode) and place.name == "blobs":
                    target = path.stat()
                    found[target.st_dev, target.st_ino] = shared_blobs.names_of(path, folder.parent)
    return found


def _delete(row: Row, protected: Callable[[Row], str], sleep: Sleep) -> Outcome:
    if row.kind == "trash":
        freed, problem = empty_trash(row.folder)
        _remove_empty(row.folder)
        return Outcome(row, freed, problem=problem)
    if row.kind == "incomplete":
        return _delete_incomplete(row)
    if row.kind == "snapshot" and (why := _changed(row) or protected(row)):
        return Outcome(row, 0, why)
    return _through_trash(row, sleep)


def _changed(row: Row) -> str:
    """Why a snapshot is not what it was when it was chosen; empty when it is."""
    now = scan_repository(row.folder)
    snapshot = next((s for s in now.snapshots if s.commit == row.commit), None)
    if snapshot is None:
        return "it is gone already"
    if tuple((file.path, file.link) for file in snapshot.files) != row.files:
        return "its files have changed meanwhile"
    if _snapshot(row).is_symlink():
        return "it is a link to another folder"
    if is_downloading(row.folder):
        return "a download has begun in this repository"
    return _wanted_again(row, snapshot)


def _wanted_again(row: Row, snapshot: StoredSnapshot) -> str:
    """Why the reason for which a snapshot was chosen no longer holds; empty when it does."""
    used = last_use(snapshot)
    if row.last_use is not None and used is not None and used > row.last_use:
        return "it was read meanwhile"
    if row.reason == UNREFERENCED and snapshot.refs:
        return f"{', '.join(snapshot.refs)} points to it meanwhile"
    return ""


def _delete_incomplete(row: Row) -> Outcome:
    freed, left = 0, []
    for name, modified in row.files:
        path = row.folder / "blobs" / name
        with blob_lock(row.folder, name) as is_ours:
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if not is_ours or repr(status.st_mtime) != modified:
                left.append(name)
                continue
            path.unlink()
            freed += status.st_size if status.st_nlink == 1 else 0
    _remove_empty(row.folder)
    return Outcome(row, freed, f"{len(left)} of them are written to now" if left else "")


def _through_trash(row: Row, sleep: Sleep) -> Outcome:
    left: list[str] = []
    problem = ""
    bin_ = _trash(row.folder) / secrets.token_hex(4)
    try:
        bin_.mkdir(parents=True)
        if row.kind == "snapshot":
            _move_snapshot(row, bin_)
        left = _move_blobs(row, bin_)
        sleep(SETTLE_S)
        # A download that found everything in place may have written its ref since.
        if row.kind == "snapshot" and not _snapshot(row).exists():
            _move_refs(row, bin_)
    except OSError as error:
        problem = _words(error, row.folder)
    freed, trouble = empty_trash(row.folder)
    _remove_empty(row.folder)
    held = f"{len(left)} blobs stay: a download holds them" if left else ""
    return Outcome(row, freed, held, problem or trouble)


def _move_snapshot(row: Row, bin_: Path) -> None:
    """Refs, then the folder; what is noted about the commit goes last."""
    _move_refs(row, bin_)
    _move(_snapshot(row), bin_ / "snapshots" / row.commit)
    for path in (manifest_path(row.folder, row.commit), listing_path(row.folder, row.commit)):
        path.unlink(missing_ok=True)
    shutil.rmtree(row.folder / _ABSENT / row.commit, ignore_errors=True)


def _move_refs(row: Row, bin_: Path) -> None:
    refs = row.folder / "refs"
    for path in list(_files_below(refs)):
        if _ref(path) == row.commit:
            _move(path, bin_ / "refs" / path.relative_to(refs))


def _snapshot(row: Row) -> Path:
    return row.folder / "snapshots" / row.commit


def _move_blobs(row: Row, bin_: Path) -> list[str]:
    """Move the row's blobs that nothing links to; gives those that a download holds."""
    if row.kind == "snapshot":
        wanted = {(name, "") for name in _linked_from(row.files)}
    else:
        wanted = set(row.files)
    left = []
    links = _Links(row.folder)
    for name, modified in sorted(wanted):
        path = row.folder / "blobs" / name
        with blob_lock(row.folder, name) as is_ours:
            if not is_ours:
                left.append(name)
            elif name not in links.now() and (not modified or _modified(path) == modified):
                with suppress(FileNotFoundError):
                    _move(path, bin_ / "blobs" / name)
    return left


def _linked_from(files: Iterable[tuple[str, str]]) -> set[str]:
    return {link.rpartition("/")[2] for _, link in files if "/blobs/" in link}


class _Links:
    """The blobs that are linked to, read again when a folder of a snapshot has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: tuple[tuple[str, int], ...] | None = None
        self._names: set[str] = set()

    def now(self) -> set[str]:
        state = tuple(_folder_states(self._folder / "snapshots"))
        if state != self._state:
            self._names = linked_blobs(self._folder)
            self._state = state
        return self._names


def _folder_states(top: Path) -> Iterator[tuple[str, int]]:
    for place, _, _ in os.walk(top):
        with suppress(FileNotFoundError):
            yield place, Path(place).stat().st_mtime_ns


def empty_trash(folder: Path) -> tuple[int, str]:
    """Delete the trash of a repository; what is needed after all goes back to its place first.

    That is a ref whose commit is still there, and a blob that a link leads to: of a deletion that
    stopped half-way, or since a download has linked to a blob while it was moved.

    Returns:
        Bytes that became free, and what went wrong, if anything.
    """
    trash = _trash(folder)
    try:
        bins = sorted(trash.iterdir())
        for bin_ in bins:
            _put_back(folder, bin_)
    except FileNotFoundError:
        return 0, ""
    except OSError as error:
        return 0, _words(error, folder)
    freed = 0
    try:
        for bin_ in bins:
            for path in list(_files_below(bin_, folders_too=True)):
                freed += _unlink(path, folder, bin_)
            bin_.rmdir()
        trash.rmdir()
    except OSError as error:
        return freed, f"left in the trash: {_words(error, folder)}"
    return freed, ""


def _put_back(folder: Path, bin_: Path) -> None:
    refs = bin_ / "refs"
    for path in list(_files_below(refs)):
        place = folder / "refs" / path.relative_to(refs)
        if (folder / "snapshots" / _ref(path)).is_dir() and not place.exists():
            _move(path, place)
    blobs = bin_ / "blobs"
    if blobs.is_dir():
        linked = linked_blobs(folder)
        for path in list(blobs.iterdir()):
            place = folder / "blobs" / path.name
            if path.name in linked and not os.path.lexists(place):
                _move(path, place)


def _unlink(path: Path, folder: Path, bin_: Path) -> int:
    """Delete a file or an empty folder of the trash; gives the bytes that became free."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        path.rmdir()
        return 0
    if stat.S_ISLNK(status.st_mode) and path.parent == bin_ / "blobs":
        # The link is relative to where it was.
        shared = Path(os.path.normpath(folder / "blobs" / path.readlink()))
        path.unlink()
        return shared_blobs.sweep(shared, folder.parent)
    size = _size_of(path) if _is_counted(path, bin_) else 0
    path.unlink()
    return size


def _counted(bin_: Path) -> Iterator[Path]:
    return (path for path in _files_below(bin_) if _is_counted(path, bin_))


def _is_counted(path: Path, bin_: Path) -> bool:
    """Whether the bytes of a file count: those of refs do nowhere."""
    return not path.is_relative_to(bin_ / "refs")


def _remove_empty(folder: Path) -> None:
    """Take away a repository in which nothing is left, with its locks; otherwise nothing."""
    with suppress(OSError):
        if any(any(_files_below(folder / name)) for name in ("blobs", "snapshots", "refs")):
            return
        if is_downloading(folder) or not all(map(_is_stale, _files_below(folder / OWN_FOLDER))):
            return
        for name in (_ABSENT, OWN_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("blobs", "snapshots", "refs"):
            _remove_empty_folders(folder / name)
        folder.rmdir()
        locks = locks_folder(folder)
        for path in list(_files_below(locks)):
            with file_lock(path) as is_ours:
                if is_ours:
                    path.unlink(missing_ok=True)
        locks.rmdir()


def _is_stale(path: Path) -> bool:
    """Whether a note is of a commit that is gone, and not of a download or import that begins."""
    if path.parent.name == "manifests":
        return True
    return path.parent.name == "listings" and time.time() - path.stat().st_mtime > DAY_S


def _remove_empty_folders(top: Path) -> None:
    for place, _, _ in os.walk(top, topdown=False):
        with suppress(FileNotFoundError):
            Path(place).rmdir()


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _files_below(top: Path, *, folders_too: bool = False) -> Iterator[Path]:
    """Files and links below a folder, deepest first; nothing where there is no folder.

    Raises:
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for place, folders, files in os.walk(top, topdown=False, onerror=fail):
        for name in files:
            yield Path(place, name)
        for name in folders:
            path = Path(place, name)
            if folders_too or path.is_symlink():
                yield path


def _ref(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _modified(path: Path) -> str:
    try:
        return repr(path.stat().st_mtime)
    except FileNotFoundError:
        return ""


def _size_of(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


def _trash(folder: Path) -> Path:
    return folder / OWN_FOLDER / TRASH


def _words(error: OSError, folder: Path) -> str:
    return f"{error.filename or folder}: {error.strerror or error}"
