"""hpcvlm snapshots show: one snapshot, with everything that is known of it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_ls import ago, json_text, moment, printable, snapshot_dict

if TYPE_CHECKING:
    from hpcvlm.ops.snapshots_show import Shown
    from hpcvlm.snapshots.model import StoredFile

_LABEL = 14
_SHORT_HASH = 16
_HASHES = {64: "sha256", 40: "git"}  # by the number of digits of a blob's name


def show(
    name: Annotated[
        str, typer.Argument(metavar="MODEL|REPO", help="A model of the catalog, or a repository.")
    ],
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag, commit or its beginning; the model's own if left out."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show one snapshot: its files, hashes, licence and users.

    Also who has verified and who has pinned it, and what it lacks.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_show import show_snapshot

    ctx = Context()
    shown = show_snapshot(name, revision, ctx)
    if as_json:
        data_json(_as_dict(shown))
    else:
        data("\n".join(_as_text(shown, ctx.clock.now())))
    for line in shown.notes:
        note(f"note: {printable(line)}")


def _as_text(shown: Shown, now: float) -> Iterator[str]:
    snapshot = shown.snapshot
    yield paint(f"{printable(snapshot.repo)} {printable(snapshot.commit)}", "bold", sys.stdout)
    for label, value in _facts(shown, now):
        if value:
            yield from textwrap.wrap(
                printable(value),
                WIDTH,
                initial_indent=f"  {label:<{_LABEL}}",
                subsequent_indent=" " * (_LABEL + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
    rows = [_row(file) for file in snapshot.files]
    if rows:
        yield ""
        yield table(("FILE", "SIZE", "HASH"), rows)


def _facts(shown: Shown, now: float) -> Iterator[tuple[str, str]]:
    one, snapshot = shown.listed, shown.snapshot
    summary = one.summary
    manifest = summary.state.manifest
    yield "path", str(snapshot.path)
    yield "also in", ", ".join(str(path) for path in shown.elsewhere)
    yield "refs", ", ".join(snapshot.refs) or "none; it is known by its commit only"
    yield "size", _size(shown)
    yield "owner", one.owner
    yield "last use", _last_use(summary.last_use, now)
    yield "licence", shown.licence or "not named by its model card"
    verified = f"{moment(manifest.created)} by {manifest.by}" if manifest else ""
    yield "verified", verified or f"never; hpcvlm snapshots verify {snapshot.repo}"
    approval = one.approval
    because = f": {approval.why}" if approval and approval.why else ""
    yield "pinned", f"{approval.date} by {approval.by}{because}" if approval else "no"
    uses = "; ".join(f"{use.name} (job {use.job}, {use.user})" for use in one.uses)
    yield "used by", uses or ("no job" if shown.uses_known else "unknown")
    yield "catalog", ", ".join(one.models) or "no model"
    yield "state", "complete" if summary.complete else "incomplete"
    for problem in (*summary.state.missing, *summary.repository.problems):
        yield "", problem


def _size(shown: Shown) -> str:
    summary = shown.listed.summary
    shared = summary.size - summary.own
    also = f", of these {bytes_text(shared)} shared with other commits" if shared else ""
    return f"{bytes_text(summary.size)} in {len(shown.snapshot.files)} files{also}"


def _last_use(then: float | None, now: float) -> str:
    if then is None:
        return "unknown: the file system keeps no access times, or there are no weights"
    words = ago(then, now)
    return f"{moment(then)} ({words if words == 'today' else f'{words} ago'})"


def _row(file: StoredFile) -> tuple[str, str, str]:
    if file.blob is None:
        return (printable(file.path), "missing", "")
    return (printable(file.path), bytes_text(file.blob.size), _hash(file))


def _hash(file: StoredFile) -> str:
    """As much of the hub's hash as is needed to compare by eye; --json has all of it."""
    if file.blob is None or not file.link:
        return "plain file"
    kind = _HASHES.get(len(file.blob.name))
    return f"{kind} {file.blob.name[:_SHORT_HASH]}" if kind else printable(file.blob.name)


def _as_dict(shown: Shown) -> dict[str, object]:
    manifest = shown.listed.summary.state.manifest
    return {
        **snapshot_dict(shown.listed),
        "also_in": [json_text(path) for path in shown.elsewhere],
        "licence": shown.licence or None,
        "uses_known": shown.uses_known,
        "problems": [json_text(line) for line in shown.listed.summary.repository.problems],
        "notes": [json_text(line) for line in shown.notes],
        "manifest": {
            "created": moment(manifest.created),
            "by": manifest.by,
            "source": manifest.source,
        }
        if manifest
        else None,
        "files": [_file_dict(file, shown) for file in shown.snapshot.files],
    }


def _file_dict(file: StoredFile, shown: Shown) -> dict[str, object]:
    manifest = shown.listed.summary.state.manifest
    kept = manifest.files.get(file.path) if manifest else None
    return {
        "path": json_text(file.path),
        "size": file.blob.size if file.blob is not None else None,
        "blob": json_text(file.blob.name) if file.blob is not None and file.link else None,
        "link": json_text(file.link) or None,
        "sha256": kept.sha256 if kept else None,
    }
