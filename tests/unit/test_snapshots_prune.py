from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcvlm.snapshots.file_locks import blob_lock, is_downloading, repository_lock
from hpcvlm.snapshots.model import Approval, Use, Uses
from hpcvlm.snapshots.prune.delete import (
    delete,
    empty_trash,
    linked_blobs,
    other_names,
    trash_bytes,
)
from hpcvlm.snapshots.prune.model import Circumstances, Kept, Policy, PrunePlan, Row
from hpcvlm.snapshots.prune.plan import plan_prune
from hpcvlm.snapshots.store import scan_cache
from tests.command import ROOT
from tests.hub_stand_in import HubStandIn
from tests.unit.stores import DAY, NOW, Store, blob_name, broken, bytes_on_disk, commit_of, forked

A, B, C, D = (commit_of(letter) for letter in "abcd")
AROUND = Circumstances(now=NOW)
OLD = NOW - 200 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


def plan(store: Store, policy: Policy, around: Circumstances = AROUND) -> PrunePlan:
    return plan_prune(scan_cache(store.cache), policy, around)


def commits(made: PrunePlan) -> list[tuple[str, str]]:
    return [(row.repo, row.commit[0]) for row in made.rows if row.kind == "snapshot"]


def kept(made: PrunePlan, commit: str) -> Kept:
    (found,) = [one for one in made.kept if one.commit == commit]
    return found


def no_sleep(_seconds: float) -> None:
    return


def carry_out(made: PrunePlan) -> int:
    outcomes = [delete(row, lambda _: "", no_sleep) for row in made.rows]
    assert [o for o in outcomes if o.problem or o.skipped] == []
    return sum(outcome.freed for outcome in outcomes)


def weights(letter: str, size: int = 100) -> dict[str, bytes]:
    return {"model.safetensors": letter.encode() * size, "config.json": b"{}" + letter.encode()}


# ---- what is chosen -----------------------------------------------------------------------------


def test_by_age_only_what_nobody_has_read(store: Store) -> None:
    store.snapshot("org/old", A, weights("a"), refs=["main"], used=OLD)
    store.snapshot("org/new", B, weights("b"), refs=["main"], used=NOW - DAY)
    made = plan(store, Policy(unused_for_s=90 * DAY))
    assert commits(made) == [("org/old", "a")]
    assert made.rows[0].reason == "unused for 200 days"
    assert made.size == 100 + 3
    assert kept(made, B).why == "used 24 hours ago"
    assert not kept(made, B).wanted


def test_a_config_that_was_read_is_no_use(store: Store) -> None:
    path = store.snapshot("org/old", A, weights("a"), used=OLD)
    os.utime(path / "config.json", (NOW, OLD))
    assert commits(plan(store, Policy(unused_for_s=90 * DAY))) == [("org/old", "a")]
    os.utime(path / "model.safetensors", (NOW, OLD))
    assert commits(plan(store, Policy(unused_for_s=90 * DAY))) == []


def test_without_access_times_age_says_nothing(store: Store) -> None:
    store.snapshot("org/old", A, weights("a"), refs=["main"], used=OLD)
    around = replace(AROUND, no_access_times=frozenset([store.folder("org/old")]))
    for policy in (Policy(unused_for_s=90 * DAY), Policy(free_bytes=1)):
        made = plan(store, policy, around)
        assert made.rows == ()
        assert kept(made, A).why == "last use unknown"
    assert commits(plan(store, Policy(everything=True, repo="org/old"), around)) == [
        ("org/old", "a")
    ]


def test_unreferenced_is_what_neither_a_ref_nor_a_model_names(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), refs=["main", "refs/pr/1"], used=OLD)
    store.snapshot("org/m", B, weights("b"), used=OLD)
    store.snapshot("org/m", C, weights("c"), used=OLD)
    store.snapshot("org/m", D, weights("d"), used=OLD)
    for blob in (store.folder("org/m") / "snapshots" / D).iterdir():
        os.utime(blob, (NOW, NOW - 60))
    around = replace(AROUND, named={("org/m", C): "m-3b"})
    made = plan(store, Policy(unreferenced=True), around)
    assert commits(made) == [("org/m", "b")]
    assert kept(made, A).why == "main, refs/pr/1 points to it"
    assert kept(made, C).why == "the model m-3b names it"
    assert kept(made, D).why == "younger than a day: it may be part of a download"


def test_shared_blobs_count_when_the_last_of_their_users_goes(store: Store) -> None:
    shared = {"model.safetensors": b"s" * 1000}
    store.snapshot("org/m", A, {**shared, "a.json": b"1"}, used=OLD)
    store.snapshot("org/m", B, {**shared, "b.json": b"22"}, refs=["main"], used=OLD)
    one = plan(store, Policy(unreferenced=True))
    assert (commits(one), one.size) == ([("org/m", "a")], 1)
    both = plan(store, Policy(unused_for_s=DAY))
    assert [row.size for row in both.rows] == [1, 1002]


def test_another_name_of_a_file_keeps_its_bytes(store: Store, tmp_path: Path) -> None:
    path = store.snapshot("org/m", A, weights("a"), used=OLD)
    os.link((path / "model.safetensors").resolve(), tmp_path / "elsewhere")
    around = replace(AROUND, names=other_names(store.folder("org/m")))
    made = plan(store, Policy(unused_for_s=DAY), around)
    assert made.size == 3
    assert carry_out(made) == 3


def test_blobs_that_two_repositories_have_as_hard_links_count_once_both_go(store: Store) -> None:
    first = store.snapshot("org/a", A, weights("x"), used=OLD)
    second = store.snapshot("org/b", B, {"config.json": b"b"}, used=OLD)
    blob = (first / "model.safetensors").resolve()
    os.link(blob, store.folder("org/b") / "blobs" / blob.name)
    (second / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    names = {**other_names(store.folder("org/a")), **other_names(store.folder("org/b"))}
    around = replace(AROUND, names=names)
    assert plan(store, Policy(unused_for_s=DAY, repo="org/a"), around).size == 3
    made = plan(store, Policy(unused_for_s=DAY), around)
    assert [row.size for row in made.rows] == [3, 101]
    assert carry_out(made) == 104


def test_a_blob_in_the_hubs_store_of_shared_ones_goes_with_its_last_link(store: Store) -> None:
    shared = pytest.importorskip(
        "huggingface_hub.utils._shared_blobs",
        reason="older versions of huggingface_hub share no blobs",
    )
    for repo, commit in (("org/a", A), ("org/b", B)):
        path = store.snapshot(repo, commit, {"model.safetensors": b"x" * 500}, used=OLD)
        assert shared.publish_blob_to_shared_store(
            blob_path=str((path / "model.safetensors").resolve()),
            xet_hash="f" * 64,
            cache_dir=store.cache,
            expected_size=500,
            replace_existing=False,
        )
    (payload,) = (store.cache / "blobs").rglob("f" * 64)
    os.utime(payload, (OLD, OLD))
    names = {**other_names(store.folder("org/a")), **other_names(store.folder("org/b"))}
    assert set(names.values()) == {2}
    around = replace(AROUND, names=names)
    one = plan(store, Policy(unused_for_s=DAY, repo="org/a"), around)
    assert (len(one.rows), one.size) == (1, 0)
    both = plan(store, Policy(unused_for_s=DAY), around)
    assert [row.size for row in both.rows] == [0, 500]
    assert carry_out(one) == 0
    assert broken(store.cache) == []
    rest = plan(store, Policy(unused_for_s=DAY), replace(AROUND, names={}))
    assert carry_out(rest) == 500
    assert not payload.exists()


def test_a_link_from_another_repository_protects(store: Store) -> None:
    path = store.snapshot("org/a", A, weights("x"), used=OLD)
    other = store.snapshot("org/b", B, {"config.json": b"b"}, refs=["main"], used=NOW)
    (other / "model.safetensors").symlink_to((path / "model.safetensors").resolve())
    made = plan(store, Policy(unused_for_s=DAY, repo="org/a"))
    assert made.rows == ()
    assert kept(made, A).why == "a file of another folder links to a file of it"


def test_what_is_pinned_stays_whatever_the_policy(store: Store) -> None:
    store.snapshot("Org/M", A, weights("a"), used=OLD)
    pin = Approval("org/m", A, "", "mit", "alice", "2026-11-21", "the paper")
    around = replace(AROUND, approvals=(pin,))
    for policy in (
        Policy(unused_for_s=DAY),
        Policy(unreferenced=True),
        Policy(free_bytes=1),
        Policy(everything=True, repo="org/m"),
    ):
        made = plan(store, policy, around)
        assert made.rows == ()
        assert kept(made, A).why == "pinned by alice on 2026-11-21: the paper"
        assert kept(made, A).wanted


def test_what_anybody_s_job_serves_stays(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    store.snapshot("org/m", B, weights("b"), used=OLD)
    store.snapshot("org/n", C, weights("c"), used=OLD)
    uses = Uses(
        (Use("Org/M", A, "4711", "carol", "vlm"), Use("org/n", "main", "process 7", "me", "x"))
    )
    made = plan(store, Policy(unused_for_s=DAY), replace(AROUND, uses=uses))
    assert commits(made) == [("org/m", "b")]
    assert kept(made, A).why == "used by job 4711 of carol (vlm)"
    assert kept(made, C).why == "used by process 7 of me (x)"


def test_a_download_in_a_repository_protects_all_of_it(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    store.blob("org/m", b"part", at=OLD, name="e" * 64 + ".incomplete")
    around = replace(AROUND, downloading=frozenset([store.folder("org/m")]))
    made = plan(store, Policy(unused_for_s=DAY, incomplete=True), around)
    assert made.rows == ()
    assert {one.why for one in made.kept} == {"a download is going on in this repository"}


def test_unfinished_downloads_and_orphans_older_than_a_day(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), refs=["main"], used=NOW)
    store.blob("org/m", b"orphan", at=OLD)
    store.blob("org/m", b"part", at=OLD, name="e" * 64 + ".incomplete")
    young = store.blob("org/m", b"young", at=NOW, name="f" * 64 + ".1a2b3c4d.incomplete")
    os.utime(young, (NOW, NOW - 60))
    made = plan(store, Policy(incomplete=True, orphans=True))
    assert [(row.kind, row.size, len(row.files)) for row in made.rows] == [
        ("incomplete", 4, 1),
        ("orphans", 6, 1),
    ]
    assert kept(made, young.name).why.startswith("younger than a day")
    assert carry_out(made) == 10
    assert broken(store.cache) == []
    assert young.exists()


def test_room_is_made_by_the_longest_unused_first_and_no_more_than_asked(store: Store) -> None:
    for number, letter in enumerate("abcd"):
        store.snapshot(f"org/{letter}", commit_of(letter), weights(letter), used=OLD + number * DAY)
    made = plan(store, Policy(free_bytes=150))
    assert commits(made) == [("org/a", "a"), ("org/b", "b")]
    assert made.short_of == 0
    assert kept(made, C).why == "not needed for the room that was asked for"


def test_what_the_target_does_not_need_is_not_taken(store: Store) -> None:
    store.snapshot("org/small", A, weights("a", 10), used=OLD)
    store.snapshot("org/large", B, weights("b", 1000), used=OLD + DAY)
    assert commits(plan(store, Policy(free_bytes=900))) == [("org/large", "b")]
    assert commits(plan(store, Policy(free_bytes=1010))) == [("org/small", "a"), ("org/large", "b")]


def test_with_a_target_other_policies_say_what_may_go(store: Store) -> None:
    store.snapshot("org/a", A, weights("a"), used=OLD)
    store.snapshot("org/b", B, weights("b"), used=OLD + DAY)
    store.snapshot("org/c", C, weights("c"), used=NOW - DAY)
    enough = plan(store, Policy(free_bytes=100, unused_for_s=90 * DAY))
    assert (commits(enough), enough.short_of) == ([("org/a", "a")], 0)
    short = plan(store, Policy(free_bytes=300, unused_for_s=90 * DAY))
    assert (commits(short), short.short_of) == ([("org/a", "a"), ("org/b", "b")], 300 - 206)
    assert kept(short, C).why == "used 24 hours ago"


def test_a_target_that_cannot_be_met_says_by_how_much(store: Store) -> None:
    store.snapshot("org/a", A, weights("a"), used=OLD)
    store.snapshot("org/b", B, weights("b"), used=OLD)
    pin = Approval("org/b", B, "", "", "alice", "2026-11-21")
    made = plan(store, Policy(free_bytes=1000), replace(AROUND, approvals=(pin,)))
    assert (commits(made), made.short_of) == ([("org/a", "a")], 1000 - 103)


def test_a_limit_to_a_repository_or_a_commit(store: Store) -> None:
    store.snapshot("org/a", A, weights("a"), used=OLD)
    store.snapshot("org/a", B, weights("b"), used=OLD)
    store.snapshot("org/b", C, weights("c"), used=OLD)
    assert commits(plan(store, Policy(unused_for_s=DAY, repo="ORG/A"))) == [
        ("org/a", "a"),
        ("org/a", "b"),
    ]
    assert commits(plan(store, Policy(everything=True, repo="org/a", commit=B))) == [("org/a", "b")]


# ---- what is deleted ----------------------------------------------------------------------------


def test_a_repository_in_which_nothing_is_left_goes_with_its_locks(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), refs=["main", "refs/pr/2"], used=OLD)
    store.hold("org/m", blob_name(b"a" * 100))
    absent = store.folder("org/m") / ".no_exist" / A / "adapter.json"
    absent.parent.mkdir(parents=True)
    absent.touch()
    (store.folder("org/m") / ".hpcvlm" / "manifests").mkdir(parents=True)
    for commit in (A, C):
        (store.folder("org/m") / ".hpcvlm" / "manifests" / f"{commit}.json").touch()
    assert carry_out(plan(store, Policy(unused_for_s=DAY))) == 103
    assert [path.name for path in store.cache.rglob("*")] == [".locks"]


@pytest.mark.parametrize("begun", [f"listings/{B}.json", "import-01234567/model.safetensors"])
def test_what_has_just_begun_in_an_empty_repository_goes_on(store: Store, begun: str) -> None:
    store.snapshot("org/m", A, weights("a"), refs=["main"], used=OLD)
    path = store.folder("org/m") / ".hpcvlm" / begun
    path.parent.mkdir(parents=True)
    path.touch()
    assert carry_out(plan(store, Policy(unused_for_s=DAY))) == 103
    assert path.exists()


def test_what_another_snapshot_needs_stays_whole(store: Store) -> None:
    shared = {"model.safetensors": b"s" * 1000}
    store.snapshot("org/m", A, {**shared, "a.json": b"1"}, refs=["old"], used=OLD)
    store.snapshot("org/m", B, {**shared, "b.json": b"22"}, refs=["main"], used=NOW)
    made = plan(store, Policy(everything=True, repo="org/m", commit=A))
    assert carry_out(made) == 1
    assert broken(store.cache) == []
    (left,) = scan_cache(store.cache)
    assert [s.commit for s in left.snapshots] == [B]
    assert left.refs == {"main": B}
    assert trash_bytes(store.folder("org/m")) is None


def one_row(store: Store) -> Row:
    (row,) = plan(store, Policy(unused_for_s=DAY)).rows
    return row


def test_what_has_changed_since_it_was_chosen_is_not_deleted(store: Store) -> None:
    path = store.snapshot("org/m", A, weights("a"), refs=["main"], used=OLD)
    row = one_row(store)
    assert delete(row, lambda _: "pinned by eve", no_sleep).skipped == "pinned by eve"
    os.utime(path / "model.safetensors", (NOW, OLD))
    assert delete(row, lambda _: "", no_sleep).skipped == "it was read meanwhile"
    os.utime(path / "model.safetensors", (OLD, OLD))
    (path / "extra.json").write_text("{}")
    assert delete(row, lambda _: "", no_sleep).skipped == "its files have changed meanwhile"
    (path / "extra.json").unlink()
    with repository_lock(row.folder) as held:
        assert held
        assert "another prune is at work" in delete(row, lambda _: "", no_sleep).skipped
    assert broken(store.cache) == []
    assert bytes_on_disk(store.cache) == 103
    assert delete(row, lambda _: "", no_sleep).freed == 103
    assert delete(row, lambda _: "", no_sleep).skipped == "it is gone already"


def test_a_branch_that_points_to_it_meanwhile_saves_the_unreferenced(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    (row,) = plan(store, Policy(unreferenced=True)).rows
    store.ref("org/m", "main", A)
    assert delete(row, lambda _: "", no_sleep).skipped == "main points to it meanwhile"


def test_a_blob_that_a_download_holds_stays(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    row = one_row(store)
    lock = store.hold("org/m", blob_name(b"a" * 100))

    def begin(_row: Row) -> str:
        """A download begins at the last moment."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return ""

    descriptor = os.open(lock, os.O_RDWR)
    try:
        outcome = delete(row, begin, no_sleep)
        assert is_downloading(row.folder)
    finally:
        os.close(descriptor)
    assert (outcome.freed, outcome.skipped) == (3, "1 blobs stay: a download holds them")
    assert (row.folder / "blobs" / blob_name(b"a" * 100)).exists()
    assert not is_downloading(row.folder)


def test_a_link_made_while_its_blob_was_moved_gets_it_back(store: Store) -> None:
    """huggingface_hub looks for a blob, waits for its lock, then links to it."""
    store.snapshot("org/m", A, weights("a"), refs=["main"], used=OLD)
    row = one_row(store)
    name = blob_name(b"a" * 100)

    def link(_seconds: float) -> None:
        path = row.folder / "snapshots" / B / "model.safetensors"
        path.parent.mkdir()
        path.symlink_to(f"../../blobs/{name}")

    assert delete(row, lambda _: "", link).freed == 3
    assert broken(store.cache) == []
    assert (row.folder / "snapshots" / B / "model.safetensors").read_bytes() == b"a" * 100


def test_a_ref_written_while_its_commit_went_does_not_stay(store: Store) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    row = one_row(store)
    delete(row, lambda _: "", lambda _: store.ref("org/m", "main", A))
    assert broken(store.cache) == []


def test_an_unfinished_download_that_goes_on_stays(store: Store) -> None:
    part = store.blob("org/m", b"part", at=OLD, name="e" * 64 + ".0a1b2c3d.incomplete")
    (row,) = plan(store, Policy(incomplete=True)).rows
    store.hold("org/m", "e" * 64)
    with blob_lock(row.folder, part.name) as held:
        assert held
        outcome = delete(row, lambda _: "", no_sleep)
    assert (outcome.freed, part.exists()) == (0, True)
    part.write_bytes(b"more")
    assert "written to" in delete(row, lambda _: "", no_sleep).skipped
    assert part.exists()


def test_a_trash_that_was_left_is_put_back_or_deleted(store: Store) -> None:
    path = store.snapshot("org/m", A, weights("a"), used=OLD)
    folder = store.folder("org/m")
    trash = folder / ".hpcvlm" / "trash" / "01234567"
    needed = (path / "model.safetensors").resolve()
    for name, content in {"blobs/needless": "12345", "refs/main": A, "refs/v1": B}.items():
        (trash / name).parent.mkdir(parents=True, exist_ok=True)
        (trash / name).write_text(content)
    needed.rename(trash / "blobs" / needed.name)
    assert trash_bytes(folder) == 105
    assert empty_trash(folder) == (5, "")
    assert broken(store.cache) == []
    assert scan_cache(store.cache)[0].refs == {"main": A}
    assert trash_bytes(folder) is None


def test_links_that_cannot_be_read_are_not_taken_for_none(store: Store, tmp_path: Path) -> None:
    store.snapshot("org/m", A, weights("a"), used=OLD)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        linked_blobs(tmp_path / "file")
    assert len(linked_blobs(store.folder("org/m"))) == 2


# ---- stopped anywhere -------------------------------------------------------------------------


def kill_at(step: int) -> Callable[[], None]:
    """SIGKILL right before the step-th change of a folder that this process makes."""
    changes = 0

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **more: object) -> None:
            nonlocal changes
            changes += 1
            if changes == step:
                os.kill(os.getpid(), signal.SIGKILL)
            change(*args, **more)

        return call

    def patch() -> None:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))

    return patch


def two_snapshots(folder: Path) -> Store:
    store = Store(folder)
    shared = {"model-1.safetensors": b"s" * 1000, "config.json": b"{}"}
    store.snapshot(
        "org/m", A, {**shared, "model-2.safetensors": b"2"}, refs=["v1", "refs/pr/1"], used=OLD
    )
    store.snapshot("org/m", B, shared, refs=["main"], used=NOW)
    (store.folder("org/m") / ".hpcvlm" / "manifests").mkdir(parents=True)
    (store.folder("org/m") / ".hpcvlm" / "manifests" / f"{A}.json").touch()
    store.hold("org/m", blob_name(b"2"))
    return store


@pytest.mark.slow
def test_killed_at_any_step_nothing_is_broken_and_the_next_prune_finishes(tmp_path: Path) -> None:
    policy = Policy(everything=True, repo="org/m", commit=A)
    steps = 0
    while True:
        steps += 1
        store = two_snapshots(tmp_path / str(steps))
        folder = store.folder("org/m")
        made = plan(store, policy)
        patch = kill_at(steps)

        def child(made: PrunePlan = made, patch: Callable[[], None] = patch) -> None:
            patch()
            carry_out(made)

        status = forked(child)
        assert broken(store.cache) == []
        snapshots = {s.commit for s in scan_cache(store.cache)[0].snapshots}
        assert B in snapshots
        left = trash_bytes(folder)
        around = replace(AROUND, trash={} if left is None else {folder: left})
        again = plan(store, replace(policy, orphans=True), around)
        carry_out(again)
        assert trash_bytes(folder) is None
        carry_out(plan(store, Policy(everything=True, repo="org/m", commit=A)))
        carry_out(plan(store, Policy(orphans=True)))
        assert broken(store.cache) == []
        assert bytes_on_disk(store.cache) == 1002
        assert scan_cache(store.cache)[0].refs == {"main": B}
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert steps > 10


# ---- downloads at the same time -----------------------------------------------------------------


@pytest.mark.slow
def test_downloads_at_the_same_time_leave_nothing_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub's own downloads, while every snapshot is deleted as soon as it is there."""
    import huggingface_hub

    files = {f"model-{number}.safetensors": bytes([number]) * 50_000 for number in range(6)}
    cache, until = tmp_path / "hub", tmp_path / "until"
    failures: list[Exception] = []
    with HubStandIn({"org/model": {"main": {**files, "config.json": b"{}"}}}) as hub:
        for name, value in hub.environment().items():
            monkeypatch.setenv(name, value)

        def pull() -> Path:
            # The address is named since huggingface_hub reads the environment once only.
            endpoint = hub.environment()["HF_ENDPOINT"]
            return Path(
                huggingface_hub.snapshot_download("org/model", cache_dir=cache, endpoint=endpoint)
            )

        command = [sys.executable, "-c", PRUNE_AGAIN, str(cache), str(until)]
        with subprocess.Popen(command, cwd=ROOT) as pruning:
            try:
                while len(hub.gets_of("model-0.safetensors")) < 8:  # so often it was deleted
                    try:
                        pull()
                    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
                        failures.append(error)  # its folder went while it wrote; it says so
            finally:
                until.touch()
            assert pruning.wait(60) == 0
        assert broken(cache) == []
        path = pull()
        huggingface_hub.close_session()
    assert {name: (path / name).read_bytes() for name in files} == files
    assert all(isinstance(error, FileNotFoundError) for error in failures), failures


PRUNE_AGAIN = """
import sys
import time
from pathlib import Path
from hpcvlm.snapshots.prune.delete import delete
from hpcvlm.snapshots.prune.model import Circumstances, Policy
from hpcvlm.snapshots.prune.plan import plan_prune
from hpcvlm.snapshots.store import scan_cache

cache, until = map(Path, sys.argv[1:])
policy = Policy(everything=True, orphans=True)
while not until.exists():
    # As if everything were old.
    around = Circumstances(now=time.time() + 10 * 86400)
    for row in plan_prune(scan_cache(cache), policy, around).rows:
        outcome = delete(row, lambda _: "", lambda seconds: time.sleep(seconds / 4))
        assert not outcome.problem, outcome
"""


# ---- any store, any policy ----------------------------------------------------------------------

CONTENTS = st.sampled_from([bytes([number]) * (7 * number + 1) for number in range(6)])
SNAPSHOT = st.fixed_dictionaries(
    {
        "repo": st.sampled_from(["org/a", "org/b"]),
        "commit": st.sampled_from([A, B, C, D]),
        "files": st.dictionaries(
            st.sampled_from(["m.safetensors", "n.safetensors", "sub/config.json"]),
            CONTENTS,
            min_size=1,
        ),
        "refs": st.lists(st.sampled_from(["main", "v1", "refs/pr/1"]), max_size=1),
        "age": st.integers(0, 300),
    }
)
POLICY = st.builds(
    Policy,
    unused_for_s=st.none() | st.integers(0, 300).map(lambda days: days * DAY),
    unreferenced=st.booleans(),
    incomplete=st.booleans(),
    orphans=st.booleans(),
    free_bytes=st.none() | st.integers(0, 200),
    repo=st.sampled_from(["", "org/a"]),
)
NAMED = st.lists(
    st.tuples(st.sampled_from(["org/a", "org/b"]), st.sampled_from([A, B, C, D])), max_size=2
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    snapshots=st.lists(SNAPSHOT, max_size=6, unique_by=lambda s: (s["repo"], s["commit"])),
    orphans=st.lists(CONTENTS, max_size=2),
    policy=POLICY,
    pins=NAMED,
    uses=NAMED,
)
def test_what_is_promised_is_freed_and_nothing_that_is_needed_goes(
    snapshots: list[dict[str, object]],
    orphans: list[bytes],
    policy: Policy,
    pins: list[tuple[str, str]],
    uses: list[tuple[str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "hub")
        for one in snapshots:
            store.snapshot(
                str(one["repo"]),
                str(one["commit"]),
                one["files"],  # type: ignore[arg-type]
                refs=one["refs"],  # type: ignore[arg-type]
                used=NOW - int(str(one["age"])) * DAY,
            )
        for content in orphans:
            store.blob("org/b", content, at=OLD)
        around = Circumstances(
            now=NOW,
            approvals=tuple(Approval(*pin, "", "", "me", "2026-11-21") for pin in set(pins)),
            uses=Uses(tuple(Use(*use, "1", "you", "x") for use in uses)),
        )
        before = {(r.repo, s.commit) for r in scan_cache(store.cache) for s in r.snapshots}
        size = bytes_on_disk(store.cache)
        made = plan(store, policy, around)
        going = {(row.repo, row.commit) for row in made.rows if row.kind == "snapshot"}
        assert not going & {*pins, *uses}
        assert all(repo == "org/a" for repo, _ in going) or not policy.repo
        if policy.free_bytes is not None:
            assert made.short_of == max(0, policy.free_bytes - made.size)
        assert carry_out(made) == made.size
        assert size - bytes_on_disk(store.cache) == made.size
        assert broken(store.cache) == []
        after = {(r.repo, s.commit) for r in scan_cache(store.cache) for s in r.snapshots}
        assert before - after == going
