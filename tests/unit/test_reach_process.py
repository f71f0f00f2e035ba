"""Processes that end with us, and what a session leaves: nothing."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from hpcvlm.reach import process
from hpcvlm.reach.folder import session_folders
from hpcvlm.reach.process import Tied
from hpcvlm.system.processes import start_ticks
from tests.command import ROOT
from tests.reach_fixtures import run, until

OWNER = """
import asyncio, sys
from hpcvlm.reach.process import Tied
async def main():
    await Tied.start(["sh", "-c", "echo $$ >" + sys.argv[1] + "; exec sleep 60"])
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_process_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def work() -> None:
        owner = subprocess.Popen([sys.executable, "-c", OWNER, str(note)], cwd=ROOT)
        await until(lambda: note.exists() and note.read_text().strip())
        pid = int(note.read_text())
        assert start_ticks(pid) is not None
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        await until(lambda: start_ticks(pid) is None)

    run(work)


def test_its_last_words_and_its_exit_code_are_kept() -> None:
    async def work() -> None:
        script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo $i >&2; done; exit 3"
        tied = await Tied.start(["sh", "-c", script])
        assert await tied.wait() == 3
        assert tied.words[-2:] == ("13", "14")
        assert len(tied.words) == 12
        await tied.stop()

    run(work)


def test_it_is_stopped_in_order() -> None:
    async def work() -> None:
        tied = await Tied.start(["sh", "-c", "exec sleep 60"])
        await asyncio.sleep(0.1)
        await tied.stop()
        assert tied.is_over

    run(work)


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def work() -> None:
        said = await process.run(["sh", "-c", f"echo $$ >{note}; exec sleep 60"], 0.5)
        assert said.code == 124
        assert start_ticks(int(note.read_text())) is None

    run(work)


def test_a_command_gives_both_its_streams() -> None:
    async def work() -> None:
        said = await process.run(["sh", "-c", "echo out; echo err >&2; cat; exit 5"], 20)
        assert said == process.Said(5, "out\n", "err\n")

    run(work)


def test_the_folders_of_a_session_are_private_and_gone_at_its_end(tmp_path: Path) -> None:
    with session_folders(tmp_path, "mine") as folders:
        assert folders.home == tmp_path / "connect" / "mine"
        for folder in (folders.home, folders.sockets):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(folders.sockets)) < 85
        kept = folders
    assert not kept.home.exists()
    assert not kept.sockets.exists()


def test_two_sessions_of_a_name_do_not_share_a_folder(tmp_path: Path) -> None:
    with session_folders(tmp_path, "mine") as one, session_folders(tmp_path, "mine") as two:
        assert two.home.name == "mine.2"
        assert one.sockets != two.sockets
    with session_folders(tmp_path, "mine") as again:
        assert again.home.name == "mine"


def test_what_a_killed_session_left_is_removed_by_the_next(tmp_path: Path) -> None:
    home = tmp_path / "connect" / "mine"
    with session_folders(tmp_path, "other") as lender:
        left = lender.sockets.parent / (lender.sockets.name + "-left")
        left.mkdir(mode=0o700)
        (left / "login").touch()
    home.mkdir(parents=True)
    (home / "lock").touch()
    (home / "key").write_text("secret")
    (home / "session.json").write_text(json.dumps({"pid": 1, "sockets": str(left)}))
    with session_folders(tmp_path, "mine") as folders:
        assert not left.exists()
        assert not folders.key.exists()


def test_leftovers_that_are_not_ours_are_left(tmp_path: Path) -> None:
    home = tmp_path / "connect" / "mine"
    home.mkdir(parents=True)
    other = tmp_path / "precious"
    other.mkdir()
    link = tmp_path / "hpcvlm-connect-link"
    link.symlink_to(other)
    for sockets in (other, link, "nonsense"):
        home.mkdir(exist_ok=True)
        (home / "session.json").write_text(json.dumps({"sockets": str(sockets)}))
        with session_folders(tmp_path, "mine"):
            assert other.exists()
    assert link.is_symlink()


def test_a_session_that_lives_keeps_its_folder(tmp_path: Path) -> None:
    with session_folders(tmp_path, "mine") as folders, (folders.home / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise AssertionError
