"""`runtime: podman` with a real Podman: the stand-in engine in a container made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command
from tests.realparts import set_up

pytestmark = pytest.mark.slow

REAL_ENVIRONMENT = dict(os.environ)
IMAGE = "localhost/hpcvlm-empty:1"


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Iterator[Command]:
    conf = set_up("podman.sh", environment=REAL_ENVIRONMENT)
    # What Podman keeps lies in the real home.
    command = Command(
        tmp_path, {"HOME": REAL_ENVIRONMENT["HOME"], "CONTAINERS_CONF": conf, "ECHO": "outside"}
    )
    python = Path(sys.base_prefix)
    binds = [*(f"/{name}" for name in ("usr", "lib", "lib64", "bin")), str(python), str(ROOT)]
    site = {
        "schema": 1,
        "executor": "local",
        "runtime": "podman",
        "gpu_flag": "",
        "binds": list(dict.fromkeys(binds)),
        "environment": {
            "WORDS": "two words, $HOME `id` \"quoted\" 'too'",
            "JSON": '{"image": 2, "sizes": [1, 2]}',
            "QUOTED": '"as it is" # no comment',
        },
        "engines": [
            {
                "version": "0.32.0",
                "image": IMAGE,
                "command": [sys.executable, str(ROOT / "tests" / "fake_vllm.py")],
            }
        ],
    }
    command.site(json.dumps(site))
    yield command
    for name in ("mine", "gone"):
        command("stop", name)


def containers(command: Command) -> list[str]:
    """Names of hpcvlm's containers, running or not."""
    done = subprocess.run(
        ["podman", "ps", "--all", "--format", "{{.Names}}", "--filter", "name=hpcvlm-"],
        env=command.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_an_endpoint_in_podman_from_launch_to_stop(hpcvlm: Command) -> None:
    done = hpcvlm("launch", "tiny-vlm", "--name", "mine", "--gpus", "0")
    assert done.code == 0, done.stderr
    assert len(containers(hpcvlm)) == 1
    # Another program asks Podman, not the engine, what environment it has.
    inspected = subprocess.run(
        ["podman", "inspect", "--format", "{{json .Config.Env}}", *containers(hpcvlm)],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    environment = json.loads(inspected.stdout)
    assert "WORDS=two words, $HOME `id` \"quoted\" 'too'" in environment
    assert 'JSON={"image": 2, "sizes": [1, 2]}' in environment
    assert 'QUOTED="as it is" # no comment' in environment
    assert not [pair for pair in environment if pair.startswith("ECHO=")]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "two words, $HOME" not in listed.stdout
    key = (hpcvlm.state / "jobs" / "mine" / "key").read_text().strip()
    assert key not in inspected.stdout
    assert hpcvlm("stop", "mine").code == 0
    assert containers(hpcvlm) == []


def test_an_image_that_podman_does_not_have(hpcvlm: Command) -> None:
    text = (hpcvlm.config / "site.yaml").read_text()
    hpcvlm.site(text.replace(IMAGE, "localhost/no-such-image:1"))
    done = hpcvlm("launch", "tiny-vlm", "--name", "gone", "--gpus", "0")
    assert done.code == 5
    assert hpcvlm.job_state("gone")["reason"] == "image-missing"
