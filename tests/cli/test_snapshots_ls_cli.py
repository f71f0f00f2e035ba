"""hpcvlm snapshots ls, show and audit: what is listed, what passes, what is told and refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.ops.context import Context
from hpcvlm.ops.snapshots_ls import SnapshotFilter, Sort, list_snapshots
from hpcvlm.snapshots.lock import write_lock
from hpcvlm.snapshots.manifest import write_manifest
from hpcvlm.snapshots.model import Approval, Manifest, ManifestFile
from hpcvlm.system.settings import load_settings
from tests.command import Command, Done
from tests.hub_store import (
    COMMIT_A,
    COMMIT_B,
    COMMIT_C,
    NOBODY,
    add_snapshot,
    digest,
    index_of,
    repository,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
SHARD = b"1" * 1000
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A whole snapshot, one that shares its shard and lacks another, and a broken repository."""
    cache = tmp_path / "hub"
    files = {"README.md": CARD, "m-1.safetensors": SHARD}
    add_snapshot(cache, QWEN, COMMIT_A, files, ref="main")
    index = {"m.safetensors.index.json": index_of("m-1.safetensors", "m-2.safetensors")}
    add_snapshot(cache, QWEN, COMMIT_B, {**index, "m-1.safetensors": SHARD})
    add_snapshot(cache, "org/small", COMMIT_A, {"x.bin": b"x"}, ref="main")
    broken = repository(cache, "org/broken")
    (broken / "refs" / "main").write_text(COMMIT_C)
    (broken / "blobs" / "abc.incomplete").write_bytes(b"12345")
    return cache


@pytest.fixture
def hpcvlm(tmp_path: Path, hub: Path) -> Command:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = Command(
        tmp_path,
        {
            "HOME": str(tmp_path / "home"),
            "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
            # Without Slurm's commands, so that only the records say what runs.
            "PATH": str(bin_folder),
        },
    )
    command.site(f"hub_caches: [{hub}]\n")
    return command


def listed(done: Done) -> list[tuple[str, str]]:
    assert done.code == 0, done.stderr
    return [(one["repo"], one["commit"]) for one in done.json()["snapshots"]]


def lines(done: Done) -> list[str]:
    assert done.code == 0, done.stderr
    return done.stdout.splitlines()


# ---- ls ---------------------------------------------------------------------------------------


def test_the_table_has_every_snapshot_and_what_is_wrong(hpcvlm: Command, hub: Path) -> None:
    done = hpcvlm("snapshots", "ls")
    table, _, problems = done.stdout.partition("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows[1:]] == [
        ("org/broken", "-", "broken"),
        ("org/small", "aaaaaaaa", "ok"),
        (QWEN, "aaaaaaaa", "ok"),
        (QWEN, "bbbbbbbb", "incomplete"),
    ]
    assert "m-2.safetensors: named in the index, not on disk" in problems
    assert f"refs/main: names {COMMIT_C}, which is not here" in problems
    assert "1 unfinished download, 5 B, last written today" in problems
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stderr == "3 snapshots of 3 repositories, 1.1 kB on disk; 2 not complete\n"


def test_json_has_everything(hpcvlm: Command, hub: Path) -> None:
    found = hpcvlm("snapshots", "ls", "--repo", "qwen*", "--json").json()
    assert found["caches"] == [str(hub), str(hub.parent / "home" / "hub")]
    assert found["uses_known"] is True
    first, second = found["snapshots"]
    index = len(index_of("m-1.safetensors", "m-2.safetensors"))
    assert (first["size"], first["own_size"], first["shared_size"]) == (
        1000 + len(CARD),
        len(CARD),
        1000,
    )
    assert (second["size"], second["own_size"]) == (1000 + index, index)
    assert found["size"] == 1000 + len(CARD) + index
    assert (first["refs"], first["complete"], first["missing"]) == (["main"], True, [])
    assert (second["refs"], second["complete"]) == ([], False)
    assert "qwen2.5-vl-7b" in first["models"]
    assert second["models"] == []
    assert (first["pinned"], first["uses"], first["verified"]) == (None, [], None)
    assert first["path"] == f"{hub}/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/{COMMIT_A}"
    (only,) = found["repositories"]
    assert only["refs"] == {"main": COMMIT_A}
    broken = hpcvlm("snapshots", "ls", "--repo", "org/broken", "--json").json()
    assert broken["snapshots"] == []
    (repository_found,) = broken["repositories"]
    assert repository_found["refs_without_snapshot"] == ["main"]
    assert [one["size"] for one in repository_found["unfinished"]] == [5]


def test_filters(hpcvlm: Command, hub: Path) -> None:
    ctx = Context(load_settings(hpcvlm.environment), hpcvlm.environment)

    def found(sort: Sort = "name", **wanted: Any) -> list[tuple[str, str]]:
        listing = list_snapshots(ctx, SnapshotFilter(**wanted), sort)
        each = [one.summary.snapshot for one in listing.listed]
        return [(one.repo, one.commit) if one else ("broken", "") for one in each]

    small, qwen_a, qwen_b = ("org/small", COMMIT_A), (QWEN, COMMIT_A), (QWEN, COMMIT_B)
    broken = ("broken", "")
    assert found() == [broken, small, qwen_a, qwen_b]
    assert found(incomplete=True) == [broken, qwen_b]
    assert found(repo="SMALL") == [small]
    assert found(repo="org/*") == [broken, small]
    assert found(in_use=True) == []
    assert found(owner="nobody-here") == []
    assert found(owner=str(os.getuid())) == [broken, small, qwen_a, qwen_b]
    assert found("size") == [qwen_b, qwen_a, broken, small]
    assert found(caches=(hub.parent,)) == []
    long_ago = time.time() - 40 * 86400
    for blob in (hub / "models--org--small" / "blobs").iterdir():
        os.utime(blob, (long_ago, long_ago))
    assert found(unused_for=30 * 86400.0) == [small]
    assert found(unused_for=60 * 86400.0) == []
    assert found("last-use")[0] == small
    assert found("last-use")[-1] == broken
    done = hpcvlm("snapshots", "ls", "--repo", "small", "--unused-for", "30d", "--sort", "owner")
    assert "40 days" in done.stdout


@needs_root
def test_the_owner(hpcvlm: Command, hub: Path) -> None:
    for blob in (hub / "models--org--small" / "blobs").iterdir():
        os.chown(blob, NOBODY, NOBODY)
    found = listed(hpcvlm("snapshots", "ls", "--owner", "nobody", "--json"))
    assert found == [("org/small", COMMIT_A)]


def test_what_is_pinned(hpcvlm: Command) -> None:
    entry = Approval(QWEN, COMMIT_A, "", "apache-2.0", "ada", "2026-01-02", "for the course")
    write_lock(hpcvlm.config / "snapshots.lock.yaml", [entry])
    pinned = hpcvlm("snapshots", "ls", "--pinned", "--json").json()
    assert [one["pinned"]["by"] for one in pinned["snapshots"]] == ["ada"]
    assert len(listed(hpcvlm("snapshots", "ls", "--unpinned", "--json"))) == 2
    assert "ok, pinned" in hpcvlm("snapshots", "ls").stdout
    shown = hpcvlm("snapshots", "show", QWEN).stdout
    assert "2026-01-02 by ada: for the course" in shown
    (hpcvlm.config / "snapshots.lock.yaml").write_text("snapshots: 3\n")
    done = hpcvlm("snapshots", "ls")
    assert done.code == 0
    assert "note: what is pinned is unknown: " in done.stderr
    assert hpcvlm("snapshots", "ls", "--pinned").code == 2


def test_what_jobs_serve(hpcvlm: Command, tmp_path: Path) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f'#!/bin/sh\necho "7|ada|hpcvlm:{QWEN}@{COMMIT_A}|eyes"\n')
    squeue.chmod(0o755)
    (tmp_path / "bin" / "scontrol").write_text('#!/bin/sh\necho "PrivateData = none"\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    (one,) = hpcvlm("snapshots", "ls", "--in-use", "--json").json()["snapshots"]
    assert (one["commit"], one["uses"][0]["user"], one["uses"][0]["job"]) == (COMMIT_A, "ada", "7")
    assert "ok, in use (1)" in hpcvlm("snapshots", "ls").stdout
    assert "eyes (job 7, ada)" in hpcvlm("snapshots", "show", QWEN).stdout
    squeue.write_text("#!/bin/sh\necho slurm is away >&2\nexit 1\n")
    done = hpcvlm("snapshots", "ls", "--json")
    assert done.json()["uses_known"] is False
    assert "note: Slurm did not say what runs" in done.stderr


def test_bytes_that_are_no_text_and_terminal_codes(hpcvlm: Command, hub: Path) -> None:
    place = hub / "models--org--small" / "snapshots" / COMMIT_A
    (place / os.fsdecode(b"\xff\x1b[31m.index.json")).write_bytes(b"{")
    (hub / os.fsdecode(b"models--org--\xfe\x1b[2J")).mkdir()
    done = hpcvlm("snapshots", "ls")
    assert done.code == 0
    assert "\x1b" not in done.stdout
    assert r"org/\xfe\x1b[2J" in done.stdout
    assert r"\xff\x1b[31m.index.json: is no index of shards" in done.stdout
    repos = {one["repo"] for one in hpcvlm("snapshots", "ls", "--json").json()["repositories"]}
    assert "org/\\xfe\x1b[2J" in repos
    assert hpcvlm("snapshots", "show", "org/small", "--json").code == 0


def test_nothing_to_list_and_what_is_refused(hpcvlm: Command, tmp_path: Path) -> None:
    done = hpcvlm("snapshots", "ls", "--repo", "nothing-like-it")
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr.startswith("0 snapshots of 0 repositories, 0 B on disk; looked into ")
    for arguments, code in (
        (("--unused-for", "soon"), 2),
        (("--cache", str(tmp_path / "none")), 2),
        (("--sort", "colour"), 2),
    ):
        assert hpcvlm("snapshots", "ls", *arguments).code == code


def test_the_bundled_model_only_when_asked_for(hpcvlm: Command) -> None:
    found = listed(hpcvlm("snapshots", "ls", "--bundled", "--json", "--repo", "tiny"))
    assert [repo for repo, _ in found] == ["hpcvlm/tiny-vlm"]
    assert hpcvlm("snapshots", "show", "tiny-vlm").code == 0


# ---- show -------------------------------------------------------------------------------------


def test_show_by_model_and_by_repository(hpcvlm: Command, hub: Path) -> None:
    kept = {"m-1.safetensors": ManifestFile(1000, digest(SHARD), digest(SHARD))}
    folder = hub / "models--Qwen--Qwen2.5-VL-7B-Instruct"
    write_manifest(folder, Manifest(QWEN, COMMIT_A, kept, 1_700_000_000.0, "ada", "hub"))
    done = hpcvlm("snapshots", "show", "qwen2.5-vl-7b")
    text = lines(done)
    assert text[0] == f"{QWEN} {COMMIT_A}"
    assert "  licence       apache-2.0" in text
    assert "  verified      2023-11-14T22:13:20+00:00 by ada" in text
    assert "  used by       no job" in text
    found = hpcvlm("snapshots", "show", QWEN.lower(), "--json").json()
    assert found["manifest"] == {
        "created": "2023-11-14T22:13:20+00:00",
        "by": "ada",
        "source": "hub",
    }
    files: dict[str, Any] = {one["path"]: one for one in found["files"]}
    assert files["m-1.safetensors"] == {
        "path": "m-1.safetensors",
        "size": 1000,
        "blob": digest(SHARD),
        "link": f"../../blobs/{digest(SHARD)}",
        "sha256": digest(SHARD),
    }
    assert files["README.md"]["sha256"] is None
    other = hpcvlm("snapshots", "show", QWEN, "--revision", "b" * 7, "--json").json()
    assert (other["commit"], other["complete"]) == (COMMIT_B, False)


def test_a_repository_with_one_commit_needs_no_ref(hpcvlm: Command, hub: Path) -> None:
    (hub / "models--org--small" / "refs" / "main").unlink()
    assert lines(hpcvlm("snapshots", "show", "org/small"))[0] == f"org/small {COMMIT_A}"
    assert hpcvlm("snapshots", "show", "org/small", "--revision", "main").code == 3


def test_what_is_not_there_is_told_with_what_is(hpcvlm: Command, hub: Path) -> None:
    done = hpcvlm("snapshots", "show", QWEN, "--revision", "v9")
    assert done.code == 3
    assert f"{QWEN} has no snapshot of revision v9 on disk" in done.stderr
    assert f"on disk: {COMMIT_A} main" in done.stderr
    done = hpcvlm("snapshots", "show", "org/none")
    assert done.code == 3
    assert done.stderr.splitlines()[-1].endswith("hpcvlm snapshots pull org/none")
    add_snapshot(hub, QWEN, "b" * 39 + "c", {"x.bin": b"x"})
    done = hpcvlm("snapshots", "show", QWEN, "--revision", "b" * 10)
    assert done.code == 2
    assert "2 snapshots that begin with bbbbbbbbbb" in done.stderr
    assert hpcvlm("snapshots", "show", "no-such-model").code == 3


# ---- audit ------------------------------------------------------------------------------------


def settle(hub: Path) -> None:
    for path in (hub, *hub.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o2750 if path.is_dir() else 0o640)


def test_audit_ends_with_1_when_there_are_errors(hpcvlm: Command, hub: Path) -> None:
    settle(hub)
    done = hpcvlm("snapshots", "audit")
    assert done.code == 0
    assert f"{hub} (access: group)" in done.stdout
    assert "nothing is wrong" in done.stdout
    (shard,) = (hub / "models--org--small" / "blobs").iterdir()
    shard.chmod(0o646)
    done = hpcvlm("snapshots", "audit", str(hub))
    assert done.code == 1
    assert f"error: {shard}\n    may be changed by everybody\n" in done.stdout
    assert f"try: chmod o-w {shard}" in done.stdout
    found = hpcvlm("snapshots", "audit", "--json").json()
    assert found["errors"] == 1
    (cache,) = found["caches"]
    (finding,) = cache["findings"]
    assert (finding["kind"], finding["paths"]) == ("world-writable", [str(shard)])
    assert shard.stat().st_mode & 0o777 == 0o646


def test_audit_by_another_rule_and_what_is_refused(hpcvlm: Command, hub: Path) -> None:
    settle(hub)
    assert hpcvlm("snapshots", "audit", "--access", "world").code == 1
    assert hpcvlm("snapshots", "audit", str(hub / "none")).code == 2
    hpcvlm.site(f"hub_caches: [{hub}]\nstore: {{group: no-such-group}}\n")
    done = hpcvlm("snapshots", "audit")
    assert done.code == 2
    assert "no-such-group" in done.stderr
    hpcvlm.site("name: nowhere\n")
    assert "no hub cache" in hpcvlm("snapshots", "audit").stdout


def test_audit_of_users_own_caches(hpcvlm: Command, hub: Path, tmp_path: Path) -> None:
    settle(hub)
    for user in ("ada", "bob"):
        own = tmp_path / "users" / user / "hub"
        add_snapshot(own, QWEN, COMMIT_A, {"m-1.safetensors": SHARD})
        add_snapshot(own, "org/theirs", COMMIT_A, {"t.bin": b"t" * 3000})
    pattern = f"{tmp_path}/users/*/hub"
    done = hpcvlm("snapshots", "audit", "--users", pattern)
    assert done.code == 0
    assert "one shared store would save 5.0 kB in 2 caches" in done.stdout
    hpcvlm.site(f"hub_caches: [{hub}]\nstore: {{user_caches: ['{pattern}']}}\n")
    found = hpcvlm("snapshots", "audit", "--json").json()["user_caches"]
    assert (found["saved"], found["caches"]) == (5000, 2)
    assert [(one["repo"], one["in_store"], one["saved"]) for one in found["repositories"]] == [
        ("org/theirs", False, 3000),
        (QWEN, True, 2000),
    ]
