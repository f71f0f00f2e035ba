"""hpcvlm doctor with stand-ins for the programs of a login node, and on this very machine."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, Done

PROGRAMS = {
    "sinfo": """#!/bin/sh
cat <<'END'
gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4(S:0-1)
group|up|30:00|1|8|16000|gpu:H100:1
cpu|up|infinite|1|8|16000|(null)
END
""",
    "scontrol": """#!/bin/sh
case $1 in
ping) echo 'Slurmctld(primary) at head is UP' ;;
*) printf 'AccountingStorageType = accounting_storage/none\\nClusterName = c1\\n'
   printf 'SLURM_VERSION = 24.11.5\\n' ;;
esac
""",
    "sbatch": """#!/bin/sh
[ "$1" = --test-only ] || { touch "$SUBMITTED"; echo 4711; exit; }
if grep -q 'partition=group' "$2"; then
    echo 'allocation failure: Invalid account or account/partition combination specified' >&2
    exit 1
fi
cat "$2" >>"$ASKED"
echo 'sbatch: Job 2 to start at 2026-11-21T10:18:45 using 1 processors on nodes gpu01 in' \\
    'partition gpu' >&2
""",
    "apptainer": """#!/bin/sh
case $1 in
--version) echo 'apptainer version 1.4.5' ;;
buildcfg) echo APPTAINER_SUID_INSTALL=0 ;;
inspect) echo '{"data": {"attributes": {"labels": {"org.hpcvlm.version": "0.10.2"}}}}' ;;
*) exit 255 ;;
esac
""",
    **dict.fromkeys(("srun", "squeue", "scancel"), "#!/bin/sh\nexit 0\n"),
    "sacct": "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n",
    "quota": "#!/bin/sh\necho 'Disk quotas for user ann (uid 1000): none'\n",
}


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    """The command on a login node with stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    image = tmp_path / "vllm-0.10.2.sif"
    image.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(100))
    command = Command(
        tmp_path,
        {
            "PATH": f"{folder}:/usr/bin:/bin",
            "SUBMITTED": str(tmp_path / "submitted"),
            "ASKED": str(tmp_path / "asked"),
        },
    )
    command.site(f"schema: 1\nengines: [{{version: 0.10.2, image: {image}}}]\n")
    return command


def checks(done: Done) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in done.stderr
    return {check["id"]: check for check in json.loads(done.stdout)}


def test_the_login_part(hpcvlm: Command, tmp_path: Path) -> None:
    done = hpcvlm("doctor", "--json")
    assert done.code == 0, done.stdout
    found = checks(done)
    status = {name: check["status"] for name, check in found.items()}
    assert status["slurm"] == status["accounting"] == status["site-file"] == "ok"
    assert status["gpu-job:gpu"] == status["image:0.10.2"] == status["home-quota"] == "ok"
    assert status["gpu-job:group"] == "warning"  # somebody else's partition
    assert status["gpu-job:cpu"] == "skipped"
    assert found["slurm"]["evidence"] == "Slurm 24.11.5, cluster c1"
    assert "disabled" in found["accounting"]["evidence"]
    assert "#SBATCH --gpus-per-node=A100:1\n" in (tmp_path / "asked").read_text()
    assert not (tmp_path / "submitted").exists()
    assert not hpcvlm.state.exists()
    assert set(found["slurm"]) == {"id", "part", "title", "status", "evidence", "remedy"}


def test_the_table(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--only", "gpu-job", "--only", "slurm")
    assert done.stdout == (
        "Slurm\n"
        "  ok       controller            Slurm 24.11.5, cluster c1\n"
        "  ok       1 GPU in gpu          --gpus-per-node=A100:1: would start at"
        " 2026-11-21T10:18:45 on gpu01\n"
        "  warning  1 GPU in group        sbatch refused the job: Invalid account or"
        " account/partition\n"
        "                                 combination specified (--gpus-per-node=H100:1)\n"
        "                                 try: name your account: --account NAME, or in site.yaml\n"
        "  skipped  1 GPU in cpu          it has no GPUs\n"
    )
    assert done.stderr == "2 ok, 1 warning, 1 skipped\n"
    assert done.code == 0


def test_only_and_skip(hpcvlm: Command) -> None:
    done = hpcvlm("doctor", "--json", "--only", "gpu-job", "--skip", "gpu-job:group")
    assert set(checks(done)) == {"gpu-job:gpu", "gpu-job:cpu"}
    assert set(checks(hpcvlm("doctor", "--json", "--only", "gpu-job:cpu"))) == {"gpu-job:cpu"}
    rest = checks(hpcvlm("doctor", "--json", "--skip", "gpu-job", "--skip", "slurm"))
    assert "accounting" in rest
    assert not {name for name in rest if name.startswith(("gpu-job", "slurm:"))}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "gpujob"), "gpu-job"),
        (("--skip", "nothing"), "hpcvlm doctor --json shows the id of every check"),
        (("--only", "node-gpus"), "hpcvlm doctor --on-node --only node-gpus"),
        (("--on-node", "--gpus", "A100:x"), "for example --gpus A100:4"),
        (("--queue-timeout", "soon"), "--queue-timeout"),
    ],
)
def test_bad_options(hpcvlm: Command, arguments: tuple[str, ...], words: str) -> None:
    done = hpcvlm("doctor", *arguments)
    assert done.code == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert not Path(hpcvlm.environment["SUBMITTED"]).exists()


def test_a_site_file_with_an_error_is_one_failed_check(hpcvlm: Command) -> None:
    hpcvlm.site("schema: 1\npartiton: gpu\n")
    done = hpcvlm("doctor", "--json")
    assert done.code == 1
    found = checks(done)
    assert found["site-file"]["status"] == "failed"
    assert "partiton" in found["site-file"]["evidence"]
    assert found["slurm"]["status"] == "ok"


def test_images_that_are_none(hpcvlm: Command, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.sif"
    wrong.write_text("<html>404</html>")
    lines = [
        f"  - {{version: 0.9.1, image: {tmp_path}/vllm-0.10.2.sif}}",
        f"  - {{version: 0.11.0, image: {tmp_path}/none.sif}}",
        f"  - {{version: 0.12.0, image: {wrong}}}",
    ]
    hpcvlm.site("schema: 1\nengines:\n" + "\n".join(lines) + "\n")
    done = hpcvlm("doctor", "--json", "--only", "image")
    found = checks(done)
    assert done.code == 1
    assert {check["status"] for check in found.values()} == {"failed"}
    assert "holds vllm 0.10.2" in found["image:0.9.1"]["evidence"]
    assert "No such file" in found["image:0.11.0"]["evidence"]
    assert "is not a SIF file" in found["image:0.12.0"]["evidence"]


def test_programs_that_are_missing_or_broken_are_results(hpcvlm: Command, tmp_path: Path) -> None:
    for name in ("scontrol", "srun", "sacct", "apptainer", "quota"):
        (tmp_path / "bin" / name).unlink()
    # Not those of this machine either.
    hpcvlm.environment["PATH"] = str(tmp_path / "bin")
    done = hpcvlm("doctor", "--json")
    found = checks(done)
    assert done.code == 1
    assert found["slurm-programs"]["evidence"] == "not on PATH: srun"
    assert found["slurm"]["status"] == "failed"
    assert found["runtime"]["status"] == "failed"
    assert found["home-quota"]["status"] == "unknown"
    assert found["accounting"]["status"] == "ok"


def test_a_slurm_that_does_not_answer(hpcvlm: Command, tmp_path: Path) -> None:
    down = "#!/bin/sh\necho 'slurm_load: Unable to contact slurm controller' >&2\nexit 1\n"
    for name in ("sinfo", "scontrol", "sbatch"):
        (tmp_path / "bin" / name).write_text(down)
    done = hpcvlm("doctor", "--json", "--only", "slurm", "--only", "gpu-job")
    assert done.code == 1
    found = checks(done)
    assert "Unable to contact slurm controller" in found["slurm"]["evidence"]
    assert found["gpu-job"]["status"] == "failed"
    assert "Unable to contact slurm controller" in found["gpu-job"]["evidence"]


def test_what_takes_long_is_told_on_stderr(hpcvlm: Command, tmp_path: Path) -> None:
    file = tmp_path / "bin" / "scontrol"
    file.write_text(file.read_text().replace("ping)", "ping) sleep 2.5;"))
    done = hpcvlm("doctor", "--only", "slurm")
    assert done.stderr.splitlines() == ["… asking Slurm's controller", "1 ok"]


def test_an_interrupt_of_the_login_part(hpcvlm: Command, tmp_path: Path) -> None:
    asked = tmp_path / "pinged"
    file = tmp_path / "bin" / "scontrol"
    file.write_text(file.read_text().replace("ping)", f"ping) touch {asked}; sleep 5;"))
    process = hpcvlm.start("doctor", "--only", "slurm")
    until = time.monotonic() + 20
    while not asked.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.endswith("error: interrupted; no job was submitted\n")


def test_hub_caches_and_folders_of_the_site(hpcvlm: Command, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    hpcvlm.site(
        f"schema: 1\nhub_caches: [{tmp_path}/hub, {tmp_path}/gone]\nbinds: [{tmp_path}/no]\n"
        f"cache_root: {tmp_path}/caches\n"
    )
    hpcvlm.state.mkdir(mode=0o755)
    done = hpcvlm("doctor", "--json")
    found = checks(done)
    assert done.code == 1
    assert found[f"hub:{tmp_path}/hub"]["status"] == "warning"
    assert "org/name: no weights" in found[f"hub:{tmp_path}/hub"]["evidence"]
    assert found[f"hub:{tmp_path}/gone"]["status"] == "failed"
    assert found[f"filesystem:{tmp_path}/hub"]["status"] in {"ok", "warning"}
    assert f"binds {tmp_path}/no" in found["site-folders"]["evidence"]
    assert found["cache-writable"]["status"] == "ok"
    assert found["state-mode"]["remedy"] == f"chmod 700 {hpcvlm.state}"
    assert list(hpcvlm.state.iterdir()) == []


@pytest.fixture
def local(tmp_path: Path) -> Command:
    """Jobs run on this machine, without containers."""
    python = tmp_path / "engine" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n${PAUSE:-:}\necho 0.33.0\n")
    python.chmod(0o755)
    command = Command(tmp_path, {"PATH": f"{os.environ['PATH']}"})
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines: [{{version: 0.33.0, command: [{python.parent}/vllm]}}]\n"
    )
    return command


def test_the_node_part_on_this_machine(local: Command) -> None:
    done = local("doctor", "--on-node", "--gpus", "0", "--url", "http://127.0.0.1:1/", "--json")
    assert done.code == 0, done.stdout + done.stderr
    found = checks(done)
    for name in ("node-job", "node-shared", "node-clock", "node-tools", "node-image:0.33.0"):
        assert found[name]["status"] == "ok", found[name]
    assert "this machine" in found["node-job"]["evidence"]
    assert "not reached (refused)" in found["node-network"]["evidence"]
    assert found["slurm"]["status"] == "skipped"
    assert list(local.state.iterdir()) == []
    assert local.state.stat().st_mode & 0o777 == 0o700


def test_a_wrong_engine_fails_the_node_part(local: Command) -> None:
    local.site((local.config / "site.yaml").read_text().replace("0.33.0", "0.32.0"))
    done = local("doctor", "--on-node", "--gpus", "0", "--only", "node-image", "--json")
    assert done.code == 1
    assert "holds vllm 0.33.0" in checks(done)["node-image:0.32.0"]["evidence"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_node_part(local: Command, number: signal.Signals) -> None:
    local.environment["PAUSE"] = "sleep 30"
    process = local.start("doctor", "--on-node", "--gpus", "0", "--only", "node-image")
    until = time.monotonic() + 20
    while not list(local.state.glob("doctor/*/seen.tsv")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "interrupted; the doctor's process " in stderr
    assert stderr.rstrip().endswith("was cancelled")
    assert list(local.state.iterdir()) == []


def test_a_state_folder_that_cannot_be_written(local: Command) -> None:
    local.state.write_text("a file\n")
    done = local("doctor", "--on-node", "--gpus", "0", "--json")
    found = checks(done)
    assert done.code == 1
    assert found["state-writable"]["evidence"].endswith("is not a folder")
    assert found["node-job"]["status"] == "failed"
