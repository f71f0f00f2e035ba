"""hpcvlm launch, render, wait."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note, paint
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcvlm.endpoints.endpoint import Endpoint
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlanResult
    from hpcvlm.render.model import RenderedJob
    from hpcvlm.submit.record import JobRecord

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the script that would be submitted; do nothing.")
]
CancelOnInterrupt = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C stops the job, too.")
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CODE", help="Launch in spite of this problem, as a refusal names it; repeatable."
    ),
]
QueueTimeout = Annotated[
    str | None,
    typer.Option(help="Give up waiting in the queue after this long; the job stays."),
]


def launch(
    model: options.Model,
    gpus: options.Gpus = None,
    time: options.Time = None,
    partition: options.Partition = None,
    account: options.Account = None,
    qos: options.Qos = None,
    constraint: options.Constraint = None,
    nodes: options.Nodes = None,
    name: options.Name = None,
    executor: options.Executor = None,
    media_root: options.MediaRoot = None,
    engine_version: options.EngineVersion = None,
    settings: options.Settings = None,
    engine_args: options.EngineArgs = None,
    listen: options.Listen = None,
    keep: options.Keep = None,
    idle: options.Idle = None,
    restarts: options.Restarts = None,
    force: Force = None,
    dry_run: DryRun = False,
    wait_: Wait = True,
    cancel_on_interrupt: CancelOnInterrupt = False,
    queue_timeout: QueueTimeout = None,
    as_json: options.Json = False,
) -> None:
    """Start an endpoint and wait until it has proved that it can see."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.launch import launch as submit
    from hpcvlm.submit.job import InterruptedAfterSubmit

    asked = options.request(
        model,
        gpus=gpus,
        time=time,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        nodes=nodes,
        name=name,
        executor=executor,
        media_root=media_root,
        engine_version=engine_version,
        settings=settings,
        engine_args=engine_args,
        listen=listen,
        keep=keep,
        idle=idle,
        restarts=restarts,
    )
    ctx = Context()
    if dry_run:
        result, (first, *successors) = _plan(asked, ctx)
        data(first[1].script)
        _tell_successors(successors)
        _show_issues(result, as_error=True)
        return
    _queue_limit(queue_timeout)  # refused before anything is submitted
    try:
        record = submit(asked, ctx, force=tuple(force or ()))
    except InterruptedAfterSubmit as interrupt:
        raise _interrupted(interrupt.record, ctx, cancel_on_interrupt) from None
    for line in record.notes:
        note(f"{paint('note:', 'yellow')} {line}")
    for warning in record.warnings:
        note(f"{paint('sbatch:', 'yellow')} {warning}")
    if not wait_:
        data_json(dataclasses.asdict(record)) if as_json else data(record.name)
        return
    note(
        f"{paint(record.name, 'bold')}: {record.served_name} on {record.engine}, "
        f"{_where(record)}, for {duration(record.time_limit_s)}"
    )
    wait_for(record, ctx, cancel_on_interrupt, queue_timeout, as_json=as_json)


def render(
    model: options.Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the job's files here.")
    ] = None,
    gpus: options.Gpus = None,
    time: options.Time = None,
    partition: options.Partition = None,
    account: options.Account = None,
    qos: options.Qos = None,
    constraint: options.Constraint = None,
    nodes: options.Nodes = None,
    name: options.Name = None,
    executor: options.Executor = None,
    media_root: options.MediaRoot = None,
    engine_version: options.EngineVersion = None,
    settings: options.Settings = None,
    engine_args: options.EngineArgs = None,
    listen: options.Listen = None,
    keep: options.Keep = None,
    idle: options.Idle = None,
    restarts: options.Restarts = None,
) -> None:
    """Print the job script that a launch would submit, byte for byte."""
    from hpcvlm.ops.context import Context

    asked = options.request(
        model,
        gpus=gpus,
        time=time,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        nodes=nodes,
        name=name,
        executor=executor,
        media_root=media_root,
        engine_version=engine_version,
        settings=settings,
        engine_args=engine_args,
        listen=listen,
        keep=keep,
        idle=idle,
        restarts=restarts,
    )
    result, (first, *successors) = _plan(asked, Context())
    if output is None:
        data(first[1].script)
    else:
        _write_files(first[1], output)
        for plan, job in successors:
            _write_files(job, output / plan.name)
    _tell_successors(successors)
    _show_issues(result, as_error=False)


def _write_files(job: RenderedJob, folder: Path) -> None:
    from hpcvlm.system.files import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in job.files:
            write_atomically(folder / file.name, file.text, file.mode)
    except OSError as error:
        raise HpcvlmError(
            "file-unreadable", f"cannot write to {folder}: {error.strerror}"
        ) from None
    for file in job.files:
        data(str(folder / file.name))


def wait(
    name: Annotated[str, typer.Argument(help="Name, unique prefix or job id.")],
    cancel_on_interrupt: CancelOnInterrupt = False,
    queue_timeout: QueueTimeout = None,
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
) -> Row:
    """Wait for one job and say how it went.

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
        raise start_failed(row, _left(row, ctx))
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
            limit = _queue_limit(queue_timeout)
            return wait(record, ctx, on_glance=progress, queue_timeout_s=limit)
    except KeyboardInterrupt:
        raise _interrupted(record, ctx, cancel) from None


def _left(row: Row, ctx: Context) -> tuple[str, ...]:
    """The successors that go on although a job is over, and how to end them."""
    from hpcvlm.ops.endpoints import describe, successors_left

    left = [
        f"{job.record.name} (job {job.record.job_id or 'number not known yet'}) goes on: "
        f"{describe(job.verdict)}"
        for job in successors_left(row, ctx)
    ]
    shown = row.record.shown_name
    return (*left, f"hpcvlm stop {shown} ends what goes on") if left else ()


def _queue_limit(queue_timeout: str | None) -> int | None:
    from hpcvlm.slurm.time import parse_duration

    return None if queue_timeout is None else parse_duration(queue_timeout, "--queue-timeout")


def _interrupted(record: JobRecord, ctx: Context, cancel: bool) -> HpcvlmError:
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


def _plan(
    asked: LaunchRequest, ctx: Context
) -> tuple[PlanResult, tuple[tuple[LaunchPlan, RenderedJob], ...]]:
    from hpcvlm.ops.launch import plan_and_render_all

    return plan_and_render_all(asked, ctx)


def _tell_successors(successors: Sequence[tuple[LaunchPlan, RenderedJob]]) -> None:
    """Which jobs a launch would submit besides the first, and when they may begin."""
    from hpcvlm.plan.chain import delay_minutes

    for plan, _ in successors:
        minutes = delay_minutes(plan.time_limit_s, plan.overlap_s)
        before = Path(plan.predecessor or "").name
        note(f"then {plan.name}: --dependency=after:JOB+{minutes}, JOB being that of {before}")


def _show_issues(result: PlanResult, *, as_error: bool) -> None:
    from hpcvlm.cli.errors import exit_code, show
    from hpcvlm.ops.launch import issues_error

    if not result.issues:
        return
    show(issues_error(result.issues))
    note("a launch would be refused for this")
    if as_error:
        raise typer.Exit(exit_code(result.issues[0].code))


def _where(record: JobRecord) -> str:
    if record.executor == "local":
        return "this machine"
    return f"GPUs {record.gpus}, job {record.job_id}"
