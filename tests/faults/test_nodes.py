"""Nodes fail: slurmd dies, a node is drained, loses its power and comes back."""

from __future__ import annotations

import time

import pytest

from tests.faults.place import FaultCluster, Place, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_slurmd_killed_and_back_in_time(place: Place, cluster: FaultCluster) -> None:
    place.launch("kept")
    cluster.do("kill", "slurmd-gpu01")
    assert place.status("kept")["state"] == "ready"
    cluster.do("start", "slurmd-gpu01")
    assert place.status("kept")["state"] == "ready"
    assert place.hpcvlm("stop", "kept").stdout == "kept: stopped\n"


def test_slurmd_killed_for_good(place: Place, cluster: FaultCluster) -> None:
    place.launch("lost")
    cluster.do("kill", "slurmd-gpu01")
    row = place.becomes("lost", "failed")
    assert row["description"] == "failed (the node failed)"
    assert "gpu01" in row["verdict"]["evidence"]
    assert "try:" in place.said("lost")
    # The engine itself still runs there, and nobody can reach its node to end it ...
    assert place.processes()
    cluster.do("start", "slurmd-gpu01")
    # ... until it can be reached again.
    until(lambda: not place.processes(), lambda: f"{place.command_lines()} still run", 30)


def test_node_drained(place: Place, cluster: FaultCluster) -> None:
    place.launch("before")
    cluster.slurm("scontrol", "update", "NodeName=gpu01", "State=DRAIN", "Reason=new cooling fan")
    assert place.status("before")["state"] == "ready"
    waits = place.hpcvlm(*place.arguments("after", "--queue-timeout", "4s"))
    assert waits.code == 6
    assert "after still waits in the queue" in waits.stderr
    row = place.status("after")
    assert row["description"] == "queued"
    assert "drained" in row["verdict"]["detail"]
    cluster.slurm("scontrol", "update", "NodeName=gpu01", "State=RESUME")
    place.becomes("after", "ready")


def test_node_without_power(place: Place, cluster: FaultCluster) -> None:
    place.launch("dark")
    cluster.do("off", "gpu01")
    row = place.becomes("dark", "failed")
    assert row["description"] == "failed (the node failed)"
    said = place.said("dark")
    assert "gpu01" in said
    assert "try:" in said
    cluster.do("on", "gpu01")
    assert place.status("dark")["state"] == "failed"
    place.launch("dark")  # the same name again
    assert [row["job_id"] for row in place.hpcvlm("ls", "--json").json()] != [row["job_id"]]


def test_node_without_power_for_a_moment(place: Place, cluster: FaultCluster) -> None:
    place.launch("blink")
    # A node that comes back is asked for its jobs, but for those that began there, or were last
    # heard of, within BatchStartTimeout and MessageTimeout, seven seconds in all: these it is asked
    # for when it registers again, a minute later. Slurm hears of them once a minute, too.
    began = place.state("blink")["started"]
    until(lambda: time.time() > began + 10, "the time does not pass")
    cluster.do("off", "gpu01")
    cluster.do("on", "gpu01")
    row = place.becomes("blink", "failed", patience_s=180)
    assert row["verdict"]["evidence"]
    assert "try:" in place.said("blink")
