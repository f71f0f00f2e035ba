"""hpcvlm snapshots verify: whether what lies there is still what the hub gave."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import coloured, data, data_json, duration, note, paint, table
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from hpcvlm.ops.snapshots_verify import RepairPlan, Verified
    from hpcvlm.snapshots.pull.pull import Progress as Fetched
    from hpcvlm.snapshots.verify.findings import Finding
    from hpcvlm.snapshots.verify.result import Progress, Verification

_SHORT = 12
_SILENT_BYTES = 10**9  # less is read before anybody wonders
_SILENT_S = 2.0
_WITNESS = {
    "hub": "the hub's list",
    "listing": "the hub's list, kept when it was pulled",
    "blobs": "the names of its blobs, which are the hub's hashes",
    "manifest": "its manifest",
}


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL|REPO]", help="Model, alias or repository.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every snapshot of all caches.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag, commit or the beginning of a commit.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Names, links, sizes and headers only.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Compare with the hub's own list of files, too.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch again what is damaged or missing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare every byte of a snapshot with the hub's hashes.

    A manifest is kept of what is right. Exit 1 if a snapshot is not whole.
    """
    from hpcvlm.errors import ExitCode, HpcvlmError
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_verify import VerifyRequest
    from hpcvlm.ops.snapshots_verify import verify as verify_each

    if (name is None) != every:
        raise HpcvlmError(
            "option-invalid",
            "name one snapshot, or all of them" if every else "no snapshot is named",
            "hpcvlm snapshots verify MODEL, or: hpcvlm snapshots verify --all",
        )
    if every and revision is not None:
        raise HpcvlmError("option-invalid", "--revision goes with one snapshot, not with --all")
    request = VerifyRequest(name, revision, quick, online, repair)
    done: list[Verified] = []
    try:
        with _Progress() as progress:
            for verified in verify_each(request, Context(), progress, progress.repair):
                done.append(verified)
                progress.next()
    except KeyboardInterrupt:
        _report(done, every=every, as_json=as_json)
        note(_left(done))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except HpcvlmError:
        if done:
            _report(done, every=every, as_json=as_json)
        raise
    _report(done, every=every, as_json=as_json)
    if not all(verified.found.whole for verified in done):
        raise typer.Exit(ExitCode.FAILED)


def _left(done: list[Verified]) -> str:
    if not done:
        return "interrupted: nothing was verified, and nothing was written"
    return f"interrupted: {done[-1].number} of {done[-1].of} were verified; nothing is half written"


def _report(done: list[Verified], *, every: bool, as_json: bool) -> None:
    if as_json:
        found = [_as_dict(verified) for verified in done]
        data_json(found if every else found[0] if found else None)
        return
    if every:
        _summary([verified.found for verified in done])
        return
    for verified in done:
        _one(verified.found)


def _one(found: Verification) -> None:
    where = f" ({', '.join(found.refs)})" if found.refs else ""
    word = (
        paint("whole", "green", sys.stdout) if found.whole else paint("broken", "red", sys.stdout)
    )
    data(f"{found.repo} at {found.commit[:_SHORT]}{where}: {word}")
    data(f"  {found.path}")
    data(f"  {_what_was_done(found)}")
    if manifest := _manifest(found):
        data(f"  manifest: {manifest}")
    for finding in found.findings:
        data(f"  {_told(finding)}")
    if remedy := _remedy(found):
        note(remedy)


def _told(finding: Finding) -> str:
    if finding.problem:
        return paint(finding.sentence, "red", sys.stdout)
    return f"warning: {finding.sentence}"


def _what_was_done(found: Verification) -> str:
    files = "1 file" if found.files == 1 else f"{found.files} files"
    size = f"{files}, {bytes_text(found.size)}"
    if found.depth == "quick":
        return f"{size}; names, links, sizes and headers were looked at, contents were not"
    if found.compared_with == "nothing":
        return f"{size}; every byte was read, and there was nothing to compare with"
    return f"{size}; every byte was compared with {_WITNESS[found.compared_with]}"


def _manifest(found: Verification) -> str:
    return {
        "same": f"as it was verified before, {found.digest}",
        "written": f"written, {found.digest}",
        "extended": f"written anew with the files that were added, {found.digest}",
        "not written": f"not written, so the next time every byte is read again: "
        f"{found.manifest_note}",
    }.get(found.manifest, "")


def _remedy(found: Verification) -> str:
    fetched = {finding.path for finding in found.problems if finding.fetch}
    if not fetched:
        return ""
    what = "the file" if len(fetched) == 1 else f"the {len(fetched)} files"
    return (
        f"hpcvlm snapshots verify {found.repo} --revision {found.commit[:_SHORT]} --repair "
        f"fetches {what} again"
    )


def _summary(all_found: list[Verification]) -> None:
    if not all_found:
        note("there is no snapshot in any cache; hpcvlm snapshots pull REPO fetches one")
        return
    rows = [
        (
            found.repo,
            found.commit[:_SHORT],
            str(found.files),
            bytes_text(found.size),
            "whole" if found.whole else "broken",
            _column(found),
        )
        for found in all_found
    ]
    data(table(("REPO", "COMMIT", "FILES", "SIZE", "IS", "MANIFEST"), rows, whole=(0, 1)))
    broken = [found for found in all_found if not found.whole]
    for found in all_found:
        if found.findings:
            data(f"\n{found.path}")
            for finding in found.findings:
                data(f"  {_told(finding)}")
    for found in broken:
        if remedy := _remedy(found):
            note(remedy)
    total = sum(found.size for found in all_found)
    count = "1 snapshot" if len(all_found) == 1 else f"{len(all_found)} snapshots"
    note(f"{count}, {bytes_text(total)}; {len(broken) or 'none'} broken")


def _column(found: Verification) -> str:
    if found.manifest == "none":
        return "-"
    return {"not written": "cannot be written"}.get(found.manifest, found.manifest)


def _as_dict(verified: Verified) -> dict[str, object]:
    found = verified.found
    plan = verified.repaired
    return {
        "repo": found.repo,
        "commit": found.commit,
        "path": str(found.path),
        "refs": list(found.refs),
        "depth": found.depth,
        "whole": found.whole,
        "problems": [_finding(finding) for finding in found.problems],
        "warnings": [_finding(finding) for finding in found.warnings],
        "files": found.files,
        "size": found.size,
        "read": found.read,
        "compared_with": found.compared_with,
        "manifest": found.manifest,
        "manifest_note": found.manifest_note,
        "digest": found.digest,
        "repaired": list(plan.paths) if plan is not None else [],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "path": finding.path,
        "kind": finding.kind,
        "text": finding.text,
        "stops_launch": finding.stops,
        "repairable": finding.fetch,
    }


class _Progress:
    """A bar with bytes, rate and time left on a terminal; a line before and after elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._begun = 0.0
        self._what = ""
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far the reading is."""
        self._show(f"{progress.what}: reading", progress.done, progress.total)

    def repair(self, plan: RepairPlan) -> Callable[[Fetched], None]:
        """Say what is about to be fetched; gives what shows how far that is."""
        self.next()
        files = "1 file" if len(plan.paths) == 1 else f"{len(plan.paths)} files"
        note(f"{plan.repo}: fetching {files}, {bytes_text(plan.size)}: {', '.join(plan.paths)}")
        return lambda now: self._show(f"{plan.repo}: fetching", now.size, now.of_size)

    def next(self) -> None:
        """One snapshot is done."""
        what, done, seconds = self._what, self._done, time.monotonic() - self._begun
        self._stop()
        if what and seconds >= _SILENT_S:
            rate = bytes_text(done / seconds)
            note(f"{what} took {duration(seconds)}: {bytes_text(done)}, {rate}/s")

    def _show(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._stop()
            self._what, self._begun = what, time.monotonic()
            self._begin(what, total)
        self._done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _begin(self, what: str, total: int) -> None:
        if not sys.stderr.isatty():
            if total >= _SILENT_BYTES:
                note(f"{what} {bytes_text(total)}")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, no_color=not coloured()),
            transient=True,
        )
        self._bar.add_task(what, total=total)
        self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._what = None, ""
