"""hpcvlm containers: the images that engines run in."""

from __future__ import annotations

import typer

from hpcvlm.cli.containers_build import build, pull
from hpcvlm.cli.containers_check import check
from hpcvlm.cli.containers_inspect import inspect, sign, verify
from hpcvlm.cli.containers_ls import ls

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The container images that engines run in."
)
for _name, _command in (
    ("ls", ls),
    ("build", build),
    ("pull", pull),
    ("inspect", inspect),
    ("verify", verify),
    ("sign", sign),
    ("check", check),
):
    app.command(_name)(_command)
