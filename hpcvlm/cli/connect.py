"""hpcvlm connect."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli.output import data, duration, note, paint

if TYPE_CHECKING:
    from hpcvlm.ops.connect import Connection
    from hpcvlm.reach.follow import Event

_COLOURS = {"up": "green", "back": "green", "moved": "green", "down": "red", "expiring": "yellow"}


def connect(
    name: Annotated[str, typer.Argument(help="Name, unique prefix or job id.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="Run this with the endpoint's variables."),
    ] = None,
    login: Annotated[
        str | None, typer.Option(metavar="USER@HOST", help="Login node, from outside the cluster.")
    ] = None,
    jump: Annotated[
        str | None, typer.Option(metavar="HOST", help="Jump host to the login node: ssh's -J.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port here; the name's own one if left out."),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Used instead of ~/.ssh/config.")
    ] = None,
    remote_command: Annotated[
        str, typer.Option(help="What runs hpcvlm on the login node.")
    ] = "hpcvlm",
    poll: Annotated[
        float, typer.Option(min=1, help="Seconds between two looks at what the name means.")
    ] = 10.0,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the key itself, not the file it is in.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON once it is connected.")
    ] = False,
) -> None:
    """Open a port here that leads to an endpoint, and keep it: ssh, restarts, hand-overs."""
    from hpcvlm.ops.connect import ConnectRequest
    from hpcvlm.ops.connect import connect as run
    from hpcvlm.ops.context import Context

    ctx = Context()
    request = ConnectRequest(
        name=name,
        login=login,
        jump=jump,
        ssh_config=ssh_config,
        remote_command=remote_command,
        port=port,
        poll_s=poll,
        may_ask=sys.stdin.isatty() and sys.stderr.isatty(),
    )
    words = tuple(command or ())

    def up(connection: Connection) -> None:
        if as_json:
            data(_as_json(connection, show_key=show_key))
        elif not words:
            data(_exports(connection, ctx.environment, show_key=show_key))
        _welcome(connection, running=words)

    code = run(request, ctx, on_event=_show, on_up=up, command=words)
    if code:
        raise typer.Exit(code)


def _show(event: Event) -> None:
    at = time.strftime("%H:%M:%S")
    colour = _COLOURS.get(event.kind)
    note(f"{at} {paint(event.text, colour) if colour else event.text}")
    for line in event.details:
        note(f"         {line}")


def _welcome(connection: Connection, *, running: tuple[str, ...]) -> None:
    ends = ""
    if connection.ends is not None:
        ends = f", ends in {duration(connection.ends - time.time())}"
    how = f"runs {running[0]}" if running else "Ctrl-C ends it"
    note(f"{paint(connection.base_url, 'bold')} is {connection.name}{ends}; {how}")


def _key(connection: Connection) -> str:
    return Path(connection.key_file).read_text(encoding="utf-8").strip()


def _exports(connection: Connection, environment: Mapping[str, str], *, show_key: bool) -> str:
    from hpcvlm.ops.connect import client_variables

    values = client_variables(connection, "", environment)
    lines = {name: shlex.quote(value) for name, value in values.items()}
    file = shlex.quote(connection.key_file)
    lines["OPENAI_API_KEY"] = shlex.quote(_key(connection)) if show_key else f'"$(cat {file})"'
    return "\n".join(f"export {name}={value}" for name, value in lines.items())


def _as_json(connection: Connection, *, show_key: bool) -> str:
    told = {
        "name": connection.name,
        "model": connection.model,
        "base_url": connection.base_url,
        "port": connection.port,
        "key_file": connection.key_file,
        "job_id": connection.job_id,
        "host": connection.host,
        "ends": connection.ends,
        "pid": os.getpid(),
    }
    if show_key:
        told["key"] = _key(connection)
    return json.dumps(told, ensure_ascii=False)
