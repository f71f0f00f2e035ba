"""A name is free again when its jobs are over; of two who want it at once, one gets it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import names
from hpcvlm.ops.context import Context
from hpcvlm.ops.names import family, make_way, refuse_taken
from hpcvlm.submit.record import JobRecord, read_record, write_record
from hpcvlm.system.settings import Settings


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(settings=Settings(tmp_path, tmp_path / "config", tmp_path / "site.yaml"))


def job(ctx: Context, name: str, *, over: bool, submitted: float = 1000.25) -> JobRecord:
    """A job of this machine: its process is either the first of all, or none."""
    folder = ctx.settings.jobs / name
    folder.mkdir(parents=True)
    record = JobRecord(
        schema=1,
        name=name,
        model="m",
        served_name="m",
        executor="local",
        job_id="1",
        submitted=submitted,
        folder=str(folder),
        time_limit_s=600,
        start_timeout_s=60,
        gpus="0",
        partition=None,
        vision=True,
        image_limit=1,
        media_root="/m",
        engine="vllm 0.32.0",
        loopback=True,
        process_started=0 if over else None,
    )
    write_record(record)
    if over:
        state = {"phase": "ended", "reason": "stopped", "since": 1.0, "started": 1.0, "host": "n"}
        (folder / "state.json").write_text(json.dumps({**state, "job_id": "1"}))
    return record


def taken(ctx: Context, name: str = "vl") -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        make_way(ctx.settings.jobs / name, name, ctx)
    assert caught.value.code == "name-taken"
    return caught.value


def test_a_name_that_nobody_has_is_free(ctx: Context) -> None:
    make_way(ctx.settings.jobs / "vl", "vl", ctx)
    assert not (ctx.settings.state / "ended").exists()


def test_jobs_that_are_over_are_kept_aside_with_all_generations(ctx: Context) -> None:
    for name in ("vl", "vl~2", "vl~10", "vl2"):
        job(ctx, name, over=True)
    free = refuse_taken(ctx.settings.jobs / "vl", "vl", ctx)
    assert [record.name for _, record in free] == ["vl", "vl~10", "vl~2"]
    assert all(place.is_dir() for place, _ in free)
    make_way(ctx.settings.jobs / "vl", "vl", ctx)
    assert [folder.name for folder in ctx.settings.jobs.iterdir()] == ["vl2"]
    aside = sorted(folder.name for folder in (ctx.settings.state / "ended").iterdir())
    stamp = "19700101T001640.250-1"
    assert aside == [f"vl.{stamp}", f"vl~10.{stamp}", f"vl~2.{stamp}"]


@pytest.mark.parametrize("alive", ["vl", "vl~2"])
def test_a_name_is_taken_while_any_generation_runs(ctx: Context, alive: str) -> None:
    for name in ("vl", "vl~2"):
        job(ctx, name, over=name != alive)
    assert taken(ctx).remedy == "hpcvlm status vl, hpcvlm stop vl, or choose another --name"
    assert len(family(ctx.settings.jobs / "vl")) == 2


def test_a_folder_that_says_nothing_is_somebody_s(ctx: Context) -> None:
    (ctx.settings.jobs / "vl").mkdir(parents=True)
    taken(ctx)
    assert (ctx.settings.jobs / "vl").exists()


def test_the_slower_of_two_does_not_move_the_faster_one_s_folder(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the old job over; the faster has moved it away and made its own folder."""
    job(ctx, "vl", over=True)
    put_aside = names._put_aside

    def late(place: Path, record: JobRecord, name: str) -> None:
        put_aside(place, record, name)
        job(ctx, "vl", over=False, submitted=2000.0)
        put_aside(place, record, name)

    monkeypatch.setattr(names, "_put_aside", late)
    taken(ctx)
    fresh = read_record(ctx.settings.jobs / "vl")
    assert fresh is not None
    assert fresh.submitted == 2000.0
    assert len(list((ctx.settings.state / "ended").iterdir())) == 1


def test_of_many_at_once_each_leaves_the_old_folder_whole(ctx: Context) -> None:
    for round_ in range(5):
        job(ctx, "vl", over=True, submitted=1000.0 + round_)
        with ThreadPoolExecutor(8) as pool:
            waits = [pool.submit(make_way, ctx.settings.jobs / "vl", "vl", ctx) for _ in range(8)]
        errors = [wait.exception() for wait in waits]
        assert all(e is None or getattr(e, "code", "") == "name-taken" for e in errors), errors
        assert None in errors
        assert not (ctx.settings.jobs / "vl").exists()
    kept = list((ctx.settings.state / "ended").iterdir())
    assert len(kept) == 5
    assert all(read_record(folder) is not None for folder in kept)


def test_a_folder_that_cannot_be_moved_is_told(ctx: Context) -> None:
    job(ctx, "vl", over=True)
    (ctx.settings.state / "ended").write_text("a file")
    with pytest.raises(HpcvlmError) as caught:
        make_way(ctx.settings.jobs / "vl", "vl", ctx)
    assert caught.value.code == "state-unwritable"
    assert str(ctx.settings.state / "ended") in caught.value.sentence
