"""Container runtimes, kernels and images, judged."""

from __future__ import annotations

import json

import pytest

from hpcvlm.doctor import commands, containers
from hpcvlm.doctor.model import Answer, Check, Question, Status
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import EngineInstall

Q = Question("id", "part", "title")
SIF = "/images/vllm-0.10.2.sif"
INSTALL = EngineInstall(version="0.10.2", image=SIF)
# `apptainer buildcfg` of 1.4.5 as Debian builds it, shortened.
BUILDCFG = Answer(0, "PACKAGE_VERSION=1.4.5\nLIBEXECDIR=/usr/libexec\nAPPTAINER_SUID_INSTALL=0\n")


def test_runtimes() -> None:
    found = containers.judge_runtime(Q, "apptainer", Answer(0, "apptainer version 1.4.5\n"))
    assert (found.status, found.evidence) == (Status.OK, "apptainer version 1.4.5")
    assert containers.judge_runtime(Q, "apptainer", Answer(127)).status is Status.FAILED
    loaded = containers.judge_runtime(Q, "apptainer", Answer(127), "Apptainer/1.3")
    assert loaded.status is Status.UNKNOWN
    assert "Apptainer/1.3" in loaded.evidence
    assert containers.judge_runtime(Q, "none", Answer(127)).status is Status.SKIPPED
    broken = containers.judge_runtime(Q, "apptainer", Answer(1, "", "no libseccomp\n"))
    assert (broken.status, "no libseccomp" in broken.evidence) == (Status.FAILED, True)


@pytest.mark.parametrize(
    ("spaces", "setuid", "status"),
    [
        (containers.Namespaces(96365, None, None), False, Status.OK),
        (containers.Namespaces(None, 1, 0), None, Status.OK),
        (containers.Namespaces(0, None, None), False, Status.FAILED),
        (containers.Namespaces(0, None, None), True, Status.OK),
        (containers.Namespaces(0, None, None), None, Status.WARNING),
        (containers.Namespaces(1000, 0, None), False, Status.FAILED),
        (containers.Namespaces(1000, 1, 1), False, Status.WARNING),
    ],
)
def test_user_namespaces(
    spaces: containers.Namespaces, setuid: bool | None, status: Status
) -> None:
    check = containers.judge_namespaces(Q, "apptainer", spaces, setuid)
    assert check.status is status
    assert bool(check.remedy) == (status is not Status.OK)


def test_setuid_is_read_from_how_the_runtime_was_built() -> None:
    assert containers.is_setuid(BUILDCFG) is False
    assert containers.is_setuid(Answer(0, "SINGULARITY_SUID_INSTALL=1\n")) is True
    assert containers.is_setuid(Answer(127)) is None


def fuse(*, device: bool, helper: str, setuid: bool = False) -> Check:
    return containers.judge_fuse(Q, "apptainer", device=device, helper=helper, setuid=setuid)


def test_fuse() -> None:
    assert fuse(device=True, helper="/usr/bin/squashfuse_ll").status is Status.OK
    assert fuse(device=False, helper="", setuid=True).status is Status.OK
    closed = fuse(device=False, helper="/usr/bin/squashfuse_ll")
    assert (closed.status, "images may not start" in closed.evidence) == (Status.WARNING, True)
    lacking = fuse(device=True, helper="")
    assert (lacking.status, "unpacks" in lacking.evidence) == (Status.WARNING, True)
    podman = containers.judge_fuse(Q, "podman", device=False, helper="", setuid=None)
    assert podman.status is Status.SKIPPED


def labels(**named: str) -> Answer:
    """What `apptainer inspect --json --labels` of 1.4.5 prints."""
    data = {"data": {"attributes": {"labels": named}}, "type": "container"}
    return Answer(0, json.dumps(data, indent=1))


def seen(answer: Answer | None = None, version: Answer | None = None) -> containers.ImageSeen:
    return containers.ImageSeen(size=1, is_sif=True, labels=answer, version=version)


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        (
            containers.ImageSeen("No such file or directory", missing=True),
            Status.FAILED,
            "No such file",
        ),
        (containers.ImageSeen(size=10, is_sif=False), Status.FAILED, "is not a SIF file"),
        (
            # apptainer 1.4.5 of a file with SIF's first bytes only
            seen(Answer(255, "", "FATAL:   Failed to open image x: EOF\n")),
            Status.FAILED,
            "Failed to open image x",
        ),
        (seen(labels(**{"org.hpcvlm.version": "0.10.2"})), Status.OK, "holds vllm 0.10.2"),
        (
            seen(labels(**{"org.hpcvlm.version": "0.9.1"})),
            Status.FAILED,
            "holds vllm 0.9.1 (label org.hpcvlm.version), the site file says 0.10.2",
        ),
        (seen(labels(maintainer="x")), Status.OK, "no label tells the version"),
        (seen(Answer(0, "{")), Status.OK, "no label tells the version"),
        (seen(labels(), Answer(0, "0.10.2+cu128\n")), Status.OK, "0.10.2+cu128 (asked inside)"),
        (seen(labels(), Answer(0, "0.11.0\n")), Status.FAILED, "holds vllm 0.11.0"),
        (
            seen(labels(), Answer(255, "", "FATAL: python3: not found\n")),
            Status.FAILED,
            "does not tell the version of its vllm",
        ),
        (containers.ImageSeen(is_folder=True, labels=labels()), Status.OK, "no label"),
    ],
)
def test_images(image: containers.ImageSeen, status: Status, words: str) -> None:
    check = containers.judge_image(INSTALL, "apptainer", image)
    assert check.id == "image:0.10.2"
    assert check.status is status
    assert words in check.evidence
    assert bool(check.remedy) == (status is Status.FAILED)


def test_a_closed_image_needs_no_new_build() -> None:
    closed = containers.judge_image(INSTALL, "apptainer", containers.ImageSeen("Permission denied"))
    assert (closed.status, closed.remedy) == (Status.FAILED, f"ls -l {SIF}")
    gone = containers.ImageSeen("No such file or directory", missing=True)
    remedy = containers.judge_image(INSTALL, "apptainer", gone).remedy
    assert remedy == f"hpcvlm containers build {INSTALL.version} --output {SIF}"


def test_an_engine_without_an_image_is_skipped() -> None:
    bare = EngineInstall(version="0.33.0", command=("/opt/vllm/bin/vllm",))
    check = containers.judge_image(bare, "apptainer", containers.ImageSeen())
    assert check.status is Status.SKIPPED
    assert "/opt/vllm/bin/vllm" in check.evidence


def test_docker_s_labels_are_flat() -> None:
    answer = Answer(0, '{"org.hpcvlm.version": "0.33.0"}')
    assert containers.read_labels(answer)["org.hpcvlm.version"] == "0.33.0"
    assert containers.read_labels(Answer(0, "null")) == {}


def test_an_image_is_started_as_a_job_starts_it() -> None:
    text = "schema: 1\nbinds: ['/data:/data:rw']\n"
    site = load_site([("site", "s", text)])[0]
    install = EngineInstall(
        version="0.33.0", image=SIF, binds=("/opt",), command=("/opt/v/bin/vllm", "-x")
    )
    assert commands.container(site, install, gpus=True) == (
        *("apptainer", "exec", "--nv", "--containall", "--no-home"),
        *("--bind", "/data:/data:rw", "--bind", "/opt:/opt:ro", SIF),
    )
    assert "--nv" not in commands.container(site, install, gpus=False)
    assert commands.engine_version(install)[:2] == ("/opt/v/bin/python3", "-c")
    assert commands.engine_version(EngineInstall(version="0.33.0"))[0] == "python3"
    podman = load_site([("site", "s", text + "runtime: podman\n")])[0]
    assert commands.container(podman, install, gpus=True) == (
        *("podman", "run", "--rm", "--pull=never", "--read-only", "--security-opt"),
        *("label=disable", "--entrypoint=", "--device", "nvidia.com/gpu=all"),
        *("--volume", "/data:/data:rw", "--volume", "/opt:/opt:ro", SIF),
    )
