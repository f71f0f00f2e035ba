"""What a look into a SquashFS image of a snapshot tells; real images, made for each test."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.approved import approval_issue
from hpcvlm.plan.model import PlannedSnapshot
from hpcvlm.snapshots.archive.archived_manifest import manifest_bytes
from hpcvlm.snapshots.hub import bytes_of_weights
from hpcvlm.snapshots.image_look import ImageLook, identity_problem, look_into_image
from hpcvlm.snapshots.manifest import manifest_digest
from hpcvlm.snapshots.model import Approval, Manifest, ManifestFile
from hpcvlm.system.process import run

COMMIT = "c" * 40
INDEX = "model.safetensors.index.json"
FILES = {
    "config.json": b'{"num_attention_heads": 4}',
    "preprocessor_config.json": b'{"size": 1}',
    "model-1.safetensors": b"first" * 100,
    "model-2.safetensors": b"second" * 100,
    "README.md": b"# A model",
    INDEX: json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
}
MANIFEST = Manifest(
    "org/m",
    COMMIT,
    {name: ManifestFile(len(c), sha256(c).hexdigest()) for name, c in FILES.items()},
    0.0,
    "",
    "blobs",
)
Look = Callable[..., ImageLook]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Makes an image of files, None being one that is not there, and looks into it."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed (squashfs-tools)")

    def made(manifest: bytes | None = None, **over: bytes | None) -> ImageLook:
        folder, image = tmp_path / "files", tmp_path / "an image.sqsh"
        kept = {name: over.get(name, content) for name, content in FILES.items()}
        if manifest is not None:
            kept[".hpcvlm/manifest.json"] = manifest
        for name, content in kept.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (folder / name).write_bytes(content)
        subprocess.run(["mksquashfs", folder, image, "-quiet", "-no-progress"], check=True)
        return look_into_image(image, run)

    return made


def test_a_whole_image(look: Look) -> None:
    seen = look()
    assert seen.problems == ()
    assert seen.manifest is None
    assert seen.config == {"num_attention_heads": 4}
    assert seen.preprocessor == {"size": 1}
    assert bytes_of_weights(seen.sizes) == 1100


def test_an_exported_image_says_what_it_holds(look: Look) -> None:
    seen = look(manifest_bytes(MANIFEST))
    assert seen.problems == ()
    assert seen.manifest is not None
    assert manifest_digest(seen.manifest) == manifest_digest(MANIFEST)
    assert (seen.manifest.repo, seen.manifest.commit) == ("org/m", COMMIT)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model-2.safetensors", None, "model-2.safetensors: not in the image"),
        ("model-2.safetensors", b"", "model-2.safetensors: is empty"),
        ("config.json", None, "config.json: not in the image"),
        ("config.json", b"{", "config.json: not valid JSON"),
        (INDEX, b"{", f"{INDEX}: not valid JSON"),
    ],
)
def test_what_must_not_be_served(
    name: str, content: bytes | None, problem: str, look: Look
) -> None:
    assert look(**{name: content}).problems == (problem,)


def test_an_image_without_weights(look: Look) -> None:
    none = dict.fromkeys(("model-1.safetensors", "model-2.safetensors", INDEX))
    assert look(**none).problems == ("no weights: there is no .safetensors file in it",)


def test_an_image_against_its_own_manifest(look: Look) -> None:
    over = {"model-1.safetensors": b"other", "preprocessor_config.json": None, "README.md": None}
    assert set(look(manifest_bytes(MANIFEST), **over).problems) == {
        "model-1.safetensors: 5 bytes in the image, 500 in its manifest",
        "preprocessor_config.json: in its manifest, not in the image",
    }


def test_a_damaged_manifest(look: Look) -> None:
    with pytest.raises(HpcvlmError, match="damaged"):
        look(manifest_bytes(MANIFEST).replace(b"500", b"501"))


@pytest.mark.parametrize(
    ("repo", "revision", "problem"),
    [
        ("Org/M", "main", ""),
        ("org/m", COMMIT, ""),
        ("org/m", "refs/pr/1", ""),
        ("org/other", "main", "it holds org/m, the model's file says org/other"),
        ("org/m", "d" * 40, f"it holds commit {COMMIT}, the model's file says {'d' * 40}"),
    ],
)
def test_an_image_of_something_else(repo: str, revision: str, problem: str) -> None:
    assert identity_problem(MANIFEST, repo, revision) == problem
    assert identity_problem(None, repo, revision) == ""


def test_the_approval_of_an_image() -> None:
    digest = manifest_digest(MANIFEST)
    entry = Approval("org/m", COMMIT, digest, "mit", "ada", "2026-11-21", "")

    def words(commit: str, found: str) -> str:
        snapshot = PlannedSnapshot("org/m", commit, "/in", "/x.sqsh", image="/x.sqsh")
        issue = approval_issue(snapshot, [entry], found, "/lock.yaml")
        return f"{issue.sentence}; {issue.remedy}" if issue is not None else ""

    assert words(COMMIT, digest) == ""
    assert "/x.sqsh holds no manifest; hpcvlm snapshots export" in words(COMMIT, "")
    assert "is not what ada approved" in words(COMMIT, f"sha256:{'0' * 64}")
    assert "nobody can say which commit of org/m /x.sqsh holds" in words("main", "")
