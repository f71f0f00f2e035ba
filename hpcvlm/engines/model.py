"""Values that every engine gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogMarker:
    """A piece of the engine's log that says that a phase has begun."""

    text: str
    phase: str
