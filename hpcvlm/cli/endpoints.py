"""hpcvlm ls, status, logs, stop, env, snippet."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, duration, note, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.watch.state import StagingState

Name = Annotated[str, typer.Argument(help="Name, unique prefix or job id.")]
_FOLLOW_EVERY_S = 0.5
_LOG_FILES = ("job.out", "job.err", "engine.out", "engine.err")


def ls(
    as_json: options.Json = False,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
) -> None:
    """List endpoints: what each is doing, where it answers, when it ends."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import listing
    from hpcvlm.watch.verdict import Ended, Failed

    rows = listing(Context())
    shown = [r for r in rows if everything or not isinstance(r.verdict, (Ended, Failed))]
    if as_json:
        data_json([row_as_dict(row) for row in shown])
        return
    if shown:
        header = ("NAME", "MODEL", "STATE", "FOR", "LEFT", "JOB", "URL")
        data(table(header, [_cells(row) for row in shown]))
    over = len(rows) - len(shown)
    if over:
        note(f"{over} more are over: hpcvlm ls --all")
    elif not rows:
        note("no endpoints yet: hpcvlm launch MODEL --gpus TYPE:NUMBER")


def status(name: Name, as_json: options.Json = False) -> None:
    """Show one endpoint: its phase, its address, why it failed."""
    from hpcvlm.cli.launch import start_failed
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import describe
    from hpcvlm.ops.endpoints import status as look
    from hpcvlm.watch.verdict import Failed, Waiting

    row = look(name, Context())
    if as_json:
        data_json(row_as_dict(row))
        return
    record, endpoint = row.record, row.endpoint
    lines = {
        "name": record.name,
        "state": describe(row.verdict),
        "model": f"{record.served_name} on {record.engine}",
        "job": f"{record.job_id} ({record.executor}), GPUs {record.gpus}",
        "folder": record.folder,
    }
    if isinstance(row.verdict, Waiting) and row.verdict.detail:
        lines["detail"] = row.verdict.detail
    if endpoint is not None:
        lines |= {"url": endpoint.base_url, "key": endpoint.key_file}
        lines["ends"] = _left(row) or "not known"
    state = row.glance.state
    if state is not None and state.staging is not None and state.phase != "ended":
        lines["weights"] = weights_text(state.staging)
    data("\n".join(f"{key:<7} {value}" for key, value in lines.items()))
    if isinstance(row.verdict, Failed):
        from hpcvlm.cli.errors import show

        show(start_failed(row))


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Print the logs of the job and its engine."""
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.context import Context

    ctx = Context()
    record = find_record(ctx.settings.jobs, name)
    paths = [Path(record.folder) / file for file in _LOG_FILES]
    offsets = dict.fromkeys(paths, 0)
    while True:
        for path in paths:
            offsets[path] = _print_from(path, offsets[path])
        if not follow or _is_over(record.name, ctx):
            break
        ctx.clock.sleep(_FOLLOW_EVERY_S)


def _print_from(path: Path, offset: int) -> int:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            chunk = stream.read()
    except OSError:
        return offset
    if chunk:
        sys.stdout.write(chunk.decode("utf-8", errors="replace"))
        sys.stdout.flush()
    return offset + len(chunk)


def _is_over(name: str, ctx: Context) -> bool:
    from hpcvlm.watch.state import read_state

    state = read_state(ctx.settings.jobs / name)
    return state is not None and state.phase == "ended"


def stop(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, unique prefixes or job ids.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All endpoints that run.")] = False,
) -> None:
    """Stop endpoints and wait until their jobs are gone."""
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import listing
    from hpcvlm.ops.endpoints import stop as stop_one
    from hpcvlm.watch.verdict import Ended, Failed

    ctx = Context()
    if everything == bool(names):
        raise HpcvlmError("option-invalid", "say which endpoints to stop", "names, or --all")
    if everything:
        rows = listing(ctx)
        records = [r.record for r in rows if not isinstance(r.verdict, (Ended, Failed))]
    else:
        records = [find_record(ctx.settings.jobs, name) for name in names or ()]
    failures = []
    for record in records:
        try:
            data(f"{record.name}: {stop_one(record, ctx)}")
        except HpcvlmError as error:
            failures.append(error)
            note(f"{record.name}: {error.sentence}")
    if failures:
        raise failures[0]
    if not records:
        note("nothing runs")


def env(name: Name) -> None:
    """Print shell lines that point OpenAI clients at the endpoint: eval "$(hpcvlm env NAME)"."""
    from hpcvlm.endpoints.endpoint import exports, read_key
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import ready_endpoint

    _, endpoint = ready_endpoint(name, Context())
    data(exports(endpoint, read_key(Path(endpoint.key_file))))


def snippet(
    name: Name,
    client: Annotated[
        str, typer.Option(help="curl, openai, litellm or python.", metavar="CLIENT")
    ] = "curl",
    image: Annotated[
        Path | None, typer.Option(help="Picture to ask about; a shipped one if left out.")
    ] = None,
) -> None:
    """Print a working example with a picture, for one client."""
    from hpcvlm.endpoints.endpoint import snippet as make
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import ready_endpoint
    from hpcvlm.resources import data_root

    _, endpoint = ready_endpoint(name, Context())
    picture = image or data_root() / "templates" / "sbatch" / "picture.png"
    data(make(endpoint, client, str(picture.absolute())))


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


def row_as_dict(row: Row) -> dict[str, object]:
    """One endpoint for --json; the key's file is named, the key is not in it."""
    from hpcvlm.ops.endpoints import describe

    endpoint, state = row.endpoint, row.glance.state
    return {
        "name": row.record.name,
        "model": row.record.model,
        "served_name": row.record.served_name,
        "state": type(row.verdict).__name__.lower(),
        "description": describe(row.verdict),
        "executor": row.record.executor,
        "job_id": row.record.job_id,
        "gpus": row.record.gpus,
        "submitted": row.record.submitted,
        "folder": row.record.folder,
        "url": endpoint.base_url if endpoint else None,
        "key_file": endpoint.key_file if endpoint else None,
        "ends": endpoint.ends if endpoint else None,
        "phases": state.phases if state else {},
        "staging": dataclasses.asdict(state.staging) if state and state.staging else None,
        "verdict": dataclasses.asdict(row.verdict),
    }


def _cells(row: Row) -> tuple[str, ...]:
    from hpcvlm.ops.endpoints import describe

    record, endpoint = row.record, row.endpoint
    since = getattr(row.verdict, "since", None)
    return (
        record.name,
        record.model,
        describe(row.verdict),
        duration(time.time() - since) if since else "",
        _left(row),
        record.job_id,
        endpoint.base_url if endpoint else "",
    )


def _left(row: Row) -> str:
    endpoint = row.endpoint
    if endpoint is None or endpoint.ends is None:
        return ""
    return duration(endpoint.ends - time.time())
