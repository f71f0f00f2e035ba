"""What bad input gets: its own sentence, its own exit code, nothing submitted, nothing left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT, Command

FAKE = ROOT / "tests" / "fake_vllm.py"
ENGINE = f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
LOCAL = f"schema: 1\nexecutor: local\nruntime: none\n{ENGINE}"


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    """The command on a machine without Slurm, with a stand-in engine."""
    # No PATH rather than no SLURM_CONF: an installed sinfo would look for that for a minute.
    command = Command(tmp_path, {"PATH": str(tmp_path / "no programs")})
    command.site(LOCAL)
    return command


def model(hpcvlm: Command, text: str) -> str:
    """A model file of the user's; gives its path."""
    path = hpcvlm.config / "models" / "mine.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def no_snapshot(hpcvlm: Command) -> None:
    model(hpcvlm, "snapshot: {repo: org/not-here}\nengine: {versions: '>=0.10'}\n")


def broken_snapshot(hpcvlm: Command) -> None:
    folder = hpcvlm.config / "hub" / "models--org--cut" / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    hpcvlm.site(LOCAL + f"hub_caches: ['{hpcvlm.config}/hub']\n")
    model(hpcvlm, "snapshot: {repo: org/cut}\n")


def no_container(hpcvlm: Command) -> None:
    hpcvlm.site(
        "schema: 1\nexecutor: local\nengines: [{version: 0.32.0, image: /images/none-0.32.0.sif}]\n"
    )


def unknown_key(hpcvlm: Command) -> None:
    model(hpcvlm, "schema: 1\nsnapshot:\n  repo: org/x\n  revison: main\n")


def wrong_type(hpcvlm: Command) -> None:
    model(hpcvlm, "schema: 1\nsnapshot: {repo: org/x}\nparallelism:\n  attention_heads: many\n")


def bad_site(hpcvlm: Command) -> None:
    hpcvlm.site("schema: 1\nruntime: shifter\n")


def nothing(_: Command) -> None:
    """The shipped files are enough."""


CASES: list[tuple[str, Callable[[Command], None], tuple[str, ...], int, tuple[str, ...]]] = [
    ("unknown model", nothing, ("tiny-vml",), 3, ("no model is called 'tiny-vml'", "tiny-vlm")),
    (
        "unknown key",
        unknown_key,
        ("mine",),
        2,
        ("mine.yaml:4: snapshot.revison: unknown key; did you mean 'revision'?",),
    ),
    ("wrong type", wrong_type, ("mine",), 2, ("mine.yaml:4: parallelism.attention_heads",)),
    ("bad site", bad_site, ("tiny-vlm",), 2, ("site.yaml:2: runtime", "shifter")),
    ("gpus", nothing, ("tiny-vlm", "--gpus", "A100:x"), 2, ("--gpus A100:4 or --gpus 4",)),
    ("time", nothing, ("tiny-vlm", "--time", "soon"), 2, ("--time 'soon'", "2:00:00")),
    ("name", nothing, ("tiny-vlm", "--name", "A b"), 2, ("--name 'A b' is not a name",)),
    ("set", nothing, ("tiny-vlm", "--set", "x"), 2, ("--set 'x' is not KEY=VALUE",)),
    ("set key", nothing, ("tiny-vlm", "--set", "optoins.a=1"), 2, ("did you mean 'options'",)),
    ("newline", nothing, ("tiny-vlm", "--engine-arg=a\nb"), 2, ("holds a control character",)),
    ("executor", nothing, ("tiny-vlm", "--executor", "pbs"), 2, ("slurm or local",)),
    ("media root", nothing, ("tiny-vlm", "--media-root", "/no/such"), 2, ("is not a folder",)),
    ("nodes", nothing, ("tiny-vlm", "--nodes", "2"), 2, ("one endpoint runs on one node",)),
    ("heads", nothing, ("tiny-vlm", "--gpus", "3"), 2, ("3 does not divide the model's 4",)),
    (
        "engine version",
        nothing,
        ("llama-3.2-11b-vision",),
        3,
        ("needs vllm >=0.9.1,<=0.10.2", "this site has 0.32.0", "27198"),
    ),
    ("container", no_container, ("tiny-vlm",), 3, ("/images/none-0.32.0.sif does not exist",)),
    (
        "snapshot",
        no_snapshot,
        ("mine",),
        3,
        ("org/not-here at revision main is in no hub cache", "hpcvlm snapshots pull mine"),
    ),
    ("cut short", broken_snapshot, ("mine",), 3, ("model.safetensors: not a safetensors file",)),
    ("no Slurm", nothing, ("tiny-vlm", "--executor", "slurm"), 4, ("--executor local",)),
]


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "words"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_bad_input(
    hpcvlm: Command,
    prepare: Callable[[Command], None],
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    prepare(hpcvlm)
    done = hpcvlm("launch", *arguments)
    assert done.code == code, done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    jobs = hpcvlm.state / "jobs"
    assert not jobs.exists() or list(jobs.iterdir()) == []


HEADS = "parallelism={attention_heads: 4}"


def test_all_problems_are_told_at_once(hpcvlm: Command) -> None:
    no_snapshot(hpcvlm)
    done = hpcvlm(
        "launch", "mine", "--nodes", "2", "--gpus", "3", "--set", "parallelism={attention_heads: 4}"
    )
    assert done.code == 2
    assert "does not divide" in done.stderr
    assert "one endpoint runs on one node" in done.stderr
    assert "is in no hub cache" in done.stderr


def test_dry_run_prints_the_script_and_says_what_would_be_refused(hpcvlm: Command) -> None:
    no_container(hpcvlm)
    done = hpcvlm("launch", "tiny-vlm", "--dry-run")
    assert done.code == 3
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "a launch would be refused for this" in done.stderr
    assert hpcvlm("render", "tiny-vlm").code == 0


def test_a_state_folder_that_cannot_be_written(hpcvlm: Command) -> None:
    hpcvlm.environment["HPCVLM_STATE"] = "/proc/nowhere"
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "0")
    assert done.code == 1
    assert "cannot write the job folder" in done.stderr
    assert "set HPCVLM_STATE" in done.stderr


SBATCH_REFUSES = """#!/bin/sh
printf 'sbatch: error: Batch job submission failed: ' >&2
echo 'Invalid account or account/partition combination specified' >&2
exit 1
"""
SBATCH_WARNS = """#!/bin/sh
echo 'sbatch: lua: your account is almost empty' >&2
echo 4711
"""
SINFO = "#!/bin/sh\necho 'gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4'\n"
SINFO_AWAY = """#!/bin/sh
echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2
exit 1
"""


def slurm(hpcvlm: Command, tmp_path: Path, **commands: str) -> None:
    """Stand-ins for Slurm's commands, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": "#!/bin/sh\n", "sinfo": SINFO, **commands}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    hpcvlm.environment["PATH"] = f"{folder}:/usr/bin:/bin"
    hpcvlm.site(LOCAL.replace("executor: local", "executor: auto"))


def test_sbatch_s_refusal_is_told_in_its_own_words(hpcvlm: Command, tmp_path: Path) -> None:
    slurm(hpcvlm, tmp_path, sbatch=SBATCH_REFUSES)
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--account", "nope")
    assert done.code == 4
    assert "Invalid account or account/partition combination specified" in done.stderr
    assert "--account" in done.stderr
    assert list((hpcvlm.state / "jobs").iterdir()) == []


def test_sbatch_s_warning_is_shown_and_the_job_kept(hpcvlm: Command, tmp_path: Path) -> None:
    slurm(hpcvlm, tmp_path, sbatch=SBATCH_WARNS)
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--no-wait", "--name", "kept")
    assert done.code == 0, done.stderr
    assert "your account is almost empty" in done.stderr
    assert done.stdout == "kept\n"
    assert '"job_id": "4711"' in (hpcvlm.state / "jobs" / "kept" / "record.json").read_text()


def test_a_controller_that_is_away_does_not_start_jobs_on_the_login_node(
    hpcvlm: Command, tmp_path: Path
) -> None:
    slurm(hpcvlm, tmp_path, sbatch=SBATCH_WARNS, sinfo=SINFO_AWAY)
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1")
    assert done.code == 4
    assert "Unable to contact slurm controller" in done.stderr
    assert not (hpcvlm.state / "jobs").exists()


def test_an_output_that_cannot_be_written(hpcvlm: Command) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hpcvlm", "models", "ls"],
            env=hpcvlm.environment,
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
