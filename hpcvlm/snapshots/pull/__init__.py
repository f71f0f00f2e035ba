"""Pulls snapshots from the hub."""
