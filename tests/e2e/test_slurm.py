"""The main job on a real Slurm: with a stand-in engine for speed, then with everything real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command
from tests.realparts import CpuSif, SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """The command on the test cluster, with the stand-in engine; leaves no job behind."""
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def queue(cluster: SlurmCluster) -> list[str]:
    """Job names in squeue."""
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%j"],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_launch_to_stop(hpcvlm: Command, slurm_cluster: SlurmCluster) -> None:
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "e1", "--json")
    assert done.code == 0, done.stderr
    row = done.json()
    assert (row["state"], row["executor"], row["gpus"]) == ("ready", "slurm", "A100:1")
    assert list(row["phases"])[-1] == "ready"
    assert row["ends"] == pytest.approx(time.time() + 1800, abs=90)
    assert "✓ queued" in done.stderr
    assert [r["name"] for r in hpcvlm("ls", "--json").json()] == ["e1"]
    assert hpcvlm("status", str(row["job_id"])).stdout.startswith("name    e1\nstate   ready")
    assert hpcvlm("stop", "e1").stdout == "e1: stopped\n"
    assert queue(slurm_cluster) == []
    assert hpcvlm.job_state("e1")["reason"] == "stopped"
    assert hpcvlm("ls", "--json").json() == []


def test_what_sbatch_gets_is_what_dry_run_showed(hpcvlm: Command) -> None:
    arguments = ("tiny-vlm", "--gpus", "A100:1", "--name", "same")
    shown = hpcvlm("launch", *arguments, "--dry-run")
    assert shown.code == 0, shown.stderr
    job_id = hpcvlm("launch", *arguments, "--no-wait", "--json").json()["job_id"]
    kept = subprocess.run(
        ["scontrol", "write", "batch_script", job_id, "-"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert kept.stdout.rstrip("\n") == shown.stdout.rstrip("\n")
    assert (hpcvlm.state / "jobs" / "same" / "job.sbatch").read_text() == shown.stdout


def test_a_dead_engine_is_told_at_once(hpcvlm: Command) -> None:
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "dead"),
        *("--set", "environment.FAKE_VLLM_MODE=die-loading"),
    )
    told = time.time()
    assert done.code == 5
    assert "CUDA out of memory" in done.stderr
    assert "try:" in done.stderr
    assert told - hpcvlm.job_state("dead")["phases"]["ended"] < 15


def test_a_pending_job_shows_slurm_s_reason_and_can_be_stopped(hpcvlm: Command) -> None:
    hpcvlm("launch", "tiny-vlm", "--gpus", "H100:4", "--no-wait", "--name", "first")
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "H100:4", "--name", "second", "--queue-timeout", "5s")
    )
    assert done.code == 6
    assert "second still waits in the queue" in done.stderr
    row = hpcvlm("status", "second", "--json").json()
    assert row["description"] == "queued"
    assert row["verdict"]["detail"]
    assert hpcvlm("stop", "second").stdout == "second: stopped\n"
    assert hpcvlm("status", "second", "--json").json()["description"] == "ended (cancelled)"


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(hpcvlm: Command) -> None:
    process = hpcvlm.start(
        *("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "kept"),
        *("--set", "environment.FAKE_VLLM_MODE=slow"),
    )
    folder = hpcvlm.state / "jobs" / "kept"
    while not (folder / "state.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "kept (job " in stderr
    assert "hpcvlm wait kept follows it, hpcvlm stop kept stops it" in stderr
    assert hpcvlm("wait", "kept").code == 0


def test_an_admin_s_scancel_ends_the_endpoint_and_is_called_so(hpcvlm: Command) -> None:
    row = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "gone", "--json").json()
    subprocess.run(["scancel", row["job_id"]], env=hpcvlm.environment, check=True)
    for _ in range(180):
        now = hpcvlm("status", "gone", "--json").json()
        if now["state"] == "ended":
            break
        time.sleep(0.5)
    assert now["description"] in ("ended (stopped)", "ended (cancelled)")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--gpus", "V100:1"), 4, "no GPU of type 'V100'; it has A100:4, H100:4"),
        (("--gpus", "a100:1"), 4, "--gpus A100:1"),
        (("--gpus", "A100:8"), 2, "no node of"),
        (("--gpus", "A100:3"), 2, "does not divide the model's 4 attention heads"),
        (("--partition", "short", "--time", "2h"), 4, "partition short allows (00:30:00)"),
        (("--gpus", "A100:1", "--partition", "nope"), 4, "no partition 'nope'"),
        (("--account", "nope"), 4, "Invalid account"),
    ],
)
def test_what_the_cluster_would_not_take_is_refused(
    hpcvlm: Command,
    slurm_cluster: SlurmCluster,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    done = hpcvlm("launch", "tiny-vlm", *arguments)
    assert done.code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert queue(slurm_cluster) == []
    jobs = hpcvlm.state / "jobs"
    assert not jobs.exists() or list(jobs.iterdir()) == []


def environments(mark: str, hpcvlm: Command) -> set[str]:
    """Every variable of every process that works for this test's endpoint."""
    found: set[str] = set()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ours = f"HPCVLM_KEY_FILE={hpcvlm.state}/jobs/real/key"
        if mark in variables and ours in variables:
            found.update(variables)
    return found


@pytest.mark.apptainer
@pytest.mark.engine
def test_everything_real(tmp_path: Path, slurm_cluster: SlurmCluster, cpu_sif: CpuSif) -> None:
    """A real vLLM in a real .sif on a real Slurm: launch, wait, prove, stop, nothing left."""
    hpcvlm = Command(tmp_path, slurm_cluster.environment)
    hpcvlm.site(cpu_sif.site_yaml())
    literal = r"""a$HOME b"c`id -u`$(id -g)\n, {"k": 'v'}"""
    done = hpcvlm(
        *("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "real", "--json"),
        *("--set", "environment.LITERAL=" + json.dumps(literal)),
        *("--set", "site.media_domains=['*']"),
    )
    assert done.code == 0, done.stderr
    assert f"LITERAL={literal}" in environments("VLLM_NO_USAGE_STATS=1", hpcvlm)
    junit = tmp_path / "report.xml"
    report = hpcvlm("smoke-test", "real", "--json", "--junit", str(junit))
    assert report.code == 0, report.stderr + report.stdout
    results = {result["name"]: result for result in report.json()["results"]}
    for case in ("image_base64", "image_url", "image_file", "two_images"):
        assert results[case]["verdict"] == "passed", results[case]
        assert results[case]["sees"] == "true"
        assert results[case]["image_tokens"] > 0
    suite = ET.parse(junit).getroot().find("testsuite")  # noqa: S314 - our own file
    assert suite is not None
    assert suite.get("failures") == "0"
    probe = json.loads((hpcvlm.state / "jobs" / "real" / "probe.json").read_text())
    said = probe["image"]["choices"][0]["message"]["content"]
    assert "red" in said
    assert "circle" in said
    assert hpcvlm("stop", "real").stdout == "real: stopped\n"
    assert queue(slurm_cluster) == []
