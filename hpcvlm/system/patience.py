"""Reads that may block for ever, as on a file server that is away, with an end to the patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORKERS = 2
_MOST_STUCK = 4
_LOOKS = 10  # how often it is looked, within the limit, whether one is stuck


class _Worker(Generic[Item, Result]):
    """A thread that takes items until there are none; it may get stuck in one of them."""

    def __init__(self, pool: _Pool[Item, Result]) -> None:
        self.began: float | None = None
        # A daemon, since the interpreter waits at its end for every other thread.
        self._thread = threading.Thread(target=self._run, args=(pool,), daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self, pool: _Pool[Item, Result]) -> None:
        while (index := pool.take()) is not None:
            self.began = time.monotonic()
            pool.results[index] = pool.function(pool.items[index])
            self.began = None
            if len(pool.results) >= len(pool.items):
                pool.complete.set()


class _Pool(Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function, self.items = function, items
        self.results: dict[int, Result] = {}
        self.complete = threading.Event()
        self._lock, self._next = threading.Lock(), 0

    def take(self) -> int | None:
        with self._lock:
            if self._next >= len(self.items):
                return None
            self._next += 1
            return self._next - 1


def each_in_time(
    function: Callable[[Item], Result], items: Sequence[Item], limit_s: float
) -> dict[int, Result]:
    """What a function gives for each item, by its place; those that it got stuck in are left out.

    Args:
        function: is called in other threads and must not raise.
        items: what it is called with.
        limit_s: seconds that one call may take. One that takes longer is left to itself; after
            four of them the rest is not tried.
    """
    pool = _Pool(function, items)
    workers = _workers(pool, min(_WORKERS, len(items)))
    if not workers:  # without a limit, rather than not at all
        return {index: function(item) for index, item in enumerate(items)}
    stuck = 0
    while len(pool.results) + stuck < len(items):
        now = time.monotonic()
        for worker in [w for w in workers if w.began is not None and now - w.began > limit_s]:
            workers.remove(worker)
            stuck += 1
            if stuck < _MOST_STUCK:
                workers += _workers(pool, 1)
        if not any(worker.is_alive() for worker in workers):
            break
        pool.complete.wait(limit_s / _LOOKS)
    return dict(pool.results)


def _workers(pool: _Pool[Item, Result], most: int) -> list[_Worker[Item, Result]]:
    """As many as can be started: a user may have only so many threads (``ulimit -u``)."""
    workers: list[_Worker[Item, Result]] = []
    with suppress(RuntimeError):
        while len(workers) < most:
            workers.append(_Worker(pool))
    return workers
