"""hpcvlm plan, and what a launch refuses and can be forced to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ROOT, Command

FAKE = ROOT / "tests" / "fake_vllm.py"
SINFO = """#!/bin/sh
echo 'gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4'
echo 'short|up|30:00|1|8|16000|gpu:A100:4'
"""
SBATCH = """#!/bin/sh
for word in "$@"; do
  if [ "$word" = --test-only ]; then
    if [ -n "$REFUSE" ]; then
      echo 'sbatch: error: Batch job submission failed: Invalid account' >&2
      exit 1
    fi
    echo 'sbatch: Job 7 to start at 2026-11-21T10:30:00 using 8 processors on nodes gpu01' >&2
    exit 0
  fi
done
echo "$@" >>"$SUBMITTED"
echo 4242
"""


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sinfo": SINFO, "sbatch": SBATCH}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    command = Command(
        tmp_path,
        {
            "PATH": f"{folder}:/usr/bin:/bin",
            "HOME": str(home),
            "SUBMITTED": str(tmp_path / "submitted"),
        },
    )
    command.site(f"schema: 1\nruntime: none\nengines: [{{version: 0.32.0, command: ['{FAKE}']}}]\n")
    return command


def too_wide(text: str) -> list[str]:
    """Lines over 100 columns that could have been broken: paths and commit hashes cannot."""
    lines = [line for line in text.splitlines() if len(line) > 100]
    return [line for line in lines if max(map(len, line.split())) < 40]


def submitted(command: Command) -> bool:
    return Path(command.environment["SUBMITTED"]).exists()


def test_a_plan_tells_every_value_its_source_the_cost_and_the_start(hpcvlm: Command) -> None:
    hpcvlm.environment["HPCVLM_SITE_ACCOUNT"] = "from-env"
    asked = ("tiny-vlm", "--gpus", "A100:2", "--time", "3h", "--set", "site.qos=high")
    done = hpcvlm("plan", *asked)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert too_wide(done.stdout) == []

    def line_of(name: str) -> str:
        return next(line for line in lines if line.split()[:1] == [name])

    assert line_of("--account").split() == ["--account", "from-env", "environment"]
    assert line_of("--qos").split()[1:] == ["high", "command", "line"]
    assert line_of("--gpus-per-node").split()[1:] == ["A100:2", "command", "line"]
    assert line_of("--dtype").split()[1:] == ["float32", "model", "file"]
    assert "6.0 GPU hours at most" in done.stdout
    assert "to start at 2026-11-21T10:30:00" in done.stdout
    assert "No problem was found" in done.stdout
    assert not submitted(hpcvlm)
    assert not hpcvlm.state.exists()


def test_a_plan_for_machines(hpcvlm: Command) -> None:
    plan = hpcvlm("plan", "tiny-vlm", "--gpus", "A100:1", "--json").json()
    assert plan["gpu_hours"] == 0.5
    assert plan["start"]["expected"].startswith("2026-11-21T10:30:00")
    assert plan["issues"] == []
    assert plan["memory"]["fits"] is True
    assert plan["plan"]["sources"]["option dtype"] == "model file: options.dtype"


def test_all_problems_come_at_once_each_with_code_field_and_remedy(hpcvlm: Command) -> None:
    hpcvlm.environment["REFUSE"] = "yes"
    asked = ("llama-3.2-11b-vision", "--gpus", "B200:3", "--time", "2h", "--partition", "short")
    done = hpcvlm("plan", *asked, "--json")
    issues = {issue["code"]: issue for issue in done.json()["issues"]}
    assert list(issues) == [
        "tensor-parallel", "gpu-type-unknown", "time-limit", "engine-version", "snapshot-missing",
        "sbatch-refused",
    ]  # fmt: skip
    assert all(issue["field"] and issue["sentence"] for issue in issues.values())
    assert issues["engine-version"]["sentence"].startswith(
        "llama-3.2-11b-vision needs vllm >=0.9.1,<=0.10.2"
    )
    assert "0.10.2" in issues["engine-version"]["remedy"]
    assert "Invalid account" in issues["sbatch-refused"]["sentence"]
    assert done.code == 2
    text = hpcvlm("plan", *asked).stdout
    assert "6 problems; hpcvlm launch would refuse this" in text
    assert too_wide(text) == []


def test_a_launch_is_refused_for_what_its_plan_says_and_forced_where_one_may_know_better(
    hpcvlm: Command,
) -> None:
    asked = ("launch", "tiny-vlm", "--no-wait", "--partition", "short", "--time", "2h")
    done = hpcvlm(*asked)
    assert done.code == 4
    assert done.stderr.splitlines()[-1].endswith("--force time-limit launches all the same")
    assert not submitted(hpcvlm)
    done = hpcvlm(*asked, "--force", "time-limit")
    assert done.code == 0, done.stderr
    assert submitted(hpcvlm)


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        (("--gpus", "A100:3"), "tensor-parallel", "cannot be forced"),
        ((), "memory", "is not among this launch's problems"),
    ],
)
def test_what_cannot_be_forced(hpcvlm: Command, more: tuple[str, ...], code: str, why: str) -> None:
    done = hpcvlm("launch", "tiny-vlm", "--no-wait", *more, "--force", code)
    assert done.code == 2
    assert done.stderr.splitlines()[0] == f"error: --force {code} {why}"
    assert not submitted(hpcvlm)


def test_a_plan_says_that_its_name_is_taken(hpcvlm: Command) -> None:
    words = ("tiny-vlm", "--gpus", "A100:1", "--name", "mine")
    assert hpcvlm("plan", *words).code == 0
    assert hpcvlm("launch", *words, "--no-wait").code == 0
    done = hpcvlm("plan", *words)
    assert done.code == hpcvlm("launch", *words, "--no-wait").code != 0
    assert "there is an endpoint called 'mine' already" in " ".join(done.stdout.split())
    assert "choose another --name" in " ".join(done.stdout.split())
    assert hpcvlm("plan", *words[:3]).code == 0


def test_an_option_for_another_release_is_translated_in_plan_and_script_alike(
    hpcvlm: Command,
) -> None:
    asked = ("tiny-vlm", "--set", "disable-mm-preprocessor-cache=true")
    assert "--disable-mm-preprocessor-cache became" in hpcvlm("plan", *asked).stdout
    script = hpcvlm("render", *asked).stdout
    assert "--mm-processor-cache-gb" in script
    assert "--disable-mm-preprocessor-cache" not in script
    done = hpcvlm("launch", *asked[:1], "--no-wait", "--set", "frobnicate-deeply=4")
    assert done.code == 2
    assert done.stderr.splitlines()[0] == "error: vLLM has no --frobnicate-deeply"


def test_a_mistake_in_a_setting_of_the_site(hpcvlm: Command) -> None:
    done = hpcvlm("plan", "tiny-vlm", "--set", "site.acount=x")
    assert done.code == 2
    assert "did you mean 'account'?" in done.stderr


def test_a_name_that_is_no_repository_is_answered_with_the_one_that_is_meant(
    hpcvlm: Command,
) -> None:
    text = hpcvlm("plan", "microsoft/llava-1.6-vicuna-7b", "--gpus", "A100:1").stdout
    assert (
        "microsoft/llava-1.6-vicuna-7b is taken for llava-1.6-vicuna-7b, whose repository is "
        "llava-hf/llava-v1.6-vicuna-7b-hf"
    ) in text


def test_what_no_engine_serves_says_so_and_what_to_take(hpcvlm: Command) -> None:
    done = hpcvlm("launch", "VILA-1.5", "--gpus", "A100:1", "--no-wait")
    assert done.code == 4
    assert done.stderr.startswith("error: vila cannot be served: ")
    assert not submitted(hpcvlm)


def test_an_engine_version_that_is_none(hpcvlm: Command) -> None:
    done = hpcvlm("plan", "tiny-vlm", "--engine-version", "newest")
    assert done.code == 2
    assert done.stderr.splitlines()[0] == "error: --engine-version 'newest' is not a version"
