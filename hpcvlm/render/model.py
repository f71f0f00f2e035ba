"""The files of one job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class JobFile:
    """One file of a job folder: its name, its text, its mode."""

    name: str
    text: str
    mode: int = 0o600


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RenderedJob:
    """What a launch would submit: the script, byte for byte, and what lies beside it."""

    script: str
    files: tuple[JobFile, ...]
