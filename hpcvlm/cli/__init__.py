"""The command line: parse, call ops, render the result."""

from __future__ import annotations

import atexit
import gc

# Importing makes objects by the ten thousand, and next to none of them ever becomes garbage:
# looking for cycles among them at every 700th costs a tenth of what a short command takes.
gc.set_threshold(200_000)
# Python looks through all of them once more when it ends, only to find what the system takes back
# a moment later: a seventh of a short command. What is to be done at the end has been done by
# then, since exit functions run last registered first; files are still flushed.
atexit.register(gc.freeze)
