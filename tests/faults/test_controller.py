"""Slurm's own daemons fail: slurmctld while a job is submitted, watched or stopped, and others."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.place import FaultCluster, Place, shell, until

# It is stopped by TERM, since one that is killed forgets what it did in its last five seconds.
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_slurmctld_restarted_during_submit(place: Place, cluster: FaultCluster) -> None:
    stop_it, start_it = (shell(cluster, verb, "slurmctld") for verb in ("stop", "start"))
    place.program("sbatch", f'{stop_it}; {{ sleep 1; {start_it}; }} & exec "$REAL" "$@"')
    done = place.hpcvlm(*place.arguments("twice", "--no-wait"))
    (place.bin / "sbatch").unlink()
    until(lambda: cluster.slurm("scontrol", "ping").endswith("UP"), "slurmctld stays away")
    taken = cluster.queue()
    if done.code == 0:
        assert len(taken) == 1
        place.becomes("twice", "ready")
    else:
        assert done.code == 4, done.stderr
        assert "try:" in done.stderr
        assert taken == []
        place.launch("twice")


def test_slurmctld_away_during_submit(place: Place, cluster: FaultCluster) -> None:
    stop_it = shell(cluster, "stop", "slurmctld")
    place.program("sbatch", f'{stop_it}; exec "$REAL" "$@"')
    done = place.hpcvlm(*place.arguments("away", "--no-wait"), timeout_s=180)
    assert done.code == 4, done.stderr
    assert "try:" in done.stderr
    (place.bin / "sbatch").unlink()
    cluster.do("start", "slurmctld")
    assert cluster.queue() == []
    if (place.jobs / "away").exists():  # whether it was taken was not known
        assert place.status("away")["state"] in ("unknown", "failed", "ended")
        place.hpcvlm("stop", "away")
    place.launch("away")


def test_slurmctld_restarted_during_wait(place: Place, cluster: FaultCluster) -> None:
    process = place.hpcvlm.start(*place.arguments("waits", mode="slow"))
    place.reaches("waits", "engine")
    cluster.do("stop", "slurmctld")
    time.sleep(1)
    cluster.do("start", "slurmctld")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "url    http" in stdout


def test_slurmctld_restarted_during_stop(place: Place, cluster: FaultCluster) -> None:
    place.launch("stops")
    cluster.do("stop", "slurmctld")
    process = place.hpcvlm.start("stop", "stops")
    time.sleep(1)
    cluster.do("start", "slurmctld")
    stdout, stderr = process.communicate(timeout=90)
    if process.returncode != 0:
        assert "may still run" in stderr
        assert "try:" in stderr
        again = place.hpcvlm("stop", "stops")
        stdout = again.stdout
    assert stdout == "stops: stopped\n"
    assert cluster.queue() == []


def test_slurmctld_away_for_a_minute(place: Place, cluster: FaultCluster) -> None:
    place.launch("lives")
    began = time.monotonic()
    cluster.do("stop", "slurmctld")
    row = place.status("lives")
    assert row["state"] == "unknown"
    assert row["verdict"]["last_seen"] == "ready"
    assert "Slurm did not answer" in row["description"]
    assert "lives" in place.hpcvlm("ls").stdout
    refused = place.hpcvlm("stop", "lives")
    assert refused.code == 4
    assert "may still run" in refused.stderr
    waiter = place.hpcvlm.start("wait", "lives")
    time.sleep(max(0.0, 60 - (time.monotonic() - began)))
    assert waiter.poll() is None
    assert place.state("lives")["phase"] == "ready"
    cluster.do("start", "slurmctld")
    _, stderr = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, stderr
    assert place.status("lives")["state"] == "ready"


def test_slurmctld_that_hangs(place: Place, cluster: FaultCluster) -> None:
    place.launch("hangs")
    cluster.do("pause", "slurmctld")
    row = place.status("hangs")
    assert row["state"] == "unknown"
    assert row["verdict"]["last_seen"] == "ready"
    refused = place.hpcvlm(*place.arguments("more"), timeout_s=120)
    assert refused.code == 4, refused.stderr
    assert "try:" in refused.stderr
    cluster.do("resume", "slurmctld")
    assert place.status("hangs")["state"] == "ready"


def test_slurmdbd_away(place: Place, cluster: FaultCluster) -> None:
    cluster.do("kill", "slurmdbd")
    place.launch("unbooked")
    assert place.status("unbooked")["state"] == "ready"
    place.launch("killed")
    assert place.hpcvlm("stop", "unbooked").stdout == "unbooked: stopped\n"
    os.kill(place.engine("killed"), signal.SIGKILL)
    place.ends("killed")
    state = place.jobs / "killed" / "state.json"
    state.unlink()  # as if it had died without a word
    # Slurm forgets both after 5 s, and there are no accounts to look into.
    until(lambda: not cluster.slurm("squeue", "--noheader", "--states=all"), "not forgotten", 90)
    assert place.status("unbooked")["description"] == "ended (stopped)"
    row = place.status("killed")
    assert row["state"] in ("failed", "unknown"), row
    assert "no longer" in str(row["verdict"])


def test_munged_away(place: Place, cluster: FaultCluster) -> None:
    place.launch("unsigned")
    cluster.do("kill", "munged")
    row = place.status("unsigned")
    assert row["state"] == "unknown"
    assert row["verdict"]["last_seen"] == "ready"
    cluster.do("start", "munged")
    until(lambda: place.status("unsigned")["state"] == "ready", "munge does not come back")
