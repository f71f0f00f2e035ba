"""What `ls`, `status`, `env` and `logs` print, in every state that a folder can be in."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpcvlm.cli import logs as logs_module
from hpcvlm.cli.main import make_app
from hpcvlm.cli.output import WIDTH
from hpcvlm.cli.progress import PhaseProgress, clock_time
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import context
from hpcvlm.ops.context import Context
from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.expiry import Expiry
from hpcvlm.watch.loop import Glance
from hpcvlm.watch.verdict import SchedulerView, Unknown, Waiting
from tests.unit.test_overview import Slurm, job, looked, say


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slurm:
    """A stand-in Slurm that every command asks."""
    monkeypatch.setenv("HPCVLM_STATE", str(tmp_path))
    found = Slurm()
    monkeypatch.setattr(context, "run", found)
    monkeypatch.setattr(Context, "__init__", _init(found))
    (tmp_path / "jobs").mkdir()
    return found


def _init(slurm: Slurm) -> Any:
    real = Context.__init__

    def init(self: Context, **more: Any) -> None:
        real(self, **{"runner": slurm, **more})

    return init


@dataclass
class Done:
    """What a command printed; `error` where it was refused."""

    stdout: str
    stderr: str
    error: HpcvlmError | None


def hpcvlm(*arguments: str) -> Done:
    """A command within this process, so that it asks the stand-in."""
    done = CliRunner().invoke(make_app(arguments[0]), list(arguments))
    if isinstance(done.exception, HpcvlmError):
        return Done(done.stdout, done.stderr, done.exception)
    if done.exception is not None:
        raise done.exception
    return Done(done.stdout, done.stderr, None)


def ready(ctx: Context, slurm: Slurm, name: str = "e", **over: Any) -> Any:
    made = job(ctx, name, **{"job_id": "1", **over})
    slurm.runs(made)
    say(made, "ready")
    looked(made, idle_s=754)
    key = Path(made.folder) / "key"
    key.write_text("k3y\n")
    key.chmod(0o600)
    return made


def test_ls_fits_the_terminal_and_tells_the_rest_below(slurm: Slurm) -> None:
    ctx = Context()
    ready(ctx, slurm, "a-rather-long-name-of-an-endpoint", model="a-model-with-a-long-name-too")
    held = job(ctx, "held", job_id="2")
    slurm.runs(held, "PENDING", "JobHeldUser")
    broken = ctx.settings.jobs / "broken"
    broken.mkdir()
    (broken / "record.json").write_text('{"sch')
    done = hpcvlm("ls")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].split() == [
        *("NAME", "MODEL", "STATE", "FOR", "LEFT", "IDLE", "GPU-H", "JOB", "URL")
    ]
    assert lines[1].startswith("a-rather-long-name-of-an-endpoint ")
    assert "12:34" in lines[1]
    assert "unreadable" in lines[3]
    assert "held: held by its user (JobHeldUser): scontrol release 2 lets it go on" in done.stderr
    assert f"broken: its record cannot be read: {broken}/record.json is broken" in done.stderr


def test_ls_says_once_that_slurm_is_away(slurm: Slurm) -> None:
    ctx = Context()
    for number in range(5):
        ready(ctx, slurm, f"e{number}", job_id=str(number))
    slurm.away = True
    done = hpcvlm("ls")
    assert done.stdout.count("unknown, was ready") == 5
    assert done.stderr.count("Unable to contact slurm controller") == 1
    assert "e0, e1, e2 and 2 more: " in done.stderr


def test_json_has_all_of_it(slurm: Slurm) -> None:
    ctx = Context()
    ready(ctx, slurm, "big", endpoint="big", keep_until=time.time() + 9000, idle_s=1800)
    after = job(ctx, "big~2", endpoint="big", generation=2, job_id="2")
    slurm.runs(after, "PENDING", "Dependency", start=int(time.time()) + 900)
    [row] = json.loads(hpcvlm("ls", "--json").stdout)
    assert (row["name"], row["job_name"], row["state"]) == ("big", "big", "ready")
    assert row["idle_s"] == pytest.approx(754, abs=1)
    assert (row["requests"], row["prompt_tokens"], row["generation_tokens"]) == (12, 340, 56)
    assert row["gpu_hours"] > 0
    assert row["left_s"] == pytest.approx(3600, abs=120)
    assert row["known_at"] == pytest.approx(time.time(), abs=60)
    assert row["kept_until"] > time.time()
    assert [job["state"] for job in row["generations"]] == ["ready", "waiting"]
    assert row["generations"][1]["expected_start"] > time.time()
    lines = hpcvlm("status", "big").stdout
    assert "successor big~2 queued, expected " in lines
    assert "kept until " in lines
    assert "idle for 12:34 of 30:00" in lines


def test_status_of_what_is_not_known_says_what_was(slurm: Slurm) -> None:
    ready(Context(), slurm)
    slurm.away = True
    lines = hpcvlm("status", "e").stdout
    assert "state   unknown (" in lines
    assert "known   ready at " in lines


def test_env_tells_the_end_last_and_as_a_variable(slurm: Slurm) -> None:
    ready(Context(), slurm)
    lines = hpcvlm("env", "e").stdout.splitlines()
    assert lines[0] == "export OPENAI_BASE_URL=http://gpu01:2345/v1"
    assert int(lines[-2].removeprefix("export HPCVLM_ENDS=")) > time.time()
    assert lines[-1].startswith("# e ends ")


def test_stop_takes_the_successors_along(slurm: Slurm) -> None:
    ctx = Context()
    ready(ctx, slurm, "big", endpoint="big")
    after = job(ctx, "big~2", endpoint="big", generation=2, job_id="2")
    slurm.runs(after, "PENDING", "Dependency")
    assert hpcvlm("stop", "big").stdout == "big~2: stopped\nbig: stopped\n"
    assert hpcvlm("stop", "--all").stderr == "nothing runs\n"


# ---- logs --------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "_EVERY_S", 0.02)
    monkeypatch.setattr(logs_module, "_ASK_EVERY_S", 0.1)


def append(made: Any, name: str, text: str) -> None:
    with (Path(made.folder) / name).open("a") as stream:
        stream.write(text)


def later(*steps: Any) -> threading.Thread:
    def run() -> None:
        for step in steps:
            time.sleep(0.3)
            step()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_logs_print_the_files_and_mark_the_events(slurm: Slurm) -> None:
    made = ready(Context(), slurm)
    append(made, "engine.err", "INFO loading\n")
    append(made, "events.log", "2026-11-21T14:00:00Z ready answers an image\n")
    assert hpcvlm("logs", "e").stdout == (
        "INFO loading\n== 2026-11-21T14:00:00Z ready: answers an image ==\n"
    )


@pytest.mark.usefixtures("quick")
def test_following_ends_with_a_job_that_died_without_a_word(slurm: Slurm) -> None:
    made = ready(Context(), slurm)
    append(made, "engine.err", "INFO one\n")
    thread = later(
        lambda: append(made, "engine.err", "INFO two\n"),
        lambda: slurm.runs(made, "NODE_FAIL"),
    )
    done = hpcvlm("logs", "-f", "e")
    thread.join()
    assert done.stdout == "INFO one\nINFO two\n"
    assert "== e is over: failed (the node failed) ==" in done.stderr


@pytest.mark.usefixtures("quick")
def test_following_goes_on_with_the_successor(slurm: Slurm) -> None:
    ctx = Context()
    first = ready(ctx, slurm, "big", endpoint="big")
    second = job(ctx, "big~2", endpoint="big", generation=2, job_id="2")
    slurm.runs(second)
    append(first, "engine.err", "first\n")
    append(second, "engine.err", "second\n")

    def hand_over() -> None:
        say(first, "ended", "handed-over")
        say(second, "ended", "idle")

    thread = later(hand_over)
    done = hpcvlm("logs", "-f", "big")
    thread.join()
    assert done.stdout == "first\nsecond\n"
    assert "== big has handed over to big~2 ==" in done.stderr
    assert "== big~2 is over: ended (idle for as long as was allowed) ==" in done.stderr


@pytest.mark.usefixtures("quick")
def test_following_says_when_slurm_is_away_and_when_the_folder_is_gone(slurm: Slurm) -> None:
    made = ready(Context(), slurm)

    def go_away() -> None:
        slurm.away = True

    def delete() -> None:
        Path(made.folder).rename(Path(made.folder).parent.parent / "moved")

    thread = later(go_away, lambda: None, delete)
    done = hpcvlm("logs", "-f", "e")
    thread.join()
    assert done.stderr.count("Unable to contact slurm controller") == 1
    assert done.error is not None
    assert "was deleted; job 1 may still run" in done.error.sentence
    assert (done.error.code, done.error.remedy) == ("folder-gone", "scancel 1")


def test_a_restarted_engine_s_log_is_printed_from_its_beginning(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ready(Context(), slurm)
    append(made, "engine.err", "a long first log\n")
    tail = logs_module.Tail(Path(made.folder))
    tail.print_new()
    (Path(made.folder) / "engine.err").write_text("new\n")
    tail.print_new()
    tail.print_new()
    assert capsys.readouterr().out == "a long first log\nnew\n"


# ---- who waits -----------------------------------------------------------------------------------


def test_the_end_is_told_30_and_10_minutes_before_it() -> None:
    told = Expiry(7200)
    left = [told.due(10_000.0, now) for now in (3000.0, 8201.0, 8300.0, 9401.0, 9500.0, 10_001.0)]
    assert left == [None, 1799.0, None, 599.0, None, None]
    # Whoever comes late is told once.
    assert Expiry(7200).due(10_000.0, 9500.0) == 500.0
    # Half an hour before the end of half an hour is no warning.
    short = Expiry(1800)
    assert [short.due(10_000.0, now) for now in (8300.0, 9450.0)] == [None, 550.0]


def test_an_end_that_was_moved_is_told_again() -> None:
    told = Expiry(7200)
    assert told.due(10_000.0, 9500.0) == 500.0
    assert told.due(20_000.0, 9600.0) is None
    assert told.due(20_000.0, 18_300.0) == 1700.0


def test_progress_shows_both_clocks_and_what_does_not_answer(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job(Context(), "e", job_id="1", submitted=time.time() - 100)
    view = SchedulerView(True, JobPhase.PENDING)
    progress = PhaseProgress(made)
    held = Waiting("queued", made.submitted, "held by its user", None, "scontrol release 1")
    for _ in range(2):
        progress(Glance(held, None, view))
    progress(Glance(Unknown("no answer", "weights"), None, SchedulerView(False), asked_for_s=9))
    say(made, "weights")
    from hpcvlm.watch.state import read_state

    state = read_state(Path(made.folder))
    progress(Glance(Waiting("weights", time.time()), state, view))
    ends = SchedulerView(True, JobPhase.RUNNING, ends=time.time() + 500)
    progress(Glance(Waiting("weights", time.time()), state, ends))
    told = capsys.readouterr().err
    assert told.count("scontrol release 1") == 1
    assert "Slurm does not answer; asking goes on" in told
    assert "✓ queued" in told
    assert "✓ allocated" in told
    assert "e ends in 8:" in told


def test_waiting_goes_on_with_the_successor(slurm: Slurm) -> None:
    ctx = Context()
    first = job(ctx, "big", endpoint="big", job_id="1")
    second = job(ctx, "big~2", endpoint="big", generation=2, job_id="2")
    slurm.runs(first)
    say(first, "weights")
    slurm.runs(second)
    say(second, "weights")

    def ready_instead() -> None:
        say(second, "ready")
        looked(second)

    thread = later(lambda: say(first, "ended", "handed-over"), ready_instead)
    done = hpcvlm("wait", "big", "--json")
    thread.join()
    assert done.error is None
    assert "big has handed over to big~2" in done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["job_name"], told["state"]) == ("big", "big~2", "ready")


def test_a_failed_start_names_the_successors_that_go_on(slurm: Slurm) -> None:
    ctx = Context()
    first = job(ctx, "big", endpoint="big", job_id="1")
    numbers = range(2, 7)
    after = [job(ctx, f"big~{n}", endpoint="big", generation=n, job_id=str(n)) for n in numbers]
    slurm.runs(first)
    say(first, "weights")
    slurm.runs(after[0])
    say(after[0], "container")
    begin = int(time.time()) + 600
    for made in after[1:4]:
        slurm.runs(made, "PENDING", "Dependency", start=begin)
    slurm.runs(after[4], "CANCELLED")
    thread = later(lambda: say(first, "ended", "engine-exited"))
    done = hpcvlm("wait", "big")
    thread.join()
    assert done.error is not None
    assert done.error.details[-3:] == (
        "successor big~2 container",
        f"successors big~3 to big~5 queued, expected {clock_time(begin)}",
        "hpcvlm stop big ends what goes on",
    )
    for made in after:
        say(made, "ended", "stopped")
        slurm.runs(made, "CANCELLED")
    done = hpcvlm("wait", "1")
    assert done.error is not None
    assert not any("goes on" in line for line in done.error.details)


def test_a_start_that_should_have_been_given_up_is_called_late(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    from hpcvlm.watch.state import read_state

    late = "its start takes longer than the 30 min of start_timeout: it hangs, or"
    made = job(Context(), "e", job_id="1", submitted=time.time() - 9000, start_timeout_s=1800)
    slurm.runs(made)
    say(made, "staging", began_s_ago=1900)
    assert late not in hpcvlm("status", "e").stdout
    say(made, "staging", began_s_ago=2000)
    assert late in hpcvlm("status", "e").stdout
    assert f"e: {late}" in hpcvlm("ls").stderr
    progress = PhaseProgress(made)
    state, view = read_state(Path(made.folder)), SchedulerView(True, JobPhase.RUNNING)
    for _ in range(2):
        progress(Glance(Waiting("staging", time.time()), state, view))
    assert capsys.readouterr().err.count(late) == 1
    # The node's clock says nothing of how long it takes.
    say(made, "staging", node_ahead_s=-86400)
    assert late not in hpcvlm("status", "e").stdout
    # Slurm says that it is frozen: that explains it.
    say(made, "staging", began_s_ago=2000)
    slurm.runs(made, "SUSPENDED")
    assert late not in hpcvlm("status", "e").stdout
    # An engine that was ready, and is started again, has its time anew.
    slurm.runs(made)
    say(made, "restarting", began_s_ago=9000, was="ready")
    assert late not in hpcvlm("status", "e").stdout
