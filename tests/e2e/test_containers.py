"""The shipped container definition, as far as it can be built without its registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.realparts import ROOT, CpuSif

pytestmark = [pytest.mark.slow, pytest.mark.apptainer]


def apptainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apptainer", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, cpu_sif: CpuSif) -> Path:
    """containers/apptainer.def with the test image where the official one would be."""
    folder = tmp_path_factory.mktemp("def")
    text = (ROOT / "containers" / "apptainer.def").read_text()
    source = "Bootstrap: docker\nFrom: vllm/vllm-openai:v{{ VERSION }}\n"
    assert text.startswith(source)
    definition = folder / "local.def"
    definition.write_text(text.replace(source, f"Bootstrap: localimage\nFrom: {cpu_sif.image}\n"))
    built = folder / "vllm-0.10.2.sif"
    done = apptainer(
        "build", "--notest", "--build-arg", "VERSION=0.10.2", str(built), str(definition)
    )
    assert done.returncode == 0, done.stderr
    return built


def test_labels_name_engine_and_version(image: Path) -> None:
    labels = apptainer("inspect", "--labels", str(image)).stdout
    assert "org.hpcvlm.engine: vllm" in labels
    assert "org.hpcvlm.version: 0.10.2" in labels


@pytest.mark.parametrize(("found", "code"), [("0.10.2", 0), ("0.10.2+cu128", 0), ("0.9.1", 1)])
def test_the_image_s_own_test_checks_the_engine_s_version(
    image: Path, tmp_path: Path, found: str, code: int
) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\necho {found}\n")
    python.chmod(0o755)
    binds = ("--bind", "/usr:/usr:ro", "--bind", f"{tmp_path}:/usr/local/bin")
    done = apptainer("test", *binds, str(image))
    assert (done.returncode != 0) == (code != 0), done.stderr
    if code:
        assert "this image has vLLM 0.9.1, not 0.10.2" in done.stderr
