"""Files go away, are cut short, or cannot be written any more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.faults.place import FaultCluster, Place, until

pytestmark = [pytest.mark.slow]

FULL = """
import os
root = os.environ['VLLM_CACHE_ROOT']
os.makedirs(root, exist_ok=True)
with open(f'{root}/compiled', 'wb') as stream:
    stream.write(b'x' * (8 << 20))
"""
LOST = """
import shutil, sys
shutil.rmtree({hub!r})
sys.exit('FileNotFoundError: [Errno 2] No such file or directory: config.json')
"""


def fill(folder: Path) -> Path:
    """Use up a file system to its last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"\0" * 65536):
                pass
        except OSError:
            return ballast
    raise AssertionError("it does not become full")


def test_disk_full_at_launch(small_disk: Path, here: Place) -> None:
    here.move_state(small_disk / "state")
    fill(small_disk)
    done = here.hpcvlm(*here.arguments("full", "--executor", "local"))
    assert done.code == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert str(small_disk) in done.stderr
    assert "try:" in done.stderr
    assert not here.jobs.exists() or list(here.jobs.iterdir()) == []


def test_disk_full_while_it_serves(small_disk: Path, here: Place) -> None:
    here.move_state(small_disk / "state")
    here.launch("full", "--executor", "local")
    ballast = fill(small_disk)
    assert here.status("full")["state"] == "ready"
    assert here.state("full")["phase"] == "ready"
    os.kill(here.engine("full"), 9)
    row = here.becomes("full", "failed", "unknown")
    assert row["state"] in ("failed", "unknown")
    ballast.unlink()
    assert here.becomes("full", "failed")["verdict"]["evidence"]
    assert (here.jobs / "full" / "key").stat().st_size > 20


def test_disk_full_in_the_cache(small_disk: Path, here: Place) -> None:
    here.site(here.engine_program("writes-cache", FULL), cache_root=str(small_disk / "cache"))
    done = here.hpcvlm(*here.arguments("cache", "--executor", "local"))
    assert done.code == 5, done.stderr
    assert "space" in done.stderr
    assert "try:" in done.stderr


def test_quota_reached_in_the_job_folder(quota_disk: Path, here: Place) -> None:
    here.move_state(quota_disk / "state")
    ballast = fill(quota_disk)
    done = here.hpcvlm(*here.arguments("quota", "--executor", "local"))
    assert done.code == 1, done.stderr
    assert "Disk quota exceeded" in done.stderr
    assert str(quota_disk) in done.stderr
    assert "try:" in done.stderr
    assert not here.jobs.exists() or list(here.jobs.iterdir()) == []
    ballast.unlink()
    os.sync()
    here.launch("quota", "--executor", "local")


def test_quota_reached_while_it_serves(quota_disk: Path, here: Place) -> None:
    here.move_state(quota_disk / "state")
    here.launch("quota", "--executor", "local")
    fill(quota_disk)
    assert here.status("quota")["state"] == "ready"
    here.answers("quota")
    assert here.hpcvlm("stop", "quota").stdout == "quota: stopped\n"


def test_quota_reached_in_the_cache(quota_disk: Path, here: Place) -> None:
    here.site(here.engine_program("writes-cache", FULL), cache_root=str(quota_disk / "cache"))
    done = here.hpcvlm(*here.arguments("quota", "--executor", "local"))
    assert done.code == 5, done.stderr
    assert "quota" in done.stderr
    assert "try:" in done.stderr


def test_job_folder_deleted(here: Place) -> None:
    here.launch("deleted", "--executor", "local")
    shutil.rmtree(here.jobs / "deleted")
    until(lambda: not here.processes(), lambda: f"{here.command_lines()} still run", 30)
    done = here.hpcvlm("status", "deleted")
    assert done.code == 3
    assert "no endpoint is called 'deleted'" in done.stderr
    assert "try:" in done.stderr


@pytest.mark.parametrize("text", ["", '{"schema": 1, "phase": "rea', "\0" * 512])
def test_state_file_cut_short(here: Place, text: str) -> None:
    here.launch("cut", "--executor", "local")
    path = here.jobs / "cut" / "state.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    row = here.status("cut")
    assert row["state"] == "unknown", row
    assert row["url"] is None
    assert str(path) in here.said("cut")
    assert here.hpcvlm("stop", "cut").stdout == "cut: stopped\n"
    assert here.state("cut")["reason"] == "stopped" != before


def test_state_file_that_does_not_answer(here: Place) -> None:
    """A pipe in its place stands for a file server that hangs."""
    here.launch("slow", "--executor", "local")
    path = here.jobs / "slow" / "state.json"
    kept = path.read_text(encoding="utf-8")
    path.unlink()
    os.mkfifo(path)
    done = here.hpcvlm("status", "slow", "--json", timeout_s=40)
    assert done.code == 0, done.stderr
    row = done.json()
    assert row["state"] == "unknown"
    assert "has not answered" in here.said("slow")
    path.unlink()
    path.write_text(kept, encoding="utf-8")
    assert here.status("slow")["state"] == "ready"


def test_record_cut_short(here: Place) -> None:
    here.launch("cut", "--executor", "local")
    path = here.jobs / "cut" / "record.json"
    kept = path.read_text(encoding="utf-8")
    path.write_text(kept[:100], encoding="utf-8")
    done = here.hpcvlm("ls")
    assert done.code == 0, done.stderr
    assert "cut" in done.stdout
    assert "cannot be read" in done.stdout + done.stderr
    path.write_text(kept, encoding="utf-8")
    assert here.status("cut")["state"] == "ready"


def test_key_file_deleted(here: Place) -> None:
    here.launch("keyless", "--executor", "local")
    key = here.jobs / "keyless" / "key"
    kept = key.read_text(encoding="utf-8")
    key.unlink()
    done = here.hpcvlm("env", "keyless")
    if done.code != 0:
        assert "key" in done.stderr
        assert "try:" in done.stderr
        until(key.exists, "the job does not put it back")
        done = here.hpcvlm("env", "keyless")
    assert kept.strip() in done.stdout
    assert key.stat().st_mode & 0o777 == 0o600
    here.answers("keyless")


@pytest.mark.slurm
def test_container_missing_on_the_node(place: Place, cluster: FaultCluster) -> None:
    image = place.folder / "vllm.sif"
    image.write_bytes(b"#!/usr/bin/env run-singularity\n")
    place.program("apptainer", "exit 0")
    place.site(runtime="apptainer", engines=[{"version": "0.32.0", "image": str(image)}])
    cluster.slurm("scontrol", "update", "NodeName=gpu01", "State=DRAIN", "Reason=test")
    submitted = place.hpcvlm(*place.arguments("gone", "--no-wait"))
    assert submitted.code == 0, submitted.stderr
    image.unlink()
    cluster.slurm("scontrol", "update", "NodeName=gpu01", "State=RESUME")
    done = place.hpcvlm("wait", "gone")
    assert done.code == 5, done.stderr
    assert "the container image cannot be read on the node" in done.stderr
    assert "try:" in done.stderr


def test_weights_removed_under_a_running_server(here: Place) -> None:
    hub = here.folder / "hub"
    shutil.copytree(ROOT / "hpcvlm" / "bundled" / "hub", hub, symlinks=True)
    here.site(hub_caches=[str(hub)])
    here.launch("served", "--executor", "local")
    assert str(hub) in " ".join(here.command_lines())
    shutil.rmtree(hub)
    assert here.status("served")["state"] == "ready"
    here.answers("served")


def test_weights_removed_before_it_starts(here: Place) -> None:
    hub = here.folder / "hub"
    shutil.copytree(ROOT / "hpcvlm" / "bundled" / "hub", hub, symlinks=True)
    remove = LOST.format(hub=str(hub))
    here.site(here.engine_program("loses-weights", remove), hub_caches=[str(hub)])
    done = here.hpcvlm(*here.arguments("lost", "--executor", "local"))
    assert done.code == 5, done.stderr
    assert "try:" in done.stderr


def test_state_folder_read_only_on_the_login_node(small_disk: Path, here: Place) -> None:
    """The job itself, on its node, can write."""
    here.move_state(small_disk / "state")
    here.launch("frozen", "--executor", "local")
    frozen = f"mount --bind {small_disk} {small_disk} && mount -o remount,ro,bind {small_disk}"
    beside = ("unshare", "--mount", "sh", "-c", f'{frozen} && exec "$@"', "sh")
    done = here.under(beside, "status", "frozen", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["state"] == "ready"
    assert "frozen" in here.under(beside, "ls").stdout
    refused = here.under(beside, *here.arguments("another", "--executor", "local"))
    assert refused.code == 1, refused.stderr
    assert "Read-only file system" in refused.stderr
    assert "try:" in refused.stderr
    assert here.under(beside, "stop", "frozen").stdout == "frozen: stopped\n"
