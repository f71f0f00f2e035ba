"""Shows that an image is being read or made: a moving line on a terminal, few lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcvlm.cli.moving_line import MovingLine
from hpcvlm.cli.output import note
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from hpcvlm.ops.containers_make import BuildProgress

_LARGE = 1 << 30


class ImageProgress(MovingLine):
    """Both kinds of progress; on a terminal they share one line."""

    def __init__(self) -> None:
        super().__init__()
        self._said = ""

    def on_bytes(self, done: int, whole: int) -> None:
        """Reading, so many bytes of all."""
        if self.live:
            self.show(f"reading: {bytes_text(done)} of {bytes_text(whole)}")
        elif whole > _LARGE and self._said != "reading":
            self._said = "reading"
            note(f"reading {bytes_text(whole)}")

    def on_build(self, progress: BuildProgress) -> None:
        """Building: where, and the last line of the log."""
        if self.live:
            self.show(f"{progress.where}: {progress.line}")
        elif self._said != progress.where:
            self._said = progress.where
            note(f"building ({progress.where}); log: {progress.log}")
