"""Ctrl-C, SIGTERM and SIGKILL of `hpcvlm` at each step of the launch of a chain of jobs."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.command import ROOT, Done
from tests.faults.place import FaultCluster, Place, until
from tests.faults.shot import STEPS

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

JOBS = ["torn", "torn~2", "torn~3"]
CHAIN = ("--keep", "8m", "--time", "4m", "--no-wait")
NODE = "gpu01"
# Jobs that Slurm has after SIGKILL at that step.
LEFT = {
    "before-the-folder": 0,
    "before-it-has-its-name": 0,
    "before-sbatch": 0,
    "before-the-second-record": 1,
    "between-the-jobs": 1,
}
SIGNALLED = {"INT": (130, -2), "TERM": (130, 143, -15), "KILL": (-9,)}


@pytest.fixture
def held(place: Place, cluster: FaultCluster) -> Iterator[Place]:
    """A place whose jobs wait, so that what they do is no matter."""
    cluster.slurm("scontrol", "update", f"NodeName={NODE}", "State=DRAIN", "Reason=test")
    yield place
    cluster.slurm("scontrol", "update", f"NodeName={NODE}", "State=RESUME")


def shot(place: Place, step: str, name: str) -> Done:
    """Launch a chain, and be hit at that step."""
    hit = place.folder / "hit"
    hit.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.shot", step, name, *place.arguments("torn", *CHAIN)],
        env={**place.hpcvlm.environment, "HPCVLM_TEST_SHOT": str(hit)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert hit.exists(), f"it never came to that step: {done.stderr}"
    assert done.returncode in SIGNALLED[name], done
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def names(cluster: FaultCluster) -> dict[str, str]:
    """Numbers and names of the jobs that Slurm holds."""
    return dict(line.split()[:2] for line in cluster.queue())


def shown(place: Place) -> dict[str, str]:
    """Numbers and names of the jobs that `ls` shows."""
    rows = place.hpcvlm("ls", "--all", "--json").json()
    jobs = [job for row in rows for job in row["generations"]]
    return {job["job_id"]: job["job_name"] for job in jobs if job["job_id"]}


@pytest.mark.parametrize("step", STEPS)
def test_sigkill_at_a_step_of_launch(held: Place, cluster: FaultCluster, step: str) -> None:
    shot(held, step, "KILL")
    time.sleep(0.5)  # an sbatch that was started outlives who started it
    there = names(cluster)
    rows = shown(held)
    assert rows == there
    assert sorted(there.values()) == JOBS[: LEFT[step]]
    folders = sorted(path.name for path in held.jobs.glob("*"))
    assert folders in ([], JOBS), folders
    # What was not finished has the key in it.
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o700 for each in held.folder.glob("state/new"))
    if folders:
        row = held.status("torn")
        assert row["state"] == ("waiting" if there else "unknown"), row
        assert there or "submission not confirmed" in row["description"], row
        assert held.hpcvlm("stop", "torn").code == 0
    until(lambda: not cluster.queue(), lambda: f"orphans: {cluster.queue()}", 15)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("before-the-folder", "INT"),
        ("before-sbatch", "TERM"),
        ("before-the-second-record", "INT"),
        ("between-the-jobs", "TERM"),
    ],
)
def test_signal_at_a_step_of_launch(
    held: Place, cluster: FaultCluster, step: str, name: str
) -> None:
    """What has begun is finished: all jobs of the chain stand, and it is said how to stop them."""
    done = shot(held, step, name)
    there = names(cluster)
    assert sorted(there.values()) == JOBS == sorted(path.name for path in held.jobs.glob("*"))
    assert shown(held) == there
    if name == "INT":
        assert "hpcvlm stop torn stops it" in done.stderr
    assert held.hpcvlm("stop", "torn").code == 0
    until(lambda: not cluster.queue(), lambda: f"orphans: {cluster.queue()}", 15)
