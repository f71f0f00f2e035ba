"""The files of one job."""

from __future__ import annotations

from typing import NamedTuple


class JobFile(NamedTuple):
    """One file of a job folder: its name, its text, its mode."""

    name: str
    text: str
    mode: int = 0o600


class RenderedJob(NamedTuple):
    """What a launch would submit: the script, byte for byte, and what lies beside it."""

    script: str
    files: tuple[JobFile, ...]
