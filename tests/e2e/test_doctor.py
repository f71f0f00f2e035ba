"""hpcvlm doctor on a real Slurm, with a real Apptainer where images are started."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, Done
from tests.realparts import CpuSif, SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
# No GPU is real on the test cluster, and nothing of the outside is needed.
QUIET = ("--skip", "node-gpus", "--url", "http://127.0.0.1:1/", "--json")


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Command:
    """The command on the test cluster."""
    command = Command(tmp_path, slurm_cluster.environment)
    command.site("schema: 1\nruntime: none\n")
    return command


def queue(hpcvlm: Command) -> list[str]:
    """Names of the jobs in squeue."""
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%j"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def checks(done: Done) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in done.stderr
    return {check["id"]: check for check in json.loads(done.stdout)}


def test_the_login_part(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--json")
    found = checks(done)
    assert done.code == 0, done.stdout
    assert found["slurm"]["evidence"].startswith("Slurm 2")
    assert found["accounting"]["evidence"] == "sacct answers (slurmdbd)"
    assert found["gpu-job:gpu"]["status"] == "ok"
    assert "would start at" in found["gpu-job:short"]["evidence"]
    assert found["gpu-job:cpu"]["status"] == "skipped"
    assert found["site-partitions"]["evidence"].startswith("jobs go to gpu")
    assert queue(hpcvlm) == []


def test_what_the_cluster_would_refuse(hpcvlm: Command) -> None:
    hpcvlm.site("schema: 1\naccount: nobody\npartition: gpus\ngpu_types: {a100: {memory: 80G}}\n")
    done = hpcvlm("doctor", "--json")
    found = checks(done)
    assert done.code == 1
    assert found["gpu-job:gpu"]["status"] == "failed"
    assert "Invalid account" in found["gpu-job:gpu"]["evidence"]
    assert "names gpus; Slurm has gpu, short, cpu" in found["site-partitions"]["evidence"]
    assert "perhaps A100" in found["site-gpus"]["evidence"]


def test_the_node_part_as_a_job(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--on-node", "--partition", "short", "--gpus", "H100:1", *QUIET)
    found = checks(done)
    assert done.code == 0, done.stdout
    assert "ran on gpu02" in found["node-job"]["evidence"]
    assert "partition short" in found["node-job"]["evidence"]
    for name in ("node-shared", "node-clock", "node-file-clock", "node-tools", "node-shm"):
        assert found[name]["status"] == "ok", found[name]
    assert found["node-driver"]["status"] == "skipped"
    assert queue(hpcvlm) == []
    assert list(hpcvlm.state.iterdir()) == []


def test_a_node_without_nvidia_smi_fails(hpcvlm: Command) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has nvidia-smi")
    done = hpcvlm("doctor", "--on-node", "--only", "node-gpus", "--json")
    assert done.code == 1
    assert checks(done)["node-gpus"]["evidence"] == "there is no nvidia-smi on the node"


def test_gpus_as_nvidia_smi_shows_them(hpcvlm: Command, tmp_path: Path) -> None:
    """With a stand-in for nvidia-smi: no GPU is real here."""
    stand_in = tmp_path / "bin" / "nvidia-smi"
    stand_in.parent.mkdir()
    stand_in.write_text(
        "#!/bin/sh\n[ $# = 2 ] || exit 2\n"
        "for _ in 1 2; do echo 'NVIDIA A100-SXM4-40GB, 40960, 570.86.15, 8.0'; done\n"
    )
    stand_in.chmod(0o755)
    hpcvlm.environment["PATH"] = f"{stand_in.parent}:{hpcvlm.environment['PATH']}"
    hpcvlm.site("schema: 1\nruntime: none\ngpu_types: {A100: {memory: 80G}}\n")
    arguments = ("doctor", "--on-node", "--only", "node-gpus", "--only", "node-driver", "--json")
    found = checks(hpcvlm(*arguments, "--gpus", "A100:2"))
    assert found["node-gpus"]["status"] == "warning"
    assert found["node-gpus"]["evidence"] == (
        "2 x NVIDIA A100-SXM4-40GB (40 GiB); the site file gives A100 80G"
    )
    assert found["node-driver"]["evidence"].startswith("driver 570.86.15, compute capability 8.0")
    done = hpcvlm(*arguments, "--gpus", "A100:4")
    assert done.code == 1
    assert "shows 2 of 4 GPUs" in checks(done)["node-gpus"]["evidence"]


@pytest.mark.apptainer
def test_a_real_image_starts_on_the_node(hpcvlm: Command, cpu_sif: CpuSif) -> None:
    hpcvlm.site(cpu_sif.site_yaml())
    done = hpcvlm("doctor", "--on-node", *QUIET)
    found = checks(done)
    assert done.code == 0, done.stdout
    assert found["runtime"]["evidence"].startswith("apptainer version")
    assert found["image:0.32.0"]["status"] == "ok"
    started = found["node-image:0.32.0"]
    assert started["status"] == "ok"
    assert "holds vllm 0.32.0" in started["evidence"]
    assert found[f"node-folder:{cpu_sif.image.parent}"]["status"] == "ok"


@pytest.mark.apptainer
def test_deep_asks_the_image_on_this_machine(hpcvlm: Command, cpu_sif: CpuSif) -> None:
    text = cpu_sif.site_yaml()
    hpcvlm.site(text)
    deep = ("doctor", "--deep", "--only", "image", "--json")
    found = checks(hpcvlm(*deep))
    assert found["image:0.32.0"]["evidence"].endswith("(asked inside)")
    hpcvlm.site(text.replace('"0.32.0"', '"0.31.0"'))
    done = hpcvlm(*deep)
    assert done.code == 1
    assert "the site file says 0.31.0" in checks(done)["image:0.31.0"]["evidence"]


def test_a_refused_job_is_a_failed_check(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--on-node", "--only", "node-job", "--gpus", "V100:1", "--json")
    assert done.code == 1
    found = checks(done)["node-job"]
    assert "sbatch refused the job" in found["evidence"]
    assert not (hpcvlm.state / "doctor").exists()


@pytest.fixture
def busy(hpcvlm: Command) -> Iterator[list[str]]:
    """Both GPU nodes taken."""
    jobs = [
        subprocess.run(
            [
                *("sbatch", "--parsable", f"--nodelist={node}", f"--gpus-per-node={kind}:4"),
                *("--time=5", "--output=/dev/null", "--wrap=sleep 120"),
            ],
            env=hpcvlm.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for node, kind in (("gpu01", "A100"), ("gpu02", "H100"))
    ]
    yield jobs
    subprocess.run(["scancel", *jobs], env=hpcvlm.environment, check=False)
    while "wrap" in queue(hpcvlm):
        time.sleep(0.2)


@pytest.mark.usefixtures("busy")
def test_a_queue_that_takes_too_long(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--on-node", "--only", "node-job", "--queue-timeout", "4s", "--json")
    assert done.code == 1
    assert "waited in the queue for 4 s" in checks(done)["node-job"]["evidence"]
    assert "waits in the queue" in done.stderr
    assert queue(hpcvlm) == ["wrap", "wrap"]


def test_a_folder_that_the_node_does_not_see(hpcvlm: Command, busy: list[str]) -> None:
    process = hpcvlm.start("doctor", "--on-node", "--only", "node-job", "--json")
    until = time.monotonic() + 60
    while "hpcvlm-doctor" not in queue(hpcvlm) and time.monotonic() < until:
        time.sleep(0.1)
    shutil.rmtree(hpcvlm.state)
    subprocess.run(["scancel", *busy], env=hpcvlm.environment, check=True)
    stdout, stderr = process.communicate(timeout=60)
    found = checks(Done(process.returncode, stdout, stderr))["node-job"]
    assert process.returncode == 1
    assert "and left nothing in" in found["evidence"]
    assert found["remedy"] == "set HPCVLM_STATE to a folder that login and compute nodes share"
    assert queue(hpcvlm) == []


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_cancels_the_job(hpcvlm: Command, number: signal.Signals) -> None:
    process = hpcvlm.start("doctor", "--on-node", "--only", "node-job")
    until = time.monotonic() + 60
    while "hpcvlm-doctor" not in queue(hpcvlm) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert stderr.rstrip().endswith("was cancelled")
    assert queue(hpcvlm) == ["wrap", "wrap"]
    assert list(hpcvlm.state.iterdir()) == []
