"""A place where faults are made: a real Slurm, `hpcvlm` beside it, and what must hold then."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.command import ROOT, Command, Done
from tests.realparts import SETUP, SlurmCluster

FAKE = ROOT / "tests" / "fake_vllm.py"
MARK = "HPCVLM_TEST_MARK"
PATIENCE_S = 90.0
LOOK_EVERY_S = 0.25
PARTS = [{"type": "text", "text": "hello"}]


class FaultCluster:
    """A real Slurm of which every part can be stopped, cut off and brought back."""

    def __init__(self, cluster: SlurmCluster, environment: dict[str, str]) -> None:
        self.folder = cluster.folder
        self.environment = cluster.environment
        self._outside = environment

    def do(self, verb: str, *what: str) -> None:
        """One sub-command of scripts/setup/slurm_cluster.sh, such as ``kill slurmctld``."""
        done = subprocess.run(
            [SETUP / "slurm_cluster.sh", verb, self.folder, *what],
            env=self._outside,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{verb} {what}: {done.stderr}"

    def slurm(self, *argv: str) -> str:
        """What a Slurm command prints, as its administrator calls it."""
        return subprocess.run(
            argv,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()

    def queue(self) -> list[str]:
        """NUMBER NAME STATE of each job that is not over."""
        return self.slurm("squeue", "--noheader", "--format=%i %j %T").splitlines()

    def drop_jobs(self) -> None:
        """Leave nothing to the next test."""
        self.slurm("scancel", "--user=root")
        until(lambda: not self.queue(), "jobs are still there after scancel")


class Place:
    """`hpcvlm` with a state folder of its own; what it starts can be told from all else."""

    def __init__(self, folder: Path, cluster: FaultCluster | None = None) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.mark = uuid.uuid4().hex
        self.hpcvlm = Command(
            folder,
            {
                **(cluster.environment if cluster else {}),
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                MARK: self.mark,
            },
        )
        self.site()

    def site(self, engine: Path = FAKE, **keys: object) -> None:
        """Write the user's site file: this engine, and whatever else it says."""
        install = {"version": "0.32.0", "command": [str(engine)]}
        text = json.dumps({"schema": 1, "runtime": "none", "engines": [install], **keys})
        self.hpcvlm.site(text)

    def engine_program(self, name: str, before: str) -> Path:
        """An engine that runs some Python first, and is the stand-in then."""
        path = self.bin.parent / name
        start = f"import runpy\nrunpy.run_path({str(FAKE)!r}, run_name='__main__')"
        path.write_text(f"#!{sys.executable}\n{before}\n{start}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def under(self, prefix: Sequence[str], *arguments: str, timeout_s: float = 120) -> Done:
        """`hpcvlm` started by another program, such as one that takes rights away."""
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "hpcvlm", *arguments],
            env=self.hpcvlm.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def move_state(self, folder: Path) -> None:
        """Have the state folder somewhere else."""
        self.hpcvlm.state = folder
        self.hpcvlm.environment["HPCVLM_STATE"] = str(folder)

    def answers(self, name: str) -> None:
        """The endpoint answers a question, behind its key."""
        url, key = self.status(name)["url"], (self.jobs / name / "key").read_text().strip()
        question = {"model": "tiny-vlm", "messages": [{"role": "user", "content": PARTS}]}
        answer = httpx.post(
            f"{url}/chat/completions",
            json=question,
            headers={"Authorization": f"Bearer {key}"},
            timeout=20,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    @property
    def jobs(self) -> Path:
        """The folder of the job folders."""
        return self.hpcvlm.state / "jobs"

    def arguments(self, name: str, *more: str, mode: str = "ok") -> tuple[str, ...]:
        """Of a launch with the stand-in engine."""
        gpus = () if "--gpus" in more or "--executor" in more else ("--gpus", "A100:1")
        quick = ("environment.FAKE_VLLM_STEP_S=0.02", f"environment.FAKE_VLLM_MODE={mode}")
        settings = [word for setting in quick for word in ("--set", setting)]
        return ("launch", "tiny-vlm", "--name", name, *gpus, *settings, *more)

    def launch(self, name: str, *more: str, mode: str = "ok") -> Done:
        """Launch and wait, and be ready."""
        done = self.hpcvlm(*self.arguments(name, *more, mode=mode))
        assert done.code == 0, done.stderr
        return done

    def status(self, name: str) -> dict[str, Any]:
        """`hpcvlm status NAME --json`."""
        done = self.hpcvlm("status", name, "--json", timeout_s=60)
        assert done.code == 0, done.stderr
        row: dict[str, Any] = done.json()
        return row

    def said(self, name: str) -> str:
        """All that `hpcvlm status NAME` says, to a person."""
        done = self.hpcvlm("status", name)
        assert done.code == 0, done.stderr
        return done.stdout + done.stderr

    def becomes(self, name: str, *states: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until `status` says one of these states; gives what it says then."""
        seen: list[dict[str, Any]] = []

        def reached() -> bool:
            seen.append(self.status(name))
            return seen[-1]["state"] in states

        until(reached, lambda: f"{name} is {seen[-1]}", patience_s)
        return seen[-1]

    def state(self, name: str) -> dict[str, Any]:
        """What the job itself says; empty before it says anything."""
        try:
            return self.hpcvlm.job_state(name)
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def reaches(self, name: str, phase: str) -> None:
        """Wait until the job itself says that it has reached a phase."""
        until(lambda: phase in self.state(name).get("phases", {}), f"{name} never was {phase}")

    def ends(self, name: str) -> dict[str, Any]:
        """Wait until the job itself has said its last word, which this gives."""
        until(lambda: self.state(name).get("phase") == "ended", f"{name} goes on")
        return self.state(name)

    def engine(self, name: str) -> int:
        """Process id of the engine."""
        return int(self.state(name)["engine_pid"])

    def program(self, name: str, script: str) -> Path:
        """Put a shell script before the real program of that name, which $REAL is."""
        real = shutil.which(name)
        assert real is not None
        path = self.bin / name
        path.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def processes(self) -> list[int]:
        """Everything that runs on behalf of this place, but for `hpcvlm` itself."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if needle not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                if b"\0hpcvlm\0" not in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def command_lines(self) -> list[str]:
        """Of all those processes."""
        lines = []
        for pid in self.processes():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                lines.append(f"{pid}: {b' '.join(words).decode(errors='replace')}")
        return lines

    def kill_all(self) -> None:
        """By force; for the next test's sake."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until(
    done: Callable[[], bool], otherwise: str | Callable[[], str], patience_s: float = PATIENCE_S
) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(LOOK_EVERY_S)


def shell(cluster: FaultCluster, verb: str, *what: str) -> str:
    """The shell command of a fault, for a program that makes it at a moment of its own."""
    argv = [str(SETUP / "slurm_cluster.sh"), verb, str(cluster.folder), *what]
    words = ["env", "-u", MARK, "HPCVLM_SLURM_FAULTS=1", *argv]
    return f"{shlex.join(words)} >/dev/null 2>&1 </dev/null"
