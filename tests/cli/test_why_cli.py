"""`hpcvlm why` as a user runs it, on endpoints of this machine with a stand-in engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command, Done

FAKE = ROOT / "tests" / "fake_vllm.py"
pytestmark = pytest.mark.slow


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def launch(hpcvlm: Command, mode: str) -> Done:
    return hpcvlm(
        *("launch", "tiny-vlm", "--name", "t", "--set", f"environment.FAKE_VLLM_MODE={mode}")
    )


def test_a_failed_launch_says_why_and_so_does_why(hpcvlm: Command) -> None:
    done = launch(hpcvlm, "die-loading")
    assert done.code == 5
    assert "the GPU's memory is full" in done.stderr
    assert "engine.err:" in done.stderr or "engine.out:" in done.stderr
    told = hpcvlm("why", "t")
    assert told.code == 0
    lines = told.stdout.splitlines()
    assert lines[:2] == ["name    t", "state   failed (the engine ended)"]
    assert lines[2].startswith("cause   the GPU's memory is full")
    assert lines[3].startswith("try     ")
    assert any("CUDA out of memory" in line for line in lines if line.startswith("says"))
    assert "engine.out:" in told.stdout
    report = hpcvlm("why", "t", "--json").json()
    assert (report["state"], report["id"]) == ("failed", "gpu-out-of-memory")
    quote = report["evidence"][0]
    log = (hpcvlm.state / "jobs" / "t" / quote["file"]).read_text().split("\n")
    assert "CUDA out of memory" in log[quote["line"] - 1]


def test_an_endpoint_that_is_fine(hpcvlm: Command) -> None:
    assert launch(hpcvlm, "ok").code == 0
    told = hpcvlm("why", "t")
    assert told.code == 0
    assert "cause   nothing is wrong: it is ready" in told.stdout
    assert hpcvlm("stop", "t").code == 0
    assert hpcvlm("why", "t", "--json").json()["id"] in {"ended", "cancelled"}


def test_an_endpoint_that_nobody_knows(hpcvlm: Command) -> None:
    told = hpcvlm("why", "none")
    assert told.code == 3
    assert "Traceback" not in told.stderr
