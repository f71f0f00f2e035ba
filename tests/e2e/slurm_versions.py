"""Clusters of other versions of Slurm, and the captures of what each of them answers.

As a program it writes tests/data/slurm/versions/ anew, from clusters that it starts itself:
``python -m tests.e2e.slurm_versions 24.11``; ``22.05`` is the installed Slurm of Debian 12.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.slurm import commands
from tests.realparts import ROOT, SETUP, SlurmCluster, exports, set_up

INSTALLED = "22.05"
OTHERS = ("24.11", "26.05")
CAPTURES = ROOT / "tests" / "data" / "slurm" / "versions"
# The roots lie in the real cache, which the isolation of tests hides.
_REAL_ENVIRONMENT = dict(os.environ)
_HEAD = """\
Slurm {} of Debian, on the cluster of scripts/setup/slurm_cluster.sh, by
tests/e2e/slurm_versions.py; the host's name, its kernel and the cluster's folder are replaced.
"""


@contextmanager
def running_cluster(version: str, folder: Path) -> Iterator[SlurmCluster]:
    """A cluster with this Slurm; skips the test where it cannot be had, with the reason."""
    environment = {k: v for k, v in _REAL_ENVIRONMENT.items() if k != "HPCVLM_SLURM_ROOT"}
    if version == INSTALLED:
        set_up("slurm_packages.sh", environment=environment)
    else:
        root = set_up("slurm_root.sh", version, environment=environment)
        environment["HPCVLM_SLURM_ROOT"] = root
    try:
        set_up("slurm_cluster.sh", "up", str(folder), environment=environment)
        lines = _script("env", folder).stdout
        yield SlurmCluster(folder, exports(lines))
    finally:
        _script("down", folder)


def _script(verb: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SETUP / "slurm_cluster.sh", verb, folder],
        env=_REAL_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )


# ---- Captures: text files of "$ command", "exit code", "1|" and "2|" lines ---------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """A command as it was typed, and what it answered."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def written(answer: Answer) -> str:
    """An answer as it stands in a capture."""
    lines = [f"$ {shlex.join(answer.argv)}", f"exit {answer.code}"]
    lines += [f"1|{line}" for line in answer.stdout.splitlines()]
    lines += [f"2|{line}" for line in answer.stderr.splitlines()]
    return "\n".join(lines) + "\n"


def captured(version: str, name: str) -> tuple[Answer, ...]:
    """The answers of one capture, in their order."""
    text = (CAPTURES / version / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return tuple(_answer(block) for block in blocks)


def _answer(block: str) -> Answer:
    typed, code, *lines = block.rstrip("\n").split("\n")
    streams = {"1|": "", "2|": ""}
    for line in lines:
        streams[line[:2]] += line[2:] + "\n"
    return Answer(
        argv=tuple(shlex.split(typed)),
        code=int(code.removeprefix("exit ")),
        stdout=streams["1|"],
        stderr=streams["2|"],
    )


# ---- Capturing ---------------------------------------------------------------------------------

_JOB = "#!/bin/bash\n#SBATCH --output=/dev/null\n"
# What each job does, what it asks for, and how it is to be when the others are asked for.
_JOBS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "done": ("exit 0", ("--gpus-per-node=A100:1", "--time=10"), "COMPLETED"),
    "failed": ("exit 3", ("--gpus-per-node=A100:1", "--time=10"), "FAILED"),
    "cancelled": ("exec sleep 600", ("--gpus-per-node=A100:1", "--time=10"), "CANCELLED"),
    "without GPU": ("exec sleep 600", ("--partition=gpu", "--time=10"), "RUNNING"),
    "running": ("exec sleep 600", ("--gpus-per-node=H100:4", "--time=2:00:00"), "RUNNING"),
    "waiting": ("exec sleep 600", ("--gpus-per-node=H100:4", "--time=2:00:00"), "PENDING"),
    "too long|here": ("exit 0", ("--partition=short", "--time=1-00:00:00"), "PENDING"),
}
_WRONG = (
    ("--partition=nope",),
    ("--account=nope",),
    ("--qos=nope",),
    ("--constraint=nope",),
    ("--gpus-per-node=V100:1",),
    ("--gpus-per-node=A100:9",),
    ("--mem=64G",),
    ("--time=nope",),
    ("--no-such-option",),
)


class _Capturer:
    """Runs commands on one cluster and keeps what they answer, without this machine's names."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self.folder = cluster.folder
        outer = {**_REAL_ENVIRONMENT, **cluster.environment, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
        self.environment = commands.clean_environment(outer)

    def run(self, argv: Sequence[str], **variables: str) -> Answer:
        done = subprocess.run(
            list(argv),
            env={**self.environment, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return Answer(
            tuple(argv), done.returncode, self._clean(done.stdout), self._clean(done.stderr)
        )

    def ask(self, argv: Sequence[str], **variables: str) -> Answer:
        """As hpcvlm asks."""
        return self.run(argv, SLURM_TIME_FORMAT="%s", **variables)

    def _clean(self, text: str) -> str:
        text = text.replace(str(self.folder), "/cluster")
        text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
        return re.sub(r"OS=Linux .*?(?=\s+\w+=)", "OS=Linux 6.1.0 #1 SMP", text)

    def submit_jobs(self) -> list[str]:
        (self.folder / "ok.sh").write_text(_JOB + "exit 0\n", encoding="utf-8")
        ids = {}
        for name, (action, options, _) in _JOBS.items():
            script = self.folder / "job.sh"
            script.write_text(_JOB + action + "\n", encoding="utf-8")
            answer = self.run(["sbatch", "--parsable", f"--job-name={name}", *options, str(script)])
            assert answer.code == 0, answer
            ids[name] = answer.stdout.strip()
        self._wait(ids, {"cancelled": "RUNNING"})
        self.run(["scancel", ids["cancelled"]])
        self._wait(ids, {name: state for name, (_, _, state) in _JOBS.items()})
        time.sleep(2)  # the accounts learn of it later than squeue does
        return list(ids.values())

    def _wait(self, ids: dict[str, str], wanted: dict[str, str]) -> None:
        end = time.monotonic() + 60
        while True:
            shown = self.ask(commands.squeue(list(ids.values()))).stdout
            states = {row.split("|")[0]: row.split("|")[1] for row in shown.splitlines()}
            if all(states.get(ids[name]) == state for name, state in wanted.items()):
                return
            assert time.monotonic() < end, shown
            time.sleep(0.3)


def capture(cluster: SlurmCluster) -> dict[str, tuple[Answer, ...]]:
    """Every answer that hpcvlm reads, by the name of its file."""
    on = _Capturer(cluster)
    site = {
        "sinfo": commands.sinfo(),
        "config": commands.scontrol_config(),
        "partitions": commands.scontrol_partitions(),
        "nodes": commands.scontrol_nodes(),
        "associations": commands.sacctmgr_associations("root"),
        "qos": commands.sacctmgr_qos(),
        "default_account": commands.sacctmgr_default_account("root"),
    }
    jobs = on.submit_jobs()
    found: dict[str, tuple[Answer, ...]]
    found = {name: (on.ask(argv),) for name, argv in site.items()}
    found["squeue"] = (on.ask(commands.squeue(jobs)), on.ask(commands.squeue(["99999"])))
    found["sacct"] = (on.ask(commands.sacct(jobs)), on.ask(commands.sacct(["99999"])))
    found["sbatch"] = (on.run(commands.sbatch("ok.sh")),)
    found["sbatch_test"] = (
        on.run(["sbatch", "--test-only", "--gpus-per-node=A100:1", "ok.sh"]),
        on.run(["sbatch", "--test-only", "--gpus-per-node=H100:4", "ok.sh"]),
        on.run(["sbatch", "--test-only", "--partition=nope", "ok.sh"]),
    )
    found["sbatch"] += tuple(on.run(["sbatch", "--parsable", *more, "ok.sh"]) for more in _WRONG)
    found["scancel"] = (
        on.run(commands.scancel(jobs[0])),
        on.run(commands.scancel("99999")),
        on.run(commands.scancel_term(jobs[0])),
        on.run(commands.scancel_term(jobs[-1])),
    )
    found["unreachable"] = _unreachable(on)
    return found


def _unreachable(on: _Capturer) -> tuple[Answer, ...]:
    """With a controller and a database at ports where nobody listens."""
    text = (on.folder / "etc" / "slurm.conf").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^(SlurmctldPort|AccountingStoragePort)=.*$", r"\1=1", text)
    dead = on.folder / "etc" / "dead.conf"
    dead.write_text(f"{text}MessageTimeout=2\n", encoding="utf-8")
    asked = (
        commands.sinfo(),
        commands.squeue(["1"]),
        commands.sacct(["1"]),
        commands.sbatch("ok.sh"),
        commands.scancel("1"),
    )
    return tuple(on.ask(argv, SLURM_CONF=str(dead)) for argv in asked)


def main(versions: Sequence[str]) -> None:
    """Capture these versions."""
    for version in versions:
        with (
            tempfile.TemporaryDirectory(prefix="slurm") as folder,
            running_cluster(version, Path(folder)) as cluster,
        ):
            told = _Capturer(cluster).run(["sinfo", "--version"]).stdout.split()[-1]
            (CAPTURES / version).mkdir(parents=True, exist_ok=True)
            for name, answers in capture(cluster).items():
                text = _HEAD.format(told) + "".join(written(answer) for answer in answers)
                (CAPTURES / version / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
