"""A user who may start no further process (``ulimit -u``): at each command, and on the node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Done, open_way_to
from tests.faults.place import FaultCluster, Place, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a command as another user"),
]
# Who has no other process: the limit counts all of a user, and root is above it.
USER = 54322
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="hpcvlm-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def alone(open_place: Path) -> Iterator[Place]:
    """`hpcvlm` of that user, on this machine alone; leaves nothing behind."""
    place = Place(open_place / "place")
    place.hpcvlm.environment |= {"HOME": str(open_place / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    (open_place / "home").mkdir()
    give(open_place)
    yield place
    try:
        done = limited(place, None, "stop", "--all")
        assert done.code == 0, done.stderr
        until(lambda: not place.processes(), lambda: f"orphans: {place.command_lines()}", 15)
    finally:
        place.kill_all()


def give(folder: Path) -> None:
    """Make it the user's, with all that is in it."""
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)


def limited(place: Place, most: int | None, *arguments: str) -> Done:
    """`hpcvlm` of the user, who may have so many processes and threads; None for no limit."""
    limit = () if most is None else ("prlimit", f"--nproc={most}:{most}")
    done = subprocess.run(
        [*AS_USER, *limit, sys.executable, "-m", "hpcvlm", *arguments],
        env=place.hpcvlm.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def in_words(done: Done) -> None:
    """Refused with a sentence and what to do, never with a traceback."""
    assert done.code not in (0, 2), done
    assert "Traceback" not in done.stderr, done.stderr
    assert "process" in done.stderr, done.stderr
    assert "try:" in done.stderr, done.stderr


# One is `hpcvlm` alone, without a thread; with three the job begins and comes no further.
@pytest.mark.parametrize("most", [1, 3])
def test_no_process_for_a_launch(alone: Place, most: int) -> None:
    arguments = alone.arguments("crowd", "--executor", "local", "--set", "start_timeout=20s")
    done = limited(alone, most, *arguments)
    assert done.code not in (0, 2), done
    assert "Traceback" not in done.stderr, done.stderr
    assert "try:" in done.stderr, done.stderr
    if most == 1:
        in_words(done)
        assert not list(alone.jobs.glob("*"))
    until(lambda: not alone.processes(), lambda: f"{alone.command_lines()} still run", 40)
    done = limited(alone, None, *arguments)
    assert done.code == 0, done.stderr


def test_no_process_while_it_serves(alone: Place) -> None:
    """The commands still tell; the job that can start nothing any more ends, and says why."""
    done = limited(alone, None, *alone.arguments("busy", "--executor", "local"))
    assert done.code == 0, done.stderr
    for arguments in (("ls",), ("status", "busy"), ("env", "busy")):
        done = limited(alone, 1, *arguments)
        assert (done.code, done.stderr.count("Traceback")) == (0, 0), done.stderr
    # Those that run are over the limit from now on.
    shell = int(alone.state("busy")["shell_pid"])
    subprocess.run([*AS_USER, "prlimit", f"--pid={shell}", "--nproc=1:1"], check=True)
    until(lambda: alone.state("busy")["phase"] == "ended", "it goes on")
    assert alone.state("busy")["reason"] == "fork-failed"
    until(lambda: not alone.processes(), lambda: f"orphans: {alone.command_lines()}", 20)
    done = limited(alone, None, "status", "busy", "--json")
    row = done.json()
    assert (row["state"], row["verdict"]["reason"]) == ("failed", "fork-failed"), row
    told = limited(alone, None, "why", "busy").stdout
    assert "process" in told, told


@pytest.mark.slurm
def test_no_process_to_ask_slurm(place: Place, cluster: FaultCluster, open_place: Path) -> None:
    """What the files say is told; what only Slurm knows is not made up."""
    place.launch("known")
    open_way_to(cluster.folder / "run")
    (open_place / "state").mkdir()
    shutil.copytree(place.jobs, open_place / "state" / "jobs", symlinks=True)
    give(open_place)
    before = place.hpcvlm.environment
    changed = {"HPCVLM_STATE": str(open_place / "state"), "HOME": str(open_place)}
    open_way_to(place.hpcvlm.config)
    place.hpcvlm.environment = {**before, **changed}
    try:
        done = limited(place, 1, "ls")
        assert (done.code, done.stderr.count("Traceback")) == (0, 0), done.stderr
        assert "known" in done.stdout
        done = limited(place, 1, "status", "known", "--json")
        assert "Traceback" not in done.stderr
        assert done.json()["state"] in ("ready", "unknown"), done
        assert done.json()["state"] != "failed"
        in_words(limited(place, 1, *place.arguments("more", "--no-wait")))
        in_words(limited(place, 1, "stop", "known"))
    finally:
        place.hpcvlm.environment = before
    assert place.status("known")["state"] == "ready"
    assert len(cluster.queue()) == 1
