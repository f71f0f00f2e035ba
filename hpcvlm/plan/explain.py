"""A plan as lines for people: each value with where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from hpcvlm.plan.model import LaunchPlan
from hpcvlm.slurm.time import format_time_limit

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One value of a plan.

    Attributes:
        group: what it belongs to: ``what``, ``engine``, ``job``, ``options`` or ``environment``.
        name: the value's name.
        source: who said it; empty where nothing was to be decided.
    """

    group: str
    name: str
    value: str
    source: str = ""


def gpu_hours(plan: LaunchPlan) -> float:
    """The most that the job can cost: GPUs times hours until its time limit."""
    return plan.gpus.count * plan.nodes * plan.time_limit_s / SECONDS_PER_HOUR


def plan_lines(plan: LaunchPlan) -> tuple[PlanLine, ...]:
    """Every value of a plan, in the order in which it is decided."""
    return (*_what(plan), *_engine(plan), *_job(plan), *_options(plan), *_environment(plan))


def _what(plan: LaunchPlan) -> list[PlanLine]:
    said = plan.sources
    return [
        PlanLine("what", "model", plan.model, said.get("model", "")),
        PlanLine("what", "repository", plan.snapshot.repo, said.get("snapshot", "")),
        PlanLine("what", "revision", plan.snapshot.commit, said.get("revision", "")),
        _snapshot(plan),
        PlanLine("what", "endpoint", plan.name, said.get("endpoint", "")),
        PlanLine("what", "folder", plan.folder, "state folder"),
    ]


def _snapshot(plan: LaunchPlan) -> PlanLine:
    if "snapshot path" in plan.sources:
        place = plan.snapshot.image or plan.snapshot.path
        return PlanLine("what", "snapshot", place, plan.sources["snapshot path"])
    return PlanLine("what", "snapshot", plan.snapshot.path, "hub cache")


def _engine(plan: LaunchPlan) -> list[PlanLine]:
    said, engine = plan.sources, plan.engine
    lines = [
        PlanLine("engine", "engine", f"{engine.name} {engine.version}", said.get("engine", ""))
    ]
    if engine.image is not None:
        runtime = f"{plan.runtime} {plan.gpu_flag}".strip()
        lines += [
            PlanLine("engine", "container", engine.image, said.get("container", "")),
            PlanLine("engine", "runtime", runtime, said.get("runtime", "")),
        ]
        lines += [PlanLine("engine", "bind", bind.text) for bind in plan.binds]
    lines += [PlanLine("engine", "module", module, "site file: modules") for module in plan.modules]
    return [
        *lines,
        PlanLine("engine", "command", " ".join(engine.command), said.get("engine", "")),
        PlanLine("engine", "listens on", plan.listen_host, said.get("listen", "")),
        PlanLine("engine", "media root", plan.media_root, said.get("media root", "the job's own")),
        PlanLine("engine", "cache", plan.cache, said.get("cache", "")),
    ]


def _job(plan: LaunchPlan) -> list[PlanLine]:
    said = plan.sources
    lines = [
        PlanLine("job", "runs on", plan.executor, said.get("executor", "")),
        PlanLine("job", "GPUs", plan.gpus.text, said.get("gpus", "")),
    ]
    if plan.executor != "slurm":
        limit = format_time_limit(plan.time_limit_s)
        return [*lines, PlanLine("job", "time limit", limit, said.get("time", ""))]
    for option in plan.sbatch:
        name = f"--{option.name}"
        source = said.get(_SOURCE_OF.get(option.name, option.name), "hpcvlm")
        source = said.get(f"sbatch.{option.name}", source)
        lines.append(PlanLine("job", name, option.value, source))
    if plan.partition is None:
        lines.append(PlanLine("job", "--partition", "(the cluster's default)", "default"))
    return lines


_SOURCE_OF = {
    "job-name": "endpoint",
    "gpus-per-node": "gpus",
    "gres": "gpus",
}


def _options(plan: LaunchPlan) -> list[PlanLine]:
    """The engine's arguments, each flag with its values."""
    lines: list[PlanLine] = []
    for argument in plan.engine_arguments[2:]:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            lines.append(PlanLine("options", flag, value, _option_source(plan, flag)))
        elif lines:
            last = lines[-1]
            value = f"{last.value} {argument}".strip()
            lines[-1] = PlanLine(last.group, last.name, value, last.source)
    return lines


def _option_source(plan: LaunchPlan, flag: str) -> str:
    name = flag.removeprefix("--")
    for spelt in (name, name.removeprefix("no-")):
        if f"option {spelt}" in plan.sources:
            return plan.sources[f"option {spelt}"]
    return "hpcvlm" if name == "middleware" else "command line"


def _environment(plan: LaunchPlan) -> list[PlanLine]:
    return [
        PlanLine("environment", name, value, plan.sources.get(f"environment {name}", ""))
        for name, value in plan.environment
    ]
