"""Reads archives of snapshots, tar and SquashFS, and believes nothing that they say of themselves.

Names, links and modes of an archive are never applied anywhere: a member is a stream of bytes that
the manifest either names, with its size and hash, or does not.
"""

from __future__ import annotations

import lzma
import re
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, Protocol

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.archive.archive import CHUNK
from hpcvlm.snapshots.archive.archived_manifest import (
    LARGEST_MANIFEST,
    MANIFEST_MEMBER,
    folders_of,
    invalid,
    manifest_from,
)
from hpcvlm.snapshots.archive.squashfs_tools import cat_member, list_lines, need_tool
from hpcvlm.snapshots.manifest import OWN_FOLDER
from hpcvlm.snapshots.model import Manifest

_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_MAGIC = b"hsqs"
# mode, owner, size (or device numbers), date, time, path: unsquashfs -lln.
_LINE = re.compile(
    r"(?P<mode>\S{10}) \d+/\d+ +(?P<size>\d+|\d+, *\d+) \d{4}-\d\d-\d\d \d\d:\d\d "
    r"squashfs-root(?:/(?P<path>.*))?"
)
_KINDS = {"l": "a symbolic link", "b": "a device", "c": "a device", "p": "a pipe", "s": "a socket"}


class Bytes(Protocol):
    """What a member is read from."""

    def read(self, size: int, /) -> bytes:
        """As a file's."""
        ...


class Member(NamedTuple):
    """What an archive says of one of its members.

    Attributes:
        path: as it stands there.
        kind: ``file``, ``folder``, or what else it is, for messages.
        mode: permission bits.
        size: bytes.
    """

    path: str
    kind: str
    mode: int
    size: int


class Archive(Protocol):
    """An archive whose manifest has been read."""

    manifest: Manifest

    def check(self) -> None:
        """Refuse a wrong member before anything is unpacked, where all can be seen."""
        ...

    def files(self) -> Iterator[tuple[str, Bytes]]:
        """Every file of the manifest once, in the archive's order."""
        ...


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive by what it holds, not by its name.

    Raises:
        HpcvlmError: ``archive-missing``, ``archive-invalid``, ``tool-missing``.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise HpcvlmError(
            "archive-missing",
            f"{path}: {error.strerror}",
            "name a file that hpcvlm snapshots export has written, or - for stdin",
        ) from None
    with stream:
        if _read(stream, len(_MAGIC), str(path)) == _MAGIC:
            yield SquashfsArchive(path, stream)
            return
        stream.seek(0)
        yield TarArchive(stream, str(path), seekable=True)


class TarArchive:
    """A tar stream; gzip, bzip2 and xz around it are taken off."""

    def __init__(self, stream: BinaryIO, name: str, *, seekable: bool = False) -> None:
        self._name = name
        self._stream = stream
        self._headers = _plain_headers(stream) if seekable else None
        try:
            tar = tarfile.open(fileobj=stream, mode="r|*", bufsize=CHUNK)  # noqa: SIM115 - read on
        except _BROKEN as error:
            raise invalid(f"{name}: it is no archive of a snapshot ({error})") from None
        self._tar = tar
        self.manifest = self._first()

    def check(self) -> None:
        """See every header where the file can be read twice; a pipe cannot."""
        if self._headers is None:
            return
        headers, why = self._headers
        seen = _Seen(self._name, self.manifest)
        for member in headers:
            seen.take(member)
        seen.finish(why)

    def files(self) -> Iterator[tuple[str, Bytes]]:
        """Every file of the manifest once."""
        seen = _Seen(self._name, self.manifest)
        why = ""
        while True:
            try:
                header = self._tar.next()
            except _BROKEN as error:
                header, why = None, str(error)
            if header is None:
                break
            self._tar.members.clear()  # type: ignore[attr-defined] # it would keep every header
            member = _member(header)
            if seen.take(member):
                yield member.path, _TarBytes(self._tar, header, self._name)
        seen.finish(why)

    def _first(self) -> Manifest:
        """The manifest, which comes before everything but its folder."""
        try:
            header = self._tar.next()
            if header is not None and header.isdir() and header.name == OWN_FOLDER:
                header = self._tar.next()
        except _BROKEN as error:
            raise invalid(f"{self._name}: the archive is cut short ({error})") from None
        if header is None or header.name != MANIFEST_MEMBER or not header.isreg():
            first = "nothing" if header is None else repr(header.name)
            raise invalid(
                f"{self._name}: it has no manifest: {first} stands where {MANIFEST_MEMBER} must be"
            )
        text = _TarBytes(self._tar, header, self._name).read(LARGEST_MANIFEST + 1)
        return manifest_from(text)


class SquashfsArchive:
    """A SquashFS image, read by unsquashfs: neither mounted nor extracted."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        # Superblock, bytes 40-47: bytes used (fs/squashfs/squashfs_fs.h of Linux).
        stream.seek(40)
        raw = stream.read(8)
        size = stream.seek(0, 2)
        used = struct.unpack("<Q", raw)[0] if len(raw) == 8 else size + 1  # noqa: PLR2004
        if used > size:
            raise invalid(f"{path}: the archive is cut short: it ends after {size:,} bytes")
        need_tool("unsquashfs", f"or serve it as it is: snapshot: {{path: {path}}} in a model file")
        self._members = self._list()
        own = [member for member in self._members if member.path == MANIFEST_MEMBER]
        if not own or own[0].kind != "file" or own[0].size > LARGEST_MANIFEST:
            raise invalid(f"{path}: it has no manifest: there is no {MANIFEST_MEMBER} in it")
        with cat_member(path, MANIFEST_MEMBER) as content:
            self.manifest = manifest_from(content.read(LARGEST_MANIFEST + 1))

    def check(self) -> None:
        """Look at the whole list."""
        seen = _Seen(str(self._path), self.manifest)
        for member in self._members:
            if member.path != MANIFEST_MEMBER:
                seen.take(member)
        seen.finish("")

    def files(self) -> Iterator[tuple[str, Bytes]]:
        """Every file of the manifest once, each by a process of its own."""
        for path in sorted(self.manifest.files):
            with cat_member(self._path, path) as content:
                yield path, content

    def _list(self) -> list[Member]:
        members = []
        for line in list_lines(self._path):
            parsed = _LINE.fullmatch(line)
            if parsed is None:
                raise invalid(f"{self._path}: a member that cannot be read: {line!r}")
            if parsed["path"] is not None:
                members.append(_listed(parsed))
        return members


class _Seen:
    """Holds the members of an archive against its manifest."""

    def __init__(self, name: str, manifest: Manifest) -> None:
        self._name = name
        self._files = manifest.files
        self._folders = {*folders_of(manifest.files), OWN_FOLDER}
        self._found: set[str] = set()

    def take(self, member: Member) -> bool:
        """Whether it is one of the manifest's files.

        Raises:
            HpcvlmError: ``archive-invalid`` for everything but those and their folders.
        """
        problem = self._problem(member)
        if problem:
            raise invalid(f"{self._name}: {member.path!r}: {problem}")
        if member.kind == "folder":
            return False
        self._found.add(member.path)
        return True

    def finish(self, why: str) -> None:
        """Raise when a file of the manifest did not come."""
        missing = sorted(set(self._files) - self._found)
        if missing or why:
            reason = f" ({why})" if why else ""
            what = f"{missing[0]!r} is missing" if missing else "its end is missing"
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise invalid(f"{self._name}: the archive is cut short: {what}{more}{reason}")

    def _problem(self, member: Member) -> str:
        path = member.path
        if path.startswith("/") or ".." in path.split("/"):
            return "the path leads out of the snapshot"
        if member.mode & _SPECIAL_BITS:
            return "its mode has set-user-ID, set-group-ID or sticky bits"
        if member.kind == "folder":
            return "" if path.rstrip("/") in self._folders else "a folder that holds no file of it"
        if member.kind != "file":
            return f"{member.kind} does not belong into an archive of a snapshot"
        return self._file_problem(member)

    def _file_problem(self, member: Member) -> str:
        kept = self._files.get(member.path)
        if kept is None:
            return "the manifest does not name it"
        if member.path in self._found:
            return "it is there twice"
        return "" if member.size == kept.size else f"{member.size:,} bytes, must be {kept.size:,}"


class _TarBytes:
    """A member's bytes; a broken archive is told as such."""

    def __init__(self, tar: tarfile.TarFile, header: tarfile.TarInfo, name: str) -> None:
        self._name = name
        self._path = header.name
        self._bytes: IO[bytes] | None = tar.extractfile(header)

    def read(self, size: int, /) -> bytes:
        """As a file's."""
        try:
            return self._bytes.read(size) if self._bytes is not None else b""
        except _BROKEN as error:
            raise invalid(
                f"{self._name}: the archive is cut short or damaged within {self._path!r} ({error})"
            ) from None


def _plain_headers(stream: BinaryIO) -> tuple[list[Member], str] | None:
    """Every header behind the manifest, and why there are no more; None for a compressed one."""
    members: list[Member] = []
    why = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, header in enumerate(tar):
                is_manifest = header.name == MANIFEST_MEMBER and number <= 1
                if not is_manifest:
                    members.append(_member(header))
    except _BROKEN as error:
        if not members:
            return None
        why = str(error)
    finally:
        stream.seek(0)
    return members, why


def _member(header: tarfile.TarInfo) -> Member:
    kinds = {
        tarfile.LNKTYPE: "a hard link",
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
    }
    kind = kinds.get(header.type, f"a member of type {header.type!r}")
    if header.isreg():
        kind = "file"
    elif header.isdir():
        kind = "folder"
    return Member(header.name, kind, header.mode, header.size)


def _listed(line: re.Match[str]) -> Member:
    letter, bits = line["mode"][0], line["mode"][1:]
    kind = {"-": "file", "d": "folder"}.get(letter, _KINDS.get(letter, "something unknown"))
    special = _SPECIAL_BITS if set(bits.lower()) & {"s", "t"} else 0
    return Member(line["path"], kind, special, int(line["size"]) if line["size"].isdigit() else 0)


def _read(stream: BinaryIO, size: int, name: str) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise invalid(f"{name}: it cannot be read ({error.strerror})") from None
