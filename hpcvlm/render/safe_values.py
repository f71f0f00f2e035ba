"""Which texts may stand in a script, whatever quotes are put around them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hpcvlm.errors import HpcvlmError

# Linux starts no program with a longer argument or variable: MAX_ARG_STRLEN is 32 pages, with the
# NUL at its end (execve(2)).
MOST_BYTES = 32 * 4096 - 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# They make a script look different from what it does to whoever reads it: line and paragraph
# separators, and the marks of Unicode's bidirectional algorithm (CVE-2021-42574).
_MISLEADING = re.compile(r"[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
# What people read and no program takes as one argument.
_PROSE = "sources"


def refuse_unsafe(plan: Mapping[str, object]) -> None:
    """Check every text of a plan.

    Raises:
        HpcvlmError: ``value-unsafe``, naming the place of the first one that no script may hold.
    """
    for place, text in strings(plan):
        if place.startswith(_PROSE):
            continue
        problem, remedy = _problem(text)
        if problem:
            raise HpcvlmError("value-unsafe", f"{place} {problem}: {_shown(text)}", remedy)


def strings(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain data, with its dotted place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from strings(item, f"{place}[{number}]")


def _problem(text: str) -> tuple[str, str]:
    if _CONTROL.search(text):
        return "holds a control character", "write the value on one line, without tabs"
    if found := _MISLEADING.search(text):
        mark = f"U+{ord(found[0]):04X}"
        return f"holds {mark}, which changes how a line is shown", "write the value without it"
    if _NOT_UTF8.search(text):
        return "is not UTF-8 text", "rename the file or folder, or type the value again"
    if len(text) * 4 > MOST_BYTES and len(text.encode("utf-8")) >= MOST_BYTES:
        return (
            f"is longer than the {MOST_BYTES} bytes that Linux takes as one argument",
            "put it into a file, and name the file",
        )
    return "", ""


def _shown(text: str, most: int = 60) -> str:
    return ascii(text) if len(text) <= most else f"{text[:most]!a}..."
