"""Somebody else ends the job: an admin, a preemptor, its time limit, the node's memory."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.place import FaultCluster, Place, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_cancelled_by_an_admin_while_it_serves(place: Place, cluster: FaultCluster) -> None:
    job_id = place.launch("served", "--json").json()["job_id"]
    cluster.slurm("scancel", job_id)
    row = place.becomes("served", "ended")
    assert row["description"] in ("ended (stopped)", "ended (cancelled)")


def test_cancelled_by_an_admin_while_it_waits(place: Place, cluster: FaultCluster) -> None:
    cluster.slurm("scontrol", "update", "PartitionName=short", "State=DOWN")
    try:
        process = place.hpcvlm.start(*place.arguments("queued", "--partition", "short"))
        until(lambda: len(cluster.queue()) == 1, "nothing is queued")
        cluster.slurm("scancel", cluster.queue()[0].split()[0])
        _, stderr = process.communicate(timeout=60)
    finally:
        cluster.slurm("scontrol", "update", "PartitionName=short", "State=UP")
    assert process.returncode == 5, stderr
    assert "cancelled" in stderr
    assert place.status("queued")["description"] == "ended (cancelled)"


def test_preempted(place: Place, cluster: FaultCluster) -> None:
    place.launch("cheap", "--partition", "low", "--gpus", "A100:4")
    place.launch("dear", "--partition", "high")
    row = place.becomes("cheap", "failed", "ended")
    assert row["description"] in ("failed (preempted)", "ended (stopped)"), row
    assert place.status("dear")["state"] == "ready"


def test_preempted_with_requeue(place: Place, cluster: FaultCluster) -> None:
    place.launch("cheap", "--partition", "low", "--gpus", "A100:4", "--restarts", "1")
    began = place.state("cheap")["started"]
    place.launch("dear", "--partition", "high")
    row = place.becomes("cheap", "waiting")
    assert row["description"] == "queued"
    assert place.hpcvlm("stop", "dear").code == 0
    # Slurm lets a job that it has put back wait for two minutes, or less when it is told to.
    job_id = row["job_id"]
    cluster.slurm("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    row = place.becomes("cheap", "ready", patience_s=180)
    assert row["job_id"] == job_id
    assert place.state("cheap")["started"] > began
    assert place.state("cheap")["restarts"] == 1


def test_time_limit(place: Place, cluster: FaultCluster) -> None:
    job_id = place.launch("short", "--time", "2m", "--json").json()["job_id"]
    # A minute before the end the job is asked to end, which is now.
    cluster.slurm("scontrol", "update", f"JobId={job_id}", "TimeLimit=00:01:00")
    row = place.becomes("short", "ended", "failed", patience_s=90)
    assert row["state"] == "ended", row
    assert row["description"] in ("ended (stopped)", "ended (time limit reached)")


def test_job_script_killed(place: Place, cluster: FaultCluster) -> None:
    place.launch("headless")
    os.kill(int(place.state("headless")["shell_pid"]), signal.SIGKILL)
    row = place.becomes("headless", "failed")
    assert row["verdict"]["evidence"]
    assert "try:" in place.said("headless")
    until(lambda: not place.processes(), lambda: f"{place.command_lines()} still run", 30)
