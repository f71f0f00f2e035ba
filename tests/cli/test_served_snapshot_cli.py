"""What a launch would serve: a folder that a model's file names, an image, one of two models'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpcvlm.resources import bundled_hub
from tests.command import Command
from tests.unit.stores import Store, commit_of

COMMIT = commit_of("a")
MODEL = """
name: {name}
snapshot: {{repo: {repo}, revision: {revision}{path}}}
engine: {{name: vllm, versions: '>=0.10.0', preferred: 0.32.0}}
parallelism: {{attention_heads: 4}}
time: 30m
"""
SITE = """
schema: 1
executor: local
gpu_flag: ''
engines: [{{version: 0.32.0, image: {image}}}]
store: {{folder: {folder}, approved_only: {only}}}
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the shipped model as org/m."""
    made = Store(tmp_path / "hub")
    source = next((bundled_hub() / "models--hpcvlm--tiny-vlm" / "snapshots").iterdir())
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    made.snapshot("org/m", COMMIT, files, refs=["main"])
    return made


@pytest.fixture
def hpcvlm(tmp_path: Path, store: Store) -> Command:
    command = Command(tmp_path, {"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "none")})
    (tmp_path / "vllm.sif").touch()
    _site(command, store, only=False)
    return command


def _site(command: Command, store: Store, *, only: bool) -> None:
    image = command.state.parent / "vllm.sif"
    command.site(SITE.format(image=image, folder=store.cache, only=str(only).lower()))


def _model(
    command: Command, name: str, *, path: Path | None = None, repo: str = "org/m", at: str = "main"
) -> None:
    folder = command.config / "models"
    folder.mkdir(exist_ok=True)
    place = "" if path is None else f", path: {json.dumps(str(path))}"
    text = MODEL.format(name=name, repo=repo, revision=at, path=place)
    (folder / f"{name}.yaml").write_text(text)


def _snapshot(command: Command, model: str) -> dict[str, str]:
    done = command("plan", model, "--json")
    found: dict[str, str] = done.json()["plan"]["snapshot"]
    return found


def _refused(command: Command, model: str) -> str:
    done = command("launch", model, "--dry-run")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("by_link", [False, True])
def test_a_folder_of_a_hub_cache_is_known_by_its_commit(
    by_link: bool, hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    """By which prune of another user's sees that it is in use."""
    folder = store.folder("org/m") / "snapshots" / COMMIT
    if by_link:
        (tmp_path / "current").symlink_to(folder)
        folder = tmp_path / "current"
    _model(hpcvlm, "mine", path=folder, repo="me/mine")
    found = _snapshot(hpcvlm, "mine")
    assert (found["repo"], found["commit"], found["path"]) == ("org/m", COMMIT, str(folder))


def test_a_folder_whose_commit_nobody_knows(hpcvlm: Command, store: Store, tmp_path: Path) -> None:
    plain = tmp_path / "plain folder"
    shutil.copytree(store.folder("org/m") / "snapshots" / COMMIT, plain)
    _model(hpcvlm, "mine", path=plain)
    assert _snapshot(hpcvlm, "mine")["commit"] == "main"
    _site(hpcvlm, store, only=True)
    told = _refused(hpcvlm, "mine")
    assert f"nobody can say which commit of org/m {plain} holds" in told
    assert "write its commit as 'snapshot: revision'" in told


def test_a_path_that_is_nothing(hpcvlm: Command, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no image")
    for name, why in {
        "absent": "is not here",
        "text": "is neither a folder nor a SquashFS",
    }.items():
        _model(hpcvlm, name, path=tmp_path / name)
        assert f"snapshot.path: {tmp_path / name} {why}" in _refused(hpcvlm, name)


def test_an_exported_image_is_approved_by_its_own_manifest(
    hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed (squashfs-tools)")
    image = tmp_path / "the image.sqsh"
    assert hpcvlm("snapshots", "export", "org/m", str(image)).code == 0
    _model(hpcvlm, "mine", path=image)
    _model(hpcvlm, "other", path=image, repo="org/other")
    _site(hpcvlm, store, only=True)
    assert f"org/m@{COMMIT} is not in " in _refused(hpcvlm, "mine")
    assert hpcvlm("snapshots", "pin", "org/m").code == 0
    done = hpcvlm("launch", "mine", "--dry-run")
    assert done.code == 0, done.stderr
    assert f"{image}:/hpcvlm/snapshot:ro,image-src=/" in done.stdout
    assert f"{image}: it holds org/m, the model's file says org/other" in _refused(hpcvlm, "other")


def test_a_repository_of_two_models(hpcvlm: Command, store: Store) -> None:
    _model(hpcvlm, "one")
    _model(hpcvlm, "two")
    done = hpcvlm("snapshots", "prune", "--all", "org/m", "--dry-run")
    assert done.code == 0, done.stderr
    assert "asked for by name" in done.stdout
    _model(hpcvlm, "two", at=COMMIT)
    pinned = hpcvlm("snapshots", "pin", "Org/M", "--unverified")
    assert f"org/m@{COMMIT}: pinned" in pinned.stdout, pinned.stderr
