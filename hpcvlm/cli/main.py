"""The command line: registers the commands and is the only error boundary."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpcvlm import __version__
from hpcvlm.cli import endpoints, launch, models, smoke
from hpcvlm.errors import ExitCode, HpcvlmError

app = typer.Typer(
    name="hpcvlm",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Vision-language endpoints on Slurm clusters that have proved they can see.",
)

for command, name in (
    (launch.launch, "launch"),
    (launch.render, "render"),
    (launch.wait, "wait"),
    (endpoints.ls, "ls"),
    (endpoints.status, "status"),
    (endpoints.logs, "logs"),
    (smoke.smoke_test, "smoke-test"),
    (endpoints.env, "env"),
    (endpoints.snippet, "snippet"),
    (endpoints.stop, "stop"),
    (smoke.demo, "demo"),
):
    app.command(name)(command)
app.add_typer(models.app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"hpcvlm {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Print the version."),
    ] = False,
) -> None:
    """Vision-language endpoints on Slurm clusters that have proved they can see."""


def main() -> None:
    """Run the command line; a user's mistake ends in a sentence, never in a traceback."""
    from hpcvlm.cli.errors import exit_code, show

    try:
        app(prog_name="hpcvlm")
    except HpcvlmError as error:
        show(error)
        sys.exit(exit_code(error.code))
    except BrokenPipeError:
        sys.exit(ExitCode.FAILED)
