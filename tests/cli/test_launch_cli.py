"""More of life on this machine: several endpoints, waiting, snippets that run, failing proofs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command
from tests.job_fixtures import FAKE, FAKE_SITE

pytestmark = pytest.mark.slow
QUICK = ("--set", "environment.FAKE_VLLM_STEP_S=0.01")


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Iterator[Command]:
    """The command with the stand-in engine; nothing runs when the test is over."""
    command = Command(tmp_path)
    command.site(f"{FAKE_SITE}executor: local\n")
    yield command
    command("stop", "--all")


def nothing_runs(command: Command) -> bool:
    """Whether no process has the test's state folder in its command line or environment."""
    needle = str(command.state).encode()
    mine = {os.getpid()}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if needle in told and int(entry.name) not in mine:
            return False
    return True


def test_several_endpoints_by_name_prefix_and_number(hpcvlm: Command) -> None:
    first = hpcvlm("launch", "tiny-vlm", "--name", "one", "--no-wait", *QUICK)
    assert (first.code, first.stdout) == (0, "one\n")
    second = hpcvlm("launch", "tiny", "--name", "other", "--no-wait", "--json", *QUICK)
    record = second.json()
    assert (record["name"], record["executor"], record["model"]) == ("other", "local", "tiny-vlm")
    assert second.stderr == ""

    waited = hpcvlm("wait", "on", "--json")
    assert (waited.code, waited.json()["name"], waited.json()["state"]) == (0, "one", "ready")
    again = hpcvlm("wait", record["job_id"])
    assert again.code == 0
    assert again.stdout.startswith("url    http://127.0.0.1:")
    assert "shown a red circle, it said: 'a red circle'" in again.stderr
    assert [row["name"] for row in hpcvlm("ls", "--json").json()] == ["one", "other"]

    ambiguous = hpcvlm("stop", "o")
    assert ambiguous.code == 2
    assert "'o' is the beginning of 2 names: one, other" in ambiguous.stderr
    assert "try:   type more letters, or the job id" in ambiguous.stderr
    assert [row["state"] for row in hpcvlm("ls", "--json").json()] == ["ready", "ready"]

    assert hpcvlm("stop", "on", record["job_id"]).stdout == "one: stopped\nother: stopped\n"
    assert hpcvlm("ls").stderr == "2 more are over: hpcvlm ls --all\n"
    assert hpcvlm("stop", "--all").stderr == "nothing runs\n"
    over = hpcvlm("wait", "one")
    assert (over.code, over.stdout) == (5, "")
    assert "one ended: stopped" in over.stderr
    assert nothing_runs(hpcvlm)


def test_json_has_all_that_a_program_needs_and_no_key(hpcvlm: Command) -> None:
    done = hpcvlm("launch", "tiny-vlm", "--name", "t", "--json", *QUICK)
    row = done.json()
    assert row.keys() == {
        *("name", "job_name", "model", "served_name", "state", "description", "executor"),
        *("job_id", "gpus", "submitted", "folder", "url", "host", "socket", "listen", "key_file"),
        *("ends", "left_s", "known_at", "phases", "queued_s", "starting_s", "gpu_hours"),
        *("idle_s", "idle_limit_s", "requests", "prompt_tokens", "generation_tokens", "requeued"),
        *("engine_restarts", "kept_until", "generations", "notes", "staging", "verdict"),
    }
    assert row["folder"] == str(hpcvlm.state / "jobs" / "t")
    assert row["ends"] == pytest.approx(row["submitted"] + 1800, abs=5)
    key = Path(row["key_file"]).read_text().strip()
    for command in (("status", "t", "--json"), ("ls", "--json"), ("status", "t"), ("ls",)):
        shown = hpcvlm(*command)
        assert shown.code == 0
        assert key not in shown.stdout + shown.stderr
    now = hpcvlm("status", "t", "--json").json()
    assert now.keys() == row.keys()
    same = ("job_id", "folder", "url", "key_file", "state", "phases", "ends")
    assert [now[field] for field in same] == [row[field] for field in same]
    assert key not in done.stdout + done.stderr


def test_snippets_run_as_they_are_printed(hpcvlm: Command, tmp_path: Path) -> None:
    hpcvlm("launch", "tiny-vlm", "--name", "t", *QUICK)
    picture = tmp_path / "it's a picture.png"
    picture.write_bytes(bytes(range(256)) * 20)
    for client, program in (("curl", ["bash"]), ("python", [sys.executable])):
        snippet = hpcvlm("snippet", "t", "--client", client, "--image", str(picture))
        assert snippet.code == 0, snippet.stderr
        script = tmp_path / client
        script.write_text(snippet.stdout)
        ran = subprocess.run(
            [*program, script], capture_output=True, text=True, check=False, cwd="/"
        )
        assert "a red circle" in ran.stdout, ran.stderr
    env = hpcvlm("env", "t").stdout
    asked = 'curl --silent --header "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/models'
    ran = subprocess.run(["bash", "-c", env + asked], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["data"][0]["id"] == "tiny-vlm"


def test_logs_are_followed_to_the_end(hpcvlm: Command) -> None:
    slow = ("--set", "environment.FAKE_VLLM_MODE=slow", *QUICK)
    hpcvlm("launch", "tiny-vlm", "--name", "t", "--no-wait", *slow)
    follower = hpcvlm.start("logs", "t", "--follow")
    assert hpcvlm("wait", "t").code == 0
    assert follower.poll() is None
    hpcvlm("stop", "t")
    stdout, _ = follower.communicate(timeout=10)
    assert follower.returncode == 0
    assert stdout.count("Starting to load model") == 1
    assert stdout.count("Application startup complete") == 1


def test_of_two_launches_with_one_name_one_is_refused(hpcvlm: Command) -> None:
    arguments = ("launch", "tiny-vlm", "--name", "t", "--no-wait", *QUICK)
    both = [hpcvlm.start(*arguments) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert sum("there is an endpoint called 't' already" in stderr for _, stderr in said) == 1
    assert hpcvlm("wait", "t").code == 0
    assert not (hpcvlm.state / "ended").exists()


def test_a_start_that_nobody_waited_for_is_told_later(hpcvlm: Command) -> None:
    dying = ("--set", "environment.FAKE_VLLM_MODE=die-loading", *QUICK)
    assert hpcvlm("launch", "tiny-vlm", "--name", "t", "--no-wait", *dying).code == 0
    waited = hpcvlm("wait", "t")
    assert (waited.code, waited.stdout) == (5, "")
    assert waited.stderr.count("error: ") == 1
    assert "t failed (the engine ended): " in waited.stderr
    assert "CUDA out of memory" in waited.stderr
    assert "try:   " in waited.stderr
    row = hpcvlm("status", "t", "--json").json()
    assert (row["state"], row["verdict"]["reason"]) == ("failed", "engine-exited")
    assert row["description"] == "failed (the engine ended)"
    for command in ("env", "snippet", "smoke-test"):
        refused = hpcvlm(command, "t")
        assert refused.code == 3
        assert "t is not ready: failed (the engine ended)" in refused.stderr


def test_a_death_is_told_at_once(hpcvlm: Command) -> None:
    dying = ("--set", "environment.FAKE_VLLM_MODE=die-loading", *QUICK)
    done = hpcvlm("launch", "tiny-vlm", "--name", "t", *dying)
    told = time.time()
    assert done.code == 5
    died = (hpcvlm.state / "jobs" / "t" / "engine.out").stat().st_mtime
    assert told - died < 15


def test_a_proof_that_fails_is_told_case_by_case(hpcvlm: Command, tmp_path: Path) -> None:
    """The stand-in calls every picture a red circle; the smoke test draws others, too."""
    hpcvlm("launch", "tiny-vlm", "--name", "t", *QUICK)
    junit = tmp_path / "report.xml"
    done = hpcvlm("smoke-test", "t", "--json", "--seed", "1", "--junit", str(junit))
    assert done.code == 7
    assert "error: t failed " in done.stderr
    report = done.json()
    assert report["ok"] is False
    failed = [case["name"] for case in report["results"] if case["verdict"] == "failed"]
    assert failed
    assert {"text", "image_base64"} <= {case["name"] for case in report["results"]}
    suite = ET.parse(junit).getroot()  # noqa: S314 - our own report
    assert len(list(suite.iter("failure"))) == len(failed)
    shown = hpcvlm("smoke-test", "t", "--seed", "1")
    assert shown.code == 7
    assert shown.stdout.startswith("CASE")


def test_the_demo_stops_what_it_started_also_when_its_proof_fails(
    hpcvlm: Command, tmp_path: Path
) -> None:
    prefix = tmp_path / "venv"
    (prefix / "lib" / "python3.11" / "site-packages" / "vllm-0.32.0.dist-info").mkdir(parents=True)
    (prefix / "bin").mkdir()
    vllm = prefix / "bin" / "vllm"
    vllm.write_text(f'#!/bin/sh\nexec {FAKE} "$@"\n')
    vllm.chmod(0o755)
    hpcvlm.environment["HPCVLM_VLLM"] = str(vllm)
    done = hpcvlm("demo")
    assert done.code == 7, done.stderr
    assert "ready after" in done.stderr
    assert "failed" in done.stdout
    assert ": stopped\n" in done.stderr
    assert hpcvlm("ls", "--json").json() == []
    assert nothing_runs(hpcvlm)


def test_ctrl_c_while_sbatch_takes_the_job_says_that_it_goes_on(
    hpcvlm: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    asked = tmp_path / "asked"
    for name, text in {
        "srun": "",
        "sinfo": "echo 'gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4'",
        "sbatch": f"touch {asked}; sleep 1; echo 4711",
        "scancel": f'echo "$@" >>{tmp_path}/scancelled',
        "squeue": f"[ -e {tmp_path}/scancelled ] || "
        f'echo "4711|RUNNING|None|n1|1795247438|1795257438|1:00:00|gpu|$(cat {tmp_path}/name)"',
        "sacct": "",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    hpcvlm.environment["PATH"] = f"{folder}:{hpcvlm.environment['PATH']}"
    for name, more in (("kept", ()), ("gone", ("--cancel-on-interrupt",))):
        asked.unlink(missing_ok=True)
        (tmp_path / "name").write_text(name)
        where = ("--executor", "slurm", "--gpus", "A100:1")
        process = hpcvlm.start("launch", "tiny-vlm", "--name", name, *where, *more)
        while not asked.exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        record = json.loads((hpcvlm.state / "jobs" / name / "record.json").read_text())
        assert record["job_id"] == "4711"
        if more:
            assert f"interrupted; {name} was stopped" in stderr
        else:
            assert f"interrupted; {name} (job 4711) goes on" in stderr
            assert f"hpcvlm wait {name} follows it, hpcvlm stop {name} stops it" in stderr
            assert not (tmp_path / "scancelled").exists()
    assert "4711" in (tmp_path / "scancelled").read_text()
