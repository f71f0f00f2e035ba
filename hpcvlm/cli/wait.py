"""hpcvlm wait, and how every command waits for an endpoint that it has launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note, paint
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.endpoints.endpoint import Endpoint
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.submit.record import JobRecord


def wait(
    name: Annotated[str, typer.Argument(help="Name, unique prefix or job id.")],
    cancel_on_interrupt: options.CancelOnInterrupt = False,
    queue_timeout: options.QueueTimeout = None,
    as_json: options.Json = False,
) -> None:
    """Wait until an endpoint is ready, showing its phases; exit 5 if it fails."""
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.context import Context

    ctx = Context()
    record = find_record(ctx.settings.jobs, name)
    wait_for(record, ctx, cancel_on_interrupt, queue_timeout, as_json=as_json)


def wait_for(
    record: JobRecord,
    ctx: Context,
    cancel_on_interrupt: bool,
    queue_timeout: str | None,
    *,
    as_json: bool = False,
    launched: bool = False,
) -> Row:
    """Wait for one job, and for the one that it hands over to, and say how it went.

    Successors of one that this command has `launched` do not outlive a start that fails.

    Raises:
        HpcvlmError: ``start-failed``, ``timed-out`` or ``interrupted``.
    """
    from hpcvlm.ops.endpoints import took_over
    from hpcvlm.watch.verdict import Ended, Failed, Ready

    row = _watch(record, ctx, cancel_on_interrupt, queue_timeout)
    while (after := took_over(row, ctx)) is not None:
        note(f"{row.record.name} has handed over to {after.name}")
        row = _watch(after, ctx, cancel_on_interrupt, queue_timeout)
    record = row.record
    if isinstance(row.verdict, Ready):
        _announce(row, as_json=as_json)
    elif isinstance(row.verdict, Failed):
        raise start_failed(row, _left(row, ctx, withdraw=launched))
    elif isinstance(row.verdict, Ended):
        raise HpcvlmError(
            "start-failed",
            f"{record.name} ended: {row.verdict.how}",
            f"hpcvlm why {record.name}",
            _left(row, ctx),
        )
    else:
        raise HpcvlmError(
            "timed-out",
            f"{record.name} still waits in the queue after {queue_timeout}; job "
            f"{record.job_id} stays there",
            f"hpcvlm wait {record.name}, or hpcvlm stop {record.name}",
        )
    return row


def _watch(record: JobRecord, ctx: Context, cancel: bool, queue_timeout: str | None) -> Row:
    from hpcvlm.cli.progress import PhaseProgress
    from hpcvlm.ops.endpoints import wait

    try:
        with PhaseProgress(record) as progress:
            limit = queue_limit(queue_timeout)
            return wait(record, ctx, on_glance=progress, queue_timeout_s=limit)
    except KeyboardInterrupt:
        raise interrupted(record, ctx, cancel) from None


def _left(row: Row, ctx: Context, *, withdraw: bool = False) -> tuple[str, ...]:
    """What becomes of the successors of a job that is over, and how to end those that go on."""
    from hpcvlm.cli.rows import going_on
    from hpcvlm.ops.endpoints import fails_for_good, successors_left
    from hpcvlm.ops.stop import stop_endpoint

    left = successors_left(row, ctx)
    if not left:
        return ()
    lines = [*going_on(left), f"hpcvlm stop {row.record.shown_name} ends what goes on"]
    if not (withdraw and fails_for_good(row)):
        return tuple(lines)
    note(f"stopping {len(left)} successors, which would fail in the same way")
    try:
        stop_endpoint([job.record for job in left], ctx)
    except HpcvlmError as error:
        return (error.sentence, *lines)
    return ("its successors were taken from the queue",)


def queue_limit(queue_timeout: str | None) -> int | None:
    """Seconds to wait in the queue, None for ever; raises HpcvlmError for what is no time."""
    from hpcvlm.slurm.time import parse_duration

    return None if queue_timeout is None else parse_duration(queue_timeout, "--queue-timeout")


def interrupted(record: JobRecord, ctx: Context, cancel: bool) -> HpcvlmError:
    """What Ctrl-C leaves: a job that goes on, unless it is to be stopped, too."""
    from hpcvlm.endpoints.registry import find_endpoint
    from hpcvlm.ops.stop import stop_endpoint

    if cancel:
        stop_endpoint(find_endpoint(ctx.settings.jobs, record.name), ctx)
        return HpcvlmError("interrupted", f"interrupted; {record.name} was stopped")
    return HpcvlmError(
        "interrupted",
        f"interrupted; {record.name} (job {record.job_id}) goes on",
        f"hpcvlm wait {record.name} follows it, hpcvlm stop {record.name} stops it",
    )


def start_failed(row: Row, left: tuple[str, ...] = ()) -> HpcvlmError:
    """A failed job as an error: the cause, the remedy, the evidence, and what goes on."""
    from hpcvlm.ops.endpoints import describe, explain

    why = explain(row)
    known = why.known
    cause = f": {why.cause}" if known else ""
    details = [*why.lines, f"logs: {row.record.folder}", *left]
    remedy = why.remedy if known else f"hpcvlm logs {row.record.name}"
    return HpcvlmError(
        "start-failed",
        f"{row.record.name} {describe(row.verdict)}{cause}",
        remedy,
        tuple(details),
    )


def _announce(row: Row, *, as_json: bool) -> None:
    from hpcvlm.cli.endpoints import row_as_dict
    from hpcvlm.endpoints.endpoint import is_reachable_here, shown_address

    endpoint = row.endpoint
    assert endpoint is not None  # noqa: S101 - the verdict is Ready
    if as_json:
        data_json(row_as_dict(row))
        return
    state = row.glance.state
    took = state.phases["ready"] - state.started if state is not None else 0.0
    note(f"{paint('ready', 'green')} after {duration(took)}{_answer(row)}")
    if endpoint.ends is not None:
        from hpcvlm.cli.progress import clock_time

        note(f"it ends at {clock_time(endpoint.ends)}")
    data(f"{'socket' if endpoint.socket else 'url':<6} {shown_address(endpoint)}")
    data(f"model  {endpoint.model}")
    data(f"key    {endpoint.key_file}")
    note("")
    if is_reachable_here(endpoint):
        note(_example(endpoint))
    if endpoint.listen != "node" and row.record.executor != "local":
        note(f"open a port here that leads to it: hpcvlm connect {endpoint.name}")
    note("")
    note(
        f"prove it again: hpcvlm smoke-test {endpoint.name}    stop it: hpcvlm stop {endpoint.name}"
    )


def _example(endpoint: Endpoint) -> str:
    from hpcvlm.endpoints.endpoint import snippet
    from hpcvlm.resources import data_root

    picture = str(data_root() / "templates" / "sbatch" / "picture.png")
    return snippet(endpoint, "curl", picture).rstrip()


def _answer(row: Row) -> str:
    """What the engine said about the job's own picture."""
    from hpcvlm.system.files import read_text

    text = read_text(Path(row.record.folder) / "probe.json")
    try:
        said = json.loads(text or "")["image"]["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return f"; shown a red circle, it said: {str(said).strip()!r}"[:120]
