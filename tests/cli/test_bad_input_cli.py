"""More bad input: what the cluster lacks, files that cannot be read, names that nobody has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Command, Done
from tests.job_fixtures import FAKE_SITE

SINFO = """#!/bin/sh
cat <<'END'
gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4(S:0-1)
short|up|30:00|1|8|16000|gpu:A100:1
big|up|infinite|1|8|16000|gpu:H100:8
END
"""
SBATCH = '#!/bin/sh\ntouch "$SUBMITTED"\necho 4711\n'
GPU = ("--gpus", "A100:1")


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    """The command on a login node with stand-ins for Slurm's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sinfo": SINFO, "sbatch": SBATCH, "srun": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    command = Command(tmp_path, {"PATH": path, "SUBMITTED": str(tmp_path / "submitted")})
    command.site(FAKE_SITE)
    return command


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(hpcvlm: Command, *arguments: str) -> Done:
    """Run what must be refused; sees to it that nothing happened."""
    before = files(hpcvlm.state)
    done = hpcvlm(*arguments)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not Path(hpcvlm.environment["SUBMITTED"]).exists()
    assert files(hpcvlm.state) == before
    return done


def error_and_remedy(done: Done) -> tuple[str, str]:
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: "), done.stderr
    remedy = lines[-1].removeprefix("try:   ") if lines[-1].startswith("try:") else ""
    return lines[0].removeprefix("error: "), remedy


CLUSTER = [
    (
        ("--gpus", "a100:2"),
        "partition gpu has no GPU of type 'a100'; it has A100:4",
        "--gpus A100:2",
    ),
    (
        ("--gpus", "H100:4"),
        "partition gpu has no GPU of type 'H100'; it has A100:4",
        "--partition big, which has them",
    ),
    (
        ("--gpus", "V100:1", "--partition", "short"),
        "partition short has no GPU of type 'V100'; it has A100:1",
        "--gpus A100:1",
    ),
    (
        ("--gpus", "A100:2", "--partition", "short"),
        "no node of partition short has A100:2 GPUs; it has A100:1",
        "--partition gpu, which has them",
    ),
    (
        (*GPU, "--partition", "gpus"),
        "this cluster has no partition 'gpus'",
        "one of gpu, short, big",
    ),
    (
        (*GPU, "--partition", "short", "--time", "2h"),
        "--time 2h is longer than partition short allows (00:30:00)",
        "--time 00:30:00, or another partition; --force time-limit launches all the same",
    ),
    (("--gpus", "0"), "--gpus 0 asks for no GPU", "ask for at least 1"),
]


@pytest.mark.parametrize(("arguments", "sentence", "remedy"), CLUSTER)
def test_what_the_cluster_lacks(
    hpcvlm: Command, arguments: tuple[str, ...], sentence: str, remedy: str
) -> None:
    done = refused(hpcvlm, "launch", "tiny-vlm", *arguments)
    assert error_and_remedy(done) == (sentence, remedy)
    assert done.code == (2 if "--gpus 0" in sentence else 4)


def test_what_is_not_refused_is_submitted(hpcvlm: Command) -> None:
    done = hpcvlm("launch", "tiny-vlm", *GPU, "--no-wait", "--name", "t")
    assert (done.code, done.stdout) == (0, "t\n")
    assert Path(hpcvlm.environment["SUBMITTED"]).exists()


NOT_CONFIGURED = """#!/bin/sh
echo 'sinfo: error: fetch_config: DNS SRV lookup failed' >&2
echo 'sinfo: fatal: Could not establish a configuration source' >&2
exit 1
"""


def test_slurm_that_is_installed_but_belongs_to_no_cluster(hpcvlm: Command, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sinfo").write_text(NOT_CONFIGURED)
    done = refused(hpcvlm, "launch", "tiny-vlm", *GPU, "--executor", "slurm")
    assert done.code == 4
    assert error_and_remedy(done) == (
        "sinfo failed: Could not establish a configuration source",
        "hpcvlm launch --executor local runs it on this machine instead",
    )
    # Asked for nothing in particular, it takes this machine.
    assert hpcvlm("render", "tiny-vlm").code == 0


def site_is_a_folder(hpcvlm: Command) -> str:
    path = hpcvlm.config / "site.yaml"
    path.unlink()
    path.mkdir()
    return f"{path} cannot be read"


def model_is_a_folder(hpcvlm: Command) -> str:
    path = hpcvlm.config / "models" / "tiny-vlm.yaml"
    path.mkdir(parents=True)
    return f"{path} cannot be read"


def site_is_no_yaml(hpcvlm: Command) -> str:
    hpcvlm.site("schema: 1\nengines: [\n")
    return f"{hpcvlm.config / 'site.yaml'}:2: "


def site_has_an_unknown_key(hpcvlm: Command) -> str:
    hpcvlm.site("schema: 1\npartiton: gpu\n")
    return f"{hpcvlm.config / 'site.yaml'}:2: partiton: unknown key; did you mean 'partition'?"


def site_has_a_wrong_type(hpcvlm: Command) -> str:
    hpcvlm.site("schema: 1\ncpus_per_gpu: eight\n")
    return f"{hpcvlm.config / 'site.yaml'}:2: cpus_per_gpu: "


def two_files_for_one_model(hpcvlm: Command) -> str:
    folder = hpcvlm.config / "models"
    folder.mkdir()
    for name in ("tiny-vlm.yaml", "tiny-vlm.yml"):
        (folder / name).write_text("time: 1h\n")
    return f"{folder / 'tiny-vlm.yml'}: tiny-vlm.yaml is for the same model"


@pytest.mark.parametrize(
    "make",
    [
        site_is_a_folder,
        model_is_a_folder,
        site_is_no_yaml,
        site_has_an_unknown_key,
        site_has_a_wrong_type,
        two_files_for_one_model,
    ],
)
def test_files_that_cannot_be_used(hpcvlm: Command, make: Callable[[Command], str]) -> None:
    sentence = make(hpcvlm)
    done = refused(hpcvlm, "launch", "tiny-vlm", *GPU)
    assert done.code == 2
    assert done.stderr.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("launch", "tiny-vlm", *GPU, "--queue-timeout", "soon"), 2, "--queue-timeout 'soon' is"),
        (("launch", "tiny-vlm", *GPU, "--queue-timeout", ""), 2, "--queue-timeout '' is"),
        (("launch", "tiny-vlm", *GPU, "--nodes", "0"), 2, "--nodes"),
        (("launch", "tiny-vlm", *GPU, "--nam", "t"), 2, "--name"),
        (("launch",), 2, "model"),
        (("launch", "tiny-vlm", *GPU, "--name", "x" * 49), 2, "up to 48 small letters"),
        (("launch", "tiny-vlm", *GPU, "--name", "../t"), 2, "is not a name"),
        (("launch", "tiny-vlm", *GPU, "--set", "time=soon"), 2, "time: is 'soon' (expected"),
        (("launch", "tiny-vlm", *GPU, "--set", "parallelism.gpus.A100=0"), 2, "1 or more"),
        (("launch", "tiny-vlm", *GPU, "--account", "a\n#SBATCH --x"), 2, "control character"),
        (("launch", "../../etc/passwd", *GPU), 3, "no model is called '../../etc/passwd'"),
        (("launch", "", *GPU), 3, "no model is called ''"),
        (("wait", "none"), 3, "no endpoint is called 'none'"),
        (("status", "none"), 3, "no endpoint is called 'none'"),
        (("logs", "none"), 3, "no endpoint is called 'none'"),
        (("env", "../jobs"), 3, "no endpoint is called '../jobs'"),
        (("snippet", ""), 3, "no endpoint is called ''"),
        (("snippet", "t", "--image", "/no/cat.png"), 2, "there is no file /no/cat.png"),
        (("stop", "none"), 3, "no endpoint is called 'none'"),
        (("stop",), 2, "say which endpoints to stop"),
        (("stop", "none", "--all"), 2, "say which endpoints to stop"),
        (("smoke-test",), 2, "say which endpoint to test"),
        (("smoke-test", "t", "--url", "http://x"), 2, "say which endpoint to test"),
        (("smoke-test", "--url", "node07:8000"), 2, "for example http://node07:8000"),
        (("smoke-test", "--url", "http://x", "--key-file", "/no/key"), 3, "/no/key"),
        (("models", "validate", "/no/such.yaml"), 2, "cannot read /no/such.yaml"),
        (("render", "tiny-vlm", *GPU, "-o", "/dev/null/x"), 2, "cannot write to /dev/null/x"),
        (("lauch", "tiny-vlm"), 2, "lauch"),
    ],
)
def test_other_commands_and_options(
    hpcvlm: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = refused(hpcvlm, *arguments)
    assert done.code == code, done.stderr
    assert words in done.stderr


def test_an_engine_that_is_named_but_is_none(hpcvlm: Command, tmp_path: Path) -> None:
    hpcvlm.site("schema: 1\n")
    hpcvlm.environment["HPCVLM_VLLM"] = str(tmp_path / "vllm")
    for arguments in (("launch", "tiny-vlm", "--executor", "local"), ("demo",)):
        done = refused(hpcvlm, *arguments)
        assert done.code == 3
        assert error_and_remedy(done) == (
            f"HPCVLM_VLLM={tmp_path}/vllm is not the vllm command of an environment with vLLM",
            "name the file bin/vllm of the environment that vLLM is installed in",
        )


def test_a_state_folder_that_is_a_file(hpcvlm: Command) -> None:
    hpcvlm.state.write_text("")
    done = hpcvlm("launch", "tiny-vlm", *GPU)
    assert done.code == 1
    sentence, remedy = error_and_remedy(done)
    assert sentence.startswith(f"cannot write the job folder {hpcvlm.state}/jobs/tiny-vlm-")
    assert remedy == "set HPCVLM_STATE to a folder that login and compute nodes share"
    assert hpcvlm("ls").code == 0


def test_an_sbatch_that_gives_no_number_leaves_nothing(hpcvlm: Command, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted\n")
    for command in ("squeue", "sacct"):
        (tmp_path / "bin" / command).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / command).chmod(0o755)
    done = hpcvlm("launch", "tiny-vlm", *GPU)
    assert done.code == 4
    assert error_and_remedy(done) == (
        "sbatch gave no job number but 'Submitted'; Slurm has no such job, "
        "so nothing was submitted",
        "launch it again; scontrol ping shows the controller's state",
    )
    assert list((hpcvlm.state / "jobs").iterdir()) == []


def test_where_nobody_can_say_what_sbatch_did_the_job_stays_in_sight(
    hpcvlm: Command, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted\n")
    done = hpcvlm("launch", "tiny-vlm", "--name", "mine", *GPU)
    assert done.code == 4
    sentence, remedy = error_and_remedy(done)
    assert sentence.endswith("; whether the job of mine was accepted is not known")
    assert remedy == "hpcvlm status mine tells once Slurm answers; hpcvlm stop mine then stops it"
    assert [row["name"] for row in hpcvlm("ls", "--json").json()] == ["mine"]
