"""Processes of this machine, told apart from later ones that got the same id."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

_STATE_FIELD = 0
_START_FIELD = 19  # starttime is field 22 of proc_pid_stat(5); the first two are cut off here


def exhausted(error: BaseException) -> bool:
    """Whether this error says that no further process or thread can be started.

    Source: fork(2); CPython's _threadmodule.c for the words of the thread's.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.EAGAIN, errno.ENOMEM)
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def start_ticks(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None when there is none.

    A zombie counts as dead. Source: proc_pid_stat(5).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[_STATE_FIELD] in ("Z", "X"):
        return None
    return int(fields[_START_FIELD])


def is_alive(pid: int, started: int | None) -> bool:
    """Whether the very process that started then still runs."""
    ticks = start_ticks(pid)
    return ticks is not None and (started is None or ticks == started)


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_session(pid: int) -> None:
    """SIGKILL every process of the session that `pid` leads."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _session(int(entry.name)) == pid:
            send_signal(int(entry.name), signal.SIGKILL)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
