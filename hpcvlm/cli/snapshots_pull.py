"""hpcvlm snapshots pull."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note, table
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from hpcvlm.ops.snapshots_pull import Prepared, Pulled
    from hpcvlm.snapshots.model import ListedFile
    from hpcvlm.snapshots.pull.pull import Progress, PullPlan

_MANY = 12
_MOMENT_S = 0.05


def pull(
    name: Annotated[
        str, typer.Argument(metavar="MODEL|REPO", help="A model's name, or a repository.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the model's own if left out.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Hub cache; the site's if left out.")
    ] = None,
    all_files: Annotated[
        bool, typer.Option("--all-files", help="Also files that a server does not need.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would come, and change nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Download a snapshot, or the rest of it, and check every hash.

    What was interrupted goes on where it stopped. Of weights that a repository has in several
    formats, only those come that a server reads.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_pull import PullRequest, do_pull, prepare_pull

    prepared = prepare_pull(PullRequest(name, revision, to, all_files), Context())
    if dry_run:
        _show_plan(prepared, as_json=as_json)
        return
    if not prepared.complete:
        _announce(prepared)
    with _bars(prepared) as bars:
        done = do_pull(prepared, bars)
    _show_done(prepared, done, as_json=as_json)


def _announce(prepared: Prepared) -> None:
    plan = prepared.plan
    kept = f" ({bytes_text(plan.kept)} more have come already)" if plan.kept else ""
    note(
        f"{plan.repo} at {plan.commit}: {_files(len(plan.fetch))}, "
        f"{bytes_text(plan.to_come)} to come{kept}"
    )
    if plan.left_out:
        note(f"left out, as no server reads them: {_left_out(plan)}; --all-files brings them, too")


def _left_out(plan: PullPlan) -> str:
    return f"{_files(len(plan.left_out))}, {bytes_text(_size(plan.left_out))}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _size(files: tuple[ListedFile, ...]) -> int:
    return sum(file.size for file in files)


class _Bars:
    """A bar on a terminal."""

    def __init__(self, prepared: Prepared) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bars: Bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        size = prepared.plan.to_come + prepared.plan.kept
        self._task = self._bars.add_task("", total=size, completed=prepared.plan.kept)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        text = f"{progress.files} of {progress.of_files} files"
        if progress.waiting:
            text += f", {progress.waiting} by another pull"
        self._bars.update(self._task, completed=progress.size, description=text)


class _Line:
    """Where there is no terminal: one line, if somebody else is at work."""

    told = False

    def __call__(self, progress: Progress) -> None:
        if progress.waiting and not self.told:
            self.told = True
            files = _files(progress.waiting)
            note(f"waiting for {files} that another process fetches just now")


def _bars(prepared: Prepared) -> AbstractContextManager[_Bars | _Line]:
    if prepared.complete or not sys.stderr.isatty():
        return nullcontext(_Line())
    return _Bars(prepared)


def _show_plan(prepared: Prepared, *, as_json: bool) -> None:
    plan = prepared.plan
    missing = {file.hub_hash for file in plan.missing}
    states = {file.path: "there" for file in plan.there}
    states |= {f.path: "to come" if f.hub_hash in missing else "there" for f in plan.fetch}
    states |= {file.path: "left out" for file in plan.left_out}
    files = sorted((*plan.there, *plan.fetch, *plan.left_out))
    if as_json:
        listed = [{**file._asdict(), "state": states[file.path]} for file in files]
        data_json({**_facts(prepared), "free_bytes": prepared.free, "files": listed})
        return
    rows = [(file.path, bytes_text(file.size), states[file.path]) for file in files]
    data(table(("FILE", "SIZE", "STATE"), rows))
    note(
        f"{plan.repo} at {plan.commit}: {bytes_text(plan.to_come)} to come, "
        f"{bytes_text(prepared.free)} free in {plan.folder.parent}"
    )


def _facts(prepared: Prepared) -> dict[str, object]:
    plan = prepared.plan
    return {
        "repo": plan.repo,
        "revision": plan.revision,
        "commit": plan.commit,
        "path": str(plan.path),
        "cache": str(plan.folder.parent),
        "licence": prepared.licence,
        "bytes_to_come": plan.to_come,
        "bytes_kept": plan.kept,
        "left_out": {"files": len(plan.left_out), "bytes": _size(plan.left_out)},
    }


def _show_done(prepared: Prepared, done: Pulled, *, as_json: bool) -> None:
    plan, progress = prepared.plan, done.progress
    rate = progress.received / progress.seconds if progress.seconds > _MOMENT_S else 0.0
    if as_json:
        now = {
            "already_complete": prepared.complete,
            "fetched_files": len(plan.fetch),
            "received_bytes": progress.received,
            "seconds": round(progress.seconds, 3),
            "bytes_per_s": round(rate),
            "problems": list(done.problems),
        }
        data_json({**_facts(prepared), **now})
        return
    if prepared.complete:
        note(f"{plan.repo} at {plan.commit} is complete here; nothing was fetched")
    else:
        speed = f", {bytes_text(rate)}/s" if rate else ""
        note(
            f"{plan.repo} at {plan.commit}: {bytes_text(progress.received)} in "
            f"{duration(progress.seconds)}{speed}; every file has the hub's hash"
        )
    for problem in done.problems[:_MANY]:
        note(f"problem: {problem}")
    if not done.verified:
        revision = plan.commit[:12]
        note(f"for a manifest of it: hpcvlm snapshots verify {plan.repo} --revision {revision}")
    data(str(plan.path))
