"""hpcvlm launch, render."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note, paint
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcvlm.ops.context import Context
    from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlanResult
    from hpcvlm.render.model import RenderedJob
    from hpcvlm.submit.record import JobRecord

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the script that would be submitted; do nothing.")
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CODE", help="Launch in spite of this problem, as a refusal names it; repeatable."
    ),
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
    cancel_on_interrupt: options.CancelOnInterrupt = False,
    queue_timeout: options.QueueTimeout = None,
    as_json: options.Json = False,
) -> None:
    """Start an endpoint and wait until it has proved that it can see."""
    from hpcvlm.cli.wait import interrupted, queue_limit, wait_for
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
    queue_limit(queue_timeout)  # refused before anything is submitted
    try:
        record = submit(asked, ctx, force=tuple(force or ()))
    except InterruptedAfterSubmit as interrupt:
        raise interrupted(interrupt.record, ctx, cancel_on_interrupt) from None
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
    wait_for(record, ctx, cancel_on_interrupt, queue_timeout, as_json=as_json, launched=True)


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
