"""The only door to other programs: argv lists in, (exit code, stdout, stderr) out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

NOT_FOUND = 127
TIMED_OUT = 124


class Completed(NamedTuple):
    """What a finished program left: its exit code and both streams as text."""

    code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs a program to its end; tests pass their own."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        """Gives the exit code and both streams; never raises for the program's own failure."""
        ...


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = 60.0,
    cwd: str | None = None,
) -> Completed:
    """Run a program without a shell and wait for it.

    Args:
        argv: the program and its arguments.
        env: the whole environment; this process's own when left out.
        timeout_s: seconds after which the program is killed; None waits for ever.
        cwd: the folder to run in.

    Returns:
        The exit code and both streams. As a shell does, 127 says that the program was not found
        and 124 that it was killed after `timeout_s`.
    """
    try:
        done = subprocess.run(
            list(argv),
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            start_new_session=True,  # a Ctrl-C meant for us must not cut sbatch in half
        )
    except (FileNotFoundError, PermissionError) as error:
        return Completed(NOT_FOUND, "", f"{argv[0]}: {os.strerror(error.errno or 0)}")
    except subprocess.TimeoutExpired:
        return Completed(TIMED_OUT, "", f"{argv[0]}: no answer within {timeout_s:g} s")
    return Completed(done.returncode, done.stdout, done.stderr)
