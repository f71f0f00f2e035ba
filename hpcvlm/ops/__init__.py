"""Use cases: they compose the rooms. This is also the Python API."""
