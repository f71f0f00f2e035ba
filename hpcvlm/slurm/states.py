"""Every Slurm job state and the usual pending reasons: what they mean to us, and in words.

The long and the compact names are those of squeue(1), "JOB STATE CODES", with the flags that newer
Slurm shows in the same place. A name that is not known is shown as it is.
"""

from __future__ import annotations

import re
from enum import Enum


class JobPhase(Enum):
    """What a job's state means for an endpoint."""

    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILED = "node failed"
    PREEMPTED = "preempted"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        """Whether the job will never run (again)."""
        return self not in _NOT_OVER


_NOT_OVER = {JobPhase.PENDING, JobPhase.RUNNING, JobPhase.ENDING, JobPhase.UNKNOWN}

# A job that holds an allocation counts as RUNNING, whatever is done to it; one that waits for its
# first or next allocation counts as PENDING.
_PHASES: dict[str, JobPhase] = {
    "BOOT_FAIL": JobPhase.NODE_FAILED,
    "CANCELLED": JobPhase.CANCELLED,
    "COMPLETED": JobPhase.DONE,
    "COMPLETING": JobPhase.ENDING,
    "CONFIGURING": JobPhase.RUNNING,
    "DEADLINE": JobPhase.TIMED_OUT,
    "EXPEDITING": JobPhase.ENDING,
    "FAILED": JobPhase.FAILED,
    "LAUNCH_FAILED": JobPhase.PENDING,
    "NODE_FAIL": JobPhase.NODE_FAILED,
    "OUT_OF_MEMORY": JobPhase.OUT_OF_MEMORY,
    "PENDING": JobPhase.PENDING,
    "POWER_UP_NODE": JobPhase.RUNNING,
    "PREEMPTED": JobPhase.PREEMPTED,
    "RECONFIG_FAIL": JobPhase.PENDING,
    "REQUEUED": JobPhase.PENDING,
    "REQUEUE_FED": JobPhase.PENDING,
    "REQUEUE_HOLD": JobPhase.PENDING,
    "RESIZING": JobPhase.RUNNING,
    "RESV_DEL_HOLD": JobPhase.PENDING,
    "REVOKED": JobPhase.CANCELLED,
    "RUNNING": JobPhase.RUNNING,
    "SIGNALING": JobPhase.RUNNING,
    "SPECIAL_EXIT": JobPhase.PENDING,
    "STAGE_OUT": JobPhase.ENDING,
    "STOPPED": JobPhase.RUNNING,
    "SUSPENDED": JobPhase.RUNNING,
    "TIMEOUT": JobPhase.TIMED_OUT,
    "UPDATE_DB": JobPhase.ENDING,
}

_COMPACT = {
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
    "S": "SUSPENDED",
    "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "TO": "TIMEOUT",
}


def state_name(raw: str) -> str:
    """The long name of a state: ``CANCELLED by 1000``, ``CANCELLED+`` and ``CA`` are CANCELLED.

    A state that is not known comes back as it is.
    """
    words = raw.upper().split()
    name = words[0] if words else ""
    if name.endswith("+"):
        # sacct cuts a long state short in a narrow column.
        name = next((full for full in _PHASES if full.startswith(name[:-1])), name)
    name = _COMPACT.get(name, name)
    return name if name in _PHASES else raw.strip()


def phase_of(raw: str) -> JobPhase:
    """What a state means; UNKNOWN for one that is not known."""
    return _PHASES.get(state_name(raw), JobPhase.UNKNOWN)


_REASONS = {
    "AssociationJobLimit": "your association already has its maximum number of jobs",
    "AssociationResourceLimit": "your association has reached a resource limit",
    "AssociationTimeLimit": "your association has used up its time",
    "BadConstraints": "no node can ever satisfy the job's constraints",
    "BeginTime": "its earliest start time has not come yet",
    "BurstBufferOperation": "a burst buffer operation failed",
    "BurstBufferResources": "waiting for burst buffer space",
    "BurstBufferStageIn": "its burst buffer is being filled",
    "Cleaning": "its previous run is still being cleaned up",
    "DeadLine": "it could not end before its deadline",
    "Dependency": "waiting for another job that it depends on",
    "DependencyNeverSatisfied": "it depends on a job that failed, so it will never start",
    "FedJobLock": "waiting for the clusters of the federation to agree",
    "FrontEndDown": "no front end node is up",
    "InactiveLimit": "it reached the system's inactivity limit",
    "InvalidAccount": "its account is not valid (any more)",
    "InvalidQOS": "its QOS is not valid (any more)",
    "JobArrayTaskLimit": "its array already runs as many tasks as allowed",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user; scontrol release JOBID lets it go on",
    "JobHoldMaxRequeue": "held, because it was requeued too often",
    "JobLaunchFailure": "it could not be launched on its node",
    "Licenses": "waiting for a licence",
    "MaxMemPerLimit": "it asks for more memory per CPU or node than allowed",
    "MaxRequeue": "it was requeued as often as allowed",
    "NodeDown": "a node that it needs is down",
    "NonZeroExitCode": "its script ended with an error",
    "OutOfMemory": "it ran out of memory",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs at present",
    "PartitionNodeLimit": "it asks for more nodes than its partition has or allows",
    "PartitionTimeLimit": "its time limit is longer than its partition allows",
    "PartitionConfig": "its partition does not allow what it asks for",
    "Priority": "waiting behind jobs with higher priority",
    "Prolog": "the cluster prepares its nodes",
    "QOSJobLimit": "its QOS already has its maximum number of jobs",
    "QOSResourceLimit": "its QOS has reached a resource limit",
    "QOSTimeLimit": "its QOS has used up its time",
    "QOSNotAllowed": "its QOS is not allowed in this partition or for this account",
    "QOSUsageThreshold": "usage is below what its QOS demands",
    "ReqNodeNotAvail": "the nodes it needs are down, drained or reserved",
    "Reservation": "waiting for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted",
    "Resources": "waiting for free resources",
    "SchedDefer": "the scheduler has put it off",
    "SystemFailure": "the cluster had a failure",
    "TimeLimit": "it reached its time limit",
    "WaitingForScheduling": "the scheduler has not looked at it yet",
}

# Families of reasons such as QOSMaxJobsPerUserLimit, AssocGrpGRES, QOSGrpCpuLimit.
_REASON_FAMILIES = (
    ("QOSMaxJobs", "its QOS already runs as many of your jobs as it allows"),
    ("QOSMaxSubmit", "its QOS already holds as many of your jobs as it allows"),
    ("QOSMaxWall", "its time limit is longer than its QOS allows"),
    ("QOSMax", "it asks for more than its QOS allows one job or user"),
    ("QOSMin", "it asks for less than its QOS demands"),
    ("QOSGrp", "all jobs of its QOS together have reached a limit"),
    ("AssocMaxJobs", "your account already runs as many jobs as it may"),
    ("AssocMaxSubmit", "your account already holds as many jobs as it may"),
    ("AssocMaxWall", "its time limit is longer than your account allows"),
    ("AssocMax", "it asks for more than your account allows one job or user"),
    ("AssocGrp", "all jobs of your account together have reached a limit"),
    ("MaxGRESPerAccount", "your account uses as many GPUs as it may"),
    ("MaxTRESPer", "it asks for more than one job, user or account may have"),
    ("ReqNodeNotAvail", "the nodes it needs are down, drained or reserved"),
)


def reason_sentence(reason: str) -> str:
    """Why a job is pending, in words, with Slurm's own word; an unknown reason as it is.

    ``None``, which Slurm shows before it has looked at a job, gives an empty text.
    """
    reason = reason.strip()
    if reason.startswith("("):
        reason = reason[1:].removesuffix(")")
    if reason in {"", "None"}:
        return ""
    word = re.split(r"[,(]", reason)[0].strip()
    sentence = _REASONS.get(word)
    if sentence is None:
        sentence = next((text for start, text in _REASON_FAMILIES if word.startswith(start)), None)
    return reason if sentence is None else f"{sentence} ({reason})"
