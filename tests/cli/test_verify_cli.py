from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.snapshots.manifest import manifest_path, read_manifest
from hpcvlm.snapshots.model import StoredSnapshot
from tests.command import Command
from tests.hub_stand_in import HubStandIn
from tests.verify_fixtures import (
    COMMIT,
    INDEX,
    REPO,
    SHARDS,
    flip,
    hub_hash,
    model_files,
    overwrite,
    store,
)


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """A hub with the model."""
    with HubStandIn({REPO: {COMMIT: model_files()}}) as stand_in:
        yield stand_in


@pytest.fixture
def hpcvlm(tmp_path: Path, hub: HubStandIn) -> Command:
    """The command, for a site with one cache."""
    command = Command(tmp_path, hub.environment())
    command.site(f"hub_caches: [{tmp_path / 'hub'}]\n")
    return command


@pytest.fixture
def stored(tmp_path: Path) -> StoredSnapshot:
    """A whole snapshot in that cache."""
    return store(tmp_path / "hub", model_files())


def downloads(hub: HubStandIn) -> set[str]:
    return {asked.file for asked in hub.requests if asked.method == "GET" and asked.sent} - {"api"}


def test_a_whole_snapshot_and_then_a_changed_one(hpcvlm: Command, stored: StoredSnapshot) -> None:
    done = hpcvlm("snapshots", "verify", REPO)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{REPO} at {COMMIT[:12]} (main): whole"
    assert lines[1] == f"  {stored.path}"
    assert lines[2] == (
        "  8 files, 6.6 kB; every byte was compared with the names of its blobs, which are the "
        "hub's hashes"
    )
    assert lines[3].startswith("  manifest: written, sha256:")
    assert len(lines) == 4

    flip(stored, SHARDS[1])
    assert hpcvlm("snapshots", "verify", REPO, "--quick").code == 0
    done = hpcvlm("snapshots", "verify", REPO, "--revision", COMMIT[:7])
    assert done.code == 1
    assert done.stdout.splitlines()[0].endswith("(main): broken")
    assert f"  {SHARDS[1]}: content differs from when it was verified (" in done.stdout
    assert done.stderr == (
        f"hpcvlm snapshots verify {REPO} --revision {COMMIT[:12]} --repair fetches the file again\n"
    )


def test_repair_fetches_what_is_bad_and_nothing_else(
    hpcvlm: Command, stored: StoredSnapshot, hub: HubStandIn
) -> None:
    hpcvlm("snapshots", "verify", REPO)
    flip(stored, SHARDS[1])
    (stored.path / SHARDS[0]).resolve().unlink()
    (stored.path / "tokenizer.json").unlink()
    config = stored.path / "config.json"
    content = config.read_bytes()
    config.unlink()
    config.write_bytes(content + b"\n")
    done = hpcvlm("snapshots", "verify", REPO, "--repair", "--json")
    assert done.code == 0, done.stdout + done.stderr
    answer = done.json()
    bad = sorted(["config.json", *SHARDS, "tokenizer.json"])
    assert answer["repaired"] == bad
    assert (answer["whole"], answer["problems"], answer["manifest"]) == (True, [], "same")
    assert downloads(hub) == set(bad)
    size = sum(len(model_files()[name]) for name in bad)
    assert f"{REPO}: fetching 4 files, {size / 1000:.1f} kB: {', '.join(bad)}" in done.stderr
    for name, content in model_files().items():
        assert (stored.path / name).read_bytes() == content
        assert (stored.path / name).resolve().name == hub_hash(content)


def test_a_quick_repair_reads_what_it_has_fetched(
    hpcvlm: Command, stored: StoredSnapshot, hub: HubStandIn
) -> None:
    overwrite(stored, SHARDS[0], model_files()[SHARDS[0]][:-5])
    answer = hpcvlm("snapshots", "verify", REPO, "--quick", "--repair", "--json").json()
    assert (answer["whole"], answer["repaired"]) == (True, [SHARDS[0]])
    assert answer["read"] == len(model_files()[SHARDS[0]])
    assert answer["manifest"] == "none"


def test_a_repair_that_nothing_needs_asks_nobody(
    hpcvlm: Command, stored: StoredSnapshot, hub: HubStandIn
) -> None:
    assert hpcvlm("snapshots", "verify", REPO, "--repair").code == 0
    assert hub.requests == []


def test_the_hub_s_list_is_asked_for_with_online(
    hpcvlm: Command, stored: StoredSnapshot, hub: HubStandIn
) -> None:
    hub.put(REPO, COMMIT, {**model_files(), "original/big.pth": b"1" * 2000})
    done = hpcvlm("snapshots", "verify", REPO, "--online")
    assert done.code == 0, done.stdout
    assert "every byte was compared with the hub's list" in done.stdout
    assert "warning: the hub has 1 file more, not here: original/big.pth" in done.stdout
    manifest = read_manifest(stored.path.parent.parent, COMMIT)
    assert manifest is not None
    assert manifest.source == "hub"


def test_without_a_network_online_is_refused_and_a_plain_verify_is_not(
    hpcvlm: Command, stored: StoredSnapshot
) -> None:
    hpcvlm.environment["HF_HUB_OFFLINE"] = "1"
    done = hpcvlm("snapshots", "verify", REPO, "--online")
    assert done.code != 0
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "Traceback" not in done.stderr
    assert hpcvlm("snapshots", "verify", REPO).code == 0


def test_all_is_a_table_with_a_row_for_each_and_no_abort(
    hpcvlm: Command, stored: StoredSnapshot, tmp_path: Path
) -> None:
    store(tmp_path / "hub", {**model_files(), INDEX: b"no JSON"}, repo="org/broken")
    (tmp_path / "hub" / "models--org--empty").mkdir()
    (tmp_path / "hub" / "models--org--empty" / "refs").write_text("a file where a folder belongs")
    done = hpcvlm("snapshots", "verify", "--all")
    assert done.code == 1
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:] if line}
    assert rows[REPO][-2:] == ["whole", "written"]
    assert rows["org/broken"][-2:] == ["broken", "-"]
    assert rows["org/empty"][-2:] == ["broken", "-"]
    assert f"  {INDEX}: not valid JSON; the hub has it so" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines()[:4])
    assert "3 snapshots, 13.0 kB; 2 broken" in done.stderr
    answer = hpcvlm("snapshots", "verify", "--all", "--quick", "--json").json()
    assert {row["repo"]: row["whole"] for row in answer} == {
        REPO: True,
        "org/broken": False,
        "org/empty": False,
    }


def test_a_copy_in_another_cache_that_differs_is_told(
    hpcvlm: Command, stored: StoredSnapshot, tmp_path: Path
) -> None:
    other = store(tmp_path / "home" / "hub", model_files())
    hpcvlm.environment["HF_HUB_CACHE"] = str(tmp_path / "home" / "hub")
    assert "warning" not in hpcvlm("snapshots", "verify", REPO).stdout
    (other.path / "config.json").unlink()
    done = hpcvlm("snapshots", "verify", REPO)
    assert done.code == 0
    assert (
        f"warning: {other.path}: another copy, and it differs: config.json only here" in done.stdout
    )


def test_what_is_not_the_approved_content_is_broken(
    hpcvlm: Command, stored: StoredSnapshot, tmp_path: Path
) -> None:
    approved = "sha256:" + "0" * 64
    lock = tmp_path / "lock.yaml"
    lock.write_text(
        f"schema: 1\nsnapshots:\n  - repo: {REPO}\n    commit: '{COMMIT}'\n"
        f"    manifest: '{approved}'\n    by: ada\n    date: '2026-11-21'\n"
    )
    hpcvlm.site(f"hub_caches: [{tmp_path / 'hub'}]\nstore:\n  lock_file: {lock}\n")
    done = hpcvlm("snapshots", "verify", REPO)
    assert done.code == 1
    assert "is not what was approved: its digest is sha256:" in done.stdout
    assert not manifest_path(stored.path.parent.parent, COMMIT).exists()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "no snapshot is named", 2),
        ((REPO, "--all"), "name one snapshot, or all of them", 2),
        (("--all", "--revision", "main"), "--revision goes with one snapshot", 2),
        (("org/nothing",), "org/nothing at revision main is in no hub cache", 3),
        ((REPO, "--revision", "v9"), f"{REPO} at revision v9 is in no hub cache", 3),
        (("no-such-model",), "no-such-model", 3),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    hpcvlm: Command, stored: StoredSnapshot, arguments: tuple[str, ...], words: str, code: int
) -> None:
    done = hpcvlm("snapshots", "verify", *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_of_the_catalog_may_lie_in_a_plain_folder(hpcvlm: Command, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    models = hpcvlm.config / "models"
    models.mkdir()
    (models / "mine.yaml").write_text(
        f"schema: 1\nname: mine\nsnapshot:\n  repo: {REPO}\n  path: {folder}\n"
    )
    done = hpcvlm("snapshots", "verify", "mine", "--json")
    assert done.code == 0, done.stderr
    answer = done.json()
    assert (answer["path"], answer["files"], answer["manifest"]) == (str(folder), 8, "written")
    done = hpcvlm("snapshots", "verify", "mine", "--repair")
    assert (done.code != 0, done.stdout) == (True, "")
    assert f"{folder} is in no hub cache" in done.stderr


def test_a_launch_is_refused_when_a_file_has_another_size_than_its_manifest(
    hpcvlm: Command, stored: StoredSnapshot
) -> None:
    models = hpcvlm.config / "models"
    models.mkdir()
    (models / "mine.yaml").write_text(f"schema: 1\nname: mine\nsnapshot:\n  repo: {REPO}\n")
    told = f"{stored.path}: tokenizer.json: 2 bytes on disk, 13 when it was verified ("
    assert hpcvlm("snapshots", "verify", "mine").code == 0
    assert told not in " ".join(hpcvlm("plan", "mine", "--executor", "local").stdout.split())
    overwrite(stored, "tokenizer.json", b"{}")
    done = hpcvlm("plan", "mine", "--executor", "local")
    assert done.code != 0
    assert told in " ".join(done.stdout.split())


def as_nobody(hpcvlm: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    return subprocess.run(
        [*argv, sys.executable, "-m", "hpcvlm", *arguments],
        env={**hpcvlm.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_repair_of_somebody_else_s_store_is_refused_before_anything(
    hpcvlm: Command, stored: StoredSnapshot, hub: HubStandIn, tmp_path: Path
) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if str(folder) != "/tmp":
            folder.chmod(0o755)
    flip(stored, SHARDS[0])
    done = as_nobody(hpcvlm, "snapshots", "verify", REPO, "--repair")
    assert done.returncode != 0
    assert "not writable for nobody" in done.stderr
    assert hub.requests == []
    assert as_nobody(hpcvlm, "snapshots", "verify", REPO).returncode == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_repository_that_may_not_be_read_is_a_row_of_all(
    hpcvlm: Command, stored: StoredSnapshot, tmp_path: Path
) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if str(folder) != "/tmp":
            folder.chmod(0o755)
    other = store(tmp_path / "hub", model_files(), repo="org/secret")
    other.path.parent.parent.chmod(0o700)
    done = as_nobody(hpcvlm, "snapshots", "verify", "--all", "--quick")
    assert done.returncode == 1
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:] if line}
    assert (rows[REPO][-2], rows["org/secret"][-2]) == ("whole", "broken")
    assert "Permission denied" in done.stdout
    assert "Traceback" not in done.stderr
    done = as_nobody(hpcvlm, "snapshots", "verify", "org/secret")
    assert done.returncode == 3
    assert f"{other.path.parent.parent}: " in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_leaves_nothing(hpcvlm: Command, tmp_path: Path) -> None:
    stored = store(tmp_path / "hub", model_files())
    blob = stored.path.parent.parent / "blobs" / ("f" * 64)
    with blob.open("wb") as stream:
        stream.truncate(20 * 10**9)  # a hole: it takes no space, but its time to hash
    (stored.path / "large.bin").symlink_to(f"../../blobs/{blob.name}")
    process = hpcvlm.start("snapshots", "verify", REPO)
    assert process.stderr is not None
    assert process.stderr.readline() == f"{REPO}: reading 20.0 GB\n"
    time.sleep(0.1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - begun < 8
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == "interrupted: nothing was verified, and nothing was written\n"
    assert not (stored.path.parent.parent / ".hpcvlm").exists()
