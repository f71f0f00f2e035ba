"""hpcvlm snapshots prune: deletes what nobody needs, after it has said what that is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.deletion import carry_out, confirm, done_as_dict, tell
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_ls import ago, json_text, moment, printable

if TYPE_CHECKING:
    from hpcvlm.ops.snapshots_prune import Prepared
    from hpcvlm.snapshots.prune.delete import Outcome
    from hpcvlm.snapshots.prune.model import Kept, Row

_SHORT = 12
_MOST_KEPT = 20


def prune(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL|REPO]", help="Only of this model or repository."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Only this branch, tag or commit.")] = None,
    unused_for: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Snapshots that nobody has read for so long, e.g. 90d."),
    ] = None,
    unreferenced: Annotated[
        bool,
        typer.Option(
            "--unreferenced", help="Snapshots that no branch, tag or model of the catalog names."
        ),
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Unfinished downloads older than a day.")
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Blobs older than a day that no snapshot links to.")
    ] = False,
    free: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Only until this is free, e.g. 2TB: unfinished and orphans, then the longest "
            "unused of what else was asked for, or of all snapshots.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every snapshot of the model or repository.")
    ] = False,
    cache: Annotated[
        list[Path] | None,
        typer.Option(help="In this hub cache instead of the configured ones; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Delete snapshots and leftovers; never what is pinned or in use.

    Without a policy: unfinished downloads and orphans, which no snapshot needs. Of several
    policies each adds what it names; --free ends it when there is room enough.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_prune import PruneRequest, plan_of, refuse_if_unsure

    ctx = Context()
    request = PruneRequest(
        name=name,
        revision=revision,
        unused_for=unused_for,
        unreferenced=unreferenced,
        incomplete=incomplete,
        orphans=orphans,
        free=free,
        everything=everything,
        caches=tuple(path.expanduser() for path in cache or ()),
    )
    prepared = plan_of(request, ctx)
    now = ctx.clock.now()
    if not as_json:
        _show(prepared, now)
    for line in prepared.notes:
        note(f"note: {printable(line)}")
    if dry_run or not prepared.plan.rows:
        if as_json:
            data_json(_as_dict(prepared, None))
        _end_of_plan(prepared)
        return
    refuse_if_unsure(prepared)
    _short(prepared)
    confirm(prepared.plan.size, yes=yes)
    _delete(prepared, as_json=as_json)


def _show(prepared: Prepared, now: float) -> None:
    plan = prepared.plan
    if plan.rows:
        header = ("WHAT", "REPO", "COMMIT", "FREES", "LAST USE", "OWNER", "WHY")
        data(table(header, [_row(row, now) for row in plan.rows], whole=(1, 2, 3)))
    wanted = [kept for kept in plan.kept if kept.wanted]
    for kept in wanted[:_MOST_KEPT]:
        note(_kept_line(kept))
    if len(wanted) > _MOST_KEPT:
        note(f"kept: {len(wanted) - _MOST_KEPT} more; --json lists all")
    others = len(plan.kept) - len(wanted)
    if others:
        note(f"kept: {others} that the policy is not about")


def _row(row: Row, now: float) -> tuple[str, ...]:
    from hpcvlm.ops.snapshots_ls import user_name

    used = ago(row.last_use, now) if row.kind == "snapshot" else "-"
    what = row.kind if row.kind in ("snapshot", "trash") else f"{len(row.files)} {row.kind}"
    return (
        what,
        printable(row.repo),
        printable(row.commit[:_SHORT]) or "-",
        bytes_text(row.size),
        used,
        user_name(row.owner),
        row.reason,
    )


def _kept_line(kept: Kept) -> str:
    name = (
        f"{kept.repo}@{kept.commit[:_SHORT]}" if kept.kind == "snapshot" else kept.commit[:_SHORT]
    )
    line = f"kept: {printable(name)} ({bytes_text(kept.size)}): {printable(kept.why)}"
    return line if len(line) <= WIDTH * 2 else f"{line[: WIDTH * 2 - 1]}…"


def _end_of_plan(prepared: Prepared) -> None:
    plan = prepared.plan
    if plan.rows:
        note(f"{bytes_text(plan.size)} would become free; nothing was changed")
        for line in prepared.unknown:
            note(f"note: without --dry-run no snapshot is deleted: {printable(line)}")
    else:
        note("nothing to delete")
    _short(prepared)


def _short(prepared: Prepared) -> None:
    if prepared.plan.short_of:
        missing = bytes_text(prepared.plan.short_of)
        note(f"that is {missing} short of --free; nothing else may go")


def _delete(prepared: Prepared, *, as_json: bool) -> None:
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_prune import execute

    def name_of(outcome: Outcome) -> str:
        return f"{outcome.row.repo}@{outcome.row.commit[:_SHORT]}".rstrip("@") + ": "

    def report(done: Sequence[Outcome]) -> None:
        if as_json:
            data_json(_as_dict(prepared, done))
        tell(done, name_of, prepared.plan.size, as_json=as_json)

    carry_out(execute(prepared, Context(), _Progress()), len(prepared.plan.rows), "prune", report)


class _Progress:
    """A line on a terminal now and then, none elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, number: int, of: int, row: Row) -> None:
        if not self._live or time.monotonic() - self._last < 1:
            return
        self._last = time.monotonic()
        note(paint(f"{number} of {of}: {printable(row.repo)} {row.commit[:_SHORT]}", "dim"))


def _as_dict(prepared: Prepared, done: Sequence[Outcome] | None) -> dict[str, object]:
    plan = prepared.plan
    found: dict[str, object] = {
        "bytes": plan.size,
        "short_of": plan.short_of,
        "in_use_unknown": list(prepared.unknown),
        "delete": [_row_dict(row) for row in plan.rows],
        "keep": [_kept_dict(kept) for kept in plan.kept],
    }
    if done is not None:
        found |= done_as_dict(done, lambda outcome: _row_dict(outcome.row))
    return found


def _row_dict(row: Row) -> dict[str, object]:
    return {
        **_common(row.kind, row.repo, row.folder, row.owner, row.last_use),
        "commit": row.commit or None,
        "bytes": row.size,
        "why": row.reason,
        "files": _names(row.files) if row.kind in ("incomplete", "orphans") else None,
    }


def _kept_dict(kept: Kept) -> dict[str, object]:
    is_snapshot = kept.kind == "snapshot"
    return {
        **_common(kept.kind, kept.repo, kept.folder, kept.owner, kept.last_use),
        "commit": kept.commit if is_snapshot else None,
        "files": None if is_snapshot else [json_text(kept.commit)],
        "bytes": kept.size,
        "why": json_text(kept.why),
        "wanted": kept.wanted,
    }


def _common(
    kind: str, repo: str, folder: Path, owner: int, last_use: float | None
) -> dict[str, object]:
    from hpcvlm.ops.snapshots_ls import user_name

    return {
        "what": kind,
        "repo": json_text(repo),
        "folder": json_text(str(folder)),
        "owner": user_name(owner),
        "last_use": moment(last_use),
    }


def _names(files: Iterable[tuple[str, str]]) -> list[object]:
    return [json_text(name) for name, _ in files]
