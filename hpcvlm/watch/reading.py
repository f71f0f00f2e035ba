"""What a job's folder says, and how old that is by clocks that can be trusted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.submit.record import JobRecord
from hpcvlm.system.patience import each_in_time
from hpcvlm.watch.activity import ACTIVITY_NAME, Activity, parse_activity
from hpcvlm.watch.latch import VERDICT_NAME, parse_verdict
from hpcvlm.watch.model import Ended, Failed
from hpcvlm.watch.state import STATE_NAME, JobState, parse_state

READ_LIMIT_S = 5.0
# Clocks that differ by less are taken to agree.
CLOCKS_AGREE_S = 30.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class FolderView:
    """What was read of one job folder at one moment.

    Attributes:
        state: None where there is none, or it cannot be read.
        activity: likewise.
        verdict: the final verdict that was kept; None while there is none.
        state_at: when state.json was replaced, by the clock of its file system; None without one.
        activity_at: the same of activity.json.
        problem: why the folder could not be read; empty when it could.
        state_broken: whether there is a state.json that cannot be understood.
    """

    state: JobState | None = None
    activity: Activity | None = None
    verdict: Failed | Ended | None = None
    state_at: float | None = None
    activity_at: float | None = None
    problem: str = ""
    state_broken: bool = False

    @property
    def node_ahead_s(self) -> float | None:
        """Seconds by which the node's clock is ahead of the file system's; None when unknown.

        A file is replaced in the moment that it tells.
        """
        if self.activity is not None and self.activity_at is not None:
            return self.activity.checked - self.activity_at
        if self.state is not None and self.state_at is not None:
            return self.state.since - self.state_at
        return None


def read_folder(record: JobRecord) -> FolderView:
    """What the folder of a job says; never raises, but may block with its file system."""
    folder = record.folder
    verdict_text, _ = _read(f"{folder}/{VERDICT_NAME}")
    verdict = None if verdict_text is None else parse_verdict(verdict_text, record.job_id)
    state_text, state_at = _read(f"{folder}/{STATE_NAME}")
    state = None if state_text is None else parse_state(state_text)
    activity_text, activity_at = _read(f"{folder}/{ACTIVITY_NAME}")
    activity = None if activity_text is None else parse_activity(activity_text)
    return FolderView(
        state,
        activity,
        verdict,
        state_at,
        activity_at,
        _problem(Path(folder), state_text, state),
        state_broken=state_text is not None and state is None,
    )


def read_folders(
    records: Sequence[JobRecord], limit_s: float = READ_LIMIT_S
) -> dict[str, FolderView]:
    """What each folder says, by the job's name, with a limit to the wait for each of them."""
    found = each_in_time(read_folder, records, limit_s)
    return {
        record.name: found.get(number)
        or FolderView(problem=f"{record.folder} has not answered for {limit_s:g} s")
        for number, record in enumerate(records)
    }


def file_system_ahead(folder: Path, now: float) -> float | None:
    """Seconds by which the clock of a folder's file system is ahead of this machine's.

    None where no file can be made in it.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".clock.")
        try:
            return os.fstat(descriptor).st_mtime - now
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)
    except OSError:
        return None


def age(at: float | None, now: float, ahead_s: float | None) -> float | None:
    """Seconds since a file was replaced, None when that is not known.

    Args:
        at: when it was, by the file system's clock.
        now: this machine's clock.
        ahead_s: how far the file system's clock is ahead; None when unknown. A file from the
            future then shows that the clocks differ; else they are taken to agree only as far as
            the age shows that the file is new.
    """
    if at is None:
        return None
    seconds = now + (ahead_s or 0.0) - at
    if ahead_s is None and seconds < -CLOCKS_AGREE_S:
        return None
    return max(0.0, seconds)


def _read(path: str) -> tuple[str | None, float | None]:
    """The text of a file, and when that very file was made."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None, None
    try:
        made = os.fstat(descriptor).st_mtime
        parts = list(iter(lambda: os.read(descriptor, _CHUNK), b""))
    except OSError:
        return None, None
    finally:
        os.close(descriptor)
    return b"".join(parts).decode("utf-8", errors="replace"), made


def _problem(folder: Path, text: str | None, state: JobState | None) -> str:
    if state is not None:
        return ""
    if text is not None:
        return f"{folder / STATE_NAME} is broken or cut short"
    try:
        folder.stat()
    except FileNotFoundError:
        return f"the job folder {folder} is gone"
    except OSError as error:
        return f"cannot read {folder}: {error.strerror}"
    return ""
