"""Looks for what is wrong with the rights, owners, links and contents of a store. Changes nothing.

Rights are those of the mode. Where a file system has access control lists, the group's bits of the
mode are the most that a list may give (acl(5)).
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from hpcvlm.snapshots.audit.kinds import AuditFinding, by_gravity, concerns_folders, finding
from hpcvlm.snapshots.audit.pickles import pickle_kind
from hpcvlm.snapshots.listing.summary import OnProgress
from hpcvlm.snapshots.model import StoredRepository
from hpcvlm.snapshots.store import scan_repository

Access = Literal["group", "world", "private", "any"]

_PREFIX = "models--"
_LOCKS = ".locks"
# huggingface_hub's store of blobs that several repositories of a cache share.
_SHARED = "blobs"
_DAY = 86400.0
_MANY = 4  # repositories with the same finding, from which on it is one of the store
_COMPILED = (".so", ".dll", ".dylib", ".exe", ".pyc")
# What is loaded without running code: vLLM takes a file for it by its name.
_HARMLESS = (".safetensors", ".json", ".gguf", ".txt", ".jinja")
_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_ENTER_WORLD = stat.S_IROTH | stat.S_IXOTH
_NEEDED = {
    ("group", True): stat.S_IRGRP | stat.S_IXGRP,
    ("group", False): stat.S_IRGRP,
    ("world", True): _ENTER_WORLD,
    ("world", False): stat.S_IROTH,
}
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Rule(NamedTuple):
    """How a store is meant to be.

    Attributes:
        access: `site.store.access`; ``any`` for a cache that no rule is for.
        group: number of the group that everything belongs to; the cache folder's own when None.
    """

    access: Access
    group: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class _Scope:
    """One repository, or the rest of a store, and what was found in it by kind."""

    folder: str
    repo: str = ""
    found: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    owners: Counter[int] = field(default_factory=Counter)

    def add(self, kind: str, path: str, extra: str = "") -> None:
        self.found.setdefault(kind, []).append((path, extra))

    def findings(self, owner: str) -> Iterator[AuditFinding]:
        for kind, found in self.found.items():
            yield finding(kind, self.folder, found, repo=self.repo, owner=owner)


def audit_cache(
    cache: Path, rule: Rule, now: float, on_progress: OnProgress | None = None
) -> list[AuditFinding]:
    """What is wrong in one hub cache: errors first.

    Args:
        cache: the folder; links in it are not followed.
        rule: how it is meant to be.
        now: seconds since the epoch.
        on_progress: called after each entry of the cache.
    """
    return _Audit(cache, rule, now).run(on_progress)


@functools.cache
def user(number: int) -> str:
    """The name of a user; empty where this machine knows none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


class _Audit:
    """One look at one cache."""

    def __init__(self, cache: Path, rule: Rule, now: float) -> None:
        self.cache = os.path.realpath(cache)
        self.access = rule.access
        self.group = rule.group
        self.now = now
        self.owner = ""
        self.is_writable = False
        self.top = _Scope(self.cache)
        self.scopes = [self.top]
        # Names that were found of files with several, by inode.
        self.names: dict[tuple[int, int], tuple[int, list[tuple[_Scope, str]]]] = {}

    def run(self, on_progress: OnProgress | None) -> list[AuditFinding]:
        if not self._look_at_top():
            return list(self.top.findings(""))
        entries = self._entries(self.top, self.cache)
        for done, entry in enumerate(entries, 1):
            self._entry(entry)
            if on_progress:
                on_progress(Path(self.cache), done, len(entries))
        self._hard_links()
        self._gather()
        return by_gravity([one for scope in self.scopes for one in scope.findings(self.owner)])

    def _entry(self, entry: os.DirEntry[str]) -> None:
        status = self._status(self.top, entry)
        if status is None:
            return
        if not entry.name.startswith(_PREFIX):
            self._look(self.top, entry.path, status, in_locks=entry.name == _LOCKS)
        elif stat.S_ISDIR(status.st_mode):
            self._repository(entry, status)
        else:
            self.top.add("no-folder", entry.path)
            self._link(self.top, entry.path, status)

    def _look_at_top(self) -> bool:
        try:
            status = os.stat(self.cache)  # noqa: PTH116 - texts, as everywhere here
        except OSError as error:
            self.top.add("unreadable", self.cache, error.strerror or str(error))
            return False
        if not stat.S_ISDIR(status.st_mode):
            self.top.add("no-folder", self.cache)
            return False
        if self.group is None and self.access == "group":
            self.group = status.st_gid
        self.owner = user(status.st_uid)
        self.is_writable = bool(status.st_mode & stat.S_IWGRP)
        self._rights(self.top, self.cache, status)
        if self.access == "group" and status.st_mode & _ENTER_WORLD:
            self.top.add("open", self.cache)
        return True

    def _repository(self, entry: os.DirEntry[str], status: os.stat_result) -> None:
        repo = entry.name.removeprefix(_PREFIX).replace("--", "/")
        scope = _Scope(entry.path, repo)
        self.scopes.append(scope)
        self._look(scope, entry.path, status)
        if len(scope.owners) > 1:
            each = (f"{user(n) or n} ({count})" for n, count in scope.owners.most_common())
            scope.add("owners", entry.path, ", ".join(each))
        repository = scan_repository(Path(entry.path))
        self._contents(scope, repository)
        for blob in repository.incomplete:
            if (idle := self.now - blob.modified) > _DAY:
                days = int(idle // _DAY)
                extra = "1 day" if days == 1 else f"{days} days"
                scope.add("unfinished", f"{entry.path}/blobs/{blob.name}", extra)

    def _look(
        self, scope: _Scope, path: str, status: os.stat_result, *, in_locks: bool = False
    ) -> None:
        """One file, folder or link, and everything below it."""
        waiting = [(path, status)]
        while waiting:
            place, seen = waiting.pop()
            kind = stat.S_IFMT(seen.st_mode)
            if kind == stat.S_IFLNK:
                self._link(scope, place, seen)
                continue
            scope.owners[seen.st_uid] += 1
            if not user(seen.st_uid):
                scope.add("owner-unknown", place, str(seen.st_uid))
            if kind == stat.S_IFREG and in_locks:
                self._lock(scope, place, seen)
            elif kind in (stat.S_IFREG, stat.S_IFDIR):
                self._rights(scope, place, seen)
            else:
                scope.add("special", place)
            if kind == stat.S_IFDIR:
                below = ((e.path, self._status(scope, e)) for e in self._entries(scope, place))
                waiting += [(path, found) for path, found in below if found is not None]
            elif seen.st_nlink > 1:
                inode = (seen.st_dev, seen.st_ino)
                self.names.setdefault(inode, (seen.st_nlink, []))[1].append((scope, place))

    def _rights(self, scope: _Scope, path: str, status: os.stat_result) -> None:
        mode, is_folder = status.st_mode, stat.S_ISDIR(status.st_mode)
        if mode & stat.S_IWOTH and self.access != "private":
            scope.add("world-writable", path)
        if not is_folder and mode & (stat.S_ISUID | stat.S_ISGID):
            scope.add("set-id", path)
        if not is_folder and mode & _EXECUTE:
            scope.add("executable", path)
        needed = _NEEDED.get((self.access, is_folder), 0)
        if mode & needed != needed:
            scope.add(f"{self.access}-{'folder' if is_folder else 'file'}", path)
        if self.access == "group" and is_folder and not mode & stat.S_ISGID:
            scope.add("setgid", path)
        if self.access == "private" and mode & _OTHERS:
            scope.add("private", path)
        if self.group is not None and status.st_gid != self.group:
            scope.add("group", path, _group(self.group))

    def _lock(self, scope: _Scope, path: str, status: os.stat_result) -> None:
        """Only a lock that can be written to can be taken (filelock opens it for writing)."""
        if self.is_writable and not status.st_mode & stat.S_IWGRP:
            scope.add("lock", path, user(status.st_uid) or str(status.st_uid))

    def _link(self, scope: _Scope, path: str, status: os.stat_result) -> None:
        if not stat.S_ISLNK(status.st_mode):
            return
        try:
            link = os.readlink(path)  # noqa: PTH115 - as above
        except OSError:
            return
        target = os.path.normpath(os.path.join(os.path.dirname(path), link))  # noqa: PTH118, PTH120
        really = os.path.realpath(path)
        if not (_inside(target, self.cache) and _inside(really, self.cache)):
            scope.add("link-out", path, link)
        elif not os.path.lexists(really):
            scope.add("link-broken", path, link)
        elif link.startswith("/"):
            scope.add("link-absolute", path, link)
        elif not _inside(really, scope.folder) and not _inside(really, f"{self.cache}/{_SHARED}"):
            scope.add("link-astray", path, link)

    def _gather(self) -> None:
        """What many repositories have in common is one finding: of the store as a whole."""
        holders = Counter(kind for scope in self.scopes for kind in scope.found)
        common = [kind for kind, count in holders.items() if count >= _MANY]
        for kind in filter(concerns_folders, common):
            for scope in self.scopes[1:]:
                self.top.found.setdefault(kind, []).extend(scope.found.pop(kind, ()))

    def _hard_links(self) -> None:
        """Names of a file that no scope holds: somebody else's, with the rights of theirs."""
        for count, names in self.names.values():
            if count > len(names):
                scope, path = names[0]
                more = count - len(names)
                scope.add("hard-link", path, "a name" if more == 1 else f"{more} names")

    def _contents(self, scope: _Scope, repository: StoredRepository) -> None:
        """Code, and what may run code when it is loaded."""
        read: set[tuple[int, int]] = set()
        for snapshot in repository.snapshots:
            for file in snapshot.files:
                path = f"{snapshot.path}/{file.path}"
                if file.path.endswith(".py"):
                    scope.add("code", path)
                elif file.path.endswith(_COMPILED) or ".so." in file.path:
                    scope.add("compiled", path)
                if file.blob is None or file.blob.inode in read:
                    continue
                read.add(file.blob.inode)
                self._pickle(scope, path)

    def _pickle(self, scope: _Scope, path: str) -> None:
        try:
            kind = pickle_kind(Path(path))
        except OSError as error:
            scope.add("unreadable", path, error.strerror or str(error))
            return
        if kind:
            scope.add("pickle-disguised" if path.endswith(_HARMLESS) else "pickle", path, kind)

    def _entries(self, scope: _Scope, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []  # gone meanwhile
        except OSError as error:
            scope.add("unreadable", folder, error.strerror or str(error))
            return []

    def _status(self, scope: _Scope, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            return entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            scope.add("unreadable", entry.path, error.strerror or str(error))
            return None


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
