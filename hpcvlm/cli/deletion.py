"""What commands that delete have in common: they ask, go row by row, and say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import typer

from hpcvlm.cli.output import data, note, paint
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_ls import json_text, printable
from hpcvlm.errors import ExitCode, HpcvlmError


class Deleted(Protocol):
    """What became of one row of a plan.

    Attributes:
        freed: bytes that became free.
        skipped: why it stays although nothing went wrong.
        problem: what went wrong.
    """

    @property
    def freed(self) -> int: ...  # noqa: D102
    @property
    def skipped(self) -> str: ...  # noqa: D102
    @property
    def problem(self) -> str: ...  # noqa: D102


Outcome = TypeVar("Outcome", bound=Deleted)


def confirm(size: int, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere only --yes is an answer.

    Args:
        size: bytes that would go.
        yes: whether --yes was given.

    Raises:
        HpcvlmError: ``option-required``; ``typer.Exit`` after a no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise HpcvlmError(
            "option-required",
            f"nobody can be asked here whether {bytes_text(size)} may be deleted; nothing was "
            "changed",
            "look at it with --dry-run, then add --yes",
        )
    sys.stderr.write(f"delete this for good, {bytes_text(size)}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("nothing was changed")
        raise typer.Exit(ExitCode.FAILED)


def carry_out(
    outcomes: Iterable[Outcome],
    planned: int,
    command: str,
    report: Callable[[Sequence[Outcome]], None],
) -> None:
    """Take the outcomes as they come, and report them, also after Ctrl-C.

    Args:
        outcomes: each is one row of the plan, done when it is asked for.
        planned: rows of the plan.
        command: whose next run finishes what was begun.
        report: tells what was done.

    Raises:
        typer.Exit: interrupted, or something went wrong.
    """
    done: list[Outcome] = []
    try:
        for outcome in outcomes:
            done.append(outcome)  # noqa: PERF402 - what is done before Ctrl-C counts
    except KeyboardInterrupt:
        report(done)
        note(
            f"interrupted: {len(done)} of {planned} are done; nothing is broken, and the next "
            f"{command} finishes what was begun"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    report(done)
    if any(outcome.problem for outcome in done):
        raise typer.Exit(ExitCode.FAILED)


def tell(
    done: Iterable[Outcome], name: Callable[[Outcome], str], size: int, *, as_json: bool
) -> None:
    """What went wrong, what stays, and how much became free of `size` bytes."""
    freed = 0
    for outcome in done:
        freed += outcome.freed
        if outcome.problem:
            note(f"{paint('failed', 'red')}: {printable(name(outcome) + outcome.problem)}")
        elif outcome.skipped:
            note(f"kept: {printable(name(outcome) + outcome.skipped)}")
    line = f"{bytes_text(freed)} freed"
    if freed < size:
        line += f" of {bytes_text(size)}"
    if as_json:
        note(line)
    else:
        data(line)


def done_as_dict(
    done: Sequence[Outcome], row: Callable[[Outcome], dict[str, object]]
) -> dict[str, object]:
    """What was done, for --json."""
    return {
        "freed": sum(outcome.freed for outcome in done),
        "done": [
            {
                **row(outcome),
                "freed": outcome.freed,
                "skipped": json_text(outcome.skipped),
                "problem": json_text(outcome.problem),
            }
            for outcome in done
        ],
    }
