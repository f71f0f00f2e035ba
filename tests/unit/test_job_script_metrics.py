"""How the job's script reads an engine's metrics: its own functions, on a real answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpcvlm.engines.vllm import activity_metrics
from hpcvlm.ops.prepare import materials
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.render.script import render_job
from tests.command import ROOT
from tests.job_fixtures import make_plan

ANSWER = ROOT / "tests" / "data" / "metrics" / "vllm-0.32.0.txt"


@pytest.fixture(scope="module")
def functions() -> str:
    plan = make_plan(LaunchRequest("tiny-vlm")).plan
    assert plan.activity == activity_metrics(plan.engine.version)
    script = render_job(plan, materials()).script
    part = script.partition("# ---- activity.json")[2].partition("# ---- from ready")[0]
    return f"set -u\n#{part}"


def bash(text: str) -> str:
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def read(functions: str, folder: Path, body: str, head: str = "") -> str:
    """What the script makes of an answer: known running waiting in-flight finished tokens."""
    (folder / "body").write_text(body)
    (folder / "head").write_text(head)
    shown = "${counted[finished]} ${counted[prompt]} ${counted[generation]}"
    return bash(
        f"{functions}\nscratch='{folder}'\nread_metrics\n"
        f'echo "${{known:-no}} $running $waiting $in_flight {shown}"'
    )


def test_a_real_answer(functions: str, tmp_path: Path) -> None:
    head = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\nX-Hpcvlm-In-Flight: 3\r\n\r\n"
    assert read(functions, tmp_path, ANSWER.read_text(), head) == "yes 0 0 3 10 206 40"


def test_all_labels_are_added_up(functions: str, tmp_path: Path) -> None:
    body = (
        'vllm:num_requests_running{engine="0",model_name="a } {b"} 2.0\n'
        'vllm:num_requests_running{engine="1",model_name="a } {b"} 1.0\n'
        'vllm:num_requests_waiting{engine="1"} 4.0\n'
        'vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 4.0\n'
        "vllm:generation_tokens_total 1.234567e+06\n"
        'vllm:generation_tokens_total{engine="1"} 3.0\n'
        'vllm:request_success_total{finished_reason="stop"} 5.0\n'
        'vllm:request_success_total{finished_reason="abort"} 1.0\n'
    )
    assert read(functions, tmp_path, body) == "yes 3 4 0 6 0 1234570"


@pytest.mark.parametrize("body", ["", "<html>\n", "# HELP vllm:num_requests_running x\n"])
def test_an_answer_that_tells_nothing_is_not_taken_for_idleness(
    functions: str, tmp_path: Path, body: str
) -> None:
    assert read(functions, tmp_path, body).startswith("no 0 0 0")


NUMBERS = {
    "0.0": 0,
    "3.0": 3,
    "999999.0": 999999,
    "1e+06": 1000000,
    "1.234567e+06": 1234567,
    "1.23456789e+06": 1234567,
    "1.2345678901e+010": 12345678901,
    "9e+017": 900000000000000000,
    "08.0": 8,
    "1e+300": 0,
    "1e-05": 0,
    "NaN": 0,
    "+Inf": 0,
    "-1.0": 0,
    "$(echo 7)": 0,
    "": 0,
}


def test_numbers_as_prometheus_writes_them(functions: str) -> None:
    words = " ".join(f"'{text}'" for text in NUMBERS)
    told = bash(f'{functions}\nfor text in {words}; do whole "$text"; echo "$number"; done')
    assert dict(zip(NUMBERS, map(int, told.split()), strict=True)) == NUMBERS
