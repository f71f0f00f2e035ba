from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.state import JobState, parse_state
from hpcvlm.watch.verdict import (
    LAST_WORDS_GRACE_S,
    Ended,
    Failed,
    Observation,
    Ready,
    SchedulerView,
    Unknown,
    Waiting,
    decide,
)

RUNNING = SchedulerView(True, JobPhase.RUNNING, "RUNNING", nodes="gpu01", ends=9000.0)
PHASES = ("allocated", "container", "engine", "weights", "probing", "ready", "draining", "ended")


def state(phase: str, reason: str = "", **over: object) -> JobState:
    values: dict[str, object] = {
        "phase": phase,
        "reason": reason,
        "since": 110.0,
        "started": 100.0,
        "job_id": "7",
        "host": "gpu01",
        "port": 23456,
        "engine_exit": None,
        "ends": None,
        "restarts": 0,
        "phases": {phase: 110.0},
    }
    return JobState(**{**values, **over})  # type: ignore[arg-type]


def seen(
    own: JobState | None, scheduler: SchedulerView, gone_since: float | None = None
) -> Observation:
    return Observation(200.0, 90.0, own, scheduler, gone_since)


def test_pending_job_waits_with_its_reason_and_expected_start() -> None:
    view = SchedulerView(True, JobPhase.PENDING, "PENDING", "no GPU is free", expected_start=500.0)
    assert decide(seen(None, view)) == Waiting("queued", 90.0, "no GPU is free", 500.0)


def test_requeued_job_waits_although_its_last_run_said_ended() -> None:
    view = SchedulerView(True, JobPhase.PENDING, "PENDING", "requeued")
    assert isinstance(decide(seen(state("ended", "stopped"), view)), Waiting)


def test_ready_needs_the_job_to_have_said_so_and_to_run() -> None:
    assert decide(seen(state("ready"), RUNNING)) == Ready("gpu01", 23456, 110.0, 9000.0)
    assert decide(seen(state("probing"), RUNNING)) == Waiting("probing", 110.0, "gpu01")
    assert decide(seen(None, RUNNING)) == Waiting("allocated", 90.0, "gpu01")


def test_ready_job_of_a_silent_scheduler_is_unknown_not_ready() -> None:
    silent = SchedulerView(False, reason="squeue: no answer within 20 s")
    assert decide(seen(state("ready"), silent)) == Unknown("squeue: no answer within 20 s", "ready")
    assert decide(seen(None, silent)) == Unknown("squeue: no answer within 20 s", "submitted")


def test_the_job_s_own_last_word_wins_over_the_scheduler() -> None:
    own = state("ended", "engine-exited", engine_exit=1)
    verdict = decide(seen(own, RUNNING))
    assert verdict == Failed("engine-exited", "state.json, written by the job itself", 1)
    assert decide(seen(state("ended", "stopped"), RUNNING)) == Ended("stopped")


def test_scheduler_ends_name_their_evidence() -> None:
    view = SchedulerView(True, JobPhase.NODE_FAILED, "NODE_FAIL", nodes="gpu01")
    expected = Failed("node-failed", "the scheduler says NODE_FAIL on gpu01")
    assert decide(seen(state("ready"), view)) == expected
    cancelled = SchedulerView(True, JobPhase.CANCELLED, "CANCELLED")
    assert decide(seen(state("weights"), cancelled)) == Ended("cancelled")


def test_time_limit_is_a_failure_before_ready_and_an_end_after_it() -> None:
    view = SchedulerView(True, JobPhase.TIMED_OUT, "TIMEOUT")
    assert isinstance(decide(seen(state("weights"), view)), Failed)
    assert decide(seen(state("ready"), view)) == Ended("time limit reached")


def test_forgotten_job_is_unknown_until_its_last_words_had_time_to_arrive() -> None:
    gone = SchedulerView(True, None)
    assert isinstance(decide(seen(state("weights"), gone, 199.0)), Unknown)
    verdict = decide(seen(state("weights"), gone, 200.0 - LAST_WORDS_GRACE_S))
    assert isinstance(verdict, Failed)
    assert verdict.reason == "vanished"
    assert "'weights'" in verdict.evidence


phases = st.sampled_from(PHASES)
states = st.none() | st.builds(
    state, phases, st.sampled_from(["", "stopped", "engine-exited", "start-timeout"])
)
views = st.builds(
    SchedulerView, st.booleans(), st.none() | st.sampled_from(list(JobPhase)), st.text(max_size=5)
)


@given(states, views, st.none() | st.floats(0, 200))
def test_ready_is_never_said_without_proof_and_failed_never_without_evidence(
    own: JobState | None, view: SchedulerView, gone_since: float | None
) -> None:
    verdict = decide(seen(own, view, gone_since))
    if isinstance(verdict, Ready):
        assert own is not None
        assert own.phase == "ready"
        assert view.answered
        assert view.phase not in (None, JobPhase.PENDING, JobPhase.FAILED, JobPhase.CANCELLED)
    if isinstance(verdict, Failed):
        assert verdict.evidence
        own_word = own is not None and own.phase == "ended"
        assert own_word or view.answered


@given(st.text(max_size=300))
def test_a_state_file_of_any_text_is_a_state_or_nothing(text: str) -> None:
    assert parse_state(text) is None or isinstance(parse_state(text), JobState)


def test_half_a_state_file_is_nothing() -> None:
    whole = (
        '{"schema": 1, "phase": "ready", "reason": "", "since": 1.5, "started": 1.0, "job_id": "7",'
        ' "host": "h", "port": 80, "engine_exit": null, "ends": 99, "restarts": 0,'
        ' "phases": { "ready": 1.5 }}'
    )
    parsed = parse_state(whole)
    assert parsed is not None
    assert (parsed.port, parsed.ends, parsed.phases) == (80, 99.0, {"ready": 1.5})
    assert all(parse_state(whole[:cut]) is None for cut in range(len(whole) - 1))
