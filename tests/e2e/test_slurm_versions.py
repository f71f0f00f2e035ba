"""The main job on newer versions of a real Slurm than the installed one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcvlm.slurm import commands
from hpcvlm.slurm.accounts import parse_associations, parse_qos
from hpcvlm.slurm.records import parse_scontrol_partitions
from tests.command import ROOT, Command
from tests.e2e.slurm_versions import OTHERS, captured, running_cluster
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture(scope="module", params=OTHERS)
def version(request: pytest.FixtureRequest) -> str:
    """The first two numbers of a Slurm."""
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running cluster with that Slurm."""
    with running_cluster(version, tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def hpcvlm(tmp_path: Path, cluster: SlurmCluster) -> Iterator[Command]:
    """The command on that cluster, with the stand-in engine; leaves no job behind."""
    command = Command(tmp_path, cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def slurm(cluster: SlurmCluster, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_it_is_that_version_on_both_sides(
    cluster: SlurmCluster, version: str, tmp_path: Path
) -> None:
    assert slurm(cluster, "sinfo", "--version").stdout.startswith(f"slurm-wlm {version}.")
    out = tmp_path / "out"
    job = "cat /.hpcvlm-slurm-root; srun --version; squeue --noheader --me --format=%j"
    slurm(cluster, "sbatch", "--wait", f"--output={out}", "--job-name=me", f"--wrap={job}")
    stamp, *_, srun, name = out.read_text(encoding="utf-8").splitlines()
    assert stamp.startswith(f"{version} ")
    assert srun.startswith(f"slurm-wlm {version}.")
    assert name == "me"


def test_launch_wait_ls_and_stop(hpcvlm: Command, cluster: SlurmCluster) -> None:
    arguments = ("tiny-vlm", "--gpus", "A100:1", "--name", "v1")
    shown = hpcvlm("launch", *arguments, "--dry-run")
    begun = hpcvlm("launch", *arguments, "--no-wait", "--json")
    assert begun.code == 0, begun.stderr
    job_id = begun.json()["job_id"]
    kept = slurm(cluster, "scontrol", "write", "batch_script", job_id, "-").stdout
    assert kept.rstrip("\n") == shown.stdout.rstrip("\n")
    waited = hpcvlm("wait", "v1", "--json")
    assert waited.code == 0, waited.stderr
    (row,) = hpcvlm("ls", "--json").json()
    assert (row["name"], row["state"], row["executor"]) == ("v1", "ready", "slurm")
    assert row["gpus"] == "A100:1"
    assert hpcvlm("stop", "v1").stdout == "v1: stopped\n"
    assert slurm(cluster, "squeue", "--noheader", "--format=%j").stdout == ""
    assert hpcvlm.job_state("v1")["reason"] == "stopped"
    assert hpcvlm("ls", "--json").json() == []


def test_a_dead_engine_is_told(hpcvlm: Command) -> None:
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "dead"),
        *("--set", "environment.FAKE_VLLM_MODE=die-loading"),
    )
    assert done.code == 5
    assert "CUDA out of memory" in done.stderr


def test_a_pending_job_shows_its_reason_and_can_be_stopped(hpcvlm: Command) -> None:
    hpcvlm("launch", "tiny-vlm", "--gpus", "H100:4", "--no-wait", "--name", "first")
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "H100:4", "--name", "second", "--queue-timeout", "3s")
    )
    assert done.code == 6
    assert "second still waits in the queue" in done.stderr
    assert hpcvlm("status", "second", "--json").json()["verdict"]["detail"]
    assert hpcvlm("stop", "second").stdout == "second: stopped\n"
    assert hpcvlm("status", "second", "--json").json()["description"] == "ended (cancelled)"


def test_a_refused_job_is_told_in_slurm_s_words(hpcvlm: Command) -> None:
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--account", "nope")
    assert done.code == 4
    assert "Invalid account or account/partition combination" in done.stderr


def test_site_init_reads_it(hpcvlm: Command, version: str, tmp_path: Path) -> None:
    done = hpcvlm("site", "init", "--output", str(tmp_path / "site.yaml"), "--json")
    assert done.code == 0, done.stderr
    found = done.json()["found"]
    assert found["version"].startswith(f"{version}.")
    assert found["unanswered"] == []
    assert sorted(kind["name"] for kind in found["gpu_types"]) == ["A100", "H100"]
    assert sorted(found["accounts"]) == ["acct", "root"]
    assert hpcvlm("site", "validate", str(tmp_path / "site.yaml")).code == 0


@pytest.mark.parametrize(
    ("name", "argv", "parser"),
    [
        ("partitions", commands.scontrol_partitions(), parse_scontrol_partitions),
        ("associations", commands.sacctmgr_associations("root"), parse_associations),
        ("qos", commands.sacctmgr_qos(), parse_qos),
    ],
)
def test_the_captures_are_what_it_answers(
    cluster: SlurmCluster,
    version: str,
    name: str,
    argv: commands.Argv,
    parser: Callable[[int, str, str], tuple[object, ...]],
) -> None:
    kept = captured(version, name)[0]
    now = parser(0, slurm(cluster, *argv).stdout, "")
    assert sorted(map(repr, now)) == sorted(map(repr, parser(0, kept.stdout, "")))
