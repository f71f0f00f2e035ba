"""What was read of images is kept, privately, and only as long as the file is the same."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from hpcvlm.containers.model import ImageFacts, Remembered
from hpcvlm.containers.store import ImageStore, file_key, sha256_of


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.sif"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def store(tmp_path: Path, image: Path) -> ImageStore:
    made = ImageStore(tmp_path / "state" / "images")
    made.remember(Remembered(file_key(image), "d" * 64, 5.0, "docker://x", ("AB",)))
    return made


def test_what_is_remembered_comes_back(store: ImageStore, image: Path) -> None:
    found = store.now(image)
    assert found is not None
    assert (found.digest, found.source, found.signers) == ("d" * 64, "docker://x", ("AB",))
    assert found == store.last(image)


@pytest.mark.parametrize("change", ["content", "time", "replaced", "gone"])
def test_a_changed_file_is_not_known(store: ImageStore, image: Path, change: str) -> None:
    before = image.stat()
    if change == "content":
        image.write_bytes(b"other content")
    elif change == "time":
        os.utime(image, ns=(0, before.st_mtime_ns + 1))
    elif change == "replaced":
        other = image.with_name("other")
        other.write_bytes(b"content")
        os.utime(other, ns=(0, before.st_mtime_ns))
        other.replace(image)
    else:
        image.unlink()
    assert store.now(image) is None
    assert store.last(image) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": [1]}', '{"key": null}'])
def test_a_broken_memory_is_none(store: ImageStore, image: Path, text: str) -> None:
    (file,) = (store.folder / "files").iterdir()
    file.write_text(text)
    assert store.now(image) is None
    assert store.last(image) is None


def test_nobody_else_reads_it(store: ImageStore) -> None:
    store.remember_facts("d" * 64, "how", ImageFacts(engine="0.10.2"))
    for path in store.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_facts_belong_to_a_digest_and_to_how_they_were_asked(store: ImageStore) -> None:
    facts = ImageFacts(engine="0.10.2", cuda="12.8")
    store.remember_facts("d" * 64, "binds", facts)
    assert store.facts("d" * 64, "binds") == facts
    assert store.facts("d" * 64, "no binds") is None
    assert store.facts("e" * 64, "binds") is None


def test_the_digest_is_the_file_s(image: Path) -> None:
    seen: list[int] = []
    assert sha256_of(image, seen.append) == hashlib.sha256(b"content").hexdigest()
    assert seen == [7]
