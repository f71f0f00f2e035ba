"""The wheel holds everything that the command needs, and nothing that git ignores."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.command import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("hpcvlm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def hpcvlm(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # what it holds is looked at afterwards
    }
    return subprocess.run(
        [sys.executable, "-m", "hpcvlm", *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_shipped_data_is_inside(installed: Path) -> None:
    data = installed / "hpcvlm" / "_data"
    assert (data / "templates" / "sbatch" / "single_node.sbatch.j2").is_file()
    assert (data / "templates" / "sbatch" / "staging.sh.j2").is_file()
    assert (data / "templates" / "sbatch" / "build_image.sbatch.j2").is_file()
    assert {p.name for p in (data / "containers").iterdir()} >= {"apptainer.def", "rocm.def"}
    assert {p.name for p in (data / "configs" / "models").iterdir()} >= {"tiny-vlm.yaml"}
    assert list((installed / "hpcvlm" / "bundled" / "hub").rglob("model.safetensors"))
    assert (installed / "hpcvlm" / "py.typed").is_file()


def test_the_installed_command_finds_its_data(installed: Path) -> None:
    done = hpcvlm(installed, "models", "ls")
    assert done.returncode == 0, done.stderr
    assert "llama-3.2-11b-vision" in done.stdout
    done = hpcvlm(installed, "render", "llama-3.2-11b-vision", "--executor", "local")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert str(ROOT) not in done.stdout
    bundled = hpcvlm(installed, "render", "tiny-vlm", "--executor", "local").stdout
    assert f"snapshot={installed}/hpcvlm/bundled/hub/models--hpcvlm--tiny-vlm/" in bundled


def test_git_ignored_files_stay_out(installed: Path) -> None:
    names = {path.name for path in installed.rglob("*")}
    assert not {"__pycache__", ".venv", ".git"} & names
    assert not any(name.endswith((".sif", ".local.yaml")) for name in names)
