"""activity.json: whether the engine answers and whether anybody uses it, as the job saw it last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.system.files import read_text

ACTIVITY_NAME = "activity.json"


@dataclass(frozen=True, slots=True)
class Activity:
    """One activity.json, replaced by the job every few seconds while it is ready.

    All times are seconds since the epoch by the node's clock.

    Attributes:
        checked: when the job looked.
        answered: when the engine last answered a look.
        active: when a request was last seen running or finished; at first when it became ready.
        running: requests being answered.
        waiting: requests that wait.
        requests: answered since the engine started, the job's own proof left out.
        prompt_tokens: taken in since the job began, over all restarts of the engine.
        generation_tokens: given since the job began, over all restarts of the engine.
    """

    checked: float
    answered: float
    active: float
    running: int
    waiting: int
    requests: int
    prompt_tokens: int
    generation_tokens: int


def parse_activity(text: str) -> Activity | None:
    """The activity in the text of an activity.json, or None when the text is not one."""
    try:
        data = json.loads(text)
        return Activity(
            checked=float(data["checked"]),
            answered=float(data["answered"]),
            active=float(data["active"]),
            running=int(data["running"]),
            waiting=int(data["waiting"]),
            requests=int(data["requests"]),
            prompt_tokens=int(data["prompt_tokens"]),
            generation_tokens=int(data["generation_tokens"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def read_activity(folder: Path) -> Activity | None:
    """What the job in a folder saw last, or None when it has not looked yet."""
    text = read_text(folder / ACTIVITY_NAME)
    return None if text is None else parse_activity(text)
