"""What Slurm says of one job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hpcvlm.slurm.states import JobPhase


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """One job as squeue or sacct shows it.

    Attributes:
        job_id: the number, as text.
        state: what it means.
        raw_state: Slurm's own word for the state.
        reason: why it is pending, in Slurm's own word; empty when there is none.
        nodes: node list in Slurm's short form, empty before there is an allocation.
        start: when it began; for a pending job when it is expected to, if Slurm knows.
        end: when it ended; for a running job when its time limit is reached.
        time_limit_s: None when it has none, or when Slurm does not say.
        exit_code: of the batch script; None while it runs, and from squeue.
        signal: that ended the batch script; None when none did.
    """

    job_id: str
    state: JobPhase
    raw_state: str
    reason: str = ""
    nodes: str = ""
    start: datetime | None = None
    end: datetime | None = None
    time_limit_s: int | None = None
    partition: str = ""
    name: str = ""
    exit_code: int | None = None
    signal: int | None = None
