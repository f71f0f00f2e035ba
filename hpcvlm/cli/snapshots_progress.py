"""Shows how far a look at many repositories has come, where that takes long."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress, TaskID

_PATIENCE_S = 1.0
_SHORTEST_S = 0.1


class Looking:
    """A bar on a terminal, from the second that it takes on; nothing elsewhere, nothing left."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE_S
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def __call__(self, cache: Path, done: int, total: int) -> None:
        """Show one step.

        Args:
            cache: the cache that is looked at.
            done: its repositories that have been looked at.
            total: all of its repositories.
        """
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _SHORTEST_S
        if self._bar is None:
            self._bar = _new_bar()
        progress, task = self._bar
        words = str(cache).encode("utf-8", "replace").decode()
        progress.update(task, description=words, completed=done, total=total)


def _new_bar() -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    text = TextColumn("{task.description}", markup=False)
    progress = Progress(
        text, BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    )
    progress.start()
    return progress, progress.add_task("hub caches", total=None)
