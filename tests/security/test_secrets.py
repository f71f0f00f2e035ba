"""The key, tokens and addresses that are secrets: who gets to see them while a job runs, and after.

Looked for in every command line, log, state, plan, script and record, and in what Slurm shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, Command, open_way_to
from tests.job_fixtures import FAKE, RunningJob, local_plan
from tests.realparts import SlurmCluster
from tests.security.looking import KEY_FILES, CommandLines, files_with, make_recorders, shown

TOKEN = "hf_SecretOfTheTestSecretOfTheTest"
HOOK = "SecretPathOfTheWebhook/T000/B000"
NOBODY = "65534"
PROGRAMS = (
    *("curl", "cat", "mv", "cp", "rm", "mkdir", "chmod", "head", "base64", "tr", "date", "uname"),
    *("mktemp", "stat", "sleep", "touch", "df", "flock", "mail", "timeout", "tail", "ln", "env"),
)


@pytest.mark.slow
def test_no_program_of_a_job_is_given_the_key(tmp_path: Path) -> None:
    """Neither as an argument nor in its environment: each program notes what it gets."""
    log = tmp_path / "given"
    path = make_recorders(tmp_path / "bin", log, PROGRAMS, os.environ["PATH"])
    echo = tmp_path / "engine.json"
    result = local_plan(tmp_path / "state" / "t", f"environment.FAKE_VLLM_ECHO={echo}")
    job = RunningJob.start(
        result.plan, tmp_path / "run", environment={"PATH": path, "HF_TOKEN": TOKEN}
    )
    try:
        job.reach("ready")
        key = (job.folder / "key").read_text().strip()
        assert len(key) >= 32
        job.end(term=True)
    finally:
        job.close()
    given = log.read_bytes()
    assert b"/v1/chat/completions" in given
    assert key.encode() not in given
    assert key not in echo.read_text()
    assert files_with(job.folder, key) <= set(KEY_FILES)
    assert not (job.folder / "curl.conf").exists()
    assert key not in job.said
    for name in files_with(job.folder, TOKEN):
        raise AssertionError(f"{name} holds a token of the environment")


@pytest.fixture
def hpcvlm(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Command]:
    hook = tmp_path / "hook"
    hook.write_text(f"http://127.0.0.1:9/{HOOK}\n")
    hook.chmod(0o600)
    environment = {**slurm_cluster.environment, "HF_TOKEN": TOKEN, "OPENAI_API_KEY": TOKEN}
    command = Command(tmp_path, environment)
    command.site(
        "schema: 1\nruntime: none\n"
        f"notify: {{webhook_file: {hook}, events: [ready, failed, ended]}}\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    yield command
    command("stop", "--all")


def said_by(command: Command, *argv: str) -> str:
    """What one of Slurm's programs shows, to a user or to an admin."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(
        argv, env=command.environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.slurm
def test_a_run_on_slurm_shows_and_leaves_no_secret(hpcvlm: Command) -> None:
    with CommandLines([TOKEN, HOOK]) as lines:
        done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "s", "--json")
        assert done.code == 0, done.stderr
        key = Path(done.json()["key_file"]).read_text().strip()
        lines.secrets.append(key.encode())
        job = done.json()["job_id"]
        texts = {
            "launch": done.stdout + done.stderr,
            **{
                " ".join(words): (d := hpcvlm(*words)).stdout + d.stderr
                for words in (
                    ("status", "s"),
                    ("status", "s", "--json"),
                    ("ls", "--all", "--json"),
                    ("logs", "s"),
                    ("snippet", "s"),
                    ("smoke-test", "s", "--json"),
                    ("why", "s"),
                    ("usage",),
                    ("doctor", "--json"),
                )
            },
            **{
                " ".join(words): said_by(hpcvlm, *words)
                for words in (
                    ("scontrol", "show", "job", "--details", job),
                    ("scontrol", "write", "batch_script", job, "-"),
                    ("squeue", "--all", "--Format=ALL", f"--jobs={job}"),
                    ("squeue", "--all", "--format=%all", f"--jobs={job}"),
                    ("sacct", "--parsable2", "--format=ALL", f"--jobs={job}"),
                )
            },
        }
        again = hpcvlm("rotate-key", "s")
        assert again.code == 0, again.stderr
        new = Path(done.json()["key_file"]).read_text().strip()
        lines.secrets.append(new.encode())
        texts["rotate-key"] = again.stdout + again.stderr
        texts["stop"] = hpcvlm("stop", "s").stdout
    assert any(line.endswith(b"sbatch") or b"python" in line for line in lines.seen)
    assert lines.found == set()
    assert job in texts[f"scontrol show job --details {job}"]
    assert "snapshot=" in texts[f"scontrol write batch_script {job} -"]
    folder = hpcvlm.state / "jobs" / "s"
    for secret in (key, new, TOKEN, HOOK):
        assert shown(texts, secret) == []
        where = files_with(hpcvlm.state, secret) - {f"jobs/s/{name}" for name in KEY_FILES}
        assert where == set(), secret
    for name in ("plan.json", "record.json", "state.json", "job.sbatch", "engine.out"):
        assert (folder / name).exists(), name
    assert files_with(folder, new) <= set(KEY_FILES)
    assert "key" in files_with(folder, new)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as somebody else")
def test_other_users_see_neither_environment_nor_files(tmp_path: Path) -> None:
    """Not even where the way to the state folder is open to all."""
    open_way_to(tmp_path)
    result = local_plan(tmp_path / "state" / "t")
    job = RunningJob.start(result.plan, tmp_path / "run", environment={"HF_TOKEN": TOKEN})
    try:
        job.reach("ready")
        state = job.state
        tmp_path.joinpath("state").chmod(0o755)
        places = [str(job.folder), *(str(path) for path in job.folder.rglob("*"))]
        for pid in (state["shell_pid"], state["engine_pid"]):
            places += [f"/proc/{pid}/{name}" for name in ("environ", "maps", "mem", "cwd/", "fd/0")]
        said = as_nobody(*(f'head -c 1 "{place}" 2>/dev/null; echo $?' for place in places))
        assert set(said.split()) == {"1"}
        # What they do see: that the job is there, and its command line.
        line = as_nobody(f"tr '\\0' ' ' </proc/{state['engine_pid']}/cmdline")
        assert "--middleware hpcvlm_guard.KeyGuard" in line
    finally:
        job.close()


def as_nobody(*commands: str) -> str:
    """What a user without any right gets to see."""
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "bash"]
    done = subprocess.run(
        argv, input="\n".join(commands), capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout


CRASH = """
import sys
from hpcvlm.endpoints import endpoint
from hpcvlm.cli import main

def broken(*arguments, **named):
    kept = arguments  # the key is among them
    raise RuntimeError("something that nobody thought of")

endpoint.exports = broken
sys.argv = ["hpcvlm", "env", "t"]
main.main()
"""


@pytest.mark.slow
def test_a_crash_with_the_key_in_hand_does_not_print_it(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    done = command("launch", "tiny-vlm", "--name", "t", "--json")
    assert done.code == 0, done.stderr
    try:
        key = Path(done.json()["key_file"]).read_text().strip()
        crashed = subprocess.run(
            [sys.executable, "-c", CRASH],
            env=command.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert crashed.returncode == 1
        assert "something that nobody thought of" in crashed.stderr
        assert key not in crashed.stdout + crashed.stderr
    finally:
        command("stop", "t")


def test_no_command_takes_a_secret_as_an_argument() -> None:
    """An argument is public: keys and tokens come from files and from the environment."""
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    options = set(re.findall(r"`--([a-z-]+) <(?:text|str|path)>`", text))
    assert "key-file" in options
    assert "gpus" in options
    secret = {o for o in options if re.search(r"(^|-)(key|token|password|secret|webhook)$", o)}
    assert secret == set()
