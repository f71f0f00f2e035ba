"""What was read of images, kept so that a file of gigabytes is read once.

One small file for each image by its path, and one for the facts of each digest, in a private
folder. They are written in one step, so that two commands at once leave the later one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcvlm.containers.model import FileKey, ImageFacts, Remembered
from hpcvlm.containers.sif import HEAD_BYTES
from hpcvlm.system.files import make_private_folder, read_text, write_atomically

_SCHEMA = 1
_CHUNK = 1 << 22


def file_key(path: Path) -> FileKey:
    """The file's state now.

    Raises:
        OSError: it cannot be looked at.
    """
    found = path.stat()
    return FileKey(str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns)


def read_head(path: Path) -> bytes:
    """The first bytes of an image, for `parse_sif`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Args:
        path: the file.
        on_bytes: told the number of bytes read so far.

    Raises:
        OSError: it cannot be read.
    """
    digest, read = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            read += len(chunk)
            on_bytes(read)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ImageStore:
    """The folder that this is kept in."""

    folder: Path

    def last(self, path: Path) -> Remembered | None:
        """What is remembered of the image at a path, of this state of the file or an earlier."""
        found = _read(self.folder / "files" / _name(str(path.absolute())))
        try:
            key, signers = FileKey(*found["key"]), tuple(map(str, found["signers"]))
            digest, recorded = str(found["digest"]), float(found["recorded"])
            return Remembered(key, digest, recorded, str(found["source"]), signers)
        except (KeyError, TypeError, ValueError):
            return None

    def now(self, path: Path) -> Remembered | None:
        """What is remembered, if the file is still the same."""
        found = self.last(path)
        try:
            same = found is not None and found.key == file_key(path)
        except OSError:
            return None
        return found if same else None

    def remember(self, what: Remembered) -> None:
        """Keep it.

        Raises:
            OSError: the folder cannot be written.
        """
        fields = {**what._asdict(), "key": list(what.key), "signers": list(what.signers)}
        self._write(self.folder / "files" / _name(what.key.path), fields)

    def facts(self, digest: str, how: str) -> ImageFacts | None:
        """The facts of an image by its digest, and how it was asked."""
        found = _read(self.folder / "facts" / _name(f"{digest} {how}"))
        if found.get("schema") != _SCHEMA:
            return None
        return ImageFacts(*(str(found.get(name, "")) for name in ImageFacts._fields))

    def remember_facts(self, digest: str, how: str, facts: ImageFacts) -> None:
        """Keep them.

        Raises:
            OSError: the folder cannot be written.
        """
        name = _name(f"{digest} {how}")
        self._write(self.folder / "facts" / name, {"digest": digest, **facts._asdict()})

    def _write(self, path: Path, fields: dict[str, object]) -> None:
        make_private_folder(path.parent, exist_ok=True)
        write_atomically(path, json.dumps({"schema": _SCHEMA, **fields}, indent=2) + "\n")


def _name(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:40] + ".json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
