"""Bytes as people read them."""

from __future__ import annotations

_STEP = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_text(count: float) -> str:
    """``0 B``, ``999 B``, ``1.5 kB``, ``4.1 GB``; decimal units, as disks and the hub count."""
    size, unit = float(count), 0
    while abs(size) >= _STEP - 0.5 and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    if unit == 0:
        return f"{int(size)} B"
    return f"{size:.1f} {_UNITS[unit]}" if abs(size) < 100 else f"{size:.0f} {_UNITS[unit]}"  # noqa: PLR2004
