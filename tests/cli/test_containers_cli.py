"""hpcvlm containers: what is listed, refused, checked; with a runtime that only pretends."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from tests.command import Command

FACTS = {
    "engine": "0.10.2",
    "torch": "2.8.0",
    "transformers": "4.55.2",
    "python": "3.12.3",
    "cuda": "12.8",
    "hip": "",
    "architecture": "x86_64",
}


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    folder = tmp_path / "bin"
    folder.mkdir()
    path = f"{folder}:{os.environ['PATH']}"
    return Command(tmp_path, {"HOME": str(tmp_path), "PATH": path})


def program(hpcvlm: Command, name: str, body: str) -> None:
    file = hpcvlm.state.parent / "bin" / name
    file.write_text(f'#!/bin/bash\necho "$@" >>{hpcvlm.state.parent}/calls\n{body}\n')
    file.chmod(0o755)


def apptainer(hpcvlm: Command, facts: dict[str, str] | None = None) -> None:
    line = json.dumps(facts or FACTS)
    program(
        hpcvlm,
        "apptainer",
        f"case $1 in exec) echo '{line}';; inspect) echo '{{}}';; *) echo FATAL: no >&2; exit 255;;"
        " esac",
    )


def sif(path: Path, *, end: int = 9000, size: int = 9000, mode: int = 0o644) -> Path:
    """A file with the head of a SIF whose only object ends at a place."""
    numbers = (1795267444, 0, 0, 1, 128, 585, 0, 0)
    head = struct.pack("<32s10s3s3s16s8q", b"#!", b"SIF_MAGIC\0", b"01\0", b"02\0", b"", *numbers)
    entry = (0x4004, True, 1, 1, 0, 5000, end - 5000, 0, 0, 0, 0, 0, b"", b"")
    head += struct.pack("<i?3I7q128s384s", *entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.ljust(size, b"\0")[:size])
    path.chmod(mode)
    return path


def folder(hpcvlm: Command) -> Path:
    return hpcvlm.state / "containers"


def said(text: str) -> dict[str, str]:
    """Rows of a table by their first column."""
    return {line.split()[0]: line for line in text.splitlines()[1:]}


# ---- ls ---------------------------------------------------------------------------------------


def test_a_site_without_images(hpcvlm: Command) -> None:
    done = hpcvlm("containers", "ls")
    assert (done.code, done.stdout) == (0, "")
    assert "hpcvlm containers build VERSION" in done.stderr
    assert hpcvlm("containers", "ls", "--json").json() == {"images": [], "leftovers": []}


def test_a_broken_image_is_a_row(hpcvlm: Command) -> None:
    apptainer(hpcvlm)
    site = {"schema": 1, "engines": [{"version": "0.9.1", "image": "/nowhere/vllm-0.9.1.sif"}]}
    hpcvlm.site(json.dumps(site))
    sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    sif(folder(hpcvlm) / "vllm-0.11.0.sif", size=6000)
    sif(folder(hpcvlm) / "vllm-0.12.0.sif", mode=0o666)
    (folder(hpcvlm) / "vllm-0.13.0.sif").write_text("<html>404</html>")
    (folder(hpcvlm) / "vllm-0.14.0.sif").symlink_to("/nowhere/gone.sif")
    (folder(hpcvlm) / "vllm-0.15.0.sif.partial-0123").touch()
    done = hpcvlm("containers", "ls")
    assert done.code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    states = {version: line.split()[-1] for version, line in said(done.stdout).items()}
    assert states == {
        "0.9.1": "missing",
        "0.10.2": "ok",
        "0.11.0": "invalid",
        "0.12.0": "writable",
        "0.13.0": "invalid",
        "0.14.0": "missing",
    }
    for words in ("cut off: 6000 of at least 9000 bytes", "is no SIF file", "by everybody"):
        assert words in done.stderr
    assert "left by a build that did not end" in done.stderr
    assert not (hpcvlm.state.parent / "calls").exists(), "nothing is started"
    listed = hpcvlm("containers", "ls", "--json").json()
    problems = {one["version"]: [p["code"] for p in one["problems"]] for one in listed["images"]}
    assert problems["0.10.2"] == []
    assert problems["0.11.0"] == ["container-invalid"]
    assert len(listed["leftovers"]) == 1


def test_a_row_knows_what_was_read_until_the_file_changes(hpcvlm: Command) -> None:
    apptainer(hpcvlm)
    path = sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    assert hpcvlm("containers", "inspect", "0.10.2").code == 0
    (before,) = hpcvlm("containers", "ls", "--json").json()["images"]
    assert before["facts"] == FACTS
    assert len(before["sha256"]) == 64
    os.utime(path, (1, 1))
    (after,) = hpcvlm("containers", "ls", "--json").json()["images"]
    assert after["sha256"] is None
    assert after["facts"] is None
    assert [one["code"] for one in after["problems"]] == ["container-changed"]


def test_podman_keeps_its_images_by_name(hpcvlm: Command) -> None:
    entry = {"Id": "sha256:" + "ab" * 32, "Size": 5000, "Config": {"Labels": {"a": "b"}}}
    program(
        hpcvlm,
        "podman",
        f"case \"$1 $*\" in run*) echo '{json.dumps(FACTS)}';; *gone*) exit 125;;"
        f" *) echo '{json.dumps([entry])}';; esac",
    )
    engines = [{"version": "0.10.2", "image": "local/vllm:1"}, {"version": "9", "image": "gone:1"}]
    engines[1]["version"] = "0.9.1"
    hpcvlm.site(json.dumps({"schema": 1, "runtime": "podman", "engines": engines}))
    good, gone = hpcvlm("containers", "ls", "--json").json()["images"]
    assert good["sha256"] == "ab" * 32
    assert gone["problems"][0]["remedy"] == "podman pull gone:1"
    found = hpcvlm("containers", "inspect", "0.10.2", "--json").json()
    assert found["facts"] == FACTS
    assert found["labels"] == {"a": "b"}
    refused = hpcvlm("containers", "verify", "0.10.2")
    assert refused.code == 2
    assert "only .sif files are verified" in refused.stderr


# ---- inspect ----------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["0.10.2", "v", "vllm-0.10.2.sif", "path"])
def test_an_image_is_named_by_version_or_file(hpcvlm: Command, typed: str) -> None:
    apptainer(hpcvlm)
    path = sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    word = {"v": "0.10.2+cu128", "path": str(path)}.get(typed, typed)
    done = hpcvlm("containers", "inspect", word, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["image"] == str(path)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("0.9.1", "hpcvlm containers build 0.9.1"),
        ("banana", "hpcvlm containers ls"),
        ("/nowhere/vllm-0.9.1.sif", "hpcvlm containers build 0.9.1"),
    ],
)
def test_an_image_that_is_not_here(hpcvlm: Command, typed: str, words: str) -> None:
    done = hpcvlm("containers", "inspect", typed)
    assert done.code == 3
    assert words in done.stderr


def test_an_image_that_does_not_tell(hpcvlm: Command) -> None:
    program(hpcvlm, "apptainer", "echo 'FATAL:   exec: \"python3\": not found' >&2; exit 255")
    sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    done = hpcvlm("containers", "inspect", "0.10.2")
    assert done.code == 1
    assert 'does not tell what is in it: exec: "python3": not found' in done.stderr
    assert "binds:" in done.stderr


def test_a_state_folder_that_cannot_be_written_is_no_reason_to_fail(hpcvlm: Command) -> None:
    apptainer(hpcvlm)
    path = sif(hpcvlm.state.parent / "vllm-0.10.2.sif")
    hpcvlm.environment["HPCVLM_STATE"] = "/dev/null/state"
    done = hpcvlm("containers", "inspect", str(path), "--json")
    assert done.code == 0, done.stderr
    assert done.json()["facts"] == FACTS


# ---- build and pull ---------------------------------------------------------------------------


def test_a_dry_run_shows_the_script_and_changes_nothing(hpcvlm: Command) -> None:
    done = hpcvlm("containers", "build", "0.10.2", "--as", "job", "--dry-run")
    assert done.code == 0
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH --job-name=hpcvlm-build-vllm-0.10.2\n")
    assert not hpcvlm.state.exists()


def test_a_version_that_is_not_known_yet_is_said(hpcvlm: Command) -> None:
    done = hpcvlm("containers", "build", "99.0.0", "--dry-run")
    assert done.code == 0
    assert "note: vLLM 99.0.0 is not among the releases known here" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("build",), 2, "which version of the engine is it?"),
        (("build", "0.1"), 2, "older than"),
        (("build", "0.10.2", "--engine", "sglang"), 2, "there is no definition for it"),
        (("build", "0.10.2", "--as", "elsewhere"), 2, "neither here nor job"),
        (("pull", "docker://x/y:latest"), 2, "--version 0.10.2"),
        (("pull", "/nowhere/vllm-0.10.2.sif"), 3, "there is no /nowhere"),
        (("pull", "/nowhere/latest.sif"), 3, "there is no /nowhere"),
        (("pull", "/etc/passwd", "--version", "0.10.2"), 2, "/etc/passwd is no SIF file"),
    ],
)
def test_refusals(hpcvlm: Command, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = hpcvlm("containers", *arguments)
    assert words in done.stderr
    assert done.code == code
    assert not hpcvlm.state.exists()


def test_an_image_is_replaced_only_when_asked(hpcvlm: Command) -> None:
    sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    done = hpcvlm("containers", "build", "0.10.2")
    assert done.code == 2
    assert "exists already" in done.stderr
    assert "--force" in done.stderr
    assert hpcvlm("containers", "build", "0.10.2", "--force", "--dry-run").code == 0


def test_a_folder_that_cannot_be_written(hpcvlm: Command) -> None:
    done = hpcvlm("containers", "build", "0.10.2", "--output", "/dev/null/images/x.sif")
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "name a folder that you may write" in done.stderr


# ---- check ------------------------------------------------------------------------------------


def test_each_model_on_each_image(hpcvlm: Command) -> None:
    sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    sif(folder(hpcvlm) / "vllm-0.20.0.sif")
    models = ("--model", "llama-3.2-11b-vision", "--model", "qwen2.5-vl-7b")
    done = hpcvlm("containers", "check", *models, "--driver", "550.54.14")
    assert done.code == 0, "each is served by one of them"
    assert max(map(len, done.stdout.splitlines())) <= 100
    found = hpcvlm("containers", "check", *models, "--driver", "550.54.14", "--json").json()
    serves = {one["version"]: {m["model"]: m["serves"] for m in one["models"]} for one in found}
    assert serves["0.10.2"] == {"llama-3.2-11b-vision": True, "qwen2.5-vl-7b": True}
    assert serves["0.20.0"]["llama-3.2-11b-vision"] is False
    problems = {one["version"]: [p["code"] for p in one["problems"]] for one in found}
    assert problems == {"0.10.2": [], "0.20.0": ["driver"]}
    only = hpcvlm("containers", "check", "0.20.0", "--model", "llama-3.2-11b-vision")
    assert only.code == 1


def test_old_gpus_and_images_that_were_read(hpcvlm: Command) -> None:
    apptainer(hpcvlm, {**FACTS, "engine": "0.20.0", "cuda": "13.0"})
    sif(folder(hpcvlm) / "vllm-0.20.0.sif")
    assert hpcvlm("containers", "inspect", "0.20.0").code == 0
    (one,) = hpcvlm("containers", "check", "--gpus", "V100", "--driver", "580.1", "--json").json()
    assert (one["read"], one["cuda"]) == (True, "13.0")
    assert [problem["code"] for problem in one["problems"]] == ["gpu-too-old"]
    assert len(one["models"]) > 10


def test_check_without_anything_to_check(hpcvlm: Command) -> None:
    assert hpcvlm("containers", "check").code == 3
    sif(folder(hpcvlm) / "vllm-0.10.2.sif")
    assert hpcvlm("containers", "check", "--model", "no-such-model").code == 3
    assert hpcvlm("containers", "check", "--gpus", "banana").code == 4
