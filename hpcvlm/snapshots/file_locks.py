"""Who holds a repository of a hub cache, or a blob of it, now: locks as huggingface_hub has them.

huggingface_hub holds ``CACHE/.locks/models--X/BLOB.lock`` with flock while it downloads a blob or
makes a link to it (huggingface_hub.file_download, filelock). The folder of the repository itself is
held by hpcvlm: alone while it deletes there, together with others while it downloads.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKS = ".locks"
INCOMPLETE = ".incomplete"

# Where flock does not work, such as on some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


def locks_folder(folder: Path) -> Path:
    """Where huggingface_hub keeps the locks of a repository."""
    return folder.parent / LOCKS / folder.name


def is_downloading(folder: Path) -> bool:
    """Whether huggingface_hub holds a lock of any blob of a repository."""
    try:
        locks = list(locks_folder(folder).iterdir())
    except OSError:
        return False
    return any(_is_held(lock) for lock in locks if lock.name.endswith(".lock"))


@contextmanager
def repository_lock(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold the folder of a repository; false when another does, and nothing is held then.

    Args:
        folder: ``models--OWNER--NAME``.
        shared: with others who add to it; otherwise alone, to delete.

    Raises:
        OSError: the folder is not there, or cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        yield _is_taken(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


@contextmanager
def blob_lock(folder: Path, name: str) -> Iterator[bool]:
    """Hold huggingface_hub's lock of a blob; false when a download does.

    An unfinished download is named after its blob, with a part that is random in newer versions.
    """
    etag = name.removesuffix(INCOMPLETE).split(".")[0] if name.endswith(INCOMPLETE) else name
    path = locks_folder(folder) / f"{etag}.lock"
    with file_lock(path, create=path.parent.is_dir()) as is_ours:
        yield is_ours


@contextmanager
def file_lock(path: Path, *, create: bool = False) -> Iterator[bool]:
    """Hold a lock file; true also where there is none, and none can be made."""
    try:
        descriptor = _open(path, create=create)
    except FileNotFoundError:
        yield True  # where no download was, none is
        return
    try:
        yield _is_taken(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        with file_lock(path) as is_ours:
            return not is_ours
    except OSError:
        return False  # not readable: it tells nothing


def _open(path: Path, *, create: bool) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        if not create:
            raise
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for flock on local disks
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    except OSError as error:
        # The disk is full, or the locks are another's: nobody holds what is not there.
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None


def _is_taken(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
