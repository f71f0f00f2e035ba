"""Compares snapshots with what the hub gave."""
