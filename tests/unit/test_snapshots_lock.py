from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.snapshots_lock import licence_of
from hpcvlm.plan.approved import approval_issue
from hpcvlm.plan.model import PlannedSnapshot
from hpcvlm.site.schema import SiteSpec, Store
from hpcvlm.snapshots.lock import (
    approval_of,
    lock_path,
    lock_text,
    parse_lock,
    read_lock,
    update_lock,
    write_lock,
)
from hpcvlm.snapshots.model import Approval
from hpcvlm.system.settings import load_settings

A = Approval("org/m", "a" * 40, "sha256:" + "1" * 64, "mit", "alice", "2026-11-21", "measured")
B = Approval("Org/B", "b" * 40, "", "", "bob", "2026-11-20", "")


def refused(text: str) -> tuple[str, ...]:
    with pytest.raises(HpcvlmError) as caught:
        parse_lock(text, "x.lock.yaml")
    assert caught.value.code == "file-invalid"
    return (caught.value.sentence, *caught.value.details)


def test_what_is_written_is_read_again_sorted(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "snapshots.lock.yaml"
    assert read_lock(path) == ()
    write_lock(path, [A, B])
    assert read_lock(path) == (B, A)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_change_of_one_entry_is_a_diff_of_its_lines(tmp_path: Path) -> None:
    before = lock_text([A, B]).splitlines()
    after = lock_text([A, B._replace(why="kept for a paper")]).splitlines()
    assert [(x, y) for x, y in zip(before, after, strict=True) if x != y] == [
        ('    why: ""', '    why: "kept for a paper"')
    ]
    added = lock_text([A, B, B._replace(commit="c" * 40)]).splitlines()
    assert len(added) - len(before) == 7
    assert all(line in added for line in before)


def test_the_mode_and_a_link_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "checkout" / "lock.yaml"
    write_lock(real, [A])
    real.chmod(0o664)
    link = tmp_path / "lock.yaml"
    link.symlink_to(real)
    update_lock(link, lambda now: (*now, B))
    assert link.is_symlink()
    assert read_lock(real) == (B, A)
    assert real.stat().st_mode & 0o777 == 0o664


@given(
    why=st.text(max_size=60),
    licence=st.text(max_size=20),
    by=st.text(min_size=1, max_size=12),
    commit=st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
)
def test_every_text_comes_back(why: str, licence: str, by: str, commit: str) -> None:
    entry = Approval("org/m", commit, "", licence, by, "2026-11-21", why)
    (found,) = parse_lock(lock_text([entry]), "x")
    printable = "".join(c if c.isprintable() else " " for c in why)
    assert found.why == " ".join(printable.split())
    assert found.commit == commit
    assert found.by == "".join(c if c.isprintable() else " " for c in by)


def test_commits_that_look_like_numbers_stay_commits() -> None:
    for commit in ("1" * 37 + "e12", "0" * 40, "1" * 40):
        assert parse_lock(lock_text([A._replace(commit=commit)]), "x")[0].commit == commit


def test_every_mistake_is_told_with_its_line() -> None:
    text = lock_text([A, B]).replace("licence:", "license:", 1).replace("2026-11-21", "yesterday")
    first, *lines = refused(text)
    assert first == "x.lock.yaml: 2 problems"
    assert lines[0].startswith("x.lock.yaml:8: snapshots[0].license: unknown key; did you mean")
    assert re.match(r"x\.lock\.yaml:17: snapshots\[1\]\.date: is 'yesterday' ", lines[1])
    assert "(expected a commit of 40" in refused(lock_text([A]).replace("a" * 40, "main"))[0]


def test_a_snapshot_twice_is_refused_with_both_lines() -> None:
    block = lock_text([A]).split("snapshots:\n")[1]
    (told,) = refused(lock_text([A]) + block.replace("org/m", "Org/M"))
    assert told.startswith("x.lock.yaml:12: Org/M@aaaa")
    assert told.endswith("stands here a second time, first in line 5")


def test_a_file_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError, match="cannot be read") as caught:
        read_lock(tmp_path)
    assert caught.value.code == "file-unreadable"
    (tmp_path / "x").write_bytes(b"schema: 1 # \xff")
    with pytest.raises(HpcvlmError, match="not UTF-8"):
        read_lock(tmp_path / "x")


def test_where_it_cannot_be_written_it_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lock.yaml"
    write_lock(path, [A])
    (tmp_path / "file").touch()
    with pytest.raises(HpcvlmError) as caught:
        update_lock(tmp_path / "file" / "lock.yaml", lambda now: (*now, A))
    assert caught.value.code == "lock-unwritable"
    with pytest.raises(HpcvlmError) as caught:
        write_lock(path, [A._replace(commit="main")])
    assert caught.value.code == "file-invalid"
    assert read_lock(path) == (A,)


def test_nothing_is_written_where_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "lock.yaml"
    write_lock(path, [A])
    path.write_text("# by hand\n" + path.read_text())
    update_lock(path, lambda now: now)
    assert path.read_text().startswith("# by hand\n")


PIN_MANY = """
import sys
from pathlib import Path
from hpcvlm.snapshots.lock import update_lock
from hpcvlm.snapshots.model import Approval
for number in range(12):
    entry = Approval(f"org/{sys.argv[2]}{number}", "a" * 40, "", "", "me", "2026-11-21")
    update_lock(Path(sys.argv[1]), lambda now: (*now, entry))
"""


@pytest.mark.slow
def test_of_pins_at_the_same_time_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "lock.yaml"
    command = [sys.executable, "-c", PIN_MANY, str(path)]
    children = [subprocess.Popen([*command, letter]) for letter in "abcd"]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    assert len(read_lock(path)) == 48


def test_where_the_lock_file_is(tmp_path: Path) -> None:
    settings = load_settings({"HPCVLM_CONFIG": str(tmp_path), "HOME": "/nowhere"})
    assert lock_path(SiteSpec(), settings) == tmp_path / "snapshots.lock.yaml"
    site = SiteSpec(store=Store(lock_file="/etc/hpcvlm/approved.yaml"))
    assert lock_path(site, settings) == Path("/etc/hpcvlm/approved.yaml")


def test_names_differ_by_more_than_their_case() -> None:
    assert approval_of([A, B], "ORG/M", "a" * 40) == A
    assert approval_of([A, B], "org/m", "b" * 40) is None


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: other\nlicense_name: llama3.2", "llama3.2"),
        ("license: other", "other"),
        ("license:\n- mit\n- apache-2.0", "mit, apache-2.0"),
        ("tags: [x]", ""),
        ("license: [", ""),
        ("- no\n- keys", ""),
    ],
)
def test_the_licence_of_a_model_card(front: str, licence: str) -> None:
    assert licence_of(f"---\n{front}\n---\n# A model\n\n---\nlicense: none\n") == licence
    assert licence_of(f"# A model\n{front}\n") == ""


# ---- what a launch may serve --------------------------------------------------------------------


def planned(repo: str = "org/m", commit: str = "a" * 40) -> PlannedSnapshot:
    return PlannedSnapshot(repo, commit, "/x", "/y")


def test_an_approved_snapshot_may_be_served() -> None:
    assert approval_issue(planned(), [A, B], A.manifest, "L") is None
    assert approval_issue(planned("org/b", "b" * 40), [A, B], "sha256:" + "9" * 64, "L") is None


def test_another_commit_of_an_approved_repository_may_not() -> None:
    issue = approval_issue(planned(commit="f" * 40), [A, B], A.manifest, "/etc/L")
    assert issue is not None
    assert issue.code == "snapshot-not-approved"
    assert "is not in /etc/L" in issue.sentence
    assert "a" * 40 in issue.sentence
    assert not issue.arguable


def test_a_changed_or_unverified_snapshot_may_not() -> None:
    changed = approval_issue(planned(), [A], "sha256:" + "2" * 64, "L")
    assert changed is not None
    assert "sha256:222222222222, approved is sha256:111111111111" in changed.sentence
    never = approval_issue(planned(), [A], "", "L")
    assert never is not None
    assert never.remedy == f"hpcvlm snapshots verify org/m --revision {'a' * 40}"
