"""Makes hub caches as huggingface_hub lays them out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

COMMIT_A = "a" * 40
COMMIT_B = "b" * 40
COMMIT_C = "c" * 40
NOBODY = 65534
_NAMES = st.sampled_from(
    [
        *("blobs", "refs", "snapshots", "main", COMMIT_A, "a.safetensors", "m.index.json"),
        *(".hpcvlm", "manifests", "listings", f"{COMMIT_A}.json", "x.incomplete", "\udcff"),
        "models--a--b",
    ]
)
_NODES = st.recursive(
    st.one_of(
        st.binary(max_size=50),
        st.sampled_from([COMMIT_A.encode(), b"{}", b'{"weight_map": {"a": "b"}}', None]),
        st.sampled_from(["nowhere", "..", ".", "../../blobs/a.safetensors", "/dev/null", "main"]),
    ),
    lambda inner: st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
# What a folder may hold, in the words of `grow`; names are those that mean something in a cache.
TREES = st.dictionaries(_NAMES, _NODES, max_size=4)
_ROOT = Path(__file__).resolve().parent.parent
_ENTER = 0o055
_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def digest(content: bytes) -> str:
    """The hub's name for a file in LFS."""
    return hashlib.sha256(content).hexdigest()


def index_of(*shards: str) -> bytes:
    """An index that names these shards."""
    return json.dumps({"weight_map": {f"w{n}": name for n, name in enumerate(shards)}}).encode()


def repository(cache: Path, repo: str) -> Path:
    """The folder of a repository, with what belongs into it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for name in ("blobs", "refs", "snapshots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def add_snapshot(
    cache: Path, repo: str, commit: str, files: Mapping[str, bytes], *, ref: str = ""
) -> Path:
    """One more commit; a content that is there already is linked to."""
    folder = repository(cache, repo)
    place = folder / "snapshots" / commit
    place.mkdir()
    for name, content in files.items():
        blob = folder / "blobs" / digest(content)
        blob.write_bytes(content)
        link = place / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"{'../' * (2 + name.count('/'))}blobs/{blob.name}")
    if ref:
        path = folder / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return place


def as_nobody(folder: Path, code: str) -> str:
    """What Python code prints for a user without rights, who may enter the folders around one."""
    modes = {path: path.stat().st_mode & 0o7777 for path in (folder, *folder.parents)}
    closed = {path: mode for path, mode in modes.items() if mode & _ENTER != _ENTER}
    try:
        for path, mode in closed.items():
            path.chmod(mode | _ENTER)
        return subprocess.run(
            [*_AS_NOBODY, sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        for path, mode in closed.items():
            path.chmod(mode)


def grow(path: Path, node: object) -> Path:
    """A folder from a mapping, a file from bytes, a link from a text, a named pipe from None."""
    if isinstance(node, dict):
        path.mkdir()
        for name, below in node.items():
            grow(path / name, below)
    elif isinstance(node, bytes):
        path.write_bytes(node)
    elif isinstance(node, str):
        path.symlink_to(node)
    else:
        os.mkfifo(path)
    return path
