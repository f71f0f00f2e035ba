"""The whole command line as one Typer app, for tools that read it: completion, documentation."""

from __future__ import annotations

from hpcvlm.cli.main import make_app

app = make_app()
