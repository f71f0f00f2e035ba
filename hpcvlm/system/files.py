"""The only door to files: atomic writes, private modes, tails."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_atomically(path: Path, content: str | bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a part.

    Raises:
        OSError: the folder is missing, full or not writable; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            os.fchmod(stream.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def make_private_folder(path: Path, *, exist_ok: bool = False) -> None:
    """Make a folder that only its owner can enter (0700), with its parents.

    Raises:
        FileExistsError: it is there already and `exist_ok` is false; the call is atomic, so of
            two callers only one succeeds.
    """
    # mkdir's own `parents` gives its mode to the last folder alone.
    for parent in reversed([folder for folder in path.parents if not folder.exists()]):
        parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=exist_ok)
    path.chmod(PRIVATE_FOLDER)
    # An ACL that the folder above hands on takes the place of the umask for all that is made here.
    with suppress(OSError):
        os.removexattr(path, "system.posix_acl_default")


def read_text(path: Path) -> str | None:
    """The text of a file, or None when it is not there (or not readable)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_bytes(path: Path) -> bytes | None:
    """The content of a file, or None when it is not there (or not readable)."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def read_tail(path: Path, most_bytes: int = 65536) -> str:
    """The end of a file as text; empty when it is not there.

    Args:
        path: the file.
        most_bytes: how much of the end is read.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most_bytes))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


class FolderOfTexts:
    """The YAML files of one folder, read only when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """File names with their .yaml ending, sorted; empty when the folder is missing."""
        try:
            entries = sorted(entry.name for entry in self.folder.iterdir())
        except OSError:
            return []
        return [name for name in entries if name.endswith((".yaml", ".yml"))]

    def read(self, name: str) -> str | None:
        """The text of one file, or None when it is not there."""
        return read_text(self.folder / name)

    def path(self, name: str) -> str:
        """Where the file lies, for messages."""
        return str(self.folder / name)
