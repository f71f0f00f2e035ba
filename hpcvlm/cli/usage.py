"""hpcvlm usage: GPU hours and tokens, by user and model."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, table

if TYPE_CHECKING:
    from hpcvlm.ops.usage import Sum, UsageReport

_NOT_KNOWN = "-"


def usage(
    since: Annotated[
        str, typer.Option(metavar="AGE|DATE", help="From when on: 30d, 12h or 2026-11-01.")
    ] = "30d",
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Everybody's, as far as Slurm shows it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Sum the GPU hours and tokens of endpoints, by user and model.

    GPU hours are what Slurm's accounts say lies within that time; requests and tokens are those of
    every job that ran then, whole.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.usage import parse_since
    from hpcvlm.ops.usage import usage as find

    ctx = Context()
    report = find(parse_since(since, ctx.clock.now()), ctx, all_users=all_users)
    if as_json:
        data_json(_as_dict(report))
    elif report.sums:
        header = ("USER", "MODEL", "JOBS", "GPU HOURS", "REQUESTS", "TOKENS IN", "TOKENS OUT")
        rows = [_cells(one) for one in report.sums]
        if len(rows) > 1:
            rows.append(("total", *_cells(report.total)[1:]))
        data(table(header, _aligned(header, rows), whole=(2, 3, 4, 5, 6)))
    else:
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.since))
        note(f"no endpoint has run since {moment}")
    for line in report.notes:
        note(f"note: {line}")


def _cells(one: Sum) -> tuple[str, ...]:
    counts = (one.requests, one.prompt_tokens, one.generation_tokens)
    return (
        one.user,
        one.model,
        str(one.jobs),
        f"{one.gpu_hours:,.2f}",
        *(_NOT_KNOWN if count is None else f"{count:,}" for count in counts),
    )


def _aligned(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Numbers end below each other."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [(*row[:2], *(row[i].rjust(widths[i]) for i in range(2, len(row)))) for row in rows]


def _as_dict(report: UsageReport) -> dict[str, object]:
    return {
        "since": report.since,
        "rows": [dataclasses.asdict(one) for one in report.sums],
        "total": {k: v for k, v in dataclasses.asdict(report.total).items() if k not in _NAMES},
        "jobs": [dataclasses.asdict(job) for job in report.jobs],
        "notes": list(report.notes),
    }


_NAMES = ("user", "model")
