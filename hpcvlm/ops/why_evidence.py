"""Collects what is known of one job: logs, accounts, plan, disks; bounded, and it never fails."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcvlm.diagnosis import slurm_job
from hpcvlm.diagnosis.model import Evidence, Log, PlanFacts, Quota, Room, SlurmFacts
from hpcvlm.diagnosis.remedies import relaunch
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.slurm import commands
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import read_text
from hpcvlm.watch.loop import Glance

if TYPE_CHECKING:
    from hpcvlm.memory.advice import Advice

_ASK_TIMEOUT_S = 10.0
_FILES_TIMEOUT_S = 10.0
_FOLDER_TIMEOUT_S = 3.0
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 20
_MOST_COUNTED = 256 << 20  # bytes between head and tail whose lines are counted
_MOST_ANSWER = 20_000
_MOST_LOGS = 12
_MOST_REPEATS = 3  # logs of earlier starts of the engine
_CHUNK = 1 << 20
_LOGS = ("engine.out", "engine.err", "job.out", "job.err")
_NEARLY_FULL = 0.95

_NEEDS_ROOM = frozenset({"disk-full", "quota-exceeded", "read-only", "shared-memory-full"})
_NEEDS_LIMITS = frozenset({"time-limit", "partition-time-limit"})
_NEEDS_HEADS = frozenset({"parallel-size"})
_NEEDS_ARITHMETIC = frozenset({"gpu-out-of-memory", "kv-cache-none"})


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of the job's folder."""

    logs: tuple[Log, ...] = ()
    answers: tuple[Log, ...] = ()
    events: Log | None = None
    plan: Mapping[str, Any] | None = None
    tried: tuple[str, ...] = ()


def collect(
    record: JobRecord, glance: Glance, ctx: Context, *, reason: str, verdict: str
) -> Evidence:
    """What every diagnosis starts from.

    Args:
        record: the job.
        glance: the last look at it.
        ctx: the outside.
        reason: of the verdict, with the engine's exit code where it has one.
        verdict: what the verdict rests on.
    """
    read = _within(_FILES_TIMEOUT_S, lambda: _read_folder(Path(record.folder)))
    if read is None:
        read = _Read(tried=(f"{record.folder}: its file system does not answer",))
    facts, asked = _accounts(record, ctx)
    state = glance.state
    tried = [*read.tried, *asked]
    if state is not None and state.restarts:
        tried.append(f"times that Slurm put the job back into its queue: {state.restarts}")
    if state is not None and state.engine_restarts:
        tried.append(f"starts of the engine after it had died: {state.engine_restarts}")
    return Evidence(
        reason=reason,
        verdict=verdict,
        logs=read.logs,
        answers=read.answers,
        events=read.events,
        was_ready=state is not None and "ready" in state.phases,
        slurm=facts,
        plan=plan_facts(record, read.plan),
        tried=tuple(tried),
    )


def enriched(identifier: str, record: JobRecord, evidence: Evidence, ctx: Context) -> Evidence:
    """The evidence with what this cause's remedy is computed from; the same where it needs none."""
    if identifier in _NEEDS_ROOM:
        return _with_room(evidence, ctx)
    if identifier in _NEEDS_LIMITS and record.executor == "slurm":
        return with_limits(evidence, ctx)
    if identifier in _NEEDS_HEADS:
        heads = _within(_FOLDER_TIMEOUT_S, lambda: _heads(Path(evidence.plan.snapshot))) or 0
        return replace(evidence, plan=replace(evidence.plan, heads=heads))
    if identifier in _NEEDS_ARITHMETIC:
        fits, tried = _arithmetic(record, evidence.plan, ctx)
        plan = replace(evidence.plan, fits=fits)
        return replace(evidence, plan=plan, tried=(*evidence.tried, *tried))
    return evidence


def with_limits(evidence: Evidence, ctx: Context) -> Evidence:
    """The evidence with the time limits of the partitions."""
    done = _ask(slurm_job.sinfo_limits(), ctx)
    limits = slurm_job.parse_limits(*done)
    said = "sinfo: the partitions' time limits" if limits else "sinfo: no answer"
    return replace(evidence, partitions=limits, tried=(*evidence.tried, said))


def plan_facts(record: JobRecord, plan: Mapping[str, Any] | None) -> PlanFacts:
    """What was asked for, from the record and, where it can be read, plan.json."""
    plan = plan or {}
    snapshot, engine = _mapping(plan.get("snapshot")), _mapping(plan.get("engine"))
    gpus = _mapping(plan.get("gpus"))
    return PlanFacts(
        name=record.shown_name,
        job_id=record.job_id,
        model=record.model,
        repo=record.repo,
        gpus=record.gpus,
        gpu_count=_whole(gpus.get("count")),
        partition=record.partition or _text(plan.get("partition")),
        time_limit_s=record.time_limit_s,
        start_timeout_s=record.start_timeout_s,
        image=_text(engine.get("image")),
        snapshot=_text(snapshot.get("path")),
        engine=record.engine,
        cache=_text(plan.get("cache")),
        folder=record.folder,
    )


def _read_folder(folder: Path) -> _Read:
    logs: list[Log] = []
    tried: list[str] = []
    for path in _log_files(folder):
        parts, said = read_log(path)
        logs += parts
        tried.append(said)
    answer, events = read_text(folder / "probe.json"), read_text(folder / "events.log")
    if answer and answer.strip(" {}\n"):
        tried.append("probe.json")
    plan = _json(read_text(folder / "plan.json"))
    tried.append("plan.json" if plan is not None else "plan.json: cannot be read")
    return _Read(
        logs=tuple(logs),
        answers=(Log("probe.json", answer[:_MOST_ANSWER], 0),) if answer else (),
        events=Log("events.log", events[-_TAIL_BYTES:], 1 if len(events) <= _TAIL_BYTES else 0)
        if events
        else None,
        plan=plan,
        tried=tuple(tried),
    )


def _log_files(folder: Path) -> list[Path]:
    """The logs, then those of earlier starts of the engine, the latest first."""
    found = [folder / name for name in _LOGS]
    found += sorted(folder.glob("*_log.*"))  # of a job of this machine
    earlier = [path for path in folder.glob("engine.*.*") if path.suffix[1:].isdigit()]
    earlier.sort(key=lambda path: (-int(path.suffix[1:]), path.name), reverse=False)
    found += earlier[: 2 * _MOST_REPEATS]
    return [path for path in found if path.exists()][:_MOST_LOGS]


def read_log(path: Path) -> tuple[list[Log], str]:
    """A log, of a long one the beginning and the end; and what was read, in words."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if size <= _HEAD_BYTES + _TAIL_BYTES:
                text = _decoded(stream.read())
                return [Log(path.name, text)], f"{path.name}: {_lines_text(text)}"
            head = stream.read(_HEAD_BYTES)
            between = size - _TAIL_BYTES - _HEAD_BYTES
            lines = head.count(b"\n") if between <= _MOST_COUNTED else 0
            while lines and between > 0:
                chunk = stream.read(min(_CHUNK, between))
                if not chunk:
                    break
                between -= len(chunk)
                lines += chunk.count(b"\n")
            stream.seek(size - _TAIL_BYTES)
            tail = stream.read(_TAIL_BYTES)
    except OSError as error:
        return [], f"{path.name}: {error.strerror}"
    parts = [Log(path.name, _decoded(tail), lines + 1 if lines else 0)]
    parts.append(Log(path.name, _decoded(head)))
    return parts, f"{path.name}: the first and the last MiB of {size >> 20}"


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _lines_text(text: str) -> str:
    count = text.count("\n")
    return "empty" if not text else f"{count} line{'' if count == 1 else 's'}"


def _accounts(record: JobRecord, ctx: Context) -> tuple[SlurmFacts, list[str]]:
    """What the accounts say; nothing for a local job, or where there are none."""
    if record.executor != "slurm" or not record.job_id.isdigit():
        return SlurmFacts(), []
    facts = slurm_job.parse_sacct(*_ask(slurm_job.sacct(record.job_id), ctx))
    if facts.state:
        return facts, [f"sacct: job {record.job_id}"]
    return facts, ["sacct: it does not know the job, or does not answer"]


def _ask(argv: tuple[str, ...], ctx: Context) -> tuple[int, str]:
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(argv, env=environment, timeout_s=_ASK_TIMEOUT_S)
    return done.code, done.stdout


def _with_room(evidence: Evidence, ctx: Context) -> Evidence:
    plan, temporary = evidence.plan, ctx.environment.get("TMPDIR", "")
    folders = {"the job's folder": plan.folder, "the cache": plan.cache, "TMPDIR": temporary}
    rooms = tuple(
        room
        for what, path in folders.items()
        if path and (room := _within(_FOLDER_TIMEOUT_S, lambda w=what, p=path: _room(w, p)))
    )
    quotas = _quotas(ctx)
    tried = [f"free space of {room.path}" for room in rooms]
    tried.append(f"quota: {len(quotas)} nearly used up" if quotas else "quota: nothing said")
    return replace(evidence, rooms=rooms, quotas=quotas, tried=(*evidence.tried, *tried))


def _room(what: str, path: str) -> Room | None:
    there = next((folder for folder in (Path(path), *Path(path).parents) if folder.exists()), None)
    if there is None:
        return None
    try:
        seen = os.statvfs(there)
    except OSError:
        return None
    return Room(
        what,
        path,
        seen.f_bavail * seen.f_frsize,
        seen.f_favail if seen.f_files else None,
        bool(seen.f_flag & os.ST_RDONLY),
    )


def _quotas(ctx: Context) -> tuple[Quota, ...]:
    """Quotas of the user that are nearly used up."""
    from hpcvlm.doctor.commands import quota
    from hpcvlm.doctor.storage import parse_quota

    _, said = _ask(quota(), ctx)
    return tuple(
        Quota(line.where, line.used, line.limit)
        for line in parse_quota(said)
        if line.limit and line.used >= _NEARLY_FULL * line.limit
    )


def _heads(snapshot: Path) -> int:
    config = _json(read_text(snapshot / "config.json")) or {}
    inner = _mapping(config.get("text_config")) or _mapping(config.get("llm_config"))
    return _whole(inner.get("num_attention_heads") or config.get("num_attention_heads"))


def _arithmetic(
    record: JobRecord, plan: PlanFacts, ctx: Context
) -> tuple[tuple[str, ...], list[str]]:
    """Launches that the memory arithmetic calls fitting, and that it was asked."""
    from hpcvlm.ops.models_fit import FitQuestion, fit

    version = record.engine.rpartition(" ")[2]
    question = FitQuestion(
        record.model, record.gpus, engine_version=version if re.match(r"\d", version) else None
    )
    try:
        found = fit(question, ctx)
    except (HpcvlmError, OSError, ValueError) as error:
        return (), [f"memory arithmetic: {error}"]
    said = "it fits" if found.fits else "it does not fit" if found.fits is False else "not known"
    return tuple(_launch(one, plan) for one in found.advice), [f"memory arithmetic: {said}"]


def _launch(advice: Advice, plan: PlanFacts) -> str:
    """The command for one change."""
    from hpcvlm.plan.memory import advice_words

    if advice.kind == "gpus":
        kind, colon, _ = plan.gpus.partition(":")
        return relaunch(plan, "", gpus=f"{kind}:{advice.value}" if colon else str(advice.value))
    if advice.kind == "variant":
        return relaunch(replace(plan, model=str(advice.value)), "")
    return relaunch(plan, advice_words(advice))


def _within(seconds: float, look: Any) -> Any:  # noqa: ANN401 - gives what `look` gives
    """What `look` gives; None for a file system that does not answer, or fails."""
    from hpcvlm.ops.doctor_look import within

    def attempt() -> Any:  # noqa: ANN401 - as above
        try:
            return look()
        except OSError:
            return None

    return within(seconds, attempt)


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        data = json.loads(text or "")
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
