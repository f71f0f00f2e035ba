"""Runs the commands that a page of the documentation shows, and compares what it says they print.

A block of ``console`` holds lines of ``$ COMMAND`` and, below each, what it prints; ``…`` stands
for anything. A command that prints a line with ``error:`` must fail, every other one must succeed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = "$ "


@dataclass
class Step:
    """One command of a page and the lines that it prints."""

    command: str
    lines: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether the page says that it is refused."""
        return any("error:" in line for line in self.lines)


def steps_of(page: Path) -> list[Step]:
    """Every command of a page, in its order."""
    steps: list[Step] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith(_PROMPT):
                steps.append(Step(line.removeprefix(_PROMPT)))
            elif steps[-1].command.endswith("\\"):
                steps[-1].command += f"\n{line}"
            elif line.strip():
                steps[-1].lines.append(line)
    return steps


def run_step(
    step: Step, environment: Mapping[str, str], here: Callable[[str], str], timeout_s: float = 300
) -> None:
    """Run one command, and see that it prints the page's lines, in their order.

    Args:
        step: of a page.
        environment: of the command.
        here: turns the page's paths into those of this run.
        timeout_s: longest time of the command.
    """
    done = subprocess.run(
        ["bash", "-c", here(step.command)],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) == step.fails, f"{step.command}: {done.returncode}\n{printed}"
    for stream in (printed, done.stderr + done.stdout):
        if _holds(stream.splitlines(), [here(line) for line in step.lines]):
            return
    raise AssertionError(f"{step.command} does not print what the page says:\n{printed}")


def _holds(printed: list[str], told: list[str]) -> bool:
    left = iter(printed)
    for line in told:
        pattern = re.compile(r"\s*".join(_word(word) for word in line.split()))
        if not any(pattern.fullmatch(" ".join(found.split())) for found in left):
            return False
    return True


def _word(word: str) -> str:
    return ".*".join(re.escape(part) for part in word.split("…"))
