"""Judges what was seen on a cluster: observations in, checks out. No effects in here."""
