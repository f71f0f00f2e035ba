"""The command line: registers the commands and is the only error boundary."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Annotated

import typer

from hpcvlm import __version__
from hpcvlm.errors import ExitCode, HpcvlmError

# Where each command is: its module in hpcvlm.cli, loaded only when it is wanted, and its function.
_COMMANDS: dict[str, tuple[str, str]] = {
    "launch": ("launch", "launch"),
    "plan": ("plan", "plan"),
    "render": ("launch", "render"),
    "wait": ("wait", "wait"),
    "ls": ("endpoints", "ls"),
    "status": ("endpoints", "status"),
    "logs": ("endpoints", "logs"),
    "smoke-test": ("smoke", "smoke_test"),
    "env": ("endpoints", "env"),
    "snippet": ("endpoints", "snippet"),
    "stop": ("endpoints", "stop"),
    "why": ("why", "why"),
    "connect": ("connect", "connect"),
    "extend": ("extend", "extend"),
    "usage": ("usage", "usage"),
    "cleanup": ("cleanup", "cleanup"),
    "rotate-key": ("keys", "rotate_key"),
    "demo": ("smoke", "demo"),
    "doctor": ("doctor", "doctor"),
}
_GROUPS = ("models", "snapshots", "containers", "site")
_VERSION = "--version"


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"hpcvlm {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(_VERSION, is_eager=True, callback=_version, help="Print the version."),
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
    for name, (module, function) in _COMMANDS.items():
        if _wanted(name, only):
            command: Callable[..., None] = getattr(_load(module), function)
            made.command(name)(command)
    for name in _GROUPS:
        if _wanted(name, only):
            made.add_typer(_load(name).app, name=name)
    return made


def _wanted(name: str, only: str) -> bool:
    if only in (*_COMMANDS, *_GROUPS, _VERSION):
        return name == only
    return True


def _load(module: str) -> ModuleType:
    return importlib.import_module(f"hpcvlm.cli.{module}")


def main() -> None:
    """Run the command line; a user's mistake ends in a sentence, never in a traceback."""
    from hpcvlm.cli.errors import exit_code, no_process, show

    try:
        make_app("".join(sys.argv[1:2]))(prog_name="hpcvlm")
    except HpcvlmError as error:
        show(error)
        sys.exit(exit_code(error.code))
    except BrokenPipeError:
        sys.exit(ExitCode.FAILED)
    except (OSError, RuntimeError) as error:
        show(no_process(error))
        sys.exit(ExitCode.FAILED)
