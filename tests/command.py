"""Runs the `hpcvlm` command as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """What --json printed."""
        return json.loads(self.stdout)


def open_way_to(folder: Path) -> None:
    """Let every user enter a folder below the one for temporary files."""
    for place in (folder, *folder.parents):
        if place == Path(tempfile.gettempdir()):
            return
        place.chmod(0o755)


class Command:
    """`hpcvlm` with its own state, configuration and environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.state = folder / "state"
        self.config = folder / "config"
        self.config.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {
            **kept,
            "HPCVLM_STATE": str(self.state),
            "HPCVLM_CONFIG": str(self.config),
            "HPCVLM_SITE": str(folder / "no-site.yaml"),
            "NO_COLOR": "1",
            **(environment or {}),
        }

    def site(self, text: str) -> None:
        """Write the user's site file."""
        (self.config / "site.yaml").write_text(text, encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpcvlm", *arguments],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, timeout_s: float = 300) -> Done:
        """Run it to its end."""
        with self.start(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Done(process.returncode, stdout, stderr)

    def job_state(self, name: str) -> dict[str, Any]:
        """state.json of a job."""
        text = (self.state / "jobs" / name / "state.json").read_text(encoding="utf-8")
        loaded: dict[str, Any] = json.loads(text)
        return loaded
