"""A hub cache to be copied to a node."""

from __future__ import annotations

import os
from pathlib import Path


def a_snapshot(repository: Path, snapshot: Path) -> None:
    """A hub cache with one snapshot, whose files have names that a shell would stumble over."""
    blobs = repository / "blobs"
    for folder in (snapshot / "sub dir", blobs):
        folder.mkdir(parents=True)
    contents = {
        "config.json": b"{}",
        "model-1.safetensors": os.urandom(3_000_000),
        "model-2.safetensors": os.urandom(1_000_001),
        'it\'s "a" $(file) `x` & *.txt': b"odd",
        " two  blanks ": b"blank",
        "sub dir/deep.json": b"",
    }
    for number, (name, content) in enumerate(contents.items()):
        blob = blobs / f"{number}"
        blob.write_bytes(content)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{number}")
