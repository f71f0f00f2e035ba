"""What a diagnosis is made from and what it is: frozen values, no effects."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Log:
    """A log of the job, or a part of one.

    Attributes:
        file: its name in the job's folder.
        first_line: number of the text's first line in the file; 0 where nobody counted them.
    """

    file: str
    text: str
    first_line: int = 1


@dataclass(frozen=True, slots=True)
class Quote:
    """What was said, and where.

    Attributes:
        file: a file of the job's folder, or the command whose answer it is.
        line: number of the line in the file, 0 where there is none.
    """

    file: str
    line: int
    text: str

    @property
    def where(self) -> str:
        """``engine.err:42``, or the file alone."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class SlurmFacts:
    """What the accounts say of a job; None and empty where they do not.

    Attributes:
        state: Slurm's own word, such as ``OUT_OF_MEMORY`` or ``CANCELLED by 0``.
        signal: that ended the batch script.
        max_rss: bytes of main memory that the largest step held at its most.
        requested_memory: bytes of main memory that the job was given, on each node.
        line: the accounts' own line.
    """

    state: str = ""
    exit_code: int | None = None
    signal: int | None = None
    max_rss: int | None = None
    requested_memory: int | None = None
    elapsed_s: int | None = None
    time_limit_s: int | None = None
    nodes: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What was asked for.

    Attributes:
        name: that the user calls the endpoint.
        job_id: Slurm's number.
        gpus: as it was typed, such as ``A100:4``.
        gpu_count: on each node.
        max_model_len: 0 where nobody set one.
        heads: attention heads of the model, 0 where they are not known.
        cache: folder of the engine's caches.
        fits: commands that, by the memory arithmetic, launch something that fits.
    """

    name: str = ""
    job_id: str = ""
    model: str = ""
    repo: str = ""
    gpus: str = ""
    gpu_count: int = 0
    partition: str = ""
    time_limit_s: int = 0
    start_timeout_s: int = 0
    max_model_len: int = 0
    heads: int = 0
    image: str = ""
    snapshot: str = ""
    engine: str = ""
    cache: str = ""
    folder: str = ""
    fits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """What is left in a folder.

    Attributes:
        what: what the folder is for.
        free: bytes that the user can still write there.
        inodes: files that can still be made; None where the file system sets no limit.
        read_only: whether nothing can be written there at all.
    """

    what: str
    path: str
    free: int
    inodes: int | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota that leaves little.

    Attributes:
        where: the file system.
        used: bytes.
        limit: bytes.
    """

    where: str
    used: int
    limit: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Evidence:
    """Everything that was found of one job.

    Attributes:
        reason: of the verdict: a word of state.json or of the scheduler; empty where it has none.
        verdict: what the verdict rests on, in words.
        pending: why the job waits, with Slurm's own word.
        refusal: what sbatch said when it refused the job.
        logs: that of the engine's standard output first.
        answers: what the engine answered to the job's own questions.
        events: what the job wrote down of its own life; None where it wrote nothing.
        was_ready: whether the engine had served before.
        partitions: time limit in seconds by partition; None for one without a limit.
        tried: what was looked at, in words.
    """

    reason: str = ""
    verdict: str = ""
    pending: str = ""
    refusal: str = ""
    logs: tuple[Log, ...] = ()
    answers: tuple[Log, ...] = ()
    events: Log | None = None
    was_ready: bool = False
    slurm: SlurmFacts = SlurmFacts()
    plan: PlanFacts = PlanFacts()
    rooms: tuple[Room, ...] = ()
    quotas: tuple[Quota, ...] = ()
    partitions: tuple[tuple[str, int | None], ...] = ()
    tried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """A known failure: how it reads, what it means, what helps.

    Attributes:
        id: stable identifier; several signatures may share one.
        patterns: match a message of a log, whatever stands before it in the line.
        answers: match what the engine answered to the job's questions.
        reasons: match the verdict's reason.
        slurm: match the state in Slurm's accounts.
        pending: match why a job waits.
        refusals: match sbatch's words.
        cause: one sentence; may name the patterns' groups as ``{group}``.
        remedy: what to type or change; likewise.
        source: where its words are from.
        alone: whether it counts only in logs that tell of no cause at all.
        start_only: whether it says nothing of an engine that serves.
    """

    id: str
    cause: str
    remedy: str
    source: str
    alone: bool = False
    start_only: bool = False
    patterns: tuple[re.Pattern[str], ...] = ()
    answers: tuple[re.Pattern[str], ...] = ()
    reasons: tuple[re.Pattern[str], ...] = ()
    slurm: tuple[re.Pattern[str], ...] = ()
    pending: tuple[re.Pattern[str], ...] = ()
    refusals: tuple[re.Pattern[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a job failed or waits, as far as the evidence tells.

    Attributes:
        id: the signature's identifier, or ``unknown``.
        cause: what went wrong, one line.
        remedy: what to do about it, one line; empty when the cause is unknown.
        evidence: what says so.
        tried: what was looked at.
    """

    id: str
    cause: str
    remedy: str
    evidence: tuple[Quote, ...] = ()
    tried: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a cause."""
        return self.id != UNKNOWN

    @property
    def lines(self) -> tuple[str, ...]:
        """The evidence for a reader: ``engine.err:42: what it says``."""
        return tuple(f"{each.where}: {each.text}" for each in self.evidence)
