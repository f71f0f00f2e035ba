"""hpcvlm rotate-key: a new key for an endpoint that runs, in the same file."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hpcvlm.endpoints.endpoint import Endpoint
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import keys
from hpcvlm.submit.record import JobRecord, write_record
from tests.command import ROOT, Command

FAKE = ROOT / "tests" / "fake_vllm.py"
OLD = "o" * 43


def record_of(folder: Path, endpoint: str, generation: int) -> JobRecord:
    """A job that waits in a queue, as far as anybody knows."""
    return JobRecord(
        schema=1,
        name=folder.name,
        model="tiny-vlm",
        served_name="tiny",
        executor="local",
        job_id=str(os.getpid()),
        submitted=0.0,
        folder=str(folder),
        time_limit_s=60,
        start_timeout_s=60,
        gpus="0",
        partition=None,
        vision=True,
        image_limit=1,
        media_root=str(folder / "media"),
        engine="vllm 0.32.0",
        loopback=True,
        endpoint=endpoint,
        generation=generation,
    )


def job(hpcvlm: Command, name: str, generation: int = 1, key: str = f"{OLD}\n") -> Path:
    """The folder of a job whose process is this one, and which is not ready yet."""
    folder = hpcvlm.state / "jobs" / name
    folder.mkdir(parents=True, mode=0o700)
    write_record(record_of(folder, name.partition("~")[0], generation))
    (folder / "key").write_text(key)
    (folder / "key").chmod(0o600)
    return folder


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    return Command(tmp_path, {"PATH": str(tmp_path / "no programs")})


def test_every_live_generation_gets_the_same_new_key_in_place(hpcvlm: Command) -> None:
    folders = [job(hpcvlm, "chat"), job(hpcvlm, "chat~2", 2), job(hpcvlm, "chat~3", 3)]
    other = job(hpcvlm, "chatter")
    inodes = [(folder / "key").stat().st_ino for folder in folders]
    done = hpcvlm("rotate-key", "chat")
    assert done.code == 0, done.stderr
    assert done.stdout == "chat: new key; chat, chat~2, chat~3 will start with it\n"
    assert 'eval "$(hpcvlm env chat)"' in done.stderr
    found = {(folder / "key").read_text() for folder in folders}
    assert len(found) == 1
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", new := found.pop())
    assert new.strip() != OLD
    assert new.strip() not in done.stdout + done.stderr
    assert [(folder / "key").stat().st_ino for folder in folders] == inodes
    assert (other / "key").read_text() == f"{OLD}\n"


def test_a_key_that_others_could_read_is_closed_first_and_told(hpcvlm: Command) -> None:
    key = job(hpcvlm, "chat") / "key"
    key.chmod(0o644)
    done = hpcvlm("rotate-key", "chat")
    assert done.code == 0, done.stderr
    assert f"{key} could be read by others: it is 0600 now" in done.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text() != f"{OLD}\n"


@pytest.mark.parametrize("old", ["short", "s" * 41, "s" * 60 + "\n", "s" * 43 + "\r\n"])
def test_a_key_of_another_length_stays_one_line(hpcvlm: Command, old: str) -> None:
    key = job(hpcvlm, "chat", key=old) / "key"
    assert hpcvlm("rotate-key", "chat").code == 0
    text = key.read_text()
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text.strip())
    assert len(text.strip()) == max(43, len(old.strip()))
    assert text.count("\n") == 1


def test_the_file_is_never_seen_short_or_empty(hpcvlm: Command) -> None:
    key = job(hpcvlm, "chat") / "key"
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(len(key.read_bytes()))

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(3):
        assert hpcvlm("rotate-key", "chat").code == 0
    over.set()
    watcher.join()
    assert seen == {44}


def test_what_cannot_be_replaced_is_told_and_nothing_changes(hpcvlm: Command) -> None:
    first = job(hpcvlm, "chat")
    second = job(hpcvlm, "chat~2", 2)
    (second / "key").unlink()
    done = hpcvlm("rotate-key", "chat")
    assert done.code == 3
    assert f"error: there is no key file {second}/key" in done.stderr
    (second / "key").symlink_to(first / "key")
    done = hpcvlm("rotate-key", "chat")
    assert done.code == 1
    assert f"cannot replace the key in {second}/key" in done.stderr
    (second / "key").unlink()
    (second / "key").write_text(OLD)
    with (second / "key").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = hpcvlm("rotate-key", "chat")
    assert f"somebody else is replacing the key in {second}/key" in done.stderr
    assert (first / "key").read_text() == f"{OLD}\n"
    assert "Traceback" not in done.stderr


def test_an_endpoint_that_is_over_has_no_key_to_change(hpcvlm: Command) -> None:
    folder = job(hpcvlm, "chat")
    record = record_of(folder, "chat", 1)
    write_record(replace(record, job_id="1", process_started=0))
    done = hpcvlm("rotate-key", "chat")
    assert done.code == 3, done.stderr
    assert "chat is over" in done.stderr
    assert (folder / "key").read_text() == f"{OLD}\n"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Command]:
    """The command with an endpoint `t` that is ready."""
    command = Command(tmp_path)
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    done = command("launch", "tiny-vlm", "--name", "t")
    assert done.code == 0, done.stderr
    yield command
    command("stop", "--all")


@pytest.mark.slow
def test_a_running_endpoint_refuses_the_old_key_and_goes_on(running: Command) -> None:
    key = running.state / "jobs" / "t" / "key"
    old = key.read_text()
    done = running("rotate-key", "t", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["confirmed"] == ["t"]
    assert "waiting until t refuses its old key" in done.stderr
    assert key.read_text() != old
    assert key.read_text().strip() not in done.stdout + done.stderr
    assert running("status", "t", "--json").json()["state"] == "ready"


def test_a_job_that_keeps_its_old_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose engine was started by an earlier version."""

    class StoppedClock:
        at = 0.0

        def now(self) -> float:
            return self.at

        def sleep(self, seconds: float) -> None:
            self.at += seconds

    class Row:
        record = record_of(Path("/nowhere/t"), "t", 1)
        endpoint = Endpoint("t", "tiny", "http://node07:1", "/nowhere/t/key", None)

    class Ctx:
        clock = StoppedClock()

    monkeypatch.setattr(keys, "_touch", lambda _: None)
    monkeypatch.setattr("hpcvlm.ops.smoke.target_of", lambda *_: None)
    file = keys._KeyFile(Path("/nowhere/t/key"), -1, b"old", private=True)
    # A loopback address of another machine leads to somebody else's program on this one.
    away = Endpoint("t", "tiny", "http://127.0.0.1:1", "k", None, host="node07", listen="loopback")
    row = Row()
    row.endpoint = away
    monkeypatch.setattr(keys, "_answers", lambda *_: pytest.fail("the key was sent"))
    said = keys._wait_until_taken(row, file, "new", Ctx(), lambda _: None)  # type: ignore[arg-type]
    assert said == "it listens on node07 alone"
    monkeypatch.setattr(keys, "_answers", lambda *_: (401, 200))
    with pytest.raises(HpcvlmError) as error:
        keys._wait_until_taken(Row(), file, "new", Ctx(), lambda _: None)  # type: ignore[arg-type]
    assert error.value.code == "key-not-taken"
    assert "it answers 401 to the new one and 200 to the old one" in error.value.sentence
    assert error.value.remedy == "hpcvlm stop t, and launch it again"
