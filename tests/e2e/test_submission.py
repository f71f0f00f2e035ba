"""Submitting on a real Slurm with an sbatch that misbehaves: no job is lost, none is left over."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command
from tests.job_fixtures import FAKE_SITE
from tests.realparts import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
GPU = ("--gpus", "A100:1", "--no-wait")
ACCEPTS_AND_FAILS = '"$REAL/sbatch" "$@" >/dev/null; echo "{words}" >&2; exit 1'
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """The command on the test cluster, with the stand-in engine; leaves no job behind."""
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(FAKE_SITE)
    path = {**os.environ, **slurm_cluster.environment}["PATH"]
    real = shutil.which("sbatch", path=path)
    assert real is not None
    (tmp_path / "bin").mkdir()
    command.environment |= {"REAL": str(Path(real).parent), "PATH": f"{tmp_path / 'bin'}:{path}"}
    yield command
    for stand_in in (tmp_path / "bin").iterdir():
        stand_in.unlink()
    command("stop", "--all")
    subprocess.run(["scancel", "--me"], env=command.environment, check=False)


def instead_of(tmp_path: Path, name: str, text: str) -> None:
    """A program of that name that the command finds first."""
    (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
    (tmp_path / "bin" / name).chmod(0o755)


def queue(hpcvlm: Command, fields: str = "%j") -> list[str]:
    done = subprocess.run(
        [f"{hpcvlm.environment['REAL']}/squeue", "--noheader", "--me", f"--format={fields}"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(done.stdout.split())


def test_an_answer_that_is_lost_loses_no_job(hpcvlm: Command, tmp_path: Path) -> None:
    instead_of(tmp_path, "sbatch", ACCEPTS_AND_FAILS.format(words=LOST))
    done = hpcvlm("launch", "tiny-vlm", "--name", "found", *GPU, "--json")
    assert done.code == 0, done.stderr
    assert "but Slurm has the job" in done.stderr
    assert queue(hpcvlm, "%i") == [done.json()["job_id"]]
    assert hpcvlm("wait", "found").code == 0


def test_doubt_is_settled_once_slurm_answers(hpcvlm: Command, tmp_path: Path) -> None:
    instead_of(tmp_path, "sbatch", ACCEPTS_AND_FAILS.format(words=LOST))
    # There is no such command: nobody needs to wait for it to come back.
    instead_of(tmp_path, "squeue", "exit 127")
    instead_of(tmp_path, "sacct", "exit 127")
    done = hpcvlm("launch", "tiny-vlm", "--name", "doubt", *GPU)
    assert "whether the job of doubt was accepted is not known" in done.stderr
    assert [row["name"] for row in hpcvlm("ls", "--json").json()] == ["doubt"]
    for name in ("sbatch", "squeue", "sacct"):
        (tmp_path / "bin" / name).unlink()
    row = hpcvlm("status", "doubt", "--json").json()
    assert [row["job_id"]] == queue(hpcvlm, "%i")
    assert hpcvlm("stop", "doubt").code == 0
    assert queue(hpcvlm) == []


def test_a_chain_and_what_slurm_makes_of_it(hpcvlm: Command) -> None:
    kept = ("--keep", "8m", "--time", "4m", "--name", "chain")
    shown = hpcvlm("launch", "tiny-vlm", *GPU, *kept, "--dry-run")
    assert shown.code == 0, shown.stderr
    assert "then chain~2: --dependency=after:JOB+2, JOB being that of chain" in shown.stderr
    done = hpcvlm("launch", "tiny-vlm", *GPU, *kept, "--json")
    assert done.code == 0, done.stderr
    first = int(done.json()["job_id"])
    assert (hpcvlm.state / "jobs" / "chain" / "job.sbatch").read_text() == shown.stdout
    told = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", str(first + 1)],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"Dependency=after:{first}+2" in told
    assert queue(hpcvlm) == ["chain", "chain~2", "chain~3"]
    keys = {path.read_text() for path in hpcvlm.state.glob("jobs/chain*/key")}
    assert len(keys) == 1


def test_a_chain_that_the_site_does_not_take_whole_leaves_nothing(
    hpcvlm: Command, tmp_path: Path
) -> None:
    words = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    instead_of(
        tmp_path,
        "sbatch",
        f'case "$*" in *--dependency*) echo "{words}" >&2; exit 1;; esac\nexec "$REAL/sbatch" "$@"',
    )
    done = hpcvlm(
        *("launch", "tiny-vlm", *GPU, "--keep", "8m", "--time", "4m", "--name", "chain"),
    )
    assert done.code == 4, done.stderr
    assert "of 3 jobs 1 had been accepted: none is kept" in done.stderr
    assert queue(hpcvlm) == []
    assert list((hpcvlm.state / "jobs").iterdir()) == []


def test_many_at_once_for_one_name_and_for_their_own(hpcvlm: Command) -> None:
    one = [hpcvlm.start("launch", "tiny-vlm", *GPU, "--name", "one") for _ in range(4)]
    own = [hpcvlm.start("launch", "tiny-vlm", *GPU, "--name", f"own{i}") for i in range(4)]
    said = [process.communicate(timeout=300)[1] for process in (*one, *own)]
    assert sorted(process.returncode == 0 for process in one) == [False, False, False, True], said
    assert sum("there is an endpoint called 'one' already" in text for text in said) == 3
    assert [process.returncode for process in own] == [0, 0, 0, 0], said
    names = sorted(row["name"] for row in hpcvlm("ls", "--json").json())
    assert names == ["one", "own0", "own1", "own2", "own3"] == queue(hpcvlm)
    assert list((hpcvlm.state / "new").iterdir()) == []


def test_a_job_that_comes_late_to_a_folder_that_is_gone_does_not_run(
    hpcvlm: Command, tmp_path: Path
) -> None:
    """As when Slurm takes it only after hpcvlm was told that there is no such job."""
    instead_of(tmp_path, "sbatch", 'exec "$REAL/sbatch" --begin=now+4 "$@"')
    done = hpcvlm("launch", "tiny-vlm", *GPU, "--name", "late", "--json")
    assert done.code == 0, done.stderr
    shutil.rmtree(hpcvlm.state / "jobs" / "late")
    deadline = time.monotonic() + 120
    while queue(hpcvlm) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert queue(hpcvlm) == []
    assert not (hpcvlm.state / "jobs" / "late").exists()
