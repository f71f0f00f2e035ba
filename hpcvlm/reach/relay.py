"""A port here that passes every connection on to the engine that the name means at that moment."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from hpcvlm.reach.model import LOOPBACK
from hpcvlm.reach.ways import Way

_CHUNK = 1 << 16
# While nobody answers, a request is taken in and refused in HTTP, so that clients try again.
_REFUSING_S = 30.0
_RETRY_AFTER_S = 2
_LINGER_S = 2.0
_MOMENT_S = 0.01


class Relay:
    """Listens on loopback.

    Args:
        pick: gives the way for a new connection, or None when there is none now; it may wait.
        failed: told of a way on which no connection could be made.
        why: says in a few words why there is no way.
    """

    def __init__(
        self,
        pick: Callable[[], Awaitable[Way | None]],
        failed: Callable[[Way], None],
        why: Callable[[], str],
    ) -> None:
        self._pick = pick
        self._failed = failed
        self._why = why
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> int:
        """Begin to listen; gives the port.

        Raises:
            OSError: the port cannot be had.
        """
        self._server = await asyncio.start_server(self._serve, LOOPBACK, port, limit=_CHUNK)
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def close(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(_MOMENT_S)  # one that was just taken gets its task
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(_MOMENT_S)  # asyncio lets go of a closed socket a turn later

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in one
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled only by `close`; asyncio of Python 3.11 logs that as an error if it is let out.
        with suppress(OSError, asyncio.CancelledError):
            try:
                await self._pass_on(reader, writer)
            finally:
                writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = await self._pick()
        if way is None:
            await _refuse(reader, writer, self._why(), taken_in=False)
            return
        way.open_connections += 1
        try:
            passed = await _through(way, reader, writer)
        finally:
            way.open_connections -= 1
        if passed.unanswered:
            self._failed(way)
            await _refuse(reader, writer, self._why(), taken_in=passed.asked > 0)


@dataclass(slots=True)
class _Passed:
    """What went over one connection, in bytes."""

    asked: int = 0
    answered: int = 0
    reached: bool = False
    broken: bool = False

    @property
    def unanswered(self) -> bool:
        """Whether nothing came back, so that the request can still be refused.

        A connection that ssh forwards is always taken: when ssh cannot reach the engine, the
        connection just ends.
        """
        return not self.reached or (self.answered == 0 and self.asked > 0)


async def _through(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Passed:
    """Pass a connection on until one side ends it."""
    passed = _Passed()
    try:
        back, forth = await way.dial()
    except (OSError, TimeoutError):
        return passed
    passed.reached = True
    up = asyncio.create_task(_ask(reader, forth, passed))
    down = asyncio.create_task(_answer(back, writer, passed))
    try:
        await down
        if passed.broken:
            _reset(writer)
        elif passed.answered:
            # A connection that is closed while the client still sends loses the answer.
            await asyncio.wait({up}, timeout=_LINGER_S)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        forth.close()
    return passed


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with an error: a plain end would make half an answer look whole."""
    end = writer.get_extra_info("socket")
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _ask(reader: asyncio.StreamReader, forth: asyncio.StreamWriter, passed: _Passed) -> None:
    """What the client sends; read to its end even when the engine wants no more of it."""
    wanted = True
    try:
        while data := await reader.read(_CHUNK):
            passed.asked += len(data)
            wanted = wanted and await _sent(forth, data)
    except OSError:  # the client has gone: the engine must not go on for nobody
        forth.close()
        return
    with suppress(OSError):
        if wanted and forth.can_write_eof():
            forth.write_eof()


async def _sent(sink: asyncio.StreamWriter, data: bytes) -> bool:
    try:
        sink.write(data)
        await sink.drain()
    except OSError:
        return False
    return True


async def _answer(
    back: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: _Passed
) -> None:
    """What the engine sends."""
    while True:
        try:
            data = await back.read(_CHUNK)
        except OSError:
            passed.broken = passed.answered > 0
            return
        if not data:
            break
        passed.answered += len(data)
        if not await _sent(writer, data):
            return
    if passed.answered and writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: str, *, taken_in: bool
) -> None:
    """Answer 503: OpenAI's clients ask again after the time that the answer names."""
    if not taken_in:
        with suppress(TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REFUSING_S):
                await reader.readuntil(b"\r\n\r\n")
    error = {"message": why, "type": "service_unavailable", "param": None, "code": 503}
    body = json.dumps({"error": error}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {_RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_REFUSING_S):
            await writer.drain()
            writer.write_eof()
            while await reader.read(_CHUNK):
                pass
