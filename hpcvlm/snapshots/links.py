"""Where the links of a snapshot lead, as a container sees them.

A container sees the repository's folder at its own path, whatever links lead there on the host. So
a link inside is followed there from that path, and what it names outside must be mounted as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_MOST_LINKS = 40  # as Linux: path_resolution(7)


class SnapshotFile(NamedTuple):
    """One file of a snapshot, links followed.

    Attributes:
        path: relative to the snapshot folder, with ``/``.
        size: bytes.
    """

    path: str
    size: int


def snapshot_files(folder: Path) -> tuple[SnapshotFile, ...]:
    """Every file below a snapshot folder, sorted; without hidden ones, and without broken links.

    Hidden are ``.cache`` and ``.git`` of a plain folder, and ``.gitattributes``: no engine reads
    them.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            full = os.path.join(place, name)  # noqa: PTH118 - thousands of files
            if not name.startswith(".") and os.path.isfile(full):  # noqa: PTH113
                size = os.stat(full).st_size  # noqa: PTH116
                found.append(SnapshotFile(os.path.relpath(full, folder), size))
    return tuple(sorted(found))


def link_targets(snapshot: Path, repository: Path) -> tuple[tuple[str, str], ...]:
    """What the links of a snapshot need from outside the repository's folder.

    Args:
        snapshot: the snapshot folder, in `repository`.
        repository: the folder that a container sees at this very path.

    Returns:
        Pairs of a path of the host and the path where a container must see it, sorted; empty for
        the ordinary hub cache. A folder that is itself a link comes once, not file by file. What
        cannot be read or leads nowhere is left out: it is a problem of the snapshot.
    """
    view = _View(str(repository))
    view.follow(str(snapshot))
    for place, folders, names in os.walk(snapshot):
        inside = [os.path.join(place, name) for name in (*folders, *names)]  # noqa: PTH118
        for path in inside:
            if os.path.islink(path):  # noqa: PTH114 - thousands of files
                view.follow(path)
    return tuple((host, seen) for seen, host in sorted(view.outside.items()))


class _View:
    """What a container sees: folders and files of the host, by the path where they are seen.

    Attributes:
        outside: path in the container -> path of the host, of all but the repository itself.
    """

    def __init__(self, repository: str) -> None:
        self._mounts = {repository: os.path.realpath(repository)}
        self.outside: dict[str, str] = {}

    def follow(self, path: str) -> None:
        """Resolve a path as the container does, and note what is missing for it."""
        seen, rest = self._enter(path)
        links = 0
        while rest and links < _MOST_LINKS:
            seen, rest = f"{seen.rstrip('/')}/{rest[0]}", rest[1:]
            host = self._host(seen)
            try:
                text = os.readlink(host)  # noqa: PTH115 - thousands of files
            except OSError:
                continue
            links += 1
            target = os.path.normpath(os.path.join(os.path.dirname(seen), text))  # noqa: PTH118,PTH120
            if self._mount_of(target) is None and not self._add(target, host, text):
                return
            seen, below = self._enter(target)
            rest = [*below, *rest]

    def _add(self, target: str, link: str, text: str) -> bool:
        """Mount what a link of the host leads to; False when that is not there."""
        on_host = os.path.join(os.path.dirname(link), text)  # noqa: PTH118,PTH120
        if not os.path.exists(on_host):  # noqa: PTH110
            return False
        self._mounts[target] = os.path.realpath(on_host)
        self.outside[target] = os.path.normpath(on_host)
        return True

    def _enter(self, path: str) -> tuple[str, list[str]]:
        """The mount that a path lies in, and the names from there to the path."""
        mount = self._mount_of(path)
        if mount is None:
            return path, []
        return mount, [name for name in path[len(mount) :].split("/") if name]

    def _mount_of(self, path: str) -> str | None:
        around = [m for m in self._mounts if path == m or path.startswith(m.rstrip("/") + "/")]
        return max(around, key=len, default=None)

    def _host(self, seen: str) -> str:
        mount = self._mount_of(seen)
        return seen if mount is None else self._mounts[mount] + seen[len(mount) :]
