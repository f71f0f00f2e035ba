"""A read-only view of a folder in which every open file has a speed of its own.

So is a store that spreads its files over many servers: one reader gets one server's speed, many get
many.

    python slow_store.py FOLDER MOUNTPOINT BYTES_PER_SECOND     needs mfusepy and libfuse
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import mfusepy


class SlowStore(mfusepy.Operations):
    """The folder's files, each open one at most so fast."""

    use_ns = True

    def __init__(self, folder: str, rate: float) -> None:
        self._folder = folder
        self._rate = rate
        self._free: dict[int, float] = {}
        self._locks: dict[int, threading.Lock] = {}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, object]:  # noqa: ARG002
        """What lstat says."""
        found = os.lstat(self._folder + path)
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
        times = {f"st_{name}time": getattr(found, f"st_{name}time_ns") for name in "amc"}
        return {**{name: getattr(found, name) for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        """Names."""
        return [".", "..", *(entry.name for entry in Path(self._folder + path).iterdir())]

    def readlink(self, path: str) -> str:
        """The text of a link."""
        return str(Path(self._folder + path).readlink())

    def open(self, path: str, flags: int) -> int:  # noqa: ARG002
        """A stream of its own."""
        fh = os.open(self._folder + path, os.O_RDONLY)
        self._locks[fh], self._free[fh] = threading.Lock(), time.monotonic()
        return fh

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """Not before the stream's turn: the reads of one open file follow each other."""
        with self._locks[fh]:
            data = os.pread(fh, size, offset)
            turn = max(self._free[fh], time.monotonic()) + len(data) / self._rate
            self._free[fh] = turn
            time.sleep(max(0.0, turn - time.monotonic()))
        return data

    def release(self, path: str, fh: int) -> int:  # noqa: ARG002
        """The stream's end."""
        os.close(fh)
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(
        SlowStore(sys.argv[1], float(sys.argv[3])),
        sys.argv[2],
        foreground=True,
        ro=True,
        nothreads=False,
    )
