"""What a check is, and what judging works on: answers of programs, sizes in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# As a shell gives them, and `hpcvlm.system.process` too.
_NOT_FOUND = 127
_TIMED_OUT = 124
_LONGEST = 200
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Status(StrEnum):
    """How a check came out. Only ``failed`` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        id: stable; ``KIND`` or ``KIND:SUBJECT``, as ``gpu-job:short``.
        part: the heading it stands under.
        title: what it is about, in a few words.
        evidence: what was seen, on one line; the reason of a check that was skipped.
        remedy: what to type or change, on one line; empty when there is nothing to do.
    """

    id: str
    part: str
    title: str
    status: Status
    evidence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A check before it is answered."""

    id: str
    part: str
    title: str

    def ok(self, evidence: str) -> Check:
        """As it must be."""
        return self._answer(Status.OK, evidence)

    def warning(self, evidence: str, remedy: str = "") -> Check:
        """Works, but not as well as it could, or not for everybody."""
        return self._answer(Status.WARNING, evidence, remedy)

    def failed(self, evidence: str, remedy: str) -> Check:
        """A launch would fail for this."""
        return self._answer(Status.FAILED, evidence, remedy)

    def skipped(self, reason: str) -> Check:
        """There was nothing to look at."""
        return self._answer(Status.SKIPPED, reason)

    def unknown(self, evidence: str, remedy: str = "") -> Check:
        """It could not be found out."""
        return self._answer(Status.UNKNOWN, evidence, remedy)

    def _answer(self, status: Status, evidence: str, remedy: str = "") -> Check:
        return Check(
            self.id, self.part, self.title, status, one_line(evidence, _LONGEST), one_line(remedy)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program left: its exit code and both streams."""

    code: int
    stdout: str = ""
    stderr: str = ""

    @property
    def missing(self) -> bool:
        """Whether there was no such program."""
        return self.code == _NOT_FOUND

    @property
    def timed_out(self) -> bool:
        """Whether it had to be killed."""
        return self.code == _TIMED_OUT

    @property
    def said(self) -> str:
        """Its own words: the last line of stderr, else of stdout, else its exit code."""
        for text in (self.stderr, self.stdout):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1]
        return f"exit code {self.code}"


def matches(check_id: str, asked: Sequence[str]) -> bool:
    """Whether a check is meant by one of the ids of ``--only`` or ``--skip``.

    ``gpu-job`` means every ``gpu-job:…``; ``node`` does not mean ``node-gpus``.
    """
    kind = check_id.partition(":")[0]
    return check_id in asked or kind in asked


def one_line(text: str, longest: int | None = None) -> str:
    """Text without line breaks, control characters and passwords in addresses.

    Args:
        text: any.
        longest: characters, after which it is cut.
    """
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    flat = without_credentials(flat)
    return flat if longest is None or len(flat) <= longest else flat[: longest - 1] + "…"


def without_credentials(text: str) -> str:
    """Addresses without the user and password in them: ``http://…@proxy:3128``."""
    return _CREDENTIALS.sub("…@", text)


def size(count: float) -> str:
    """Bytes in words, binary units: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - the next unit
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"  # noqa: PLR2004
        count /= 1024
    return f"{count:.1f} TiB"


def some(names: Sequence[str], most: int = 4) -> str:
    """A list for one line: the first few, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
