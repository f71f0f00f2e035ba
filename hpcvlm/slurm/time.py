"""Durations: Slurm's way to write them, and the ways users do."""

from __future__ import annotations

import re

from hpcvlm.errors import HpcvlmError

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_LONGEST = 366 * _DAY

_NO_LIMIT = {"", "infinite", "unlimited", "not_set", "invalid", "partition_limit", "n/a", "unknown"}
_CLOCK = re.compile(r"(?:(\d{1,5})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
_UNITS = re.compile(
    r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?", re.IGNORECASE | re.ASCII
)

EXPECTED = "such as 2h, 90m, 1h30m, 2:00:00, 1-12:00:00, or a number of minutes"


def parse_time_limit(text: str) -> int | None:
    """Seconds in a time limit that Slurm printed.

    Returns:
        None for UNLIMITED and infinite, and where Slurm has no limit to show (NOT_SET, INVALID,
        Partition_Limit).

    Raises:
        HpcvlmError: ``slurm-output`` for anything that is no Slurm time.
    """
    text = text.strip()
    if text.lower() in _NO_LIMIT:
        return None
    seconds = _clock_seconds(text)
    if seconds is None:
        raise HpcvlmError("slurm-output", f"Slurm gave a time limit that is none: {text!r}")
    return seconds


def parse_duration(text: str, what: str = "duration") -> int:
    """Seconds in a duration that a user typed.

    Args:
        text: ``2h``, ``90m``, ``1h30m``, ``45s``, ``1d``; or as sbatch takes it: minutes,
            ``M:SS``, ``H:MM:SS``, ``D-H``, ``D-H:MM``, ``D-H:MM:SS``.
        what: the flag or key it belongs to, for the message.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    clean = text.strip()
    units = _UNITS.fullmatch(clean) if clean else None
    if units is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in units.groups())
        total: int | None = days * _DAY + hours * _HOUR + minutes * _MINUTE + seconds
    else:
        total = _clock_seconds(clean)
    if total is None:
        raise HpcvlmError("time-invalid", f"{what} {text!r} is not a duration", EXPECTED)
    if total == 0:
        raise HpcvlmError("time-invalid", f"{what} {text!r} is no time at all", EXPECTED)
    if total > _LONGEST:
        raise HpcvlmError("time-invalid", f"{what} {text!r} is longer than a year", EXPECTED)
    return total


def format_time_limit(seconds: int) -> str:
    """Seconds as Slurm writes them: ``02:00:00``, ``1-12:00:00``."""
    days, rest = divmod(seconds, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    clock = f"{hours:02}:{minutes:02}:{rest:02}"
    return f"{days}-{clock}" if days else clock


def _clock_seconds(text: str) -> int | None:
    """``M``, ``M:SS``, ``H:MM:SS``, ``D-H``, ``D-H:MM`` or ``D-H:MM:SS`` as seconds."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    days, *rest = match.groups()
    first, second, third = (None if part is None else int(part) for part in rest)
    assert first is not None  # noqa: S101 - the expression demands it
    if (second or 0) >= _MINUTE or (third or 0) >= _MINUTE:
        return None
    if days is not None:
        return int(days) * _DAY + first * _HOUR + (second or 0) * _MINUTE + (third or 0)
    if third is not None:
        return first * _HOUR + (second or 0) * _MINUTE + third
    return first * _MINUTE + (second or 0)
