"""`hpcvlm` itself is interrupted, killed, or started many times at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.command import ROOT, Done
from tests.faults.place import FaultCluster, Place, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SIGNALS = ("INT", "TERM", "KILL")
MANY = 100


def known(place: Place) -> set[str]:
    """Numbers of the jobs that `ls` shows, those that are over, too."""
    return {row["job_id"] for row in place.hpcvlm("ls", "--all", "--json").json()}


def queued(cluster: FaultCluster) -> set[str]:
    """Numbers of the jobs that Slurm holds."""
    return {line.split()[0] for line in cluster.queue()}


@pytest.mark.parametrize("name", SIGNALS)
def test_signal_while_slurm_is_asked(place: Place, cluster: FaultCluster, name: str) -> None:
    place.program("scontrol", f'kill -{name} $PPID; sleep 1; exec "$REAL" "$@"')
    place.program("sinfo", f'kill -{name} $PPID; sleep 1; exec "$REAL" "$@"')
    done = place.hpcvlm(*place.arguments("early", "--no-wait"))
    assert done.code in (130, -signal.Signals[f"SIG{name}"]), done.stderr
    assert "Traceback" not in done.stderr
    time.sleep(1.5)
    assert cluster.queue() == []
    (place.bin / "scontrol").unlink()
    (place.bin / "sinfo").unlink()
    place.launch("early")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", SIGNALS)
def test_signal_while_sbatch_submits(
    place: Place, cluster: FaultCluster, name: str, when: str
) -> None:
    """Whatever comes of it, a job that Slurm has taken is one that `ls` shows and `stop` stops."""
    shot = f"kill -{name} $PPID"
    steps = f'{shot}; sleep 0.5; exec "$REAL" "$@"'
    if when == "after":
        steps = f'"$REAL" "$@"; code=$?; {shot}; sleep 0.5; exit $code'
    place.program("sbatch", steps)
    done = place.hpcvlm(*place.arguments("torn", mode="slow"))
    assert done.code in (130, 143, -signal.Signals[f"SIG{name}"]), done.stderr
    assert "Traceback" not in done.stderr
    if name == "INT":
        assert "hpcvlm stop torn stops it" in done.stderr
    # An sbatch that was started outlives who started it.
    until(lambda: len(queued(cluster)) > 0, "no job comes")
    time.sleep(1)
    assert len(queued(cluster)) == 1
    assert queued(cluster) <= known(place)
    (place.bin / "sbatch").unlink()
    assert place.hpcvlm("wait", "torn").code == 0


@pytest.mark.parametrize("name", SIGNALS)
def test_signal_while_it_waits(place: Place, cluster: FaultCluster, name: str) -> None:
    process = place.hpcvlm.start(*place.arguments("goes-on", mode="slow"))
    place.reaches("goes-on", "engine")
    process.send_signal(signal.Signals[f"SIG{name}"])
    _, stderr = process.communicate(timeout=90)
    assert process.returncode in (130, 143, -signal.Signals[f"SIG{name}"]), stderr
    assert "Traceback" not in stderr
    if name == "INT":
        assert "hpcvlm wait goes-on follows it" in stderr
    assert place.hpcvlm("wait", "goes-on").code == 0
    assert len(cluster.queue()) == 1


def test_login_node_rebooted_during_wait(place: Place, cluster: FaultCluster) -> None:
    """All that runs there is gone at once; another login node knows as much."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcvlm", *place.arguments("survives", mode="slow")],
        env=place.hpcvlm.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    place.reaches("survives", "engine")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = place.hpcvlm("wait", "survives", "--json")
    assert done.code == 0, done.stderr
    assert queued(cluster) == {done.json()["job_id"]}


def test_sbatch_prints_warnings(place: Place) -> None:
    place.program(
        "sbatch",
        'echo "sbatch: warning: your project expires soon" >&2\n'
        'echo "*** Maintenance on Monday ***"; exec "$REAL" "$@"',
    )
    done = place.launch("warned")
    assert "your project expires soon" in done.stderr
    assert "Maintenance on Monday" in done.stderr


def test_sbatch_fails_after_the_job_was_taken(place: Place, cluster: FaultCluster) -> None:
    timeout = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    place.program("sbatch", f'"$REAL" "$@" >/dev/null; echo "{timeout}" >&2; exit 1')
    done = place.hpcvlm(*place.arguments("taken"))
    assert queued(cluster) <= known(place), done.stderr
    assert len(queued(cluster)) == 1, done.stderr
    assert done.code == 0, done.stderr
    assert place.status("taken")["state"] == "ready"


def test_sbatch_hangs_after_the_job_was_taken(place: Place, cluster: FaultCluster) -> None:
    """Nobody has been told its number when `hpcvlm` is killed."""
    place.program("sbatch", '"$REAL" "$@" >/dev/null; exec sleep 10')
    process = place.hpcvlm.start(*place.arguments("silent"))
    until(lambda: len(cluster.queue()) == 1, "sbatch submits nothing")
    process.kill()
    process.communicate()
    assert queued(cluster) <= known(place)
    assert place.becomes("silent", "ready")["job_id"] in queued(cluster)


def test_two_launches_of_one_name(place: Place, cluster: FaultCluster) -> None:
    processes = [place.hpcvlm.start(*place.arguments("mine", "--no-wait")) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(map(bool, codes)) == [False, True], said
    loser = said[codes.index(0) ^ 1]
    assert "there is an endpoint called 'mine' already" in loser
    assert "try:" in loser
    assert len(cluster.queue()) == 1
    place.becomes("mine", "ready")


def test_two_launches_of_a_name_that_is_over(place: Place, cluster: FaultCluster) -> None:
    place.launch("again")
    assert place.hpcvlm("stop", "again").code == 0
    processes = [place.hpcvlm.start(*place.arguments("again", "--no-wait")) for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes].count(0) == 1, said
    assert len(cluster.queue()) == 1
    assert place.becomes("again", "ready")["job_id"] == cluster.queue()[0].split()[0]
    kept = list((place.hpcvlm.state / "ended").glob("again.*/record.json"))
    assert len(kept) == 1


def test_a_hundred_launches_at_once(place: Place, cluster: FaultCluster) -> None:
    def launch(number: int) -> Done:
        arguments = place.arguments(f"n{number % 60}", "--no-wait", "--json", "--gpus", "A100:4")
        return place.hpcvlm(*arguments, timeout_s=300)

    with ThreadPoolExecutor(MANY) as threads:
        done = list(threads.map(launch, range(MANY)))
    taken = [each for each in done if each.code == 0]
    refused = [each for each in done if each.code != 0]
    assert len(taken) == 60, [each.stderr for each in refused]
    assert all("already" in each.stderr for each in refused)
    ids = {each.json()["job_id"] for each in taken}
    assert len(ids) == 60
    assert known(place) == ids
    assert queued(cluster) <= ids
    keys = {path.read_text(encoding="utf-8") for path in place.jobs.glob("*/key")}
    assert len(keys) == 60
