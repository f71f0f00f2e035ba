"""An endpoint that moves to its successor on a real Slurm, while somebody keeps sending."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
PATIENCE_S = 150  # the job before takes requests for 30 s after it was taken over from
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def until(done: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)


def test_no_request_is_lost_while_a_successor_takes_over(hpcvlm: Command, tmp_path: Path) -> None:
    asked = ("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "kept", "--time", "30m")
    done = hpcvlm(*asked, "--listen", "socket", "--json")
    assert done.code == 0, done.stderr
    first = done.json()["job_id"]
    stop, said = tmp_path / "stop", tmp_path / "said"
    client = (sys.executable, str(ROOT / "tests" / "reach_client.py"), str(stop), "4")
    with (
        said.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "hpcvlm", "connect", "kept", "--poll", "5", "--", *client],
            env={**os.environ, **hpcvlm.environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        ) as sending,
    ):
        until(lambda: "kept is job" in said.read_text(), said.read_text)
        assert hpcvlm("extend", "kept", "--successor", "--json").code == 0
        until(lambda: "kept~2 is job" in said.read_text(), said.read_text)
        until(lambda: hpcvlm.job_state("kept")["phase"] == "ended", said.read_text)
        stop.touch()
        told = json.loads(sending.communicate(timeout=60)[0])
    assert told["lost"] == []
    assert told["answered"]["somebody"] > 100
    assert hpcvlm.job_state("kept")["reason"] == "handed-over"
    now = hpcvlm("status", "kept", "--json").json()
    assert (now["state"], now["job_name"]) == ("ready", "kept~2")
    assert now["job_id"] != first


def test_a_chain_whose_first_start_fails_leaves_nothing_in_the_queue(hpcvlm: Command) -> None:
    asked = ("launch", "tiny-vlm", "--gpus", "A100:1", "--time", "30m", "--keep", "2h")
    dying = ("--set", "environment.FAKE_VLLM_MODE=die-loading")
    done = hpcvlm(*asked, "--name", "dies", *dying)
    assert done.code == 5
    assert "error: dies failed (the engine ended)" in done.stderr
    assert "stopping 6 successors, which would fail in the same way" in done.stderr
    assert "its successors were taken from the queue" in done.stderr
    assert queued(hpcvlm) == []
    shown = hpcvlm("status", "dies", "--json").json()
    assert (shown["state"], shown["job_name"]) == ("failed", "dies")
    # Where nobody waits, what goes on is named to whoever asks.
    done = hpcvlm(*asked, "--name", "later", "--no-wait", "--json", *dying)
    waited = hpcvlm("wait", str(done.json()["job_id"]))
    assert waited.code == 5
    assert "successors later~2 to later~7 queued" in waited.stderr
    assert "hpcvlm stop later ends what goes on" in waited.stderr
    assert sorted(queued(hpcvlm)) == [f"later~{number}" for number in range(2, 8)]


def queued(hpcvlm: Command) -> list[str]:
    done = subprocess.run(
        ["squeue", "--noheader", "--me", "--format=%j"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
