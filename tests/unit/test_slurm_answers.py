"""Every captured answer of a real Slurm, against what must be made of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcvlm.errors import HpcvlmError
from hpcvlm.site.cluster import parse_sinfo
from hpcvlm.slurm import parse
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.states import JobPhase

DATA = Path(__file__).parent.parent / "data" / "slurm"
PARSERS: dict[str, Callable[[int, str, str], object]] = {
    "sbatch": parse.parse_sbatch,
    "sbatch_test": parse.parse_sbatch_test,
    "squeue": parse.parse_squeue,
    "sacct": parse.parse_sacct,
    "scancel": parse.parse_scancel,
    "sinfo": parse_sinfo,
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The answers with times in Slurm's standard format were captured in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def cases() -> list[Any]:
    return [
        pytest.param(command, case, id=f"{command}: {case['name']}")
        for command in PARSERS
        for case in yaml.safe_load((DATA / f"{command}.yaml").read_text(encoding="utf-8"))["cases"]
    ]


def plain(value: Any) -> Any:
    """A parsed value as the data files write it: what is not set is left out."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, datetime):
        return int(value.timestamp())
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: plain(v) for k, v in fields.items() if v is not None and v not in ("", ())}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize(("command", "case"), cases())
def test_a_captured_answer(command: str, case: dict[str, Any]) -> None:
    answer = (case["code"], case["stdout"], case["stderr"])
    if "error" not in case:
        assert plain(PARSERS[command](*answer)) == case["expect"]
        return
    with pytest.raises(HpcvlmError) as caught:
        PARSERS[command](*answer)
    error = caught.value
    expected = case["error"]
    assert error.code == expected["code"]
    assert error.sentence == expected["sentence"]
    assert error.remedy == expected.get("remedy", "")
    assert list(error.details) == expected.get("details", [])


@pytest.mark.parametrize("command", PARSERS)
def test_a_command_that_is_not_there(command: str) -> None:
    program = command.partition("_")[0]
    with pytest.raises(HpcvlmError) as caught:
        PARSERS[command](127, "", f"{program}: No such file or directory")
    assert caught.value.code == "slurm-unavailable"
    assert caught.value.sentence == f"there is no {program} command here"
    assert "login node" in caught.value.remedy


@pytest.mark.parametrize("command", PARSERS)
def test_a_command_that_does_not_answer(command: str) -> None:
    program = command.partition("_")[0]
    with pytest.raises(HpcvlmError) as caught:
        PARSERS[command](124, "", f"{program}: no answer within 20 s")
    assert caught.value.code == "slurm-unavailable"
    assert caught.value.sentence == f"{program} did not answer in time"


@pytest.mark.parametrize("command", ["squeue", "sacct", "sinfo"])
def test_a_line_that_is_no_answer(command: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        PARSERS[command](0, "Welcome to the cluster!\n", "")
    assert caught.value.code == "slurm-output"
    assert "'Welcome to the cluster!'" in caught.value.sentence


@pytest.mark.parametrize("command", ["squeue", "sacct", "sinfo"])
def test_a_failure_with_unknown_words_is_shown_as_it_is(command: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        PARSERS[command](3, "", f"{command}: error: the moon is full\n")
    assert caught.value.code == "slurm-unavailable"
    assert caught.value.sentence == f"{command} failed: the moon is full"
    assert caught.value.remedy == f"run {command} by hand"


def test_sbatch_that_gives_no_number() -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse.parse_sbatch(0, "Submitted batch job\n", "a site's wrapper\n")
    assert caught.value.code == "slurm-output"
    assert caught.value.sentence == "sbatch gave no job number but 'Submitted batch job'"
    assert caught.value.remedy == "squeue --me shows whether the job was taken"
    assert caught.value.details == ("a site's wrapper",)


def test_sbatch_that_says_more_on_stdout() -> None:
    """Site wrappers print a banner; the number is on the last line."""
    taken = parse.parse_sbatch(0, "Your project has 10 hours left.\n\n77\n", "")
    assert taken == parse.Submission("77", None, ("Your project has 10 hours left.",))


def test_sbatch_that_refuses_without_a_word() -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse.parse_sbatch(1, "", "")
    assert caught.value.sentence == "sbatch refused the job: it gave no reason"


@pytest.mark.parametrize(
    ("words", "was_there"),
    [
        ("scancel: error: Kill job error on job id 5: Invalid job id specified", False),
        ("scancel: error: Kill job error on job id 5: Job/step already completing or completed",
         False),
    ],
)  # fmt: skip
def test_scancel_that_says_that_a_job_is_gone(words: str, was_there: bool) -> None:
    assert parse.parse_scancel(1, "", words) is was_there


def test_a_job_is_shown_whatever_its_times_look_like() -> None:
    (job,) = parse.parse_squeue(0, "7|RUNNING|None|n1|soon|99999999999999999|later|gpu|x\n", "")
    assert job == SlurmJob("7", JobPhase.RUNNING, "RUNNING", nodes="n1", partition="gpu", name="x")


def test_a_state_that_is_not_known_is_shown_as_it_is() -> None:
    (job,) = parse.parse_squeue(0, "7|LEVITATING|None|n1|N/A|N/A|1:00|gpu|x\n", "")
    assert (job.state, job.raw_state) == (JobPhase.UNKNOWN, "LEVITATING")


def test_the_heading_of_a_cluster_is_no_job() -> None:
    answer = "CLUSTER: north\n7|PENDING|Priority||1795247438|N/A|1:00:00|gpu|x\n"
    (job,) = parse.parse_squeue(0, answer, "")
    assert job.start == datetime.fromtimestamp(1795247438, tz=UTC)
    assert job.time_limit_s == 3600
