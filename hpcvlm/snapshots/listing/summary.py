"""What one wants to know of each snapshot in hub caches: size, last use, owner, state."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.snapshots.listing.completeness import Completeness, look_at
from hpcvlm.snapshots.model import StoredBlob, StoredRepository, StoredSnapshot
from hpcvlm.snapshots.prune.plan import last_use
from hpcvlm.snapshots.store import distinct, iterate_cache, repository_names

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Summary:
    """One snapshot, or a repository folder that holds none.

    Attributes:
        snapshot: None where the repository has no snapshot that can be read.
        size: bytes of its files, each blob once.
        own: of these, bytes that no other snapshot of the repository shares.
        last_use: newest access time of its weights, seconds since the epoch, as
            `hpcvlm.snapshots.prune.plan.last_use` has it; None where the file system keeps none.
        owner: user id that most of its bytes belong to; -1 when unknown.
        state: what it lacks.
    """

    repository: StoredRepository
    snapshot: StoredSnapshot | None
    size: int
    own: int
    last_use: float | None
    owner: int
    state: Completeness

    @property
    def complete(self) -> bool:
        """Whether it is a snapshot that lacks nothing."""
        return self.snapshot is not None and not self.state.missing


OnProgress = Callable[[Path, int, int], None]
"""Called with a cache, and how many of how many of its repositories have been looked at."""


def summarise(caches: Sequence[Path], on_progress: OnProgress | None = None) -> list[Summary]:
    """Every snapshot of several caches, in the order of caches, repositories and commits."""
    found: list[Summary] = []
    for cache in distinct(caches):
        total = len(repository_names(cache)) if on_progress else 0
        for done, repository in enumerate(iterate_cache(cache), 1):
            found += summaries_of(repository)
            if on_progress:
                on_progress(cache, done, max(done, total))
    return found


def summaries_of(repository: StoredRepository) -> Iterator[Summary]:
    """The snapshots of one repository; one summary without a snapshot where it has none."""
    if not repository.snapshots:
        nothing = Completeness((), None)
        yield Summary(repository, None, disk_use([repository]), 0, None, repository.owner, nothing)
        return
    has_times = keeps_access_times(repository.path)
    of_each = [_blobs(snapshot) for snapshot in repository.snapshots]
    holders: Counter[_Inode] = Counter()
    if len(of_each) > 1:
        for blobs in of_each:
            holders.update(blobs.keys())
    for snapshot, blobs in zip(repository.snapshots, of_each, strict=True):
        yield Summary(
            repository=repository,
            snapshot=snapshot,
            size=sum(blob.size for blob in blobs.values()),
            own=sum(blob.size for inode, blob in blobs.items() if holders[inode] <= 1),
            last_use=last_use(snapshot) if has_times else None,
            owner=_owner(blobs.values(), repository.owner),
            state=look_at(snapshot),
        )


def disk_use(repositories: Iterable[StoredRepository]) -> int:
    """Bytes of all files of repositories, each once, however many names and links it has."""
    sizes: dict[_Inode, int] = {}
    for repository in repositories:
        for blob in (*repository.blobs.values(), *repository.incomplete):
            sizes[blob.inode] = blob.size
        for snapshot in repository.snapshots:
            for file in snapshot.files:
                if file.blob is not None:
                    sizes[file.blob.inode] = file.blob.size
    return sum(sizes.values())


def keeps_access_times(path: Path) -> bool:
    """Whether reading a file leaves its time there: not where it is mounted ``noatime``.

    The kernel tells the flags of the very mount that a path lies on (statvfs(3)), which the list
    of mounts tells only to those who can match paths and mounts.
    """
    try:
        return not os.statvfs(path).f_flag & os.ST_NOATIME
    except OSError:
        return False


def _blobs(snapshot: StoredSnapshot) -> dict[_Inode, StoredBlob]:
    return {file.blob.inode: file.blob for file in snapshot.files if file.blob is not None}


def _owner(blobs: Iterable[StoredBlob], otherwise: int) -> int:
    """Who has most of the bytes; in a shared store somebody else may have made the folder."""
    bytes_of: dict[int, int] = {}
    for blob in blobs:
        bytes_of[blob.owner] = bytes_of.get(blob.owner, 0) + blob.size
    return max(bytes_of, key=lambda owner: bytes_of[owner], default=otherwise)
