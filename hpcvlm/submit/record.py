"""record.json: what is known of a job from the moment it was submitted."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.system.files import read_text, write_atomically

RECORD_NAME = "record.json"


@dataclass(frozen=True, slots=True, repr=False)
class JobRecord:
    """One submitted job.

    Attributes:
        executor: ``slurm`` or ``local``.
        job_id: Slurm's number, or the process id of the local controller.
        process_started: start of that process in clock ticks since boot (local only), which tells
            it from a later process with the same id.
        submitted: seconds since the epoch.
        time_limit_s: seconds the job may run.
        image_limit: images per prompt, None when the model sets no limit.
        warnings: what sbatch said while it took the job.
        notes: what was changed or taken for meant while it was planned.
        repo: repository of the snapshot that it serves; empty where an earlier version wrote this.
        commit: of the snapshot that it serves.
        endpoint: what the user calls the endpoint; `name`, but for a successor.
        generation: 1 for the first job of an endpoint, 2 for its successor, and so on.
        requeue: whether Slurm may put the job back into its queue.
        restarts: how often the engine may be started again.
        idle_s: seconds without a request after which the job ends itself; None for never.
        keep_until: seconds since the epoch until which the endpoint was asked to be kept by
            successors; None for a job without any.
        listen: ``node``, ``loopback`` or ``socket``.
        cluster: what Slurm calls the cluster whose job it is; empty when unknown.

    A record whose `job_id` is empty stands for a submission whose outcome nobody knows yet.
    """

    schema: int
    name: str
    model: str
    served_name: str
    executor: str
    job_id: str
    submitted: float
    folder: str
    time_limit_s: int
    start_timeout_s: int
    gpus: str
    partition: str | None
    vision: bool
    image_limit: int | None
    media_root: str
    engine: str
    loopback: bool
    process_started: int | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repo: str = ""
    commit: str = ""
    endpoint: str = ""
    generation: int = 1
    requeue: bool = False
    restarts: int = 0
    idle_s: int | None = None
    keep_until: float | None = None
    listen: str = "node"
    cluster: str = ""

    @property
    def shown_name(self) -> str:
        """What the user calls the endpoint."""
        return self.endpoint or self.name


_FIELDS = {field.name for field in dataclasses.fields(JobRecord)}


def write_record(record: JobRecord) -> None:
    """Put the record into its job folder, in one step."""
    write_atomically(Path(record.folder) / RECORD_NAME, record_text(record))


def record_text(record: JobRecord) -> str:
    """The record as its file holds it."""
    return json.dumps(dataclasses.asdict(record), indent=2) + "\n"


def read_record(folder: Path) -> JobRecord | None:
    """The record in a job folder, or None when there is none that can be read."""
    text = read_text(folder / RECORD_NAME)
    if text is None:
        return None
    try:
        data = json.loads(text)
        known = {key: value for key, value in data.items() if key in _FIELDS}
        for name in ("warnings", "notes"):
            known[name] = tuple(known.get(name, ()))
        return JobRecord(**known)
    except (ValueError, TypeError, AttributeError):
        return None
