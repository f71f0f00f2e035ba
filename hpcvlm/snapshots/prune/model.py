"""What a prune is asked for, what it looks at, and what it decides: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from hpcvlm.snapshots.model import Approval, Uses
from hpcvlm.snapshots.prune.references import Inode

Kind = Literal["trash", "incomplete", "orphans", "snapshot"]

DAY_S = 86_400.0
UNREFERENCED = "no branch or tag points to it"


@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """What is to go.

    Attributes:
        unused_for_s: snapshots that nobody has read for so many seconds.
        unreferenced: snapshots that no branch or tag here points to, and no model names.
        incomplete: unfinished downloads, older than a day.
        orphans: blobs that no snapshot links to, older than a day.
        free_bytes: how much must become free; snapshots go in the order of their last use until
            it is: of those that the rest of the policy is about, or of all where it is about none.
        everything: every snapshot of `repo`, whatever its age.
        repo: only this repository; all when empty.
        commit: only this commit of it; all when empty.
    """

    unused_for_s: float | None = None
    unreferenced: bool = False
    incomplete: bool = False
    orphans: bool = False
    free_bytes: int | None = None
    everything: bool = False
    repo: str = ""
    commit: str = ""

    @property
    def limits_snapshots(self) -> bool:
        """Whether it says which snapshots may go."""
        return self.everything or self.unreferenced or self.unused_for_s is not None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Circumstances:
    """What else decides.

    Attributes:
        now: seconds since the epoch.
        approvals: the lock file.
        uses: what jobs serve.
        named: the models that name a commit, by repository (casefolded) and commit.
        no_access_times: repositories' folders on a file system that keeps none.
        downloading: repositories' folders in which a lock of a download is held.
        closed: why nothing of a repository may be deleted, by its folder.
        names: how many names a file has, by inode, where it has more than one.
        trash: bytes in the trash of a repository, by its folder; left by a prune that was stopped.
    """

    now: float
    approvals: tuple[Approval, ...] = ()
    uses: Uses = field(default_factory=lambda: Uses(()))
    named: Mapping[tuple[str, str], str] = field(default_factory=dict)
    no_access_times: frozenset[Path] = frozenset()
    downloading: frozenset[Path] = frozenset()
    closed: Mapping[Path, str] = field(default_factory=dict)
    names: Mapping[Inode, int] = field(default_factory=dict)
    trash: Mapping[Path, int] = field(default_factory=dict)


class Row(NamedTuple):
    """One thing to delete.

    Attributes:
        folder: the repository's folder.
        commit: of a snapshot; empty for anything else.
        files: of a snapshot each file's path and link, as they were when this was decided; of
            blobs and unfinished downloads the names with the time of the last write.
        size: bytes that become free when all rows up to this one are done.
        last_use: seconds since the epoch; None when unknown.
        owner: user id.
    """

    kind: Kind
    repo: str
    commit: str
    folder: Path
    files: tuple[tuple[str, str], ...]
    size: int
    reason: str
    last_use: float | None
    owner: int


class Kept(NamedTuple):
    """One thing that stays.

    Attributes:
        size: bytes of its files, shared ones too.
        why: in words.
        wanted: whether the policy would have it gone; false where the policy is not about it.
    """

    kind: Kind
    repo: str
    commit: str
    folder: Path
    size: int
    why: str
    wanted: bool
    last_use: float | None
    owner: int


@dataclass(frozen=True, slots=True, repr=False)
class PrunePlan:
    """What goes and what stays.

    Attributes:
        rows: in the order in which they are to be deleted.
        short_of: bytes by which `Policy.free_bytes` is missed.
    """

    rows: tuple[Row, ...]
    kept: tuple[Kept, ...]
    short_of: int = 0

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(row.size for row in self.rows)
