"""What Slurm's accounts say of how a job ended, its steps included."""

from __future__ import annotations

import re
from dataclasses import replace

from hpcvlm.diagnosis.model import SlurmFacts
from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.parse import parse_exit
from hpcvlm.slurm.time import parse_time_limit

Argv = tuple[str, ...]

_FIELDS = (
    *("JobID", "State", "ExitCode", "MaxRSS", "ReqMem", "Elapsed", "Timelimit", "NodeList"),
    *("AllocCPUS", "NNodes"),
)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}
# ReqMem ends in n (per node) or c (per CPU) up to Slurm 21.08.
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)B?([nc]?)")


def sacct(job_id: str) -> Argv:
    """One job and its steps in the accounts; --duplicates also shows runs before a requeue."""
    return (
        *("sacct", "--noheader", "--parsable2", f"--format={','.join(_FIELDS)}"),
        f"--jobs={job_id}",
    )


def parse_sacct(code: int, stdout: str) -> SlurmFacts:
    """The answer to `sacct`; nothing where the accounts do not know the job, or are not kept."""
    rows = [line.split("|") for line in stdout.splitlines()] if code == 0 else []
    steps = [dict(zip(_FIELDS, row, strict=True)) for row in rows if len(row) == len(_FIELDS)]
    if not steps:
        return SlurmFacts()
    job = steps[0]
    exit_code, signal = parse_exit(job["ExitCode"])
    held = [size for step in steps if (size := _size(step["MaxRSS"])) is not None]
    facts = SlurmFacts(
        state=job["State"].strip(),
        exit_code=exit_code,
        signal=signal,
        max_rss=max(held, default=None),
        requested_memory=_requested(job),
        elapsed_s=_seconds(job["Elapsed"]),
        time_limit_s=_seconds(job["Timelimit"]),
        nodes=job["NodeList"].strip(),
    )
    return replace(facts, line=_line(facts, job))


def _line(facts: SlurmFacts, job: dict[str, str]) -> str:
    """The accounts' line with the name of each value, those that say nothing left out."""
    said = {**job, "MaxRSS": "" if facts.max_rss is None else f"{facts.max_rss // 1024}K"}
    shown = _FIELDS[:8]
    return " ".join(f"{name}={said[name].strip()}" for name in shown if said[name].strip())


def sinfo_limits() -> Argv:
    """Every partition with its time limit."""
    return ("sinfo", "--noheader", "--format=%R|%l")


def parse_limits(code: int, stdout: str) -> tuple[tuple[str, int | None], ...]:
    """The answer to `sinfo_limits`: seconds by partition, None for one without a limit."""
    found: dict[str, int | None] = {}
    for line in stdout.splitlines() if code == 0 else []:
        name, bar, limit = line.strip().partition("|")
        if bar and name:
            found[name] = _seconds(limit)
    return tuple(found.items())


def _requested(job: dict[str, str]) -> int | None:
    """Bytes that the job was given on each node."""
    match = _SIZE.fullmatch(job["ReqMem"].strip())
    size = _size(job["ReqMem"])
    if match is None or not size:
        return None
    nodes = max(1, _count(job["NNodes"]))
    if match[3] == "c":
        return size * max(1, _count(job["AllocCPUS"]) // nodes)
    return size if match[3] == "n" else size // nodes


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _seconds(text: str) -> int | None:
    try:
        return parse_time_limit(text)
    except HpcvlmError:
        return None


def _count(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
