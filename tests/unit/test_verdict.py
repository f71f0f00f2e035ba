"""What is true of a job: one test for each kind of truth, and properties of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hpcvlm.slurm.states import JobPhase
from hpcvlm.watch.activity import Activity
from hpcvlm.watch.sentences import ENDS, FAILURES, describe
from hpcvlm.watch.state import JobState, parse_state
from hpcvlm.watch.verdict import (
    ANSWER_S,
    FINAL,
    LAST_WORDS_GRACE_S,
    REQUEUE_GRACE_S,
    SHORT_GRACE_S,
    STALE_S,
    SUBMISSION_S,
    Ended,
    Failed,
    Observation,
    Ready,
    SchedulerView,
    Unknown,
    Verdict,
    Waiting,
    decide,
    follow,
)

NOW = 10_000.0
RUNNING = SchedulerView(True, JobPhase.RUNNING, "RUNNING", nodes="gpu01", ends=19_000.0)
SILENT = SchedulerView(False, reason="squeue: no answer within 20 s")
GONE = SchedulerView(True, None)
PHASES = (
    *("allocated", "container", "engine", "weights", "probing", "ready"),
    *("restarting", "draining", "ended"),
)


def state(phase: str, reason: str = "", **over: Any) -> JobState:
    values: dict[str, Any] = {
        "phase": phase,
        "reason": reason,
        "since": 9_000.0,
        "started": 8_500.0,
        "job_id": "7",
        "host": "gpu01",
        "port": 23456,
        "engine_exit": None,
        "ends": None,
        "restarts": 0,
        "phases": {phase: 9_000.0},
        "proof": "image",
    }
    return JobState(**{**values, **over})


READY = state("ready")
WAS_READY = {"phases": {"ready": 8_600.0, "ended": 9_000.0}}


def activity(checked: float = NOW - 5, answered: float | None = None) -> Activity:
    said = checked if answered is None else answered
    return Activity(checked, said, checked, 0, 0, 0, 0, 0)


def seen(own: JobState | None, scheduler: SchedulerView, **over: Any) -> Observation:
    values: dict[str, Any] = {"activity": activity(), "activity_age": 5.0, "job_id": "7"}
    return Observation(NOW, 8_000.0, own, scheduler, **{**values, **over})


def view(phase: JobPhase, raw: str = "", **over: Any) -> SchedulerView:
    return SchedulerView(True, phase, raw or phase.name, **over)


def over(phase: JobPhase, raw: str = "", **more: Any) -> SchedulerView:
    return view(phase, raw, ended=9_000.0, **more)


def test_pending_job_waits_with_its_reason_its_expected_start_and_what_to_do() -> None:
    held = view(
        JobPhase.PENDING, reason="held by its user", expected_start=500.0, remedy="scontrol release"
    )
    expected = Waiting("queued", 8_000.0, "held by its user", 500.0, "scontrol release")
    assert decide(seen(None, held)) == expected


def test_requeued_job_waits_although_its_last_run_said_ended() -> None:
    for own in (state("ended", "stopped"), state("ended", "engine-exited")):
        assert isinstance(decide(seen(own, view(JobPhase.PENDING))), Waiting)


def test_ready_needs_the_job_to_have_said_so_and_to_run() -> None:
    assert decide(seen(READY, RUNNING)) == Ready("gpu01", 23456, 9_000.0, 19_000.0)
    assert decide(seen(state("probing"), RUNNING)) == Waiting("probing", 9_000.0, "gpu01")
    assert decide(seen(None, RUNNING)) == Waiting("allocated", 8_000.0, "gpu01")


def test_ready_on_a_socket() -> None:
    own = replace(READY, port=None, socket="/tmp/x/engine.sock")
    verdict = decide(seen(own, RUNNING))
    assert verdict == Ready("gpu01", None, 9_000.0, 19_000.0, "/tmp/x/engine.sock")
    assert isinstance(decide(seen(replace(READY, port=None), RUNNING)), Unknown)


@pytest.mark.parametrize(
    ("proof", "vision", "proven"),
    [
        ("image", True, True),
        ("image", False, True),
        ("text", False, True),
        ("text", True, False),
        ("", True, False),
        ("", False, False),
    ],
)
def test_ready_needs_the_proof_that_its_model_asks_for(
    proof: str, vision: bool, proven: bool
) -> None:
    verdict = decide(seen(replace(READY, proof=proof), RUNNING, vision=vision))
    assert isinstance(verdict, Ready if proven else Unknown)


def test_an_engine_that_did_not_answer_the_last_looks_is_not_ready() -> None:
    quiet = activity(NOW - 5, NOW - 5 - ANSWER_S - 1)
    verdict = decide(seen(READY, RUNNING, activity=quiet))
    assert isinstance(verdict, Waiting)
    assert (verdict.phase, verdict.since) == ("unresponsive", quiet.answered)
    busy = activity(NOW - 5, NOW - 5 - ANSWER_S / 2)
    assert isinstance(decide(seen(READY, RUNNING, activity=busy)), Ready)


def test_a_job_that_does_not_look_any_more_is_not_ready() -> None:
    verdict = decide(seen(READY, RUNNING, activity_age=STALE_S + 1))
    assert isinstance(verdict, Unknown)
    assert "has not looked at its engine for 121 s" in verdict.why
    assert verdict.known_at == NOW - 5


def test_the_looks_of_an_earlier_start_of_the_engine_do_not_count() -> None:
    """It was restarted: its last look before that was not answered, and none is there yet."""
    old = activity(8_900.0, 8_000.0)
    assert isinstance(decide(seen(READY, RUNNING, activity=old, state_age=10.0)), Ready)
    assert isinstance(decide(seen(READY, RUNNING, activity=old, state_age=500.0)), Unknown)


def test_only_a_running_job_is_ready() -> None:
    for phase in JobPhase:
        verdict = decide(seen(READY, view(phase)))
        assert isinstance(verdict, Ready) == (phase is JobPhase.RUNNING), phase


def test_a_suspended_job_is_not_ready_since_the_job_s_last_look() -> None:
    verdict = decide(seen(READY, view(JobPhase.SUSPENDED, "SUSPENDED"), activity_age=900.0))
    assert verdict == Waiting("suspended", NOW - 5, "frozen by Slurm (SUSPENDED)")


def test_a_state_that_nobody_knows_is_shown_as_it_is() -> None:
    verdict = decide(seen(READY, view(JobPhase.UNKNOWN, "LEVITATING")))
    assert isinstance(verdict, Unknown)
    assert "'LEVITATING'" in verdict.why


def test_nodes_that_are_still_being_made_ready_are_no_run() -> None:
    starting = view(JobPhase.STARTING, "CONFIGURING", nodes="gpu01", started=9_900.0)
    assert decide(seen(None, starting)) == Waiting("allocated", 9_900.0, "gpu01")


def test_with_a_silent_scheduler_what_was_known_last_is_said_and_when() -> None:
    verdict = decide(seen(READY, SILENT))
    assert verdict == Unknown("squeue: no answer within 20 s", "ready")
    assert isinstance(verdict, Unknown)
    assert verdict.known_at == NOW - 5
    for own, last in ((None, "submitted"), (state("weights"), "weights")):
        assert decide(seen(own, SILENT)) == Unknown("squeue: no answer within 20 s", last)


def test_the_job_s_own_failure_is_final_at_once() -> None:
    own = state("ended", "engine-exited", engine_exit=1)
    for scheduler in (RUNNING, SILENT, GONE, view(JobPhase.ENDING)):
        verdict = decide(seen(own, scheduler))
        assert verdict == Failed("engine-exited", "state.json, written by the job itself", 1)


def test_stopped_needs_slurm_to_say_by_whom() -> None:
    own = state("ended", "stopped", ends=19_000.0, **WAS_READY)
    assert isinstance(decide(seen(own, RUNNING)), Waiting)
    assert isinstance(decide(seen(own, view(JobPhase.ENDING))), Waiting)
    assert isinstance(decide(seen(own, SILENT)), Unknown)
    for scheduler in (over(JobPhase.DONE), over(JobPhase.CANCELLED), GONE):
        assert decide(seen(own, scheduler, gone_since=0.0)) == Ended("stopped")
    preempted = decide(seen(own, over(JobPhase.PREEMPTED)))
    assert isinstance(preempted, Failed)
    assert preempted.reason == "preempted"


@pytest.mark.parametrize("scheduler", [over(JobPhase.DONE), over(JobPhase.TIMED_OUT)])
def test_told_to_stop_right_before_the_limit_is_the_limit(scheduler: SchedulerView) -> None:
    own = state("ended", "stopped", ends=9_060.0, **WAS_READY)
    assert decide(seen(own, scheduler)) == Ended("time limit reached")
    verdict = decide(seen(replace(own, phases={"weights": 8_600.0}), scheduler))
    assert isinstance(verdict, Failed)
    assert verdict.reason == "time-limit"


def test_the_limit_is_the_one_that_slurm_says_now() -> None:
    """The job's own number is missing (22.05), or of before the limit was moved."""
    scheduler = over(JobPhase.DONE, started=5_400.0, time_limit_s=3_600.0)
    for ends in (None, 19_000.0):
        own = state("ended", "stopped", ends=ends, **WAS_READY)
        assert decide(seen(own, scheduler)) == Ended("time limit reached")
    moved = replace(scheduler, time_limit_s=9_000.0)
    assert decide(seen(replace(own, ends=9_000.0), moved)) == Ended("stopped")


def test_the_first_look_is_made_right_before_ready() -> None:
    looked = activity(8_999.0, 8_000.0)
    verdict = decide(seen(READY, RUNNING, activity=looked))
    assert isinstance(verdict, Waiting)
    assert verdict.phase == "unresponsive"


@pytest.mark.parametrize("reason", ["idle", "drained", "handed-over", "lease-lost"])
def test_an_end_in_order_is_no_failure(reason: str) -> None:
    verdict = decide(seen(state("ended", reason), view(JobPhase.ENDING)))
    assert isinstance(verdict, Ended)
    assert (verdict.reason, verdict.how) == (reason, ENDS[reason])


@pytest.mark.parametrize("reason", ["engine-hung", "restarts-used-up", "engine-exited"])
def test_a_failure_has_words(reason: str) -> None:
    verdict = decide(seen(state("ended", reason), RUNNING))
    assert isinstance(verdict, Failed)
    assert FAILURES[reason] in describe(verdict)


def test_a_job_that_slurm_may_put_back_has_ended_only_when_slurm_says_so() -> None:
    own = state("ended", "engine-exited")
    for scheduler in (RUNNING, SILENT, view(JobPhase.ENDING), view(JobPhase.PENDING)):
        assert not isinstance(decide(seen(own, scheduler, requeueable=True)), FINAL)
    for scheduler in (over(JobPhase.FAILED), GONE):
        verdict = decide(seen(own, scheduler, requeueable=True, gone_since=0.0))
        assert isinstance(verdict, Failed)
        assert verdict.reason == "engine-exited"


def test_a_preempted_job_that_slurm_may_put_back_gets_time_to_be_put_back() -> None:
    scheduler = over(JobPhase.PREEMPTED)
    for own in (state("weights"), state("ended", "stopped")):
        soon = seen(own, scheduler, requeueable=True, gone_since=NOW - 1)
        assert isinstance(decide(soon), Unknown)
        later = replace(soon, gone_since=NOW - REQUEUE_GRACE_S)
        assert isinstance(decide(later), Failed)


def test_the_word_of_an_earlier_run_does_not_count() -> None:
    """Put back and running again, while the shared file system still shows the first run."""
    old = replace(READY, started=5_000.0, ends=8_600.0)
    again = replace(RUNNING, started=9_950.0, ends=13_550.0)
    assert decide(seen(old, again, requeueable=True)) == Waiting("allocated", 9_950.0, "gpu01")
    soon = replace(READY, started=9_900.0, ends=13_500.0)
    assert isinstance(decide(seen(soon, again, requeueable=True)), Waiting)
    own = replace(READY, started=9_951.0, ends=13_550.0)
    fresh = seen(own, again, requeueable=True)
    assert isinstance(decide(fresh), Ready)
    # The node's clock is a day behind, and the file system tells.
    behind = replace(own, started=9_951.0 - 86_400)
    assert isinstance(decide(replace(fresh, state=behind, node_ahead_s=-86_400.0)), Ready)


def test_the_word_of_another_job_does_not_count() -> None:
    other = replace(READY, job_id="8")
    assert decide(seen(other, RUNNING)) == Waiting("allocated", 8_000.0, "gpu01")


def test_scheduler_ends_name_their_evidence() -> None:
    scheduler = over(JobPhase.NODE_FAILED, "NODE_FAIL", nodes="gpu01")
    expected = Failed("node-failed", "the scheduler says NODE_FAIL on gpu01")
    assert decide(seen(READY, scheduler)) == expected
    assert decide(seen(state("weights"), over(JobPhase.CANCELLED))) == Ended("cancelled")
    failed = decide(seen(state("weights"), over(JobPhase.FAILED, exit_code=127), gone_since=0.0))
    assert failed == Failed("job-failed", "the scheduler says FAILED, exit code 127")


def test_a_script_that_slurm_calls_completed_ended_in_order() -> None:
    verdict = decide(seen(READY, over(JobPhase.DONE), gone_since=0.0))
    assert isinstance(verdict, Ended)
    assert verdict.reason == "completed"


def test_time_limit_is_a_failure_before_ready_and_an_end_after_it() -> None:
    scheduler = over(JobPhase.TIMED_OUT, "TIMEOUT")
    assert isinstance(decide(seen(state("weights"), scheduler, gone_since=0.0)), Failed)
    assert decide(seen(READY, scheduler)) == Ended("time limit reached")
    # A file that cannot be read does not say that it never was ready.
    broken = seen(None, scheduler, gone_since=0.0, state_broken=True)
    assert decide(broken) == Ended("time limit reached")


@pytest.mark.parametrize(
    ("phase", "grace"),
    [
        (JobPhase.TIMED_OUT, LAST_WORDS_GRACE_S),
        (JobPhase.FAILED, SHORT_GRACE_S),
        (JobPhase.DONE, SHORT_GRACE_S),
    ],
)
def test_the_job_s_last_words_are_waited_for(phase: JobPhase, grace: float) -> None:
    early = seen(state("weights"), over(phase), gone_since=NOW - grace + 1)
    assert isinstance(decide(early), Unknown)
    assert isinstance(decide(replace(early, gone_since=NOW - grace)), FINAL)


def test_forgotten_job_is_unknown_until_its_last_words_had_time_to_arrive() -> None:
    own = state("weights")
    assert isinstance(decide(seen(own, GONE, gone_since=NOW - 1, activity_age=None)), Unknown)
    late = seen(own, GONE, gone_since=NOW - LAST_WORDS_GRACE_S, activity_age=None)
    verdict = decide(late)
    assert isinstance(verdict, Failed)
    assert verdict.reason == "vanished"
    assert "'weights'" in verdict.evidence


def test_a_forgotten_job_is_unknown_while_the_accounts_are_away() -> None:
    away = SchedulerView(True, None, reason="Connection refused", accounts_away=True)
    for own in (None, state("weights"), state("ended", "stopped")):
        verdict = decide(seen(own, away, gone_since=0.0, activity_age=None))
        assert isinstance(verdict, Unknown)
        assert "Connection refused" in verdict.why
    # Its own word needs nobody's; and the controller has said that it will not run again.
    own = state("ended", "idle")
    assert isinstance(decide(seen(own, away, gone_since=0.0, requeueable=True)), Ended)


def test_a_job_that_writes_is_not_gone_whatever_the_scheduler_knows() -> None:
    """A home folder is shared by two clusters, and the other one's Slurm was asked."""
    verdict = decide(seen(READY, GONE, gone_since=0.0, activity_age=12.0))
    assert isinstance(verdict, Unknown)
    assert "wrote to its folder 12 s ago" in verdict.why


def test_a_submission_that_nobody_saw_the_end_of() -> None:
    lost = seen(None, SILENT, submission_confirmed=False)
    verdict = decide(lost)
    assert isinstance(verdict, Unknown)
    assert verdict.why == "submission not confirmed: squeue: no answer within 20 s"
    soon = replace(lost, scheduler=GONE, submitted=NOW - SUBMISSION_S + 1)
    assert isinstance(decide(soon), Unknown)
    never = decide(replace(lost, scheduler=GONE, submitted=NOW - SUBMISSION_S - 1))
    assert isinstance(never, Failed)
    assert (never.reason, bool(never.evidence)) == ("not-submitted", True)


# ---- properties -------------------------------------------------------------------------------

times = st.floats(0, 20_000)
states = st.none() | st.builds(
    state,
    st.sampled_from(PHASES),
    st.sampled_from(["", "stopped", "idle", "engine-exited", "start-timeout", "new-in-2030"]),
    since=times,
    started=times,
    ends=st.none() | times,
    proof=st.sampled_from(["", "text", "image", "other"]),
    port=st.none() | st.just(80),
    socket=st.none() | st.just("/s"),
    job_id=st.sampled_from(["7", "8"]),
    phases=st.dictionaries(st.sampled_from(PHASES), times),
)
schedulers = st.builds(
    SchedulerView,
    st.booleans(),
    st.none() | st.sampled_from(list(JobPhase)),
    st.text(max_size=5),
    started=st.none() | times,
    ended=st.none() | times,
    ends=st.none() | times,
)
ages = st.none() | st.floats(0, 500)
observations = st.builds(
    Observation,
    times,
    times,
    states,
    schedulers,
    st.none() | times,
    activity=st.none() | st.builds(activity, times, times),
    state_age=ages,
    activity_age=ages,
    node_ahead_s=st.sampled_from([0.0, 86_400.0, -86_400.0]),
    state_broken=st.booleans(),
    vision=st.booleans(),
    requeueable=st.booleans(),
    job_id=st.sampled_from(["", "7"]),
    submission_confirmed=st.booleans(),
)


def check(verdict: Verdict, made_from: Observation) -> None:
    """What must hold for every verdict on every observation."""
    own, scheduler = made_from.state, made_from.scheduler
    if isinstance(verdict, Ready):
        assert own is not None
        assert own.phase == "ready"
        assert own.proof == "image" or (own.proof == "text" and not made_from.vision)
        assert (own.port, own.socket) != (None, None)
        assert scheduler.answered
        assert scheduler.phase is JobPhase.RUNNING
        assert made_from.submission_confirmed
        looked = made_from.activity
        if looked is not None and looked.checked >= own.phases.get("ready", own.since):
            assert looked.checked - looked.answered <= ANSWER_S
            assert made_from.activity_age is None or made_from.activity_age <= STALE_S
    if isinstance(verdict, Failed):
        assert verdict.evidence
        assert verdict.reason
        own_word = own is not None and own.phase == "ended"
        assert own_word or scheduler.answered
    if isinstance(verdict, Ended):
        assert verdict.reason in ENDS
        assert (own is not None and own.phase == "ended") or scheduler.over
    if isinstance(verdict, FINAL) and made_from.requeueable and made_from.submission_confirmed:
        assert scheduler.over
    assert describe(verdict)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(observations)
def test_no_ready_without_proof_and_no_failure_without_evidence(made_from: Observation) -> None:
    check(decide(made_from), made_from)


class Following(RuleBasedStateMachine):
    """Any sequence of observations: what is final stays, and what is shown was observed."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None
        self.final: Verdict | None = None

    @rule(made_from=observations)
    def look(self, made_from: Observation) -> None:
        before = self.verdict
        self.verdict = follow(before, made_from)
        if not isinstance(before, FINAL):
            check(self.verdict, made_from)
        if self.final is None and isinstance(self.verdict, FINAL):
            self.final = self.verdict

    @invariant()
    def a_final_verdict_stays(self) -> None:
        if self.final is not None:
            assert self.verdict is self.final


Following.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestFollowing = Following.TestCase


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
