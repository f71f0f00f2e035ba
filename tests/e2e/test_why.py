"""`hpcvlm why` on a real Slurm: what its queue and its accounts say of a job."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT, Command
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
PATIENCE_S = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """The command on the test cluster, with the stand-in engine; leaves no job behind."""
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def run(cluster: SlurmCluster, *argv: str) -> str:
    """One of Slurm's commands on the test cluster."""
    environment = {**os.environ, **cluster.environment}
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def until(hpcvlm: Command, name: str, right: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What `why` says, once it is right; Slurm's accounts are a moment behind."""
    deadline = time.monotonic() + PATIENCE_S
    while not right(told := hpcvlm("why", name, "--json").json()):
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    return dict(told)


def test_one_that_is_held_and_one_that_is_cancelled(
    hpcvlm: Command, slurm_cluster: SlurmCluster
) -> None:
    gpus = ("tiny-vlm", "--gpus", "A100:4", "--json")
    first = hpcvlm("launch", *gpus, "--name", "first")
    assert first.code == 0, first.stderr
    waits = hpcvlm("launch", *gpus, "--name", "second", "--no-wait").json()["job_id"]
    told = until(hpcvlm, "second", lambda told: told["id"] == "queue")
    assert told["state"] == "waiting"
    assert f"squeue --start -j {waits}" in told["remedy"]
    run(slurm_cluster, "scontrol", "uhold", waits)
    told = until(hpcvlm, "second", lambda told: told["id"] == "held")
    assert told["remedy"] == f"scontrol release {waits}"
    assert told["evidence"][0]["file"] == "squeue"
    run(slurm_cluster, "scancel", first.json()["job_id"])
    told = until(hpcvlm, "first", lambda told: told["id"] == "cancelled")
    assert told["cause"] == "the job was cancelled by root, an administrator or Slurm itself"
    assert told["evidence"][0]["text"].startswith(f"JobID={first.json()['job_id']} State=CANCELLED")


def test_a_failed_start_names_its_log_and_the_accounts(hpcvlm: Command) -> None:
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "dead"),
        *("--set", "environment.FAKE_VLLM_MODE=die-loading"),
    )
    assert done.code == 5
    assert "the GPU's memory is full" in done.stderr
    job_id = hpcvlm("status", "dead", "--json").json()["job_id"]
    told = hpcvlm("why", "dead", "--json").json()
    assert told["id"] == "gpu-out-of-memory"
    assert told["evidence"][0]["file"] == "engine.out"
    until(hpcvlm, "dead", lambda told: f"sacct: job {job_id}" in told["tried"])
