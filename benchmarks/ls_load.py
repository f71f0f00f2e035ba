"""What a busy user costs a real Slurm: `hpcvlm ls` with 1,000 jobs, and 50 waits at once.

200 of the jobs run, 50 wait in the queue, the others are over or forgotten. `ls` is timed beside a
bare squeue for the same jobs, and its Slurm commands are counted. Then each of the 50 is waited
for, and slurmctld's own statistics (sdiag) say how often it was asked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ls_scaling import FIRST_JOB_ID, log_slurm_commands, started_commands
from place import MODEL, Place, need_slurm, workplace
from timing import Check, Command, Samples, finish, interleaved, median_wall, options, table

from hpcvlm.submit.record import JobRecord, write_record

RECORDS, RUNNING, QUEUED = 1000, 200, 50
WALL_TARGET_S = 1.0
COMMANDS_TARGET = 2
# Each wait asks at most so often, and ever more seldom.
ASKS_PER_WAIT_S = 0.5
LATE_ASKS_PER_WAIT_S = 0.1
WATCHED_S = 60.0
_SHARE = "FORCE:64"  # so that a small cluster runs 200 jobs
_BEGIN_S = 300.0
_ASKED = re.compile(r"REQUEST_JOB(?:_USER)?_INFO\w*\s*\(\s*\d+\)\s*count:(\d+)")


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=7, slurm=True)
    parser.add_argument(
        "--share",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"set the partition to OverSubscribe={_SHARE} meanwhile, as an administrator may",
    )
    arguments = parser.parse_args()
    arguments.partition = arguments.partition or "cpu"
    need_slurm()
    with workplace(arguments.folder) as place, _shared(arguments), _jobs(arguments) as ids:
        running = _until_running(ids[:RUNNING])
        log = place.folder / "slurm-commands"
        log_slurm_commands(place, log)
        _make_records(place, ids)
        env = {**place.env, "BENCH_LABEL": "ls"}
        every = ",".join([*ids, *_forgotten()])
        ours = Command("ls", [str(arguments.hpcvlm), "ls"], env)
        ask = ["squeue", "--noheader", "--states=all", f"--jobs={every}"]
        samples = interleaved(
            [ours, Command("squeue", ask, {**place.env, "BENCH_LABEL": "bare"})], arguments.rounds
        )
        commands = started_commands(log, arguments.rounds + 1)["ls"]
        early, late = _waits(place, arguments)
    _report(samples, running, commands, (early, late), arguments)


@contextmanager
def _shared(arguments: Namespace) -> Iterator[None]:
    """Several jobs on each core, as far as this user may say so."""
    update = ["scontrol", "update", f"PartitionName={arguments.partition}"]
    if arguments.share:
        subprocess.run([*update, f"OverSubscribe={_SHARE}"], check=True)
    try:
        yield
    finally:
        if arguments.share:
            subprocess.run([*update, "OverSubscribe=NO"], check=True)


@contextmanager
def _jobs(arguments: Namespace) -> Iterator[list[str]]:
    """Trivial jobs that run, and others that are held."""
    ids: list[str] = []
    common = [f"--partition={arguments.partition}", "--mem=1", "--time=30", "--output=/dev/null"]
    if arguments.account:
        common.append(f"--account={arguments.account}")
    try:
        for number in range(RUNNING + QUEUED):
            hold = ["--hold"] if number >= RUNNING else []
            name = f"--job-name={_name(number)}"
            argv = ["sbatch", "--parsable", *common, name, *hold, "--wrap=exec sleep 1500"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"sbatch failed: {done.stderr}")
            ids.append(done.stdout.strip())
        yield ids
    finally:
        if ids:
            subprocess.run(["scancel", *ids], check=False)


def _until_running(ids: Sequence[str]) -> int:
    """Wait until the jobs run; how many do."""
    ask = ["squeue", "--noheader", "--states=RUNNING", "--format=%i", f"--jobs={','.join(ids)}"]
    deadline, running = time.monotonic() + _BEGIN_S, 0
    while running < len(ids) and time.monotonic() < deadline:
        time.sleep(2)
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        running = len(done.stdout.split())
    return running


def _name(number: int) -> str:
    return f"{MODEL}-{number:04}"


def _forgotten() -> list[str]:
    return [str(FIRST_JOB_ID + number) for number in range(RUNNING + QUEUED, RECORDS)]


def _make_records(place: Place, ids: Sequence[str]) -> None:
    """1,000 job folders; of the jobs that are over, half have said so themselves."""
    now = time.time()
    for number, job_id in enumerate([*ids, *_forgotten()]):
        folder = place.jobs / _name(number)
        folder.mkdir(parents=True, mode=0o700)
        write_record(_record(folder, job_id, now - 3600 - number))
        if number < RUNNING:
            _say(folder, job_id, "ready", now)
            _look(folder, now)
        elif number >= RUNNING + QUEUED and number % 2:
            _say(folder, job_id, "ended", now - 1800)


def _record(folder: Path, job_id: str, submitted: float) -> JobRecord:
    return JobRecord(
        schema=1,
        name=folder.name,
        model=MODEL,
        served_name=MODEL,
        executor="slurm",
        job_id=job_id,
        submitted=submitted,
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


def _say(folder: Path, job_id: str, phase: str, at: float) -> None:
    state = {
        "phase": phase,
        "reason": "stopped" if phase == "ended" else "",
        "since": at,
        "started": at - 300,
        "job_id": job_id,
        "host": "node01",
        "port": 20000,
        "ends": None,
        "phases": {"allocated": at - 300, "ready": at - 200, phase: at},
        "proof": "image",
    }
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _look(folder: Path, at: float) -> None:
    counts = ("running", "waiting", "requests", "prompt_tokens", "generation_tokens")
    seen = {"checked": at, "answered": at, "active": at, **dict.fromkeys(counts, 0)}
    (folder / "activity.json").write_text(json.dumps(seen), encoding="utf-8")


def _waits(place: Place, arguments: Namespace) -> tuple[float, float]:
    """How often slurmctld was asked, per wait and second: since they all run, and at the end."""
    env = dict(place.env)
    names = [_name(number) for number in range(RUNNING, RUNNING + QUEUED)]
    waits = [
        subprocess.Popen(
            [str(arguments.hpcvlm), "wait", name],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in names
    ]
    try:
        first = _asked()
        while _asked() < first + QUEUED:  # until they have all begun
            time.sleep(1)
        began, before = time.monotonic(), _asked()
        time.sleep(WATCHED_S / 2)
        middle, half = time.monotonic(), _asked()
        time.sleep(WATCHED_S / 2)
        ended, after = time.monotonic(), _asked()
        gone = sum(wait.poll() is not None for wait in waits)
        if gone:
            sys.exit(f"{gone} of {QUEUED} waits did not wait")
    finally:
        for wait in waits:
            wait.terminate()
        for wait in waits:
            wait.wait(timeout=60)
    return (
        (after - before) / (ended - began) / QUEUED,
        (after - half) / (ended - middle) / QUEUED,
    )


def _asked() -> int:
    """How often slurmctld was asked for jobs, by its own count."""
    done = subprocess.run(["sdiag"], capture_output=True, text=True, check=True)
    return sum(int(count) for count in _ASKED.findall(done.stdout))


def _report(
    samples: Samples,
    running: int,
    commands: int,
    asked: tuple[float, float],
    arguments: Namespace,
) -> None:
    ours, bare = median_wall(samples["ls"]), median_wall(samples["squeue"])
    rows = [
        (f"hpcvlm ls, {RECORDS} records", f"{ours * 1000:.0f} ms"),
        ("squeue for the same jobs", f"{bare * 1000:.0f} ms"),
        ("ls / squeue", f"{ours / bare:.1f}"),
        ("jobs that run", str(running)),
        (f"questions per wait and second, {QUEUED} waits", f"{asked[0]:.3f}"),
        ("of these in the second half", f"{asked[1]:.3f}"),
    ]
    checks = [
        Check("running jobs missing", RUNNING - running, 0),
        Check(f"ls of {RECORDS} records, {running} running: wall", ours, WALL_TARGET_S, "s"),
        Check("its Slurm commands", commands, COMMANDS_TARGET),
        Check("questions of one wait", asked[0], ASKS_PER_WAIT_S, "/s"),
        Check("later on", asked[1], LATE_ASKS_PER_WAIT_S, "/s"),
    ]
    numbers = {"samples": dict(samples), "running": running, "commands": commands, "asked": asked}
    finish(checks, table(("MEASURED", ""), rows), numbers, as_json=arguments.json)


if __name__ == "__main__":
    main()
