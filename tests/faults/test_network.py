"""The network between the login node and the job's node is cut."""

from __future__ import annotations

import httpx
import pytest

from tests.faults.place import FaultCluster, Place, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
FAR = ("--gpus", "H100:1")  # gpu02, which has a network of its own


def reachable(url: str) -> bool:
    """Whether the engine's guard answers there; some networks answer for any address."""
    try:
        return httpx.get(f"{url}/models", timeout=2, trust_env=False).status_code == 401
    except httpx.TransportError:
        return False


def test_network_cut_for_a_moment(place: Place, cluster: FaultCluster) -> None:
    place.launch("far", *FAR)
    place.answers("far")
    url = place.status("far")["url"]
    cluster.do("cut")
    assert not reachable(url)
    # The job still says so, through the shared file system, and Slurm has not missed it yet.
    assert place.status("far")["state"] in ("ready", "unknown")
    cluster.do("mend")
    until(lambda: reachable(url), "the network does not come back")
    assert place.status("far")["state"] == "ready"
    place.answers("far")


def test_network_cut_for_good(place: Place, cluster: FaultCluster) -> None:
    place.launch("far", *FAR)
    cluster.do("cut")
    row = place.becomes("far", "failed")
    assert row["description"] == "failed (the node failed)"
    assert "gpu02" in row["verdict"]["evidence"]
    assert "try:" in place.said("far")
    cluster.do("mend")
    until(lambda: not place.processes(), lambda: f"{place.command_lines()} still run", 90)
    place.launch("far", *FAR)


def test_network_cut_during_wait_and_stop(place: Place, cluster: FaultCluster) -> None:
    waiter = place.hpcvlm.start(*place.arguments("far", *FAR, mode="slow"))
    place.reaches("far", "engine")
    cluster.do("cut")
    place.reaches("far", "ready")
    stopper = place.hpcvlm.start("stop", "far")
    until(lambda: stopper.poll() is not None or waiter.poll() is not None, "nothing happens")
    cluster.do("mend")
    waiter.communicate(timeout=90)
    stdout, stderr = stopper.communicate(timeout=90)
    assert stopper.returncode == 0, stderr
    assert stdout == "far: stopped\n"
