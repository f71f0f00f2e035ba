"""The jobs that hpcvlm has submitted, found in their folders; there is no database."""

from __future__ import annotations

import difflib
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import JobRecord, read_record


def all_records(jobs: Path) -> list[JobRecord]:
    """Every job with a readable record, oldest first."""
    try:
        folders = list(jobs.iterdir())
    except OSError:
        return []
    records = [record for folder in folders if (record := read_record(folder)) is not None]
    return sorted(records, key=lambda record: (record.submitted, record.name))


def find_record(jobs: Path, wanted: str) -> JobRecord:
    """The one job that a name, a unique prefix of a name, or a job id means.

    Raises:
        HpcvlmError: ``endpoint-unknown`` or ``endpoint-ambiguous``.
    """
    if _is_plain(wanted) and (record := read_record(jobs / wanted)) is not None:
        return record
    records = all_records(jobs)
    by_id = [record for record in records if record.job_id == wanted]
    if len(by_id) == 1:
        return by_id[0]
    matches = [record for record in records if wanted and record.name.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(record.name for record in matches[:8])
        raise HpcvlmError(
            "endpoint-ambiguous",
            f"{wanted!r} is the beginning of {len(matches)} names: {names}",
            "type more letters, or the job id",
        )
    near = difflib.get_close_matches(wanted, [record.name for record in records], n=3, cutoff=0.5)
    raise HpcvlmError(
        "endpoint-unknown",
        f"no endpoint is called {wanted!r}" + (f"; there is {', '.join(near)}" if near else ""),
        "hpcvlm ls shows all of them",
    )


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and name not in (".", "..")
