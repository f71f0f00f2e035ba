from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.manifest import (
    listing_path,
    manifest_digest,
    manifest_path,
    read_listing,
    read_manifest,
    write_listing,
    write_manifest,
)
from hpcvlm.snapshots.model import ListedFile, Manifest, ManifestFile
from hpcvlm.snapshots.verify.verify import How, verify_snapshot
from tests.verify_fixtures import COMMIT, REPO, model_files, store

A, B = "a" * 64, "b" * 64
FILES = {"z.json": ManifestFile(3, A, "c" * 40), "a/b ü.bin": ManifestFile(0, B, B)}
MANIFEST = Manifest(REPO, COMMIT, FILES, 1.5, "ada", "blobs")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The folder of a repository in a hub cache."""
    folder = tmp_path / "models--org--m"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def same(one: Manifest | None, other: Manifest) -> bool:
    names = ("repo", "commit", "files", "created", "by", "source")
    return one is not None and all(getattr(one, n) == getattr(other, n) for n in names)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_a_manifest_is_read_as_it_was_written(repository: Path) -> None:
    assert read_manifest(repository, COMMIT) is None
    write_manifest(repository, MANIFEST)
    assert same(read_manifest(repository, COMMIT), MANIFEST)
    assert manifest_path(repository, COMMIT) == (
        repository / ".hpcvlm" / "manifests" / f"{COMMIT}.json"
    )
    written = json.loads(manifest_path(repository, COMMIT).read_text())
    assert written["schema"] == 1
    assert written["digest"] == manifest_digest(MANIFEST)


def test_the_digest_is_that_of_the_decision_record() -> None:
    lines = f"{REPO}@{COMMIT}\n0 {B} a/b ü.bin\n3 {A} z.json\n"
    expected = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    assert manifest_digest(MANIFEST) == expected
    later = Manifest(REPO, COMMIT, dict(reversed(FILES.items())), 9.0, "bob", "hub")
    assert manifest_digest(later) == expected
    changed = Manifest(REPO, COMMIT, {**FILES, "z.json": ManifestFile(4, A)}, 1.5, "ada", "blobs")
    assert manifest_digest(changed) != expected


def test_names_that_are_no_utf8_and_end_lines_come_back(repository: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \r\t.json")
    manifest = Manifest(REPO, COMMIT, {odd: ManifestFile(1, A)}, 1.0, "ada", "blobs")
    write_manifest(repository, manifest)
    assert same(read_manifest(repository, COMMIT), manifest)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "a\nb", "", "./a"])
def test_what_is_no_file_of_the_snapshot_cannot_stand_in_it(repository: Path, name: str) -> None:
    manifest = Manifest(REPO, COMMIT, {name: ManifestFile(1, A)}, 1.0, "ada", "blobs")
    with pytest.raises(HpcvlmError, match="no name for a file") as caught:
        write_manifest(repository, manifest)
    assert caught.value.code == "manifest-unwritable"
    write_manifest(repository, MANIFEST)
    path = manifest_path(repository, COMMIT)
    data = json.loads(path.read_text())
    data["files"][name] = {"size": 1, "sha256": A}
    path.write_text(json.dumps(data))
    with pytest.raises(HpcvlmError, match="is no path in a snapshot"):
        read_manifest(repository, COMMIT)


@pytest.mark.parametrize("mode", [0o2750, 0o755, 0o700, 0o2775])
def test_who_reads_the_repository_reads_the_manifest(repository: Path, mode: int) -> None:
    repository.chmod(mode)
    before = os.umask(0o077)
    try:
        write_manifest(repository, MANIFEST)
    finally:
        os.umask(before)
    own = repository / ".hpcvlm"
    assert stat.S_IMODE(own.stat().st_mode) == mode
    assert stat.S_IMODE((own / "manifests").stat().st_mode) == mode
    written = manifest_path(repository, COMMIT).stat()
    assert stat.S_IMODE(written.st_mode) == 0o600 | mode & 0o044
    assert written.st_gid == repository.stat().st_gid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("[1]", "no JSON object"),
        ("", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"schema": 2}', "schema 2, 1 is known"),
        ('{"schema": 1}', "without 'files'"),
        ('{"schema": 1, "files": []}', "damaged"),
        ('{"schema": 1, "files": {"a": {"size": -1}}}', "-1 is no size"),
        ('{"schema": 1, "files": {"a": {"size": 1, "sha256": "x"}}}', "'x' is no hash"),
        ('{"schema": 1, "files": {"a": null}}', "damaged"),
    ],
)
def test_a_damaged_manifest_is_named(repository: Path, text: str, words: str) -> None:
    path = manifest_path(repository, COMMIT)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(HpcvlmError) as caught:
        read_manifest(repository, COMMIT)
    assert caught.value.code == "manifest-damaged"
    assert str(path) in caught.value.sentence
    assert words in caught.value.sentence
    assert f"rm {path}" in caught.value.remedy


@pytest.mark.parametrize(("old", "new"), [(A, B), ('"size": 3', '"size": 4'), ("z.json", "y.json")])
def test_a_manifest_that_was_changed_does_not_fit_its_digest(
    repository: Path, old: str, new: str
) -> None:
    write_manifest(repository, MANIFEST)
    path = manifest_path(repository, COMMIT)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(HpcvlmError, match="its digest is not that of its files"):
        read_manifest(repository, COMMIT)


def test_the_manifest_of_another_commit_is_none_of_this(repository: Path) -> None:
    write_manifest(repository, MANIFEST)
    other = "f" * 40
    manifest_path(repository, COMMIT).rename(manifest_path(repository, other))
    with pytest.raises(HpcvlmError, match=f"it is of commit {COMMIT}"):
        read_manifest(repository, other)


def test_a_listing_is_read_as_it_was_written(repository: Path) -> None:
    assert read_listing(repository, COMMIT) is None
    files = (ListedFile("b.bin", 5, B), ListedFile("a/c.json", 0, "c" * 40))
    write_listing(repository, COMMIT, files)
    assert read_listing(repository, COMMIT) == tuple(sorted(files))
    listing_path(repository, COMMIT).write_text('{"schema": 1, "files": [{"path": "x"}]}')
    with pytest.raises(HpcvlmError, match="listing is damaged") as caught:
        read_listing(repository, COMMIT)
    assert caught.value.code == "listing-damaged"


def test_a_revision_with_a_slash_is_one_file(repository: Path) -> None:
    write_listing(repository, "refs/pr/1", [])
    assert read_listing(repository, "refs/pr/1") == ()
    assert listing_path(repository, "refs/pr/1").name == "refs--pr--1.json"


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_manifest(tiny_disk: Path) -> None:
    folder = tiny_disk / "models--org--m"
    folder.mkdir()
    write_manifest(folder, MANIFEST)
    with pytest.raises(OSError, match="No space"):
        fill(tiny_disk / "filler")
    many = {f"shard-{number}": ManifestFile(1, A) for number in range(500)}
    larger = Manifest(REPO, COMMIT, many, 2.0, "ada", "blobs")
    with pytest.raises(HpcvlmError, match="cannot be written \\(No space left on device\\)") as e:
        write_manifest(folder, larger)
    assert e.value.code == "manifest-unwritable"
    assert same(read_manifest(folder, COMMIT), MANIFEST)
    assert [path.name for path in manifest_path(folder, COMMIT).parent.iterdir()] == [
        f"{COMMIT}.json"
    ]


@pytest.mark.slow
def test_a_whole_snapshot_on_a_full_disk_is_whole_without_a_manifest(tiny_disk: Path) -> None:
    stored = store(tiny_disk, model_files())
    with pytest.raises(OSError, match="No space"):
        fill(tiny_disk / "filler")
    found = verify_snapshot(stored, How(by="ada", now=0.0))
    assert (found.whole, found.manifest) == (True, "not written")
    assert "No space left on device" in found.manifest_note
    assert not list(tiny_disk.rglob("*.json.*"))
    (tiny_disk / "filler").unlink()
    assert verify_snapshot(stored, How(by="ada", now=0.0)).manifest == "written"
