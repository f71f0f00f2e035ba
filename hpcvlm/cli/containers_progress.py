"""Shows that an image is being read or made: a moving line on a terminal, few lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hpcvlm.cli.output import note
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from hpcvlm.ops.containers_make import BuildProgress

_LARGE = 1 << 30
_COLUMNS = 96


class ImageProgress:
    """Both kinds of progress; on a terminal they share one line."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._said = ""
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def on_bytes(self, done: int, whole: int) -> None:
        """Reading, so many bytes of all."""
        if self._live:
            self._show(f"reading: {bytes_text(done)} of {bytes_text(whole)}")
        elif whole > _LARGE and self._said != "reading":
            self._said = "reading"
            note(f"reading {bytes_text(whole)}")

    def on_build(self, progress: BuildProgress) -> None:
        """Building: where, and the last line of the log."""
        if self._live:
            self._show(f"{progress.where}: {progress.line}")
        elif self._said != progress.where:
            self._said = progress.where
            note(f"building ({progress.where}); log: {progress.log}")

    def _show(self, text: str) -> None:
        sys.stderr.write("\r\x1b[K" + "".join(c for c in text if c >= " ")[:_COLUMNS])
        sys.stderr.flush()
        self._shown = True

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
