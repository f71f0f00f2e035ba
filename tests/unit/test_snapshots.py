from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from hpcvlm.resources import bundled_hub
from hpcvlm.snapshots.hub import expected_path, find_snapshot, hub_caches

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(size: int) -> bytes:
    """A whole safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache with one whole snapshot, as huggingface_hub lays it out."""
    repository = tmp_path / "hub" / "models--org--m"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    files = {
        "config.json": json.dumps({"text_config": {"num_attention_heads": 28}}).encode(),
        "a-1.safetensors": safetensors(10),
        "a-2.safetensors": safetensors(20),
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"x": "a-1.safetensors", "y": "a-2.safetensors"}}
        ).encode(),
    }
    for name, data in files.items():
        (repository / "blobs" / name).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return tmp_path / "hub"


def problems(cache: Path) -> tuple[str, ...]:
    found = find_snapshot("org/m", "main", [cache])
    assert found is not None
    return found.problems


def test_a_whole_snapshot_is_found_by_branch_and_by_commit(cache: Path) -> None:
    for revision in ("main", COMMIT):
        found = find_snapshot("org/m", revision, [cache / "other", cache])
        assert found is not None
        assert found.commit == COMMIT
        assert found.path == cache / "models--org--m" / "snapshots" / COMMIT
        assert found.attention_heads == 28
        assert found.problems == ()
    assert find_snapshot("org/m", "v2", [cache]) is None
    assert find_snapshot("org/other", "main", [cache]) is None


def test_a_missing_shard_is_named(cache: Path) -> None:
    (cache / "models--org--m" / "snapshots" / COMMIT / "a-2.safetensors").unlink()
    assert problems(cache) == ("a-2.safetensors: named in the index, not on disk",)


def test_a_link_without_its_blob_is_named(cache: Path) -> None:
    (cache / "models--org--m" / "blobs" / "a-1.safetensors").unlink()
    assert problems(cache)[0] == (
        "a-1.safetensors: its blob is missing (../../blobs/a-1.safetensors)"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (safetensors(20)[:-1], "89 bytes on disk, 90 expected"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS pointer"),
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "its header is damaged"),
        (struct.pack("<Q", 11) + b'{"a": true}', "its header is damaged"),
    ],
)
def test_a_shard_that_is_not_whole_is_named(cache: Path, data: bytes, words: str) -> None:
    (cache / "models--org--m" / "blobs" / "a-2.safetensors").write_bytes(data)
    (problem,) = problems(cache)
    assert problem.startswith("a-2.safetensors: ")
    assert words in problem


def test_a_missing_or_broken_config_is_named(cache: Path) -> None:
    blob = cache / "models--org--m" / "blobs" / "config.json"
    blob.write_text("{")
    assert problems(cache) == ("config.json: not valid JSON",)
    (cache / "models--org--m" / "snapshots" / COMMIT / "config.json").unlink()
    assert problems(cache) == ("config.json: missing or not readable",)


def test_where_a_missing_snapshot_would_lie(tmp_path: Path) -> None:
    folder, path = expected_path("org/m", COMMIT, tmp_path)
    assert folder == tmp_path / "models--org--m"
    assert path == folder / "snapshots" / COMMIT


def test_caches_are_searched_site_first_then_the_user_s_then_the_bundled(tmp_path: Path) -> None:
    bundled = tmp_path / "bundled"
    assert hub_caches(["/shared/hub"], {"HOME": "/home/u"}, bundled) == [
        Path("/shared/hub"),
        Path("/home/u/.cache/huggingface/hub"),
        bundled,
    ]
    assert hub_caches([], {"HOME": "/h", "HF_HOME": "/hf"}, bundled)[0] == Path("/hf/hub")
    assert hub_caches([], {"HF_HOME": "/hf", "HF_HUB_CACHE": "/c"}, bundled)[0] == Path("/c")


def test_the_bundled_model_is_whole_and_small() -> None:
    found = find_snapshot("hpcvlm/tiny-vlm", "main", [bundled_hub()])
    assert found is not None
    assert found.problems == ()
    assert found.attention_heads == 4
    files = [path for path in found.repository_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert not any(path.is_symlink() for path in files)
