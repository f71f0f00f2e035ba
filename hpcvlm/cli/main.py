"""The command line: registers the commands and is the only error boundary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from hpcvlm import __version__
from hpcvlm.cli import doctor, endpoints, launch, models, plan, site, smoke
from hpcvlm.errors import ExitCode, HpcvlmError

_COMMANDS: dict[str, Callable[..., None]] = {
    "launch": launch.launch,
    "plan": plan.plan,
    "render": launch.render,
    "wait": launch.wait,
    "ls": endpoints.ls,
    "status": endpoints.status,
    "logs": endpoints.logs,
    "smoke-test": smoke.smoke_test,
    "env": endpoints.env,
    "snippet": endpoints.snippet,
    "stop": endpoints.stop,
    "demo": smoke.demo,
    "doctor": doctor.doctor,
}
_GROUPS: dict[str, typer.Typer] = {"models": models.app, "site": site.app}


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"hpcvlm {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Print the version."),
    ] = False,
) -> None:
    """Vision-language endpoints on Slurm clusters that have proved they can see."""


def make_app(only: str = "") -> typer.Typer:
    """The command line, or as much of it as one command needs.

    Args:
        only: the one command that is wanted; typer takes 1 ms to read the options of each.
    """
    made = typer.Typer(
        name="hpcvlm",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help="Vision-language endpoints on Slurm clusters that have proved they can see.",
    )
    made.callback()(_root)
    wanted = (only,) if only in (*_COMMANDS, *_GROUPS) else (*_COMMANDS, *_GROUPS)
    for name, command in _COMMANDS.items():
        if name in wanted:
            made.command(name)(command)
    for name, group in _GROUPS.items():
        if name in wanted:
            made.add_typer(group, name=name)
    return made


app = make_app()


def main() -> None:
    """Run the command line; a user's mistake ends in a sentence, never in a traceback."""
    from hpcvlm.cli.errors import exit_code, show

    try:
        make_app("".join(sys.argv[1:2]))(prog_name="hpcvlm")
    except HpcvlmError as error:
        show(error)
        sys.exit(exit_code(error.code))
    except BrokenPipeError:
        sys.exit(ExitCode.FAILED)
