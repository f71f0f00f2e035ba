"""Counts who needs each file of hub caches, and what becomes free when nobody does any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcvlm.snapshots.model import StoredBlob, StoredFile, StoredRepository, StoredSnapshot

Inode = tuple[int, int]


def own_blob(repository: StoredRepository, file: StoredFile) -> StoredBlob | None:
    """The blob of this repository that a file links to."""
    if file.blob is None or not file.link:
        return None
    known = repository.blobs.get(file.blob.name)
    return known if known is not None and known.inode == file.blob.inode else None


class Ledger:
    """Who still needs which file, and what becomes free when somebody no longer does."""

    def __init__(
        self, repositories: Sequence[StoredRepository], names: Mapping[Inode, int]
    ) -> None:
        self._names = dict(names)
        self._users: Counter[tuple[Path, str]] = Counter()
        self._blobs: dict[Path, dict[str, StoredBlob]] = {}
        self._plain: dict[Path, list[StoredBlob]] = {}
        self.foreign: set[Inode] = set()
        for repository in repositories:
            for snapshot in repository.snapshots:
                self._read(repository, snapshot)
        for snapshot_path, blobs in self._blobs.items():
            for name in blobs:
                self._users[snapshot_path.parent.parent, name] += 1

    def _read(self, repository: StoredRepository, snapshot: StoredSnapshot) -> None:
        blobs = self._blobs.setdefault(snapshot.path, {})
        plain = self._plain.setdefault(snapshot.path, [])
        for file in snapshot.files:
            own = own_blob(repository, file)
            if own is not None:
                blobs[own.name] = own
            elif file.blob is not None and file.link:
                self.foreign.add(file.blob.inode)
            elif file.blob is not None:
                plain.append(file.blob)

    def users(self, folder: Path, name: str) -> int:
        """How many of the snapshots that stay link to a blob."""
        return self._users[folder, name]

    def remove_name(self, blob: StoredBlob) -> int:
        """Bytes that become free when one name of a file goes."""
        if blob.inode in self.foreign:
            return 0
        left = self._names.get(blob.inode, 1) - 1
        self._names[blob.inode] = left
        return blob.size if left == 0 else 0

    def _restore_name(self, blob: StoredBlob) -> None:
        if blob.inode not in self.foreign:
            self._names[blob.inode] += 1

    def take(self, snapshot: StoredSnapshot) -> int:
        """Bytes that become free when a snapshot goes after all that were taken before."""
        freed = sum(self.remove_name(blob) for blob in self._plain[snapshot.path])
        folder = snapshot.path.parent.parent
        for name, blob in self._blobs[snapshot.path].items():
            self._users[folder, name] -= 1
            if self._users[folder, name] == 0:
                freed += self.remove_name(blob)
        return freed

    def give_back(self, snapshot: StoredSnapshot) -> None:
        """Undo `take`."""
        folder = snapshot.path.parent.parent
        for blob in self._plain[snapshot.path]:
            self._restore_name(blob)
        for name, blob in self._blobs[snapshot.path].items():
            if self._users[folder, name] == 0:
                self._restore_name(blob)
            self._users[folder, name] += 1
