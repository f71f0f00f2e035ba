"""Finds the job of a submission whose outcome nobody saw, by the job folder that it runs in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands, parse
from hpcvlm.slurm.parse import NoCommandError
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.system.files import read_text
from hpcvlm.system.process import Runner
from hpcvlm.system.processes import start_ticks

ASK_TIMEOUT_S = 20.0
# The clocks of the login node and of the accounts' database may differ.
_CLOCK_SLACK = timedelta(minutes=10)
_STATE_NAME = "state.json"
_LOCAL_CONTROLLER = b"submitit.local._local"


class Found(NamedTuple):
    """What came out of looking for a job.

    Attributes:
        job_id: of the job; empty when none was found.
        answered: whether the scheduler could be asked; an empty `job_id` means only then that
            there is no such job.
        why: why it could not be asked.
        never: whether it never can be: there is no such command here.
        process_started: start of the local controller in clock ticks since boot; 0 when it is
            gone, which no living process has; None for a job of Slurm.
    """

    job_id: str = ""
    answered: bool = True
    why: str = ""
    never: bool = False
    process_started: int | None = None


def adopted(record: JobRecord, found: Found) -> JobRecord:
    """The record of a job that was found; a folder that cannot be written keeps the old one."""
    known = replace(record, job_id=found.job_id, process_started=found.process_started)
    with suppress(OSError):
        write_record(known)
    return known


def look_up(record: JobRecord, runner: Runner) -> Found:
    """Look for the job that a record without a number stands for; one or two Slurm calls.

    The job folder is the job's working directory and belongs to one submission only. A job that
    has begun has also said its number in state.json.
    """
    said = _said_by_itself(record)
    if record.executor == "local":
        return _local(record, said)
    if said:
        return Found(said)
    places = _places(record.folder)
    try:
        queued = _folders(commands.squeue_folders(), runner)
    except HpcvlmError as error:
        return Found(answered=False, why=error.sentence, never=isinstance(error, NoCommandError))
    if number := _in(places, queued):
        return Found(number)
    since = datetime.fromtimestamp(record.submitted, tz=UTC).astimezone() - _CLOCK_SLACK
    try:
        past = _folders(commands.sacct_folders(since), runner)
    except HpcvlmError:
        # Without accounting sacct fails; that is a supported site.
        past = {}
    return Found(_in(places, past))


def _said_by_itself(record: JobRecord) -> str:
    try:
        state = json.loads(read_text(Path(record.folder) / _STATE_NAME) or "null")
        return str(state["job_id"])
    except (ValueError, TypeError, KeyError):
        return ""


def _folders(argv: commands.Argv, runner: Runner) -> dict[str, str]:
    environment = commands.query_environment(os.environ)
    try:
        done = runner(argv, env=environment, timeout_s=ASK_TIMEOUT_S)
    except OSError as error:  # no further process can be started
        raise HpcvlmError("slurm-unavailable", f"{argv[0]}: {error.strerror}") from None
    return parse.parse_folders(argv[0], done.code, done.stdout, done.stderr)


def _places(folder: str) -> frozenset[str]:
    """Slurm knows the folder as sbatch saw it: with links followed."""
    return frozenset((folder.rstrip("/"), os.path.realpath(folder)))


def _in(places: frozenset[str], folders: Mapping[str, str]) -> str:
    numbers = [number for number, folder in folders.items() if folder.rstrip("/") in places]
    return max(numbers, key=_newest_last, default="")


def _newest_last(number: str) -> tuple[int, str]:
    return (int(number) if number.isdigit() else 0, number)


def _local(record: JobRecord, said: str) -> Found:
    """The controller that was started for this folder, or what is known of one that is gone."""
    place = record.folder.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _controls(entry, place):
            return Found(entry.name, process_started=start_ticks(int(entry.name)))
    return Found(said, process_started=0) if said.isdigit() else Found()


def _controls(process: Path, folder: bytes) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return _LOCAL_CONTROLLER in words and folder in words
