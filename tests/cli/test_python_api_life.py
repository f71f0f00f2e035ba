"""The Python API on this machine, with a stand-in engine: the job ends as the program does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.system.processes import start_ticks
from tests.command import ROOT, Command

FAKE = ROOT / "tests" / "fake_vllm.py"
PATIENCE_S = 60
pytestmark = pytest.mark.slow

IN_A_BLOCK = """
import hpcvlm, sys, time
with hpcvlm.launch("tiny-vlm", name="t", executor="local", {options}) as endpoint:
    print(endpoint.name, flush=True)
    {inside}
"""


class Program:
    """A Python program that uses the API."""

    def __init__(self, command: Command, text: str) -> None:
        self.folder = command.state / "jobs" / "t"
        self.process = subprocess.Popen(
            [sys.executable, "-c", text],
            env=command.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.strip()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, what it printed, what it complained of."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stdout, stderr

    @property
    def state(self) -> dict[str, Any]:
        """state.json of its job; empty before there is one."""
        try:
            loaded: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return loaded

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, self.state
            time.sleep(0.1)

    def job_has_ended(self, reason: str) -> bool:
        """Whether the job has said so, and nothing of it runs."""
        state = self.state
        if state.get("phase") != "ended":
            return False
        assert state["reason"] == reason
        record = json.loads((self.folder / "record.json").read_text())
        pids = (state["shell_pid"], state["engine_pid"], int(record["job_id"]))
        return all(pid is None or start_ticks(pid) is None for pid in pids)


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def program(hpcvlm: Command, inside: str, options: str = "lease=4", mode: str = "ok") -> Program:
    settings = f"settings={{'environment.FAKE_VLLM_MODE': {mode!r}}}, {options}"
    return Program(hpcvlm, IN_A_BLOCK.format(options=settings, inside=inside))


def test_a_block_from_launch_to_stop(hpcvlm: Command) -> None:
    inside = """
    from PIL import Image
    print(endpoint.ask("What?", Image.new("RGB", (8, 8), "red")), endpoint.ask("What?"))
    print(endpoint.status().state, endpoint.url, endpoint.ends - time.time() > 60)
    time.sleep(7)  # longer than the lease
    print(hpcvlm.attach("t").ask("Still there?", b"\\x89PNG\\r\\n\\x1a\\n"))
    """
    run = program(hpcvlm, inside.strip())
    code, stdout, stderr = run.end()
    assert code == 0, stderr
    lines = stdout.splitlines()
    assert lines[1] == "a red circle no image"
    assert lines[2].startswith("ready http://127.0.0.1:")
    assert lines[2].endswith("True")
    assert lines[3] == "a red circle"
    assert run.job_has_ended("stopped")
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("inside", "code"), [("raise ValueError('mine')", 1), ("sys.exit(3)", 3)])
def test_an_exception_stops_it(hpcvlm: Command, inside: str, code: int) -> None:
    run = program(hpcvlm, inside)
    assert run.end()[0] == code
    assert run.job_has_ended("stopped")


def test_ctrl_c_while_it_starts_stops_it(hpcvlm: Command) -> None:
    run = program(hpcvlm, "pass", mode="slow")
    run.until(lambda: run.state.get("phase") not in (None, "allocated"))
    run.process.send_signal(signal.SIGINT)
    code, stdout, stderr = run.end()
    assert code != 0
    assert stdout == ""
    assert "KeyboardInterrupt" in stderr
    assert run.job_has_ended("stopped")


@pytest.mark.parametrize("death", ["killed", "os._exit(9)"])
def test_the_death_of_the_interpreter_ends_the_job(hpcvlm: Command, death: str) -> None:
    inside = "time.sleep(600)" if death == "killed" else f"import os; {death}"
    run = program(hpcvlm, inside)
    run.says()
    if death == "killed":
        run.process.kill()
    run.end()
    run.until(lambda: run.job_has_ended("lease-lost"))
    assert hpcvlm("status", "t", "--json").json()["state"] == "ended"


def test_without_a_block_the_end_of_the_interpreter_stops_it(hpcvlm: Command) -> None:
    text = "import hpcvlm; print(hpcvlm.launch('tiny-vlm', name='t', executor='local').job_id)"
    run = Program(hpcvlm, text)
    code, _, stderr = run.end()
    assert code == 0, stderr
    assert run.job_has_ended("stopped")


def test_what_is_to_be_left_goes_on(hpcvlm: Command) -> None:
    run = program(hpcvlm, "pass", options="on_exit='leave'")
    assert run.end()[0] == 0
    assert not (run.folder / "lease").exists()
    assert hpcvlm("status", "t", "--json").json()["state"] == "ready"
    used = Program(hpcvlm, "import hpcvlm\nwith hpcvlm.attach('t') as e: print(e.ask('Hi'))")
    assert used.end()[1] == "no image\n"
    assert hpcvlm("status", "t", "--json").json()["state"] == "ready"


def test_a_start_that_fails_says_why(hpcvlm: Command) -> None:
    run = program(hpcvlm, "pass", mode="die-loading")
    code, _, stderr = run.end()
    assert code == 1
    assert "HpcvlmError: t failed" in stderr
    assert "the GPU's memory is full" in stderr
    assert "\ntry: " in stderr
    assert "EndpointWarning" not in stderr
    assert run.job_has_ended("engine-exited")


def test_on_a_unix_socket_there_is_an_address_for_any_client(hpcvlm: Command) -> None:
    inside = """
    import httpx
    headers = {"Authorization": "Bearer " + endpoint.key}
    print(endpoint.ask("Hi"), endpoint._reach()[0].socket is not None)
    print(httpx.get(endpoint.base_url + "/models", headers=headers, trust_env=False).json()["data"])
    print([test.verdict.name for test in endpoint.smoke_test().results if test.name == "models"])
    """
    run = program(hpcvlm, inside.strip(), options="lease=None, listen='socket'")
    code, stdout, stderr = run.end()
    assert code == 0, stderr
    lines = ["no image True", "[{'id': 'tiny-vlm'}]", "['PASSED']"]
    assert stdout.splitlines()[1:] == lines
    assert run.job_has_ended("stopped")
