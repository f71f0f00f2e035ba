"""mksquashfs and unsquashfs of squashfs-tools, as streams: nothing is unpacked on the way.

mksquashfs reads tar since version 4.5 (2021), and unsquashfs can write one file to its stdout.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.archive.archived_manifest import invalid
from hpcvlm.system.process import NOT_FOUND, run

_LEAST = (4, 5)
# Weights are not compressed. Measured with squashfs-tools 4.5.1 on 256 MB of normally distributed
# bfloat16: zstd saves 23 % and reads at half the speed, gzip 21 % at a tenth, lz4 nothing.
# Times, owners and modes are fixed, so that the same snapshot is the same image.
_MAKE = (
    *("-tar", "-noappend", "-no-recovery", "-no-progress", "-quiet", "-exit-on-error"),
    *("-noI", "-noD", "-noF", "-noX", "-no-fragments", "-no-xattrs", "-b", "1M"),
    *("-all-root", "-root-mode", "0755", "-mkfs-time", "0", "-all-time", "0"),
    *("-mem", "128M"),
)
_PLAIN = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def need_tool(program: str, otherwise: str) -> None:
    """Refuse where a program is missing or too old.

    Args:
        program: ``mksquashfs`` or ``unsquashfs``.
        otherwise: what can be done without it, for the message.

    Raises:
        HpcvlmError: ``tool-missing``.
    """
    done = run([program, "-version"], env=_environment())
    found = re.search(r"version (\d+)\.(\d+)\S*", done.stdout + done.stderr)
    if done.code == NOT_FOUND or found is None:
        raise HpcvlmError(
            "tool-missing",
            f"there is no {program} here",
            f"install squashfs-tools 4.5 or newer, {otherwise}",
        )
    if (int(found[1]), int(found[2])) < _LEAST:
        raise HpcvlmError(
            "tool-missing",
            f"{program} here is {found[0]}; 4.5 is the first that can do it without a copy on disk",
            f"install squashfs-tools 4.5 or newer, {otherwise}",
        )


@contextmanager
def make_image(path: Path) -> Iterator[BinaryIO]:
    """Gives the stream that takes the tar; at the end of the block the image is whole.

    Raises:
        HpcvlmError: ``export-failed`` with what mksquashfs said.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ["mksquashfs", "-", str(path), *_MAKE],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is ours to handle
        )
        stream = cast("BinaryIO", process.stdin)
        broke = False
        try:
            try:
                yield stream
                stream.close()
            except BrokenPipeError:
                broke = True
            if process.wait() != 0 or broke:
                raise _failed(path, _said(said))
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                stream.close()
            process.wait()


def list_lines(image: Path) -> list[str]:
    """The members of an image, as ``unsquashfs -lln`` prints them.

    Raises:
        HpcvlmError: ``archive-invalid`` where it cannot be read.
    """
    done = run(["unsquashfs", "-lln", str(image)], env=_environment(), timeout_s=600)
    if done.code != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise invalid(f"{image}: it cannot be read: {said[-1] if said else 'no reason given'}")
    return [line for line in done.stdout.split("\n") if line]


@contextmanager
def cat_member(image: Path, member: str) -> Iterator[BinaryIO]:
    """The bytes of one file of an image.

    Raises:
        HpcvlmError: ``archive-invalid`` where it cannot be read to its end.
    """
    with tempfile.TemporaryFile() as said:
        argv = ["unsquashfs", "-da", "32", "-fr", "16", "-no-wildcards", "-cat", str(image), member]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=_environment(),
            start_new_session=True,
        )
        stream = cast("BinaryIO", process.stdout)
        try:
            yield stream
            at_end = not stream.read(1)
            if at_end and process.wait() != 0:
                raise invalid(f"{image}: {member!r} cannot be read: {_said(said)}")
        finally:
            process.kill()
            stream.close()
            process.wait()


def _failed(path: Path, said: str) -> HpcvlmError:
    return HpcvlmError(
        "export-failed",
        f"mksquashfs could not write {path}: {said}",
        "df -h tells the free space there; a .tar needs no other program",
    )


def _said(stream: BinaryIO) -> str:
    stream.seek(0)
    lines = stream.read(65536).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it gave no reason"


def _environment() -> dict[str, str]:
    return {**os.environ, **_PLAIN}
