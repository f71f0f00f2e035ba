"""SIGKILL of hpcvlm at every step of a submission: Slurm has no job that `ls` cannot find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT

SBATCH = """#!/bin/sh
[ "$DIE" != before ] || kill -9 $PPID
number=$((4711 + $(wc -l <"$ACCEPTED")))
echo "$number|$PWD" >>"$ACCEPTED"
[ "$DIE" != after ] || kill -9 $PPID
echo "$number"
"""
STAND_INS = {
    "sbatch": SBATCH,
    "squeue": '#!/bin/sh\ncat "$ACCEPTED"\n',
    "sacct": "#!/bin/sh\n",
    "srun": "#!/bin/sh\n",
}


def runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die: str, *more: str
) -> list[dict[str, Any]]:
    monkeypatch.setenv("DIE", die)
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.submit_and_die", str(tmp_path), *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def nothing_is_lost(run: dict[str, Any]) -> None:
    found = [number for number in run["found"] if number]
    assert found == run["accepted"], run
    # A folder of a job either tells of it or does not exist.
    assert run["folders"] == run["records"], run


def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = runs(tmp_path, monkeypatch, "")
    assert len(done) > 20
    for run in done:
        nothing_is_lost(run)
    last = done[-1]
    assert (last["alive"], last["accepted"], last["found"]) == (True, *[["4711", "4712"]] * 2)
    # Deaths of every kind were among them: nothing done, folders only, one job, both.
    ends = {(len(run["folders"]), len(run["accepted"])) for run in done}
    assert {(0, 0), (2, 0), (2, 1), (2, 2)} <= ends


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_sbatch_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Before or after it hands the job to Slurm; sbatch itself goes on, as it does in life."""
    (run,) = runs(tmp_path, monkeypatch, when, "once")
    assert not run["alive"]
    nothing_is_lost(run)
    assert run["accepted"] == ["4711"]
    assert run["records"] == ["mine", "mine~2"]
