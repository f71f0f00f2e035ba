"""One line on a terminal that is written anew as things go on."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Self

from hpcvlm.cli.output import WIDTH


class MovingLine:
    """The last line of a terminal's standard error; elsewhere nothing is written.

    As a context manager it leaves nothing behind.

    Attributes:
        live: whether standard error is a terminal.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Write it in place of what stands there, cut where the terminal would wrap it."""
        if not self.live:
            return
        columns = min(WIDTH, shutil.get_terminal_size().columns) - 1
        printable = "".join(letter for letter in text if letter >= " ")
        sys.stderr.write(f"\r\x1b[2K{printable[:columns]}")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        """Remove it, so that other lines can be written."""
        if self._shown:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._shown = False
