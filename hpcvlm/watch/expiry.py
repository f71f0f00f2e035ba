"""When somebody who waits is told that an endpoint's time is nearly over."""

from __future__ import annotations

# Seconds before the end.
WARN_BEFORE_S = (1800.0, 600.0)
# A warning about half of the whole time is none.
_OF_THE_WHOLE = 2


class Expiry:
    """Remembers which warnings were given."""

    def __init__(self, time_limit_s: float) -> None:
        self._left = [s for s in WARN_BEFORE_S if time_limit_s >= _OF_THE_WHOLE * s]
        self._ends: float | None = None

    def due(self, ends: float | None, now: float) -> float | None:
        """Seconds that are left, each time that a warning is due; else None.

        Args:
            ends: when the job's time is over, in seconds since the epoch; None when unknown.
            now: seconds since the epoch.
        """
        if ends is None or now >= ends:
            return None
        if self._ends is not None and ends - self._ends > min(WARN_BEFORE_S):
            # Somebody has moved the end: what was said of the old one is void.
            self._left = list(WARN_BEFORE_S)
        self._ends = ends
        passed = [s for s in self._left if ends - now <= s]
        self._left = [s for s in self._left if s not in passed]
        return ends - now if passed else None
