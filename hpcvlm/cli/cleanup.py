"""hpcvlm cleanup: takes away what jobs that are over have left, after it has said what that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.deletion import carry_out, confirm, done_as_dict, tell
from hpcvlm.cli.output import data, data_json, note, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_ls import ago, json_text, printable

if TYPE_CHECKING:
    from hpcvlm.ops.cleanup import CleanupPlan, Outcome, Row
    from hpcvlm.ops.context import Context

_MOST_KEPT = 20


def cleanup(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Jobs that are over for so long; 0 for all of them.")
    ] = "7d",
    forgotten: Annotated[
        bool,
        typer.Option(
            "--forgotten",
            help="Also jobs that said no last word and that Slurm here does not know; not for "
            "homes that several clusters share.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Delete what hpcvlm has made for jobs that are over: folders, logs, keys.

    What somebody else has put into such a folder keeps the folder where it is. Snapshots and
    containers are not touched: see `hpcvlm snapshots prune`.
    """
    from hpcvlm.ops.cleanup import parse_age, plan_cleanup
    from hpcvlm.ops.context import Context

    age = parse_age(older_than)
    ctx = Context()
    plan = plan_cleanup(age, ctx, forgotten=forgotten)
    if not as_json:
        _show(plan, ctx.clock.now())
    if dry_run or not plan.rows:
        if as_json:
            data_json(_as_dict(plan, None))
        _end_of_plan(plan, older_than)
        return
    confirm(plan.size, yes=yes)
    _delete(plan, ctx, as_json=as_json)


def _show(plan: CleanupPlan, now: float) -> None:
    if plan.rows:
        rows = [
            (
                row.kind,
                printable(row.name),
                bytes_text(row.seen.size),
                ago(row.since, now),
                printable(row.why),
            )
            for row in plan.rows
        ]
        data(table(("WHAT", "NAME", "FREES", "SINCE", "WHY"), rows, whole=(1, 2)))
    for kept in plan.kept[:_MOST_KEPT]:
        note(f"kept: {printable(f'{kept.path}: {kept.why}')}")
    if len(plan.kept) > _MOST_KEPT:
        note(f"kept: {len(plan.kept) - _MOST_KEPT} more; --json lists all")


def _end_of_plan(plan: CleanupPlan, older_than: str) -> None:
    if plan.rows:
        note(f"{bytes_text(plan.size)} would become free; nothing was changed")
    else:
        note("nothing to delete")
    if plan.younger:
        note(f"{plan.younger} more are over for less than {older_than} (--older-than)")


def _delete(plan: CleanupPlan, ctx: Context, *, as_json: bool) -> None:
    from hpcvlm.ops.cleanup import execute

    def path_of(outcome: Outcome) -> str:
        return "" if outcome.problem else f"{outcome.row.seen.path}: "

    def report(done: Sequence[Outcome]) -> None:
        if as_json:
            data_json(_as_dict(plan, done))
        tell(done, path_of, plan.size, as_json=as_json)

    carry_out(execute(plan, ctx), len(plan.rows), "cleanup", report)


def _as_dict(plan: CleanupPlan, done: Sequence[Outcome] | None) -> dict[str, object]:
    found: dict[str, object] = {
        "bytes": plan.size,
        "delete": [_row_dict(row) for row in plan.rows],
        "keep": [
            {
                "name": json_text(kept.name),
                "path": json_text(str(kept.path)),
                "why": json_text(kept.why),
            }
            for kept in plan.kept
        ],
        "running": plan.running,
        "younger": plan.younger,
    }
    if done is not None:
        found |= done_as_dict(done, lambda outcome: _row_dict(outcome.row))
    return found


def _row_dict(row: Row) -> dict[str, object]:
    return {
        "what": row.kind,
        "name": json_text(row.name),
        "path": json_text(str(row.seen.path)),
        "job_id": row.record.job_id if row.record is not None else None,
        "bytes": row.seen.size,
        "since": row.since,
        "why": row.why,
    }
