#!/usr/bin/env python3
"""Provokes failures for real and keeps what was said of them, for tests/data/logs/failures.

    provoke_failures.py OUT [KIND|NAME ...]

KIND is `apptainer`, `podman`, `files`, `slurm` or `engine`; everything without one. The parts are
those that scripts/setup installs; it needs root. Slurm is a throw-away cluster of
scripts/setup/slurm_cluster.sh. For each case there are up to five files:
NAME.stdout and NAME.stderr (of the command, or a job's), NAME.sacct, NAME.squeue and NAME.sbatch.
What differs from machine to machine is replaced as tests/data/logs/README.md says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from failure_recipes import (
    APPTAINER,
    ENFORCE,
    ENGINE,
    FAULTS,
    FILES,
    IN_CGROUPS,
    JOBS,
    MEMORY,
    PENDING,
    PENDING_ENFORCED,
    PODMAN,
    PRELUDE,
    SBATCH,
    SBATCH_ENFORCED,
    Cases,
)

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "scripts" / "setup"
TIMEOUT_S = 240


def main() -> int:
    """Run what was asked for; one line for each case."""
    if len(sys.argv) < 2 or os.geteuid() != 0:
        sys.stderr.write(__doc__ or "")
        return 2
    out, wanted = Path(sys.argv[1]), set(sys.argv[2:])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="provoke.") as folder:
        work = Path(folder)
        environment = _environment(work)
        for kind, cases in (
            ("apptainer", APPTAINER),
            ("podman", PODMAN),
            ("files", FILES),
            ("engine", ENGINE),
        ):
            for name, recipe in cases.items():
                if not wanted or wanted & {kind, name}:
                    _plain_case(name, recipe, environment, out)
        told = {**SBATCH, **SBATCH_ENFORCED, **PENDING, **PENDING_ENFORCED}
        if not wanted or wanted & {"slurm", *told, *JOBS}:
            _on_cluster(work / "cluster", environment, out, wanted, JOBS, {})
        if not wanted or wanted & {"slurm", *FAULTS}:
            switch = {"HPCVLM_SLURM_FAULTS": "1"}
            _on_cluster(work / "faults", environment, out, wanted, FAULTS, switch)
        if not wanted or wanted & {"slurm", *MEMORY}:
            switch = {"HPCVLM_SLURM_PROCTRACK": "cgroup"}
            _on_cluster(work / "memory", environment, out, wanted, MEMORY, switch)
    return 0


def _environment(work: Path) -> dict[str, str]:
    """What the recipes use."""
    snapshots = ROOT / "hpcvlm" / "bundled" / "hub" / "models--hpcvlm--tiny-vlm" / "snapshots"
    shutil.copytree(next(snapshots.iterdir()), work / "snapshot", symlinks=False)
    venv = Path(_said([SETUP / "vllm_cpu.sh", "--print-path"]).strip())
    python = (venv / "bin" / "python").resolve()
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "LC_ALL": "C.UTF-8",
        "USER": "root",
        "SETUP": str(SETUP),
        "W": str(work),
        "SNAP": str(work / "snapshot"),
        "VENV": str(venv),
        "PYTHON": str(python),
        "PYTHON_PREFIX": str(python.parents[1]),
        "SIF": str(work / "tiny.sif"),
        "BIG": str(work / "big.sif"),
        "APPTAINER_BINARY": str(Path(shutil.which("apptainer") or "apptainer").resolve()),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    _image(work, "tiny", "")
    _image(work, "big", 'head -c 9000000 /dev/urandom >"$APPTAINER_ROOTFS/big"')
    return environment


def _image(work: Path, name: str, more: str) -> None:
    folders = "usr etc proc sys dev tmp var/tmp run root home opt mnt srv"
    (work / f"{name}.def").write_text(
        "Bootstrap: scratch\n%setup\n"
        '    cd "$APPTAINER_ROOTFS"\n'
        f"    mkdir -p {folders}\n"
        "    for d in bin sbin lib lib64; do ln -sfn usr/$d $d; done\n"
        "    touch etc/passwd etc/group etc/hosts etc/resolv.conf etc/localtime\n"
        f"    {more}\n",
        encoding="utf-8",
    )
    subprocess.run(
        ["apptainer", "build", work / f"{name}.sif", work / f"{name}.def"],
        check=False,
        capture_output=True,
    )


def _plain_case(name: str, recipe: str, environment: dict[str, str], out: Path) -> None:
    process = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", PRELUDE + recipe],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Else its servers would live on; they are in groups of their own, but in this session.
        subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
        process.communicate()
        _tell(name, "TIMED OUT")
        return
    _keep(out / f"{name}.stdout", stdout, environment)
    _keep(out / f"{name}.stderr", stderr, environment)
    last = (stderr.strip() or stdout.strip()).splitlines()[-1:]
    _tell(name, f"exit {process.returncode}: {''.join(last)[:150]}")


def _on_cluster(
    folder: Path,
    environment: dict[str, str],
    out: Path,
    wanted: set[str],
    jobs: Cases,
    switch: dict[str, str],
) -> None:
    script = SETUP / "slurm_cluster.sh"
    subprocess.run([script, "up", folder], env={**environment, **switch}, check=True)
    try:
        setup = _said([script, "env", folder]) + '\nexport USER=root; cd "$W"\n'
        inside = {**environment, "CLUSTER": str(folder)}
        if jobs is MEMORY:
            _bash(setup + IN_CGROUPS, inside)
        if jobs is JOBS:
            _questions(SBATCH, PENDING, setup, inside, out, wanted)
            _bash(setup + ENFORCE, inside)
            _questions(SBATCH_ENFORCED, PENDING_ENFORCED, setup, inside, out, wanted)
        for name, case in jobs.items():
            if not wanted or wanted & {"slurm", name}:
                _job(name, case, setup, inside, out)
    finally:
        subprocess.run([script, "down", folder], env=environment, check=False)


def _questions(
    refused: Cases, pending: Cases, setup: str, environment: dict[str, str], out: Path, wanted: set
) -> None:
    for name, (options, before, after) in refused.items():
        if not wanted or wanted & {"slurm", name}:
            told = f"sbatch --time=5 {options} --wrap='sleep 60' 2>&1"
            said = _bash(
                f"{setup}{{ {before or ':'}; }} >&2\n{told}\n{{ {after or ':'}; }} >&2\n",
                environment,
            )
            _keep(out / f"{name}.sbatch", said, environment)
            _tell(name, said.strip()[:150])
    for name, case in pending.items():
        if not wanted or wanted & {"slurm", name}:
            _pending(name, case, setup, environment, out)


def _pending(
    name: str, case: tuple[str, str, str], setup: str, environment: dict[str, str], out: Path
) -> None:
    options, before, after = case
    said = _bash(
        f"{setup}{{ {before or ':'}; }} >&2\nsleep 1\n"
        f"job=$(sbatch --parsable --time=5 {options} --wrap='sleep 60')\n"
        'for i in $(seq 50); do reason=$(squeue -h -j "$job" -o %r); '
        '[ "$reason" = None ] || break; sleep 0.2; done\n'
        f'squeue -h -j "$job" -o "%T|%r"\nscancel "$job"\n{{ {after or ":"}; }} >&2\n',
        environment,
    )
    _keep(out / f"{name}.squeue", said, environment)
    _tell(name, said.strip())


def _job(
    name: str, case: tuple[str, str, str], setup: str, environment: dict[str, str], out: Path
) -> None:
    options, body, after = case
    script = body if body.startswith("#!") else f"#!/bin/bash\n{body}"
    where = Path(environment["W"]) / name
    where.mkdir()
    (where / "job.sbatch").write_text(script + "\n", encoding="utf-8")
    error = "" if "--error" in options else f"--error={where}/job.err"
    said = _bash(
        f'{setup}cd "{where}"\njob=$(sbatch --parsable --time=5 --output={where}/job.out {error} '
        f"{options} job.sbatch)\n{after}\n"
        'for i in $(seq 500); do [ -z "$(squeue -h -j "$job" -t PD,R,CG -o %T)" ]'
        " && break; sleep 0.3; done\n"
        'for i in $(seq 20); do sacct -n -X -o state -j "$job" | grep -Eq "PEND|RUNN" || break; '
        "sleep 0.5; done; sleep 1\n"
        "sacct --noheader --parsable2 --jobs=$job --format=JobID,State,ExitCode,MaxRSS,ReqMem,"
        "Elapsed,Timelimit,NodeList,AllocCPUS,NNodes\nscancel $job 2>/dev/null; true\n",
        environment,
    )
    _keep(out / f"{name}.sacct", said, environment)
    for stream in ("out", "err"):
        file = where / f"job.{stream}"
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        _keep(out / f"{name}.std{stream}", text, environment)
    _tell(name, said.replace("\n", " / ")[:150])


def _bash(text: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.stderr.strip():
        _tell("", done.stderr.strip()[:300])
    return done.stdout


def _said(argv: list[object]) -> str:
    return subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=True
    ).stdout


def _keep(path: Path, text: str, environment: dict[str, str]) -> None:
    for name in ("VENV", "PYTHON_PREFIX", "SNAP", "W"):
        shown = "$PYTHON" if name == "PYTHON_PREFIX" else f"${name}"
        text = text.replace(environment[name], "$WORK" if name == "W" else shown)
    prefix = str(Path(environment["APPTAINER_BINARY"]).parents[1])
    text = re.sub(r"\b10(?:\.\d+){3}\b(?=:53)", "<ip>", text)
    text = re.sub(r"/root/\.cache/hpcvlm/slurm-[\d.]+", "$NEWER", text)
    text = text.replace(prefix, "$APPTAINER").replace(str(ROOT), "$ROOT")
    text = re.sub(r"\b" + re.escape(os.uname().nodename) + r"\b", "node01", text)
    if text:
        path.write_text(text, encoding="utf-8")


def _tell(name: str, words: str) -> None:
    sys.stdout.write(f"{name:<34} {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
