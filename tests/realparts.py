"""The real parts that tests run against, set up by scripts/setup/ and described to the tests."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "scripts" / "setup"
CANNOT = 3  # exit status of a set-up script where its part cannot be had
SETUP_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class SlurmCluster:
    """A running test cluster: partitions gpu, short, cpu; nodes with A100:4 and H100:4."""

    folder: Path
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class CpuSif:
    """A real container image in which the CPU build of vLLM runs."""

    image: Path
    vllm: Path

    def site_yaml(self) -> str:
        """A site file that serves from this image."""
        prefix = subprocess.run(
            [self.vllm.parent / "python", "-c", "import sys; print(sys.base_prefix)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        binds = list(dict.fromkeys(["/usr", prefix, str(self.vllm.parent.parent)]))
        install = {
            "version": "0.32.0",
            "image": str(self.image),
            "command": [str(self.vllm)],
            "binds": binds,
        }
        return json.dumps({"schema": 1, "runtime": "apptainer", "engines": [install]})


def set_up(script: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a set-up script; gives its last line, or skips the test with the script's own reason."""
    done = subprocess.run(
        [SETUP / script, *arguments],
        env={**os.environ, "PYTHON": sys.executable, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=SETUP_TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode == CANNOT:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        pytest.skip(f"{script}: {reason}")
    assert done.returncode == 0, f"{script} failed: {done.stderr[-2000:]}"
    return lines[-1] if lines else ""


def exports(text: str) -> dict[str, str]:
    """The variables in lines of `export NAME=VALUE`."""
    words = shlex.split(text)
    return dict(word.split("=", 1) for word in words if "=" in word)
