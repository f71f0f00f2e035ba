"""A snapshot as one file: what goes into it, and the tar stream that holds it.

The archive holds the files of the snapshot at its top, links followed, behind the manifest that
they were verified with, as ``.hpcvlm/manifest.json``. It depends on the snapshot alone: names are
sorted, times are 0, everything belongs to root, and the manifest does not say who verified or when.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, cast

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.archive.archived_manifest import (
    MANIFEST_MEMBER,
    SHA1,
    SHA256,
    check_manifest,
    folders_of,
    manifest_bytes,
)
from hpcvlm.snapshots.listing.completeness import look_at
from hpcvlm.snapshots.manifest import OWN_FOLDER
from hpcvlm.snapshots.model import Manifest, ManifestFile, StoredFile, StoredSnapshot

CHUNK = 1 << 20


class Progress(NamedTuple):
    """How far a long step is.

    Attributes:
        done: bytes.
        total: bytes.
        name: what is being done now.
    """

    done: int
    total: int
    name: str


OnProgress = Callable[[Progress], None]


class Sink(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of the data."""
        ...


class ArchiveFile(NamedTuple):
    """One file that goes into an archive.

    Attributes:
        path: in the snapshot.
        source: where its content lies.
        kept: what the content must be.
    """

    path: str
    source: Path
    kept: ManifestFile


@dataclass(frozen=True, slots=True, repr=False)
class Contents:
    """What an archive will hold.

    Attributes:
        manifest: as the archive holds it: of nobody and of no time.
        files: sorted by path.
        was_verified: whether the snapshot has a manifest in its store already.
    """

    manifest: Manifest
    files: tuple[ArchiveFile, ...]
    was_verified: bool

    @property
    def size(self) -> int:
        """Bytes of the files, which is the archive's but for some kilobytes a file."""
        return sum(file.kept.size for file in self.files)


def contents_of(stored: StoredSnapshot) -> Contents:
    """What an archive of a snapshot holds; small files are read where nobody has verified yet.

    Raises:
        HpcvlmError: ``snapshot-damaged`` where something is missing, was added or differs in size;
            ``snapshot-unverified`` where nothing says what a file must be.
    """
    seen = look_at(stored)
    if seen.missing:
        raise damaged(stored.repo, stored.commit, seen.missing)
    if seen.manifest is not None:
        files = dict(seen.manifest.files)
        here = {file.path for file in stored.files}
        added = [f"{path}: added since it was verified" for path in sorted(here - set(files))]
        if added:
            raise damaged(stored.repo, stored.commit, added)
    else:
        files = {file.path: _expected(file, stored) for file in stored.files}
    # The same bytes whoever verified, and when: the digest does not depend on that either.
    manifest = Manifest(stored.repo, stored.commit, files, created=0.0, by="", source="blobs")
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise damaged(stored.repo, stored.commit, [str(error)]) from None
    members = tuple(
        ArchiveFile(path, stored.path / path, kept) for path, kept in sorted(files.items())
    )
    return Contents(manifest, members, was_verified=seen.manifest is not None)


def write_tar(contents: Contents, output: Sink, on_progress: OnProgress) -> str:
    """Write the archive; every byte is hashed on its way.

    Args:
        contents: what it holds.
        output: takes the tar stream; it is neither flushed nor closed.
        on_progress: told after every megabyte.

    Returns:
        SHA-256 of the stream.

    Raises:
        HpcvlmError: ``snapshot-damaged`` for a file that is not what the manifest says, or cannot
            be read; what was written until then is no archive.
        OSError: the output's.
    """
    counted = _Hashed(output)
    text = manifest_bytes(contents.manifest)
    done = 0
    total = contents.size
    # Of the output, only write and tell are used; of a file, only read.
    counting, pax = cast("Any", counted), tarfile.PAX_FORMAT
    with tarfile.TarFile(fileobj=counting, mode="w", format=pax, copybufsize=CHUNK) as tar:
        tar.addfile(_header(OWN_FOLDER, folder=True))
        tar.addfile(_header(MANIFEST_MEMBER, len(text)), BytesIO(text))
        for folder in folders_of(contents.manifest.files):
            tar.addfile(_header(folder, folder=True))
        for file in contents.files:
            before = done

            def told(count: int, name: str = file.path, before: int = before) -> None:
                on_progress(Progress(before + count, total, name))

            with _checked(file, contents.manifest, told) as reader:
                tar.addfile(_header(file.path, file.kept.size), cast("Any", reader))
                reader.finish()
            done += file.kept.size
    return counted.digest()


def damaged(repo: str, commit: str, problems: Iterable[str]) -> HpcvlmError:
    """What to tell of a snapshot that is not what it should be."""
    found = tuple(problems)
    more = (f"and {len(found) - 10} more",) if len(found) > 10 else ()  # noqa: PLR2004
    return HpcvlmError(
        "snapshot-damaged",
        f"{repo} at {commit[:12]} is not whole: {found[0]}",
        f"hpcvlm snapshots verify {repo} --revision {commit[:12]} --repair",
        (*found[1:10], *more),
    )


def hub_hasher(kept: ManifestFile) -> Any:  # noqa: ANN401 - hashlib names no type for it
    """A hasher for the hub's own hash of a file: SHA-1 of a Git blob; None where it is SHA-256.

    A Git blob is hashed behind its kind and size: git-scm.com/book, 10.2 Git Objects.
    """
    if not SHA1.fullmatch(kept.hub_hash):
        return None
    return hashlib.sha1(f"blob {kept.size}\0".encode(), usedforsecurity=False)


def open_unseen(path: Path) -> BinaryIO:
    """Open a file without counting as its use, where that is allowed (O_NOATIME, open(2))."""
    with suppress(PermissionError):
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME), "rb", 0)
    return path.open("rb", buffering=0)


def verified_manifest(contents: Contents, created: float, by: str) -> Manifest:
    """The manifest for a store, of whoever has just read every byte."""
    return replace(contents.manifest, created=created, by=by)


def _header(path: str, size: int = 0, *, folder: bool = False) -> tarfile.TarInfo:
    header = tarfile.TarInfo(path)
    header.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    header.mode = 0o755 if folder else 0o644
    header.size = size
    return header


def _expected(file: StoredFile, stored: StoredSnapshot) -> ManifestFile:
    """What a file must be, by the name of its blob; a Git blob is read, since it is small."""
    blob = file.blob
    name = blob.name if blob is not None and file.link else ""
    if blob is not None and SHA256.fullmatch(name):
        return ManifestFile(blob.size, name, name)
    if blob is None or not SHA1.fullmatch(name):
        raise HpcvlmError(
            "snapshot-unverified",
            f"{stored.path / file.path}: nothing here says what it must be: it is no link to a "
            "blob of the hub, and the snapshot was never verified",
            f"hpcvlm snapshots verify {stored.repo} --revision {stored.commit[:12]} --online",
        )
    kept = ManifestFile(blob.size, "", name)
    ours, hub = hashlib.sha256(), hub_hasher(kept)
    with _readable(stored.path / file.path, stored.repo, stored.commit) as stream:
        while chunk := stream.read(CHUNK):
            ours.update(chunk)
            hub.update(chunk)
    if hub.hexdigest() != name:
        raise damaged(stored.repo, stored.commit, [f"{file.path}: its content is not the hub's"])
    return kept._replace(sha256=ours.hexdigest())


def _readable(path: Path, repo: str, commit: str) -> BinaryIO:
    try:
        return open_unseen(path)
    except OSError as error:
        raise damaged(repo, commit, [f"{path}: {error.strerror}"]) from None


def _checked(
    file: ArchiveFile, manifest: Manifest, on_bytes: Callable[[int], None]
) -> _CheckedReader:
    stream = _readable(file.source, manifest.repo, manifest.commit)
    return _CheckedReader(file, manifest, stream, on_bytes)


class _CheckedReader:
    """Gives a file's bytes, and finds out on the way whether they are the right ones."""

    def __init__(
        self,
        file: ArchiveFile,
        manifest: Manifest,
        stream: BinaryIO,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._file = file
        self._of = manifest
        self._stream = stream
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """All of so many bytes; a file that ends before is a damaged one."""
        parts = []
        wanted = size
        while wanted:
            try:
                part = self._stream.read(wanted)
            except OSError as error:
                raise self._wrong(f"cannot be read ({error.strerror})") from None
            self._count += len(part)
            if not part:
                raise self._wrong(f"ends after {self._count} of {self._file.kept.size} bytes")
            parts.append(part)
            wanted -= len(part)
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        self._hash.update(chunk)
        self._on_bytes(self._count)
        return chunk

    def finish(self) -> None:
        """Raise when what was read is not the file of the manifest."""
        if self._stream.read(1):
            raise self._wrong(f"is longer than {self._file.kept.size} bytes")
        if self._hash.hexdigest() != self._file.kept.sha256:
            raise self._wrong("its content is not what it must be (the size is right)")

    def _wrong(self, what: str) -> HpcvlmError:
        return damaged(self._of.repo, self._of.commit, [f"{self._file.path}: {what}"])


class _Hashed:
    """Passes everything on, and knows its SHA-256."""

    def __init__(self, output: Sink) -> None:
        self._output = output
        self._hash = hashlib.sha256()
        self._count = 0

    def write(self, data: bytes) -> int:
        """Pass on."""
        self._output.write(data)
        self._hash.update(data)
        self._count += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._count

    def digest(self) -> str:
        """Hexadecimal digits."""
        return self._hash.hexdigest()
