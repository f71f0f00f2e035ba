"""hpcvlm snapshots pin, unpin, lock: as users type them."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
import yaml

from hpcvlm.snapshots.manifest import write_manifest
from hpcvlm.snapshots.model import Manifest, ManifestFile
from tests.command import Command, Done
from tests.unit.stores import DAY, Store, blob_name, commit_of

COMMIT = commit_of("a")


def weights(letter: bytes, size: int = 1000) -> bytes:
    """A whole safetensors file."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + letter * size


FILES = {
    "config.json": b'{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}',
    "model.safetensors": weights(b"a"),
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: other\nlicense_name: llama3.2\n---\n# Model\n",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


@pytest.fixture
def hpcvlm(tmp_path: Path, store: Store) -> Command:
    return Command(
        tmp_path,
        {"HOME": str(tmp_path), "HF_HUB_CACHE": str(store.cache), "SUDO_USER": "ada", "PATH": ""},
    )


def add(store: Store, repo: str = "org/m", commit: str = COMMIT, *, verified: bool = True) -> Path:
    path = store.snapshot(repo, commit, FILES, refs=["main"], used=time.time() - 200 * DAY)
    if verified:
        sums = {name: ManifestFile(len(c), blob_name(c)) for name, c in FILES.items()}
        manifest = Manifest(repo, commit, sums, time.time(), "ada", "blobs")
        write_manifest(store.folder(repo), manifest)
    return path


def refused(done: Done, code: int) -> str:
    assert done.code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def entries(hpcvlm: Command) -> list[dict[str, str]]:
    text = (hpcvlm.config / "snapshots.lock.yaml").read_text(encoding="utf-8")
    found: list[dict[str, str]] = yaml.safe_load(text)["snapshots"]
    return found


def test_pin_again_and_unpin(hpcvlm: Command, store: Store) -> None:
    add(store)
    done = hpcvlm("snapshots", "pin", "org/m", "--why", "passed the tests")
    assert done.code == 0, done.stderr
    assert f"org/m@{COMMIT}: pinned" in done.stdout
    (entry,) = entries(hpcvlm)
    assert (entry["repo"], entry["commit"], entry["licence"]) == ("org/m", COMMIT, "llama3.2")
    assert entry["manifest"].startswith("sha256:")
    assert entry["why"] == "passed the tests"
    before = (hpcvlm.config / "snapshots.lock.yaml").read_bytes()
    assert "pinned already" in hpcvlm("snapshots", "pin", "org/m").stdout
    assert (hpcvlm.config / "snapshots.lock.yaml").read_bytes() == before
    assert "no longer pinned" in hpcvlm("snapshots", "unpin", "org/m", "--revision", "main").stdout
    assert entries(hpcvlm) == []


def test_what_was_never_verified_needs_a_word(hpcvlm: Command, store: Store) -> None:
    add(store, verified=False)
    told = refused(hpcvlm("snapshots", "pin", "org/m"), 1)
    assert "was never verified" in told
    assert "hpcvlm snapshots verify org/m --revision aaaaaaaaaaaa" in told
    assert hpcvlm("snapshots", "pin", "org/m", "--unverified").code == 0
    assert entries(hpcvlm)[0]["manifest"] == ""


def test_what_is_not_here_or_not_whole_cannot_be_pinned(hpcvlm: Command, store: Store) -> None:
    assert "is not on disk" in refused(hpcvlm("snapshots", "pin", "org/none"), 3)
    path = add(store)
    (path / "model.safetensors").resolve().unlink()
    told = refused(hpcvlm("snapshots", "pin", "org/m", "--unverified"), 3)
    assert "not complete" in told
    assert not (hpcvlm.config / "snapshots.lock.yaml").exists()


def test_another_manifest_needs_update(hpcvlm: Command, store: Store) -> None:
    add(store)
    assert hpcvlm("snapshots", "pin", "org/m", "--why", "because").code == 0
    sums = {name: ManifestFile(len(c), blob_name(c + b"!")) for name, c in FILES.items()}
    manifest = Manifest("org/m", COMMIT, sums, time.time(), "eve", "blobs")
    write_manifest(store.folder("org/m"), manifest)
    old = entries(hpcvlm)
    told = refused(hpcvlm("snapshots", "pin", "org/m"), 4)
    assert "is pinned with another manifest" in told
    assert entries(hpcvlm) == old
    assert hpcvlm("snapshots", "pin", "org/m", "--update").code == 0
    (new,) = entries(hpcvlm)
    assert new["manifest"] != old[0]["manifest"]
    assert new["why"] == "because"


def test_what_is_not_pinned_is_told_with_what_may_be_meant(hpcvlm: Command, store: Store) -> None:
    add(store, "Qwen/Qwen3-VL-2B")
    assert hpcvlm("snapshots", "pin", "Qwen/Qwen3-VL-2B").code == 0
    told = hpcvlm("snapshots", "unpin", "Qwen/Qwen3-VL-2")
    assert told.code != 0
    assert "did you mean Qwen/Qwen3-VL-2B?" in told.stderr
    assert len(entries(hpcvlm)) == 1


def test_of_two_commits_one_must_be_named(hpcvlm: Command, store: Store) -> None:
    add(store)
    add(store, commit=commit_of("b"))
    for commit in (COMMIT, commit_of("b")):
        assert hpcvlm("snapshots", "pin", "org/m", "--revision", commit).code == 0
    told = hpcvlm("snapshots", "unpin", "org/m")
    assert told.code != 0
    assert COMMIT in told.stderr
    assert commit_of("b") in told.stderr
    assert hpcvlm("snapshots", "unpin", "org/m", "--revision", "aaaaaaa").code == 0
    assert [entry["commit"] for entry in entries(hpcvlm)] == [commit_of("b")]


def test_the_list_and_its_comparison_with_the_disk(hpcvlm: Command, store: Store) -> None:
    empty = hpcvlm("snapshots", "lock")
    assert (empty.code, empty.stdout) == (0, "")
    assert "snapshots.lock.yaml is not there" in empty.stderr
    path = add(store)
    add(store, "org/gone")
    for repo in ("org/m", "org/gone"):
        assert hpcvlm("snapshots", "pin", repo, "--why", f"for {repo}").code == 0
    listed = hpcvlm("snapshots", "lock")
    assert listed.code == 0
    assert "org/m@aaaaaaaaaaaa: for org/m" in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 100
    fine = hpcvlm("snapshots", "lock", "--check")
    assert fine.code == 0, fine.stderr
    store.folder("org/gone").rename(store.cache / "elsewhere")
    blob = (path / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    bad = hpcvlm("snapshots", "lock", "--check", "--json")
    assert bad.code == 1
    problems = {one["repo"]: one["problems"] for one in bad.json()["snapshots"]}
    assert problems["org/gone"] == ["not on disk"]
    assert any("model.safetensors" in problem for problem in problems["org/m"])


def test_a_damaged_lock_file_is_told_by_its_line(hpcvlm: Command, store: Store) -> None:
    add(store)
    text = "schema: 1\nsnapshots:\n  - repo: org/m\n    comit: abc\n"
    (hpcvlm.config / "snapshots.lock.yaml").write_text(text, encoding="utf-8")
    for command in (["pin", "org/m"], ["unpin", "org/m"], ["lock"], ["prune", "--orphans"]):
        told = refused(hpcvlm("snapshots", *command), 2)
        assert "snapshots.lock.yaml:4: snapshots[0].comit: unknown key" in told
