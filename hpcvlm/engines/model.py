"""Values that every engine gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogMarker:
    """A piece of the engine's log that says that a phase has begun."""

    text: str
    phase: str


@dataclass(frozen=True, slots=True)
class ActivityMetrics:
    """What an engine calls the metrics that tell whether anybody uses it.

    Attributes:
        running: gauge: requests being answered.
        waiting: gauge: requests that wait.
        finished: counter: requests that were answered.
        prompt_tokens: counter: tokens taken in.
        generation_tokens: counter: tokens given.
    """

    running: str
    waiting: str
    finished: str
    prompt_tokens: str
    generation_tokens: str


NO_METRICS = ActivityMetrics("", "", "", "", "")
