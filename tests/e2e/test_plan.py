"""Plans on a real Slurm: what it foresees, what it refuses, and every way to ask it for GPUs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
SITE = f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(SITE)
    yield command
    command("stop", "--all")


def jobs(command: Command) -> str:
    """Everything that squeue knows of."""
    done = subprocess.run(
        ["squeue", "--noheader", "--states=all"],
        env=command.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_scheduler_foresees_the_start_and_nothing_is_submitted(hpcvlm: Command) -> None:
    before = jobs(hpcvlm)
    plan = hpcvlm("plan", "tiny-vlm", "--gpus", "A100:2", "--time", "2h", "--json").json()
    assert plan["issues"] == []
    assert "gpu01" in plan["start"]["sentence"]
    assert plan["start"]["expected"]
    assert plan["gpu_hours"] == 4.0
    assert jobs(hpcvlm) == before
    assert not hpcvlm.state.exists()


def test_what_only_slurm_knows_is_a_problem_beside_the_others(hpcvlm: Command) -> None:
    done = hpcvlm("plan", "tiny-vlm", "--gpus", "A100:3", "--account", "nobody", "--json")
    issues = {issue["code"]: issue["sentence"] for issue in done.json()["issues"]}
    assert list(issues) == ["tensor-parallel", "sbatch-refused"]
    assert "Invalid account" in issues["sbatch-refused"]


def test_a_model_that_the_engine_cannot_serve_is_refused_before_submit(hpcvlm: Command) -> None:
    hpcvlm.site(SITE.replace("0.32.0", "0.33.0"))
    before = jobs(hpcvlm)
    done = hpcvlm("launch", "llama-3.2-11b-vision", "--gpus", "A100:4", "--no-wait")
    assert done.code == 3
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("error: llama-3.2-11b-vision needs vllm >=0.9.1,<=0.10.2")
    assert "this site has 0.33.0" in first
    assert "hpcvlm containers build 0.10.2" in last
    assert jobs(hpcvlm) == before
    assert not list(hpcvlm.state.glob("jobs/*"))


@pytest.mark.parametrize(
    ("site", "gpus", "asked"),
    [
        ("gpu_request: gres\n", "A100:2", "gres/gpu:A100:2"),
        ("gpu_types: {big: {slurm_name: H100}}\n", "big:1", "gres/gpu:H100:1"),
        ("gpu_types: {A100: {request: constraint, constraint: a100}}\n", "A100:1", "gres/gpu:1"),
        ("", "2", "gres/gpu:2"),
    ],
)
def test_every_way_to_ask_for_gpus_reaches_a_node_that_has_them(
    hpcvlm: Command, site: str, gpus: str, asked: str
) -> None:
    hpcvlm.site(SITE + site)
    done = hpcvlm("launch", "tiny-vlm", "--gpus", gpus, "--name", "asked")
    assert done.code == 0, done.stderr
    shown = subprocess.run(
        ["squeue", "--noheader", "--name=asked", "--states=running", "--format=%N|%f|%b"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    node, features, gres = shown.split("|")
    assert gres.replace("gres:", "gres/") == asked
    assert node == ("gpu02" if "H100" in asked else "gpu01" if "A100" in gpus else node)
    assert (features == "a100") == ("constraint" in site)
