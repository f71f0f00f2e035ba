"""Hashes files in parallel: every byte is read once, and memory does not grow with the files.

hashlib and `readinto` release Python's lock, so that threads use all cores. A SHA-256 cannot be
split, so one file keeps one core busy; the largest begin first.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots.noatime import quietly

_CHUNK = 1024 * 1024
_LOOK_S = 0.2  # between two looks at the progress
_SHA1_DIGITS = 40


class ToHash(NamedTuple):
    """A file to be hashed.

    Attributes:
        path: of the file.
        size: bytes, as it was seen.
        git: whether the SHA-1 of the Git blob is wanted too.
        inode: device and inode; files that share one are read once.
    """

    path: Path | str
    size: int
    git: bool = False
    inode: tuple[int, int] = (0, 0)


class Hashed(NamedTuple):
    """The hashes of a file.

    Attributes:
        sha256: of its content; empty when it could not be read.
        git_sha1: of the Git blob; empty unless it was asked for.
        error: why it could not be read whole.
    """

    sha256: str
    git_sha1: str = ""
    error: str = ""

    def like(self, hub_hash: str) -> str:
        """The one that compares with a hash of the hub."""
        return self.git_sha1 if len(hub_hash) == _SHA1_DIGITS else self.sha256


OnBytes = Callable[[int, int], None]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def hash_files(
    files: Sequence[ToHash], on_bytes: OnBytes | None = None, threads: int | None = None
) -> list[Hashed]:
    """Hash files, each once.

    Args:
        files: in any order; the answers have the same.
        on_bytes: called from this thread, several times a second, with the bytes and the files
            read so far.
        threads: one for each core when None.

    Raises:
        KeyboardInterrupt: as it came; the threads have ended by then.
    """
    order = sorted(range(len(files)), key=lambda number: -files[number].size)
    work = _Work(files, order)
    workers = min(threads or cores(), max(1, len(files)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hash")
    try:
        # One task a thread, and not one a file: thousands of small files are usual.
        pending: set[Future[None]] = {pool.submit(work.go_on) for _ in range(workers)}
        while pending:
            done, pending = wait(pending, timeout=_LOOK_S)
            for future in done:
                future.result()
            if on_bytes is not None:
                on_bytes(work.read, work.finished)
    finally:
        work.stopped = True
        pool.shutdown(wait=True, cancel_futures=True)
    return work.answers


class _Work:
    """What the threads share."""

    def __init__(self, files: Sequence[ToHash], order: Sequence[int]) -> None:
        self.answers: list[Hashed] = [Hashed("")] * len(files)
        self.stopped = False
        self.read = 0
        self.finished = 0
        self._files = files
        self._next = iter(order)
        self._lock = threading.Lock()

    def go_on(self) -> None:
        """Hash one file after the other until none is left."""
        view = memoryview(bytearray(_CHUNK))
        while not self.stopped:
            with self._lock:
                number = next(self._next, None)
            if number is None:
                return
            self.answers[number] = self._hash_one(self._files[number], view)
            with self._lock:
                self.finished += 1

    def _hash_one(self, file: ToHash, view: memoryview) -> Hashed:
        try:
            descriptor = quietly(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return Hashed("", error=error.strerror or str(error))
        try:
            return self._hash(descriptor, view, git=file.git)
        except OSError as error:
            return Hashed("", error=error.strerror or str(error))
        finally:
            os.close(descriptor)

    def _hash(self, descriptor: int, view: memoryview, *, git: bool) -> Hashed:
        before = os.fstat(descriptor)
        if before.st_size > _CHUNK:
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        sha256 = hashlib.sha256()
        # The SHA-1 of a Git blob has its length in front:
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        sha1 = hashlib.sha1(b"blob %d\0" % before.st_size, usedforsecurity=False)
        left = before.st_size
        while left > 0 and (count := os.readv(descriptor, (view,))):
            if self.stopped:
                return Hashed("", error="interrupted")
            part = view[:count]
            sha256.update(part)
            if git:
                sha1.update(part)
            left -= count
            with self._lock:
                self.read += count
        after = os.fstat(descriptor)
        if left or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return Hashed("", error="it changed while it was read")
        return Hashed(sha256.hexdigest(), sha1.hexdigest() if git else "")
