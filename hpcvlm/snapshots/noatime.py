"""Opens weights without leaving a trace in their access times.

To look whether a file is whole must not count as its use: `ls` and `prune` go by the access times.
"""

from __future__ import annotations

import os

_NO_TRACE = getattr(os, "O_NOATIME", 0)


def quietly(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file, as an ``opener`` of Python's `open`; where it is another's, as usual.

    Raises:
        OSError: as `os.open`.
    """
    try:
        return os.open(path, flags | _NO_TRACE)
    except PermissionError:  # open(2): O_NOATIME is for a file's owner alone
        return os.open(path, flags)
