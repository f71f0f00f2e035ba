"""Puts an archive of a snapshot into a hub cache, so that at no moment a part looks whole.

Blobs come first, each under a temporary name until its hashes are right; then the manifest; then
the folder of links by one rename; a ref, if one is wanted, last. Whatever stops it in between
leaves blobs that no snapshot names, which the next import uses and ``prune`` removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.access import (
    file_mode,
    prepare_repository_folder,
    store_permissions,
    unwritable,
)
from hpcvlm.snapshots.archive.archive import CHUNK, OnProgress, Progress, hub_hasher
from hpcvlm.snapshots.archive.archived_manifest import invalid
from hpcvlm.snapshots.archive.unpack import Archive, Bytes
from hpcvlm.snapshots.hub import repository_folder_name
from hpcvlm.snapshots.manifest import OWN_FOLDER, is_safe_path, manifest_digest, write_manifest
from hpcvlm.snapshots.model import Manifest, ManifestFile, StoredFile
from hpcvlm.snapshots.pull.space import check_room, check_writable
from hpcvlm.snapshots.store import scan_repository
from hpcvlm.snapshots.verify.hashing import ToHash, hash_files
from hpcvlm.system.files import write_atomically

_TEMPORARY = ".import.incomplete"
_STAGED = "importing-"
_FULL = (errno.ENOSPC, errno.EDQUOT)

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an archive goes, and as whose.

    Attributes:
        cache: the hub cache.
        access: `site.store.access`.
        group: `site.store.group`.
        ref: branch or tag that will name the snapshot; None for none.
        created: now, for the manifest: seconds since the epoch.
        by: the user's name, for the manifest.
    """

    cache: Path
    access: str
    group: str | None
    ref: str | None
    created: float
    by: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        path: the snapshot folder.
        digest: of the manifest.
        size: bytes of the snapshot's files.
        written: bytes that were not in the store before.
        already: whether the snapshot was there.
        moved_from: the commit that the ref named before; empty for none, or the same.
        replaced: blobs that lay in the store with a wrong content.
        refs: names of the snapshot in this cache now.
    """

    repo: str
    commit: str
    path: Path
    digest: str
    files: int
    size: int
    written: int
    already: bool
    moved_from: str
    replaced: tuple[str, ...]
    refs: tuple[str, ...]


def import_archive(archive: Archive, target: Target, on_progress: OnProgress) -> Imported:
    """Unpack an archive into a hub cache.

    Raises:
        HpcvlmError: ``archive-invalid``, ``snapshot-differs``, ``store-space``, ``store-inodes``,
            ``store-unwritable``, ``store-group``, ``store-busy``, ``name-invalid``.
    """
    manifest = archive.manifest
    folder = target.cache / repository_folder_name(manifest.repo)
    _check_ref(target.ref)
    done = Imported(
        repo=manifest.repo,
        commit=manifest.commit,
        path=folder / "snapshots" / manifest.commit,
        digest=manifest_digest(manifest),
        files=len(manifest.files),
        size=sum(kept.size for kept in manifest.files.values()),
        written=0,
        already=_is_there(folder, manifest),
        moved_from="",
        replaced=(),
        refs=(),
    )
    if done.already:
        return _named(done, folder, target)
    archive.check()
    try:
        check_writable(target.cache, folder, manifest.commit)
        missing = _missing(folder / "blobs", manifest)
        check_room(target.cache, sum(missing.values()), len(missing))
        with store_permissions(target.access):
            return _import(archive, target, on_progress, done)
    except OSError as error:
        raise _os_error(folder, error) from None


def _import(archive: Archive, target: Target, on_progress: OnProgress, done: Imported) -> Imported:
    manifest = archive.manifest
    folder = target.cache / repository_folder_name(manifest.repo)
    prepare_repository_folder(folder, target.access, target.group)
    with _locked(folder) as is_locked:
        if is_locked:
            _remove_leftovers(folder)
        try:
            for name in ("blobs", "snapshots", "refs", OWN_FOLDER):
                (folder / name).mkdir(exist_ok=True)
            store = _Blobs(folder / "blobs", manifest, target.access)
            store.look(on_progress)
            _unpack(archive, store, done.size, on_progress)
            # Before the links: a snapshot never stands there unverified.
            write_manifest(folder, replace(manifest, created=target.created, by=target.by))
            _link(folder, manifest)
        finally:
            if is_locked:
                _remove_if_empty(folder)
        done = replace(done, written=store.written, replaced=tuple(store.replaced))
        return _named(done, folder, target)


def _unpack(archive: Archive, store: _Blobs, total: int, on_progress: OnProgress) -> None:
    count = 0
    for path, content in archive.files():
        before = count

        def told(more: int, path: str = path, before: int = before) -> None:
            on_progress(Progress(before + more, total, path))

        count += store.take(path, content, told)


class _Blobs:
    """The blobs of one repository, while an archive is unpacked into them."""

    def __init__(self, folder: Path, manifest: Manifest, access: str) -> None:
        self.written = 0
        self.replaced: list[str] = []
        self._folder = folder
        self._files = manifest.files
        self._right: set[str] = set()
        self._shared = access == "group"

    def look(self, on_progress: OnProgress) -> None:
        """Find out which blobs lie there already, by reading them."""
        here = {}
        for kept in self._files.values():
            path = self._folder / blob_name(kept)
            with suppress(OSError):
                if path.stat().st_size == kept.size:
                    here[path] = kept
        total = sum(kept.size for kept in here.values())

        def told(done: int, _: int) -> None:
            on_progress(Progress(done, total, "what is there already"))

        hashed = hash_files([ToHash(path, kept.size) for path, kept in here.items()], told)
        for (path, kept), found in zip(here.items(), hashed, strict=True):
            if found.sha256 == kept.sha256:
                self._right.add(path.name)

    def take(self, path: str, content: Bytes, told: OnBytes) -> int:
        """Read a member to its end; keep it where it is right and not there yet; gives its size."""
        kept = self._files[path]
        name = blob_name(kept)
        if name in self._right:
            _copy(path, content, kept, None, told)
            return kept.size
        final = self._folder / name
        temporary = self._folder / f"{name}.{secrets.token_hex(4)}{_TEMPORARY}"
        try:
            with temporary.open("xb", buffering=0) as stream:
                _copy(path, content, kept, stream.fileno(), told)
                self._share(stream.fileno())
                os.fsync(stream.fileno())
            if final.exists():
                self.replaced.append(name)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        self._right.add(name)
        self.written += kept.size
        return kept.size

    def _share(self, descriptor: int) -> None:
        """The group of the folder, where that has no set-group-ID bit to give it."""
        group = self._folder.stat().st_gid
        if self._shared and os.fstat(descriptor).st_gid != group:
            with suppress(OSError):
                os.fchown(descriptor, -1, group)


def blob_name(kept: ManifestFile) -> str:
    """What a file is called among the blobs: the hub's hash, else its SHA-256."""
    return kept.hub_hash or kept.sha256


def _copy(
    path: str, content: Bytes, kept: ManifestFile, descriptor: int | None, told: OnBytes
) -> None:
    """Read a member to its end and hash it; write it where it is not there yet.

    Raises:
        HpcvlmError: ``archive-invalid`` when it is not what the manifest says.
    """
    ours, hub = hashlib.sha256(), hub_hasher(kept)
    count = 0
    while chunk := content.read(CHUNK):
        count += len(chunk)
        if count > kept.size:
            break
        ours.update(chunk)
        if hub is not None:
            hub.update(chunk)
        if descriptor is not None:
            _write_all(descriptor, chunk)
        told(count)
    if count != kept.size:
        more = "more than " if count > kept.size else f"{count:,} bytes instead of "
        raise invalid(
            f"{path!r} has {more}{kept.size:,} bytes: the archive is cut short or altered"
        )
    if ours.hexdigest() != kept.sha256:
        raise invalid(f"{path!r} is not what the manifest says: it was altered (the size is right)")
    if hub is not None and hub.hexdigest() != kept.hub_hash:
        raise invalid(f"{path!r}: the manifest's two hashes are not of the same content")


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_there(folder: Path, manifest: Manifest) -> bool:
    """Whether the snapshot lies there with the archive's files, by names, links and sizes.

    Raises:
        HpcvlmError: ``snapshot-differs`` where it does and they are others.
    """
    stored = [s for s in scan_repository(folder).snapshots if s.commit == manifest.commit]
    if not stored:
        return False
    by_path = {file.path: file for file in stored[0].files}
    wrong = [
        f"{path}: {problem}"
        for path, kept in sorted(manifest.files.items())
        if (problem := _difference(by_path.get(path), kept))
    ]
    if wrong:
        short = manifest.commit[:12]
        raise HpcvlmError(
            "snapshot-differs",
            f"{stored[0].path} is there and is not what the archive holds: {wrong[0]}",
            f"hpcvlm snapshots verify {manifest.repo} --revision {short} tells what is wrong with "
            f"it; hpcvlm snapshots prune {manifest.repo} --revision {short} makes room for the "
            "archive's",
            tuple(wrong[1:11]),
        )
    return True


def _difference(file: StoredFile | None, kept: ManifestFile) -> str:
    if file is None:
        return "it is not there"
    if file.blob is None:
        return "its blob is missing"
    if file.blob.size != kept.size:
        return f"{file.blob.size:,} bytes, {kept.size:,} in the archive"
    if file.link and kept.hub_hash and file.blob.name != kept.hub_hash:
        return f"links to {file.blob.name[:12]}…, it is {kept.hub_hash[:12]}… in the archive"
    return ""


def _missing(blobs: Path, manifest: Manifest) -> Mapping[str, int]:
    """Sizes of the blobs that are not there yet."""
    missing = {}
    for kept in manifest.files.values():
        name = blob_name(kept)
        try:
            is_there = (blobs / name).stat().st_size == kept.size
        except OSError:
            is_there = False
        if not is_there:
            missing[name] = kept.size
    return missing


def _link(folder: Path, manifest: Manifest) -> None:
    """Make the snapshot's folder beside, and put it into its place by one rename."""
    staged = folder / OWN_FOLDER / f"{_STAGED}{secrets.token_hex(4)}"
    staged.mkdir()
    try:
        for path, kept in manifest.files.items():
            place = staged / path
            place.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * (2 + path.count("/"))
            place.symlink_to(f"{up}blobs/{blob_name(kept)}")
        staged.rename(folder / "snapshots" / manifest.commit)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _named(done: Imported, folder: Path, target: Target) -> Imported:
    """Set the ref that is wanted, and read what names the snapshot now."""
    refs = scan_repository(folder).refs
    moved_from = ""
    if target.ref is not None and refs.get(target.ref) != done.commit:
        moved_from = refs.get(target.ref, "")
        path = folder / "refs" / target.ref
        try:
            with store_permissions(target.access):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, done.commit, file_mode(target.access))
        except OSError as error:
            raise unwritable(path, error) from None
        refs = {**refs, target.ref: done.commit}
    names = tuple(sorted(name for name, commit in refs.items() if commit == done.commit))
    return replace(done, moved_from=moved_from, refs=names)


def _check_ref(ref: str | None) -> None:
    if ref is not None and (not is_safe_path(ref) or not ref.isprintable() or not ref.isascii()):
        raise HpcvlmError("name-invalid", f"--ref {ref!r} is no branch or tag", "such as main")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the repository's folder against a second import; False where locks do not work."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HpcvlmError(
                "store-busy",
                f"{folder}: another import into it is running",
                "wait for it, then import again",
            ) from None
        except OSError:  # NFS and some parallel file systems lock no folders
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """What a killed import has left under temporary names."""
    with suppress(OSError):
        for path in (folder / "blobs").glob(f"*{_TEMPORARY}"):
            path.unlink()
        for path in (folder / OWN_FOLDER).glob(f"{_STAGED}*"):
            shutil.rmtree(path)


def _remove_if_empty(folder: Path) -> None:
    """A repository in which nothing has come to lie is not left behind."""
    with suppress(OSError):
        if any((folder / "snapshots").iterdir()):
            return
    for name in ("blobs", "snapshots", "refs", OWN_FOLDER, ""):
        with suppress(OSError):
            (folder / name).rmdir()


def _os_error(folder: Path, error: OSError) -> HpcvlmError:
    if error.errno in _FULL:
        return HpcvlmError(
            "store-space",
            f"{folder}: {error.strerror}: there is no space left, or no quota",
            "make room (hpcvlm snapshots prune), then import again: what was unpacked whole is "
            "not written twice",
        )
    return unwritable(folder, error)
