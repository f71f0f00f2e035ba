"""What a container may do to the host: read what it serves, write its own cache, see nothing else.

The engine is replaced by a shell script that tries, in a real Apptainer image.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.job_fixtures import RunningJob, local_plan
from tests.realparts import CpuSif

pytestmark = [pytest.mark.slow, pytest.mark.apptainer]

PROBE = r"""
can() { # NAME COMMAND...: whether a command is let through
    local name=$1
    shift
    if (umask 000 && "$@") >/dev/null 2>&1; then echo "can $name"; else echo "cannot $name"; fi
}
change() { : >>"$1"; }
make() { : >"$1/made-from-inside" && rm -f "$1/made-from-inside"; }
see() { [[ -e $1 ]]; }
replace() { mv "$1" "$1.moved" && mv "$1.moved" "$1"; }
while IFS=$'\t' read -r name what place; do can "$name" "$what" "$place"; done <"$PLACES"
printf 'variable %s\n' "${!SECRET_@}" "${!HF_@}" "${!SLURM_@}"
stat -c 'passwd %d:%i' /etc/passwd # Apptainer makes one for each container
"""


@pytest.fixture
def said(tmp_path: Path, cpu_sif: CpuSif) -> set[str]:
    """What the script in the container found out."""
    home, other = tmp_path / "home", tmp_path / "state" / "jobs" / "other"
    for folder in (home, other):
        folder.mkdir(parents=True)
        (folder / "key").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "probe.sh").write_text(PROBE)
    site = json.loads(cpu_sif.site_yaml())
    install = site["engines"][0]
    install["command"] = ["/bin/bash", str(inside / "probe.sh")]
    install["binds"] += [str(inside)]
    folder = tmp_path / "state" / "jobs" / "t"
    plan = local_plan(
        folder, f"environment.PLACES={inside}/places", site_text=json.dumps(site)
    ).plan
    media, cache = Path(plan.media_root), Path(plan.cache)
    snapshot = Path(plan.snapshot.path)
    places = {
        "write weights": ("change", snapshot / "model.safetensors"),
        "write config": ("change", snapshot / "config.json"),
        "make a file beside the weights": ("make", snapshot),
        "make a file in the repository": ("make", plan.snapshot.repository_folder),
        "move the weights": ("replace", snapshot / "model.safetensors"),
        "write the key": ("change", folder / "key"),
        "write the guard": ("change", folder / "payloads" / "hpcvlm_guard.py"),
        "make a file beside the guard": ("make", folder / "payloads"),
        "make a picture": ("make", media),
        "write a bound folder of the site": ("make", inside),
        "write the image": ("make", "/opt"),
        "make a file in /etc": ("make", "/etc"),
        "see the home": ("see", home / "key"),
        "see root's home": ("see", Path.home() / ".ssh"),
        "see another job's key": ("see", other / "key"),
        "see the job's record": ("see", folder / "state.json"),
        "see the host's temporary files": ("see", inside.parent / "run" / "job.sbatch"),
        "write the cache": ("make", cache),
        "write its own temporary folder": ("make", "/tmp"),
        "read the weights": ("see", snapshot / "model.safetensors"),
        "read the key": ("see", folder / "key"),
    }
    (inside / "places").write_text(
        "".join(f"{name}\t{what}\t{place}\n" for name, (what, place) in places.items())
    )
    job = RunningJob.start(
        plan,
        tmp_path / "run",
        environment={"HOME": str(home), "SECRET_TOKEN": "x", "HF_TOKEN": "x", "SLURM_JOB_ID": "1"},
    )
    try:
        job.end()
    finally:
        job.close()
    assert job.state["reason"] == "engine-exited"
    return set((job.folder / "engine.out").read_text().splitlines())


def test_a_container_writes_its_cache_and_nothing_else(said: set[str]) -> None:
    allowed = {line for line in said if line.startswith("can ")}
    assert allowed == {
        "can write the cache",
        "can write its own temporary folder",
        "can read the weights",
        "can read the key",
    }
    assert len([line for line in said if line.startswith("cannot ")]) == 17
    host = Path("/etc/passwd").stat()
    assert f"passwd {host.st_dev}:{host.st_ino}" not in said
    assert any(line.startswith("passwd ") for line in said)
    variables = {line.removeprefix("variable ") for line in said if line.startswith("variable")}
    assert not {name for name in variables if name.startswith(("SECRET", "SLURM"))}
    assert "HF_TOKEN" not in variables
