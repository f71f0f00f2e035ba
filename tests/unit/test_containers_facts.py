"""What is asked inside an image, by a real Python; and what a launch is told without asking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.containers import commands
from hpcvlm.containers.model import Remembered
from hpcvlm.containers.parse import parse_facts
from hpcvlm.containers.store import ImageStore, file_key
from hpcvlm.ops.containers_verify import image_issues
from hpcvlm.ops.context import Context
from hpcvlm.site.schema import Images, SiteSpec
from hpcvlm.system.settings import Settings

KEY = "8A8D116AC3A86C89E65C3430E9D64557C9124FA3"
# torch/version.py of the wheels: CUDA's and ROCm's.
CUDA = "from typing import Optional\ncuda: Optional[str] = '12.8'\nhip = None\n"
ROCM = "__version__ = '2.9.1'\ncuda = None\nhip = '7.0.51831'\n"


def package(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


def ask(folder: Path) -> Any:
    (_, *argv) = commands.facts("vllm", ("vllm",))
    done = subprocess.run(
        [sys.executable, "-S", *argv],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return parse_facts(done.stdout)


@pytest.mark.parametrize(
    ("text", "cuda", "hip"), [(CUDA, "12.8", ""), (ROCM, "", "7.0.51831"), ("raise x", "", "")]
)
def test_versions_are_read_without_importing_the_packages(
    tmp_path: Path, text: str, cuda: str, hip: str
) -> None:
    explode = {"torch/__init__.py": "raise SystemExit(9)", "torch/version.py": text}
    package(tmp_path, "torch", "2.8.0", explode)
    package(tmp_path, "vllm", "0.10.2+cu128", {"vllm/__init__.py": "raise SystemExit(9)"})
    facts = ask(tmp_path)
    assert (facts.engine, facts.torch, facts.transformers) == ("0.10.2+cu128", "2.8.0", "")
    assert (facts.cuda, facts.hip) == (cuda, hip)
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert facts.architecture == os.uname().machine


def test_an_image_without_the_engine_says_so(tmp_path: Path) -> None:
    assert ask(tmp_path)[:3] == ("", "", "")


def test_python_is_the_one_beside_the_engine() -> None:
    assert commands.facts("vllm", ("/opt/vllm/bin/vllm",))[0] == "/opt/vllm/bin/python3"
    assert commands.facts("vllm", ("vllm",))[0] == "python3"


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a launch starts nothing to look at an image")

    return Context(Settings(tmp_path / "state", tmp_path, tmp_path), {}, refuse)


def told(ctx: Context, image: str | None, **site: Any) -> list[str]:
    spec = SiteSpec(**{"images": Images(signed_by=(KEY,)), **site})
    return [issue.code for issue in image_issues(image, "0.10.2", spec, ctx)]


def test_a_launch_without_a_policy_or_an_image_is_told_nothing(ctx: Context) -> None:
    assert told(ctx, "/nowhere.sif", images=Images()) == []
    assert told(ctx, None) == []
    assert told(ctx, "/nowhere.sif") == [], "that it is missing is told elsewhere"


def test_a_policy_that_podman_cannot_keep_is_not_passed_over(ctx: Context) -> None:
    assert told(ctx, "local/vllm:1", runtime="podman") == ["container-unsigned"]


def test_a_verified_image_is_let_go_until_it_changes(ctx: Context, tmp_path: Path) -> None:
    image = tmp_path / "vllm-0.10.2.sif"
    image.write_bytes(b"image")
    assert told(ctx, str(image)) == ["container-unverified"]
    store = ImageStore(ctx.settings.state / "images")
    store.remember(Remembered(file_key(image), "d" * 64, 0.0, "", (KEY,)))
    assert told(ctx, str(image)) == []
    os.utime(image, (1, 1))
    assert told(ctx, str(image)) == ["container-unverified"]
