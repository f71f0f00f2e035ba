"""hpcvlm site init on a real Slurm: it finds what the cluster has, and a job runs with that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.site.schema import GpuType, PartitionSpec, SiteSpec
from hpcvlm.yamlfile import validate
from tests.command import ROOT, Command
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """The command on the test cluster, without any site file; leaves no job behind."""
    command = Command(tmp_path, slurm_cluster.environment)
    yield command
    command("stop", "--all")


def test_the_new_file_says_what_the_cluster_has(hpcvlm: Command) -> None:
    done = hpcvlm("site", "init", "--json")
    assert done.code == 0, done.stderr
    told = done.json()
    assert told["found"]["unanswered"] == []
    assert told["found"]["accounts"] == ["acct", "root"]
    assert told["found"]["default_account"] == "acct"
    text = told["text"]
    site = validate(SiteSpec, text, "site.yaml")
    assert (site.name, site.partition, site.gpu_request) == ("test", "gpu", "gpus-per-node")
    assert site.gpu_types == {
        "A100": GpuType(slurm_name="A100"),
        "H100": GpuType(slurm_name="H100"),
    }
    share = PartitionSpec(gpus={"A100": 4, "H100": 4}, cpus_per_gpu=2, memory_per_gpu="3G")
    assert site.partitions == {"gpu": share, "short": share}
    version = subprocess.run(
        ["sinfo", "--version"],
        env={**os.environ, **hpcvlm.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]
    assert f"# Cluster test, Slurm {version}." in text
    assert "# cpu: has no GPUs" in text


def test_a_job_runs_with_the_new_file(hpcvlm: Command, tmp_path: Path) -> None:
    """The admin's file is the new one; the user's names an engine; the environment a partition."""
    new = tmp_path / "etc" / "site.yaml"
    assert hpcvlm("site", "init", "--output", str(new)).code == 0
    hpcvlm.environment |= {"HPCVLM_SITE": str(new), "HPCVLM_SITE_PARTITION": "short"}
    hpcvlm.site(f"runtime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n")
    rows = {row["key"]: row["source"] for row in hpcvlm("site", "show", "--json").json()}
    assert (rows["name"], rows["runtime"], rows["partition"]) == ("site", "user", "environment")
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "h100:2", "--name", "new", "--json")
    assert done.code == 0, done.stderr
    script = (hpcvlm.state / "jobs" / "new" / "job.sbatch").read_text(encoding="utf-8")
    for option in ("partition=short", "gpus-per-node=H100:2", "cpus-per-task=4", "mem-per-gpu=3G"):
        assert f"#SBATCH --{option}\n" in script
    shown = subprocess.run(
        ["scontrol", "show", "job", str(done.json()["job_id"])],
        env={**os.environ, **hpcvlm.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Partition=short" in shown
    assert "NodeList=gpu02" in shown
    assert hpcvlm("stop", "new").stdout == "new: stopped\n"


def test_a_controller_that_does_not_answer(hpcvlm: Command, tmp_path: Path) -> None:
    conf = Path(hpcvlm.environment["SLURM_CONF"]).read_text(encoding="utf-8")
    lines = [
        "SlurmctldPort=1" if line.startswith("SlurmctldPort") else line
        for line in conf.splitlines()
    ]
    broken = tmp_path / "slurm.conf"
    broken.write_text("\n".join([*lines, "MessageTimeout=2", ""]), encoding="utf-8")
    hpcvlm.environment["SLURM_CONF"] = str(broken)
    done = hpcvlm("site", "init")
    assert done.code == 4
    assert done.stderr.startswith("error: Slurm did not answer: Unable to contact slurm controller")
    assert list(hpcvlm.config.iterdir()) == []
