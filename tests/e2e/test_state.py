"""What is told of jobs to which a real Slurm does what it can do to them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.command import ROOT, Command
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
PATIENCE_S = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Any, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """The command on the test cluster, with the stand-in engine; leaves no job behind."""
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def scontrol(command: Command, *arguments: str, check: bool = True) -> None:
    subprocess.run(["scontrol", *arguments], env=command.environment, check=check)


def until(look: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not right(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)
    return seen


def test_a_suspended_job_is_not_ready_until_it_goes_on(hpcvlm: Command) -> None:
    row = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "cold", "--json").json()
    assert row["state"] == "ready"

    def look() -> Any:
        return hpcvlm("status", "cold", "--json").json()

    scontrol(hpcvlm, "suspend", row["job_id"])
    frozen = until(look, lambda seen: seen["state"] != "ready")
    assert frozen["description"] == "suspended"
    assert hpcvlm("env", "cold").code == 3
    scontrol(hpcvlm, "resume", row["job_id"])
    until(look, lambda seen: seen["state"] == "ready")


def test_a_held_job_says_what_lets_it_go_on(hpcvlm: Command) -> None:
    hpcvlm("launch", "tiny-vlm", "--gpus", "H100:4", "--no-wait", "--name", "first")
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "H100:4", "--name", "held", "--no-wait", "--json")
    )
    job_id = done.json()["job_id"]
    scontrol(hpcvlm, "hold", job_id)
    row = until(
        lambda: hpcvlm("status", "held", "--json").json(), lambda seen: seen["verdict"]["remedy"]
    )
    assert "JobHeld" in row["verdict"]["detail"]
    shown = hpcvlm("status", "held").stdout
    assert "state   queued" in shown
    assert "in the queue" in shown


def test_a_job_that_slurm_puts_back_is_followed_to_ready_again(hpcvlm: Command) -> None:
    arguments = ("tiny-vlm", "--gpus", "A100:1", "--name", "again", "--restarts", "2", "--json")
    row = hpcvlm("launch", *arguments).json()
    assert row["state"] == "ready"
    scontrol(hpcvlm, "requeue", row["job_id"])
    seen: list[str] = []

    def look() -> Any:
        found = hpcvlm("status", "again", "--json").json()
        seen.append(found["state"])
        return found

    until(look, lambda found: found["description"] == "queued")
    # A node refuses a job that comes back in the second in which it was told to end it: what allows
    # a job to run is revoked by the whole second.
    time.sleep(5)

    def look_and_hurry() -> Any:
        # Slurm lets a job that was put back wait for two minutes. Its begin can be moved, but not
        # for good while the node still cleans up after it.
        found = look()
        if found["description"] == "queued":  # or has begun meanwhile
            scontrol(hpcvlm, "update", f"JobId={row['job_id']}", "StartTime=now", check=False)
        return found

    again = until(look_and_hurry, lambda found: found["state"] == "ready")
    assert "failed" not in seen
    assert "ended" not in seen
    assert again["requeued"] == 1
    assert again["job_id"] == row["job_id"]
    assert hpcvlm("stop", "again").stdout == "again: stopped\n"
    assert hpcvlm("status", "again", "--json").json()["description"] == "ended (stopped)"
    kept = json.loads((hpcvlm.state / "jobs" / "again" / "verdict.json").read_text())
    assert (kept["verdict"], kept["reason"]) == ("ended", "stopped")


def test_a_job_of_another_cluster_is_left_to_that_one(hpcvlm: Command) -> None:
    hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "there", "--no-wait")
    assert hpcvlm("stop", "there").code == 0
    file = hpcvlm.state / "jobs" / "there" / "record.json"
    record = json.loads(file.read_text())
    config = subprocess.run(
        ["scontrol", "show", "config"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(rf"^ClusterName\s*= {record['cluster']}$", config, re.MULTILINE)
    for name in ("state.json", "verdict.json"):
        file.with_name(name).unlink(missing_ok=True)
    file.write_text(json.dumps({**record, "job_id": "999999", "cluster": "elsewhere"}))
    row = hpcvlm("status", "there", "--json").json()
    assert row["state"] == "unknown"
    assert "it is a job of cluster 'elsewhere'" in row["description"]
    done = hpcvlm("stop", "there")
    assert done.code != 0
    assert "hpcvlm stop there, on a login node of elsewhere" in " ".join(done.stderr.split())
    assert hpcvlm("cleanup", "--older-than", "0", "--forgotten", "--yes").code == 0
    assert file.exists()


def test_an_unreadable_record_is_shown_and_left_alone(hpcvlm: Command) -> None:
    row = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "torn", "--json").json()
    path = hpcvlm.state / "jobs" / "torn" / "record.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    done = hpcvlm("ls")
    assert "unreadable" in done.stdout
    assert f"torn: its record cannot be read: {path} is broken or cut short" in done.stderr
    refused = hpcvlm("stop", "torn")
    assert refused.code != 0
    assert "squeue --me --name=torn" in refused.stderr
    path.write_text(whole)
    assert hpcvlm("status", "torn", "--json").json()["job_id"] == row["job_id"]
