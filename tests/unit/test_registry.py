"""Endpoints found in their folders: generations, folders that cannot be read, servers that hang."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from hpcvlm.endpoints import registry
from hpcvlm.endpoints.registry import (
    find_endpoint,
    find_record,
    generations,
    read_jobs,
    the_one_meant,
)
from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.patience import each_in_time
from tests.unit.test_endpoints import record


def generation(jobs: Path, number: int, phase: str = "", **over: object) -> JobRecord:
    """One job of the endpoint `big`, in the phase that it says itself."""
    name = "big" if number == 1 else f"big~{number}"
    made = record(jobs, name, endpoint="big", generation=number, job_id=str(40 + number), **over)
    if phase:
        said = {"phase": phase, "since": 1, "started": 1, "job_id": made.job_id, "host": "h"}
        (jobs / name / "state.json").write_text(json.dumps(said))
    return made


def test_the_name_means_the_newest_that_is_ready(tmp_path: Path) -> None:
    for number, phase in ((1, "ended"), (2, "ready"), (3, "ready"), (4, "weights"), (5, "")):
        generation(tmp_path, number, phase)
    assert find_record(tmp_path, "big").name == "big~3"
    assert find_record(tmp_path, "bi").name == "big~3"


@pytest.mark.parametrize(
    ("phases", "meant"),
    [
        (("weights", "", ""), "big"),
        (("ended", "weights", ""), "big~2"),
        (("ended", "ended", ""), "big~3"),
        (("ended", "ended", "ended"), "big~3"),
        (("draining", "ready", ""), "big~2"),
        (("ready", "weights", ""), "big"),
    ],
)
def test_what_a_name_means_else(tmp_path: Path, phases: tuple[str, ...], meant: str) -> None:
    for number, phase in enumerate(phases, 1):
        generation(tmp_path, number, phase)
    assert find_record(tmp_path, "big").name == meant


def test_a_generation_has_a_name_and_a_number_of_its_own(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        generation(tmp_path, number, "ready")
    assert [job.name for job in find_endpoint(tmp_path, "big")] == ["big", "big~2", "big~10"]
    assert [job.name for job in find_endpoint(tmp_path, "big~2")] == ["big~2"]
    assert [job.name for job in find_endpoint(tmp_path, "50")] == ["big~10"]


def test_an_endpoint_outlives_the_folder_of_its_first_job(tmp_path: Path) -> None:
    generation(tmp_path, 2, "ready")
    generation(tmp_path, 3)
    assert [job.name for job in find_endpoint(tmp_path, "big")] == ["big~2", "big~3"]


def test_generations_do_not_make_a_prefix_ambiguous_but_other_endpoints_do(tmp_path: Path) -> None:
    generation(tmp_path, 1)
    generation(tmp_path, 2)
    assert find_record(tmp_path, "b").name == "big"
    record(tmp_path, "bigger", job_id="90")
    with pytest.raises(HpcvlmError, match="beginning of 2 names: big, bigger"):
        find_record(tmp_path, "b")
    # A whole name is no prefix.
    assert find_record(tmp_path, "big").name == "big"


def test_a_name_with_letters_of_patterns_means_itself(tmp_path: Path) -> None:
    record(tmp_path, "a[1]", job_id="7")
    record(tmp_path, "a1", job_id="8")
    assert find_record(tmp_path, "a[1]").job_id == "7"


def test_groups_are_in_the_order_of_their_oldest_job(tmp_path: Path) -> None:
    generation(tmp_path, 2, submitted=1.0)
    generation(tmp_path, 1, submitted=1.0)
    record(tmp_path, "other", job_id="8", submitted=0.5)
    groups = generations(read_jobs(tmp_path).records)
    assert {name: [job.name for job in jobs] for name, jobs in groups.items()} == {
        "other": ["other"],
        "big": ["big", "big~2"],
    }


def test_the_one_meant_of_values() -> None:
    jobs = ["over", "ready", "ready-newer", "queued"]
    ready, over = (lambda job: job.startswith("ready")), (lambda job: job.startswith("over"))

    def tried(job: str) -> bool:
        return "cancelled" not in job

    assert the_one_meant(jobs, ready, over, tried) == "ready-newer"
    assert the_one_meant(["over", "queued", "queued-2"], ready, over, tried) == "queued"
    assert the_one_meant(["over", "over"], ready, over, tried) == "over"
    ended = ["over-1", "over-2", "over-cancelled"]
    assert the_one_meant(ended, ready, over, tried) == "over-2"
    assert the_one_meant(ended[2:], ready, over, tried) == "over-cancelled"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"schema": 1, "name": "bro', "is broken or cut short"),
        ("[1, 2]", "is broken or cut short"),
        ('{"schema": 1}', "is broken or cut short"),
    ],
)
def test_a_record_that_cannot_be_read_is_told_of(tmp_path: Path, text: str, words: str) -> None:
    record(tmp_path, "good")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text(text)
    found = read_jobs(tmp_path)
    assert [job.name for job in found.records] == ["good"]
    [unreadable] = found.unreadable
    assert unreadable.name == "broken"
    assert unreadable.why == f"{tmp_path}/broken/record.json {words}"
    with pytest.raises(HpcvlmError) as error:
        find_record(tmp_path, "broken")
    assert error.value.code == "record-unreadable"
    assert "broken/record.json" in error.value.sentence
    assert error.value.remedy == "squeue --me --name=broken shows whether its job runs"


def test_a_job_folder_without_its_record_is_told_of_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "job.sbatch").write_text("#!/bin/bash\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    [unreadable] = read_jobs(tmp_path).unreadable
    assert (unreadable.name, unreadable.why) == ("half", f"{tmp_path}/half/record.json is missing")


def test_a_state_folder_that_cannot_be_listed_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_jobs(tmp_path / "file").problem == f"cannot read {tmp_path}/file: Not a directory"
    assert read_jobs(tmp_path / "missing").problem == ""


def test_a_file_server_that_hangs_costs_its_own_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe blocks who opens it for reading, as a server that is away does."""
    for name in ("a", "hangs", "z"):
        record(tmp_path, name)
    (tmp_path / "hangs" / "record.json").unlink()
    os.mkfifo(tmp_path / "hangs" / "record.json")
    began = time.monotonic()
    found = read_jobs(tmp_path, limit_s=0.5)
    assert time.monotonic() - began < 10
    assert [job.name for job in found.records] == ["a", "z"]
    [unreadable] = found.unreadable
    assert unreadable.why == f"{tmp_path}/hangs has not answered for 0.5 s"
    # Whoever is stuck must be let go, or the pipe would outlive the test in a thread.
    os.close(os.open(tmp_path / "hangs" / "record.json", os.O_WRONLY | os.O_NONBLOCK))

    release = threading.Event()
    monkeypatch.setattr(registry, "_list", lambda _jobs: release.wait(20))
    assert read_jobs(tmp_path, limit_s=0.2).problem == f"{tmp_path} has not answered for 0.2 s"
    release.set()


def test_after_a_few_that_hang_the_rest_is_not_tried() -> None:
    release = threading.Event()
    began = time.monotonic()
    found = each_in_time(lambda _item: release.wait(20), range(100), 0.1)
    assert found == {}
    assert time.monotonic() - began < 10
    release.set()


def test_everything_is_read_where_nothing_hangs() -> None:
    found = each_in_time(lambda item: item * 2, range(500), 5.0)
    assert found == {number: number * 2 for number in range(500)}
    assert each_in_time(lambda item: item, [], 5.0) == {}
