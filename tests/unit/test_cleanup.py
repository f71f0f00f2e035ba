"""Cleanup: only what hpcvlm made, only of jobs that are over, in steps that leave nothing half."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import cleanup_files
from hpcvlm.ops.cleanup import CleanupPlan, Outcome, execute, parse_age, plan_cleanup
from hpcvlm.ops.context import Context
from hpcvlm.ops.usage_book import read_book
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.system.process import Completed
from hpcvlm.system.settings import Settings
from tests.command import ROOT
from tests.job_records import DAY, HOUR, NOW, StillClock, active, record, said

_LEFT = (
    *("plan.json", "job.sbatch", "key", "probe.json", "request.json", "lease", "drain", "ends"),
    *("engine.out", "engine.err", "job.out", "job.err", "events.log", "41_0_log.out"),
    *("engine.out.1", "engine.err.12", ".state.json.new", ".record.json.abcd1234"),
)


class Slurm:
    """Knows the jobs it is told of, and no others; or does not answer."""

    def __init__(self, states: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.states = states or {}
        self.away = False

    def __call__(self, argv: Sequence[str], **_: object) -> Completed:
        if self.away:
            return Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
        if argv[0] != "squeue":
            return Completed(0, "", "")
        lines = [
            f"{job}|{state}|None|n1|{int(NOW - HOUR)}|{int(NOW + HOUR)}|2:00:00|gpu|{name}"
            for job, (name, state) in self.states.items()
        ]
        return Completed(0, "\n".join(lines), "")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "jobs").mkdir(parents=True, mode=0o700)
    return folder


@pytest.fixture
def jobs(state: Path) -> Path:
    return state / "jobs"


def context(state: Path, slurm: Slurm | None = None) -> Context:
    settings = Settings(state, state.parent / "config", state.parent / "no")
    return Context(settings, {"PATH": "/nowhere"}, slurm or Slurm(), StillClock())


def over(jobs: Path, name: str, *, days: float = 10, **more: Any) -> JobRecord:
    """A job that has ended so many days ago, with all the files that it has left."""
    made = record(jobs, name, **{"submitted": NOW - (days + 1) * DAY, **more})
    said(made, "ended", NOW - (days + 1) * DAY, NOW - days * DAY, reason="idle")
    active(made, NOW - days * DAY, tokens=(1, 10, 5))
    folder = Path(made.folder)
    for file in _LEFT:
        (folder / file).write_text("x" * 100)
    (folder / "media").mkdir()
    (folder / "payloads" / "__pycache__").mkdir(parents=True)
    (folder / "payloads" / "hpcvlm_guard.py").write_text("x")
    (folder / "payloads" / "__pycache__" / "hpcvlm_guard.cpython-312.pyc").write_text("x")
    return made


def names(plan: CleanupPlan) -> list[str]:
    return [row.name for row in plan.rows]


def plan_of(state: Path, slurm: Slurm | None = None, **more: Any) -> CleanupPlan:
    return plan_cleanup(7 * DAY, context(state, slurm), **more)


def clean(state: Path, slurm: Slurm | None = None) -> list[Outcome]:
    return list(execute(plan_of(state, slurm), context(state, slurm)))


def test_a_job_that_is_over_goes_with_all_its_files(state: Path, jobs: Path) -> None:
    over(jobs, "old")
    over(jobs, "young", days=6, job_id="42")
    plan = plan_of(state)
    assert names(plan) == ["old"]
    assert plan.rows[0].why == "ended (idle for as long as was allowed)"
    assert plan.size > 1500
    assert plan.younger == 1
    outcomes = list(execute(plan, context(state)))
    assert [(o.skipped, o.problem) for o in outcomes] == [("", "")]
    assert sorted(path.name for path in jobs.iterdir()) == ["young"]
    assert not (state / "trash").exists()


def test_what_it_used_is_kept(state: Path, jobs: Path) -> None:
    over(jobs, "old")
    clean(state)
    (use,) = read_book(state)
    assert (use.endpoint, use.model, use.job_id) == ("old", "qwen", "41")
    assert (use.prompt_tokens, use.generation_tokens) == (10, 5)
    assert use.seconds_since(0) == DAY


def test_nothing_goes_whose_end_is_not_proved(state: Path, jobs: Path) -> None:
    running = record(jobs, "runs", job_id="50")
    said(running, "ready", NOW - HOUR, NOW - HOUR)
    active(running, NOW, tokens=(0, 0, 0))
    record(jobs, "queued", job_id="51")
    record(jobs, "doubt", job_id="")
    lost = record(jobs, "lost", job_id="52", submitted=NOW - 90 * DAY)
    said(lost, "ready", NOW - 90 * DAY, NOW - 90 * DAY)
    for path in (Path(lost.folder), *Path(lost.folder).iterdir()):
        os.utime(path, (NOW - 90 * DAY, NOW - 90 * DAY))
    slurm = Slurm({"50": ("runs", "RUNNING"), "51": ("queued", "PENDING")})
    plan = plan_of(state, slurm)
    assert names(plan) == []
    kept = {one.name: one.why for one in plan.kept}
    assert "no last word" in kept["lost"]
    assert "no last word" in kept["doubt"]
    assert plan.running == 2
    assert sorted(names(plan_of(state, slurm, forgotten=True))) == ["lost"]


def test_while_slurm_is_away_only_what_is_final_goes(state: Path, jobs: Path) -> None:
    over(jobs, "final")
    other = record(jobs, "open", job_id="52", submitted=NOW - 90 * DAY)
    said(other, "ready", NOW - 90 * DAY, NOW - 90 * DAY)
    slurm = Slurm()
    slurm.away = True
    plan = plan_of(state, slurm, forgotten=True)
    assert names(plan) == ["final"]
    assert [one.name for one in plan.kept] == ["open"]
    assert "unknown" in plan.kept[0].why


def test_generations_go_together(state: Path, jobs: Path) -> None:
    over(jobs, "e")
    later = record(jobs, "e~2", job_id="60", endpoint="e", generation=2)
    said(later, "ready", NOW - HOUR, NOW - HOUR)
    plan = plan_of(state, Slurm({"60": ("e~2", "RUNNING")}))
    assert names(plan) == []
    assert plan.kept[0].why == "another job of e is not over"


@pytest.mark.parametrize(
    "stranger", ["notes.txt", "media/cat.png", "payloads/more.json", "results/a", "core.1"]
)
def test_what_somebody_put_there_keeps_the_folder(state: Path, jobs: Path, stranger: str) -> None:
    folder = Path(over(jobs, "old").folder)
    (folder / stranger).parent.mkdir(exist_ok=True)
    (folder / stranger).write_text("mine")
    plan = plan_of(state)
    assert names(plan) == []
    assert plan.kept[0].path == folder
    assert stranger.partition("/")[0] in plan.kept[0].why


def test_links_are_not_followed(state: Path, jobs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("42")
    folder = Path(over(jobs, "in-media").folder)
    (folder / "media" / "link").symlink_to(precious)
    elsewhere = Path(over(jobs, "whole").folder)
    shutil.move(elsewhere, tmp_path / "moved")
    elsewhere.symlink_to(tmp_path / "moved")
    engine = Path(over(jobs, "file").folder) / "engine.out"
    engine.unlink()
    engine.symlink_to(precious / "thesis")
    plan = plan_of(state)
    assert names(plan) == []
    assert sorted(one.name for one in plan.kept) == ["file", "in-media", "whole"]
    assert (precious / "thesis").read_text() == "42"


def test_a_link_in_place_of_a_whole_store_is_not_entered(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    over(other, "old")
    (state / "ended").symlink_to(other)
    assert names(plan_of(state)) == []


def test_unreadable_records_and_strange_files_are_named(state: Path, jobs: Path) -> None:
    (jobs / "broken").mkdir()
    (jobs / "broken" / "record.json").write_text("{")
    (jobs / "note").write_text("mine")
    kept = {one.name: one.why for one in plan_of(state).kept}
    assert kept["note"] == "hpcvlm did not make it"
    assert "no readable record" in kept["broken"]


def test_jobs_put_aside_drafts_and_old_templates(state: Path, jobs: Path) -> None:
    first = over(jobs, "n")
    aside = state / "ended" / "n.20261101"
    aside.parent.mkdir()
    Path(first.folder).rename(aside)
    second = over(jobs, "n", job_id="43")
    draft = state / "new" / "x.ab12cd34"
    shutil.copytree(second.folder, draft)
    templates = state / "cache" / "templates"
    templates.mkdir(parents=True)
    for name in ("a" * 40, f".{'b' * 40}.abcd1234", "c" * 40, "mine"):
        (templates / name).write_text("code")
    old = NOW - 30 * DAY
    for path in (draft, templates / ("a" * 40), templates / f".{'b' * 40}.abcd1234"):
        os.utime(path, (old, old))
    for path in (templates / ("c" * 40),):
        os.utime(path, (NOW, NOW))
    os.utime(templates / "mine", (old, old))
    kinds = {row.name: row.kind for row in plan_of(state).rows}
    assert kinds == {
        "n": "job",
        "n.20261101": "earlier job",
        "x.ab12cd34": "draft",
        "a" * 40: "template",
        f".{'b' * 40}.abcd1234": "template",
    }
    assert all(not o.problem and not o.skipped for o in clean(state))
    assert [path.name for path in templates.iterdir() if path.name != "c" * 40] == ["mine"]
    assert sorted(use.job_id for use in read_book(state)) == ["41", "43"]


def test_sessions_of_connect_that_were_killed(state: Path) -> None:
    old = NOW - 30 * DAY
    for name in ("dead", "alive", "mine"):
        folder = state / "connect" / name
        folder.mkdir(parents=True)
        for file in ("lock", "key", "session.json"):
            (folder / file).write_text("x")
        if name == "mine":
            (folder / "notes").write_text("x")
        os.utime(folder, (old, old))
    (state / "jobs" / ".clock.abcd1234").touch()
    os.utime(state / "jobs" / ".clock.abcd1234", (old, old))
    (state / "jobs" / ".clock.ef_gh567").touch()
    with (state / "connect" / "alive" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = plan_of(state)
    assert {row.name: row.kind for row in plan.rows} == {
        ".clock.abcd1234": "leftover",
        "dead": "session",
    }
    assert [one.name for one in plan.kept] == ["mine"]
    with (state / "connect" / "dead" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcomes = list(execute(plan, context(state)))
    skipped = {outcome.row.name: outcome.skipped for outcome in outcomes}
    assert skipped == {".clock.abcd1234": "", "dead": "a connect has begun there"}
    assert [outcome.skipped for outcome in clean(state)] == ["", ""]
    assert [path.name for path in (state / "connect").iterdir()] == ["mine"]


def test_every_file_that_the_job_script_writes_is_known() -> None:
    names = set()
    for text in (ROOT / "templates" / "sbatch").glob("*.j2"):
        if text.name == "build_image.sbatch.j2":
            continue
        script = text.read_text()
        names |= set(re.findall(r"\$folder/((?:payloads/)?[a-z_.]*[a-z])\b", script))
        names |= {f"payloads/{name}" for name in re.findall(r"^put (\S+) <<", script, re.MULTILINE)}
    names -= {"payloads"}
    assert {"key", "state.json", "payloads/hpcvlm_guard.py", "engine.out"} < names
    regular = (ROOT / "pyproject.toml").lstat()
    unknown = [name for name in names if not cleanup_files.made_for_a_job(name, regular)]
    assert unknown == ["engine"] or not unknown, unknown


def test_a_draft_of_today_may_still_be_filled(state: Path) -> None:
    draft = state / "new" / "x.ab12cd34"
    draft.mkdir(parents=True)
    os.utime(draft, (NOW - 60, NOW - 60))
    assert names(plan_of(state)) == []


def test_a_name_used_again_meanwhile_stays(state: Path, jobs: Path) -> None:
    folder = Path(over(jobs, "n").folder)
    plan = plan_of(state)
    folder.rename(state / "aside")
    fresh = record(jobs, "n", job_id="99")
    outcomes = list(execute(plan, context(state)))
    assert outcomes[0].skipped == "it has changed meanwhile"
    assert outcomes[0].freed == 0
    assert (Path(fresh.folder) / "record.json").exists()


def test_a_record_that_changed_meanwhile_stays(state: Path, jobs: Path) -> None:
    made = over(jobs, "n")
    plan = plan_of(state)
    write_record(JobRecord(**{**_fields(made), "job_id": "98"}))
    assert next(execute(plan, context(state))).skipped == "it has changed meanwhile"


def _fields(made: JobRecord) -> dict[str, Any]:
    return {name: getattr(made, name) for name in JobRecord.__slots__}


def test_what_came_between_the_look_and_the_move_goes_back(
    state: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(over(jobs, "n").folder)
    plan = plan_of(state)
    real = Path.rename

    def slow(self: Path, target: Path) -> Path:
        if self == folder:
            (folder / "media" / "late.png").write_text("mine")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    assert next(execute(plan, context(state))).skipped == "it has changed meanwhile"
    assert (folder / "media" / "late.png").read_text() == "mine"


def test_a_cleanup_that_is_killed_leaves_nothing_half(
    state: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(jobs, "n")

    def killed(path: Path) -> None:
        (path / "key").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cleanup_files, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            clean(state)
    assert list(jobs.iterdir()) == []
    plan = plan_of(state)
    assert [row.kind for row in plan.rows] == ["trash"]
    assert all(not o.problem for o in execute(plan, context(state)))
    assert not (state / "trash").exists()


def test_what_cannot_be_deleted_is_told_and_the_rest_goes_on(
    state: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(jobs, "a", days=20)
    over(jobs, "b", job_id="42")
    real = cleanup_files.delete

    def refuse(path: Path) -> None:
        if path.name.startswith("a."):
            raise PermissionError(13, "Permission denied", str(path))
        real(path)

    monkeypatch.setattr(cleanup_files, "delete", refuse)
    outcomes = clean(state)
    assert "Permission denied" in outcomes[0].problem
    assert (outcomes[1].problem, outcomes[1].freed > 0) == ("", True)


def test_without_a_book_no_folder_goes(state: Path, jobs: Path) -> None:
    over(jobs, "a")
    (state / "usage.jsonl").mkdir()
    (outcome,) = clean(state)
    assert "usage.jsonl" in outcome.problem
    assert (jobs / "a").is_dir()


def test_two_cleanups_at_once(state: Path, jobs: Path) -> None:
    over(jobs, "a", days=20)
    over(jobs, "b", job_id="42")
    plan = plan_of(state)
    first = execute(plan, context(state))
    next(first)
    with pytest.raises(HpcvlmError) as error:
        next(execute(plan, context(state)))
    assert error.value.code == "cleanup-busy"
    assert [outcome.skipped for outcome in first] == [""]
    assert [o.skipped for o in execute(plan, context(state))] == ["it is gone already"] * 2


def test_a_state_folder_that_is_not_there(tmp_path: Path) -> None:
    assert plan_of(tmp_path / "none").rows == ()


def test_ages() -> None:
    assert (parse_age("7d"), parse_age("12h"), parse_age("0")) == (7 * DAY, 12 * HOUR, 0)
    with pytest.raises(HpcvlmError, match="--older-than"):
        parse_age("old")


def test_a_thousand_jobs_are_planned_quickly(state: Path, jobs: Path) -> None:
    for number in range(300):
        made = record(jobs, f"e{number}", job_id=str(number), submitted=NOW - 20 * DAY)
        said(made, "ended", NOW - 20 * DAY, NOW - 19 * DAY)
    began = time.monotonic()
    assert len(plan_of(state).rows) == 300
    assert time.monotonic() - began < 20
