"""What an audit finds: rights, owners, links, pickles, and copies in users' own caches."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcvlm.snapshots.audit.audit import Access, Rule, audit_cache
from hpcvlm.snapshots.audit.duplicates import Duplicates, Held, find_caches, find_duplicates
from hpcvlm.snapshots.audit.kinds import AuditFinding
from hpcvlm.snapshots.audit.pickles import pickle_kind
from hpcvlm.snapshots.model_card import licence_in, licence_of
from hpcvlm.snapshots.store import scan_cache
from tests.hub_store import COMMIT_A, COMMIT_B, NOBODY, TREES, add_snapshot, as_nobody, grow

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
NOW = 2_000_000_000.0
SHARD = b"w" * 100


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that is right for a group: folders 2750, files 0640."""
    cache = tmp_path / "store"
    files = {"a.safetensors": SHARD, "config.json": b"{}", "sub/b.json": b"[]"}
    add_snapshot(cache, "org/m", COMMIT_A, files, ref="main")
    settle(cache)
    return cache


def settle(cache: Path) -> None:
    for path in (cache, *cache.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o2750 if path.is_dir() else 0o640)


def place(store: Path) -> Path:
    return store / "models--org--m" / "snapshots" / COMMIT_A


def blob(store: Path) -> Path:
    return (place(store) / "a.safetensors").resolve()


def audit(store: Path, access: Access = "group", group: int | None = None) -> list[AuditFinding]:
    return audit_cache(store, Rule(access, group), NOW)


def only(store: Path, access: Access = "group", group: int | None = None) -> AuditFinding:
    (found,) = audit(store, access, group)
    return found


def mended(store: Path, found: AuditFinding) -> list[AuditFinding]:
    """The findings after the remedy has been typed."""
    subprocess.run(["sh", "-ec", found.remedy], check=True)
    return audit(store)


def test_a_store_as_it_should_be_has_no_finding(store: Path) -> None:
    assert audit(store) == []


# ---- rights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "folder", "kind", "severity"),
    [
        (0o600, False, "group-file", "error"),
        (0o642, False, "world-writable", "error"),
        (0o750, False, "executable", "warning"),
        (0o2640, False, "set-id", "error"),
        (0o4640, False, "set-id", "error"),
        (0o2700, True, "group-folder", "error"),
        (0o2752, True, "world-writable", "error"),
        (0o750, True, "setgid", "warning"),
    ],
)
def test_a_wrong_mode_is_told_and_the_remedy_mends_it(
    store: Path, mode: int, folder: bool, kind: str, severity: str
) -> None:
    path = store / "models--org--m" / "refs" if folder else blob(store)
    path.chmod(mode)
    found = only(store)
    assert (found.kind, found.severity, found.path) == (kind, severity, str(path))
    assert mended(store, found) == []


@pytest.mark.parametrize(
    ("mode", "kind"), [(0o600, "group-file"), (0o646, "world-writable"), (0o650, "executable")]
)
def test_several_of_a_kind_are_one_finding(store: Path, mode: int, kind: str) -> None:
    blobs = sorted((store / "models--org--m" / "blobs").iterdir())
    for path in blobs:
        path.chmod(mode)
    found = only(store)
    assert (found.kind, found.path) == (kind, str(store / "models--org--m"))
    assert sorted(found.paths) == [str(path) for path in blobs]
    assert found.what.startswith("3 of this kind, such as blobs/")
    assert mended(store, found) == []


def test_a_folder_whose_name_the_shell_would_read(tmp_path: Path) -> None:
    store = tmp_path / "it's $(touch x) here"
    add_snapshot(store, "org/m", COMMIT_A, {"a.safetensors": SHARD})
    settle(store)
    blob(store).chmod(0o600)
    assert mended(store, only(store)) == []


def test_a_store_for_a_group_that_everybody_may_enter(store: Path) -> None:
    store.chmod(0o2755)
    found = only(store)
    assert (found.kind, found.severity) == ("open", "warning")
    assert mended(store, found) == []


def test_a_store_for_everybody(store: Path) -> None:
    kinds = {found.kind for found in audit(store, "world")}
    assert kinds == {"world-folder", "world-file"}
    for path in (store, *store.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o2755 if path.is_dir() else 0o644)
    assert audit(store, "world") == []


def test_a_private_store(store: Path) -> None:
    assert {found.kind for found in audit(store, "private")} == {"private"}
    for path in (store, *store.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    assert audit(store, "private") == []


def test_a_cache_without_a_rule_may_be_as_its_user_likes(store: Path) -> None:
    blob(store).chmod(0o600)
    (store / "models--org--m").chmod(0o700)
    assert audit(store, "any") == []
    blob(store).chmod(0o606)
    assert only(store, "any").kind == "world-writable"


# ---- owners and groups ------------------------------------------------------------------------


@needs_root
def test_another_group(store: Path) -> None:
    os.chown(blob(store), -1, NOBODY)
    found = only(store)
    assert (found.kind, found.severity) == ("group", "error")
    assert found.remedy == f"chgrp -h root {blob(store)}"
    assert mended(store, found) == []
    assert {one.kind for one in audit(store, group=NOBODY)} == {"group"}


@needs_root
def test_several_owners_and_one_that_nobody_knows(store: Path) -> None:
    os.chown(blob(store), NOBODY, -1)
    found = only(store)
    assert (found.kind, found.severity) == ("owners", "warning")
    assert "nobody (1)" in found.what
    assert mended(store, found) == []
    os.chown(blob(store), 3_999_999, -1)
    assert {one.kind for one in audit(store)} == {"owners", "owner-unknown"}


def test_a_name_outside_of_the_store(store: Path, tmp_path: Path) -> None:
    os.link(blob(store), store / "models--org--m" / "blobs" / "second")
    (store / "models--org--m" / "blobs" / "second").chmod(0o640)
    assert audit(store) == []
    os.link(blob(store), tmp_path / "outside")
    found = only(store)
    assert (found.kind, found.severity) == ("hard-link", "warning")
    assert "a name outside of the store" in found.what
    (store / "models--org--m" / "blobs" / "second").unlink()
    assert mended(store, only(store)) == []
    assert (tmp_path / "outside").read_bytes() == blob(store).read_bytes()


@needs_root
def test_what_the_auditor_cannot_enter_is_told(store: Path, tmp_path: Path) -> None:
    (store / "models--org--m" / "blobs").chmod(0o2700)
    for path in (store, *store.rglob("*")):
        if not path.is_symlink() and path.name != "blobs":
            path.chmod(path.stat().st_mode & 0o7777 | 0o055)
    code = (
        "from pathlib import Path\nfrom hpcvlm.snapshots.audit.audit import Rule, audit_cache\n"
        f"for one in audit_cache(Path({str(store)!r}), Rule('any'), 0.0):\n"
        "    print(one.kind, one.path, one.what)\n"
    )
    printed = as_nobody(tmp_path, code)
    expected = f"unreadable {store}/models--org--m/blobs cannot be looked at: Permission denied"
    assert expected in printed.splitlines()


# ---- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "kind", "severity"),
    [
        ("/etc/passwd", "link-out", "error"),
        ("../../../../outside", "link-out", "error"),
        ("../../../models--org--other/blobs/x", "link-astray", "warning"),
        ("../../blobs/none", "link-broken", "warning"),
    ],
)
def test_links_that_lead_elsewhere(store: Path, link: str, kind: str, severity: str) -> None:
    other = store / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_bytes(b"x")
    (store.parent / "outside").write_bytes(b"x")
    settle(store)
    (place(store) / "link").symlink_to(link)
    found = only(store)
    assert (found.kind, found.severity) == (kind, severity)
    assert found.path == str(place(store) / "link")
    assert link in found.what


def test_a_link_that_leads_out_over_another(store: Path) -> None:
    target = store / "models--org--m" / "blobs" / "chain"
    target.symlink_to("/etc/passwd")
    (place(store) / "link").symlink_to("../../blobs/chain")
    found = only(store)
    assert found.kind == "link-out"
    assert set(found.paths) == {str(target), str(place(store) / "link")}


def test_an_absolute_link_within_is_mended(store: Path) -> None:
    link = place(store) / "a.safetensors"
    link.unlink()
    link.symlink_to(min((store / "models--org--m" / "blobs").iterdir()))
    found = only(store)
    assert (found.kind, found.severity) == ("link-absolute", "warning")
    assert mended(store, found) == []
    assert str(link.readlink()).startswith("../../blobs/")


def test_a_repository_that_lies_elsewhere(store: Path, tmp_path: Path) -> None:
    (store / "models--org--m").rename(tmp_path / "elsewhere")
    (store / "models--org--m").symlink_to(tmp_path / "elsewhere")
    assert {one.kind for one in audit(store)} == {"no-folder", "link-out"}


def test_blobs_that_repositories_share(store: Path) -> None:
    shared = store / "blobs" / "ab" / "abcd"
    shared.parent.mkdir(parents=True)
    blob(store).rename(shared)
    link = store / "models--org--m" / "blobs" / (place(store) / "a.safetensors").readlink().name
    link.symlink_to("../../blobs/ab/abcd")
    settle(store)
    assert audit(store) == []


# ---- contents ---------------------------------------------------------------------------------


def torch_zip(path: Path, inside: str = "archive/data.pkl") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inside, pickle.dumps([1]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_told_by_its_content(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"a": list(range(100))}, protocol))
    assert pickle_kind(tmp_path / "x") == f"a pickle of protocol {protocol}"


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_pickle_is_told_by_name_and_content(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": list(range(100))}, protocol)
    (tmp_path / "x.pkl").write_bytes(data)
    assert pickle_kind(tmp_path / "x.pkl") == "a pickle of protocol 0 or 1"


def test_what_torch_saves_is_a_zip(tmp_path: Path) -> None:
    torch_zip(tmp_path / "a")
    assert "archive/data.pkl" in pickle_kind(tmp_path / "a")
    torch_zip(tmp_path / "b", "words.txt")
    assert pickle_kind(tmp_path / "b") == ""


def test_what_only_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    header += b" " * (0x280 - len(header))
    safetensors = struct.pack("<Q", len(header)) + header + b"\0"
    assert safetensors[:2] == b"\x80\x02"
    for number, content in enumerate(
        (safetensors, b"\x80\x02\xff\xff\xff", b"", b"\x80", b"PK\x03\x04cut", b"{}", os.urandom(3))
    ):
        path = tmp_path / f"x{number}.json"
        path.write_bytes(content)
        assert pickle_kind(path) == "", content
    (tmp_path / "ggml.bin").write_bytes(b"lmgg" + bytes(100))
    assert pickle_kind(tmp_path / "ggml.bin") == ""


def test_pickles_and_code_in_a_store(store: Path) -> None:
    evil = pickle.dumps({"a": 1})
    files = {
        "pytorch_model.bin": evil,
        "model.safetensors": evil + b" ",
        "weights.bin": b"no pickle",
        "modeling.py": b"print()",
        "kernel.so": b"\x7fELF",
    }
    add_snapshot(store, "org/code", COMMIT_A, files)
    settle(store)
    found = {one.kind: one for one in audit(store)}
    assert {kind: Path(one.path).name for kind, one in found.items()} == {
        "pickle": "pytorch_model.bin",
        "pickle-disguised": "model.safetensors",
        "code": "modeling.py",
        "compiled": "kernel.so",
    }
    assert [one.severity for one in audit(store)] == ["error", "warning", "warning", "note"]


def test_special_files_old_downloads_and_locks(store: Path) -> None:
    os.mkfifo(store / "models--org--m" / "pipe")
    unfinished = store / "models--org--m" / "blobs" / "abc.incomplete"
    unfinished.write_bytes(b"1")
    settle(store)
    (store / "models--org--m" / "pipe").chmod(0o640)
    store.chmod(0o2770)
    locks = store / ".locks" / "models--org--m"
    locks.mkdir(parents=True)
    locks.chmod(0o2770)
    locks.parent.chmod(0o2770)
    (locks / "abc.lock").write_bytes(b"")
    (locks / "abc.lock").chmod(0o644)
    os.utime(unfinished, (NOW, NOW - 3 * 86400))
    found = {one.kind: one for one in audit(store)}
    assert set(found) == {"special", "unfinished", "lock"}
    assert found["unfinished"].what.endswith("3 days")
    assert found["unfinished"].remedy == "hpcvlm snapshots pull org/m"
    subprocess.run(["sh", "-ec", found["lock"].remedy], check=True)
    os.utime(unfinished, (NOW, NOW - 3600))
    assert {one.kind for one in audit(store)} == {"special"}


def test_a_cache_that_is_none(tmp_path: Path) -> None:
    assert only(tmp_path / "nowhere").kind == "unreadable"
    (tmp_path / "file").write_text("")
    assert only(tmp_path / "file").kind == "no-folder"


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, inside=st.booleans(), access=st.sampled_from(["group", "private", "any"]))
def test_no_tree_makes_an_audit_fail(
    tree: dict[str, object], *, inside: bool, access: Access
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = grow(Path(folder) / "hub", {"models--org--m": tree} if inside else tree)
        for found in audit(cache, access):
            assert found.paths
            assert all(path.startswith(str(cache)) for path in found.paths)
            subprocess.run(["sh", "-nc", found.remedy], check=True)


# ---- copies in users' caches ------------------------------------------------------------------


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    """Ada and Bob have org/m, as the store has; Bob and Cem have org/n, Cem alone org/own."""
    folder = tmp_path / "home"
    add_snapshot(hub(folder, "ada"), "org/m", COMMIT_A, {"a.safetensors": SHARD})
    add_snapshot(hub(folder, "bob"), "Org/M", COMMIT_B, {"b.safetensors": SHARD})
    for user in ("bob", "cem"):
        add_snapshot(hub(folder, user), "org/n", COMMIT_A, {"n.safetensors": b"n" * 1000})
    add_snapshot(hub(folder, "cem"), "org/own", COMMIT_A, {"o.safetensors": b"o" * 5000})
    return folder


def hub(folder: Path, user: str) -> Path:
    return folder / user / ".cache" / "huggingface" / "hub"


def duplicates(store: Path, homes: Path) -> Duplicates:
    found = find_caches(f"{homes}/*/.cache/huggingface/hub")
    assert found.unreadable == ()
    held = [Held(cache.parts[-4], cache, scan_cache(cache)) for cache in found.caches]
    return find_duplicates(scan_cache(store), held)


def test_copies_across_three_users(store: Path, homes: Path) -> None:
    found = duplicates(store, homes)
    # Both copies of what the store has; one of the two of what it has not.
    assert found.saved == 2 * 100 + 1000
    assert [(one.repo, one.users, one.in_store, one.saved) for one in found.repositories] == [
        ("org/n", ("bob", "cem"), False, 1000),
        ("org/m", ("ada", "bob"), True, 200),
    ]
    assert [(one.user, one.size, one.copies) for one in found.users] == [
        ("bob", 1100, 1100),
        ("cem", 6000, 1000),
        ("ada", 100, 100),
    ]


def test_a_link_into_the_store_is_no_copy(store: Path, homes: Path) -> None:
    before = duplicates(store, homes).saved
    repository = hub(homes, "ada") / "models--org--m" / "blobs"
    (copy,) = repository.iterdir()
    copy.unlink()
    copy.symlink_to(blob(store))
    assert duplicates(store, homes).saved == before - 100
    copy.unlink()
    os.link(blob(store), copy)
    assert duplicates(store, homes).saved == before - 100


@needs_root
def test_a_home_that_cannot_be_entered_is_told(homes: Path, tmp_path: Path) -> None:
    (homes / "bob").chmod(0o700)
    (hub(homes, "cem")).chmod(0o700)
    code = (
        "from hpcvlm.snapshots.audit.duplicates import find_caches\n"
        f"found = find_caches('{homes}/*/.cache/huggingface/hub')\n"
        "print([str(one) for one in found.caches], found.unreadable)\n"
    )
    printed = as_nobody(homes, code)
    assert printed.strip() == (
        f"['{hub(homes, 'ada')}'] (('{homes}/bob/.cache', 'Permission denied'), "
        f"('{hub(homes, 'cem')}', 'Permission denied'))"
    )


def test_patterns_as_the_shell_reads_them(homes: Path) -> None:
    def names(pattern: str) -> list[str]:
        return [path.parts[-4] for path in find_caches(pattern).caches]

    assert names(f"{homes}/[ab]*/.cache/hugging*/hub") == ["ada", "bob"]
    assert names(f"{homes}/*/*/huggingface/hub") == []
    assert names(f"{homes}/*/.*/huggingface/hub") == ["ada", "bob", "cem"]
    assert names(f"{homes}/nobody/hub") == []


# ---- licences ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# M", "apache-2.0"),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [x]\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        ("# M\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_of_a_model_card(tmp_path: Path, card: str, licence: str) -> None:
    assert licence_in(card) == licence
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert licence_of(tmp_path) == licence


def test_no_card_no_licence(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == ""
    os.mkfifo(tmp_path / "README.md")
    assert licence_of(tmp_path) == ""
