"""Processes of ssh that end with us, however we end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_STOP_GRACE_S = 3.0
_WORDS_KEPT = 12
# The pipe on descriptor 3 is ours: it closes when we end, be it by SIGKILL, and so the command
# ends. Its own input is empty; a password is asked for at the terminal. Ctrl-C ends us first.
_TIED = """\
trap '' INT
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ read -r _ <&3; kill "$child"; } 2>/dev/null >&2 &
watcher=$!
exec 3<&-
wait "$child"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a finished command left."""

    code: int
    stdout: str
    stderr: str


class Tied:
    """A process whose life is tied to ours, and the last lines that it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._words: deque[str] = deque(maxlen=_WORDS_KEPT)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, argv: Sequence[str], *, at_terminal: bool = False) -> Tied:
        """Start a command.

        Args:
            argv: the command.
            at_terminal: whether it may use our terminal; else Ctrl-C there does not reach it.

        Raises:
            OSError: it cannot be started.
        """
        nowhere = asyncio.subprocess.DEVNULL
        return cls(await _tied(argv, stdout=nowhere, own_session=not at_terminal))

    @property
    def words(self) -> tuple[str, ...]:
        """The last lines of its error stream."""
        return tuple(self._words)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Wait for its end; its words are complete then."""
        code = await self._process.wait()
        # Something that it has started may hold the stream open.
        await asyncio.wait({self._reading}, timeout=_STOP_GRACE_S)
        return code

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        await _end(self._process)
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - it is a pipe
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line without an end
                continue
            if not line:
                return
            if text := line.decode("utf-8", errors="replace").strip():
                self._words.append(text)


async def run(argv: Sequence[str], timeout_s: float) -> Said:
    """Run a command to its end; exit code 124 when that took too long.

    Raises:
        OSError: it cannot be started.
    """
    process = await _tied(argv, stdout=asyncio.subprocess.PIPE, own_session=True)
    assert process.stdout is not None  # noqa: S101 - they are pipes
    assert process.stderr is not None  # noqa: S101
    try:
        async with asyncio.timeout(timeout_s):
            # Not communicate(), which would close the pipe that the process lives by.
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            code = await process.wait()
    except TimeoutError:
        return Said(124, "", f"no answer within {timeout_s:g} s")
    finally:
        await _end(process)
    return Said(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


async def _tied(
    argv: Sequence[str], *, stdout: int, own_session: bool
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", _TIED, "sh", *argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=own_session,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        # Not wait_for(): before Python 3.12 it forgets a cancellation that comes at the end.
        async with asyncio.timeout(_STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
