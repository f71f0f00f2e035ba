"""Job states and pending reasons."""

from __future__ import annotations

import pytest

from hpcvlm.slurm.reasons import reason_remedy, reason_sentence
from hpcvlm.slurm.states import JobPhase, base_job_id, held_sentence, phase_of, state_name
from tests.command import ROOT

# squeue(1) of Slurm 22.05, "JOB STATE CODES", all of it.
MANUAL = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "F": "FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "R": "RUNNING",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RQ": "REQUEUED",
    "RS": "RESIZING",
    "RV": "REVOKED",
    "SI": "SIGNALING",
    "SE": "SPECIAL_EXIT",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "S": "SUSPENDED",
    "TO": "TIMEOUT",
}


@pytest.mark.parametrize(("compact", "name"), MANUAL.items())
def test_every_state_of_the_manual_is_known_by_both_names(compact: str, name: str) -> None:
    assert phase_of(name) is not JobPhase.UNKNOWN
    assert phase_of(compact) is phase_of(name)
    assert state_name(compact) == name


@pytest.mark.parametrize(
    ("raw", "phase"),
    [
        ("PENDING", JobPhase.PENDING),
        ("REQUEUE_HOLD", JobPhase.PENDING),
        ("SPECIAL_EXIT", JobPhase.PENDING),
        ("RUNNING", JobPhase.RUNNING),
        ("SUSPENDED", JobPhase.SUSPENDED),
        ("STOPPED", JobPhase.SUSPENDED),
        ("CONFIGURING", JobPhase.STARTING),
        ("POWER_UP_NODE", JobPhase.STARTING),
        ("RESIZING", JobPhase.RUNNING),
        ("SIGNALING", JobPhase.RUNNING),
        ("EXPEDITING", JobPhase.ENDING),
        ("UPDATE_DB", JobPhase.ENDING),
        ("LAUNCH_FAILED", JobPhase.PENDING),
        ("RECONFIG_FAIL", JobPhase.PENDING),
        ("COMPLETING", JobPhase.ENDING),
        ("STAGE_OUT", JobPhase.ENDING),
        ("COMPLETED", JobPhase.DONE),
        ("FAILED", JobPhase.FAILED),
        ("CANCELLED by 1000", JobPhase.CANCELLED),
        ("CANCELLED+", JobPhase.CANCELLED),
        ("REVOKED", JobPhase.CANCELLED),
        ("TIMEOUT", JobPhase.TIMED_OUT),
        ("DEADLINE", JobPhase.TIMED_OUT),
        ("OUT_OF_ME+", JobPhase.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", JobPhase.OUT_OF_MEMORY),
        ("NODE_FAIL", JobPhase.NODE_FAILED),
        ("BOOT_FAIL", JobPhase.NODE_FAILED),
        ("PREEMPTED", JobPhase.PREEMPTED),
        ("running", JobPhase.RUNNING),
        (" RUNNING ", JobPhase.RUNNING),
        ("", JobPhase.UNKNOWN),
        ("LEVITATING", JobPhase.UNKNOWN),
    ],
)
def test_what_a_state_means(raw: str, phase: JobPhase) -> None:
    assert phase_of(raw) is phase


def test_only_a_final_phase_is_over() -> None:
    going = {
        JobPhase.PENDING,
        JobPhase.STARTING,
        JobPhase.RUNNING,
        JobPhase.SUSPENDED,
        JobPhase.ENDING,
        JobPhase.UNKNOWN,
    }
    assert {phase for phase in JobPhase if not phase.over} == going


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("Priority", "waiting behind jobs with higher priority (Priority)"),
        ("(Resources)", "waiting for free resources (Resources)"),
        (
            "QOSMaxJobsPerUserLimit",
            "its QOS already runs as many of your jobs as it allows (QOSMaxJobsPerUserLimit)",
        ),
        (
            "AssocGrpGRES",
            "all jobs of your account together have reached a limit (AssocGrpGRES)",
        ),
        (
            "QOSGrpGRES",
            "all jobs of its QOS together have reached a limit (QOSGrpGRES)",
        ),
        (
            "ReqNodeNotAvail, UnavailableNodes:gpu[01-04]",
            "the nodes it needs are down, drained or reserved"
            " (ReqNodeNotAvail, UnavailableNodes:gpu[01-04])",
        ),
        (
            "ReqNodeNotAvail(Unavailable:gpu01)",
            "the nodes it needs are down, drained or reserved (ReqNodeNotAvail(Unavailable:gpu01))",
        ),
        (
            "PartitionTimeLimit",
            "its time limit is longer than its partition allows (PartitionTimeLimit)",
        ),
        ("job requeued in held state", "job requeued in held state"),
        ("SomethingNew", "SomethingNew"),
        ("None", ""),
        ("", ""),
    ],
)
def test_why_a_job_is_pending(reason: str, sentence: str) -> None:
    assert reason_sentence(reason) == sentence


REASONS = [
    line
    for line in (ROOT / "tests" / "data" / "slurm" / "reasons.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_every_reason_of_three_versions_is_said_in_words() -> None:
    assert len(REASONS) > 200
    bare = [word for word in REASONS if reason_sentence(word) == word]
    assert bare == []


@pytest.mark.parametrize(
    ("reason", "state", "remedy"),
    [
        ("JobHeldUser", "PENDING", "scontrol release 7"),
        ("JobHeldAdmin", "PENDING", "ask the site's admins"),
        ("job requeued in held state", "PENDING", "scontrol release 7"),
        ("None", "REQUEUE_HOLD", "scontrol release 7"),
        ("", "SPECIAL_EXIT", "scontrol release 7"),
        ("DependencyNeverSatisfied", "PENDING", "scancel 7"),
        ("PartitionTimeLimit", "PENDING", "scontrol update JobId=7 TimeLimit="),
        ("BadConstraints", "PENDING", "launch it anew"),
        ("QOSMaxWallDurationPerJobLimit", "PENDING", "JobId=7"),
        ("AssocMaxGRESPerJob", "PENDING", "fewer --gpus"),
        ("QOSMinGRES", "PENDING", "another --qos"),
    ],
)
def test_a_reason_that_no_waiting_ends_says_what_to_do(
    reason: str, state: str, remedy: str
) -> None:
    assert remedy in reason_remedy(reason, "7", state)


@pytest.mark.parametrize(
    "reason",
    ["Priority", "Resources", "None", "", "AssocGrpGRES", "QOSMaxJobsPerUserLimit", "SomethingNew"],
)
def test_a_reason_that_waiting_ends_needs_no_remedy(reason: str) -> None:
    assert reason_remedy(reason, "7") == ""


@pytest.mark.parametrize(
    ("shown", "number"),
    [
        ("123", "123"),
        (" 123 ", "123"),
        ("123_4", "123"),
        ("123_[5-9%2]", "123"),
        ("123+0", "123"),
        ("123.batch", "123"),
        ("?", "?"),
    ],
)
def test_parts_of_a_job_belong_to_its_number(shown: str, number: str) -> None:
    assert base_job_id(shown) == number


def test_a_held_job_says_so_without_a_reason() -> None:
    assert "held" in held_sentence("REQUEUE_HOLD")
    assert held_sentence("PENDING") == ""
