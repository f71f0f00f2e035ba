"""Runs what lasts: a build with its log, a command that asks its questions on the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hpcvlm.system.interrupts import deferred_interrupts

_POLL_S = 0.2
# A build that is told to stop removes what it has unpacked.
_STOP_S = 60.0
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all become KeyboardInterrupt in here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # held back wherever Ctrl-C is
            signal.raise_signal(signal.SIGINT)
            return
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_logged(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], on_tick: Callable[[], None]
) -> int:
    """Run a program to its end with both streams in a file.

    Args:
        argv: the program and its arguments.
        log: where it writes; it is made anew.
        environment: all of it.
        on_tick: called now and then while it runs.

    Returns:
        The exit code, negative for a signal.

    Raises:
        KeyboardInterrupt: after the program and its children were told to stop and have ended.
        OSError: the log cannot be written, or there is no such program.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(argv),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                on_tick()
                time.sleep(_POLL_S)
        except BaseException:
            with deferred_interrupts():
                _stop(process)
            raise
    return process.returncode


def run_in_terminal(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command that may ask for a passphrase; what it prints goes to stderr.

    Returns:
        Its exit code; 127 where there is no such program.
    """
    try:
        done = subprocess.run(list(argv), env=dict(environment), stdout=2, check=False)
    except OSError:
        return 127
    return done.returncode


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
