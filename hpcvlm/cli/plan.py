"""hpcvlm plan."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import WIDTH, data, data_json, paint

if TYPE_CHECKING:
    from hpcvlm.ops.plan import PlanReport

_NAME_WIDTH = 28
_SOURCE_WIDTH = 20
_TITLES = {
    "what": "What is served",
    "engine": "The engine",
    "job": "The job",
    "options": "Options of the engine",
    "environment": "Environment of the engine",
}


def plan(
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
    as_json: options.Json = False,
) -> None:
    """Show all that a launch would do, what it can cost, and every reason against it."""
    from hpcvlm.cli.errors import exit_code
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.plan import make_plan

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
    report = make_plan(asked, Context())
    data_json(as_dict(report)) if as_json else data(as_text(report))
    if report.issues:
        raise typer.Exit(exit_code(report.issues[0].code))


def as_dict(report: PlanReport) -> dict[str, object]:
    """The report for machines."""
    from hpcvlm.cli.memory import memory_json
    from hpcvlm.ops.launch import remedy_of

    start = report.start
    return {
        "plan": dataclasses.asdict(report.result.plan),
        "memory": memory_json(report.result.memory),
        "notes": report.result.notes,
        "gpu_hours": round(report.gpu_hours, 3),
        "start": None
        if start is None
        else {
            "expected": start.start.isoformat() if start.start else None,
            "sentence": start.sentence,
        },
        "issues": [{**issue._asdict(), "remedy": remedy_of(issue)} for issue in report.issues],
    }


def as_text(report: PlanReport) -> str:
    """The report for people: values with their sources, cost, start, problems."""
    from hpcvlm.cli.memory import memory_text
    from hpcvlm.plan.explain import plan_lines

    lines: list[str] = []
    group = ""
    for line in plan_lines(report.result.plan):
        if line.group != group:
            group = line.group
            lines += ["", _bold(_TITLES[group])] if lines else [_bold(_TITLES[group])]
        lines += _row(line.name, line.value, line.source)
    lines += ["", _bold("Memory"), *memory_text(report.result.memory)]
    lines += ["", _bold("Cost and start"), *_cost(report)]
    lines += [f"  {note}" for note in report.result.notes]
    lines += ["", *_problems(report)]
    return "\n".join(lines)


def _bold(text: str) -> str:
    import sys

    return paint(text, "bold", sys.stdout)


def _row(name: str, value: str, source: str) -> list[str]:
    """One value and the file that says it; a long value gets a line of its own, uncut."""
    room = WIDTH - _NAME_WIDTH - _SOURCE_WIDTH - 4
    told = source.partition(":")[0]
    if len(name) <= _NAME_WIDTH and len(value) <= room:
        return [f"  {name:<{_NAME_WIDTH}}{value:<{room}}  {told}".rstrip()]
    return [f"  {name:<{_NAME_WIDTH}}{'':<{room}}  {told}".rstrip(), f"    {value}"]


def _cost(report: PlanReport) -> list[str]:
    from hpcvlm.cli.output import duration
    from hpcvlm.plan.explain import chain_sentence, jobs_of

    plan = report.result.plan
    hours = f"{report.gpu_hours:.1f} GPU hours at most"
    jobs = jobs_of(plan)
    times = f"{jobs} times " if jobs > 1 else ""
    lines = [f"  {hours}: {times}{plan.gpus.text} for {duration(plan.time_limit_s)}"]
    if chain := chain_sentence(plan):
        lines.append(f"  {chain}; the overlaps are included")
    if report.start is not None:
        lines.append(f"  Slurm: {report.start.sentence}")
    elif plan.executor != "slurm":
        lines.append("  starts at once, on this machine")
    return lines


def _problems(report: PlanReport) -> list[str]:
    from hpcvlm.ops.launch import remedy_of

    if not report.issues:
        return [_bold("No problem was found; hpcvlm launch would submit this.")]
    count = "1 problem" if len(report.issues) == 1 else f"{len(report.issues)} problems"
    lines = [_bold(f"{count}; hpcvlm launch would refuse this")]
    for issue in report.issues:
        lines += _wrapped(f"{issue.code} ({issue.field}): {issue.sentence}", "  ")
        if issue.remedy:
            lines += _wrapped(f"try: {remedy_of(issue)}", "    ")
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines at most as wide as a table; paths and commands stay whole words."""
    import textwrap

    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
