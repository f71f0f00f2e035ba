"""state.json: what the job says of itself, replaced by it at every change of phase."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcvlm.system.files import read_text

STATE_NAME = "state.json"


@dataclass(frozen=True, slots=True)
class StagingState:
    """How the weights came closer to the engine.

    Attributes:
        how: ``copied`` to the node, ``reused`` a copy that was there, ``prefetched`` into the page
            cache, or ``skipped``: served from the shared store as it is.
        bytes: copied, found or read.
        seconds: that took.
        mb_per_s: decimal megabytes a second; 0 where nothing was moved.
        folder: of the copy; empty where there is none.
        why: why there is no copy, or why the weights were not read ahead; empty when all went well.
    """

    how: str
    bytes: int
    seconds: float
    mb_per_s: float
    folder: str
    why: str


@dataclass(frozen=True, slots=True)
class JobState:
    """One state.json.

    Attributes:
        phase: one of the engine's phases, or ``draining`` or ``ended``.
        reason: why it ended; empty before that.
        since: seconds since the epoch at which the phase began.
        started: seconds since the epoch at which the script began.
        port: the port the engine was told to listen on, None before one was chosen.
        engine_exit: exit code of the engine, None while it runs.
        ends: seconds since the epoch at which Slurm will end the job, None where it does not say.
        phases: when each phase began.
        staging: how the weights came closer; None where nobody asked for it, or not yet.
        proof: what the engine has answered for the job: ``image``, ``text``, or empty before that.
        socket: path of the Unix socket on the node, where it listens on one.
        engine_restarts: how often the engine was started again in this run of the job.
    """

    phase: str
    reason: str
    since: float
    started: float
    job_id: str
    host: str
    port: int | None
    engine_exit: int | None
    ends: float | None
    restarts: int
    phases: dict[str, float] = field(default_factory=dict)
    staging: StagingState | None = None
    proof: str = ""
    socket: str | None = None
    engine_restarts: int = 0

    @property
    def was_passed_over(self) -> bool:
        """Whether it ended at once, only because of how the job before it had ended."""
        return self.phase == "ended" and self.reason in ("not-needed", "first-start-failed")


def parse_state(text: str) -> JobState | None:
    """The state in the text of a state.json, or None when the text is not one."""
    try:
        data = json.loads(text)
        return JobState(
            phase=str(data["phase"]),
            reason=str(data.get("reason", "")),
            since=float(data["since"]),
            started=float(data["started"]),
            job_id=str(data["job_id"]),
            host=str(data["host"]),
            port=_whole(data.get("port")),
            engine_exit=_whole(data.get("engine_exit")),
            ends=None if data.get("ends") is None else float(data["ends"]),
            restarts=int(data.get("restarts", 0)),
            phases={str(key): float(value) for key, value in data.get("phases", {}).items()},
            staging=_staging(data.get("staging")),
            proof=str(data.get("proof", "")),
            socket=None if data.get("socket") is None else str(data["socket"]),
            engine_restarts=int(data.get("engine_restarts", 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def read_state(folder: Path) -> JobState | None:
    """The state of the job in a folder, or None when it has said nothing (readable) yet."""
    text = read_text(folder / STATE_NAME)
    return None if text is None else parse_state(text)


def _staging(data: dict[str, Any] | None) -> StagingState | None:
    if data is None:
        return None
    return StagingState(
        how=str(data["how"]),
        bytes=int(data["bytes"]),
        seconds=float(data["seconds"]),
        mb_per_s=float(data["mb_per_s"]),
        folder=str(data["folder"]),
        why=str(data["why"]),
    )


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))
