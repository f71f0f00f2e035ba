"""Hub caches as huggingface_hub lays them out, with as little in them as a test needs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NOW = 1_800_000_000.0
DAY = 86_400.0


def commit_of(letter: str) -> str:
    """A commit that is easy to tell from others."""
    return (letter * 40)[:40]


def blob_name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Store:
    """A hub cache in a folder."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def folder(self, repo: str) -> Path:
        return self.cache / ("models--" + repo.replace("/", "--"))

    def snapshot(
        self,
        repo: str,
        commit: str,
        files: Mapping[str, bytes],
        *,
        refs: Sequence[str] = (),
        used: float = NOW,
    ) -> Path:
        """A snapshot whose weights were last read at `used`, and written then."""
        folder = self.folder(repo)
        path = folder / "snapshots" / commit
        path.mkdir(parents=True)
        for name, content in files.items():
            blob = self.blob(repo, content, at=used)
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.relpath(blob, place.parent))
        for ref in refs:
            self.ref(repo, ref, commit)
        return path

    def ref(self, repo: str, name: str, commit: str) -> None:
        path = self.folder(repo) / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)

    def blob(self, repo: str, content: bytes, *, at: float, name: str = "") -> Path:
        path = self.folder(repo) / "blobs" / (name or blob_name(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_atime if path.exists() else 0.0
        path.write_bytes(content)
        os.utime(path, (max(at, before), min(at, NOW - 30 * DAY)))
        return path

    def hold(self, repo: str, blob: str) -> Path:
        """The lock that huggingface_hub holds while it downloads a blob; not held yet."""
        path = self.cache / ".locks" / self.folder(repo).name / f"{blob}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path


def bytes_on_disk(top: Path) -> int:
    """Bytes of blobs and of plain files in snapshots, each file once."""
    sizes = {}
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink() and {"blobs", "snapshots"} & {*path.parts}:
            status = path.stat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def broken(cache: Path) -> list[str]:
    """Refs to commits that are gone, and links to blobs that are gone."""
    found: list[Path] = []
    for folder in cache.glob("models--*"):
        refs = [ref for ref in (folder / "refs").rglob("*") if ref.is_file()]
        found += [r for r in refs if not (folder / "snapshots" / r.read_text()).is_dir()]
        links = [link for link in (folder / "snapshots").rglob("*") if link.is_symlink()]
        found += [link for link in links if not link.exists()]
    return [str(path) for path in found]


def forked(work: Callable[[], object]) -> int:
    """Do something in a child; its wait status, which is 0 when it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]
