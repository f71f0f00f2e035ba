"""Who may read and write what a job makes: checked at its start, repaired or refused."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.system.files import make_private_folder, write_atomically
from tests.command import Command
from tests.job_fixtures import FAKE, RunningJob, local_plan

SITE = (
    "schema: 1\nexecutor: local\nruntime: none\n"
    f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
)
LOOSE = ("key", "state.json", "engine.out", "engine.err", "job.out", "events.log", "activity.json")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """A umask that the jobs started meanwhile have, too."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> dict[str, str]:
    """What others could read, write or enter, if they got to it: name and mode."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & 0o077 and not path.is_symlink():
            found[str(path.relative_to(folder))] = f"{mode:04o}"
    return found


def share_with_everybody(folder: Path) -> None:
    """A default ACL, as an admin sets one for a project's folder: group and others may all.

    The bytes are those of setfacl -d -m u::rwx,g::rwx,o::rwx,m::rwx (linux/posix_acl_xattr.h).
    """
    entries = ((0x01, 7), (0x04, 7), (0x10, 7), (0x20, 7))
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in entries
    )
    try:
        os.setxattr(folder, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"this file system has no ACLs: {error.strerror}")


def ready(plan: LaunchPlan, tmp: Path) -> RunningJob:
    job = RunningJob.start(plan, tmp)
    try:
        job.reach("ready")
    except BaseException:
        job.close()
        raise
    return job


def plan_of(tmp_path: Path) -> LaunchPlan:
    return local_plan(tmp_path / "state" / "t").plan


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_a_job_closes_what_it_makes_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        job = ready(plan_of(tmp_path), tmp_path / "run")
    try:
        assert open_to_others(job.folder) == {}
        assert job.end(term=True) == 0
        assert open_to_others(job.folder) == {}
    finally:
        job.close()


@pytest.mark.slow
def test_a_job_closes_a_folder_that_it_finds_open(tmp_path: Path) -> None:
    """Its own from before, or one made by hand: nobody gets in, so all of it is out of reach."""
    plan = plan_of(tmp_path)
    folder = Path(plan.folder)
    folder.mkdir(parents=True)
    for name in LOOSE:
        (folder / name).write_text("k" * 43 if name == "key" else '{"phases": {}}')
        (folder / name).chmod(0o666)
    folder.chmod(0o777)
    job = ready(plan, tmp_path / "run")
    try:
        found = open_to_others(folder)
        assert "." not in found
        assert not {"key", "state.json", "curl.conf", "payloads"} & set(found), found
    finally:
        job.close()


def shared_folder(path: Path) -> Path:
    """A folder whose ACL opens whatever is made in it."""
    path.mkdir()
    share_with_everybody(path)
    (path / "probe").mkdir()
    assert stat.S_IMODE((path / "probe").stat().st_mode) == 0o777  # so it works here
    (path / "probe").rmdir()
    return path


@pytest.mark.slow
def test_an_acl_that_shares_with_a_group_is_not_inherited(tmp_path: Path) -> None:
    shared_folder(tmp_path / "state")
    hpcvlm = Command(tmp_path)
    hpcvlm.site(SITE)
    done = hpcvlm("launch", "tiny-vlm", "--name", "t")
    assert done.code == 0, done.stderr
    try:
        assert open_to_others(hpcvlm.state / "jobs") == {}
    finally:
        hpcvlm("stop", "t")


@pytest.mark.slow
def test_a_script_that_is_submitted_by_hand_closes_its_folder_and_key(tmp_path: Path) -> None:
    """There the ACL opens the files, which nobody gets to: the folder is closed before."""
    shared_folder(tmp_path / "state")
    job = ready(plan_of(tmp_path), tmp_path / "run")
    try:
        found = open_to_others(job.folder)
        assert "state.json" in found
        assert not {".", "key"} & set(found), found
    finally:
        job.close()


def test_what_the_login_node_makes_is_private_from_its_first_moment(tmp_path: Path) -> None:
    share_with_everybody(tmp_path)
    with umask(0):
        folder = tmp_path / "a" / "b"
        make_private_folder(folder)
        write_atomically(folder / "key", "x")
        (tmp_path / "made").mkdir()
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o777
    for path, mode in ((folder, 0o700), (folder.parent, 0o700), (folder / "key", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_a_launch_leaves_nothing_open(tmp_path: Path, mask: int) -> None:
    hpcvlm = Command(tmp_path)
    hpcvlm.site(SITE)
    with umask(mask):
        done = hpcvlm("launch", "tiny-vlm", "--name", "t")
    assert done.code == 0, done.stderr
    try:
        assert open_to_others(hpcvlm.state / "jobs") == {}
    finally:
        hpcvlm("stop", "t")


@pytest.mark.slow
def test_a_key_that_others_may_read_is_given_to_no_client(tmp_path: Path) -> None:
    hpcvlm = Command(tmp_path)
    hpcvlm.site(SITE)
    done = hpcvlm("launch", "tiny-vlm", "--name", "t", "--json")
    assert done.code == 0, done.stderr
    try:
        key = Path(done.json()["key_file"])
        for mode in (0o640, 0o604, 0o666):
            key.chmod(mode)
            said = hpcvlm("env", "t")
            assert said.code != 0
            assert said.stdout == ""
            assert f"{key} can be read by others (mode {mode:04o})" in said.stderr
    finally:
        hpcvlm("stop", "t")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
def test_a_job_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    hpcvlm = Command(tmp_path)
    hpcvlm.site(SITE)
    folder = hpcvlm.state / "jobs" / "t"
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)
    done = hpcvlm("launch", "tiny-vlm", "--name", "t")
    assert done.code != 0
    assert "there is an endpoint called 't' already" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_there_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "t")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "link")


def test_the_guard_refuses_a_key_that_others_may_read() -> None:
    """The server does not start then: see tests/unit/test_vllm_guard.py for every mode."""
    from hpcvlm.endpoints.endpoint import read_key

    with pytest.raises(HpcvlmError) as error:
        read_key(Path("/etc/passwd"))
    assert error.value.code == "key-not-private"
