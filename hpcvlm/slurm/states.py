"""Every Slurm job state: what it means to us.

The long and the compact names are those of squeue(1), "JOB STATE CODES", with the flags that newer
Slurm shows in the same place. A name that is not known is shown as it is.
"""

from __future__ import annotations

import re
from enum import Enum


class JobPhase(Enum):
    """What a job's state means for an endpoint."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
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


_NOT_OVER = {
    JobPhase.PENDING,
    JobPhase.STARTING,
    JobPhase.RUNNING,
    JobPhase.SUSPENDED,
    JobPhase.ENDING,
    JobPhase.UNKNOWN,
}

# RUNNING is a job whose processes run. STARTING has its allocation, but its nodes are still being
# made ready; SUSPENDED has it, too, but its processes are frozen. One that waits for its first or
# next allocation counts as PENDING.
_PHASES: dict[str, JobPhase] = {
    "BOOT_FAIL": JobPhase.NODE_FAILED,
    "CANCELLED": JobPhase.CANCELLED,
    "COMPLETED": JobPhase.DONE,
    "COMPLETING": JobPhase.ENDING,
    "CONFIGURING": JobPhase.STARTING,
    "DEADLINE": JobPhase.TIMED_OUT,
    "EXPEDITING": JobPhase.ENDING,
    "FAILED": JobPhase.FAILED,
    "LAUNCH_FAILED": JobPhase.PENDING,
    "NODE_FAIL": JobPhase.NODE_FAILED,
    "OUT_OF_MEMORY": JobPhase.OUT_OF_MEMORY,
    "PENDING": JobPhase.PENDING,
    "POWER_UP_NODE": JobPhase.STARTING,
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
    "STOPPED": JobPhase.SUSPENDED,
    "SUSPENDED": JobPhase.SUSPENDED,
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


_HELD = {
    "REQUEUE_HOLD": "held after it was put back into the queue",
    "RESV_DEL_HOLD": "held, because its reservation was deleted",
    "SPECIAL_EXIT": "held after it was put back into the queue with a special exit code",
    "LAUNCH_FAILED": "it could not be launched on its node, and waits for another one",
    "RECONFIG_FAIL": "its node could not be set up, and it waits for another one",
    "REQUEUED": "it was put back into the queue",
    "REQUEUE_FED": "another cluster of the federation puts it into the queue",
}


def held_sentence(raw: str) -> str:
    """What a state that counts as PENDING says beside its reason; empty for PENDING itself."""
    return _HELD.get(state_name(raw), "")


def base_job_id(job_id: str) -> str:
    """The number that sbatch gave: of ``123_4``, ``123_[5-9%2]`` and ``123+0`` it is 123.

    The forms are those of array tasks and of the parts of a heterogeneous job (squeue(1), %i).
    """
    match = re.match(r"\d+", job_id.strip())
    return match[0] if match else job_id.strip()
