"""hpcvlm snapshots prune: what it says, what it deletes, what it refuses."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import ROOT, Command, Done
from tests.unit.stores import DAY, Store, blob_name, broken, bytes_on_disk, commit_of

A, B, C = commit_of("a"), commit_of("b"), commit_of("c")
FILES = {"config.json": b"{}"}
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


@pytest.fixture
def hpcvlm(tmp_path: Path, store: Store) -> Command:
    return Command(
        tmp_path, {"HOME": str(tmp_path), "HF_HUB_CACHE": str(store.cache), "PATH": "/usr/bin:/bin"}
    )


def add(store: Store, repo: str, commit: str, size: int = 1000, *, days: float = 200) -> Path:
    files = {**FILES, "model.safetensors": commit[:1].encode() * size}
    return store.snapshot(repo, commit, files, used=time.time() - days * DAY)


def prune(hpcvlm: Command, *arguments: str) -> Done:
    done = hpcvlm("snapshots", "prune", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def slurm(tmp_path: Path, hpcvlm: Command, squeue: str, *, private: str = "none") -> None:
    """Commands that answer as Slurm's do."""
    folder = tmp_path / "slurm"
    folder.mkdir(exist_ok=True)
    scripts = {"squeue": squeue, "scontrol": f"echo 'PrivateData = {private}'"}
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    hpcvlm.environment["PATH"] = f"{folder}:/usr/bin:/bin"


def test_without_a_policy_only_what_no_snapshot_needs(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    store.blob("org/m", b"orphan", at=time.time() - 9 * DAY)
    store.blob("org/m", b"part", at=time.time() - 9 * DAY, name="e" * 64 + ".incomplete")
    for path in (store.folder("org/m") / "blobs").iterdir():
        os.utime(path, (time.time() - 200 * DAY, time.time() - 200 * DAY))
    dry = prune(hpcvlm, "--dry-run")
    assert (dry.code, bytes_on_disk(store.cache)) == (0, 1012)
    assert [line.split()[:2] for line in dry.stdout.splitlines()[1:]] == [
        ["1", "incomplete"],
        ["1", "orphans"],
    ]
    assert "10 B would become free; nothing was changed" in dry.stderr
    done = prune(hpcvlm, "--yes")
    assert (done.code, bytes_on_disk(store.cache)) == (0, 1002)
    assert done.stdout.splitlines()[-1] == "10 B freed"
    again = prune(hpcvlm, "--yes")
    assert (again.code, again.stdout) == (0, "")
    assert "nothing to delete" in again.stderr


def test_what_it_says_as_json(hpcvlm: Command, store: Store) -> None:
    add(store, "org/old", A)
    add(store, "org/new", B, days=1)
    done = prune(hpcvlm, "--unused-for", "90d", "--json", "--yes").json()
    assert (done["bytes"], done["freed"]) == (1002, 1002)
    assert [(row["repo"], row["commit"], row["problem"]) for row in done["done"]] == [
        ("org/old", A, "")
    ]
    assert [(row["repo"], row["wanted"]) for row in done["keep"]] == [("org/new", False)]
    assert not store.folder("org/old").exists()


def test_nobody_to_ask_is_a_no(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    done = prune(hpcvlm, "--unused-for", "90d")
    assert done.code == 2
    assert "--yes" in done.stderr
    assert bytes_on_disk(store.cache) == 1002


@pytest.mark.parametrize(("answer", "left"), [("n", 1002), ("", 1002), ("y", 0)])
def test_the_question(hpcvlm: Command, store: Store, answer: str, left: int) -> None:
    add(store, "org/m", A)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "hpcvlm", "snapshots", "prune", "--all", "org/m"],
        env=hpcvlm.environment,
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, f"{answer}\n".encode())
        code = process.wait(60)
    os.close(ours)
    assert b"delete this for good, 1.0 kB?" in shown
    assert bytes_on_disk(store.cache) == left
    assert code == (0 if left == 0 else 1)


def test_the_pinned_stay(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    add(store, "org/m", B)
    pinned = hpcvlm("snapshots", "pin", "org/m", "--revision", A, "--unverified", "--why", "paper")
    assert pinned.code == 0, pinned.stderr
    done = prune(hpcvlm, "--all", "org/m", "--yes")
    assert done.code == 0
    assert "kept: org/m@aaaaaaaaaaaa (1.0 kB): pinned by" in done.stderr
    assert [path.name for path in (store.folder("org/m") / "snapshots").iterdir()] == [A]
    assert broken(store.cache) == []


def test_what_another_user_s_job_serves_stays(
    hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    add(store, "org/m", A)
    add(store, "org/m", B)
    slurm(tmp_path, hpcvlm, f"echo '4711|carol|hpcvlm:org/m@{A}|vlm'")
    done = prune(hpcvlm, "--unused-for", "90d", "--yes")
    assert done.code == 0, done.stderr
    assert "used by job 4711 of carol (vlm)" in done.stderr
    assert [path.name for path in (store.folder("org/m") / "snapshots").iterdir()] == [A]


def test_where_uses_are_unknown_no_snapshot_goes(
    hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    add(store, "org/m", A)
    slurm(tmp_path, hpcvlm, "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1")
    dry = prune(hpcvlm, "--unused-for", "90d", "--dry-run")
    assert dry.code == 0
    assert "without --dry-run no snapshot is deleted" in dry.stderr
    done = prune(hpcvlm, "--unused-for", "90d", "--yes")
    assert "unknown which snapshots are in use" in done.stderr
    assert done.code == 4
    assert bytes_on_disk(store.cache) == 1002
    orphan = store.blob("org/m", b"orphan", at=time.time())
    os.utime(orphan, (0, 0))
    assert prune(hpcvlm, "--yes").code == 0
    assert not orphan.exists()


def test_a_job_that_begins_after_the_plan_saves_its_snapshot(
    hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    add(store, "org/m", A)
    later = f"test -e {tmp_path}/asked && echo '8|eve|hpcvlm:org/m@{A}|x'; touch {tmp_path}/asked"
    slurm(tmp_path, hpcvlm, later)
    done = prune(hpcvlm, "--unused-for", "90d", "--yes")
    assert done.code == 0
    assert "used by job 8 of eve" in done.stderr
    assert "0 B freed of 1.0 kB" in done.stdout
    assert bytes_on_disk(store.cache) == 1002


def test_a_size_that_cannot_be_met(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    done = prune(hpcvlm, "--free", "2TB", "--dry-run")
    assert done.code == 0
    assert "2.0 TB short of --free" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--unused-for", "90"], 2, "--unused-for '90' is no age"),
        (["--free", "a lot"], 2, "--free 'a lot' is no size"),
        (["--all", "--yes"], 2, "--all needs a model or repository"),
        (["--revision", "main"], 2, "--revision needs a model or repository"),
        (["--cache", "/no/such"], 2, "--cache /no/such is no folder"),
        (["org/none", "--all"], 3, "org/none is in no cache"),
        (["org/m", "--all", "--revision", "v9"], 3, "org/m at revision v9 is not on disk"),
        (["no-model", "--all"], 3, "no-model"),
    ],
)
def test_mistakes(
    hpcvlm: Command, store: Store, arguments: list[str], code: int, words: str
) -> None:
    add(store, "org/m", A)
    done = prune(hpcvlm, *arguments)
    assert (done.code, words in done.stderr) == (code, True), done.stderr
    assert bytes_on_disk(store.cache) == 1002


def test_a_model_file_that_cannot_be_read_may_name_anything(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    (hpcvlm.config / "models").mkdir()
    file = hpcvlm.config / "models" / "mine.yaml"
    for text in (f"snapshot: {{repo: org/m, revision: {A}", None):
        file.unlink(missing_ok=True)
        if text is None:
            file.mkdir()
        else:
            file.write_text(text, encoding="utf-8")
        done = prune(hpcvlm, "--unreferenced", "--yes")
        assert done.code == 2
        assert "mine.yaml" in done.stderr
        assert bytes_on_disk(store.cache) == 1002


def test_a_commit_that_a_model_names_is_referenced(hpcvlm: Command, store: Store) -> None:
    add(store, "org/m", A)
    add(store, "org/m", B)
    for path in (store.folder("org/m") / "blobs").iterdir():
        os.utime(path, (time.time() - 9 * DAY, time.time() - 9 * DAY))
    (hpcvlm.config / "models").mkdir()
    text = f"snapshot:\n  repo: org/m\n  revision: {A}\n"
    (hpcvlm.config / "models" / "mine.yaml").write_text(text, encoding="utf-8")
    done = prune(hpcvlm, "--unreferenced", "--yes", "--json")
    assert done.code == 0, done.stderr
    assert [row["commit"] for row in done.json()["done"]] == [B]
    assert [row["why"] for row in done.json()["keep"]] == ["the model mine names it"]


# ---- disks and users that do not let it ---------------------------------------------------------


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


@pytest.mark.slow
def test_a_full_disk_is_no_reason_not_to_make_room(hpcvlm: Command, tmp_path: Path) -> None:
    with mounted(tmp_path / "hub", "size=1m"):
        store = Store(tmp_path / "hub")
        add(store, "org/m", A, 300_000)
        add(store, "org/m", B, 300_000, days=1)
        fill(tmp_path / "hub" / "filler")
        done = prune(hpcvlm, "--unused-for", "90d", "--yes")
        assert done.code == 0, done.stderr
        assert "300 kB freed" in done.stdout
        assert broken(store.cache) == []
        assert bytes_on_disk(store.cache) == 300_002


@pytest.mark.slow
def test_a_read_only_store_is_left_alone(hpcvlm: Command, tmp_path: Path) -> None:
    with mounted(tmp_path / "hub", "size=1m"):
        store = Store(tmp_path / "hub")
        add(store, "org/m", A)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "hub"], check=True)
        done = prune(hpcvlm, "--unused-for", "90d", "--yes")
        assert done.code == 0
        assert "nothing to delete" in done.stderr
        assert "is not writable for you" in done.stderr
        assert bytes_on_disk(store.cache) == 1002


@pytest.mark.slow
def test_without_access_times_nothing_is_old(hpcvlm: Command, tmp_path: Path) -> None:
    with mounted(tmp_path / "hub", "size=1m,noatime"):
        store = Store(tmp_path / "hub")
        add(store, "org/m", A)
        done = prune(hpcvlm, "--unused-for", "90d", "--yes")
        assert "kept: org/m@aaaaaaaaaaaa (1.0 kB): last use unknown" in done.stderr
        assert bytes_on_disk(store.cache) == 1002
        assert prune(hpcvlm, "--all", "org/m", "--yes").code == 0
        assert bytes_on_disk(store.cache) == 0


@pytest.mark.slow
def test_what_may_not_be_deleted_is_told_and_the_rest_goes_on(
    hpcvlm: Command, store: Store
) -> None:
    """An immutable blob: what root may not delete either, found only when it is tried."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a file immutable")
    add(store, "org/a", A)
    add(store, "org/b", B)
    blob = store.folder("org/a") / "blobs" / blob_name(b"a" * 1000)
    made = subprocess.run(["chattr", "+i", blob], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no immutable files here: {made.stderr.strip()}")
    try:
        done = prune(hpcvlm, "--unused-for", "90d", "--yes")
    finally:
        subprocess.run(["chattr", "-i", blob], check=False)
    assert done.code == 1
    assert "failed: org/a@aaaaaaaaaaaa" in done.stderr
    assert "Operation not permitted" in done.stderr
    assert not store.folder("org/b").exists()
    assert broken(store.cache) == []
    again = prune(hpcvlm, "--yes")
    assert again.code == 0, again.stderr


@pytest.mark.slow
def test_the_repositories_of_others_are_left_alone(
    hpcvlm: Command, store: Store, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    add(store, "org/theirs", A)
    add(store, "org/mine", B)
    for path in (store.folder("org/mine"), *store.folder("org/mine").rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for folder in [tmp_path, *tmp_path.parents][:4]:
        folder.chmod(folder.stat().st_mode | 0o055)
    os.chown(store.cache, NOBODY, NOBODY)
    python = [sys.executable, "-m", "hpcvlm", "snapshots", "prune", "--unused-for", "90d", "--yes"]
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *python],
        env={**hpcvlm.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "org/theirs@aaaaaaaaaaaa" in done.stderr
    assert "is not writable for you; it is root's" in done.stderr
    assert not store.folder("org/mine").exists()
    assert bytes_on_disk(store.cache) == 1002
