"""What each job has used by its own account, and the book that keeps it after a cleanup."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import PRIVATE_FILE, make_private_folder, read_text
from hpcvlm.watch.activity import read_activity
from hpcvlm.watch.state import JobState, read_state

BOOK_NAME = "usage.jsonl"


@dataclass(frozen=True, slots=True)
class JobUse:
    """What one job has used, as far as it could say so itself.

    Attributes:
        endpoint: what the user calls the endpoint.
        job_id: Slurm's number or a process id, which only together with `submitted` is unique.
        submitted: seconds since the epoch.
        started: seconds since the epoch; of its last run, where Slurm put it back into the queue.
            None when it never began.
        ended: its last sign of life in seconds since the epoch; of one that runs, until now.
        gpus: that it asked for, on all its nodes.
        requests: answered since its engine last started.
        prompt_tokens: taken in.
        generation_tokens: given.
    """

    endpoint: str
    model: str
    repo: str
    executor: str
    job_id: str
    submitted: float
    started: float | None
    ended: float | None
    gpus: int
    requests: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0

    @property
    def key(self) -> tuple[str, str, float]:
        """What tells it from every other job."""
        return self.executor, self.job_id, self.submitted

    def seconds_since(self, since: float) -> float:
        """Seconds for which it ran after a moment."""
        if self.started is None or self.ended is None:
            return 0.0
        return max(0.0, self.ended - max(self.started, since))


_FIELDS = {field.name for field in dataclasses.fields(JobUse)}


def use_of(record: JobRecord, folder: Path | None = None) -> JobUse:
    """What a job has used, from the files in its folder.

    Args:
        record: the job.
        folder: where its files are now, if not in the record's folder.
    """
    place = folder or Path(record.folder)
    state, activity = read_state(place), read_activity(place)
    return JobUse(
        endpoint=record.shown_name,
        model=record.model,
        repo=record.repo,
        executor=record.executor,
        job_id=record.job_id,
        submitted=record.submitted,
        started=state.started if state is not None else None,
        ended=_last_sign(state, activity.checked if activity is not None else 0.0),
        gpus=gpu_count(record.gpus),
        requests=activity.requests if activity is not None else 0,
        prompt_tokens=activity.prompt_tokens if activity is not None else 0,
        generation_tokens=activity.generation_tokens if activity is not None else 0,
    )


def gpu_count(text: str) -> int:
    """The number in ``A100:4`` or ``4``; 0 where there is none."""
    number = text.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def note_use(state: Path, use: JobUse) -> None:
    """Write a job down before its folder goes; whoever reads it counts it once, however often.

    Raises:
        OSError: the book cannot be written; the folder must stay then.
    """
    make_private_folder(state, exist_ok=True)
    line = (json.dumps(dataclasses.asdict(use), ensure_ascii=False) + "\n").encode()
    descriptor = os.open(state / BOOK_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # a disk that was full has cut the last line short
        # One short write of O_APPEND is whole, also beside another cleanup.
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(state / BOOK_NAME))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_book(state: Path) -> Iterator[JobUse]:
    """Every job that was written down; a line that is none, such as half a one, is left out."""
    for line in (read_text(state / BOOK_NAME) or "").splitlines():
        try:
            data = json.loads(line)
            yield JobUse(**{key: value for key, value in data.items() if key in _FIELDS})
        except (ValueError, TypeError, AttributeError):
            continue


def _last_sign(state: JobState | None, looked: float) -> float | None:
    """When the job last said anything: its end, or the last look at its engine."""
    if state is None:
        return None
    return state.since if state.phase == "ended" else max(state.since, looked)
