"""An endpoint that outlasts its jobs: every script is its own, the endpoint is one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.launch import add_successor, launch, plan_and_render_all
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.submit.record import read_record
from hpcvlm.system.settings import Settings
from tests.job_fixtures import FAKE_SITE
from tests.slurm_stand_in import REFUSED, FakeClock, FakeSlurm

ASKED = LaunchRequest("tiny-vlm", name="vl", gpus="A100:1", time="1h", keep="2h", idle="30m")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands; those that are only looked for are there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return FakeSlurm()


@pytest.fixture
def ctx(tmp_path: Path, slurm: FakeSlurm) -> Context:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "site.yaml").write_text(f"{FAKE_SITE}executor: slurm\n")
    settings = Settings(tmp_path / "state", tmp_path / "config", tmp_path / "no-site.yaml")
    return Context(settings=settings, runner=slurm, clock=FakeClock())


def test_every_generation_has_a_script_of_its_own(ctx: Context) -> None:
    _, jobs = plan_and_render_all(ASKED, ctx)
    assert [plan.name for plan, _ in jobs] == ["vl", "vl~2", "vl~3"]
    folders = [plan.folder for plan, _ in jobs]
    assert [plan.predecessor for plan, _ in jobs] == [None, *folders[:-1]]
    first = jobs[0][1].script.replace("\n", "\0")
    for (plan, job), before in zip(jobs[1:], folders[:-1], strict=True):
        assert f"#SBATCH --job-name={plan.name}\n" in job.script.replace('"', "")
        assert f"{plan.folder}/key" in dict(plan.environment)["HPCVLM_KEY_FILE"]
        # Nothing of another generation but the word to the one before it, and the first one's
        # pictures.
        others = [folder for folder in folders if folder not in (plan.folder, before)]
        for line in job.script.replace(f"{folders[0]}/media", "").splitlines():
            assert not any(f"{folder}/" in line for folder in others)
        assert plan.media_root == f"{folders[0]}/media"
    assert all(plan.endpoint == "vl" for plan, _ in jobs)
    assert "vl~" not in first


def test_all_are_submitted_and_what_was_typed_is_kept(ctx: Context, slurm: FakeSlurm) -> None:
    record = launch(ASKED, ctx)
    assert record.notes == ("3 jobs take over from each other: 4711, 4712, 4713",)
    assert len(slurm.alive) == 3
    text = (ctx.settings.jobs / "vl~2" / "request.json").read_text()
    assert json.loads(text)["request"]["keep"] == "2h"
    with pytest.raises(HpcvlmError) as caught:
        launch(ASKED, ctx)
    assert caught.value.code == "name-taken"
    assert len(slurm.alive) == 3


def test_a_successor_is_the_newest_job_s(ctx: Context, slurm: FakeSlurm) -> None:
    first = launch(ASKED, ctx)
    added = add_successor(first, ctx)
    assert (added.name, added.generation, added.shown_name) == ("vl~4", 4, "vl")
    assert slurm.jobs[-1].dependency == "after:4713"
    assert added.keep_until is None
    assert (added.idle_s, added.time_limit_s) == (1800, 3600)
    keys = {path.read_text() for path in ctx.settings.jobs.glob("*/key")}
    assert len(keys) == 1
    assert read_record(ctx.settings.jobs / "vl~4") == added


def test_a_successor_needs_to_know_what_was_typed(ctx: Context) -> None:
    first = launch(ASKED, ctx)
    (ctx.settings.jobs / "vl" / "request.json").write_text("{}")
    with pytest.raises(HpcvlmError) as caught:
        add_successor(first, ctx)
    assert caught.value.code == "request-missing"


def test_a_refused_chain_leaves_the_name_free(ctx: Context, slurm: FakeSlurm) -> None:
    slurm.answers = [True, True, REFUSED]
    with pytest.raises(HpcvlmError):
        launch(ASKED, ctx)
    assert slurm.alive == []
    slurm.answers = []
    assert launch(ASKED, ctx).name == "vl"
