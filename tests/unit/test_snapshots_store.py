"""What lies in hub caches: whole, shared, broken in every way, vanishing, of other users."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcvlm.snapshots.listing.completeness import look_at
from hpcvlm.snapshots.listing.summary import (
    Summary,
    disk_use,
    keeps_access_times,
    summaries_of,
    summarise,
)
from hpcvlm.snapshots.manifest import write_listing, write_manifest
from hpcvlm.snapshots.model import ListedFile, Manifest, ManifestFile
from hpcvlm.snapshots.store import (
    cache_problem,
    find_stored,
    matching,
    only_stored,
    scan_cache,
    scan_caches,
    scan_named,
    scan_repository,
)
from tests.hub_store import (
    COMMIT_A,
    COMMIT_B,
    COMMIT_C,
    NOBODY,
    TREES,
    add_snapshot,
    as_nobody,
    grow,
    index_of,
    repository,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
SHARD_1, SHARD_2, SHARD_3 = b"1" * 100, b"2" * 200, b"3" * 400


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two commits of org/m that share one shard of 100 bytes."""
    hub = tmp_path / "hub"
    files = {"a-1.safetensors": SHARD_1, "a-2.safetensors": SHARD_2}
    add_snapshot(hub, "org/m", COMMIT_A, files, ref="v1")
    files = {"a-1.safetensors": SHARD_1, "a-2.safetensors": SHARD_3}
    add_snapshot(hub, "org/m", COMMIT_B, files, ref="main")
    return hub


def only(cache: Path) -> Summary:
    (summary,) = summarise([cache])
    return summary


def missing(cache: Path) -> tuple[str, ...]:
    return only(cache).state.missing


def problems(cache: Path) -> tuple[str, ...]:
    (found,) = scan_cache(cache)
    return found.problems


# ---- sizes ------------------------------------------------------------------------------------


def test_a_blob_that_two_commits_share_is_counted_once(cache: Path) -> None:
    first, second = summarise([cache])
    assert (first.size, first.own) == (300, 200)
    assert (second.size, second.own) == (500, 400)
    assert first.repository.size == 700
    assert disk_use([first.repository]) == 700


def test_two_names_of_one_blob_in_a_snapshot_are_counted_once(tmp_path: Path) -> None:
    add_snapshot(tmp_path, "org/m", COMMIT_A, {"a.safetensors": SHARD_1, "b.bin": SHARD_1})
    found = only(tmp_path)
    assert found.snapshot is not None
    assert [file.path for file in found.snapshot.files] == ["a.safetensors", "b.bin"]
    assert (found.size, found.own) == (100, 100)


def test_a_link_that_is_not_written_as_usual_leads_to_the_same_blob(cache: Path) -> None:
    place = cache / "models--org--m" / "snapshots" / COMMIT_B / "a-1.safetensors"
    target = place.resolve()
    place.unlink()
    place.symlink_to(target)
    assert [one.own for one in summarise([cache])] == [200, 400]


def test_a_cache_that_is_named_twice_is_read_once(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(cache)
    assert [one.repo for one in scan_caches([cache, tmp_path / "other", cache])] == ["org/m"]


def test_unfinished_downloads_are_no_blobs(cache: Path) -> None:
    (cache / "models--org--m" / "blobs" / "abc.incomplete").write_bytes(b"12345")
    (found,) = scan_cache(cache)
    assert [blob.size for blob in found.incomplete] == [5]
    assert len(found.blobs) == 3
    assert found.size == 705


# ---- refs and revisions -----------------------------------------------------------------------


def test_refs_may_lie_deeper(cache: Path) -> None:
    (cache / "models--org--m" / "refs" / "refs" / "pr").mkdir(parents=True)
    (cache / "models--org--m" / "refs" / "refs" / "pr" / "1").write_text(f"{COMMIT_A}\n")
    (found,) = scan_cache(cache)
    assert found.refs == {"main": COMMIT_B, "v1": COMMIT_A, "refs/pr/1": COMMIT_A}
    assert found.snapshots[0].refs == ("refs/pr/1", "v1")
    assert found.problems == ()


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("main", COMMIT_B), ("v1", COMMIT_A), (COMMIT_A, COMMIT_A), ("b" * 7, COMMIT_B)],
)
def test_a_snapshot_is_found_by_ref_and_commit(cache: Path, revision: str, commit: str) -> None:
    found = find_stored(scan_named([cache], "ORG/M"), "Org/m", revision)
    assert found is not None
    assert found.commit == commit


def test_the_beginning_of_two_commits_names_neither(cache: Path) -> None:
    add_snapshot(cache, "org/m", "a" * 39 + "b", {"x.safetensors": SHARD_1})
    repositories = scan_cache(cache)
    assert find_stored(repositories, "org/m", "a" * 39) is None
    assert len(matching(repositories, "org/m", "a" * 39)) == 2
    assert find_stored(repositories, "org/m", "b" * 6) is None


# ---- complete or not --------------------------------------------------------------------------


def test_a_shard_that_the_index_names_is_missing(tmp_path: Path) -> None:
    files = {
        "model.safetensors.index.json": index_of("m-1.safetensors", "m-2.safetensors"),
        "m-1.safetensors": SHARD_1,
        "sub/x.safetensors.index.json": index_of("x-1.safetensors"),
    }
    add_snapshot(tmp_path, "org/m", COMMIT_A, files)
    assert missing(tmp_path) == (
        "m-2.safetensors: named in the index, not on disk",
        "sub/x-1.safetensors: named in the index, not on disk",
    )


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"weight_map": 3}', b"\xff", b"[" * 100_000])
def test_an_index_that_is_none(tmp_path: Path, text: bytes) -> None:
    files = {"model.safetensors.index.json": text, "m.safetensors": SHARD_1}
    add_snapshot(tmp_path, "org/m", COMMIT_A, files)
    assert missing(tmp_path) == ("model.safetensors.index.json: is no index of shards",)


def test_a_link_without_its_blob(cache: Path) -> None:
    link = cache / "models--org--m" / "snapshots" / COMMIT_B / "a-2.safetensors"
    link.resolve().unlink()
    first, second = summarise([cache])
    assert first.complete
    assert second.state.missing == (f"a-2.safetensors: its blob is missing ({link.readlink()})",)
    assert second.size == 100


def test_the_only_commit_needs_no_name(tmp_path: Path) -> None:
    files = {"m.safetensors": SHARD_1}
    assert only_stored(scan_cache(tmp_path)) is None
    add_snapshot(tmp_path / "one", "org/m", COMMIT_A, files)
    add_snapshot(tmp_path / "two", "org/m", COMMIT_A, files)
    copies = [*scan_cache(tmp_path / "one"), *scan_cache(tmp_path / "two")]
    assert only_stored(copies) is copies[0].snapshots[0]
    add_snapshot(tmp_path / "two", "org/m", COMMIT_B, files)
    assert only_stored(scan_cache(tmp_path / "two")) is None


@needs_root
def test_a_blob_that_one_may_not_read_is_not_called_missing(cache: Path) -> None:
    (cache / "models--org--m" / "blobs").chmod(0o700)
    code = (
        "from pathlib import Path\n"
        "from hpcvlm.snapshots.listing.summary import summarise\n"
        f"print([*summarise([Path({str(cache)!r})])][1].state.missing)"
    )
    told = as_nobody(cache, code)
    assert "a-2.safetensors: not readable (Permission denied)" in told
    assert "its blob is missing" not in told


def test_a_snapshot_without_weights(tmp_path: Path) -> None:
    add_snapshot(tmp_path, "org/m", COMMIT_A, {"config.json": b"{}"})
    assert missing(tmp_path) == ("no weights are here",)


def test_what_was_to_be_pulled_and_what_was_verified(cache: Path) -> None:
    folder = cache / "models--org--m"
    listed = [ListedFile("a-1.safetensors", 100, ""), ListedFile("config.json", 7, "")]
    write_listing(folder, COMMIT_A, listed)
    kept = {"a-1.safetensors": ManifestFile(101, "0" * 64)}
    manifest = Manifest("org/m", COMMIT_B, kept, 1e9, "ada", "hub")
    write_manifest(folder, manifest)
    first, second = summarise([cache])
    assert first.state.missing == ("config.json: not on disk, 7 bytes on the hub",)
    assert second.state.missing == ("a-1.safetensors: 100 bytes on disk, 101 when it was verified",)
    assert second.state.manifest is not None
    assert second.state.manifest.by == "ada"


def test_a_damaged_manifest_is_told(cache: Path) -> None:
    folder = cache / "models--org--m"
    (folder / ".hpcvlm" / "manifests").mkdir(parents=True)
    (folder / ".hpcvlm" / "manifests" / f"{COMMIT_A}.json").write_text("{")
    (first, _) = summarise([cache])
    assert "the manifest is damaged" in first.state.missing[0]
    assert first.state.manifest is None


def test_named_pipes_instead_of_what_hpcvlm_keeps(cache: Path) -> None:
    folder = cache / "models--org--m" / ".hpcvlm"
    for name in ("manifests", "listings"):
        (folder / name).mkdir(parents=True)
        os.mkfifo(folder / name / f"{COMMIT_A}.json")
    (first, _) = summarise([cache])
    (told,) = first.state.missing
    assert told.endswith("the manifest cannot be read (no plain file)")


# ---- broken in every way ----------------------------------------------------------------------


def test_files_where_folders_should_be(tmp_path: Path) -> None:
    (tmp_path / "models--org--file").write_text("")
    (tmp_path / "models--org--inside").mkdir()
    for name in ("blobs", "refs", "snapshots"):
        (tmp_path / "models--org--inside" / name).write_text("")
    repository(tmp_path, "org/snapshot")
    (tmp_path / "models--org--snapshot" / "snapshots" / COMMIT_A).write_text("")
    (tmp_path / "models--org--empty").mkdir()
    found = {one.repo: one.problems for one in scan_cache(tmp_path)}
    assert found == {
        "org/file": ("is no folder",),
        "org/inside": (
            "blobs: Not a directory",
            "refs: Not a directory",
            "snapshots: Not a directory",
            "holds no snapshot",
        ),
        "org/snapshot": (f"snapshots/{COMMIT_A}: is no folder", "holds no snapshot"),
        "org/empty": ("holds no snapshot",),
    }


def test_refs_that_are_folders_or_lead_nowhere(cache: Path) -> None:
    refs = cache / "models--org--m" / "refs"
    (refs / "main").unlink()
    (refs / "main").mkdir()
    (refs / "gone").write_text(COMMIT_C)
    (refs / "empty").write_text("")
    (refs / "dangling").symlink_to("nowhere")
    (refs / "\udcff").write_bytes(b"\xff\xfe")
    os.mkfifo(refs / "pipe")
    found = problems(cache)
    assert "refs/main: is an empty folder, expected a file" in found
    assert f"refs/gone: names {COMMIT_C}, which is not here" in found
    assert "refs/empty: names nothing, which is not here" in found
    assert "refs/pipe: names nothing, which is not here" in found
    assert "refs/dangling: links to a file that is not there" in found
    assert any(line.startswith("refs/\udcff: names") for line in found)
    assert len(summarise([cache])) == 2


def test_links_in_circles_to_folders_and_to_nothing(cache: Path, tmp_path: Path) -> None:
    folder = cache / "models--org--m"
    place = folder / "snapshots" / COMMIT_A
    (place / "circle").symlink_to("circle")
    (place / "folder").symlink_to(tmp_path)
    (folder / "snapshots" / COMMIT_C).symlink_to(COMMIT_C)
    (folder / "blobs" / "dangling").symlink_to("nowhere")
    (folder / "blobs" / "folder").mkdir()
    (cache / "models--org--dangling").symlink_to("nowhere")
    (cache / "models--org--circle").symlink_to("models--org--circle")
    by_name = {one.repo: one for one in scan_cache(cache)}
    found = by_name["org/m"].problems
    assert f"snapshots/{COMMIT_C}: is no folder" in found
    assert f"snapshots/{COMMIT_A}/folder: is a folder, expected a file" in found
    assert "blobs/dangling: links to a file that is not there" in found
    assert "blobs/folder: is a folder, expected a file" in found
    assert by_name["org/dangling"].problems == ("No such file or directory",)
    assert "ymbolic links" in by_name["org/circle"].problems[0]
    first = next(iter(summaries_of(by_name["org/m"])))
    assert "circle: its blob is missing (circle)" in first.state.missing
    assert "folder: its blob is missing" in " ".join(first.state.missing)


def test_names_that_are_no_text_and_files_that_are_none(tmp_path: Path) -> None:
    place = add_snapshot(tmp_path, "org/m", COMMIT_A, {"a.safetensors": SHARD_1})
    bad = os.fsdecode(b"\xff\n\x1b[31m")
    (place / bad).write_bytes(b"12")
    os.mkfifo(place / "pipe.index.json")
    with socket.socket(socket.AF_UNIX) as server:
        short = Path(tempfile.mkdtemp(dir="/tmp"))
        server.bind(str(short / "s"))
        (short / "s").rename(place / "socket")
    short.rmdir()
    found = only(tmp_path)
    assert found.snapshot is not None
    sizes = {file.path: file.blob and file.blob.size for file in found.snapshot.files}
    assert sizes == {"a.safetensors": 100, bad: 2, "pipe.index.json": None, "socket": None}
    assert found.state.missing == (
        "pipe.index.json: is no file that can be read",
        "socket: is no file that can be read",
    )


@needs_root
def test_what_another_user_may_not_read_is_told(cache: Path, tmp_path: Path) -> None:
    add_snapshot(cache, "org/other", COMMIT_A, {"x.safetensors": SHARD_1})
    add_snapshot(cache, "org/refs", COMMIT_A, {"x.safetensors": SHARD_1}, ref="main")
    (cache / "models--org--m").chmod(0o700)
    (cache / "models--org--other" / "blobs").chmod(0o700)
    (cache / "models--org--refs" / "refs" / "main").chmod(0o600)
    code = (
        "from pathlib import Path\nfrom hpcvlm.snapshots.listing.summary import summarise\n"
        f"for one in summarise([Path({str(cache)!r})]):\n"
        "    print(one.repository.repo, one.repository.problems, one.state.missing)\n"
    )
    done = as_nobody(tmp_path, code)
    m, other, refs = done.splitlines()
    assert m == (
        "org/m ('blobs: Permission denied', 'refs: Permission denied', "
        "'snapshots: Permission denied', 'holds no snapshot') ()"
    )
    assert "org/other ('blobs: Permission denied'" in other
    assert "refs/main: Permission denied" in refs


# ---- vanishing --------------------------------------------------------------------------------


def test_what_vanishes_during_the_scan_is_no_error(cache: Path) -> None:
    for number in range(20):
        add_snapshot(cache, f"org/n{number}", COMMIT_A, {"x.safetensors": b"%d" % number})
    stop = threading.Event()
    copy = cache.parent / "copy"
    shutil.copytree(cache, copy, symlinks=True)

    def come_and_go() -> None:
        while not stop.is_set():
            for folder in sorted(cache.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(copy / folder.name, folder, symlinks=True, dirs_exist_ok=True)

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        for _ in range(100):
            summarise([cache])
    finally:
        stop.set()
        worker.join()
    assert len(scan_cache(cache)) == 21


def test_a_repository_that_is_gone_has_no_snapshot(tmp_path: Path) -> None:
    found = scan_repository(tmp_path / "models--org--gone")
    assert (found.repo, found.owner, found.snapshots) == ("org/gone", -1, ())
    assert scan_cache(tmp_path / "nowhere") == []
    assert cache_problem(tmp_path / "nowhere") == ""


# ---- owners and times -------------------------------------------------------------------------


@needs_root
def test_the_owner_is_who_has_most_of_the_bytes(cache: Path) -> None:
    for blob in (cache / "models--org--m" / "blobs").iterdir():
        if blob.stat().st_size == len(SHARD_3):
            os.chown(blob, NOBODY, NOBODY)
    assert [one.owner for one in summarise([cache])] == [0, NOBODY]


def test_the_last_use_is_that_of_the_weights(tmp_path: Path) -> None:
    place = add_snapshot(
        tmp_path, "org/m", COMMIT_A, {"a.safetensors": SHARD_1, "config.json": b"{}"}
    )
    os.utime(place / "a.safetensors", (2e9, 1e9))
    os.utime(place / "config.json", (3e9, 1e9))
    assert only(tmp_path).last_use == 2e9


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(("option", "keeps"), [("noatime", False), ("relatime", True)])
def test_a_file_system_without_access_times_knows_no_last_use(
    tmp_path: Path, option: str, keeps: bool
) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=1m,{option}", "none", tmp_path], check=True
    )
    try:
        add_snapshot(tmp_path, "org/m", COMMIT_A, {"a.safetensors": SHARD_1})
        assert keeps_access_times(tmp_path) is keeps
        assert (only(tmp_path).last_use is not None) is keeps
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_looking_does_not_count_as_a_use(tmp_path: Path) -> None:
    files = {"m.safetensors.index.json": index_of("m-1.safetensors"), "m-1.safetensors": SHARD_1}
    place = add_snapshot(tmp_path, "org/m", COMMIT_A, files)
    for name in files:
        os.utime(place / name, (1e9, 2e9))
    (snapshot,) = scan_cache(tmp_path)[0].snapshots
    assert look_at(snapshot).missing == ()
    assert [(place / name).stat().st_atime for name in files] == [1e9, 1e9]


# ---- anything at all --------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, inside=st.booleans())
def test_no_tree_makes_a_scan_fail(tree: dict[str, object], *, inside: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = grow(Path(folder) / "hub", {"models--org--m": tree} if inside else tree)
        for one in summarise([cache]):
            assert one.size >= one.own >= 0
            assert one.repository.repo
