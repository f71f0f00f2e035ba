"""What lies in several users' own caches, and what one shared store would save.

A blob's name is the hub's hash of its content, so that copies are known without reading them.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots.model import StoredRepository

_MAGIC = frozenset("*?[")
_HASH_LENGTHS = (40, 64)


class FoundCaches(NamedTuple):
    """Folders that a pattern names.

    Attributes:
        caches: sorted.
        unreadable: folder and reason, where the pattern may name something that cannot be seen.
    """

    caches: tuple[Path, ...]
    unreadable: tuple[tuple[str, str], ...]


class Held(NamedTuple):
    """One cache of one user.

    Attributes:
        user: who it belongs to.
        repositories: what is in it.
    """

    user: str
    cache: Path
    repositories: Sequence[StoredRepository]


class UserShare(NamedTuple):
    """What one user has.

    Attributes:
        caches: the user's caches.
        size: bytes in them.
        copies: of these, bytes that the store or another user has, too.
    """

    user: str
    caches: tuple[str, ...]
    size: int
    copies: int


class Duplicate(NamedTuple):
    """One repository that several have.

    Attributes:
        users: who have the same blobs.
        in_store: whether the store has all of these blobs.
        saved: bytes that are on disk more than once.
    """

    repo: str
    users: tuple[str, ...]
    in_store: bool
    saved: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Duplicates:
    """The answer of `find_duplicates`.

    Attributes:
        users: by the bytes of their copies, most first.
        repositories: by what they would save, most first.
        saved: bytes that a store which had every copied blob once would save.
    """

    users: tuple[UserShare, ...]
    repositories: tuple[Duplicate, ...]
    saved: int


def find_caches(pattern: str) -> FoundCaches:
    """The folders that a pattern such as ``/home/*/.cache/huggingface/hub`` names.

    Unlike the shell, which leaves out what it cannot enter, this tells what may be there.
    """
    parts = [part for part in os.path.expanduser(pattern).split("/") if part]  # noqa: PTH111
    waiting = ["/" if pattern.startswith(("/", "~")) else "."]
    unreadable: list[tuple[str, str]] = []
    for part in parts:
        waiting = [
            found for folder in waiting for found in _below(folder.rstrip("/"), part, unreadable)
        ]
    caches = []
    for folder in sorted(waiting):
        try:
            with os.scandir(folder):
                caches.append(Path(folder))
        except NotADirectoryError:
            continue
        except OSError as error:
            unreadable.append((folder, error.strerror or str(error)))
    return FoundCaches(tuple(caches), tuple(sorted(unreadable)))


def find_duplicates(store: Iterable[StoredRepository], users: Sequence[Held]) -> Duplicates:
    """What users have that the store, or another user, has, too.

    A file that several names lead to (hard links, links into the store) is no copy of itself.
    """
    in_store = _Holders()
    for repository in store:
        in_store.add("", repository)
    held = _Holders()
    for one in users:
        for repository in one.repositories:
            held.add(one.user, repository)
    copies: dict[str, int] = {}
    by_repo: dict[str, list[tuple[_Key, int]]] = {}
    for key, inodes in held.inodes.items():
        own = in_store.inodes.get(key, {})
        separate = {inode: user for inode, user in inodes.items() if inode not in own}
        saved = len(separate) - (0 if own else 1)
        if saved < 1:
            continue
        for user in separate.values():
            copies[user] = copies.get(user, 0) + held.sizes[key]
        by_repo.setdefault(key[0], []).append((key, saved * held.sizes[key]))
    repositories = [
        Duplicate(
            repo=held.shown[repo],
            users=tuple(sorted({user for key, _ in keys for user in held.inodes[key].values()})),
            in_store=all(key in in_store.inodes for key, _ in keys),
            saved=sum(saved for _, saved in keys),
        )
        for repo, keys in by_repo.items()
    ]
    return Duplicates(
        users=tuple(sorted(_shares(users, copies), key=lambda one: (-one.copies, one.user))),
        repositories=tuple(sorted(repositories, key=lambda one: (-one.saved, one.repo))),
        saved=sum(one.saved for one in repositories),
    )


_Key = tuple[str, str]
_Inode = tuple[int, int]


class _Holders:
    """Who has which blob: repository in small letters and hash, inode, user."""

    def __init__(self) -> None:
        self.inodes: dict[_Key, dict[_Inode, str]] = {}
        self.sizes: dict[_Key, int] = {}
        self.shown: dict[str, str] = {}

    def add(self, user: str, repository: StoredRepository) -> None:
        repo = repository.repo.casefold()
        self.shown.setdefault(repo, repository.repo)
        for name, blob in repository.blobs.items():
            if len(name) in _HASH_LENGTHS:
                self.inodes.setdefault((repo, name), {})[blob.inode] = user
                self.sizes[repo, name] = blob.size


def _shares(users: Sequence[Held], copies: dict[str, int]) -> Iterable[UserShare]:
    for user in sorted({one.user for one in users}):
        own = [one for one in users if one.user == user]
        sizes = {
            blob.inode: blob.size
            for one in own
            for repository in one.repositories
            for blob in (*repository.blobs.values(), *repository.incomplete)
        }
        caches = tuple(str(one.cache) for one in own)
        yield UserShare(user, caches, sum(sizes.values()), copies.get(user, 0))


def _below(folder: str, part: str, unreadable: list[tuple[str, str]]) -> list[str]:
    """What one part of a pattern names in one folder."""
    if _MAGIC.isdisjoint(part):
        path = f"{folder}/{part}"
        try:
            os.stat(path)  # noqa: PTH116 - a text, as everywhere here
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            unreadable.append((path, error.strerror or str(error)))
            return []
        return [path]
    try:
        with os.scandir(folder or "/") as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        unreadable.append((folder or "/", error.strerror or str(error)))
        return []
    hidden = part.startswith(".")
    return [
        f"{folder}/{name}"
        for name in names
        if fnmatch.fnmatchcase(name, part) and (hidden or not name.startswith("."))
    ]
