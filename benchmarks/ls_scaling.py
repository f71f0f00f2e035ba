"""How `hpcvlm ls` grows with the number of job records: wall time, and Slurm commands started.

Half of the records have ended by their own word (state.json); the others say nothing, and Slurm
has never heard of their job ids, so that squeue and then sacct are asked for all of them.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path

from place import MODEL, Place, have_slurm, workplace
from timing import Check, Command, Samples, finish, interleaved, median_wall, options, table

from hpcvlm.submit.record import JobRecord, write_record

COUNTS = (10, 100, 1000)
WALL_TARGET_S = 1.0
COMMANDS_TARGET = 2
GROWTH_TARGET = 12
SLURM_COMMANDS = ("squeue", "sacct", "sinfo", "scontrol")
FIRST_JOB_ID = 60_000_000  # Slurm's own numbers end at 67,108,863


def main() -> None:
    """Measure and print."""
    arguments = options(__doc__, rounds=7).parse_args()
    with workplace() as place:
        log = place.folder / "slurm-commands"
        log_slurm_commands(place, log)
        states = {count: place.folder / f"state-{count}" for count in COUNTS}
        for count, state in states.items():
            _make_records(state / "jobs", count)
        commands = [
            Command(
                _label(count, flag),
                [str(arguments.hpcvlm), "ls", *flag],
                {**place.env, "HPCVLM_STATE": str(state), "BENCH_LABEL": _label(count, flag)},
            )
            for count, state in states.items()
            for flag in ((), ("--all",))
        ]
        samples = interleaved(commands, arguments.rounds, warm_up=1)
        started = started_commands(log, arguments.rounds + 1)
    _report(samples, started, arguments)


def _label(count: int, flag: tuple[str, ...]) -> str:
    return " ".join(("ls", *flag, str(count)))


def log_slurm_commands(place: Place, log: Path) -> None:
    """Each Slurm command leaves a line before it runs; without Slurm it then says nothing."""
    real_slurm = have_slurm()
    for name in SLURM_COMMANDS:
        real = shutil.which(name) if real_slurm else None
        run = f'exec {shlex.quote(real)} "$@"' if real else "exit 0"
        text = f'#!/bin/sh\necho "$BENCH_LABEL/{name}" >>{shlex.quote(str(log))}\n{run}\n'
        place.script(name, text)


def _make_records(jobs: Path, count: int) -> None:
    now = time.time()
    for number in range(count):
        folder = jobs / f"{MODEL}-{number:04}"
        folder.mkdir(parents=True, mode=0o700)
        record = JobRecord(
            schema=1,
            name=folder.name,
            model=MODEL,
            served_name=MODEL,
            executor="slurm",
            job_id=str(FIRST_JOB_ID + number),
            submitted=now - 3600 - number,
            folder=str(folder),
            time_limit_s=1800,
            start_timeout_s=600,
            gpus="A100:1",
            partition=None,
            vision=True,
            image_limit=2,
            media_root=str(folder / "media"),
            engine="vllm 0.32.0",
            loopback=False,
        )
        write_record(record)
        if number % 2:
            state = {
                "schema": 1,
                "phase": "ended",
                "reason": "stopped",
                "since": now - 1800,
                "started": now - 3500,
                "job_id": record.job_id,
                "host": "node01",
                "port": 20000,
                "engine_exit": 0,
                "ends": None,
                "restarts": 0,
                "phases": {"allocated": now - 3500, "ready": now - 3400, "ended": now - 1800},
            }
            (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def started_commands(log: Path, runs: int) -> Counter[str]:
    """Slurm commands in one run, by label."""
    lines = log.read_text().splitlines() if log.exists() else []
    total = Counter(line.partition("/")[0] for line in lines)
    return Counter({label: -(-number // runs) for label, number in total.items()})


def _report(samples: Samples, started: Counter[str], arguments: Namespace) -> None:
    rows = []
    for label, found in samples.items():
        user = sorted(sample.user for sample in found)[len(found) // 2] * 1000
        wall = median_wall(found) * 1000
        rows.append((label, f"{wall:.0f}", f"{user:.0f}", str(started[label]), str(len(found))))
    most = COUNTS[-1]
    checks = []
    for flag in ((), ("--all",)):
        label, tenth = _label(most, flag), _label(COUNTS[-2], flag)
        growth = median_wall(samples[label]) / median_wall(samples[tenth])
        checks += [
            Check(f"{label}: wall", median_wall(samples[label]), WALL_TARGET_S, "s"),
            Check(f"{label}: Slurm commands", started[label], COMMANDS_TARGET),
            Check(f"{label} / {tenth}, wall", growth, GROWTH_TARGET),
        ]
    numbers = {"samples": dict(samples), "slurm_commands": dict(started), "slurm": have_slurm()}
    header = ("COMMAND", "WALL ms", "USER CPU ms", "SLURM COMMANDS", "RUNS")
    finish(checks, table(header, rows), numbers, as_json=arguments.json)


if __name__ == "__main__":
    main()
