"""Which snapshots are in use: comments of Slurm's jobs, records of local ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.ops import snapshot_uses
from hpcvlm.ops.context import Context
from hpcvlm.slurm.comments import CommentedJob, parse_comments, use_comment
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.system.process import Completed
from hpcvlm.system.processes import start_ticks
from hpcvlm.system.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# squeue --noheader --all --format='%i|%u|%k|%j' of a job with and of one without a comment
ANSWER = f"""\
7|ada|hpcvlm:org/model@{COMMIT}|eyes
8|bob|(null)|some|thing
9_3|eve|project 12 hpcvlm:org/other@main|more-eyes
"""


def test_a_comment_is_read_as_it_was_written() -> None:
    jobs = parse_comments(0, ANSWER, "")
    assert jobs == [
        CommentedJob("7", "ada", "eyes", "org/model", COMMIT),
        CommentedJob("9_3", "eve", "more-eyes", "org/other", "main"),
    ]


@given(
    st.from_regex(r"[A-Za-z0-9][\w.-]{0,40}/[\w.-]{1,40}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{40}|[\w./-]{1,20}", fullmatch=True),
)
def test_every_repository_and_revision_comes_back(repo: str, commit: str) -> None:
    line = f"1|ada|{use_comment(repo, commit)}|name"
    found = parse_comments(0, line, "")
    assert [(job.repo, job.commit, job.name) for job in found] == [(repo, commit, "name")]


class Slurm:
    """Answers as squeue and scontrol do."""

    def __init__(self, squeue: Completed, config: str = "PrivateData = none\n") -> None:
        self.squeue = squeue
        self.config = config

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        return self.squeue if argv[0] == "squeue" else Completed(0, self.config, "")


@pytest.fixture
def here(tmp_path: Path) -> Context:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "squeue"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    settings = Settings(tmp_path / "state", tmp_path / "config", tmp_path / "site.yaml")
    return Context(settings, {"PATH": str(tmp_path / "bin")}, Slurm(Completed(0, ANSWER, "")))


def test_jobs_of_every_user_count(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    uses = snapshot_uses.find_uses(here)
    assert [use.user for use in uses.of("org/model", COMMIT)] == ["ada"]
    assert uses.unknown == ()


@pytest.mark.parametrize(
    ("uid", "config", "unknown"),
    [
        (1000, "PrivateData             = jobs,usage\n", "Slurm hides the jobs of other users"),
        (0, "PrivateData             = jobs,usage\n", ""),
        (1000, "PrivateData             = accounts\n", ""),
    ],
)
def test_hidden_jobs_are_not_taken_for_none(
    here: Context, monkeypatch: pytest.MonkeyPatch, uid: int, config: str, unknown: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    slurm = Slurm(Completed(0, ANSWER, ""), config)
    found = snapshot_uses.find_uses(Context(here.settings, here.environment, slurm)).unknown
    assert bool(found) == bool(unknown)
    assert unknown in " ".join(found)


def test_a_slurm_that_does_not_answer_leaves_it_unknown(here: Context) -> None:
    error = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    slurm = Slurm(Completed(1, "", error))
    uses = snapshot_uses.find_uses(Context(here.settings, here.environment, slurm))
    assert uses.uses == ()
    assert "Slurm did not say what runs" in uses.unknown[0]


def test_slurm_commands_without_a_cluster_are_no_slurm(here: Context) -> None:
    error = "squeue: fatal: Could not establish a configuration source"
    slurm = Slurm(Completed(1, "", error))
    assert snapshot_uses.find_uses(Context(here.settings, here.environment, slurm)).unknown == ()


def test_a_process_of_this_machine_counts_while_it_lives(here: Context) -> None:
    folder = here.settings.jobs / "mine"
    folder.mkdir(parents=True)
    record = JobRecord(
        schema=1, name="mine", model="m", served_name="m", executor="local",
        job_id=str(os.getpid()),
        submitted=0.0, folder=str(folder), time_limit_s=60, start_timeout_s=60, gpus="0",
        partition=None, vision=True, image_limit=None, media_root="/m", engine="vllm 1",
        loopback=True, process_started=start_ticks(os.getpid()), repo="org/model", commit=COMMIT,
    )  # fmt: skip
    write_record(record)
    names = [use.name for use in snapshot_uses.find_uses(here).of("org/model", COMMIT)]
    assert names == ["mine", "eyes"]
    write_record(replace(record, process_started=1))  # another process got the same id
    names = [use.name for use in snapshot_uses.find_uses(here).of("org/model", COMMIT)]
    assert names == ["eyes"]
