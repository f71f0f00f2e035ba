"""verdict.json: the final verdict, kept by whoever sees first that a job is over."""

from __future__ import annotations

import json
from pathlib import Path

from hpcvlm.system.files import read_text, write_atomically
from hpcvlm.watch.model import Ended, Failed, Verdict

VERDICT_NAME = "verdict.json"


def parse_verdict(text: str, job_id: str) -> Failed | Ended | None:
    """The final verdict on that job in the text of a verdict.json, or None."""
    try:
        data = json.loads(text)
        if str(data["job_id"]) != job_id:
            return None
        at = None if data.get("at") is None else float(data["at"])
        if data["verdict"] == "ended":
            return Ended(str(data["how"]), str(data["reason"]), at)
        if data["verdict"] == "failed" and data["evidence"]:
            code = data.get("engine_exit")
            exit_code = None if code is None else int(code)
            return Failed(str(data["reason"]), str(data["evidence"]), exit_code, at)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return None


def verdict_text(verdict: Failed | Ended, job_id: str, now: float) -> str:
    """The text of a verdict.json."""
    data: dict[str, object] = {"schema": 1, "job_id": job_id, "decided": now, "at": verdict.at}
    if isinstance(verdict, Failed):
        data |= {
            "verdict": "failed",
            "reason": verdict.reason,
            "evidence": verdict.evidence,
            "engine_exit": verdict.engine_exit,
        }
    else:
        data |= {"verdict": "ended", "reason": verdict.reason, "how": verdict.how}
    return json.dumps(data) + "\n"


def read_verdict(folder: Path, job_id: str) -> Failed | Ended | None:
    """The final verdict kept in a job folder, or None while there is none."""
    text = read_text(folder / VERDICT_NAME)
    return None if text is None else parse_verdict(text, job_id)


def keep_verdict(folder: Path, job_id: str, verdict: Verdict, now: float) -> bool:
    """Keep a final verdict; whether there is one now.

    A folder that cannot be written only means that the question is asked again next time. A job
    that the scheduler merely does not know is not written down as over: where a home folder is
    shared by several clusters, the scheduler of another one may have been asked.
    """
    if not isinstance(verdict, (Failed, Ended)) or not job_id or verdict.reason == "vanished":
        return False
    if (folder / VERDICT_NAME).exists():
        return True
    try:
        write_atomically(folder / VERDICT_NAME, verdict_text(verdict, job_id, now))
    except OSError:
        return False
    return True
