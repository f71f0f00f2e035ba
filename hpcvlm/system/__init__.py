"""The only doors to the outside: processes, clock, files."""
