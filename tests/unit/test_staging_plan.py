"""What is copied to the node or read ahead, and what a container needs to see: the plan."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.binds import binds_of, path_issues
from hpcvlm.plan.model import (
    Bind,
    LaunchPlan,
    PlannedSnapshot,
    PlannedStaging,
    StagedFile,
)
from hpcvlm.plan.staging import NETWORK_FILE_SYSTEMS, prefetch_of, staging_of
from hpcvlm.site.schema import Staging
from hpcvlm.snapshots.links import SnapshotFile, link_targets, snapshot_files
from hpcvlm.snapshots.squashfs import is_image, list_members, read_member
from hpcvlm.system.process import run
from tests.job_fixtures import local_plan, site
from tests.staging_fixtures import a_snapshot

FILES = (
    StagedFile("config.json", 3, "a" * 64),
    StagedFile("consolidated.safetensors", 100),
    StagedFile("model.safetensors", 90, "b" * 64),
    StagedFile("original/consolidated.00.pth", 80),
    StagedFile("pytorch_model.bin", 70),
    StagedFile("tokenizer.json", 2),
)
SNAPSHOT = PlannedSnapshot("org/model", "c" * 40, "/hub/m/snapshots/c", "/hub/m")
COPIED = ["config.json", "consolidated.safetensors", "model.safetensors", "tokenizer.json"]


def staged(asked: bool | None = None, *extra: str, **site: Any) -> PlannedStaging | None:
    section = Staging(**{"folder": "/scratch", "always": True, **site})
    return staging_of(asked, section, SNAPSHOT, FILES, {}, extra)


# ---- the plan --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "site", "is_staged"),
    [
        (None, {}, True),
        (None, {"always": False}, False),
        (True, {"always": False}, True),
        (False, {"always": True}, False),
        (True, {"folder": None}, False),
    ],
)
def test_who_decides_whether_weights_are_copied(
    asked: bool | None, site: dict[str, Any], is_staged: bool
) -> None:
    assert (staged(asked, **site) is not None) == is_staged


def test_what_is_not_on_disk_or_lies_in_an_image_is_not_copied() -> None:
    section = Staging(folder="/scratch", always=True)
    assert staging_of(None, section, SNAPSHOT, (), {}) is None
    in_image = dataclasses.replace(SNAPSHOT, image="/x.sqsh")
    assert staging_of(None, section, in_image, FILES, {}) is None


def test_only_what_the_engine_reads_is_copied() -> None:
    plan = staged()
    assert plan is not None
    assert [file.path for file in plan.files] == COPIED
    assert plan.bytes == 195
    assert plan.name == f"org--model--{'c' * 40}"
    mistral = staged(None, "--load-format=mistral")
    assert mistral is not None
    assert [file.path for file in mistral.files] == [
        "config.json",
        "consolidated.safetensors",
        "tokenizer.json",
    ]
    assert mistral.digest != plan.digest
    unknown = staged(None, "--load-format=runai_streamer")
    assert unknown is not None
    assert unknown.files == tuple(StagedFile(f.path, f.size) for f in FILES)


def test_hashes_are_in_the_plan_when_somebody_asks_for_them() -> None:
    by_size, by_hash = staged(), staged(check="hashes")
    assert by_size is not None
    assert by_hash is not None
    assert {file.sha256 for file in by_size.files} == {""}
    assert [file.sha256[:1] for file in by_hash.files] == ["a", "", "b", ""]


def test_a_revision_is_one_path_component() -> None:
    odd = dataclasses.replace(SNAPSHOT, commit="refs/pr/3 $x")
    plan = staging_of(True, Staging(folder="/s"), odd, FILES, {})
    assert plan is not None
    assert plan.name == "org--model--refs--pr--3__x"


@pytest.mark.parametrize(
    ("mode", "version", "options", "extra", "kinds"),
    [
        ("auto", "0.18.1", {}, (), NETWORK_FILE_SYSTEMS),
        ("auto", "0.19.0", {}, (), set(NETWORK_FILE_SYSTEMS) - {"nfs*", "lustre"}),
        ("auto", "0.32.0+cpu", {}, (), set(NETWORK_FILE_SYSTEMS) - {"nfs*", "lustre"}),
        ("auto", "0.18.1", {"safetensors-load-strategy": "eager"}, (), None),
        ("auto", "0.18.1", {}, ("--safetensors_load_strategy=lazy",), None),
        ("auto", "0.18.1", {"load-format": "runai_streamer"}, (), None),
        ("auto", "0.18.1", {"load-format": "safetensors"}, (), NETWORK_FILE_SYSTEMS),
        ("never", "0.18.1", {}, (), None),
        ("always", "0.32.0", {"safetensors-load-strategy": "lazy"}, (), ()),
        ("always", "0.32.0", {}, ("--safetensors-load-strategy", "prefetch"), None),
        ("always", "0.32.0", {"load-format": "dummy"}, (), None),
    ],
)
def test_when_weights_are_read_ahead(
    mode: str, version: str, options: dict[str, object], extra: tuple[str, ...], kinds: Any
) -> None:
    section = Staging(prefetch=mode, streams=5)  # type: ignore[arg-type]
    plan = prefetch_of(section, SNAPSHOT, 100, version, options, extra)
    assert (plan is None) == (kinds is None)
    if plan is not None:
        assert set(plan.file_systems) == set(kinds)
        assert plan.streams == 5
    assert prefetch_of(section, SNAPSHOT, None, version, options, extra) is None


# ---- links and images ------------------------------------------------------------------------


def linked(tmp_path: Path) -> tuple[Path, Path]:
    """An ordinary hub cache: a snapshot folder and its repository's."""
    repository = tmp_path / "hub" / "models--o--m"
    snapshot = repository / "snapshots" / "c1"
    a_snapshot(repository, snapshot)
    return snapshot, repository


def seen(tmp_path: Path, snapshot: Path, repository: Path) -> list[tuple[str, str]]:
    root = f"{tmp_path}/"
    found = link_targets(snapshot, repository)
    return [(host.removeprefix(root), there.removeprefix(root)) for host, there in found]


def test_an_ordinary_cache_needs_nothing_else(tmp_path: Path) -> None:
    assert link_targets(*linked(tmp_path)) == ()


def test_blobs_on_another_file_system(tmp_path: Path) -> None:
    snapshot, repository = linked(tmp_path)
    (repository / "blobs").rename(tmp_path / "bulk")
    (repository / "blobs").symlink_to(tmp_path / "bulk")
    assert seen(tmp_path, snapshot, repository) == [("bulk", "bulk")]
    (repository / "blobs").unlink()
    (repository / "blobs").symlink_to("../../bulk")
    assert seen(tmp_path, snapshot, repository) == [("bulk", "bulk")]


def test_single_blobs_that_are_links_to_links(tmp_path: Path) -> None:
    snapshot, repository = linked(tmp_path)
    blob, far, farther = repository / "blobs" / "1", tmp_path / "far", tmp_path / "farther"
    blob.rename(farther)
    far.symlink_to(farther)
    blob.symlink_to(far)
    # The source of a mount is followed to its end, so one is enough.
    assert seen(tmp_path, snapshot, repository) == [("far", "far")]


def test_absolute_links_by_another_name_of_the_store(tmp_path: Path) -> None:
    snapshot, repository = linked(tmp_path)
    for link in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        blob = link.resolve()
        link.unlink()
        link.symlink_to(blob)
    assert link_targets(snapshot, repository) == ()
    (tmp_path / "store").symlink_to("hub")
    there = tmp_path / "store" / "models--o--m"
    files = seen(tmp_path, there / "snapshots" / "c1", there)
    assert {f"hub/models--o--m/blobs/{n}" for n in range(6)} == {host for host, _ in files}
    assert all(host == target for host, target in files)


def test_a_repository_that_is_a_link_and_leads_out_by_a_relative_one(tmp_path: Path) -> None:
    snapshot, repository = linked(tmp_path)
    (repository / "blobs").rename(tmp_path / "hub" / "pool")
    (repository / "blobs").symlink_to("../pool")
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "m").symlink_to(repository)
    there = tmp_path / "view" / "m"
    # On the host the link leads from the real folder, in the container from the one it sees.
    pairs = seen(tmp_path, there / "snapshots" / snapshot.name, there)
    assert pairs == [("hub/pool", "view/pool")]


def test_links_that_lead_nowhere_or_in_a_circle_are_left_out(tmp_path: Path) -> None:
    snapshot, repository = linked(tmp_path)
    (snapshot / "broken").symlink_to("/no/such/file")
    (snapshot / "round").symlink_to("round")
    assert link_targets(snapshot, repository) == ()
    names = [file.path for file in snapshot_files(snapshot)]
    assert "broken" not in names
    assert "round" not in names


def test_files_of_a_snapshot_with_their_sizes(tmp_path: Path) -> None:
    snapshot, _ = linked(tmp_path)
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache" / "lock").touch()
    (snapshot / ".gitattributes").touch()
    assert snapshot_files(snapshot) == (
        SnapshotFile(" two  blanks ", 5),
        SnapshotFile("config.json", 2),
        SnapshotFile('it\'s "a" $(file) `x` & *.txt', 3),
        SnapshotFile("model-1.safetensors", 3_000_000),
        SnapshotFile("model-2.safetensors", 1_000_001),
        SnapshotFile("sub dir/deep.json", 0),
    )


def in_image(plan: LaunchPlan, runtime: str, image: str | None) -> LaunchPlan:
    snapshot = dataclasses.replace(plan.snapshot, image="/shared/x.sqsh", path="/snapshot")
    engine = dataclasses.replace(plan.engine, image=image)
    return dataclasses.replace(plan, snapshot=snapshot, runtime=runtime, engine=engine)


@pytest.mark.parametrize(
    ("runtime", "image", "refused"),
    [
        ("apptainer", "/i.sif", False),
        ("singularity", "/i.sif", False),
        ("docker", "i:1", True),
        ("podman", "i:1", True),
        ("none", None, True),
    ],
)
def test_an_image_of_a_snapshot_needs_a_runtime_that_mounts_it(
    runtime: str, image: str | None, *, refused: bool, tmp_path: Path
) -> None:
    plan = in_image(local_plan(tmp_path / "mine").plan, runtime, image)
    issues = path_issues(plan)
    assert [issue.code for issue in issues] == ["snapshot-image-runtime"] * refused
    if refused:
        assert "/shared/x.sqsh" in issues[0].sentence
        assert "unsquashfs" in issues[0].remedy


def test_binds_of_links_and_images(tmp_path: Path) -> None:
    plan = local_plan(tmp_path / "mine").plan
    links = dataclasses.replace(SNAPSHOT, link_targets=(("/bulk/blobs", "/seen/blobs"),))
    image = dataclasses.replace(SNAPSHOT, image="/shared/x.sqsh", path="/snapshot")

    def bound(snapshot: PlannedSnapshot) -> list[Bind]:
        places = {"folder": "/jobs/mine", "media_root": "/media", "cache": "/cache"}
        found = binds_of(site(), plan.engine, snapshot=snapshot, **places)
        return [bind for bind in found if not bind.source.startswith(("/jobs", "/media", "/cache"))]

    assert bound(links) == [Bind("/hub/m", "/hub/m"), Bind("/bulk/blobs", "/seen/blobs")]
    assert [bind.text for bind in bound(image)] == ["/shared/x.sqsh:/snapshot:ro,image-src=/"]


@pytest.fixture
def sqsh(tmp_path: Path) -> Path:
    """A real SquashFS image of a snapshot."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed (squashfs-tools)")
    folder = tmp_path / "flat"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub dir" / "two words.json").write_text("[]")
    image = tmp_path / "my image.sqsh"
    subprocess.run(["mksquashfs", folder, image, "-quiet", "-no-progress"], check=True)
    return image


def test_an_image_is_read_without_mounting_it(sqsh: Path) -> None:
    assert is_image(sqsh)
    assert list_members(sqsh, run) == (
        SnapshotFile("config.json", 8),
        SnapshotFile("sub dir/two words.json", 2),
    )
    assert read_member(sqsh, "config.json", run) == '{"a": 1}'
    assert read_member(sqsh, "sub dir/two words.json", run) == "[]"
    with pytest.raises(HpcvlmError) as error:
        read_member(sqsh, "none.json", run)
    assert error.value.code == "snapshot-image-unreadable"


@pytest.mark.parametrize("content", [None, b"", b"hsq", b"hsqs", b"no image at all" * 100])
def test_what_is_no_image(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.sqsh"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HpcvlmError) as error:
        list_members(path, run)
    assert str(path) in error.value.sentence
    assert error.value.remedy
