"""Job folders as a launch and its job leave them, without either."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hpcvlm.submit.record import JobRecord, write_record

# Of today, since files have the times of today.
NOW = float(int(time.time()))
HOUR = 3600.0
DAY = 24 * HOUR


class StillClock:
    """A clock that stands still; nobody may wait."""

    def now(self) -> float:
        return NOW

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing waits here, not even {seconds} s")


def record(jobs: Path, name: str, **over: Any) -> JobRecord:
    """A job folder with its record: a job of Slurm that was submitted ten hours ago."""
    values: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "model": "qwen",
        "served_name": "qwen",
        "executor": "slurm",
        "job_id": "41",
        "submitted": NOW - 10 * HOUR,
        "folder": str(jobs / name),
        "time_limit_s": 36000,
        "start_timeout_s": 600,
        "gpus": "A100:2",
        "partition": None,
        "vision": True,
        "image_limit": 2,
        "media_root": "/m",
        "engine": "vllm 0.32.0",
        "loopback": False,
        "repo": "org/qwen",
    }
    made = JobRecord(**{**values, **over})
    Path(made.folder).mkdir(parents=True, exist_ok=True)
    write_record(made)
    return made


def said(made: JobRecord, phase: str, started: float, since: float, **over: Any) -> None:
    """What a job has said last."""
    state = {
        "phase": phase,
        "reason": "stopped" if phase == "ended" else "",
        "since": since,
        "started": started,
        "job_id": made.job_id,
        "host": "n1",
        "port": 1,
        "engine_exit": None,
        "ends": None,
        "restarts": 0,
        "phases": {phase: since},
        "proof": "image",
    }
    (Path(made.folder) / "state.json").write_text(json.dumps({**state, **over}))


def active(made: JobRecord, checked: float, *, tokens: tuple[int, int, int]) -> None:
    """What a job has seen of its engine: requests, tokens in, tokens out."""
    requests, prompt, generation = tokens
    looked = {
        "checked": checked,
        "answered": checked,
        "active": checked,
        "running": 0,
        "waiting": 0,
        "requests": requests,
        "prompt_tokens": prompt,
        "generation_tokens": generation,
    }
    (Path(made.folder) / "activity.json").write_text(json.dumps(looked))
