"""The command line: parse, call ops, render the result."""

from __future__ import annotations

import gc

# Importing makes objects by the ten thousand, and next to none of them ever becomes garbage:
# looking for cycles among them at every 700th costs a tenth of what a short command takes.
gc.set_threshold(200_000)
