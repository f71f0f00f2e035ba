"""hpcvlm ls, status, logs, stop, env, snippet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.moving_line import MovingLine
from hpcvlm.cli.output import data, data_json, duration, note, paint, table
from hpcvlm.cli.rows import row_as_dict, weights_text
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context
    from hpcvlm.submit.record import JobRecord

__all__ = ["env", "logs", "ls", "row_as_dict", "snippet", "status", "stop", "weights_text"]

Name = Annotated[str, typer.Argument(help="Name, unique prefix or job id.")]


def ls(
    as_json: options.Json = False,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
) -> None:
    """List endpoints: what each is doing, where it answers, when it ends."""
    from hpcvlm.cli.rows import (
        HEADER,
        WHOLE,
        cells,
        table_notes,
        unreadable_as_dict,
        unreadable_cells,
    )
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.ops.endpoints import overview

    found = overview(telling_context())
    shown = [row for row in found.rows if everything or not row.is_over]
    if found.problem:
        note(f"{paint('note:', 'yellow')} {found.problem}")
    if as_json:
        rows = [row_as_dict(row) for row in shown]
        data_json([*rows, *(unreadable_as_dict(job) for job in found.unreadable)])
        return
    lines = [cells(row) for row in shown] + [unreadable_cells(job) for job in found.unreadable]
    if lines:
        data(table(HEADER, lines, WHOLE))
    for line in table_notes(shown, found.unreadable):
        note(line)
    over = len(found.rows) - len(shown)
    if over:
        note(f"{over} more are over: hpcvlm ls --all")
    elif not lines and not found.problem:
        note("no endpoints yet: hpcvlm launch MODEL --gpus TYPE:NUMBER")


def status(name: Name, as_json: options.Json = False) -> None:
    """Show one endpoint: its phase, its address, when it ends, why it failed."""
    from hpcvlm.cli.rows import status_lines
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.cli.wait import start_failed
    from hpcvlm.ops.endpoints import status as look
    from hpcvlm.watch.verdict import Failed

    row = look(name, telling_context())
    if as_json:
        data_json(row_as_dict(row))
        return
    data("\n".join(f"{key:<7} {value}" for key, value in status_lines(row).items()))
    if isinstance(row.verdict, Failed):
        from hpcvlm.cli.errors import show

        show(start_failed(row))


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they grow, until it is over.")
    ] = False,
) -> None:
    """Print the logs of the job and its engine, and what happened to them."""
    from hpcvlm.cli.logs import show
    from hpcvlm.ops.context import Context

    show(name, Context(), follow=follow)


def stop(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, unique prefixes or job ids.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All endpoints that run.")] = False,
    drain: Annotated[
        bool,
        typer.Option("--drain", help="Take no new requests, and let those that run be answered."),
    ] = False,
) -> None:
    """Stop endpoints, with the successors that wait, until their jobs are gone."""
    from hpcvlm.cli.slow import telling_context

    ctx = telling_context()
    if everything == bool(names):
        raise HpcvlmError("option-invalid", "say which endpoints to stop", "names, or --all")
    failures = []
    chosen = _chosen(names, ctx)
    for jobs in chosen:
        try:
            for record, said in _end(jobs, ctx, drain=drain):
                data(f"{record.name}: {said}")
        except HpcvlmError as error:
            failures.append(error)
    for other in failures[1:]:
        note(other.sentence)
    if failures:
        raise failures[0]
    if not chosen:
        note("nothing runs")


def _chosen(names: list[str] | None, ctx: Context) -> list[list[JobRecord]]:
    from hpcvlm.endpoints.registry import find_endpoint
    from hpcvlm.ops.endpoints import overview

    if names:
        return [find_endpoint(ctx.settings.jobs, name) for name in names]
    found = overview(ctx)
    for job in found.unreadable:
        note(f"{job.name}: left alone, its record cannot be read: {job.why}")
    live = [[job.record for job in row.generations if not job.is_over] for row in found.rows]
    return [jobs for jobs in live if jobs]


def _end(jobs: list[JobRecord], ctx: Context, *, drain: bool) -> list[tuple[JobRecord, str]]:
    from hpcvlm.ops.stop import drain_endpoint, stop_endpoint

    if not drain:
        return stop_endpoint(jobs, ctx)
    try:
        with _Draining() as shown:
            return drain_endpoint(jobs, ctx, on_wait=shown)
    except KeyboardInterrupt:
        name = jobs[0].shown_name
        raise HpcvlmError(
            "interrupted",
            f"interrupted; {name} goes on draining and then ends",
            f"hpcvlm stop {name} stops it at once",
        ) from None


class _Draining(MovingLine):
    """Shows how many requests are still being answered."""

    def __init__(self) -> None:
        super().__init__()
        self._said = ""

    def __call__(self, record: JobRecord, waited_s: float, running: int | None) -> None:
        """Show one look."""
        text = f"{record.name} drains"
        if running is not None:
            text += f", {running} requests run"
        if self.live:
            self.show(f"{text} ({duration(waited_s)})")
        elif text != self._said:
            note(text)
        self._said = text


def env(name: Name) -> None:
    """Print shell lines that point OpenAI clients at the endpoint: eval "$(hpcvlm env NAME)"."""
    from hpcvlm.cli.rows import ends_text
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.endpoints.endpoint import exports, read_key
    from hpcvlm.ops.endpoints import require_ready
    from hpcvlm.ops.endpoints import status as look

    row = look(name, telling_context())
    endpoint = require_ready(row)
    data(exports(endpoint, read_key(Path(endpoint.key_file))))
    if endpoint.ends is not None:
        data(f"export HPCVLM_ENDS={endpoint.ends:.0f}")
        # Last, since an eval without quotes makes one line of all of them.
        data(f"# {row.record.shown_name} ends {ends_text(row)}")


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
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.endpoints.endpoint import snippet as make
    from hpcvlm.ops.endpoints import ready_endpoint
    from hpcvlm.resources import data_root

    if image is not None and not image.is_file():
        raise HpcvlmError("option-invalid", f"there is no file {image}", "--image PICTURE")
    _, endpoint = ready_endpoint(name, telling_context())
    picture = image or data_root() / "templates" / "sbatch" / "picture.png"
    data(make(endpoint, client, str(picture.absolute())))
