"""A snapshot as one file, and back."""
