"""Time and its price on a real Slurm: extend, successors, usage, cleanup, and the Python API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command, Done, open_way_to
from tests.realparts import SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
NOBODY = 65534
PATIENCE_S = 90
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    command = Command(tmp_path, slurm_cluster.environment)
    command.site(
        f"schema: 1\nruntime: none\nengines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def launch(hpcvlm: Command, name: str, *more: str) -> dict[str, object]:
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", name, "--json", *more)
    assert done.code == 0, done.stderr
    row: dict[str, object] = done.json()
    return row


def slurm_says(hpcvlm: Command, *argv: str) -> str:
    done = subprocess.run(
        argv,
        env={**hpcvlm.environment, "SLURM_TIME_FORMAT": "%s"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def slurm_end(hpcvlm: Command, job: object) -> int:
    return int(slurm_says(hpcvlm, "squeue", "--noheader", f"--jobs={job}", "--format=%e"))


def slurm_elapsed_s(hpcvlm: Command, job: object) -> int:
    argv = ("sacct", "-n", "-X", f"--jobs={job}", "--format=ElapsedRaw")
    return int(slurm_says(hpcvlm, *argv) or 0)


def test_an_operator_s_job_gets_more_time_and_knows_it(hpcvlm: Command) -> None:
    job = launch(hpcvlm, "longer", "--time", "20m")["job_id"]
    before = slurm_end(hpcvlm, job)
    done = hpcvlm("extend", "longer", "--by", "4h", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["ends"] == slurm_end(hpcvlm, job) == before + 4 * 3600
    until(lambda: hpcvlm.job_state("longer")["ends"] == before + 4 * 3600)
    assert hpcvlm("status", "longer", "--json").json()["ends"] == before + 4 * 3600
    shown = hpcvlm("extend", "longer", "--by", "10m").stdout
    assert shown.startswith("longer: ends at ")


def as_nobody(hpcvlm: Command, *arguments: str) -> Done:
    """The command as a user whom Slurm has given no rights over others."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcvlm", *arguments],
        env={**hpcvlm.environment, "HOME": str(hpcvlm.state.parent), "USER": "nobody"},
        cwd=ROOT,
        user=NOBODY,
        group=NOBODY,
        extra_groups=(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def user(tmp_path: Path, hpcvlm: Command, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    """An ordinary user of the cluster."""
    subprocess.run(
        ["sacctmgr", "-i", "add", "user", "nobody", "Account=acct"],
        env={**os.environ, **slurm_cluster.environment},
        check=False,
        capture_output=True,
    )
    open_way_to(slurm_cluster.folder)
    open_way_to(tmp_path)
    os.chown(tmp_path, NOBODY, NOBODY)
    yield hpcvlm
    assert as_nobody(hpcvlm, "stop", "--all").code == 0


def test_a_user_whom_slurm_refuses_gets_a_successor(user: Command) -> None:
    done = as_nobody(
        user, "launch", "tiny-vlm", "--gpus", "A100:1", "--name", "more", "--time", "20m", "--json"
    )
    assert done.code == 0, done.stderr
    first = done.json()
    refused = as_nobody(user, "extend", "more", "--by", "4h")
    assert refused.code != 0
    assert "Access/permission denied" in refused.stderr
    assert "partition gpu allows 1-00:00:00 in all" in refused.stderr
    assert "hpcvlm extend more --successor" in refused.stderr
    assert not (user.state / "jobs" / "more" / "ends").exists()
    key = (user.state / "jobs" / "more" / "key").read_text()
    done = as_nobody(user, "extend", "more", "--successor", "--json")
    assert done.code == 0, done.stderr
    made = done.json()
    assert (made["name"], made["successor"]) == ("more", "more~2")
    until(lambda: user.job_state("more")["phase"] == "draining")
    now = as_nobody(user, "status", "more", "--json").json()
    assert (now["state"], now["job_id"]) == ("ready", made["successor_job_id"])
    assert now["job_id"] != first["job_id"]
    assert (user.state / "jobs" / "more~2" / "key").read_text() == key


def test_what_ran_is_counted_before_and_after_its_cleanup(hpcvlm: Command) -> None:
    job = str(launch(hpcvlm, "counted")["job_id"])
    until((hpcvlm.state / "jobs" / "counted" / "activity.json").exists)
    # Slurm counts whole seconds, and a quick job is one second long, or none.
    until(lambda: slurm_elapsed_s(hpcvlm, job) >= 2)
    assert hpcvlm("stop", "counted").stdout == "counted: stopped\n"

    def counted() -> dict[str, object]:
        (one,) = hpcvlm("usage", "--since", "1h", "--json").json()["jobs"]
        assert (one["job_id"], one["user"]) == (job, "root")
        return dict(one)

    # Slurm writes its accounts a little later than the job ends.
    until(lambda: counted()["source"] == "accounts")
    used = counted()["gpu_s"]
    assert used == slurm_elapsed_s(hpcvlm, job) >= 2
    launch(hpcvlm, "runs")
    plan = hpcvlm("cleanup", "--older-than", "0", "--dry-run", "--json").json()
    assert [row["name"] for row in plan["delete"]] == ["counted"]
    # Everything that a real job leaves is known to be hpcvlm's.
    assert (plan["keep"], plan["running"]) == ([], 1)
    done = hpcvlm("cleanup", "--older-than", "0", "--yes")
    assert done.code == 0, done.stderr
    assert sorted(path.name for path in (hpcvlm.state / "jobs").iterdir()) == ["runs"]
    assert hpcvlm("status", "runs", "--json").json()["state"] == "ready"
    jobs = hpcvlm("usage", "--since", "1h", "--json").json()["jobs"]
    assert [one["gpu_s"] for one in jobs if one["job_id"] == job] == [used]


def test_the_death_of_a_program_ends_its_job(hpcvlm: Command, slurm_cluster: SlurmCluster) -> None:
    program = (
        "import hpcvlm, time\n"
        "with hpcvlm.launch('tiny-vlm', name='notebook', gpus='A100:1', lease=5) as endpoint:\n"
        "    print(endpoint.ask('Hi'), flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=hpcvlm.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "no image\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: hpcvlm.job_state("notebook")["phase"] == "ended")
    assert hpcvlm.job_state("notebook")["reason"] == "lease-lost"
    until(lambda: hpcvlm("status", "notebook", "--json").json()["state"] == "ended")
    record = json.loads((hpcvlm.state / "jobs" / "notebook" / "record.json").read_text())
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%i"],
        env={**os.environ, **slurm_cluster.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert record["job_id"] not in listed
