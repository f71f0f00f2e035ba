"""A plan as lines for people: each value with where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from hpcvlm.plan.chain import job_count
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
    """The most that a launch can cost: GPUs times hours until the time limit of every job."""
    hours = plan.time_limit_s / SECONDS_PER_HOUR
    return plan.gpus.count * plan.nodes * hours * jobs_of(plan)


def jobs_of(plan: LaunchPlan) -> int:
    """How many jobs a launch submits."""
    if plan.executor != "slurm":
        return 1
    return job_count(plan.keep_s, plan.time_limit_s, plan.overlap_s)


def chain_sentence(plan: LaunchPlan) -> str:
    """``3d = 4 jobs of 24 h …``; empty where the endpoint is one job."""
    count = jobs_of(plan)
    if plan.keep_s is None or count == 1:
        return ""
    each, overlap = format_time_limit(plan.time_limit_s), format_time_limit(plan.overlap_s)
    return f"{format_time_limit(plan.keep_s)} = {count} jobs of {each}, each overlapping {overlap}"


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
        PlanLine("engine", "listens on", _LISTENS[plan.listen], said.get("listen", "")),
        PlanLine("engine", "media root", plan.media_root, said.get("media root", "the job's own")),
        PlanLine("engine", "cache", plan.cache, said.get("cache", "")),
    ]


def _life(plan: LaunchPlan) -> list[PlanLine]:
    """What happens to the job after it is ready; only what was asked for."""
    said, lines = plan.sources, []
    if kept := chain_sentence(plan):
        lines.append(PlanLine("job", "kept", kept, said.get("keep", "")))
    if plan.idle_s is not None:
        idle = f"after {format_time_limit(plan.idle_s)} without a request"
        lines.append(PlanLine("job", "ends", idle, said.get("idle", "")))
    if plan.restarts:
        lines.append(PlanLine("job", "restarts", str(plan.restarts), said.get("restarts", "")))
    if plan.notify is not None:
        who = ("command", plan.notify.command), ("webhook", plan.notify.webhook_file)
        names = [name for name, value in (*who, ("mail", plan.notify.mail_to)) if value]
        told = f"{', '.join(names)} on {', '.join(plan.notify.events)}"
        lines.append(PlanLine("job", "tells", told, said.get("notify", "")))
    return lines


def _job(plan: LaunchPlan) -> list[PlanLine]:
    said = plan.sources
    lines = [
        PlanLine("job", "runs on", plan.executor, said.get("executor", "")),
        PlanLine("job", "GPUs", plan.gpus.text, said.get("gpus", "")),
        *_life(plan),
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


_LISTENS = {
    "node": "0.0.0.0 (every host)",
    "loopback": "127.0.0.1 (its own node)",
    "socket": "a Unix socket (you alone)",
}

_SOURCE_OF = {
    "requeue": "restarts",
    "no-requeue": "restarts",
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
