"""hpcvlm: vision-language endpoints on Slurm clusters that have proved they can see."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
