"""Looks for wrong rights, strange contents and copies."""
