"""hpcvlm snapshots export and import: a snapshot as one file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from hpcvlm.snapshots.archive.archive import Progress

_SHORT = 12
_SILENT_BYTES = 10**9  # less is done before anybody wonders


def export_snapshot(
    name: Annotated[
        str, typer.Argument(metavar="MODEL|REPO", help="Model name, alias or repository.")
    ],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="FILE.tar, FILE.sqsh, or - for a tar on stdout.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag, commit or the beginning of a commit.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a snapshot into one file, with its manifest.

    The file's SHA-256 is printed as sha256sum prints it.
    """
    from dataclasses import asdict

    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_archive import STREAM, export

    if as_json and file == STREAM:
        raise HpcvlmError(
            "option-invalid", "--json and the archive cannot both go to stdout", "leave --json out"
        )
    begun = time.monotonic()
    try:
        with _Progress("exporting") as progress:
            done = export(name, file, Context(), progress, revision=revision, force=force)
    except KeyboardInterrupt:
        raise HpcvlmError(
            "interrupted", "interrupted: nothing is left of the archive", "export again"
        ) from None
    seconds = time.monotonic() - begun
    note(
        f"{done.repo} at {done.commit[:_SHORT]}: {_files(done.files)}, "
        f"{_amount(done.size, seconds)}; manifest {done.digest}"
    )
    if done.manifest_note == "written":
        note("every byte was as the hub has it; the manifest is now kept in the store, too")
    elif done.manifest_note:
        note(f"every byte was as the hub has it; {done.manifest_note}")
    if file == STREAM:
        note(f"SHA-256 of the archive: {done.sha256}")
    elif as_json:
        data_json({**asdict(done), "seconds": round(seconds, 3)})
    else:
        data(f"{done.sha256}  {file}")


def import_snapshot(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What export has written, or - for stdin.")
    ],
    to: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Hub cache; the site's store if left out.")
    ] = None,
    ref: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch that names it here, such as main.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Unpack an archive into a hub cache, and check every hash.

    Files are compared with the manifest in it. What is wrong never looks like a snapshot.
    """
    from dataclasses import asdict

    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_archive import import_file

    begun = time.monotonic()
    try:
        with _Progress("importing") as progress:
            done = import_file(file, Context(), progress, to=to, ref=ref)
    except KeyboardInterrupt:
        raise HpcvlmError(
            "interrupted",
            "interrupted: no snapshot was added; files that were unpacked whole are kept as blobs",
            "the same import again goes on from there; hpcvlm snapshots prune removes them",
        ) from None
    seconds = time.monotonic() - begun
    if done.already:
        note(f"{done.repo} at {done.commit[:_SHORT]} is there already; nothing was unpacked")
        note(f"hpcvlm snapshots verify {done.repo} compares every byte of it")
    else:
        note(
            f"{done.repo} at {done.commit[:_SHORT]}: {_files(done.files)}, "
            f"{_amount(done.size, seconds)}, {bytes_text(done.written)} of it new; "
            f"manifest {done.digest}"
        )
    for blob in done.replaced:
        note(f"blob {blob[:_SHORT]} lay there with a wrong content and was replaced")
    if done.moved_from:
        note(f"{ref} named {done.moved_from[:_SHORT]} before")
    if not done.refs:
        note(
            "no branch names it: a model file needs its commit as snapshot.revision, or repeat "
            "with --ref main"
        )
    if as_json:
        data_json({**asdict(done), "seconds": round(seconds, 3)})
    else:
        data(str(done.path))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _amount(size: int, seconds: float) -> str:
    """Bytes, and their rate where it means something."""
    rate = f" at {bytes_text(size / seconds)}/s" if seconds > 1 else ""
    return f"{bytes_text(size)}{rate}"


class _Progress:
    """A bar on a terminal; one line at the beginning elsewhere, where it takes long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Bar | None = None
        self._told = False
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._told and kind is None:
            note(f"done after {duration(time.monotonic() - self._begun)}")

    def __call__(self, step: Progress) -> None:
        """Show one step."""
        if step.total < _SILENT_BYTES:
            return
        if not sys.stderr.isatty():
            if not self._told:
                note(f"{self._what} {bytes_text(step.total)}")
                self._told = True
            return
        bar = self._bar or self._start(step.total)
        bar.update(bar.task_ids[0], completed=step.done, total=step.total, description=step.name)

    def _start(self, total: int) -> Bar:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._bar.add_task(self._what, total=total)
        return self._bar
