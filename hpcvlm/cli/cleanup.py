"""hpcvlm cleanup: takes away what jobs that are over have left, after it has said what that is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, paint, table
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
    _confirm(plan, yes=yes)
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


def _confirm(plan: CleanupPlan, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere only --yes is an answer.

    Raises:
        HpcvlmError: ``option-required``; ``typer.Exit`` after a no.
    """
    from hpcvlm.errors import ExitCode, HpcvlmError

    if yes:
        return
    size = bytes_text(plan.size)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise HpcvlmError(
            "option-required",
            f"nobody can be asked here whether {size} may be deleted; nothing was changed",
            "look at it with --dry-run, then add --yes",
        )
    sys.stderr.write(f"delete this for good, {size}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("nothing was changed")
        raise typer.Exit(ExitCode.FAILED)


def _delete(plan: CleanupPlan, ctx: Context, *, as_json: bool) -> None:
    from hpcvlm.errors import ExitCode
    from hpcvlm.ops.cleanup import execute

    done: list[Outcome] = []
    try:
        for outcome in execute(plan, ctx):
            done.append(outcome)  # noqa: PERF402 - what is done before Ctrl-C counts
    except KeyboardInterrupt:
        _report(plan, done, as_json=as_json)
        note(
            f"interrupted: {len(done)} of {len(plan.rows)} are done; nothing is broken, and the "
            "next cleanup finishes what was begun"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _report(plan, done, as_json=as_json)
    if any(outcome.problem for outcome in done):
        raise typer.Exit(ExitCode.FAILED)


def _report(plan: CleanupPlan, done: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        data_json(_as_dict(plan, done))
    for outcome in done:
        if outcome.problem:
            note(f"{paint('failed', 'red')}: {printable(outcome.problem)}")
        elif outcome.skipped:
            note(f"kept: {printable(f'{outcome.row.seen.path}: {outcome.skipped}')}")
    freed = sum(outcome.freed for outcome in done)
    line = f"{bytes_text(freed)} freed"
    if freed < plan.size:
        line += f" of {bytes_text(plan.size)}"
    if as_json:
        note(line)
    else:
        data(line)


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
        found["freed"] = sum(outcome.freed for outcome in done)
        found["done"] = [
            {
                **_row_dict(outcome.row),
                "freed": outcome.freed,
                "skipped": json_text(outcome.skipped),
                "problem": json_text(outcome.problem),
            }
            for outcome in done
        ]
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
