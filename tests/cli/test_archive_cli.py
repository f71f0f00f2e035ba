"""`hpcvlm snapshots export` and `import`, as users type them."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.snapshots_archive import export
from hpcvlm.snapshots.archive.archive import Progress
from hpcvlm.snapshots.manifest import manifest_path
from tests.command import ROOT, Command, open_way_to
from tests.verify_fixtures import COMMIT, REPO, SHARDS, flip, model_files, safetensors, store

FOLDER = "models--org--m"
needs_squashfs = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="needs mksquashfs and unsquashfs"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount and change users")


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    """The command, with a cache that holds one snapshot."""
    store(tmp_path / "hub", model_files())
    return Command(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")})


def large_files(megabytes: int, shards: int = 4) -> dict[str, bytes]:
    """Shards of different contents."""
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    each = megabytes * 1_000_000 // shards
    files = {
        name: safetensors({name: each}, fill=number) for number, name in enumerate(names, start=1)
    }
    texts = {name: text for name, text in model_files().items() if "safetensors" not in name}
    return {**texts, **files}


def content_of(snapshot: Path) -> dict[str, bytes]:
    found = [path for path in snapshot.rglob("*") if path.is_file()]
    return {str(path.relative_to(snapshot)): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "ending", [".tar", pytest.param(".sqsh", marks=needs_squashfs)], ids=["tar", "squashfs"]
)
def test_there_and_back(ending: str, hpcvlm: Command, tmp_path: Path) -> None:
    file = tmp_path / f"a model{ending}"
    done = hpcvlm("snapshots", "export", REPO, str(file))
    assert done.code == 0, done.stderr
    assert f"{REPO} at {COMMIT[:12]}" in done.stderr
    checked = subprocess.run(
        ["sha256sum", "--check"], input=done.stdout, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    there = hpcvlm("snapshots", "import", str(file), "--to", str(tmp_path / "new"), "--ref", "main")
    assert there.code == 0, there.stderr
    assert content_of(Path(there.stdout.strip())) == model_files()
    other = Command(tmp_path / "other", {"HF_HUB_CACHE": str(tmp_path / "new")})
    assert other("snapshots", "verify", REPO).code == 0
    again = hpcvlm("snapshots", "import", str(file), "--to", str(tmp_path / "new"))
    assert (again.code, "there already" in again.stderr) == (0, True)


def test_json_says_it_all(hpcvlm: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    out = hpcvlm("snapshots", "export", REPO, str(file), "--json").json()
    assert out["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (out["repo"], out["commit"], out["kind"]) == (REPO, COMMIT, "tar")
    back = hpcvlm("snapshots", "import", str(file), "--to", str(tmp_path / "new"), "--json").json()
    assert (back["digest"], back["already"], back["refs"]) == (out["digest"], False, [])
    assert back["written"] == back["size"] == out["size"]


def test_an_export_keeps_the_manifest_that_it_made(hpcvlm: Command, tmp_path: Path) -> None:
    path = manifest_path(tmp_path / "hub" / FOLDER, COMMIT)
    done = hpcvlm("snapshots", "export", REPO, str(tmp_path / "a.tar"))
    assert "kept in the store" in done.stderr
    assert path.exists()
    again = hpcvlm("snapshots", "export", REPO, str(tmp_path / "b.tar"))
    assert "kept in the store" not in again.stderr
    assert again.stdout.split()[0] == done.stdout.split()[0]


def test_a_pipe_carries_it(hpcvlm: Command, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hpcvlm", "snapshots"]
    with subprocess.Popen(
        [*words, "export", REPO, "-"],
        env=hpcvlm.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as sender:
        done = subprocess.run(
            [*words, "import", "-", "--to", str(tmp_path / "new")],
            env=hpcvlm.environment,
            cwd=ROOT,
            stdin=sender.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert sender.stderr is not None
        assert "SHA-256 of the archive" in sender.stderr.read().decode()
    assert (sender.returncode, done.returncode) == (0, 0), done.stderr
    assert content_of(Path(done.stdout.strip())) == model_files()


def test_a_reader_that_stops_is_told(hpcvlm: Command, tmp_path: Path) -> None:
    store(tmp_path / "hub", large_files(4), "org/large")
    with subprocess.Popen(
        [sys.executable, "-m", "hpcvlm", "snapshots", "export", "org/large", "-"],
        env=hpcvlm.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as sender:
        assert sender.stdout is not None
        assert sender.stderr is not None
        sender.stdout.read(1000)
        sender.stdout.close()
        said = sender.stderr.read().decode()
    assert sender.returncode == 1
    assert "has stopped before its end" in said
    assert "Traceback" not in said


def test_a_terminal_takes_no_archive(hpcvlm: Command) -> None:
    ours, theirs = pty.openpty()
    try:
        for arguments in (["export", REPO, "-"], ["import", "-"]):
            done = subprocess.run(
                [sys.executable, "-m", "hpcvlm", "snapshots", *arguments],
                env=hpcvlm.environment,
                cwd=ROOT,
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (done.returncode, "is a terminal" in done.stderr) == (2, True)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_file_that_is_there_is_kept(hpcvlm: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_text("mine")
    done = hpcvlm("snapshots", "export", REPO, str(file))
    assert done.code != 0
    assert "--force" in done.stderr
    assert file.read_text() == "mine"
    flip_and_fail = hpcvlm("snapshots", "export", "org/none", str(file), "--force")
    assert flip_and_fail.code != 0
    assert file.read_text() == "mine"
    assert hpcvlm("snapshots", "export", REPO, str(file), "--force").code == 0
    assert file.stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.glob("a.tar*")) == ["a.tar"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("a.tar.gz", "ends in .tar"),
        ("a", "ends in .tar"),
        ("no/such/folder/a.tar", "there is no folder"),
        ("folder.tar", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_is_told(
    file: str, words: str, hpcvlm: Command, tmp_path: Path
) -> None:
    (tmp_path / "folder.tar").mkdir()
    done = hpcvlm("snapshots", "export", REPO, str(tmp_path / file))
    assert (done.code, words in done.stderr) == (2, True), done.stderr


def test_a_snapshot_that_is_not_here_is_told(hpcvlm: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "a.tar")
    other = hpcvlm("snapshots", "export", REPO, file, "--revision", "deadbeef")
    assert other.code == 3
    assert COMMIT[:12] in other.stderr
    assert "hpcvlm snapshots pull" in hpcvlm("snapshots", "export", "org/none", file).stderr
    assert hpcvlm("snapshots", "export", "none", file).code == 3
    assert hpcvlm("snapshots", "export", REPO, file, "--revision", COMMIT[:8]).code == 0


@pytest.mark.parametrize("ending", [".tar", pytest.param(".sqsh", marks=needs_squashfs)])
def test_a_damaged_snapshot_leaves_no_file(ending: str, hpcvlm: Command, tmp_path: Path) -> None:
    flip(store(tmp_path / "bad", model_files(), "org/bad"), SHARDS[0])
    bad = Command(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "bad")})
    done = bad("snapshots", "export", "org/bad", str(tmp_path / f"a{ending}"))
    assert done.code != 0
    assert SHARDS[0] in done.stderr
    assert "hpcvlm snapshots verify org/bad" in done.stderr
    assert not list(tmp_path.glob("a*.partial")) + list(tmp_path.glob(f"a{ending}"))


@needs_root
def test_a_folder_that_one_may_not_enter_is_told(hpcvlm: Command, tmp_path: Path) -> None:
    open_way_to(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o700)
    for file in ("closed/a.tar", "a.tar"):
        argv = [sys.executable, "-m", "hpcvlm", "snapshots", "export", REPO, str(tmp_path / file)]
        done = subprocess.run(
            argv,
            env={**hpcvlm.environment, "HPCVLM_STATE": "/tmp/none", "HOME": "/nonexistent"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            user=65534,
            check=False,
        )
        assert done.returncode != 0
        assert done.stderr.startswith("error:"), done.stderr
        assert "Permission denied" in done.stderr or "no folder" in done.stderr


@needs_squashfs
def test_a_missing_mksquashfs_is_told(hpcvlm: Command, tmp_path: Path) -> None:
    hpcvlm.environment["PATH"] = str(tmp_path)
    done = hpcvlm("snapshots", "export", REPO, str(tmp_path / "a.sqsh"))
    assert done.code != 0
    assert "install squashfs-tools 4.5" in done.stderr
    old = tmp_path / "mksquashfs"
    old.write_text("#!/bin/sh\necho 'mksquashfs version 4.4 (2019/08/29)'\n")
    old.chmod(0o755)
    done = hpcvlm("snapshots", "export", REPO, str(tmp_path / "a.sqsh"))
    assert "version 4.4" in done.stderr
    assert not (tmp_path / "a.sqsh").exists()


# Cut off in the middle.


def wait_until_it_writes(process: subprocess.Popen[str], folder: Path, size: int) -> None:
    """Until the files of a folder have that many bytes together."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        there = [path for path in folder.rglob("*") if not path.is_symlink()]
        try:
            if sum(path.stat().st_size for path in there if path.is_file()) >= size:
                return
        except FileNotFoundError:  # renamed meanwhile
            continue
        time.sleep(0.001)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Command]:
    """A cache with a snapshot of 400 MB."""
    store(tmp_path / "hub", large_files(400), "org/large")
    yield Command(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")})
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".tar", pytest.param(".sqsh", marks=needs_squashfs)])
def test_a_killed_import_goes_on(ending: str, large: Command, tmp_path: Path) -> None:
    file = tmp_path / f"a{ending}"
    assert large("snapshots", "export", "org/large", str(file)).code == 0
    new = tmp_path / "new"
    snapshots = new / "models--org--large" / "snapshots"
    killed = 0
    for size in (1, 50_000_000, 150_000_000, 250_000_000, 390_000_000):
        with large.start("snapshots", "import", str(file), "--to", str(new)) as process:
            new.mkdir(exist_ok=True)
            wait_until_it_writes(process, new, size)
            process.kill()
            process.communicate()
        if process.returncode == -signal.SIGKILL and not (snapshots / COMMIT).exists():
            killed += 1
            assert not snapshots.exists() or not list(snapshots.iterdir())
    assert killed >= 3
    done = large("snapshots", "import", str(file), "--to", str(new), "--json")
    assert done.code == 0, done.stderr
    told = done.json()
    assert told["already"] or told["written"] < told["size"]
    assert content_of(snapshots / COMMIT) == large_files(400)
    assert not list(new.rglob("*.incomplete"))
    assert not list(new.rglob("importing-*"))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".tar", pytest.param(".sqsh", marks=needs_squashfs)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_export_leaves_no_file(
    number: signal.Signals, ending: str, large: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with large.start("snapshots", "export", "org/large", str(out / f"a{ending}")) as process:
        wait_until_it_writes(process, out, 50_000_000)
        process.send_signal(number)
        _, stderr = process.communicate()
    assert not (out / f"a{ending}").exists()
    if number == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert "nothing is left" in stderr
        assert list(out.iterdir()) == []
    assert large("snapshots", "export", "org/large", str(out / f"a{ending}")).code == 0
    assert [path.name for path in out.iterdir()] == [f"a{ending}"]


@pytest.mark.slow
def test_an_interrupted_import_says_what_is_left(large: Command, tmp_path: Path) -> None:
    file, new = tmp_path / "a.tar", tmp_path / "new"
    assert large("snapshots", "export", "org/large", str(file)).code == 0
    new.mkdir()
    with large.start("snapshots", "import", str(file), "--to", str(new)) as process:
        wait_until_it_writes(process, new, 150_000_000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "goes on from there" in stderr
    assert not list(new.rglob("*.incomplete"))
    assert list((new / "models--org--large" / "blobs").iterdir())
    assert not list(new.glob("*/snapshots/*"))


def peak_of(command: Command, *arguments: str) -> int:
    """Most memory of the command, and of each of its own children, in kilobytes."""
    code = (
        "import os, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "-m", "hpcvlm", *arguments],
        env=command.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "spare"), [(".tar", 12_000), pytest.param(".sqsh", 150_000, marks=needs_squashfs)]
)
def test_memory_does_not_grow_with_the_snapshot(
    ending: str, spare: int, hpcvlm: Command, tmp_path: Path
) -> None:
    peaks: dict[str, list[int]] = {"export": [], "import": []}
    for megabytes in (40, 400):
        repo = f"org/m{megabytes}"
        store(tmp_path / "hub", large_files(megabytes, shards=2), repo)
        file = str(tmp_path / f"{megabytes}{ending}")
        peaks["export"].append(peak_of(hpcvlm, "snapshots", "export", repo, file))
        to = str(tmp_path / "new")
        peaks["import"].append(peak_of(hpcvlm, "snapshots", "import", file, "--to", to))
    shutil.rmtree(tmp_path / "hub")  # pytest would keep gigabytes
    shutil.rmtree(tmp_path / "new")
    for megabytes in (40, 400):
        (tmp_path / f"{megabytes}{ending}").unlink()
    for small, big in peaks.values():
        assert big < small + spare, peaks


# Places that cannot be written to.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
@pytest.mark.slow
def test_a_disk_without_room_is_told_first(
    hpcvlm: Command, small_disk: Path, tmp_path: Path
) -> None:
    store(tmp_path / "hub", large_files(4), "org/large")
    done = hpcvlm("snapshots", "export", "org/large", str(small_disk / "a.tar"))
    assert done.code != 0
    assert "bytes are needed" in done.stderr
    assert list(small_disk.iterdir()) == []


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("ending", [".tar", pytest.param(".sqsh", marks=needs_squashfs)])
def test_a_disk_that_fills_up_meanwhile_leaves_no_file(
    ending: str, hpcvlm: Command, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "hub", large_files(1), "org/large")
    for name, value in hpcvlm.environment.items():
        if name.startswith(("HPCVLM_", "HF_")):
            monkeypatch.setenv(name, value)

    def fill(_: Progress) -> None:
        if not (small_disk / "fill").exists():
            (small_disk / "fill").write_bytes(bytes(1_200_000))

    with pytest.raises(HpcvlmError) as caught:
        export("org/large", str(small_disk / f"a{ending}"), Context(), fill)
    assert caught.value.code in {"archive-space", "export-failed"}
    assert "No space" in caught.value.sentence or "space" in caught.value.remedy
    assert [path.name for path in small_disk.iterdir()] == ["fill"]


@needs_root
@pytest.mark.slow
def test_a_read_only_folder_is_told(hpcvlm: Command, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = hpcvlm("snapshots", "export", REPO, str(small_disk / "a.tar"))
    assert done.code != 0
    assert "Read-only file system" in done.stderr
    there = hpcvlm("snapshots", "import", str(small_disk / "a.tar"))
    assert (there.code, "No such file" in there.stderr) == (3, True)
