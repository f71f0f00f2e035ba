"""How an endpoint is shown: a line of `ls`, the lines of `status`, its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from hpcvlm.cli.output import duration
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.endpoints.endpoint import shown_address

if TYPE_CHECKING:
    from hpcvlm.endpoints.registry import Unreadable
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.watch.state import StagingState

HEADER = ("NAME", "MODEL", "STATE", "FOR", "LEFT", "IDLE", "GPU-H", "JOB", "URL")
WHOLE = (0,)  # the name is there to be typed again


def row_as_dict(row: Row) -> dict[str, object]:
    """One endpoint for --json; the key's file is named, the key is not in it."""
    from hpcvlm.ops.endpoints import describe

    record, endpoint, state = row.record, row.endpoint, row.glance.state
    activity, clocks = row.glance.activity, row.clocks
    return {
        "name": record.shown_name,
        "job_name": record.name,
        "model": record.model,
        "served_name": record.served_name,
        "state": type(row.verdict).__name__.lower(),
        "description": describe(row.verdict),
        "executor": record.executor,
        "job_id": record.job_id,
        "gpus": record.gpus,
        "submitted": record.submitted,
        "folder": record.folder,
        "url": endpoint.base_url if endpoint else None,
        "host": endpoint.host if endpoint else None,
        "socket": endpoint.socket if endpoint else None,
        "listen": record.listen,
        "key_file": endpoint.key_file if endpoint else None,
        "ends": row.ends,
        "left_s": None if row.ends is None else max(0.0, row.ends - row.now),
        "known_at": _known_at(row),
        "phases": state.phases if state else {},
        "queued_s": clocks.queued_s,
        "starting_s": clocks.starting_s,
        "gpu_hours": round(row.gpu_hours, 4),
        "idle_s": row.idle_for_s,
        "idle_limit_s": record.idle_s,
        "requests": activity.requests if activity else None,
        "prompt_tokens": activity.prompt_tokens if activity else None,
        "generation_tokens": activity.generation_tokens if activity else None,
        "requeued": state.restarts if state else 0,
        "engine_restarts": state.engine_restarts if state else 0,
        "kept_until": _kept_until(row),
        "generations": [_generation(job) for job in row.generations],
        "notes": list(row.notes),
        "staging": dataclasses.asdict(state.staging) if state and state.staging else None,
        "verdict": dataclasses.asdict(row.verdict),
    }


def unreadable_as_dict(job: Unreadable) -> dict[str, object]:
    """A job folder whose record cannot be read, for --json."""
    return {"name": job.name, "state": "unreadable", "description": job.why}


def cells(row: Row) -> tuple[str, ...]:
    """The line of one endpoint below `HEADER`."""
    record, endpoint = row.record, row.endpoint
    since = getattr(row.verdict, "since", None)
    idle = row.idle_for_s
    return (
        record.shown_name,
        record.model,
        _state(row),
        duration(row.now - since) if since else "",
        left(row),
        duration(idle) if idle is not None else "",
        f"{row.gpu_hours:.1f}" if row.gpu_hours else "",
        record.job_id or "?",
        shown_address(endpoint) if endpoint else "",
    )


def unreadable_cells(job: Unreadable) -> tuple[str, ...]:
    """The line of a job folder whose record cannot be read."""
    return (job.name, "?", "unreadable", *[""] * (len(HEADER) - 3))


def table_notes(rows: Iterable[Row], unreadable: Iterable[Unreadable]) -> list[str]:
    """What the lines of `ls` have no room for; what holds for several endpoints is said once."""
    from hpcvlm.watch.verdict import Unknown, Waiting

    said: dict[str, list[str]] = {}
    for row in rows:
        name, verdict = row.record.shown_name, row.verdict
        words = list(row.notes)
        if isinstance(verdict, Unknown):
            words.append(verdict.why)
        if isinstance(verdict, Waiting) and verdict.remedy:
            words.append(f"{verdict.detail}: {verdict.remedy}")
        words.extend(successors(row))
        for word in words:
            said.setdefault(word, []).append(name)
    lines = [f"{_names(names)}: {word}" for word, names in said.items()]
    return [*lines, *(f"{job.name}: its record cannot be read: {job.why}" for job in unreadable)]


def status_lines(row: Row) -> dict[str, str]:
    """What `status` prints, by its label."""
    from hpcvlm.ops.endpoints import describe
    from hpcvlm.watch.verdict import Unknown, Waiting

    record, endpoint, verdict = row.record, row.endpoint, row.verdict
    job = record.job_id or "number not known yet"
    lines = {
        "name": record.shown_name,
        "state": describe(verdict),
        "model": f"{record.served_name} on {record.engine}",
        "job": f"{job} ({record.executor}), GPUs {record.gpus}",
        "folder": record.folder,
    }
    if isinstance(verdict, Waiting):
        lines |= _waiting_lines(verdict.detail, verdict.expected_start, verdict.remedy)
    if isinstance(verdict, Unknown):
        lines["known"] = f"{verdict.last_seen}{_at(verdict.known_at)}"
        if row.last_url:
            lines["was at"] = row.last_url
    lines["took"] = _clocks_text(row)
    if endpoint is not None:
        where = "socket" if endpoint.socket else "url"
        lines |= {where: shown_address(endpoint), "key": endpoint.key_file}
    if not row.is_over:
        lines["ends"] = ends_text(row)
    lines |= _use_lines(row)
    state = row.glance.state
    if state is not None and state.staging is not None and state.phase != "ended":
        lines["weights"] = weights_text(state.staging)
    after = successors(row)
    if after:
        lines["next"] = "; ".join(after)
    if row.notes:
        lines["note"] = "; ".join(row.notes)
    return lines


def successors(row: Row) -> list[str]:
    """What comes after the job that an endpoint's name means now, and until when it is kept."""
    from hpcvlm.cli.progress import clock_time

    after = [job for job in row.generations if job.record.generation > row.record.generation]
    words = going_on([job for job in after if not job.is_over])
    until = _kept_until(row)
    if until is not None and not row.is_over:
        words.append(f"kept until {clock_time(until)}")
    return words


def going_on(jobs: Sequence[Row]) -> list[str]:
    """Successors, those in a row of which the same is true in one line: there may be dozens."""
    lines = []
    for text, group in groupby(jobs, key=_how_it_goes):
        names = [job.record.name for job in group]
        who = f"successors {names[0]} to {names[-1]}" if len(names) > 1 else f"successor {names[0]}"
        lines.append(f"{who} {text}")
    return lines


def _how_it_goes(job: Row) -> str:
    from hpcvlm.cli.progress import clock_time
    from hpcvlm.ops.endpoints import describe
    from hpcvlm.watch.verdict import Waiting

    start = job.verdict.expected_start if isinstance(job.verdict, Waiting) else None
    return describe(job.verdict) + (f", expected {clock_time(start)}" if start else "")


def left(row: Row) -> str:
    """The time that is left; empty when unknown."""
    return "" if row.ends is None else duration(row.ends - row.now)


def ends_text(row: Row) -> str:
    """When it ends, and in how long."""
    from hpcvlm.cli.progress import clock_time

    if row.ends is None:
        return "not known"
    return f"{clock_time(row.ends)} (in {left(row)})"


def weights_text(staging: StagingState) -> str:
    """How the weights came closer to the engine, and how fast."""
    if staging.how == "skipped":
        return f"read from the shared store: {staging.why}"
    if staging.how == "reused":
        return f"{bytes_text(staging.bytes)} were on the node already ({staging.folder})"
    where = f"copied to {staging.folder}" if staging.how == "copied" else "read ahead"
    speed = f"{staging.mb_per_s:.0f} MB/s" if staging.mb_per_s else "at once"
    why = f"; {staging.why}" if staging.why else ""
    return f"{bytes_text(staging.bytes)} {where} in {duration(staging.seconds)}, {speed}{why}"


def _state(row: Row) -> str:
    from hpcvlm.ops.endpoints import describe
    from hpcvlm.watch.verdict import Unknown

    verdict = row.verdict
    return (
        f"unknown, was {verdict.last_seen}" if isinstance(verdict, Unknown) else describe(verdict)
    )


def _waiting_lines(detail: str, start: float | None, remedy: str) -> dict[str, str]:
    from hpcvlm.cli.progress import clock_time

    lines = {"detail": detail} if detail else {}
    if start is not None:
        lines["start"] = f"expected {clock_time(start)}"
    return lines | ({"try": remedy} if remedy else {})


def _clocks_text(row: Row) -> str:
    clocks = row.clocks
    if clocks.starting_s is None:
        return f"{duration(clocks.queued_s)} in the queue"
    return f"{duration(clocks.queued_s)} in the queue, {duration(clocks.starting_s)} to start"


def _use_lines(row: Row) -> dict[str, str]:
    activity = row.glance.activity
    lines = {}
    if activity is not None:
        idle = row.idle_for_s
        now = (
            f"{activity.running} running, {activity.waiting} waiting, " if idle is not None else ""
        )
        text = f"{now}{activity.requests} answered"
        if idle is not None:
            limit = row.record.idle_s
            text += f"; idle for {duration(idle)}"
            text += f" of {duration(limit)}" if limit is not None else ""
        lines["use"] = text
    if row.gpu_hours:
        lines["spent"] = f"{row.gpu_hours:.2f} GPU hours"
    return lines


def _generation(row: Row) -> dict[str, object]:
    from hpcvlm.ops.endpoints import describe

    verdict = row.verdict
    return {
        "job_name": row.record.name,
        "generation": row.record.generation,
        "job_id": row.record.job_id,
        "state": type(verdict).__name__.lower(),
        "description": describe(verdict),
        "ends": row.ends,
        "expected_start": getattr(verdict, "expected_start", None),
    }


def _kept_until(row: Row) -> float | None:
    untils = [job.record.keep_until for job in row.generations or (row,)]
    return max((until for until in untils if until is not None), default=None)


def _known_at(row: Row) -> float | None:
    """When that was true which is shown: now, unless something did not answer."""
    from hpcvlm.watch.verdict import Unknown

    return row.verdict.known_at if isinstance(row.verdict, Unknown) else row.now


def _at(seconds: float | None) -> str:
    from hpcvlm.cli.progress import clock_time

    return "" if seconds is None else f" at {clock_time(seconds)}"


def _names(names: Sequence[str]) -> str:
    most = 3
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
