"""A cluster whose parts can fail, and after each test: no job, no process, nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.place import FaultCluster, Place, until
from tests.realparts import SETUP, SlurmCluster, exports, set_up

# As most sites have it, and as a limit of memory needs it; see scripts/setup/slurm_cluster.sh.
CGROUPS = Path("/sys/fs/cgroup/memory").is_dir() and Path("/sys/fs/cgroup/freezer").is_dir()
_OUTSIDE = {
    **os.environ,
    "HPCVLM_SLURM_FAULTS": "1",
    "HPCVLM_SLURM_PROCTRACK": "cgroup" if CGROUPS else "linuxproc",
}


@pytest.fixture(scope="session")
def fault_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultCluster]:
    """A real Slurm for the session, with short patience; see scripts/setup/slurm_cluster.sh."""
    set_up("slurm_packages.sh", environment=_OUTSIDE)
    folder = tmp_path_factory.mktemp("faults")
    script = SETUP / "slurm_cluster.sh"
    try:
        set_up("slurm_cluster.sh", "up", str(folder), environment=_OUTSIDE)
        lines = subprocess.run(
            [script, "env", folder], env=_OUTSIDE, capture_output=True, text=True, check=True
        ).stdout
        yield FaultCluster(SlurmCluster(folder, exports(lines)), _OUTSIDE)
    finally:
        subprocess.run([script, "down", folder], env=_OUTSIDE, check=True)


@pytest.fixture
def cluster(fault_cluster: FaultCluster) -> Iterator[FaultCluster]:
    """The same, whole again after the test."""
    yield fault_cluster
    fault_cluster.do("heal")
    fault_cluster.drop_jobs()
    fault_cluster.do("idle")


@pytest.fixture
def place(cluster: FaultCluster, tmp_path: Path) -> Iterator[Place]:
    """`hpcvlm` on that cluster; once the fault is over, `stop --all` leaves nothing behind."""
    made = Place(tmp_path / "place", cluster)
    yield made
    cluster.do("heal")
    for program in made.bin.iterdir():
        program.unlink()
    try:
        done = made.hpcvlm("stop", "--all")
        assert done.code == 0, done.stderr
        until(lambda: not cluster.queue(), lambda: f"orphan jobs: {cluster.queue()}", 15)
        until(lambda: not made.processes(), lambda: f"orphans: {made.command_lines()}", 30)
    finally:
        made.kill_all()


@pytest.fixture
def cgroups() -> None:
    """Only where Slurm can watch jobs by cgroups."""
    if not CGROUPS:
        pytest.skip("this machine has no cgroups v1, by which Slurm would keep jobs apart")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    yield from _mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs")


@pytest.fixture
def quota_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on which 4 MB may be used by quota."""
    folder = tmp_path / "quota"
    set_up("quota_disk.sh", "up", str(folder), environment=_OUTSIDE)
    yield folder
    set_up("quota_disk.sh", "down", str(folder), environment=_OUTSIDE)


def _mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", *arguments, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """`hpcvlm` on this machine alone, for faults that need no Slurm; leaves nothing either."""
    made = Place(tmp_path / "place")
    yield made
    try:
        done = made.hpcvlm("stop", "--all")
        assert done.code == 0, done.stderr
        until(lambda: not made.processes(), lambda: f"orphans: {made.command_lines()}", 30)
    finally:
        made.kill_all()
