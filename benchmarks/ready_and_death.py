"""How soon a launch says that the engine is ready, and how soon that it is dead.

The fake engine (tests/fake_vllm.py, started through a script that writes down the moment) serves
for both executors: this machine and Slurm. With --engine a real vLLM takes its place; the moments
then come from the job's state.json, and from the kill.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from place import FAKE_VLLM, MODEL, Place, cancel, have_slurm, workplace
from timing import Check, finish, options, table

READY_TARGET_S = 1.0
DEATH_TARGET_S = 3.0
START_FAILED = 5

# The fake engine, which writes down when it first answered a picture and when it dies: on the
# machine that it runs on, so that a cluster's nodes must agree on the time.
TIMED_ENGINE = """\
import importlib.util, os, signal, sys, threading, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("fake_vllm", {fake!r})
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)
moments = Path(os.environ["BENCH_MOMENTS"])


def write_down(what):
    if not (moments / what).exists():
        (moments / (what + ".new")).write_text(repr(time.time()))
        (moments / (what + ".new")).rename(moments / what)


class Handler(fake.Handler):
    def answer(self, status, body):
        super().answer(status, body)
        if "a red circle" in repr(body):
            write_down("answered")


def die():
    time.sleep(float(os.environ["BENCH_DIE_AFTER_S"]))
    write_down("died")
    os.kill(os.getpid(), signal.SIGKILL)


fake.Handler = Handler
if "BENCH_DIE_AFTER_S" in os.environ:
    threading.Thread(target=die, daemon=True).start()
fake.main()
"""


@dataclass(frozen=True)
class Launch:
    """What one launch did, and when: seconds since the epoch."""

    folder: Path
    exit_code: int
    url_shown: float | None
    over: float


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=5, slurm=True)
    parser.add_argument("--engine", type=Path, help="bin/vllm of a real vLLM of at least 0.10")
    parser.add_argument("--hub", type=Path, help="hub cache with the tiny model, for --engine")
    arguments = parser.parse_args()
    executors = ["local", "slurm"] if have_slurm() else ["local"]
    delays: dict[str, list[float]] = {}
    with workplace(arguments.folder) as place:
        for number in range(arguments.rounds):
            for executor in executors:
                ready = _ready(place, arguments, executor, number)
                delays.setdefault(f"ready, {executor}", []).append(ready)
                death = _death(place, arguments, executor, number)
                delays.setdefault(f"death, {executor}", []).append(death)
    checks, rows = [], []
    for what, found in delays.items():
        target = READY_TARGET_S if what.startswith("ready") else DEATH_TARGET_S
        checks.append(Check(f"{what}: shown after, slowest", max(found), target, "s"))
        middle = statistics.median(found)
        rows.append((what, f"{middle:.2f}", f"{min(found):.2f}-{max(found):.2f}", str(len(found))))
    if executors == ["local"]:
        print("no Slurm here: measured on this machine alone", file=sys.stderr)
    body = table(("SHOWN AFTER", "MEDIAN s", "RANGE s", "RUNS"), rows)
    finish(checks, body, delays, as_json=arguments.json)


def _ready(place: Place, arguments: Namespace, executor: str, number: int) -> float:
    """Seconds from the first answer about a picture to the line with the URL."""
    moments = _site(place, arguments, f"ready-{executor}-{number}", {})
    done = _launch(place, arguments, executor, f"ready-{executor}-{number}")
    _stop(place, arguments, done)
    if done.exit_code or done.url_shown is None:
        sys.exit(f"a launch that should have become ready ended with {done.exit_code}")
    if arguments.engine is None:
        return done.url_shown - float((moments / "answered").read_text())
    state = json.loads((done.folder / "state.json").read_text())
    return done.url_shown - float(state["phases"]["ready"])


def _death(place: Place, arguments: Namespace, executor: str, number: int) -> float:
    """Seconds from the engine's death while it starts to the end of the launch."""
    # Each round at another place in the rhythm in which the job and the launch look.
    after_s = 2.0 + 0.13 * number
    name = f"death-{executor}-{number}"
    slow = {"FAKE_VLLM_MODE": "slow", "BENCH_DIE_AFTER_S": str(after_s)}
    moments = _site(place, arguments, name, slow)
    done = _launch(place, arguments, executor, name, kill_after_s=after_s)
    if done.exit_code != START_FAILED:
        _stop(place, arguments, done)
        sys.exit(f"a launch that should have failed ended with {done.exit_code}")
    return done.over - float((moments / "died").read_text())


def _site(place: Place, arguments: Namespace, name: str, environment: dict[str, str]) -> Path:
    """Write the site file for one launch; gives the folder for what the engine writes down."""
    moments = place.folder / "moments" / name
    moments.mkdir(parents=True)
    asked = {"partition": arguments.partition, "account": arguments.account}
    site: dict[str, object] = {key: value for key, value in asked.items() if value}
    if arguments.engine is None:
        engine = place.folder / "timed_engine.py"
        engine.write_text(TIMED_ENGINE.format(fake=str(FAKE_VLLM)), encoding="utf-8")
        site["engines"] = [{"version": "0.32.0", "command": [sys.executable, str(engine)]}]
        site["environment"] = {**environment, "BENCH_MOMENTS": str(moments)}
    else:
        site["engines"] = [{"version": "0.32.0", "command": [str(arguments.engine.absolute())]}]
        site["hub_caches"] = [str(arguments.hub.absolute())] if arguments.hub else []
    place.write_site(**site)
    return moments


def _launch(
    place: Place, arguments: Namespace, executor: str, name: str, kill_after_s: float | None = None
) -> Launch:
    """Run `hpcvlm launch` to its end and note when it says what."""
    gpus = arguments.gpus if executor == "slurm" else "0"
    asked = ["--name", name, "--executor", executor, "--gpus", gpus, "--time", "20m"]
    process = subprocess.Popen(
        [str(arguments.hpcvlm), "launch", MODEL, *asked],
        env=place.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder = place.jobs / name
    if arguments.engine is not None and kill_after_s is not None:
        _kill_engine(process, folder, place.folder / "moments" / name / "died", kill_after_s)
    shown = None
    for line in process.stdout or ():
        if line.startswith("url "):
            shown = time.time()
    return Launch(folder, process.wait(), shown, time.time())


def _kill_engine(launch: subprocess.Popen[str], folder: Path, died: Path, after_s: float) -> None:
    """Kill a real engine some seconds after its start; it must run on this machine."""
    while launch.poll() is None:
        time.sleep(0.05)
        try:
            state = json.loads((folder / "state.json").read_text())
        except OSError:
            continue
        if state["engine_pid"] is not None:
            break
    else:
        return
    if state["host"] != platform.node():
        sys.exit("the engine runs on another machine, where it cannot be killed from here")
    time.sleep(after_s)
    died.write_text(repr(time.time()))
    os.kill(int(state["engine_pid"]), signal.SIGKILL)


def _stop(place: Place, arguments: Namespace, done: Launch) -> None:
    """End what a launch has left running."""
    record = json.loads((done.folder / "record.json").read_text())
    stop: Sequence[str] = [str(arguments.hpcvlm), "stop", record["name"]]
    stopped = subprocess.run(stop, env=place.env, check=False, capture_output=True)
    if stopped.returncode and record["executor"] == "slurm":
        cancel(record["job_id"])


if __name__ == "__main__":
    main()
