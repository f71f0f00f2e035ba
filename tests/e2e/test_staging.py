"""What a container sees of the host, in real containers: the stand-in engine looks around.

Apptainer as root and as another user, Podman, and no container; copies on the node, links that
lead out of the store, images of snapshots.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.plan.build import build_plan
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlannedSnapshot, StagedFile
from hpcvlm.snapshots.links import link_targets, snapshot_files
from tests.command import ROOT, Command
from tests.job_fixtures import FAKE, RunningJob, model, site, surroundings
from tests.realparts import CpuSif, set_up

pytestmark = pytest.mark.slow

REAL_ENVIRONMENT = dict(os.environ)
COMMIT = "c" * 40
PODMAN_IMAGE = "localhost/hpcvlm-empty:1"
PROXY = "http://proxy.example.org:3128"
WORDS = 'two words, $HOME `id` "quoted" \'too\' \\ {"a": [1, 2]}'
CONTENTS = {
    "config.json": b"{}",
    "model 1.safetensors": b"first" * 1000,
    "model-2.safetensors": b"second" * 1000,
    "sub dir/it's.json": b"[]",
}
HASHES = {name: sha256(content).hexdigest() for name, content in CONTENTS.items()}

# Looks around, says what it saw, and is the stand-in from then on.
LOOKER = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests import fake_vllm

def refused(path):
    try:
        Path(path).write_text("x")
    except OSError as error:
        return error.strerror
    Path(path).unlink()
    return ""

snapshot = Path(sys.argv[2])
files = [path for path in snapshot.rglob("*") if path.is_file()]
Path(os.environ["XDG_CACHE_HOME"], "seen.json").write_text(json.dumps({{
    "argv": sys.argv[1:],
    "environment": dict(os.environ),
    "files": {{
        str(path.relative_to(snapshot)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }},
    "config": (snapshot / "config.json").stat().st_ino,
    "snapshot refuses": refused(snapshot / "new"),
    "picture": Path({picture!r}).read_text(),
    "secret": Path({secret!r}).exists(),
    "root": sorted(os.listdir("/")),
}}))
fake_vllm.main()
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a job runs.

    Attributes:
        runtime: of the site.
        image: that it starts; None without a container.
        environment: what the job's script needs.
    """

    runtime: str
    image: str | None
    environment: dict[str, str]


@pytest.fixture(params=["apptainer", "singularity", "podman", "none"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    runtime: str = request.param
    if runtime == "none":
        return Place(runtime, None, {})
    if runtime == "podman":
        conf = set_up("podman.sh", environment=REAL_ENVIRONMENT)
        needed = {"HOME": REAL_ENVIRONMENT["HOME"], "CONTAINERS_CONF": conf}
        return Place(runtime, PODMAN_IMAGE, needed)
    sif: CpuSif = request.getfixturevalue("cpu_sif")
    image = tmp_path / "images of mine" / "vllm.sif"
    image.parent.mkdir()
    shutil.copy(sif.image, image)
    tools = tmp_path / "tools"
    tools.mkdir()
    apptainer = shutil.which("apptainer")
    assert apptainer is not None
    (tools / runtime).symlink_to(apptainer)
    return Place(runtime, str(image), {"PATH": f"{tools}:{os.environ['PATH']}"})


Launch = Callable[..., RunningJob]


@pytest.fixture
def launch(tmp_path: Path, place: Place) -> Iterator[Launch]:
    """Starts the job of a snapshot, and waits until it is ready."""
    jobs: list[RunningJob] = []

    def begin(snapshot: PlannedSnapshot, **more: Any) -> RunningJob:
        jobs.append(
            RunningJob.start(
                plan_of(tmp_path, place, snapshot, more),
                tmp_path / f"run {len(jobs)}",
                environment={**place.environment, "HTTP_PROXY": PROXY, "SECRET": "mine"},
            )
        )
        jobs[-1].reach("ready")
        return jobs[-1]

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            job.end(term=True)
        job.close()


def plan_of(
    tmp_path: Path, place: Place, snapshot: PlannedSnapshot, more: Mapping[str, object]
) -> LaunchPlan:
    (tmp_path / "pictures of mine").mkdir(exist_ok=True)
    (tmp_path / "pictures of mine" / "a.txt").write_text("a picture")
    (tmp_path / "secret").write_text("not for engines")
    engine = tmp_path / "engine" / "looker.py"
    engine.parent.mkdir(exist_ok=True)
    engine.write_text(
        LOOKER.format(
            root=str(ROOT),
            picture=str(tmp_path / "pictures of mine" / "a.txt"),
            secret=str(tmp_path / "secret"),
        )
    )
    base = [f"/{name}" for name in ("usr", "lib", "lib64", "bin")]
    own = [sys.base_prefix, str(ROOT), str(engine.parent)]
    if place.runtime != "podman":
        base = ["/usr"]
    text = {
        "schema": 1,
        "runtime": place.runtime,
        "gpu_flag": "",
        "binds": list(dict.fromkeys([*base, *own])),
        "media_root": str(tmp_path / "pictures of mine"),
        "environment": {"WORDS": WORDS},
        "engines": [
            {"version": "0.32.0", "command": [sys.executable, str(engine)]}
            | ({"image": place.image} if place.image else {})
        ],
        **more,
    }
    spec = model("tiny-vlm", "environment.FAKE_VLLM_STEP_S=0.01")
    folder = Path(snapshot.path)
    files = (
        ()
        if snapshot.image
        else tuple(
            StagedFile(file.path, file.size, HASHES[file.path]) for file in snapshot_files(folder)
        )
    )
    found = surroundings(
        executor="local",
        folder=str(tmp_path / "jobs of mine" / "it's 'mine'"),
        snapshot=snapshot,
        cache_root=str(tmp_path / "the cache"),
        images_on_disk=frozenset([place.image] if place.image else []),
        files=files,
        weight_bytes=11_000,
    )
    result = build_plan(LaunchRequest("tiny-vlm"), spec, site(json.dumps(text)), found)
    return result.plan


def a_store(folder: Path) -> tuple[Path, Path]:
    """An ordinary hub cache; gives the snapshot and its repository's folder."""
    repository = folder / "models--org--model"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (repository / "blobs" / HASHES[name]).write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{HASHES[name]}")
    return snapshot, repository


def planned(snapshot: Path, repository: Path) -> PlannedSnapshot:
    links = link_targets(snapshot, repository)
    return PlannedSnapshot("org/model", COMMIT, str(snapshot), str(repository), None, links)


def seen(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / "the cache").glob("*/seen.json")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_an_engine_sees_what_its_plan_needs(tmp_path: Path, place: Place, launch: Launch) -> None:
    snapshot = planned(*a_store(tmp_path / "store of mine"))
    job = launch(snapshot)
    there = seen(tmp_path)
    assert there["files"] == HASHES
    assert there["picture"] == "a picture"
    assert there["environment"]["WORDS"] == WORDS
    assert there["argv"][1] == snapshot.path
    limit = there["argv"][there["argv"].index("--limit-mm-per-prompt") + 1]
    assert json.loads(limit)["image"] >= 1
    assert there["environment"]["HTTP_PROXY"] == PROXY
    if place.image:
        assert there["snapshot refuses"] == "Read-only file system"
        assert not there["secret"]
        assert "SECRET" not in there["environment"]
        assert "work" not in set(there["root"]) - {ROOT.parts[1]}
    assert job.end(term=True) == 0
    assert job.said == ""


def test_an_engine_reads_the_copy_on_the_node(tmp_path: Path, place: Place, launch: Launch) -> None:
    snapshot = planned(*a_store(tmp_path / "store of mine"))
    # A folder's name in the site's file has no blanks; what a variable holds may have them.
    job = launch(snapshot, staging={"folder": "$TMPDIR/node", "always": True})
    told = job.state["staging"]
    assert told["how"] == "copied"
    there = seen(tmp_path)
    assert there["files"] == HASHES
    copy = Path(told["folder"])
    assert there["config"] == (copy / "config.json").stat().st_ino
    assert there["argv"][1] == (snapshot.path if place.image else str(copy))
    assert copy.is_relative_to(job.scratch / "node")
    if place.image:
        assert there["snapshot refuses"] == "Read-only file system"
    assert job.end(term=True) == 0
    assert job.said == ""
    assert not copy.exists()


def cache_is_a_link(folder: Path) -> tuple[Path, Path]:
    a_store(folder / "far away")
    (folder / "hub").symlink_to("far away")
    repository = folder / "hub" / "models--org--model"
    return repository / "snapshots" / COMMIT, repository


def repository_is_a_link(folder: Path) -> tuple[Path, Path]:
    _, real = a_store(folder / "far away")
    (folder / "hub").mkdir()
    (folder / "hub" / real.name).symlink_to(real)
    return folder / "hub" / real.name / "snapshots" / COMMIT, folder / "hub" / real.name


def blobs_are_elsewhere(folder: Path) -> tuple[Path, Path]:
    snapshot, repository = a_store(folder / "hub")
    (repository / "blobs").rename(folder / "bulk data")
    (repository / "blobs").symlink_to(folder / "bulk data")
    return snapshot, repository


def blobs_are_elsewhere_from_a_link(folder: Path) -> tuple[Path, Path]:
    snapshot, repository = repository_is_a_link(folder)
    (repository / "blobs").rename(folder / "far away" / "pool")
    (repository / "blobs").symlink_to("../pool")
    return snapshot, repository


def each_blob_is_elsewhere(folder: Path) -> tuple[Path, Path]:
    snapshot, repository = a_store(folder / "hub")
    (folder / "pool").mkdir()
    for blob in list((repository / "blobs").iterdir()):
        blob.rename(folder / "pool" / blob.name)
        blob.symlink_to(folder / "pool" / blob.name)
    return snapshot, repository


def links_are_absolute(folder: Path) -> tuple[Path, Path]:
    snapshot, repository = cache_is_a_link(folder)
    for link in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        blob = link.resolve()
        link.unlink()
        link.symlink_to(blob)
    return snapshot, repository


def plain_folder(folder: Path) -> tuple[Path, Path]:
    for name, content in CONTENTS.items():
        (folder / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "plain" / name).write_bytes(content)
    return folder / "plain", folder / "plain"


@pytest.mark.parametrize(
    "store",
    [
        cache_is_a_link,
        repository_is_a_link,
        blobs_are_elsewhere,
        blobs_are_elsewhere_from_a_link,
        each_blob_is_elsewhere,
        links_are_absolute,
        plain_folder,
    ],
)
@pytest.mark.parametrize("place", ["apptainer", "podman"], indirect=True)
@pytest.mark.parametrize("staging", [{}, {"folder": "/dev/shm", "always": True}])
def test_stores_made_of_links(
    store: Callable[[Path], tuple[Path, Path]],
    staging: dict[str, object],
    tmp_path: Path,
    place: Place,
    launch: Launch,
) -> None:
    folder = tmp_path / "a store"
    folder.mkdir()
    job = launch(planned(*store(folder)), staging=staging)
    assert seen(tmp_path)["files"] == HASHES
    assert (job.state["staging"] or {}).get("how") == ("copied" if staging else None)
    assert job.end(term=True) == 0
    assert job.said == ""


@pytest.mark.parametrize("place", ["apptainer"], indirect=True)
def test_a_snapshot_in_an_image(tmp_path: Path, place: Place, launch: Launch) -> None:
    job = launch(an_image(tmp_path), staging={"prefetch": "always"})
    there = seen(tmp_path)
    assert there["files"] == HASHES
    assert there["argv"][1] == "/snapshot"
    assert there["snapshot refuses"] == "Read-only file system"
    told = job.state["staging"]
    size = (tmp_path / "images of models" / "m.sqsh").stat().st_size
    assert (told["how"], told["bytes"]) == ("prefetched", size)
    assert job.end(term=True) == 0
    assert job.said == ""


@pytest.mark.parametrize("place", ["apptainer"], indirect=True)
@pytest.mark.parametrize("more", [[], ["--userns"]])
def test_a_user_mounts_the_image_too(tmp_path: Path, place: Place, more: list[str]) -> None:
    """By squashfuse, where Apptainer has no setuid helper."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    plan = plan_of(tmp_path, place, an_image(tmp_path), {})
    bind = next(bind for bind in plan.binds if bind.in_image)
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    command = ["apptainer", "exec", *more, "--containall", "--no-home", "--pwd", "/tmp"]
    program = ["/usr/bin/cat", f"{bind.target}/sub dir/it's.json"]
    done = subprocess.run(
        [*command, "--bind", bind.text, "--bind", "/usr", str(place.image), *program],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, CONTENTS["sub dir/it's.json"]), done.stderr


def an_image(tmp_path: Path) -> PlannedSnapshot:
    """A SquashFS image of the plain files, made by mksquashfs."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed (squashfs-tools)")
    folder, _ = plain_folder(tmp_path)
    image = tmp_path / "images of models" / "m.sqsh"
    image.parent.mkdir()
    subprocess.run(["mksquashfs", folder, image, "-quiet", "-no-progress"], check=True)
    return PlannedSnapshot("org/model", COMMIT, "/snapshot", str(image), str(image))


@pytest.mark.parametrize("keep", [False, True])
def test_a_launch_copies_what_the_site_says(tmp_path: Path, *, keep: bool) -> None:
    hpcvlm = Command(tmp_path)
    node = tmp_path / "node"
    node.mkdir(mode=0o700)
    text = {
        "schema": 1,
        "executor": "local",
        "runtime": "none",
        "engines": [{"version": "0.32.0", "command": [str(FAKE)]}],
        "staging": {"folder": str(node), "always": True, "keep": keep},
    }
    hpcvlm.site(json.dumps(text))
    done = hpcvlm("launch", "tiny-vlm", "--name", "mine", "--gpus", "0")
    assert done.code == 0, done.stderr
    told = hpcvlm.job_state("mine")["staging"]
    assert (told["how"], told["why"]) == ("copied", "")
    copy = Path(told["folder"])
    assert copy.parent.parent == node
    assert (copy / "config.json").is_file()
    assert hpcvlm("stop", "mine").code == 0
    assert copy.exists() == keep
