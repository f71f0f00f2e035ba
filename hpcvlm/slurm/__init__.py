"""Slurm: command lines out, parsed answers in; nothing is run here."""
