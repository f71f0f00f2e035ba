"""What is wrong with a file of a snapshot, as a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        path: the file in the snapshot; empty when it is about the whole.
        kind: for machines: ``link``, ``missing``, ``size``, ``content``, ``pointer``, ``header``,
            ``tensors``, ``json``, ``empty``, ``unreadable``, ``gone``, ``added``, ``lacks``,
            ``approval``, ``manifest``, ``copies``, ``plain``.
        text: what is wrong, in words that follow the file's name.
        problem: whether the snapshot is not what it should be; a warning otherwise.
        stops: whether a launch must be refused.
        fetch: whether to fetch the file again may mend it.
    """

    path: str
    kind: str
    text: str
    problem: bool = True
    stops: bool = False
    fetch: bool = False

    @property
    def sentence(self) -> str:
        """The file and what is wrong with it."""
        return f"{self.path}: {self.text}" if self.path else self.text


def one_each(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Problems first; of several problems of one file only the first, which explains the others."""
    told: set[str] = set()
    problems, warnings = [], []
    for finding in findings:
        if not finding.problem:
            warnings.append(finding)
        elif not finding.path or finding.path not in told:
            told.add(finding.path)
            problems.append(finding)
    return (*problems, *warnings)
