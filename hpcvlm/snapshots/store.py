"""Reads what lies in hub caches: names, links and sizes, no contents.

Nothing here raises for what it finds: a repository that is not as the layout has it comes with its
problems, since one broken download must not hide all others. What vanishes during the scan, as a
finished download's ``.incomplete`` does, is left out.

Paths are texts here and not `Path`: a store has tens of thousands of files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots.model import StoredBlob, StoredFile, StoredRepository, StoredSnapshot

_PREFIX = "models--"
_INCOMPLETE = ".incomplete"
_LEAST_PREFIX = 7
_COMMIT_LENGTH = 40
_BLOCK = 512  # st_blocks counts these, whatever the file system's own blocks are (stat(2))
_LINK = re.compile(r"((?:\.\./)+)blobs/([^/]+)")
_path_of = itemgetter(0)
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
# Files that Finder and Explorer leave behind.
_LITTER = frozenset({".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini"})


def scan_caches(caches: Sequence[Path]) -> list[StoredRepository]:
    """Every model repository of several caches, in their order; a cache that stands twice once."""
    return [repository for cache in distinct(caches) for repository in scan_cache(cache)]


def scan_cache(cache: Path) -> list[StoredRepository]:
    """Every model repository of one cache, by name; none where the cache cannot be read."""
    return list(iterate_cache(cache))


def iterate_cache(cache: Path) -> Iterator[StoredRepository]:
    """As `scan_cache`, one repository after the other."""
    return _scanned(cache, repository_names(cache))


def scan_named(caches: Sequence[Path], repo: str) -> list[StoredRepository]:
    """The repositories of that name in several caches; capitals do not matter.

    Args:
        caches: searched in this order.
        repo: ``owner/name``.
    """
    wanted = _PREFIX + repo.replace("/", "--").casefold()
    return [
        repository
        for cache in distinct(caches)
        for repository in _scanned(
            cache, [name for name in repository_names(cache) if name.casefold() == wanted]
        )
    ]


def distinct(caches: Sequence[Path]) -> list[Path]:
    """The caches without those that are another one by another path."""
    return list({os.path.realpath(cache): cache for cache in reversed(caches)}.values())[::-1]


def repository_names(cache: Path) -> list[str]:
    """Names of the ``models--…`` entries of a cache; none where the cache cannot be read."""
    try:
        with os.scandir(cache) as entries:
            return sorted(e.name for e in entries if e.name.startswith(_PREFIX))
    except OSError:
        return []


def cache_problem(cache: Path) -> str:
    """Why a cache cannot be looked at; empty when it can be, or is not there."""
    try:
        with os.scandir(cache):
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{cache}: {error.strerror}"


def scan_repository(path: Path) -> StoredRepository:
    """One ``models--OWNER--NAME`` folder."""
    place, problems = str(path), list[str]()
    owner = -1
    try:
        status = os.stat(place)  # noqa: PTH116 - as above
        owner = status.st_uid
        if not stat.S_ISDIR(status.st_mode):
            problems.append("is no folder")
    except OSError as error:
        problems.append(_reason(error))
    blobs: dict[str, StoredBlob] = {}
    incomplete: list[StoredBlob] = []
    refs: dict[str, str] = {}
    snapshots: tuple[StoredSnapshot, ...] = ()
    repo = path.name.removeprefix(_PREFIX).replace("--", "/")
    if not problems:
        blobs, incomplete = _blobs(f"{place}/blobs", problems)
        refs = _refs(f"{place}/refs", problems)
        snapshots = _snapshots(_Seen(path, repo, blobs, refs, problems, {}))
        if not snapshots:
            problems.append("holds no snapshot")
    commits = {snapshot.commit for snapshot in snapshots}
    problems += [
        f"refs/{name}: names {commit or 'nothing'}, which is not here"
        for name, commit in sorted(refs.items())
        if commit not in commits
    ]
    return StoredRepository(
        repo=repo,
        cache=path.parent,
        path=path,
        snapshots=snapshots,
        blobs=blobs,
        incomplete=tuple(incomplete),
        refs=refs,
        owner=owner,
        problems=tuple(problems),
    )


def matching(
    repositories: Iterable[StoredRepository], repo: str, revision: str
) -> list[tuple[StoredRepository, StoredSnapshot]]:
    """The snapshots of a repository at a branch, tag, commit, or beginning of a commit.

    Of each repository folder those of the first way to read the revision that finds any, in this
    order; more than one of a folder means that the beginning of a commit is not enough.
    """
    found: list[tuple[StoredRepository, StoredSnapshot]] = []
    for repository in repositories:
        if repository.repo.casefold() != repo.casefold():
            continue
        commit = repository.refs.get(revision, revision)
        here = [s for s in repository.snapshots if s.commit == commit]
        if not here and len(commit) >= _LEAST_PREFIX:
            here = [s for s in repository.snapshots if s.commit.startswith(commit)]
        found += [(repository, snapshot) for snapshot in here]
    return found


def find_stored(
    repositories: Iterable[StoredRepository], repo: str, revision: str
) -> StoredSnapshot | None:
    """The first snapshot of a repository at a branch, tag, commit or beginning of a commit."""
    for repository in repositories:
        found = matching([repository], repo, revision)
        if len(found) == 1:
            return found[0][1]
    return None


def only_stored(repositories: Iterable[StoredRepository]) -> StoredSnapshot | None:
    """The first copy of the only commit that there is of a repository.

    Pulled or imported by its commit, it has no branch that names it.
    """
    held = [snapshot for repository in repositories for snapshot in repository.snapshots]
    return held[0] if len({snapshot.commit for snapshot in held}) == 1 else None


class _Seen(NamedTuple):
    """What is known of a repository when its snapshots are read."""

    path: Path
    repo: str
    blobs: dict[str, StoredBlob]
    refs: dict[str, str]
    problems: list[str]
    by_inode: dict[tuple[int, int], StoredBlob]


def _scanned(cache: Path, names: Iterable[str]) -> Iterator[StoredRepository]:
    for name in names:
        repository = scan_repository(cache / name)
        # Deleted since it was listed; a link that leads nowhere is still there itself.
        if repository.owner >= 0 or os.path.lexists(repository.path):
            yield repository


def _blobs(folder: str, problems: list[str]) -> tuple[dict[str, StoredBlob], list[StoredBlob]]:
    whole: dict[str, StoredBlob] = {}
    incomplete: list[StoredBlob] = []
    for entry in _entries(folder, "blobs", problems):
        name = entry.name
        try:
            status = entry.stat()
        except FileNotFoundError:
            if os.path.lexists(entry.path):
                problems.append(f"blobs/{name}: links to a file that is not there")
            continue
        except OSError as error:
            problems.append(f"blobs/{name}: {_reason(error)}")
            continue
        if not stat.S_ISREG(status.st_mode):
            if name not in _LITTER:
                problems.append(f"blobs/{name}: is {_kind(status.st_mode)}, expected a file")
        elif name.endswith(_INCOMPLETE):
            incomplete.append(_blob(name, status))
        else:
            whole[name] = _blob(name, status)
    return whole, incomplete


def _refs(folder: str, problems: list[str]) -> dict[str, str]:
    """Refs by name; a branch may hold slashes, and so lie deeper."""
    refs: dict[str, str] = {}
    waiting = [("", folder)]
    while waiting:
        prefix, place = waiting.pop()
        entries = _entries(place, f"refs/{prefix}".rstrip("/"), problems)
        if prefix and not entries:
            problems.append(f"refs/{prefix[:-1]}: is an empty folder, expected a file")
        for entry in entries:
            name = prefix + entry.name
            if _is_folder(entry):
                waiting.append((f"{name}/", entry.path))
            elif entry.name not in _LITTER:
                _read_ref(entry.path, name, refs, problems)
    return refs


def _read_ref(path: str, name: str, refs: dict[str, str], problems: list[str]) -> None:
    try:
        # Without O_NONBLOCK a named pipe would hold everything up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 2 * _COMMIT_LENGTH)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if os.path.lexists(path):
            problems.append(f"refs/{name}: links to a file that is not there")
    except OSError as error:
        problems.append(f"refs/{name}: {_reason(error)}")
    else:
        refs[name] = text.decode("ascii", "replace").strip()


def _snapshots(seen: _Seen) -> tuple[StoredSnapshot, ...]:
    names: dict[str, list[str]] = {}
    for name, commit in sorted(seen.refs.items()):
        names.setdefault(commit, []).append(name)
    found = []
    for entry in _entries(f"{seen.path}/snapshots", "snapshots", seen.problems):
        if not _is_folder(entry, follow=True):
            if entry.name not in _LITTER:
                seen.problems.append(f"snapshots/{entry.name}: is no folder")
            continue
        files = _files(entry.path, entry.name, seen)
        refs = tuple(names.get(entry.name, ()))
        path = seen.path / "snapshots" / entry.name
        found.append(StoredSnapshot(seen.repo, entry.name, path, refs, files))
    return tuple(sorted(found, key=lambda snapshot: snapshot.commit))


def _files(folder: str, commit: str, seen: _Seen) -> tuple[StoredFile, ...]:
    files: list[StoredFile] = []
    waiting = [("", folder, "../../")]
    blobs, add, readlink, usual = seen.blobs, files.append, os.readlink, _LINK.fullmatch
    while waiting:
        prefix, place, up = waiting.pop()
        where = f"snapshots/{commit}/{prefix}"
        for entry in _entries(place, where.rstrip("/"), seen.problems):
            try:
                link = readlink(entry.path) if entry.is_symlink() else ""
            except OSError:
                continue  # gone meanwhile
            if link:
                # As huggingface_hub writes it: nothing needs to be asked of the file system.
                match = usual(link)
                if match and match[1] == up and (blob := blobs.get(match[2])) is not None:
                    add(StoredFile(prefix + entry.name, blob, link))
                    continue
            elif _is_folder(entry):
                waiting.append((f"{prefix}{entry.name}/", entry.path, f"{up}../"))
                continue
            if entry.name not in _LITTER:
                files += _unusual(entry, prefix + entry.name, link, commit, seen)
    files.sort(key=_path_of)
    return tuple(files)


def _unusual(
    entry: os.DirEntry[str], name: str, link: str, commit: str, seen: _Seen
) -> Iterator[StoredFile]:
    """A plain file, or a link that leads nowhere or is not written as usual."""
    where = f"snapshots/{commit}/{name}"
    try:
        status = entry.stat()
    except _NOT_THERE:
        if link:
            yield StoredFile(name, None, link)
        return
    except OSError as error:
        seen.problems.append(f"{where}: {_reason(error)}")
        yield StoredFile(name, None, link)
        return
    if not stat.S_ISREG(status.st_mode):
        seen.problems.append(f"{where}: is {_kind(status.st_mode)}, expected a file")
        yield StoredFile(name, None, link)
        return
    if not seen.by_inode:
        seen.by_inode.update((blob.inode, blob) for blob in seen.blobs.values())
    known = seen.by_inode.get((status.st_dev, status.st_ino))
    # A blob that has come since the blobs were listed keeps its name.
    own_name = link.rpartition("/")[2] if _LINK.fullmatch(link) else name
    yield StoredFile(name, known or _blob(own_name, status), link)


def _entries(folder: str, shown: str, problems: list[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        if os.path.lexists(folder):
            problems.append(f"{shown}: links to a folder that is not there")
    except OSError as error:
        problems.append(f"{shown}: {_reason(error)}")
    return []


def _is_folder(entry: os.DirEntry[str], *, follow: bool = False) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:  # links in a circle; or a file system that tells no types, and no rights
        return False


def _blob(name: str, status: os.stat_result) -> StoredBlob:
    return StoredBlob(
        name,
        status.st_size,
        status.st_blocks * _BLOCK,
        status.st_atime,
        status.st_mtime,
        status.st_uid,
        status.st_mode,
        (status.st_dev, status.st_ino),
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no plain file")
