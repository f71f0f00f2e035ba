"""The jobs that hpcvlm has submitted, found in their folders; there is no database.

An endpoint is one job, or the generations of jobs that hand it over to one another: folders
``NAME``, ``NAME~2`` and so on. Its name means the newest of them that is ready.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import RECORD_NAME, JobRecord, read_record
from hpcvlm.system.patience import each_in_time
from hpcvlm.watch.latch import VERDICT_NAME
from hpcvlm.watch.reading import READ_LIMIT_S
from hpcvlm.watch.state import read_state

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A job folder whose record cannot be read.

    Attributes:
        name: of the folder.
        why: what is wrong with it, with the path.
    """

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Jobs:
    """All job folders.

    Attributes:
        records: of every job whose record can be read, oldest first.
        unreadable: the folders of the others.
        problem: why the folders could not even be listed; empty when they could.
    """

    records: tuple[JobRecord, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Listed:
    folders: list[Path] = field(default_factory=list)
    problem: str = ""


def read_jobs(jobs: Path, limit_s: float = READ_LIMIT_S) -> Jobs:
    """Every job folder, with a limit to the wait for a file system that does not answer.

    Args:
        jobs: the folder of job folders.
        limit_s: seconds that one read may take.
    """
    listed = each_in_time(_list, [jobs], limit_s).get(0)
    if listed is None:
        return Jobs(problem=f"{jobs} has not answered for {limit_s:g} s")
    found = each_in_time(_read, listed.folders, limit_s)
    records, unreadable = [], []
    for number, folder in enumerate(listed.folders):
        read = found.get(number, f"{folder} has not answered for {limit_s:g} s")
        if isinstance(read, JobRecord):
            records.append(read)
        elif read:
            unreadable.append(Unreadable(folder.name, read))
    records.sort(key=lambda record: (record.submitted, record.generation, record.name))
    unreadable.sort(key=lambda job: job.name)
    return Jobs(tuple(records), tuple(unreadable), listed.problem)


def all_records(jobs: Path) -> list[JobRecord]:
    """Every job with a readable record, oldest first."""
    return list(read_jobs(jobs).records)


def generations(records: Iterable[JobRecord]) -> dict[str, list[JobRecord]]:
    """The jobs of each endpoint, by its name, oldest first; endpoints in the order given."""
    found: dict[str, list[JobRecord]] = {}
    for record in records:
        found.setdefault(record.shown_name, []).append(record)
    return {name: sorted(jobs, key=_generation) for name, jobs in found.items()}


def the_one_meant(
    jobs: Sequence[Job],
    is_ready: Callable[[Job], bool],
    is_over: Callable[[Job], bool],
    has_tried: Callable[[Job], bool],
) -> Job:
    """The job that an endpoint's name means: the newest that is ready, else the oldest not over.

    Args:
        jobs: all generations, at least one, oldest first.
        is_ready: whether one is ready.
        is_over: whether one will never be ready again.
        has_tried: whether one has tried to serve.

    Returns:
        Where all are over the newest that has tried to serve, else the newest: successors that
        were taken from the queue, or that ended at once, tell nothing of how the endpoint ended.
    """
    ready = [job for job in jobs if is_ready(job)]
    if ready:
        return ready[-1]
    left = [job for job in jobs if not is_over(job)]
    if left:
        return left[0]
    return ([job for job in jobs if has_tried(job)] or jobs)[-1]


def find_endpoint(jobs: Path, wanted: str) -> list[JobRecord]:
    """The generations that a name, a unique prefix of a name, or a job id means; oldest first.

    The name of an endpoint means all of its generations; ``NAME~2`` and a job id mean one.

    Raises:
        HpcvlmError: ``endpoint-unknown``, ``endpoint-ambiguous`` or ``record-unreadable``.
    """
    if _is_plain(wanted) and (record := read_record(jobs / wanted)) is not None:
        return _alone_or_all(jobs, record, wanted)
    found = read_jobs(jobs)
    by_id = [record for record in found.records if wanted and record.job_id == wanted]
    if len(by_id) == 1:
        return by_id
    by_name = generations(found.records)
    if wanted in by_name:
        return by_name[wanted]
    matches = [name for name in by_name if wanted and name.startswith(wanted)]
    if len(matches) == 1:
        return by_name[matches[0]]
    if matches:
        names = ", ".join(matches[:8])
        raise HpcvlmError(
            "endpoint-ambiguous",
            f"{wanted!r} is the beginning of {len(matches)} names: {names}",
            "type more letters, or the job id",
        )
    raise _not_found(wanted, found, list(by_name))


def find_record(jobs: Path, wanted: str) -> JobRecord:
    """The one job that a name, a unique prefix of a name, or a job id means.

    Of several generations it is the one that the name means by the jobs' own words; the scheduler
    is not asked.

    Raises:
        HpcvlmError: as `find_endpoint`.
    """
    return the_one_meant(find_endpoint(jobs, wanted), _says_ready, _says_over, _has_tried)


def _alone_or_all(jobs: Path, record: JobRecord, wanted: str) -> list[JobRecord]:
    """A first generation's folder has the endpoint's name; a later one's has its own."""
    if record.shown_name != wanted:
        return [record]
    try:
        names = [folder.name for folder in jobs.glob(f"{_escaped(wanted)}~*")]
    except OSError:
        names = []
    later = [r for name in names if (r := read_record(jobs / name)) is not None]
    return sorted([record, *(r for r in later if r.shown_name == wanted)], key=_generation)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _says_ready(record: JobRecord) -> bool:
    state = read_state(Path(record.folder))
    return state is not None and state.phase == "ready"


def _says_over(record: JobRecord) -> bool:
    if (Path(record.folder) / VERDICT_NAME).exists():
        return True
    state = read_state(Path(record.folder))
    return state is not None and state.phase == "ended"


def _has_tried(record: JobRecord) -> bool:
    state = read_state(Path(record.folder))
    return state is not None and not state.was_passed_over


def _generation(record: JobRecord) -> tuple[int, float]:
    return record.generation, record.submitted


def _list(jobs: Path) -> _Listed:
    try:
        return _Listed(sorted(jobs.iterdir()))
    except FileNotFoundError:
        return _Listed()
    except OSError as error:
        return _Listed(problem=f"cannot read {jobs}: {error.strerror}")


def _read(folder: Path) -> JobRecord | str:
    """The record, or why there is none; empty for what is no job folder."""
    record = read_record(folder)
    if record is not None:
        return record
    path = folder / RECORD_NAME
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return f"{path} is missing" if _looks_like_a_job(folder) else ""
    except NotADirectoryError:
        return ""
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    return f"{path} is empty" if not text.strip() else f"{path} is broken or cut short"


def _looks_like_a_job(folder: Path) -> bool:
    try:
        return any(folder.glob("job.*")) or (folder / "state.json").exists()
    except OSError:
        return True


def _not_found(wanted: str, found: Jobs, names: list[str]) -> HpcvlmError:
    if found.problem:
        return HpcvlmError("record-unreadable", found.problem, "try again once it answers")
    for job in found.unreadable:
        if job.name == wanted:
            return HpcvlmError(
                "record-unreadable",
                f"what is known of {wanted} cannot be read: {job.why}",
                f"squeue --me --name={wanted} shows whether its job runs",
            )
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    return HpcvlmError(
        "endpoint-unknown",
        f"no endpoint is called {wanted!r}" + (f"; there is {', '.join(near)}" if near else ""),
        "hpcvlm ls shows all of them",
    )


def _is_plain(name: str) -> bool:
    return bool(name) and not {"/", "\0"} & set(name) and name not in (".", "..")
