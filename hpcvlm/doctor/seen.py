"""Reads what the node part wrote: a line is a key and tab-separated words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from hpcvlm.doctor.model import one_line

Seen = Mapping[str, Sequence[tuple[str, ...]]]


def parse_seen(text: str) -> dict[str, list[tuple[str, ...]]]:
    """Observations by key; a last line that is not complete is left out."""
    seen: dict[str, list[tuple[str, ...]]] = {}
    *lines, _ = text.split("\n")
    for line in lines:
        key, *words = line.split("\t")
        seen.setdefault(key, []).append(tuple(words))
    return seen


def finished(seen: Seen) -> bool:
    """Whether the node part has said its last word."""
    return "finished" in seen


def last_step(seen: Seen) -> str:
    """What the node part is doing, in words."""
    return one_line(word(seen, "step", 0, last=True), 60)


def host(seen: Seen) -> str:
    """The node's own name for itself."""
    return word(seen, "host", 0)


def word(seen: Seen, key: str, index: int, *, last: bool = False) -> str:
    """One word of the first line with a key (or the last); empty when there is none."""
    rows = seen.get(key) or [()]
    row = rows[-1] if last else rows[0]
    return row[index] if len(row) > index else ""


def code_and_words(seen: Seen, key: str) -> tuple[int, str]:
    """An exit code and what was said; 127 where there is no such line."""
    code = number(word(seen, key, 0))
    return (127 if code is None else int(code)), word(seen, key, 1)


def number(text: str) -> float | None:
    """A number, or None where the text is none."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if isfinite(found) else None


def padded(words: tuple[str, ...]) -> tuple[str, ...]:
    """PATH THERE WRITABLE FSTYPE SIZE FREE, with empty texts for what is missing."""
    return (*words, *("",) * (6 - len(words)))


def byte_count(room: Sequence[str], index: int) -> int | None:
    """One of df's numbers; None when it is missing."""
    found = number(room[index]) if len(room) > index else None
    return None if found is None else int(found)
