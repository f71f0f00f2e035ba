"""Snapshots in one file: SquashFS images, as mksquashfs makes them of a snapshot folder.

They are looked into with unsquashfs (squashfs-tools), which needs no mount and no root.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.links import SnapshotFile

# The superblock begins with it: Documentation/filesystems/squashfs.rst of Linux.
_MAGIC = b"hsqs"
_ROOT = "squashfs-root/"
_COLUMNS = 6  # mode, owner, size, date, time, path

_NOT_FOUND = 127  # as shells say it, and `hpcvlm.system.process.run`

# As `hpcvlm.system.process.run`: argv to (exit code, stdout, stderr).
Runner = Callable[[list[str]], tuple[int, str, str]]


def is_image(path: Path) -> bool:
    """Whether a path is a file that begins as a SquashFS image does."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def list_members(image: Path, runner: Runner) -> tuple[SnapshotFile, ...]:
    """The files of an image, with their sizes, sorted.

    Raises:
        HpcvlmError: ``snapshot-image-unreadable``.
    """
    # By number: the name of an owner may hold blanks.
    text = _ask(image, runner, ["unsquashfs", "-lln", str(image)])
    found = []
    for line in text.splitlines():
        columns = line.split(maxsplit=_COLUMNS - 1)
        if line.startswith("-") and len(columns) == _COLUMNS:
            found.append(SnapshotFile(columns[-1].removeprefix(_ROOT), int(columns[2])))
    return tuple(sorted(found))


def read_member(image: Path, path: str, runner: Runner) -> str:
    """The text of one file of an image, such as its config.json.

    Raises:
        HpcvlmError: ``snapshot-image-unreadable``, also when there is no such file in it.
    """
    return _ask(image, runner, ["unsquashfs", "-cat", str(image), path])


def _ask(image: Path, runner: Runner, argv: list[str]) -> str:
    # A file that lies there as a pipe or a truncated one would make unsquashfs wait or guess.
    if not is_image(image):
        raise _unreadable(image, "it is no SquashFS image", "make it with mksquashfs")
    code, stdout, stderr = runner(argv)
    if code == 0:
        return stdout
    said = (stderr.strip().splitlines() or ["no reason given"])[-1]
    remedy = f"unsquashfs -s {shlex.quote(str(image))} tells more"
    if code == _NOT_FOUND:
        remedy = "install squashfs-tools"
    raise _unreadable(image, said, remedy)


def _unreadable(image: Path, why: str, remedy: str) -> HpcvlmError:
    return HpcvlmError(
        "snapshot-image-unreadable", f"snapshot.path: {image} cannot be read: {why}", remedy
    )
