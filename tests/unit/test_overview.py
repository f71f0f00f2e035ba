"""`ls`, `status` and `stop` against a Slurm that may be away, and folders that may be anything."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.endpoints.registry import find_record
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.cleanup import plan_cleanup
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import look, overview, ready_endpoint, status
from hpcvlm.ops.stop import drain_endpoint, stop_endpoint
from hpcvlm.ops.why import diagnose_row
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed
from hpcvlm.system.settings import Settings
from hpcvlm.watch.latch import VERDICT_NAME
from hpcvlm.watch.verdict import Ended, Failed, Ready, Unknown, Waiting
from tests.command import ROOT
from tests.unit.test_endpoints import record

AWAY = Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
NO_ACCOUNTS = Completed(1, "", "Slurm accounting storage is disabled")


class Slurm:
    """squeue from a table of lines by job number; scancel ends jobs."""

    def __init__(self, **states: str) -> None:
        self.lines: dict[str, str] = {}
        self.calls: list[tuple[str, ...]] = []
        self.away = False
        self.sacct = NO_ACCOUNTS
        self.cluster = ""

    def runs(self, job: JobRecord, state: str = "RUNNING", reason: str = "None", **at: int) -> None:
        start, end = at.get("start", int(time.time()) - 60), at.get("end", int(time.time()) + 3600)
        line = f"{job.job_id}|{state}|{reason}|gpu01|{start}|{end}|1:00:00|gpu|{job.name}\n"
        self.lines[job.job_id] = line

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        self.calls.append(tuple(argv))
        if self.away:
            return AWAY
        if argv[0] == "sacct":
            return self.sacct
        if argv[0] == "scontrol":
            return Completed(0, f"ClusterName = {self.cluster}\n", "")
        if argv[0] == "scancel":
            number = argv[-1]
            fields = self.lines[number].split("|")
            self.lines[number] = "|".join([fields[0], "CANCELLED", *fields[2:]])
            return Completed(0, "", "")
        wanted = next(word for word in argv if word.startswith("--jobs="))[7:].split(",")
        return Completed(0, "".join(self.lines.get(number, "") for number in wanted), "")


class Clock:
    """The real time, and no waiting."""

    def __init__(self) -> None:
        self.slept = 0.0

    def now(self) -> float:
        return time.time() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def slurm() -> Slurm:
    return Slurm()


@pytest.fixture
def ctx(tmp_path: Path, slurm: Slurm) -> Context:
    (tmp_path / "jobs").mkdir()
    settings = Settings(tmp_path, tmp_path / "config", tmp_path / "site.yaml")
    return Context(settings=settings, environment={}, runner=slurm, clock=Clock())


def say(
    job: JobRecord,
    phase: str,
    reason: str = "",
    *,
    node_ahead_s: float = 0.0,
    began_s_ago: float = 50.0,
    was: str = "allocated",
) -> None:
    now = time.time() + node_ahead_s
    said = {
        "phase": phase,
        "reason": reason,
        "since": now,
        "started": now - began_s_ago,
        "job_id": job.job_id,
        "host": "gpu01",
        "port": 2345,
        "ends": int(now + 3600),
        "phases": {was: now - began_s_ago, phase: now},
        "proof": "image",
    }
    (Path(job.folder) / "state.json").write_text(json.dumps(said))


def looked(job: JobRecord, *, ago_s: float = 0.0, running: int = 0, idle_s: float = 30.0) -> None:
    now = time.time() - ago_s
    (Path(job.folder) / "activity.json").write_text(
        json.dumps(
            {
                "checked": now,
                "answered": now,
                "active": now - idle_s,
                "running": running,
                "waiting": 0,
                "requests": 12,
                "prompt_tokens": 340,
                "generation_tokens": 56,
            }
        )
    )
    os.utime(Path(job.folder) / "activity.json", (now, now))


def job(ctx: Context, name: str, **over: Any) -> JobRecord:
    now = time.time()
    return record(ctx.settings.jobs, name, **{"submitted": now - 120, "gpus": "A100:4", **over})


def test_one_row_an_endpoint_and_two_calls_for_all(ctx: Context, slurm: Slurm) -> None:
    for number in range(1, 4):
        name = "big" if number == 1 else f"big~{number}"
        made = job(ctx, name, endpoint="big", generation=number, job_id=str(number))
        slurm.runs(made, *(("PENDING", "Dependency") if number == 3 else ()))
        if number < 3:
            say(made, "ready")
            looked(made)
    other = job(ctx, "other", job_id="9")
    slurm.runs(other, "PENDING", "JobHeldUser")
    found = overview(ctx)
    assert [row.record.name for row in found.rows] == ["big~2", "other"]
    big, held = found.rows
    assert [len(big.generations), len(held.generations)] == [3, 1]
    assert isinstance(held.verdict, Waiting)
    assert held.verdict.remedy == "scontrol release 9 lets it go on"
    assert len(slurm.calls) == 1
    assert big.endpoint is not None
    assert big.endpoint.url == "http://gpu01:2345"
    assert big.idle_for_s == pytest.approx(30)
    assert big.gpu_hours == pytest.approx(4 * 50 / 3600, abs=0.02)


def test_what_is_known_while_slurm_is_away(ctx: Context, slurm: Slurm) -> None:
    ready, over = job(ctx, "ready", job_id="1"), job(ctx, "over", job_id="2")
    say(ready, "ready")
    looked(ready)
    say(over, "ended", "idle")
    slurm.away = True
    by_name = {row.record.name: row for row in overview(ctx).rows}
    verdict = by_name["ready"].verdict
    assert isinstance(verdict, Unknown)
    assert "Unable to contact slurm controller" in verdict.why
    assert verdict.last_seen == "ready"
    assert verdict.known_at == pytest.approx(time.time(), abs=15)
    assert isinstance(by_name["over"].verdict, Ended)
    with pytest.raises(HpcvlmError, match="ready is not ready: unknown") as error:
        ready_endpoint("ready", ctx)
    assert error.value.remedy == "hpcvlm wait ready"


def test_an_end_is_asked_for_once(ctx: Context, slurm: Slurm) -> None:
    made = job(ctx, "gone", job_id="1", submitted=time.time() - 4000)
    slurm.runs(made, "NODE_FAIL", start=1, end=int(time.time()) - 400)
    first = status("gone", ctx).verdict
    assert isinstance(first, Failed)
    calls = len(slurm.calls)
    slurm.lines.clear()
    assert status("gone", ctx).verdict == first
    assert len(slurm.calls) == calls


def test_a_folder_that_cannot_be_written_keeps_nothing_and_hinders_nothing(
    ctx: Context, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root no mode forbids writing, so the file system does it."""
    made = job(ctx, "gone", job_id="1")
    slurm.runs(made, "NODE_FAIL", start=1, end=int(time.time()) - 400)

    def read_only(*_arguments: object, **_more: object) -> None:
        raise OSError(30, "Read-only file system")

    ready = job(ctx, "ready", job_id="2")
    slurm.runs(ready)
    say(ready, "ready")
    looked(ready)
    monkeypatch.setattr("hpcvlm.watch.latch.write_atomically", read_only)
    monkeypatch.setattr("hpcvlm.watch.reading.tempfile.mkstemp", read_only)
    verdicts = {row.record.name: row.verdict for row in overview(ctx).rows}
    assert isinstance(verdicts["gone"], Failed)
    assert isinstance(verdicts["ready"], Ready)
    assert not (Path(made.folder) / VERDICT_NAME).exists()


def test_a_stale_file_is_stale_whatever_this_machine_s_clock_says(
    ctx: Context, slurm: Slurm
) -> None:
    fresh, stale = job(ctx, "fresh", job_id="1"), job(ctx, "stale", job_id="2")
    for made, ago in ((fresh, 0.0), (stale, 300.0)):
        slurm.runs(made)
        say(made, "ready", node_ahead_s=-400)
        os.utime(Path(made.folder) / "state.json", (time.time() - 400, time.time() - 400))
        looked(made, ago_s=ago)
    clock = ctx.clock
    assert isinstance(clock, Clock)
    for skew in (0.0, 86_400.0, -86_400.0):
        clock.slept = skew
        verdicts = {row.record.name: row.verdict for row in look([fresh, stale], ctx)}
        assert isinstance(verdicts["fresh"], Ready), skew
        assert isinstance(verdicts["stale"], Unknown), skew


def test_clocks_that_differ_are_told_of(ctx: Context, slurm: Slurm) -> None:
    made = job(ctx, "e", job_id="1")
    slurm.runs(made)
    say(made, "weights", node_ahead_s=180.0)
    assert status("e", ctx).notes == ("the node's clock is 3 min ahead",)
    say(made, "ready")
    looked(made)
    clock = ctx.clock
    assert isinstance(clock, Clock)
    clock.slept = 7200.0 * 2
    assert status("e", ctx).notes == ("this machine's clock is 4 h ahead",)


@pytest.mark.parametrize("text", ["", "{", '{"phase": "ready", "since"'])
def test_a_state_that_is_cut_short_is_told_of(ctx: Context, slurm: Slurm, text: str) -> None:
    made = job(ctx, "e", job_id="1")
    slurm.runs(made)
    (Path(made.folder) / "state.json").write_text(text)
    row = status("e", ctx)
    assert isinstance(row.verdict, Unknown)
    assert row.notes == (f"{made.folder}/state.json is broken or cut short",)


def test_a_submission_that_nobody_saw_the_end_of_is_found_by_its_folder(
    ctx: Context, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(ctx, "lost", job_id="")
    asked = slurm.__call__

    def answer(argv: Sequence[str], **more: Any) -> Completed:
        if "--format=%i|%Z" in argv:
            return Completed(0, f"77|{made.folder}\n", "")
        return asked(argv, **more)

    context = Context(
        settings=ctx.settings,
        environment={},
        runner=answer,
        clock=ctx.clock,
    )
    slurm.lines["77"] = "77|PENDING|Priority||N/A|N/A|1:00:00|gpu|lost\n"
    row = status("lost", context)
    assert row.record.job_id == "77"
    assert isinstance(row.verdict, Waiting)
    slurm.away = True
    unknown = look([job(ctx, "lost2", job_id="")], ctx)[0].verdict
    assert isinstance(unknown, Unknown)
    assert unknown.why.startswith("submission not confirmed: ")


def chain(ctx: Context, slurm: Slurm) -> list[JobRecord]:
    jobs = []
    for number, (phase, state) in enumerate(
        (("ready", "RUNNING"), ("", "PENDING"), ("", "PENDING")), 1
    ):
        name = "big" if number == 1 else f"big~{number}"
        made = job(ctx, name, endpoint="big", generation=number, job_id=str(number))
        slurm.runs(made, state)
        if phase:
            say(made, phase)
            looked(made, running=2)
        jobs.append(made)
    return jobs


def test_stop_ends_all_generations_the_newest_first(ctx: Context, slurm: Slurm) -> None:
    jobs = chain(ctx, slurm)
    said = stop_endpoint(jobs, ctx)
    assert [(job.name, what) for job, what in said] == [
        ("big~3", "stopped"),
        ("big~2", "stopped"),
        ("big", "stopped"),
    ]
    cancelled = [argv[-1] for argv in slurm.calls if argv[0] == "scancel"]
    assert list(dict.fromkeys(cancelled)) == ["3", "2", "1"]
    assert [what for _, what in stop_endpoint(jobs, ctx)] == ["was over"] * 3


@pytest.mark.parametrize(
    ("reason", "passed_over"), [("engine-exited", "first-start-failed"), ("idle", "not-needed")]
)
def test_an_endpoint_that_is_over_shows_the_job_that_tells_why(
    ctx: Context, slurm: Slurm, reason: str, passed_over: str
) -> None:
    for number, why in ((1, reason), (2, passed_over), (3, passed_over)):
        name = "big" if number == 1 else f"big~{number}"
        made = job(ctx, name, endpoint="big", generation=number, job_id=str(number))
        slurm.runs(made, "COMPLETED")
        say(made, "ended", why)
    assert status("big", ctx).record.name == "big"
    assert find_record(ctx.settings.jobs, "big").name == "big"


def test_stop_of_a_job_that_slurm_here_does_not_know(ctx: Context, slurm: Slurm) -> None:
    """Home folders are often shared by several clusters."""
    made = job(ctx, "there", job_id="7")
    assert stop_endpoint([made], ctx)[0][1] == "Slurm here knows no such job; nothing to stop"
    say(made, "ready")
    looked(made, running=2)
    with pytest.raises(HpcvlmError) as error:
        stop_endpoint([made], ctx)
    assert error.value.code == "stop-failed"
    assert "Slurm knows no such job, but it wrote to its folder" in error.value.sentence
    assert "scancel 7 there" in error.value.remedy
    say(made, "ended", "idle")
    assert stop_endpoint([made], ctx)[0][1] == "was over"


def test_a_job_of_another_cluster_is_unknown_here(ctx: Context, slurm: Slurm) -> None:
    made = job(ctx, "there", job_id="7", cluster="alpha")
    slurm.cluster = "beta"
    (row,) = overview(ctx).rows
    assert isinstance(row.verdict, Unknown)
    assert row.verdict.why == "it is a job of cluster 'alpha', and this is 'beta'"
    assert "on a login node of alpha" in diagnose_row(row, ctx).remedy
    with pytest.raises(HpcvlmError) as error:
        stop_endpoint([made], ctx)
    assert error.value.remedy == "hpcvlm stop there, on a login node of alpha"
    assert plan_cleanup(0.0, ctx, forgotten=True).rows == ()


def test_stop_without_slurm_says_what_may_still_run(ctx: Context, slurm: Slurm) -> None:
    jobs = chain(ctx, slurm)
    slurm.away = True
    with pytest.raises(HpcvlmError) as error:
        stop_endpoint(jobs, ctx)
    assert error.value.code == "slurm-unavailable"
    assert "job 3 may still run" in error.value.sentence
    assert len(error.value.details) == 2


def test_drain_tells_who_serves_and_cancels_who_waits(ctx: Context, slurm: Slurm) -> None:
    jobs = chain(ctx, slurm)
    seen: list[tuple[str, int | None]] = []

    def on_wait(made: JobRecord, waited_s: float, running: int | None) -> None:
        seen.append((made.name, running))
        if len(seen) == 3:
            say(made, "ended", "drained")
            slurm.runs(made, "COMPLETED")

    said = drain_endpoint(jobs, ctx, on_wait=on_wait)
    assert [(job.name, what) for job, what in said] == [
        ("big~3", "stopped"),
        ("big~2", "stopped"),
        ("big", "drained"),
    ]
    assert seen[0] == ("big", 2)
    drain = Path(jobs[0].folder) / "drain"
    assert drain.read_text().split()[0] == "drained"
    assert not (Path(jobs[1].folder) / "drain").exists()
    assert [argv[-1] for argv in slurm.calls if argv[0] == "scancel"] == ["3", "2"]


def test_drain_notices_a_job_that_dies_without_a_word(ctx: Context, slurm: Slurm) -> None:
    [made] = chain(ctx, slurm)[:1]

    def on_wait(_made: JobRecord, _waited_s: float, _running: int | None) -> None:
        slurm.runs(made, "NODE_FAIL")

    assert drain_endpoint([made], ctx, on_wait=on_wait) == [(made, "was over")]


def test_a_simulated_day_has_no_wrong_verdict_and_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's day, with fewer jobs; it runs with 10,000."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from simulated_day import simulate

    sim = simulate(150, seed=7, day_s=6 * 3600.0)
    assert sim.wrong == []
    assert sim.count["leaks"] == 0
    assert sim.count["verdicts"] > 500
    assert sim.count["hand-overs"] > 5
    assert sim.count["most calls"] <= 4
