"""What a verification found, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots.verify.findings import Finding


class Progress(NamedTuple):
    """How far a verification is.

    Attributes:
        done: bytes read.
        total: bytes to read.
        files_done: files read.
        files: files to read.
        what: the repository that is verified.
    """

    done: int
    total: int
    files_done: int
    files: int
    what: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """What was found about one snapshot.

    Attributes:
        refs: branches and tags that point to it here.
        depth: ``quick`` (names, links, sizes, headers) or ``full`` (every byte).
        findings: problems first, then warnings.
        files: how many it has.
        size: bytes of all of them.
        read: bytes that were read and hashed.
        compared_with: ``hub``, ``listing`` (as `pull` kept it), ``manifest``, ``blobs`` (names of
            the blobs) or ``nothing``: the best there was.
        manifest: ``same``, ``written``, ``extended``, ``none``, ``differs`` or ``not written``.
        manifest_note: why it was not written.
        digest: of the manifest, ``sha256:…``; empty when there is none.
    """

    repo: str
    commit: str
    path: Path
    refs: tuple[str, ...]
    depth: str
    findings: tuple[Finding, ...]
    files: int
    size: int
    read: int = 0
    compared_with: str = "nothing"
    manifest: str = "none"
    manifest_note: str = ""
    digest: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(finding for finding in self.findings if finding.problem)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What somebody should know."""
        return tuple(finding for finding in self.findings if not finding.problem)
