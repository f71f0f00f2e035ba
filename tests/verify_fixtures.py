"""Snapshots as the hub gives them, for the tests of verify: real names of blobs, real headers."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcvlm.snapshots.model import StoredSnapshot

REPO = "org/m"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LFS_FROM = 1000


def safetensors(tensors: Mapping[str, int], fill: int = 7) -> bytes:
    """A whole safetensors file: bytes by name of a tensor."""
    header, position = {}, 0
    for name, size in tensors.items():
        spans = [position, position + size]
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": spans}
        position += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * position


def model_files() -> dict[str, bytes]:
    """A vision-language model in two shards, as `transformers` writes one."""
    weight_map = {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]}
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "vision_config": {"depth": 2},
        "text_config": {"num_attention_heads": 28},
    }
    texts: dict[str, object] = {
        "config.json": config,
        "tokenizer.json": {"model": {}},
        "tokenizer_config.json": {"chat_template": "{{ messages }}"},
        "preprocessor_config.json": {"size": 28},
        INDEX: {"weight_map": weight_map},
    }
    return {
        **{name: json.dumps(data).encode() for name, data in texts.items()},
        SHARDS[0]: safetensors({"a": 2000, "b": 1000}),
        SHARDS[1]: safetensors({"c": 3000}, fill=9),
        "README.md": b"# A model\n",
    }


def hub_hash(content: bytes) -> str:
    """SHA-256 of what would be in LFS, else SHA-1 of the Git blob."""
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def store(
    cache: Path, files: Mapping[str, bytes], repo: str = REPO, commit: str = COMMIT
) -> StoredSnapshot:
    """Lay a snapshot out in a hub cache as huggingface_hub does."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for place in (folder / "blobs", folder / "refs", snapshot):
        place.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = folder / "blobs" / hub_hash(content)
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (name.count("/") + 2)
        link.symlink_to(f"{up}blobs/{blob.name}")
    return StoredSnapshot(repo, commit, snapshot, ("main",), ())


def plain(folder: Path, files: Mapping[str, bytes]) -> StoredSnapshot:
    """The same as plain files in a hub cache, as on file systems without links."""
    snapshot = folder / "models--org--m" / "snapshots" / COMMIT
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    return StoredSnapshot(REPO, COMMIT, snapshot, (), ())


def overwrite(stored: StoredSnapshot, name: str, content: bytes) -> None:
    """Write through the link into the blob, as a damaged disk or a careless program does."""
    (stored.path / name).write_bytes(content)


def flip(stored: StoredSnapshot, name: str, position: int = -1) -> None:
    """Change one byte and nothing else."""
    content = bytearray((stored.path / name).read_bytes())
    content[position] ^= 1
    overwrite(stored, name, bytes(content))


def texts(sentences: Sequence[object]) -> list[str]:
    """Findings as sentences."""
    return [getattr(sentence, "sentence", str(sentence)) for sentence in sentences]
