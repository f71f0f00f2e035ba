"""From launch to stop on this machine, with a stand-in engine that can misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.system.processes import start_ticks
from tests.command import ROOT, Command, Done

FAKE = ROOT / "tests" / "fake_vllm.py"
pytestmark = pytest.mark.slow


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Iterator[Command]:
    """The command with the stand-in engine; a state folder that quoting could break."""
    command = Command(tmp_path, {"HPCVLM_STATE": str(tmp_path / "a state's folder")})
    command.state = tmp_path / "a state's folder"
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def launch(hpcvlm: Command, mode: str, *more: str) -> Done:
    return hpcvlm(
        *("launch", "tiny-vlm", "--name", "t", "--set", f"environment.FAKE_VLLM_MODE={mode}", *more)
    )


def nothing_runs(hpcvlm: Command) -> bool:
    """Whether the script and its engine are gone."""
    text = (hpcvlm.state / "jobs" / "t" / "state.json").read_text()
    pids = [json.loads(text)[key] for key in ("shell_pid", "engine_pid")]
    for _ in range(300):
        if all(start_ticks(pid) is None for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_a_whole_life(hpcvlm: Command) -> None:
    done = launch(hpcvlm, "ok", "--json")
    assert done.code == 0, done.stderr
    row = done.json()
    phases = list(row["phases"])
    assert phases[0] == "allocated"
    assert phases[-2:] == ["probing", "ready"]
    assert hpcvlm("ls").stdout.splitlines()[1].split()[:3] == ["t", "tiny-vlm", "ready"]
    assert hpcvlm("status", row["job_id"], "--json").json()["url"] == row["url"]
    assert "Application startup complete" in hpcvlm("logs", "t").stdout
    key = Path(row["key_file"]).read_text().strip()
    env = hpcvlm("env", "t")
    assert f"export OPENAI_BASE_URL={row['url']}" in env.stdout
    assert f"export OPENAI_API_KEY={key}" in env.stdout
    assert hpcvlm("stop", "t").stdout == "t: stopped\n"
    assert nothing_runs(hpcvlm)
    folder = hpcvlm.state / "jobs" / "t"
    assert not (folder / "curl.conf").exists()
    assert hpcvlm("stop", "t").stdout == "t: was over\n"
    assert hpcvlm("env", "t").code == 3


def test_folders_are_private_and_the_key_is_shown_to_nobody(hpcvlm: Command) -> None:
    row = launch(hpcvlm, "ok", "--json").json()
    folder = Path(row["folder"])
    key = Path(row["key_file"]).read_text().strip()
    modes = {p.name: p.stat().st_mode & 0o777 for p in [folder, *folder.rglob("*")]}
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert key.encode() not in entry.read_bytes()
        except OSError:
            continue
    holders = {p.name for p in folder.rglob("*") if p.is_file() and key in p.read_text()}
    assert holders == {"key", "curl.conf"}


def test_arguments_reach_the_engine_as_they_were_written(hpcvlm: Command, tmp_path: Path) -> None:
    echo = tmp_path / "echo.json"
    value = """{"text": "it's a \\"quoted\\" $(value), with a comma", "n": [1, 2]}"""
    done = launch(
        hpcvlm,
        "ok",
        *("--set", f"environment.FAKE_VLLM_ECHO={echo}"),
        *("--set", f"multimodal.processor={value}"),
        *("--set", "limit-mm-per-prompt.audio=0", "--set", "async-scheduling=false"),
        *("--engine-arg=--hf-overrides", '--engine-arg={"a b": "c,d"}'),
    )
    assert done.code == 0, done.stderr
    heard = json.loads(echo.read_text())
    argv = heard["argv"]
    given = argv[argv.index("--mm-processor-kwargs") + 1]
    assert json.loads(given) == json.loads(value)
    limits = argv[argv.index("--limit-mm-per-prompt") + 1]
    # A dotted option joins the mapping that it belongs to: old releases take it as text otherwise.
    assert json.loads(limits) == {"image": 2, "video": 1, "audio": 0}
    assert "--no-async-scheduling" in argv
    assert argv[argv.index("--hf-overrides") + 1] == '{"a b": "c,d"}'
    assert heard["environment"]["HF_HUB_OFFLINE"] == "1"
    assert heard["environment"]["PYTHONPATH"] == f"{hpcvlm.state}/jobs/t/payloads"


@pytest.mark.parametrize(
    ("mode", "reason", "words"),
    [
        ("die-loading", "engine-exited", "CUDA out of memory"),
        ("blind", "image-not-taken-in", "the image did not reach the model"),
        ("open", "not-locked", "it answered without the key"),
        ("image-500", "image-not-answered", "it did not answer an image prompt"),
    ],
)
def test_a_start_that_fails_is_told_with_its_reason(
    hpcvlm: Command, mode: str, reason: str, words: str
) -> None:
    done = launch(hpcvlm, mode)
    told = time.time()
    assert done.code == 5
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    state = hpcvlm.job_state("t")
    assert (state["phase"], state["reason"]) == ("ended", reason)
    assert told - state["since"] < 15
    assert nothing_runs(hpcvlm)
    assert hpcvlm("ls", "--json").json() == []
    assert hpcvlm("ls", "--all", "--json").json()[0]["state"] == "failed"


def test_a_server_that_hangs_is_given_up_after_its_start_time(hpcvlm: Command) -> None:
    done = launch(hpcvlm, "hang", "--set", "start_timeout=4s")
    assert done.code == 5
    assert "not ready within its start time" in done.stderr
    assert nothing_runs(hpcvlm)


def test_a_port_that_was_taken_is_replaced_by_another(hpcvlm: Command) -> None:
    done = launch(hpcvlm, "port-taken-once", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["state"] == "ready"


def test_an_engine_that_ignores_sigterm_is_killed(hpcvlm: Command) -> None:
    assert launch(hpcvlm, "ignore-term").code == 0
    assert hpcvlm("stop", "t").code == 0
    assert nothing_runs(hpcvlm)


def test_a_death_after_ready_is_no_secret(hpcvlm: Command) -> None:
    assert launch(hpcvlm, "die-after-ready").code == 0
    for _ in range(300):
        row = hpcvlm("status", "t", "--json").json()
        if row["state"] == "failed":
            break
        time.sleep(0.2)
    assert row["verdict"]["reason"] == "engine-exited"
    assert row["verdict"]["engine_exit"] == 3
    assert "illegal memory access" in hpcvlm("status", "t").stderr


def test_a_name_is_taken_while_it_lives_and_free_afterwards(hpcvlm: Command) -> None:
    assert launch(hpcvlm, "ok").code == 0
    again = launch(hpcvlm, "ok")
    assert again.code == 1
    assert "there is an endpoint called 't' already" in again.stderr
    assert hpcvlm("ls", "--json").json()[0]["state"] == "ready"
    hpcvlm("stop", "t")
    assert launch(hpcvlm, "ok").code == 0
    assert len(list((hpcvlm.state / "ended").iterdir())) == 1


@pytest.mark.parametrize("cancel", [False, True])
def test_ctrl_c(hpcvlm: Command, cancel: bool) -> None:
    more = ["--cancel-on-interrupt"] if cancel else []
    process = hpcvlm.start(
        *("launch", "tiny-vlm", "--name", "t", "--set", "environment.FAKE_VLLM_MODE=slow", *more)
    )
    while not (hpcvlm.state / "jobs" / "t" / "state.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 130
    if cancel:
        assert "interrupted; t was stopped" in stderr
        assert nothing_runs(hpcvlm)
    else:
        assert "hpcvlm wait t follows it, hpcvlm stop t stops it" in stderr
        assert hpcvlm("wait", "t").code == 0


def test_the_rendered_script_runs_by_hand(hpcvlm: Command, tmp_path: Path) -> None:
    done = hpcvlm("render", "tiny-vlm", "--name", "hand", "-o", str(tmp_path / "out"))
    assert done.code == 0, done.stderr
    script = tmp_path / "out" / "job.sbatch"
    with subprocess.Popen(["bash", script]) as job:
        state = hpcvlm.state / "jobs" / "hand" / "state.json"
        for _ in range(100):
            if state.exists() and json.loads(state.read_text())["phase"] == "ready":
                break
            time.sleep(0.1)
        assert json.loads(state.read_text())["phase"] == "ready"
        job.terminate()
    assert json.loads(state.read_text())["reason"] == "stopped"
    assert (state.parent / "key").stat().st_mode & 0o777 == 0o600
