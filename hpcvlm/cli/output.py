"""The only place that writes to the terminal: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from hpcvlm.errors import HpcvlmError

WIDTH = 100


def data(text: str) -> None:
    """A result, for people and pipes alike.

    Raises:
        HpcvlmError: ``output-failed`` when it cannot be written, as on a full disk.
        BrokenPipeError: whoever read it has gone.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Else Python tries once more at its end, and prints a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise HpcvlmError(
            "output-failed", f"the output cannot be written: {error.strerror}"
        ) from None


def data_json(value: object) -> None:
    """A result for machines."""
    data(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Something that a person should know; never part of the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def coloured(stream: object = None) -> bool:
    """Whether colour may be used: a terminal, and NO_COLOR is not set (no-color.org)."""
    stream = sys.stderr if stream is None else stream
    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def paint(text: str, colour: str, stream: object = None) -> str:
    """The text in a colour, where colours are used."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if coloured(stream) else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[int] = ()) -> str:
    """Columns of text, at most `WIDTH` wide; the widest column gives way.

    Args:
        header: a word above each column.
        rows: the cells.
        whole: columns that are never cut, such as names that are to be typed again.
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    gaps = 2 * (len(widths) - 1)
    may_give = [i for i in range(len(widths)) if i not in whole]
    while may_give and sum(widths) + gaps > WIDTH:
        widest = max(may_give, key=lambda i: widths[i])
        if widths[widest] <= 8:  # noqa: PLR2004 - still readable
            break
        widths[widest] -= 1
    lines = []
    for number, row in enumerate(cells):
        parts = [_fit(cell, width) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(parts).rstrip()
        lines.append(paint(line, "bold", sys.stdout) if number == 0 else line)
    return "\n".join(lines)


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:04:05`` or ``2d 3h``."""
    whole = max(0, int(seconds))
    minutes, secs = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:  # noqa: PLR2004 - two days
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
