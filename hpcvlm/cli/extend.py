"""hpcvlm extend: more time for an endpoint, or a successor where the site gives none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.ops.extend import Extension
    from hpcvlm.submit.record import JobRecord


def extend(
    name: Annotated[str, typer.Argument(help="Name, unique prefix or job id.")],
    by: Annotated[
        str | None, typer.Option(metavar="TIME", help="How much longer: 4h, 90m, 1-00:00:00.")
    ] = None,
    successor: Annotated[
        bool,
        typer.Option(
            "--successor", help="Submit a job that takes over name and key as soon as it can."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Give an endpoint more time: its job, where the site permits that, or a successor."""
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.extend import extend as give
    from hpcvlm.ops.extend import submit_successor
    from hpcvlm.slurm.time import parse_duration

    if (by is None) is not successor:
        raise HpcvlmError(
            "option-invalid",
            "say either how much longer its job shall run, or --successor",
            f"hpcvlm extend {name} --by 4h, or hpcvlm extend {name} --successor",
        )
    by_s = None if by is None else parse_duration(by, "--by")
    ctx = telling_context()
    record = find_record(ctx.settings.jobs, name)
    if by_s is None:
        _show_successor(record, submit_successor(record, ctx), as_json=as_json)
    else:
        _show(give(record, by_s, ctx), as_json=as_json)


def _show(done: Extension, *, as_json: bool) -> None:
    from hpcvlm.cli.progress import clock_time

    record = done.record
    if done.note:
        note(f"note: {done.note}")
    if as_json:
        data_json(
            {
                "name": record.shown_name,
                "job_id": record.job_id,
                "time_limit_before_s": done.was_s,
                "time_limit_s": done.limit_s,
                "ends": done.ends,
            }
        )
    elif done.ends is not None:
        data(f"{record.shown_name}: ends at {clock_time(done.ends)}")
    else:
        data(f"{record.shown_name}: will run for {duration(done.limit_s)} once it begins")


def _show_successor(record: JobRecord, made: JobRecord, *, as_json: bool) -> None:
    if as_json:
        data_json(
            {
                "name": record.shown_name,
                "job_id": record.job_id,
                "successor": made.name,
                "successor_job_id": made.job_id,
                "successor_time_limit_s": made.time_limit_s,
            }
        )
        return
    data(
        f"{made.name}: job {made.job_id} takes over from job {record.job_id} when it is ready, "
        f"and runs for {duration(made.time_limit_s)}"
    )
