"""Shared by the benchmarks: interleaved runs of commands, medians, tables, targets.

Other people use the machine too. So commands that are compared take turns within one run, medians
are compared and not means, and the CPU time in user mode, which a busy machine changes less,
stands beside the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm import __version__


@dataclass(frozen=True)
class Command:
    """One thing to be timed.

    Attributes:
        env: the whole environment.
        after: called with the standard output once the time has been taken, to tidy up.
    """

    label: str
    argv: Sequence[str]
    env: Mapping[str, str]
    after: Callable[[str], None] = lambda _stdout: None


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall time, and of CPU time with its children, in user mode and in all."""

    wall: float
    user: float
    cpu: float


@dataclass(frozen=True)
class Check:
    """One number and the target that it must not exceed."""

    what: str
    value: float
    target: float
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target


Samples = dict[str, list[Sample]]


def run_once(command: Command) -> Sample:
    """Run a command to its end; it must succeed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command.argv),
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text = out.read().decode(errors="replace")
        if process.returncode:
            words = err.read().decode(errors="replace")
            sys.exit(f"{command.label} failed ({process.returncode}):\n{text}{words}")
    command.after(text)
    return Sample(wall, used.ru_utime, used.ru_utime + used.ru_stime)


def interleaved(commands: Sequence[Command], rounds: int, *, warm_up: int = 1) -> Samples:
    """Every command once a round, each round beginning with another one."""
    samples: Samples = {command.label: [] for command in commands}
    for number in range(-warm_up, rounds):
        first = number % len(commands)
        for command in (*commands[first:], *commands[:first]):
            sample = run_once(command)
            if number >= 0:
                samples[command.label].append(sample)
    return samples


def median_wall(samples: Sequence[Sample]) -> float:
    """Median of the wall time in seconds."""
    return statistics.median(sample.wall for sample in samples)


def median_user(samples: Sequence[Sample]) -> float:
    """Median of the CPU time in user mode, in seconds."""
    return statistics.median(sample.user for sample in samples)


def ratio(samples: Samples, ours: str, theirs: str) -> tuple[float, float]:
    """Ours divided by theirs: of the wall medians, and of the user-CPU medians."""
    return (
        median_wall(samples[ours]) / median_wall(samples[theirs]),
        median_user(samples[ours]) / median_user(samples[theirs]),
    )


def sample_rows(samples: Samples) -> list[tuple[str, ...]]:
    """Median, fastest and slowest of each command, ready for `table`."""
    rows: list[tuple[str, ...]] = []
    for label, found in samples.items():
        walls = sorted(sample.wall for sample in found)
        spread = f"{walls[0] * 1000:.0f}-{walls[-1] * 1000:.0f}"
        wall, user = median_wall(found) * 1000, median_user(found) * 1000
        rows.append((label, f"{wall:.0f}", spread, f"{user:.0f}", str(len(found))))
    return rows


SAMPLE_HEADER = ("COMMAND", "WALL ms", "RANGE ms", "USER CPU ms", "RUNS")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def conditions() -> dict[str, object]:
    """What a number is worth nothing without."""
    return {
        "hpcvlm": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "at": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def options(
    description: str | None, *, rounds: int | None = None, slurm: bool = False
) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--hpcvlm",
        type=Path,
        default=Path(sys.executable).parent / "hpcvlm",
        help="the hpcvlm command (default: the one beside this Python)",
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    if slurm:
        parser.add_argument(
            "--folder",
            type=Path,
            help="a folder that the compute nodes see too (default: a new one in $TMPDIR)",
        )
        parser.add_argument("--partition", default="", help="default: the cluster's own")
        parser.add_argument("--account", default="", help="default: the user's own")
        parser.add_argument("--gpus", default="A100:1", help="default A100:1")
    return parser


def finish(
    checks: Sequence[Check], body: str, numbers: Mapping[str, object], *, as_json: bool
) -> None:
    """Print the table or the JSON, then the targets; the exit status is 1 when one is missed."""
    about = conditions()
    passed = all(check.passed for check in checks)
    if as_json:
        found = [{**vars(check), "passed": check.passed} for check in checks]
        text = {"conditions": about, "numbers": numbers, "checks": found, "passed": passed}
        print(json.dumps(text, indent=2, default=vars))
    else:
        print(body)
        print()
        print("  ".join(f"{name} {value}" for name, value in about.items()))
        rows = [
            (
                check.what,
                f"{check.value:.3g} {check.unit}".rstrip(),
                f"<= {check.target:g} {check.unit}".rstrip(),
                "pass" if check.passed else "FAIL",
            )
            for check in checks
        ]
        print(table(("TARGET", "MEASURED", "WANTED", ""), rows))
    sys.exit(0 if passed else 1)
