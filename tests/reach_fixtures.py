"""Engines in this process and a cluster that says what it is told to, for tests of the relay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach.follow import Event, Follower, Links
from hpcvlm.reach.model import Kind, Route, Sighting, Where
from hpcvlm.reach.ways import Way

MODEL = "tiny-vlm"


def where(job_id: str = "1", **over: Any) -> Where:
    """An endpoint on a node."""
    values: dict[str, Any] = {
        "name": "mine",
        "job_id": job_id,
        "model": MODEL,
        "executor": "slurm",
        "listen": "node",
        "host": "node07",
        "port": 8000,
        "socket": None,
        "key_file": "/state/jobs/mine/key",
    }
    return Where(**{**values, **over})


Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Serving:
    """Connections of a test's own server: all of them are to be closed when the test ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def watched(self, serve: Served) -> Served:
        """The same, remembered until its connection is closed."""

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with suppress(OSError):
                    await serve(reader, writer)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
                self._tasks.discard(task)

        return served

    async def over(self) -> None:
        """Wait until every connection is closed."""
        await asyncio.sleep(0.05)  # one that was just taken gets its task
        for task in list(self._tasks):
            await asyncio.wait({task}, timeout=5)


@dataclass
class Engine:
    """A server that answers each connection once, as the tests of HTTP want it."""

    name: str
    key: str = "k3y"
    health: int = 200
    model: str = MODEL
    asked: list[str] = field(default_factory=list)
    answer_after: asyncio.Event | None = None
    port: int = 0
    _server: asyncio.Server | None = None
    _serving: Serving = field(default_factory=Serving)

    async def start(self) -> Engine:
        """Listen on a free port of loopback."""
        serve = self._serving.watched(self._serve)
        self._server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the port."""
        assert self._server is not None
        self._server.close()
        await self._serving.over()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        path = head.split()[1]
        self.asked.append(path)
        status, body = self._body(path, f"Bearer {self.key}" in head)
        if path == "/slow" and self.answer_after is not None:
            await self.answer_after.wait()
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + text)
        await writer.drain()
        writer.close()

    def _body(self, path: str, knows_key: bool) -> tuple[int, object]:
        if path == "/health":
            return self.health, {}
        if not knows_key:
            return 401, {}
        return 200, {"data": [{"id": self.model}], "by": self.name}


@dataclass
class Told:
    """A cluster that says what it is told to say."""

    seen: Sighting | HpcvlmError
    the_key: str = "k3y"
    looks: int = 0
    once: Sighting | None = None

    async def look(self) -> Sighting:
        """What was set last; `once` is said a single time."""
        self.looks += 1
        if self.once is not None:
            said, self.once = self.once, None
            return said
        if isinstance(self.seen, HpcvlmError):
            raise self.seen
        return self.seen

    async def key(self, where: Where) -> str:
        """The key that was set last."""
        return self.the_key


class Breakable(Way):
    """A direct way that is lost, and cannot be opened, when a test says so."""

    def __init__(self, where: Where, route: Route) -> None:
        super().__init__(where, route)
        self.opened = 0
        self.closed = False
        self.refuses: list[HpcvlmError] = []
        self.broken: asyncio.Queue[str] = asyncio.Queue()

    async def open(self) -> None:
        """Count, and refuse as often as was asked for."""
        self.opened += 1
        if self.refuses:
            raise self.refuses.pop(0)

    async def lost(self) -> str:
        """Wait for the test."""
        return await self.broken.get()

    async def close(self) -> None:
        """Remember."""
        self.closed = True


@dataclass
class Scene:
    """A follower among these."""

    cluster: Told
    events: list[Event] = field(default_factory=list)
    ways: list[Breakable] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def follower(self, poll_s: float = 0.02) -> Follower:
        """A follower that looks often."""
        return Follower(
            Links(self.cluster, self.make, self.events.append, self.learn), poll_s=poll_s
        )

    def make(self, at: Where) -> Way:
        """A way to a port of this machine."""
        way = Breakable(at, Route(Kind.TCP, f"127.0.0.1:{at.port}"))
        self.ways.append(way)
        return way

    async def learn(self, _where: Where, key: str) -> None:
        """Remember."""
        self.keys.append(key)

    def kinds(self) -> list[str]:
        """What was told."""
        return [event.kind for event in self.events]


async def until(done: Callable[[], object], patience_s: float = 20.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(patience_s):
        while not done():
            await asyncio.sleep(0.005)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test that is a coroutine; a task that it leaves behind fails it."""

    async def all_of_it() -> None:
        async with asyncio.timeout(60):
            await work()
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in left:
            # What serves a connection that was closed ends by itself.
            await asyncio.wait({task}, timeout=5)
        assert not [t for t in left if not t.done()]
        await asyncio.sleep(0.01)  # transports close one turn later

    asyncio.run(all_of_it())


def sockets_of(folder: Path) -> list[str]:
    """Names of the sockets in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_socket())
