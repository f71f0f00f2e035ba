"""What a job does once it is ready, and until then: run by a real bash around a stand-in engine."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.engines.vllm import activity_metrics
from hpcvlm.plan.chain import START_FAILURES
from hpcvlm.plan.model import LaunchPlan, PlannedNotify
from hpcvlm.watch.activity import parse_activity
from hpcvlm.watch.state import parse_state
from tests.job_fixtures import RunningJob, local_plan

pytestmark = pytest.mark.slow

Start = Callable[..., RunningJob]
SOON_S = 15.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script of a plan; the job is gone when the test is over."""
    jobs: list[RunningJob] = []

    def begin(
        plan: LaunchPlan, *, edit: Callable[[str], str] = str, **environment: str
    ) -> RunningJob:
        tmp = tmp_path / f"run{len(jobs)}"
        job = RunningJob.start(plan, tmp, environment=environment, edit=edit)
        jobs.append(job)
        return job

    yield begin
    for job in jobs:
        job.close()


def plan_of(tmp_path: Path, mode: str = "ok", *settings: str, **over: Any) -> LaunchPlan:
    """The bundled model, in a folder whose name a shell would stumble over."""
    folder = tmp_path / "it's a $HOME `x`" / str(over.get("name", "mine"))
    plan = local_plan(folder, f"environment.FAKE_VLLM_MODE={mode}", *settings).plan
    values = {"activity": activity_metrics("0.32.0"), "stop_timeout_s": 2, **over}
    return dataclasses.replace(plan, **values)


def ended(job: RunningJob) -> tuple[int, str]:
    """Exit code and reason, when it is over and nothing of it is left."""
    code = job.end()
    job.until_gone()
    assert list((job.scratch).iterdir()) == []
    assert job.broken_states == []
    assert parse_state(json.dumps(job.state)) is not None
    return code, job.state["reason"]


def quick_restart(script: str) -> str:
    """Without the first wait."""
    assert "\nrestart_wait=5 " in script
    return script.replace("\nrestart_wait=5 ", "\nrestart_wait=0 ")


def look_often(script: str) -> str:
    """At the engine: once a second."""
    head, _, rest = script.partition("\nlook_every=")
    return f"{head}\nlook_every=1 #{rest}"


# ---- activity ---------------------------------------------------------------------------------


def test_activity_is_what_users_did_and_not_the_proof(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, "ok", "environment.FAKE_VLLM_TOKENS=12345678")
    job = start(plan, edit=look_often)
    job.reach("ready")
    job.until(lambda: bool(job.activity))
    first = parse_activity(json.dumps(job.activity))
    assert first is not None
    assert (first.requests, first.prompt_tokens, first.generation_tokens) == (0, 0, 0)
    assert (first.running, first.waiting) == (0, 0)
    assert first.answered >= first.checked
    job.until(lambda: job.activity["checked"] > first.checked + 2)
    assert job.activity["active"] == first.active

    assert job.chat()[0] == 200
    assert job.chat()[0] == 200
    job.until(lambda: job.activity["requests"] == 2)
    later = job.activity
    # 14 and 4 tokens each, on top of 12345678, which is written as 1.2345678e+07.
    assert (later["prompt_tokens"], later["generation_tokens"]) == (28, 8)
    assert later["active"] > first.active

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(job.chat, "sleep 2.5") for _ in range(2)]
        job.until(lambda: job.activity["running"] == 2)
        assert [answer.result()[0] for answer in answers] == [200, 200]
    job.until(lambda: job.activity["running"] == 0)
    assert stat.S_IMODE((job.folder / "activity.json").stat().st_mode) == 0o600


def test_a_job_that_nobody_asks_ends(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, idle_s=4))
    job.reach("ready")
    ready = job.state["since"]
    assert job.chat("sleep 3")[0] == 200
    asked = time.time()
    assert ended(job) == (0, "idle")
    assert job.state["since"] - asked > 3
    assert job.state["since"] - ready > 6
    names = [name for name, _ in job.events]
    assert names == ["ready", "idle", "ended"]


def test_a_job_is_not_idle_when_its_engine_does_not_tell(tmp_path: Path, start: Start) -> None:
    other = dataclasses.replace(activity_metrics("0.32.0"), running="vllm:renamed")
    job = start(plan_of(tmp_path, idle_s=1, activity=other))
    job.reach("ready")
    first = job.activity["checked"]
    job.until(lambda: job.activity["checked"] > first + 3)
    assert job.state["phase"] == "ready"


# ---- an engine that hangs ---------------------------------------------------------------------


def stop_server(job: RunningJob) -> None:
    """As a debugger, or a bug, would."""
    os.kill(job.state["engine_pid"], signal.SIGSTOP)


@pytest.mark.parametrize("mode", ["ok", "hang-after-ready"])
def test_a_server_that_answers_nobody_is_hung(tmp_path: Path, start: Start, mode: str) -> None:
    job = start(plan_of(tmp_path, mode, hang_timeout_s=3), edit=look_often)
    job.reach("ready")
    if mode == "ok":
        stop_server(job)
    answered = job.activity["answered"]
    assert ended(job) == (1, "engine-hung")
    assert job.state["since"] - answered > 2
    assert job.events[-1] == ("failed", "engine-hung")


def test_a_core_that_hangs_behind_its_server_is_found_by_a_question(
    tmp_path: Path, start: Start
) -> None:
    job = start(plan_of(tmp_path, "stall", hang_timeout_s=3), edit=look_often)
    job.reach("ready")
    assert ended(job) == (1, "engine-hung")
    assert job.activity["answered"] > job.state["phases"]["ready"] + 4  # its server still answered


def test_a_quiet_engine_that_answers_the_question_goes_on(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, hang_timeout_s=1), edit=look_often)
    job.reach("ready")
    active = job.activity["active"]

    def finished() -> float:
        return sum(
            float(line.rpartition(" ")[2])
            for line in job.request("/metrics")[2].splitlines()
            if line.startswith("vllm:request_success_total")
        )

    before = finished()
    job.until(lambda: finished() >= before + 3)
    assert job.state["phase"] == "ready"
    # Its own questions are nobody's.
    assert (job.activity["active"], job.activity["requests"]) == (active, 0)
    assert job.activity["prompt_tokens"] == 0


def test_a_job_that_was_suspended_does_not_take_its_engine_for_hung(
    tmp_path: Path, start: Start
) -> None:
    job = start(plan_of(tmp_path, hang_timeout_s=2, lease_s=5), edit=look_often)
    job.reach("ready")
    job.until(lambda: job.activity["checked"] > 0)
    everybody = job.left()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in everybody:
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(4)
    (job.folder / "lease").touch()
    checked = job.activity["checked"]
    job.until(lambda: job.activity["checked"] > checked + 1)
    assert job.state["phase"] == "ready"


# ---- restarts ---------------------------------------------------------------------------------


def test_an_engine_that_dies_is_started_again(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, "die-once-after-ready", restarts=2)
    job = start(plan, edit=lambda script: look_often(quick_restart(script)))
    job.reach("ready")
    port = job.state["port"]
    assert job.chat()[0] == 200
    job.until(lambda: job.activity.get("requests") == 1)
    job.until(lambda: job.state["engine_restarts"] == 1)
    job.until(lambda: job.state["phase"] == "ready")
    state = job.state
    assert (state["proof"], state["engine_exit"], state["reason"]) == ("image", None, "")
    assert state["port"] != port
    assert list(state["phases"])[-2:] == ["probing", "ready"]
    assert job.chat()[0] == 200
    job.until(lambda: job.activity["prompt_tokens"] == 28)  # 14 of the first engine, 14 of this
    assert job.activity["requests"] == 1
    assert "illegal memory access" in (job.folder / "engine.err.1").read_text()
    assert "illegal memory access" not in (job.folder / "engine.err").read_text()
    assert "server version" in (job.folder / "engine.out.1").read_text()
    assert [name for name, _ in job.events] == ["ready", "restarting", "ready"]
    assert job.events[1][1] == "engine-exited with exit code 3; start 1 of 2 in 0 s"

    stop_server(job)
    os.kill(state["engine_pid"], signal.SIGKILL)
    job.until(lambda: job.state["engine_restarts"] == 2)
    job.until(lambda: job.state["phase"] == "ready")
    os.kill(job.state["engine_pid"], signal.SIGKILL)
    assert ended(job) == (1, "engine-exited")
    assert job.state["engine_exit"] == 128 + signal.SIGKILL


def test_a_hung_engine_is_started_again(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, restarts=1, hang_timeout_s=3, stop_timeout_s=1)
    job = start(plan, edit=lambda script: look_often(quick_restart(script)))
    job.reach("ready")
    pid = job.state["engine_pid"]
    stop_server(job)
    job.until(lambda: job.state["engine_restarts"] == 1 and job.state["phase"] == "ready")
    assert pid not in job.left()
    assert job.chat()[0] == 200


def test_the_wait_before_a_restart_can_be_stopped(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "die-after-ready", restarts=1))
    job.until(lambda: (job.folder / "state.json").exists() and job.state["phase"] == "restarting")
    assert (job.state["reason"], job.state["port"]) == ("engine-exited", None)
    job.process.terminate()
    assert ended(job) == (0, "stopped")
    assert job.phases[-3:] == ["restarting", "draining", "ended"]


def test_a_start_that_fails_is_not_repeated(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "die-loading", restarts=3))
    assert ended(job) == (1, "engine-exited")
    assert job.state["engine_restarts"] == 0


def test_a_job_that_slurm_has_put_back_too_often_gives_up(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, restarts=1)
    again = start(plan, SLURM_RESTART_COUNT="1")
    again.reach("ready")
    assert again.chat()[0] == 200
    assert again.end(term=True) == 0
    out = (again.folder / "engine.out").read_text()
    for name in ("drain", "ends", "payloads/draining", "payloads/key"):
        (again.folder / name).write_text("1\n")

    job = start(plan, SLURM_RESTART_COUNT="2")
    assert ended(job) == (1, "restarts-used-up")
    assert job.phases == ["allocated", "ended"]
    assert job.state["ends"] != 1
    assert (job.folder / "engine.out").read_text() == out
    left = [name for name in ("drain", "ends", "activity.json") if (job.folder / name).exists()]
    assert left == []
    assert not list((job.folder / "payloads").glob("draining"))


# ---- draining and hand-over -------------------------------------------------------------------


def draining(tmp_path: Path, **over: Any) -> LaunchPlan:
    return plan_of(tmp_path, **{"drain_grace_s": 3, "drain_timeout_s": 60, **over})


def test_a_drained_job_finishes_what_runs_and_takes_nothing_new(
    tmp_path: Path, start: Start
) -> None:
    job = start(draining(tmp_path))
    job.reach("ready")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(job.chat, "sleep 9")
        assert "connection" not in job.chat()[1]
        (job.folder / "drain").write_text("handed-over mine~2\n")
        job.reach("draining")
        assert job.state["reason"] == "handed-over"
        # For a while it answers as before, but asks its clients to come back anew.
        job.until(lambda: job.chat()[1].get("connection") == "close")
        assert job.chat()[0] == 200
        job.until(lambda: job.chat()[0] == 503)
        status, headers, body = job.chat()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert body["error"]["code"] == "draining"
        assert job.request("/health")[0] == 200
        status, headers, _ = job.request("/metrics")
        assert (status, headers["x-hpcvlm-in-flight"]) == (200, "1")
        assert job.chat(key="wrong")[0] == 401
        assert not long.done()
        status, _, answer = long.result()
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "no image")
    assert ended(job) == (0, "handed-over")
    assert job.phases[-3:] == ["ready", "draining", "ended"]
    assert [name for name, _ in job.events] == ["ready", "draining", "ended"]


def test_a_request_that_never_ends_does_not_hold_a_drained_job(
    tmp_path: Path, start: Start
) -> None:
    job = start(draining(tmp_path, drain_grace_s=0, drain_timeout_s=3))
    job.reach("ready")
    threading.Thread(target=_ask_for_ever, args=(job,), daemon=True).start()
    job.until(lambda: job.request("/metrics")[1]["x-hpcvlm-in-flight"] == "1")
    (job.folder / "drain").write_text("drained by hand\n")
    assert ended(job) == (0, "drained")


def _ask_for_ever(job: RunningJob) -> None:
    with pytest.raises(OSError, match=r".*"):
        job.chat("sleep 900", timeout_s=60.0)


def test_a_job_that_nobody_takes_over_from_waits_for_no_client_to_go_there(
    tmp_path: Path, start: Start
) -> None:
    job = start(draining(tmp_path, drain_grace_s=600))
    job.reach("ready")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(job.chat, "sleep 6")
        job.until(lambda: job.request("/metrics")[1]["x-hpcvlm-in-flight"] == "1")
        (job.folder / "drain").write_text("drained\n")
        job.until(lambda: job.chat()[0] == 503)
        assert long.result()[0] == 200
    assert ended(job) == (0, "drained")


def test_a_job_that_is_drained_before_it_is_ready_just_ends(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "slow", "environment.FAKE_VLLM_STEP_S=0.5"))
    job.reach("weights")
    (job.folder / "drain").write_text("drained\n")
    assert ended(job) == (0, "drained")
    assert "ready" not in job.phases


def test_an_engine_that_dies_while_it_drains_is_a_failure(tmp_path: Path, start: Start) -> None:
    job = start(draining(tmp_path, drain_grace_s=30, restarts=3))
    job.reach("ready")
    (job.folder / "drain").write_text("handed-over mine~2\n")
    job.reach("draining")
    os.kill(job.state["engine_pid"], signal.SIGKILL)
    assert ended(job) == (1, "engine-exited")


def test_no_request_is_lost_when_a_successor_takes_over(tmp_path: Path, start: Start) -> None:
    """A client that sends all the time, and looks up the newest ready job before each request."""
    first = start(draining(tmp_path, name="mine", drain_grace_s=2))
    first.reach("ready")
    over = {"name": "mine~2", "predecessor": str(first.folder)}
    jobs = [first]
    statuses: list[int] = []
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            statuses.append(jobs[-1].chat("sleep 0.3")[0])

    with ThreadPoolExecutor(3) as pool:
        senders = [pool.submit(send) for _ in range(3)]
        second = start(draining(tmp_path, **over))
        second.reach("ready")
        first.reach("draining")
        jobs.append(second)
        try:
            assert ended(first) == (0, "handed-over")
        finally:
            done.set()
        for sender in senders:
            sender.result()
    assert set(statuses) == {200}
    assert (first.folder / "drain").read_text() == "handed-over mine~2\n"
    assert second.state["phase"] == "ready"


@pytest.mark.parametrize(
    ("said", "code_and_reason"),
    [("idle", (0, "not-needed")), ("lease-lost", (0, "not-needed")), ("engine-exited", None)],
)
def test_nobody_takes_over_what_nobody_needed(
    tmp_path: Path, start: Start, said: str, code_and_reason: tuple[int, str] | None
) -> None:
    """Slurm starts a successor however its predecessor has ended."""
    before = tmp_path / "before"
    before.mkdir()
    job = start(plan_of(tmp_path))
    job.reach("ready")
    text = (job.folder / "state.json").read_text()
    over = re.sub('"phase": "ready", "reason": ""', f'"phase": "ended", "reason": "{said}"', text)
    assert said in over
    (before / "state.json").write_text(over)
    second = start(plan_of(tmp_path, name="mine~2", predecessor=str(before)))
    if code_and_reason is None:
        second.reach("ready")
    else:
        assert ended(second) == code_and_reason
        assert "container" not in second.phases


@pytest.fixture
def ended_before(tmp_path: Path, start: Start) -> Callable[..., Path]:
    """Folder of a job of which the state that it left can be chosen."""
    job = start(plan_of(tmp_path))
    job.reach("ready")
    text = (job.folder / "state.json").read_text()

    def leave(reason: str, *, was_ready: bool = False, requeued: int = 0) -> Path:
        said = text.replace(
            '"phase": "ready", "reason": ""', f'"phase": "ended", "reason": "{reason}"'
        )
        said = said.replace('"restarts": 0', f'"restarts": {requeued}', 1)
        if not was_ready:
            said = re.sub(r', "ready": [0-9.]+', "", said)
        assert ('"ready"' in said) is was_ready
        before = tmp_path / "before"
        before.mkdir()
        (before / "state.json").write_text(said)
        return before

    return leave


@pytest.mark.parametrize("reason", START_FAILURES)
def test_a_start_that_failed_is_not_repeated_by_the_successors(
    tmp_path: Path, start: Start, ended_before: Callable[..., Path], reason: str
) -> None:
    over: dict[str, Any] = {"predecessor": str(ended_before(reason)), "generation": 2}
    second = start(plan_of(tmp_path, name="mine~2", **over))
    assert ended(second) == (0, "first-start-failed")
    assert "container" not in second.phases
    over = {"predecessor": str(second.folder), "generation": 3}
    third = start(plan_of(tmp_path, name="mine~3", **over))
    assert ended(third) == (0, "first-start-failed")


@pytest.mark.parametrize(
    ("generation", "left"),
    [
        (2, {"reason": "engine-exited", "was_ready": True}),
        (2, {"reason": "engine-exited", "requeued": 1}),  # it may have been ready before
        (2, {"reason": "stopped"}),
        (2, {"reason": "cache-unwritable"}),  # the next node may be better
        (3, {"reason": "engine-exited"}),
    ],
)
def test_any_other_end_is_followed_by_a_successor(
    tmp_path: Path,
    start: Start,
    ended_before: Callable[..., Path],
    generation: int,
    left: dict[str, Any],
) -> None:
    before = str(ended_before(**left))
    plan = plan_of(tmp_path, name=f"mine~{generation}", predecessor=before, generation=generation)
    start(plan).reach("ready")


@pytest.mark.parametrize("there", [True, False])
def test_a_predecessor_that_cannot_be_told_holds_nobody_up(
    tmp_path: Path, start: Start, there: bool
) -> None:
    before = tmp_path / "before"
    if there:
        (before / "drain").mkdir(parents=True)
    job = start(plan_of(tmp_path, predecessor=str(before)))
    job.until(lambda: len(job.events) == 2)
    assert [name for name, _ in job.events] == ["ready", "hand-over"]
    assert ("cannot be written" if there else "is gone") in job.events[1][1]
    assert before.exists() is there


# ---- the lease and the end --------------------------------------------------------------------


def test_a_job_ends_when_nobody_touches_its_lease(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, lease_s=3))
    job.until((job.folder / "payloads").exists)
    lease = job.folder / "lease"
    for number in range(10):
        # An old time counts as well as a new one, as long as it is another one.
        lease.write_text("")
        os.utime(lease, (number, number))
        time.sleep(0.5)
        assert job.process.poll() is None
    touched = time.time()
    lease.unlink()
    assert ended(job) == (0, "lease-lost")
    assert job.state["since"] - touched > 1.5


def test_a_lease_that_never_came_ends_a_start(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "hang", lease_s=2))
    assert ended(job) == (0, "lease-lost")
    assert "ready" not in job.phases


def test_the_end_is_told_in_time_and_again_when_it_was_moved(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, "slow", warn_before_s=(1800, 600, 60))
    # 20 minutes from now: the first warning would come before there is anything to warn of.
    job = start(plan, SLURM_JOB_END_TIME=str(int(time.time()) + 1200))
    job.reach("weights")
    assert job.events == []

    def end_in(seconds: float) -> float:
        ends = int(time.time() + seconds)
        (job.folder / "ends").write_text(f"{ends}\n")
        job.until(lambda: job.state["ends"] == ends)
        return ends

    end_in(599)
    job.until(lambda: any(name == "expiring" for name, _ in job.events))
    assert [e for e in job.events if e[0] == "expiring"] == [("expiring", "it ends in 9 minutes")]
    end_in(7200)
    end_in(1799)
    job.until(lambda: ("expiring", "it ends in 29 minutes") in job.events)
    end_in(50)
    job.until(lambda: sum(name == "expiring" for name, _ in job.events) == 3)
    assert job.events[-1][1].endswith(" seconds")
    extended = [text for name, text in job.events if name == "extended"]
    assert len(extended) == 4
    assert all(text.startswith("the job now ends at 2") for text in extended)


def test_what_is_no_time_moves_no_end(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "slow"))
    job.reach("weights")
    ends = job.state["ends"]
    for text in ("soon\n", "", "1e9\n", "-5\n", "$(touch x)\n", "99999999999999999999\n"):
        (job.folder / "ends").write_text(text)
        time.sleep(0.3)
    time.sleep(1.2)
    job.reach("ready")
    assert job.state["ends"] == ends


# ---- whoever wants to know --------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    """A webhook."""

    heard: list[tuple[str, dict[str, Any]]]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Keep what came."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/json"
        self.heard.append((self.path, body))
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def hook() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    Hook.heard = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_command_mail_and_webhook_are_told(tmp_path: Path, start: Start, hook: HTTPServer) -> None:
    said = tmp_path / "said"
    command = program(
        tmp_path / "tell me",
        f'printf \'%s|\' "$@" "$HPCVLM_EVENT" "$HPCVLM_ENDPOINT" "$HPCVLM_JOB_ID" '
        f'"$HPCVLM_HOST" "$HPCVLM_TEXT" "${{PYTHONPATH-none}}" >>{said}; echo >>{said}',
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    mailed = tmp_path / "mailed"
    program(tools / "mail", f"{{ printf '%s|' \"$@\"; cat; }} >>{mailed}")
    secret = "/hook/s3cret\"'\\path"
    address = tmp_path / "address"
    address.write_text(f"http://127.0.0.1:{hook.server_port}{secret}\n")
    address.chmod(0o600)
    notify = PlannedNotify(
        ("ready", "ended"), (command, "an argument", "$x"), str(address), "u@example.org"
    )
    plan = plan_of(tmp_path, notify=notify, endpoint='my "end"point')
    tmp = tmp_path / "job"
    job = RunningJob.start(
        plan, tmp, environment={"PATH": f"{tools}:{os.environ['PATH']}"}, watch_argv=True
    )
    try:
        job.reach("ready")
        job.until(lambda: len(Hook.heard) == 1)
        assert job.end(term=True) == 0
    finally:
        job.close()
    host = os.uname().nodename
    top = f'an argument|$x|{{}}|my "end"point|{job.process.pid}|{host}|{{}}|none|'
    lines = [top.format("ready", f"on {host}"), top.format("ended", "stopped")]
    assert said.read_text().splitlines() == lines
    sentence = f'my "end"point: ready: on {host} (job {job.process.pid} on {host})'
    assert Hook.heard[0][1] == {"text": sentence}
    assert len(Hook.heard) == 2
    assert mailed.read_text().startswith(f"-s|hpcvlm: {sentence}|u@example.org|{sentence}\n")
    assert not any(b"s3cret" in argv for argv in job.argvs)
    job.until_gone()


def test_a_notifier_that_fails_or_hangs_harms_nobody(tmp_path: Path, start: Start) -> None:
    command = program(tmp_path / "hangs", "trap '' TERM; sleep 600")
    notify = PlannedNotify(("ready", "failed"), (command,), "/no/such file", "u@example.org")

    def short(script: str) -> str:
        assert "\nnotify_limit=20 " in script
        return script.replace("\nnotify_limit=20 ", "\nnotify_limit=1 ")

    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools / "mail", "exit 9")
    path = f"{tools}:{os.environ['PATH']}"
    job = start(plan_of(tmp_path, "die-after-ready", notify=notify), edit=short, PATH=path)
    assert ended(job) == (1, "engine-exited")
    texts = [text for name, text in job.events if name == "notify"]
    assert texts.count("mail: mail failed with exit code 9") == 2
    assert texts.count("webhook: /no/such file cannot be read, or is empty") == 2
    assert texts.count(f"command: {command} took longer than 1 s") == 2
    assert "ready" in job.phases


def test_a_notifier_that_is_not_there_is_named(tmp_path: Path, start: Start) -> None:
    notify = PlannedNotify(("ready",), ("/no/such program",), None, None)
    job = start(plan_of(tmp_path, notify=notify))
    job.reach("ready")
    sentence = f"command: there is no program /no/such program on {os.uname().nodename}"
    job.until(lambda: sentence in [text for name, text in job.events if name == "notify"])


def test_what_slurm_has_made_before_the_job_began_is_closed(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path)
    logs = [Path(plan.folder) / name for name in ("job.out", "job.err")]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        log.chmod(0o644)
    job = start(plan)
    job.reach("ready")
    assert [log.stat().st_mode & 0o777 for log in logs] == [0o600, 0o600]


def test_a_job_that_was_over_and_is_run_again_ends_at_once(tmp_path: Path, start: Start) -> None:
    """As by a slurmctld that was killed before it had saved that the job was over."""
    verdict = {"schema": 1, "job_id": "4711", "verdict": "failed", "reason": "engine-exited"}
    for number, runs in (("4711", False), ("4712", True)):
        plan = plan_of(tmp_path / number)
        folder = Path(plan.folder)
        folder.mkdir(parents=True)
        (folder / "verdict.json").write_text(json.dumps(verdict))
        job = start(plan, SLURM_JOB_ID=number)
        if runs:
            job.reach("ready")
            continue
        assert job.end() == 0
        assert [name for name, _ in job.events] == ["run-again"]
        assert not (folder / "state.json").exists()


# ---- the folder, the key ----------------------------------------------------------------------


def test_a_job_whose_folder_is_gone_ends_itself(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path))
    job.reach("ready")
    job.until(lambda: job.events != [])
    shutil.rmtree(job.folder)
    assert job.end() == 1
    job.until_gone()
    assert not job.folder.exists()
    assert "The job ended: folder-gone" in job.said


def test_a_folder_of_another_job_is_left_alone(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path))
    job.reach("ready")
    job.until(lambda: job.events != [])
    job.folder.rename(job.folder.with_name("moved"))
    job.folder.mkdir()
    assert job.end() == 1
    job.until_gone()
    found = {p.name: p.read_text() for p in job.folder.iterdir()}
    assert found == {}


def test_a_key_that_is_gone_is_put_back(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path))
    job.reach("ready")
    path = job.folder / "key"
    key = path.read_text().strip()
    path.unlink()
    assert job.chat(key=key)[0] == 200
    job.until(path.exists)
    assert path.read_text().strip() == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert job.chat()[0] == 200
    environ = Path(f"/proc/{job.process.pid}/environ").read_bytes()
    assert key.encode() not in environ
    job.until(lambda: job.events[-1][0] == "key")


def test_a_key_can_be_replaced_while_the_engine_runs(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, hang_timeout_s=4), edit=look_often)
    job.reach("ready")
    old = (job.folder / "key").read_text().strip()
    fresh = job.folder / ".fresh"
    fresh.write_text('another-"key\\-0123456789\n')
    fresh.chmod(0o600)
    fresh.rename(job.folder / "key")
    job.until(lambda: job.chat(key=old)[0] == 401)
    assert job.chat()[0] == 200
    job.until(lambda: job.events[-1] == ("key", "the key was replaced"))
    beside = job.folder / "payloads" / "key"  # for engines in containers
    assert beside.read_text().strip() == 'another-"key\\-0123456789'
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    job.until(lambda: job.activity["requests"] >= 1)
    checked = job.activity["checked"]
    job.until(lambda: job.activity["checked"] > checked + 1)
    assert job.activity["answered"] >= job.activity["checked"]
