"""Archives of snapshots: there and back, and everything that must be refused."""

from __future__ import annotations

import errno
import grp
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.access import prepare_repository_folder, prepare_store_folder
from hpcvlm.snapshots.archive.archive import Progress, contents_of, verified_manifest, write_tar
from hpcvlm.snapshots.archive.archived_manifest import (
    MANIFEST_MEMBER,
    manifest_bytes,
    manifest_from,
)
from hpcvlm.snapshots.archive.importing import Imported, Target, import_archive
from hpcvlm.snapshots.archive.squashfs_tools import cat_member, make_image
from hpcvlm.snapshots.archive.unpack import TarArchive, open_archive
from hpcvlm.snapshots.manifest import manifest_digest, read_manifest, write_manifest
from hpcvlm.snapshots.model import Manifest, ManifestFile, StoredSnapshot
from hpcvlm.snapshots.store import scan_repository
from tests.command import open_way_to
from tests.verify_fixtures import COMMIT, REPO, SHARDS, flip, model_files, plain, store

FOLDER = "models--org--m"
ODD = "sub dir/ünïcode [1]*?.txt"
LARGE = SHARDS[0]

# Some group that this process is not in by itself.
GROUP = next(group for group in grp.getgrall() if group.gr_gid not in {0, 65534, os.getgid()})

needs_squashfs = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="needs mksquashfs and unsquashfs"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount and change users")


def silent(_: Progress) -> None:
    pass


def files() -> dict[str, bytes]:
    long = "/".join(["deep" * 15] * 4) + "/a.json"  # longer than ustar's 100 characters
    return {**model_files(), ODD: b"odd", "empty.txt": b"", long: b"{}", "-dash.txt": b"-"}


def stored(cache: Path, content: dict[str, bytes] | None = None) -> StoredSnapshot:
    store(cache, files() if content is None else content)
    return scan_repository(cache / FOLDER).snapshots[0]


@pytest.fixture
def source(tmp_path: Path) -> StoredSnapshot:
    return stored(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "store", "group", None, None, 5.0, "ada")


def tar_of(snapshot: StoredSnapshot, path: Path) -> Path:
    with path.open("wb") as stream:
        sha256 = write_tar(contents_of(snapshot), stream, silent)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return path


def image_of(snapshot: StoredSnapshot, path: Path) -> Path:
    with make_image(path) as taking:
        write_tar(contents_of(snapshot), taking, silent)
    return path


MAKERS = [
    pytest.param(tar_of, id="tar"),
    pytest.param(image_of, id="squashfs", marks=needs_squashfs),
]
Maker = Callable[[StoredSnapshot, Path], Path]


def bring(path: Path, target: Target) -> Imported:
    with open_archive(path) as archive:
        return import_archive(archive, target, silent)


def bring_pipe(content: bytes, target: Target) -> Imported:
    return import_archive(TarArchive(io.BytesIO(content), "stdin"), target, silent)


def refused(path: Path, target: Target, code: str = "archive-invalid") -> str:
    with pytest.raises(HpcvlmError) as caught:
        bring(path, target)
    assert caught.value.code == code
    nothing_looks_whole(target)
    return caught.value.sentence


def nothing_looks_whole(target: Target) -> None:
    snapshots = target.cache / FOLDER / "snapshots"
    assert not snapshots.exists() or list(snapshots.iterdir()) == []
    assert not list((target.cache / FOLDER).rglob("*.incomplete"))


def untouched(target: Target) -> None:
    assert not (target.cache / FOLDER).exists()


def content_of(snapshot: Path) -> dict[str, bytes]:
    found = [path for path in snapshot.rglob("*") if path.is_file()]
    return {str(path.relative_to(snapshot)): path.read_bytes() for path in found}


# There and back.


@pytest.mark.parametrize("make", MAKERS)
def test_a_round_trip_gives_the_same_store(
    make: Maker, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    done = bring(make(source, tmp_path / "file"), replace(target, ref="main"))
    assert content_of(done.path) == files()
    theirs, ours = (
        scan_repository(tmp_path / "source" / FOLDER),
        scan_repository(done.path.parents[1]),
    )
    assert ours.refs == theirs.refs == {"main": COMMIT}
    assert sorted(ours.blobs) == sorted(theirs.blobs)
    links = [(file.path, file.link) for file in ours.snapshots[0].files]
    assert links == [(file.path, file.link) for file in theirs.snapshots[0].files]
    assert not ours.problems
    assert done.written == done.size == sum(map(len, files().values()))


@pytest.mark.parametrize("make", MAKERS)
def test_the_store_keeps_a_manifest_of_the_import(
    make: Maker, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    done = bring(make(source, tmp_path / "file"), target)
    manifest = read_manifest(done.path.parents[1], COMMIT)
    assert manifest is not None
    assert (manifest.by, manifest.created, manifest_digest(manifest)) == ("ada", 5.0, done.digest)
    assert manifest.files == contents_of(source).manifest.files


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_snapshot_is_the_same_archive(
    make: Maker, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    first = make(source, tmp_path / "first").read_bytes()
    os.utime(source.path / LARGE, (1, 1))
    (source.path / LARGE).resolve().chmod(0o600)
    manifest = verified_manifest(contents_of(source), 99.0, "grace")
    write_manifest(source.path.parents[1], manifest)
    assert make(source, tmp_path / "second").read_bytes() == first
    done = bring(tmp_path / "first", target)
    again = scan_repository(done.path.parents[1]).snapshots[0]
    assert make(again, tmp_path / "third").read_bytes() == first


def test_huggingface_hub_finds_what_was_imported(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download

    done = bring(tar_of(source, tmp_path / "a.tar"), replace(target, ref="main"))
    found = snapshot_download(REPO, cache_dir=target.cache, local_files_only=True)
    assert Path(found) == done.path
    scanned = scan_cache_dir(target.cache)
    assert not scanned.warnings
    assert [repo.repo_id for repo in scanned.repos] == [REPO]
    assert scanned.size_on_disk == done.size - len(files()["empty.txt"])


def test_a_tar_needs_no_hpcvlm(source: StoredSnapshot, tmp_path: Path) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True)
    found = content_of(tmp_path / "out")
    manifest = manifest_from(found.pop(MANIFEST_MEMBER))
    assert found == files()
    assert manifest.repo == REPO
    modes = {path.stat().st_mode & 0o7777 for path in (tmp_path / "out").rglob("*.json")}
    assert modes <= {0o644, 0o600, 0o640}


def test_a_pipe_is_as_good_as_a_file(source: StoredSnapshot, target: Target) -> None:
    reading, writing = os.pipe()

    def send() -> None:
        with os.fdopen(writing, "wb") as stream:
            write_tar(contents_of(source), stream, silent)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(reading, "rb") as stream:
        done = import_archive(TarArchive(stream, "stdin"), target, silent)
        while stream.read(65536):
            pass
    sender.join()
    assert content_of(done.path) == files()


def test_a_compressed_tar_is_taken(source: StoredSnapshot, target: Target, tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(tar_of(source, tmp_path / "a.tar").read_bytes()))
    assert content_of(bring(packed, target).path) == files()


def test_progress_counts_to_the_end(source: StoredSnapshot, tmp_path: Path) -> None:
    steps: list[Progress] = []
    contents = contents_of(source)
    write_tar(contents, io.BytesIO(), steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total == contents.size


# Export never exports a broken one.


def not_exported(snapshot: StoredSnapshot, code: str = "snapshot-damaged") -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        write_tar(contents_of(snapshot), io.BytesIO(), silent)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("name", [LARGE, "config.json"])
@pytest.mark.parametrize("verified", [True, False])
def test_a_flipped_byte_is_not_exported(
    source: StoredSnapshot, name: str, *, verified: bool
) -> None:
    if verified:
        write_manifest(source.path.parents[1], verified_manifest(contents_of(source), 1.0, "x"))
    flip(source, name)
    error = not_exported(source)
    assert name in error.sentence
    assert "--repair" in error.remedy


def test_a_truncated_file_is_not_exported(source: StoredSnapshot) -> None:
    contents = contents_of(source)
    os.truncate(source.path / LARGE, 100)
    with pytest.raises(HpcvlmError, match=rf"{LARGE}: ends after 100 of \d+ bytes"):
        write_tar(contents, io.BytesIO(), silent)


def test_a_file_that_grows_is_not_exported(source: StoredSnapshot) -> None:
    contents = contents_of(source)
    with (source.path / LARGE).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(HpcvlmError, match=rf"{LARGE}: is longer than"):
        write_tar(contents, io.BytesIO(), silent)


def test_a_missing_shard_is_not_exported(tmp_path: Path) -> None:
    content = model_files()
    del content[SHARDS[1]]
    assert SHARDS[1] in not_exported(stored(tmp_path, content)).sentence


def test_a_broken_link_is_not_exported(source: StoredSnapshot) -> None:
    (source.path / "config.json").resolve().unlink()
    broken = scan_repository(source.path.parents[1]).snapshots[0]
    assert "config.json" in not_exported(broken).sentence


def test_a_file_that_nobody_verified_is_not_exported(source: StoredSnapshot) -> None:
    write_manifest(source.path.parents[1], verified_manifest(contents_of(source), 1.0, "x"))
    (source.path / "added.py").write_text("import os")
    added = scan_repository(source.path.parents[1]).snapshots[0]
    assert "added.py" in not_exported(added).sentence


def test_plain_files_are_exported_once_they_are_verified(tmp_path: Path, target: Target) -> None:
    plain(tmp_path, model_files())
    snapshot = scan_repository(tmp_path / FOLDER).snapshots[0]
    error = not_exported(snapshot, "snapshot-unverified")
    assert "verify" in error.remedy
    hashes = {
        name: ManifestFile(len(content), hashlib.sha256(content).hexdigest())
        for name, content in model_files().items()
    }
    write_manifest(tmp_path / FOLDER, Manifest(REPO, COMMIT, hashes, 1.0, "x", "hub"))
    done = bring(tar_of(snapshot, tmp_path / "a.tar"), target)
    assert content_of(done.path) == model_files()


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv")
def test_an_export_does_not_look_like_a_use(source: StoredSnapshot) -> None:
    blob = (source.path / LARGE).resolve()
    os.utime(blob, (1, 1))  # older than its last change: relatime would update it
    write_tar(contents_of(source), io.BytesIO(), silent)
    assert blob.stat().st_atime == 1


# Archives that are not as they were exported.


def test_a_truncated_tar_is_refused_before_anything_changes(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    whole = path.stat().st_size
    for part in (whole * 3 // 4, whole // 2, whole // 4):
        os.truncate(path, part)
        assert "cut short" in refused(path, target)
        untouched(target)


def test_a_truncated_pipe_leaves_nothing_that_looks_whole(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    content = tar_of(source, tmp_path / "a.tar").read_bytes()
    for part in range(0, len(content) - 12000, 1777):
        with pytest.raises(HpcvlmError) as caught:
            bring_pipe(content[:part], target)
        assert caught.value.code == "archive-invalid"
        nothing_looks_whole(target)
    assert bring(tmp_path / "a.tar", target).written < len(content)


@needs_squashfs
def test_a_truncated_image_is_refused(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = image_of(source, tmp_path / "a.sqsh")
    size = path.stat().st_size
    for part in (size // 2, 60, 30, 4):
        os.truncate(path, part)
        assert "cut short" in refused(path, target)
    untouched(target)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", [LARGE, "config.json"])
def test_a_flipped_byte_is_told_with_its_file(
    make: Maker, name: str, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = make(source, tmp_path / "file")
    content = bytearray(path.read_bytes())
    at = content.index(files()[name]) + len(files()[name]) - 1
    content[at] ^= 1
    path.write_bytes(content)
    sentence = refused(path, target)
    assert repr(name) in sentence
    assert "altered" in sentence


def rebuilt(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The archive with other members."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    with tarfile.open(path) as tar:
        for header in tar:
            stream = tar.extractfile(header)
            members.append((header, stream.read() if stream else b""))
    change(members)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in members:
            tar.addfile(header, io.BytesIO(content))
    return path


def header(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 4, mode: int = 0o644
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.mode = kind, size if kind == tarfile.REGTYPE else 0, mode
    made.linkname = "/etc/passwd" if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
    return made


EVIL = [
    pytest.param(header("../../evil"), "leads out", id="traversal"),
    pytest.param(header("a/../../evil"), "leads out", id="traversal-inside"),
    pytest.param(header("/tmp/evil"), "leads out", id="absolute"),
    pytest.param(header("evil.py"), "does not name it", id="extra"),
    pytest.param(header(".hpcvlm/evil"), "does not name it", id="own-folder"),
    pytest.param(header("config.json", tarfile.SYMTYPE), "symbolic link", id="symlink"),
    pytest.param(header("config.json", tarfile.LNKTYPE), "hard link", id="hardlink"),
    pytest.param(header("config.json", tarfile.CHRTYPE), "device", id="device"),
    pytest.param(header("config.json", tarfile.FIFOTYPE), "pipe", id="pipe"),
    pytest.param(header("config.json", mode=0o4755), "set-user-ID", id="setuid"),
    pytest.param(header("config.json"), "bytes, must be", id="size"),
    pytest.param(header("evil", tarfile.DIRTYPE), "a folder that holds", id="folder"),
]


@pytest.mark.parametrize(("evil", "words"), EVIL)
@pytest.mark.parametrize("as_pipe", [False, True])
def test_an_evil_member_is_refused(
    evil: tarfile.TarInfo,
    words: str,
    source: StoredSnapshot,
    target: Target,
    tmp_path: Path,
    *,
    as_pipe: bool,
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    rebuilt(path, lambda members: members.insert(3, (evil, b"evil"[: evil.size])))
    if not as_pipe:
        assert words in refused(path, target)
        untouched(target)
        return
    with path.open("rb") as stream, pytest.raises(HpcvlmError, match=words) as caught:
        import_archive(TarArchive(stream, "stdin"), target, silent)
    assert caught.value.code == "archive-invalid"
    nothing_looks_whole(target)
    assert not (tmp_path / "evil").exists()


def test_a_member_that_comes_twice_is_refused(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    rebuilt(path, lambda members: members.append(members[-1]))
    assert "twice" in refused(path, target)
    untouched(target)


def test_a_missing_member_is_named(source: StoredSnapshot, target: Target, tmp_path: Path) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    gone: list[str] = []
    rebuilt(path, lambda members: gone.append(members.pop()[0].name))
    assert gone[0] in refused(path, target)
    untouched(target)


def test_an_archive_without_a_manifest_is_refused(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(header("config.json"), io.BytesIO(b"evil"))
    assert "no manifest" in refused(path, target)
    untouched(target)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 20000, b"\x1f\x8b\x08broken"])
def test_what_is_no_archive_is_refused(content: bytes, target: Target, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", target)
    untouched(target)


def test_a_missing_archive_is_told(target: Target, tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "nope.tar", target, "archive-missing")


def with_manifest(path: Path, text: bytes) -> Path:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        for number, (member, _) in enumerate(members):
            if member.name == MANIFEST_MEMBER:
                member.size = len(text)
                members[number] = (member, text)

    return rebuilt(path, change)


BAD_PATHS = [
    "../evil",
    "/evil",
    "a//b",
    "a/./b",
    ".hpcvlm/x",
    "",
    "new\nline",
    "config.json/x",
    "\0",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_manifest_with_an_evil_path_is_refused(path: str) -> None:
    kept = ManifestFile(0, "a" * 64)
    manifest = Manifest(REPO, COMMIT, {"config.json": kept, path: kept}, 0.0, "", "blobs")
    with pytest.raises(HpcvlmError, match="manifest is damaged"):
        manifest_from(manifest_bytes(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "../../etc"},
        {"repo": "a/b/c"},
        {"commit": "../../../evil"},
        {"schema": 2},
        {"digest": "sha256:" + "0" * 64},
        {"files": {}},
        {"files": []},
        {"files": {"a": {"size": -1, "sha256": "a" * 64, "hub_hash": ""}}},
        {"files": {"a": {"size": 1, "sha256": "../evil", "hub_hash": ""}}},
        {"files": {"a": {"size": 1, "sha256": "a" * 64, "hub_hash": "../../evil"}}},
        {"files": {"a": {"size": 1, "sha256": "a" * 64, "hub_hash": "b" * 64}}},
        {"files": {"a": {"size": 1}}},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_damaged_manifest_is_refused(
    change: dict[str, object], source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    good = json.loads(manifest_bytes(contents_of(source).manifest))
    with_manifest(path, json.dumps({**good, **change}).encode())
    assert "manifest is damaged" in refused(path, target)
    untouched(target)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(
    text: bytes, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    refused(with_manifest(tar_of(source, tmp_path / "a.tar"), text), target)
    untouched(target)


def test_two_hashes_of_different_contents_are_refused(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    contents = contents_of(source)
    changed = dict(contents.manifest.files)
    changed["config.json"] = changed["config.json"]._replace(hub_hash="c" * 40)
    path = tar_of(source, tmp_path / "a.tar")
    with_manifest(path, manifest_bytes(replace(contents.manifest, files=changed)))
    assert "two hashes" in refused(path, target)


@needs_squashfs
@pytest.mark.parametrize(
    ("pseudo", "words"),
    [
        ("evil.py f 644 0 0 echo x", "does not name it"),
        ("evil s 777 0 0 /etc/passwd", "symbolic link"),
        ("evil c 644 0 0 1 3", "device"),
        ("config.json m 4755 0 0", "set-user-ID"),
        ("evil d 755 0 0", "a folder that holds"),
    ],
)
def test_an_evil_image_is_refused(
    pseudo: str, words: str, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True)
    image = tmp_path / "a.sqsh"
    argv = ["mksquashfs", str(tmp_path / "out"), str(image), "-quiet", "-no-progress", "-p", pseudo]
    subprocess.run(argv, check=True, capture_output=True)
    assert words in refused(image, target)
    untouched(target)


@needs_squashfs
def test_an_image_without_a_manifest_is_refused(target: Target, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text("{}")
    argv = ["mksquashfs", str(tmp_path / "in"), str(tmp_path / "a.sqsh"), "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, capture_output=True)
    assert "no manifest" in refused(tmp_path / "a.sqsh", target)


@needs_squashfs
def test_a_missing_unsquashfs_says_that_the_image_can_be_served(
    source: StoredSnapshot, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_of(source, tmp_path / "a.sqsh")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HpcvlmError) as caught:
        bring(path, target)
    assert caught.value.code == "tool-missing"
    assert "snapshot: {path:" in caught.value.remedy


@needs_squashfs
def test_a_failing_mksquashfs_is_told(source: StoredSnapshot, tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError, match="mksquashfs could not write"):
        image_of(source, tmp_path / "no" / "folder.sqsh")


@needs_squashfs
def test_a_member_that_is_not_there_is_told(source: StoredSnapshot, tmp_path: Path) -> None:
    path = image_of(source, tmp_path / "a.sqsh")
    with (
        pytest.raises(HpcvlmError, match="cannot be read"),
        cat_member(path, "nope") as stream,
    ):
        assert stream.read(1) == b""


# The store as it is found.


def test_a_snapshot_that_is_there_is_left_alone(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    first = bring(path, target)
    before = {p: p.lstat().st_mtime_ns for p in target.cache.rglob("*")}
    again = bring(path, target)
    assert (first.already, again.already, again.written) == (False, True, 0)
    assert {p: p.lstat().st_mtime_ns for p in target.cache.rglob("*")} == before


@pytest.mark.parametrize("change", ["gone", "other", "cut", "broken"])
def test_a_snapshot_that_is_there_and_different_is_refused(
    change: str, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    there = bring(path, target).path / "config.json"
    blob = there.resolve()
    if change == "gone":
        there.unlink()
    elif change == "cut":
        os.truncate(blob, 3)
    elif change == "broken":
        blob.unlink()
    else:
        there.unlink()
        there.symlink_to((there.parent / "tokenizer.json").readlink())
    before = sorted(target.cache.rglob("*"))
    with pytest.raises(HpcvlmError) as caught:
        bring(path, target)
    assert caught.value.code == "snapshot-differs"
    assert "config.json" in caught.value.sentence
    assert sorted(target.cache.rglob("*")) == before


def test_a_ref_is_set_only_when_asked_for(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    assert bring(path, target).refs == ()
    assert bring(path, replace(target, ref="refs/pr/1")).refs == ("refs/pr/1",)
    ref = target.cache / FOLDER / "refs" / "main"
    ref.write_text("e" * 40)
    moved = bring(path, replace(target, ref="main"))
    assert (moved.moved_from, moved.refs) == ("e" * 40, ("main", "refs/pr/1"))
    assert ref.read_text() == COMMIT


@pytest.mark.parametrize("ref", ["../main", "/main", "", "a\nb", "a//b"])
def test_a_ref_that_is_none_is_refused(
    ref: str, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    refused(tar_of(source, tmp_path / "a.tar"), replace(target, ref=ref), "name-invalid")
    untouched(target)


def test_a_right_blob_is_used_and_a_wrong_one_replaced(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    blobs = target.cache / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    right, wrong = (source.path / LARGE).resolve(), (source.path / SHARDS[1]).resolve()
    shutil.copy(right, blobs)
    (blobs / wrong.name).write_bytes(b"x" * wrong.stat().st_size)
    inode = (blobs / right.name).stat().st_ino
    done = bring(tar_of(source, tmp_path / "a.tar"), target)
    assert done.replaced == (wrong.name,)
    assert (blobs / right.name).stat().st_ino == inode
    assert done.written == done.size - right.stat().st_size
    assert content_of(done.path) == files()


def test_an_import_that_broke_off_goes_on(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    blobs = target.cache / FOLDER / "blobs"
    for part in (20_000, 24_000):
        with pytest.raises(HpcvlmError, match="cut short"):
            bring_pipe(path.read_bytes()[:part], target)
    (blobs / "left.1234.import.incomplete").write_bytes(b"by a kill")
    kept = sum(blob.stat().st_size for blob in blobs.iterdir()) - len(b"by a kill")
    done = bring(path, target)
    assert done.written == done.size - kept
    assert kept > 0
    assert not list(blobs.glob("*.incomplete"))


def test_a_second_import_at_once_is_refused(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    codes: list[str] = []

    def second(_: Progress) -> None:
        if not codes:
            with pytest.raises(HpcvlmError) as caught:
                bring(path, target)
            codes.append(caught.value.code)

    with open_archive(path) as archive:
        done = import_archive(archive, target, second)
    assert codes == ["store-busy"]
    assert content_of(done.path) == files()


# Who may read it.

MODES = [("group", 0o2750, 0o640), ("world", 0o2755, 0o644), ("private", 0o700, 0o600)]


@pytest.mark.parametrize(("access", "folder", "file"), MODES)
def test_what_is_imported_has_the_modes_of_the_store(
    access: str, folder: int, file: int, source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    before = os.umask(0o002)
    try:
        bring(tar_of(source, tmp_path / "a.tar"), replace(target, access=access, ref="main"))
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
    for path in (target.cache, *target.cache.rglob("*")):
        if not path.is_symlink():
            wanted = folder if path.is_dir() else file
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@needs_root
def test_a_new_repository_gets_the_group_of_the_site(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    bring(tar_of(source, tmp_path / "a.tar"), replace(target, group=GROUP.gr_name))
    groups = {path.lstat().st_gid for path in target.cache.rglob("*")}
    assert groups == {GROUP.gr_gid}


@needs_root
def test_a_new_repository_gets_the_group_of_its_cache(tmp_path: Path) -> None:
    prepare_store_folder(tmp_path / "hub", "group", None)
    os.chown(tmp_path / "hub", -1, GROUP.gr_gid)
    (tmp_path / "hub").chmod(0o750)
    prepare_repository_folder(tmp_path / "hub" / FOLDER, "group", None)
    status = (tmp_path / "hub" / FOLDER).stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (GROUP.gr_gid, 0o2750)
    assert stat.S_IMODE((tmp_path / "hub").stat().st_mode) == 0o750


def test_an_unknown_group_is_told(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError, match=r"store\.group: there is no group nobodies") as caught:
        prepare_store_folder(tmp_path / "hub", "group", "nobodies")
    assert caught.value.code == "setting-invalid"
    assert not (tmp_path / "hub").exists()


def test_a_file_where_the_store_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "hub"):
        with pytest.raises(HpcvlmError) as caught:
            prepare_store_folder(path, "group", None)
        assert caught.value.code == "store-unwritable"


def as_nobody(work: Callable[[], None]) -> int:
    """Exit code of a child of another user: 0 when `work` returned."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()  # newer Pythons warn where there are threads; the child starts none
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_root
def test_a_group_that_one_is_not_in_is_told(tmp_path: Path) -> None:
    open_way_to(tmp_path)
    tmp_path.chmod(0o777)

    def work() -> None:
        with pytest.raises(HpcvlmError, match=f"you may not give it to the group {GROUP.gr_name}"):
            prepare_store_folder(tmp_path / "hub", "group", GROUP.gr_name)

    assert as_nobody(work) == 0
    assert not (tmp_path / "hub").exists()


@needs_root
def test_an_inherited_group_keeps_its_bit(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    os.chown(hub, 65534, GROUP.gr_gid)
    hub.chmod(0o2750)
    open_way_to(tmp_path)

    assert as_nobody(lambda: prepare_repository_folder(hub / FOLDER, "group", None)) == 0
    status = (hub / FOLDER).stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (GROUP.gr_gid, 0o2750)


@needs_root
def test_a_store_of_somebody_else_is_refused(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    path.chmod(0o644)
    target.cache.mkdir(mode=0o755)
    open_way_to(tmp_path)

    def work() -> None:
        assert "you may not write" in refused(path, target, "store-unwritable")

    assert as_nobody(work) == 0
    assert list(target.cache.iterdir()) == []


@needs_root
def test_a_folder_that_one_may_not_enter_is_told(
    source: StoredSnapshot, target: Target, tmp_path: Path
) -> None:
    path = tar_of(source, tmp_path / "a.tar")
    path.chmod(0o644)
    target.cache.mkdir(mode=0o700)
    open_way_to(tmp_path)

    def work() -> None:
        for cache in (target.cache, target.cache / "below" / "it"):
            with pytest.raises(HpcvlmError) as caught:
                bring(path, replace(target, cache=cache))
            assert caught.value.code == "store-unwritable"
            with pytest.raises(HpcvlmError):
                prepare_store_folder(cache / "more", "group", None)

    assert as_nobody(work) == 0


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", folder], check=True)


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_a_store_without_room_is_refused_first(
    make: Maker,
    source: StoredSnapshot,
    target: Target,
    mounted: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    disk = mounted("size=64k")
    path = make(source, tmp_path / "file")
    sentence = refused(path, replace(target, cache=disk / "hub"), "store-space")
    assert "are needed" in sentence
    assert list(disk.iterdir()) == []


@needs_root
@pytest.mark.slow
def test_a_store_without_inodes_is_refused_first(
    source: StoredSnapshot, target: Target, mounted: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = mounted("nr_inodes=20")
    path = tar_of(source, tmp_path / "a.tar")
    refused(path, replace(target, cache=disk / "hub"), "store-inodes")
    assert list(disk.iterdir()) == []


def fill_up(path: Path) -> None:
    with path.open("wb", 0) as stream:
        while stream.write(bytes(100_000)):
            pass


@needs_root
@pytest.mark.slow
def test_a_store_that_fills_up_meanwhile_is_told(
    target: Target, mounted: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = mounted("size=12m")
    content = {**model_files(), "z.bin": bytes(4_000_000), "y.bin": b"y" * 1_000_000}
    path = tar_of(stored(tmp_path / "source", content), tmp_path / "a.tar")
    filled = False

    def fill(step: Progress) -> None:
        nonlocal filled
        if not filled and step.name == "z.bin":
            filled = True
            with pytest.raises(OSError, match="No space"):
                fill_up(disk / "fill")

    aimed = replace(target, cache=disk / "hub")
    with open_archive(path) as archive, pytest.raises(HpcvlmError) as caught:
        import_archive(archive, aimed, fill)
    assert caught.value.code == "store-space"
    nothing_looks_whole(aimed)
    (disk / "fill").unlink()
    done = bring(path, aimed)
    assert content_of(done.path) == content
    assert done.written < 5_000_000  # y.bin was kept


@needs_root
@pytest.mark.slow
def test_a_read_only_store_is_refused(
    source: StoredSnapshot, target: Target, mounted: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = mounted("ro")
    path = tar_of(source, tmp_path / "a.tar")
    refused(path, replace(target, cache=disk / "hub"), "store-unwritable")


@needs_root
@pytest.mark.slow
@needs_squashfs
def test_an_image_that_does_not_fit_is_told(
    source: StoredSnapshot, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("size=8k")
    with pytest.raises(HpcvlmError) as caught:
        image_of(source, disk / "a.sqsh")
    assert caught.value.code == "export-failed"


def test_a_full_disk_has_its_own_words() -> None:
    from hpcvlm.snapshots.archive.importing import _os_error

    full = _os_error(Path("/store"), OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert (full.code, "quota" in full.sentence) == ("store-space", True)
