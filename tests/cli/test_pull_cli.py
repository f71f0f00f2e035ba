"""`hpcvlm snapshots pull` as users run it: killed, in a hurry, on full and read-only disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcvlm.cli.errors import exit_code
from tests.command import ROOT, Command, open_way_to
from tests.hub_stand_in import Fault, HubStandIn, model_files, shard, wait_for

REPO = "org/model"
FOLDER = "models--org--model"
MEBI = 1 << 20
BIG = "model-00001-of-00002.safetensors"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")


def large_files() -> dict[str, bytes]:
    """A model with one shard of 40 MiB."""
    return {**model_files(), BIG: shard(40 * MEBI)}


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn({REPO: {"main": model_files()}}) as made:
        yield made


@pytest.fixture
def large_hub() -> Iterator[HubStandIn]:
    with HubStandIn({REPO: {"main": large_files()}}) as made:
        yield made


def needed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {
        p: c
        for p, c in files.items()
        if p not in {"pytorch_model.bin", "original/consolidated.00.pth"}
    }


def check_right(cache: Path, hub: HubStandIn, files: dict[str, bytes]) -> None:
    """Every file is there with its content, and nothing else is left."""
    folder = cache / FOLDER / "snapshots" / hub.commit(REPO)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found.keys() == needed(files).keys()
    assert [path for path, content in found.items() if content != files[path]] == []
    blobs = {path.name for path in (cache / FOLDER / "blobs").iterdir()}
    assert blobs == {hub.file_hash(content) for content in needed(files).values()}


def grown(cache: Path, size: int) -> bool:
    """Whether an unfinished file has at least so many bytes."""
    for path in cache.glob(f"{FOLDER}/blobs/*.incomplete"):
        try:
            if path.stat().st_size >= size:
                return True
        except FileNotFoundError:
            continue
    return False


def test_what_people_see(hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, hub.environment())
    cache = tmp_path / "cache"
    dry = command("snapshots", "pull", REPO, "--to", str(cache), "--dry-run")
    assert dry.code == 0, dry.stderr
    assert "to come" in dry.stderr
    states = {line.split()[0]: line.split()[-2:] for line in dry.stdout.splitlines()}
    assert states["pytorch_model.bin"] == ["left", "out"]
    assert states["config.json"] == ["to", "come"]
    assert not cache.exists()
    done = command("snapshots", "pull", REPO, "--to", str(cache))
    assert done.code == 0, done.stderr
    assert done.stdout == f"{cache / FOLDER / 'snapshots' / hub.commit(REPO)}\n"
    assert "2 files, 10.0 kB; --all-files" in done.stderr
    assert "every file has the hub's hash" in done.stderr
    assert "hpcvlm snapshots verify org/model" in done.stderr
    check_right(cache, hub, model_files())
    again = command("snapshots", "pull", REPO, "--to", str(cache))
    assert (again.code, again.stdout) == (0, done.stdout)
    assert "complete here; nothing was fetched" in again.stderr


def test_json_has_what_a_script_needs(hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, hub.environment())
    to = ("--to", str(tmp_path / "cache"), "--json")
    planned = command("snapshots", "pull", REPO, "--dry-run", *to).json()
    states = {file["path"]: file["state"] for file in planned["files"]}
    assert states.pop("pytorch_model.bin") == states.pop("original/consolidated.00.pth")
    assert set(states.values()) == {"to come"}
    done = command("snapshots", "pull", REPO, *to).json()
    assert done["received_bytes"] == planned["bytes_to_come"]
    assert (done["licence"], done["already_complete"], done["problems"]) == (
        "apache-2.0",
        False,
        [],
    )
    again = command("snapshots", "pull", REPO, *to).json()
    assert (again["received_bytes"], again["already_complete"]) == (0, True)


def test_a_refusal_is_a_sentence_and_an_exit_code(hub: HubStandIn, tmp_path: Path) -> None:
    hub.gated.add(REPO)
    command = Command(tmp_path, hub.environment("hf_secret"))
    done = command("snapshots", "pull", REPO, "--to", str(tmp_path / "cache"))
    assert done.code == exit_code("hub-gated")
    assert f"{hub.url}/{REPO}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 10 * MEBI, 30 * MEBI])
def test_a_killed_pull_goes_on_from_there(large_hub: HubStandIn, tmp_path: Path, at: int) -> None:
    command = Command(tmp_path, large_hub.environment())
    cache = tmp_path / "cache"
    arguments = ("snapshots", "pull", REPO, "--to", str(cache))
    large_hub.faults.append(Fault(BIG, "GET", bytes_per_s=20e6))
    with command.start(*arguments) as process:
        if at == 1:
            wait_for(lambda: large_hub.requests)
        else:
            wait_for(lambda: grown(cache, at))
        process.kill()
        process.communicate()
    large_hub.faults.clear()
    kept = sum(path.stat().st_size for path in cache.glob(f"{FOLDER}/blobs/*.incomplete"))
    before = len(large_hub.requests)
    assert command(*arguments).code == 0
    check_right(cache, large_hub, large_files())
    later = [asked for asked in large_hub.requests[before:] if asked.file == BIG]
    assert sum(asked.sent for asked in later) == len(large_files()[BIG]) - kept
    assert kept >= at - 1


@pytest.mark.slow
def test_a_pull_that_is_killed_again_and_again(large_hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, large_hub.environment())
    cache = tmp_path / "cache"
    arguments = ("snapshots", "pull", REPO, "--to", str(cache))
    large_hub.faults.append(Fault(BIG, "GET", bytes_per_s=20e6))
    for part in (10, 20, 30):
        with command.start(*arguments) as process:
            wait_for(lambda part=part: grown(cache, part * MEBI))
            process.kill()
            process.communicate()
    assert command(*arguments).code == 0
    check_right(cache, large_hub, large_files())


@pytest.mark.slow
def test_ctrl_c_says_what_is_there(large_hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, large_hub.environment())
    cache = tmp_path / "cache"
    arguments = ("snapshots", "pull", REPO, "--to", str(cache))
    large_hub.faults.append(Fault(BIG, "GET", bytes_per_s=10e6))
    with command.start(*arguments) as process:
        wait_for(lambda: grown(cache, 10 * MEBI))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "7 of 8 files are there" in stderr
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    large_hub.faults.clear()
    assert command(*arguments).code == 0
    check_right(cache, large_hub, large_files())


def all_at_work(hub: HubStandIn) -> bool:
    """Whether three pulls have listed the files, and `hf download` has asked for its one.

    It asks for a file before it waits for the file's lock, and by the branch's name.
    """
    trees = sum("/tree/" in asked.path for asked in hub.requests)
    return trees >= 3 and any(f"/resolve/main/{BIG}" in asked.path for asked in hub.requests)


@pytest.mark.slow
def test_several_pulls_at_once_fetch_every_blob_once(large_hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, large_hub.environment())
    cache = tmp_path / "cache"
    slow = Fault(BIG, "GET", bytes_per_s=1e6)
    large_hub.faults.append(slow)
    arguments = ("snapshots", "pull", REPO, "--to", str(cache))
    # huggingface_hub's own command keeps to the same locks.
    hf = [str(Path(sys.executable).parent / "hf"), "download", REPO, BIG, "--cache-dir", str(cache)]
    processes = [command.start(*arguments) for _ in range(3)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(hf, env=command.environment, stdout=quiet, stderr=quiet) as theirs:
        wait_for(lambda: all_at_work(large_hub), 60)
        slow.bytes_per_s = 0
        for process in processes:
            with process:
                _, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stderr
        assert theirs.wait(60) == 0
    check_right(cache, large_hub, large_files())
    assert {path: len(large_hub.gets_of(path)) for path in needed(large_files())} == dict.fromkeys(
        needed(large_files()), 1
    )


@contextmanager
def mounted(folder: Path, options: str, *what: str) -> Iterator[Path]:
    """A file system for the time of a test."""
    folder.mkdir()
    subprocess.run(["mount", "-o", options, *what, folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@as_root
def test_too_little_space_is_told_with_both_numbers(large_hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, large_hub.environment())
    with mounted(tmp_path / "small", "size=20m", "-t", "tmpfs", "tmpfs") as small:
        done = command("snapshots", "pull", REPO, "--to", str(small / "cache"))
        assert done.code == exit_code("store-space")
        wanted = sum(len(content) for content in needed(large_files()).values())
        assert f"{wanted + 4_000_000:,} bytes are needed, {20 * MEBI:,} are free" in done.stderr
        assert list(small.iterdir()) == []


@pytest.mark.slow
@as_root
def test_too_few_inodes(hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, hub.environment())
    with mounted(tmp_path / "few", "size=20m,nr_inodes=12", "-t", "tmpfs", "tmpfs") as few:
        done = command("snapshots", "pull", REPO, "--to", str(few))
        assert done.code == exit_code("store-inodes")
        assert "44 files and folders are needed" in done.stderr
        assert list(few.iterdir()) == []


@pytest.mark.slow
@as_root
def test_a_disk_that_others_fill_meanwhile(large_hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, large_hub.environment())
    large_hub.faults.append(Fault(BIG, "GET", bytes_per_s=20e6))
    with mounted(tmp_path / "disk", "size=50m", "-t", "tmpfs", "tmpfs") as disk:
        cache = disk / "cache"
        with command.start("snapshots", "pull", REPO, "--to", str(cache)) as process:
            wait_for(lambda: grown(cache, 10 * MEBI))
            (disk / "others").write_bytes(b"x" * 25 * MEBI)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == exit_code("store-space")
        assert "No space left on device" in stderr
        assert "Traceback" not in stderr
        (disk / "others").unlink()
        large_hub.faults.clear()
        assert command("snapshots", "pull", REPO, "--to", str(cache)).code == 0
        check_right(cache, large_hub, large_files())


@pytest.mark.slow
@as_root
def test_a_store_that_is_mounted_read_only(hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, hub.environment())
    with mounted(tmp_path / "disk", "size=5m", "-t", "tmpfs", "tmpfs") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = command("snapshots", "pull", REPO, "--to", str(disk / "cache"))
    assert done.code == exit_code("store-unwritable")
    assert "mounted read-only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@as_root
def test_a_store_of_somebody_else(hub: HubStandIn, tmp_path: Path) -> None:
    command = Command(tmp_path, hub.environment())
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    open_way_to(tmp_path)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    done = subprocess.run(
        [*as_nobody, "-m", "hpcvlm", "snapshots", "pull", REPO, "--to", str(store)],
        env={**command.environment, "HOME": "/nonexistent"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code("store-unwritable"), done.stderr
    assert f"{store}: you may not write there; it belongs to root" in done.stderr
    assert list(store.iterdir()) == []
