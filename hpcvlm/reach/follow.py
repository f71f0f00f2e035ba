"""Follows a name: keeps a way to the job that it means, and moves to its successor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach import check
from hpcvlm.reach.model import Sighting, Where
from hpcvlm.reach.ways import Way

_POLL_UNREADY_S = 5.0
_LEAST_PAUSE_S = 1.0
# How long a connection waits for a way before it is refused.
HOLD_S = 5.0
# Every so often the key is tried, too: it may have been changed.
_KEY_EVERY = 6
WARNINGS_S = (1800.0, 600.0)
_LONGEST_RETRY_S = 30.0
# For what still runs on a way that has been moved from; as long as a job drains.
_RETIRE_S = 600.0
_RETIRE_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Event:
    """Something that whoever is connected should know.

    Attributes:
        kind: ``waiting``, ``up``, ``moved``, ``down``, ``back``, ``expiring``, ``unsure`` or
            ``over``.
    """

    kind: str
    text: str
    details: tuple[str, ...] = ()


class Cluster(Protocol):
    """Where the name is looked up."""

    async def look(self) -> Sighting:
        """What the name means now.

        Raises:
            HpcvlmError: it cannot be asked.
        """
        ...

    async def key(self, where: Where) -> str:
        """The key of an endpoint.

        Raises:
            HpcvlmError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Links:
    """What following a name needs.

    Attributes:
        make: a way to where the job listens, not opened yet.
        tell: told of each event.
        on_key: told of the key when it is first known and when it has changed.
    """

    cluster: Cluster
    make: Callable[[Where], Way]
    tell: Callable[[Event], None]
    on_key: Callable[[Where, str], Awaitable[None]]


class Follower:
    """Keeps `current` to a way that works.

    Args:
        links: the outside.
        poll_s: seconds between two looks at the name.
    """

    def __init__(self, links: Links, *, poll_s: float) -> None:
        self._links = links
        self._poll_s = poll_s
        self._current: Way | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._poke = asyncio.Event()
        self._changed = asyncio.Event()
        self._described = "not ready"
        self._key: str | None = None
        self._said: str | None = None
        self._unwell = ""
        self._over_seen = False
        self._looks = 0
        self._warned: set[tuple[str, float]] = set()
        self._first_look = True
        self.first_up = asyncio.Event()

    @property
    def current(self) -> Way | None:
        """The way for new connections; None while there is none."""
        return self._current

    def why(self) -> str:
        """Why there is no way, for those who ask for one."""
        return f"the endpoint cannot be reached now: {self._described}; try again"

    def poke(self, _way: Way | None = None) -> None:
        """Look again soon, since a connection failed."""
        self._poke.set()

    async def pick(self) -> Way | None:
        """The way for a new connection; waits a little for one that is being made."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                while True:
                    way = self._current
                    if way is not None and way.up.is_set():
                        return way
                    self._changed.clear()
                    await self._changed.wait()
        return None

    async def run(self) -> Sighting:
        """Follow the name until its endpoint is over for good.

        Raises:
            HpcvlmError: at the beginning: what is wrong with the name or with the way to it.
                Later the same is told, and tried again.
        """
        while True:
            seen = await self._look()
            if seen is not None and await self._act_on(seen):
                return seen
            await self._look_after()
            self._warn()
            await self._pause()

    async def close(self) -> None:
        """End every way."""
        tasks = [*self._retiring, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._current is not None:
            await self._current.close()

    async def _look(self) -> Sighting | None:
        self._looks += 1
        try:
            return await self._links.cluster.look()
        except HpcvlmError as error:
            if not self.first_up.is_set() and self._looks == 1:
                raise
            self._say_once("unsure", f"the state of the endpoint is not known: {error.sentence}")
            return None

    async def _act_on(self, seen: Sighting) -> bool:
        """Move where the name has moved; True when the endpoint is over, seen twice."""
        if seen.over:
            certain, self._over_seen = self._over_seen, True
            self.poke()
            self._described = seen.described
            return certain or not self.first_up.is_set()
        self._over_seen = False
        if seen.where is None:
            self._described = seen.described
            if self._current is None:
                self._say_once("waiting", f"the endpoint is not ready yet: {seen.described}")
            elif self._current.up.is_set() and await check.answers(self._current):
                self._links.tell(
                    Event("down", f"the endpoint is not ready any more: {seen.described}")
                )
                self._leave()
        elif self._current is None or self._current.where.address != seen.where.address:
            await self._move(seen.where)
        else:
            self._current.where = seen.where  # its end may have been moved
        return False

    async def _move(self, where: Where) -> None:
        """Open the new way, prove it, and only then send new connections there."""
        way = None
        try:
            way = self._links.make(where)
            await way.open()
            await self._prove(way)
        except HpcvlmError as error:
            if way is not None:
                await way.close()
            if not self.first_up.is_set():
                raise
            self._described = error.sentence
            self._say_once("unsure", error.sentence, (*error.details, error.remedy))
            return
        except BaseException:
            if way is not None:
                await way.close()
            raise
        moved = self._current is not None
        self._leave()
        self._current, self._said, self._unwell = way, None, ""
        way.up.set()
        self._changed.set()
        self._keeper = asyncio.create_task(self._keep(way))
        self._links.tell(Event("moved" if moved else "up", _place(where)))
        self.first_up.set()

    async def _prove(self, way: Way) -> None:
        key = self._key
        if key is None:
            key = await self._learn_key(way.where)
        try:
            await check.prove(way, key)
        except HpcvlmError as error:
            if error.code != "key-refused":
                raise
            await check.prove(way, await self._learn_key(way.where))

    async def _learn_key(self, where: Where) -> str:
        key = await self._links.cluster.key(where)
        if key != self._key:
            self._key = key
            await self._links.on_key(where, key)
        return key

    async def _look_after(self) -> None:
        """See whether the current way still leads to an engine that answers."""
        way = self._current
        if way is None or not way.up.is_set():
            return
        wrong = await check.answers(way)
        if not way.up.is_set():
            return  # it was lost meanwhile, which is told by its keeper
        if wrong and not self._unwell:
            self._described = f"it does not answer ({wrong})"
            self._links.tell(Event("down", f"{way.where.name} does not answer: {wrong}"))
        elif self._unwell and not wrong:
            self._links.tell(Event("back", f"{way.where.name} answers again"))
        self._unwell = wrong
        if not wrong and self._looks % _KEY_EVERY == 0:
            with suppress(HpcvlmError):
                await self._prove(way)

    async def _keep(self, way: Way) -> None:
        """Take a way again whenever it is lost, with longer and longer pauses."""
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

        while True:
            reason = await way.lost()
            way.up.clear()
            self._described = reason
            self._said = None
            self._links.tell(Event("down", f"connection lost: {reason}; trying again"))
            started = time.monotonic()
            self.poke()
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(HpcvlmError),
                wait=wait_random_exponential(multiplier=_LEAST_PAUSE_S, max=_LONGEST_RETRY_S),
                before_sleep=lambda state: self._tell_trouble(
                    state.outcome.exception() if state.outcome else None
                ),
            )
            async for attempt in retrying:
                with attempt:
                    await way.open()
            way.up.set()
            self._changed.set()
            away = time.monotonic() - started
            self._links.tell(Event("back", f"connected again after {away:.0f} s"))

    def _tell_trouble(self, error: BaseException | None) -> None:
        if isinstance(error, HpcvlmError):
            self._described = error.sentence
            self._say_once("unsure", error.sentence, (*error.details, error.remedy))

    def _leave(self) -> None:
        """Send no more connections to the current way; those that it has may finish."""
        way, keeper = self._current, self._keeper
        self._current = self._keeper = None
        if keeper is not None:
            keeper.cancel()
        if way is not None:
            task = asyncio.create_task(_retire(way))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _say_once(self, kind: str, text: str, details: tuple[str, ...] = ()) -> None:
        if text != self._said:
            self._said = text
            self._links.tell(Event(kind, text, tuple(line for line in details if line)))

    def _warn(self) -> None:
        way = self._current
        ends = None if way is None else way.where.ends
        if way is None or ends is None:
            return
        where, left = way.where, ends - time.time()
        due = [limit for limit in WARNINGS_S if left <= limit]
        new = [limit for limit in due if (where.job_id, limit) not in self._warned]
        self._warned |= {(where.job_id, limit) for limit in due}
        first, self._first_look = self._first_look, False
        # Who has just been connected was told the end; only a near one is worth a second line.
        if not new or left <= 0 or (first and left > min(WARNINGS_S)):
            return
        text = f"{where.name} ends in {max(1, round(left / 60))} min"
        if where.kept_until is not None and where.kept_until > ends:
            text += "; its successor takes over once it is ready"
        self._links.tell(Event("expiring", text))

    async def _pause(self) -> None:
        await asyncio.sleep(min(_LEAST_PAUSE_S, self._poll_s))
        usable = self._current is not None and self._current.up.is_set()
        rest = (self._poll_s if usable else min(self._poll_s, _POLL_UNREADY_S)) - _LEAST_PAUSE_S
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, rest)):
                await self._poke.wait()
        self._poke.clear()


async def _retire(way: Way) -> None:
    """End a way once nobody uses it any more."""
    try:
        async with asyncio.timeout(_RETIRE_S):
            while way.open_connections:
                await asyncio.sleep(_RETIRE_POLL_S)
    except TimeoutError:
        pass
    finally:
        await asyncio.shield(way.close())


def _place(where: Where) -> str:
    at = {"node": "", "loopback": " (loopback)", "socket": " (Unix socket)"}[where.listen]
    return f"{where.name} is job {where.job_id} on {where.host}{at}"
