"""Judges GPUs and their driver against the engines that shall run on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from hpcvlm.doctor.model import Check, Question, size, some
from hpcvlm.site.schema import GpuType

# vLLM's docker/Dockerfile: CUDA 12.8 or 12.9 up to 0.19, CUDA 13.0 from 0.20, which has no code
# for GPUs below compute capability 7.5.
_CUDA_13_FROM = Version("0.20")
_CAPABILITY_OF_CUDA_13 = (7, 5)
_CAPABILITY_BEFORE = (7, 0)
# docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility, table 1.
_DRIVER_OF_CUDA_13 = 580
_DRIVER_OF_CUDA_12 = 525
# vLLM's docs/getting_started/installation: hosts on which the image's own newer driver libraries
# work, on datacenter GPUs, with VLLM_ENABLE_CUDA_COMPATIBILITY=1.
_COMPATIBLE_BRANCHES = (535, 570)
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# Makers say 80 GB, drivers show 81,559 MiB or 79,200 MiB of it.
_MEMORY_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class GpuSeen:
    """One GPU as nvidia-smi shows it; memory in bytes."""

    name: str
    memory: int
    driver: str
    capability: str


def parse_gpu(line: str) -> GpuSeen | None:
    """``name, memory.total, driver_version, compute_cap`` in csv,noheader,nounits; MiB."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) < 4 or not fields[1].isdigit():  # noqa: PLR2004 - the fields above
        return None
    return GpuSeen(fields[0], int(fields[1]) << 20, fields[2], fields[3])


def judge_gpus(
    question: Question, gpus: Sequence[GpuSeen], asked: int, kind: str | None, known: GpuType | None
) -> Check:
    """Whether the node shows the GPUs that were asked for.

    Args:
        question: what is answered.
        gpus: what nvidia-smi shows.
        asked: how many the job has.
        kind: their type, None when none was asked for.
        known: what the site file says of that type.
    """
    names = sorted({f"{gpu.name} ({size(gpu.memory)})" for gpu in gpus})
    seen = f"{len(gpus)} x {some(names)}"
    if len(gpus) < asked:
        return question.failed(
            f"nvidia-smi shows {len(gpus)} of {asked} GPUs: {seen}", "tell the admins"
        )
    if known is not None and known.hardware and any(known.hardware != g.name for g in gpus):
        return question.warning(
            f"{seen}; the site file calls {kind} {known.hardware!r}",
            f"set 'hardware: {gpus[0].name}' for {kind} under 'gpu_types:' in the site file",
        )
    if known is not None and known.memory:
        said = _bytes(known.memory)
        if any(abs(gpu.memory - said) > _MEMORY_TOLERANCE * said for gpu in gpus):
            return question.warning(
                f"{seen}; the site file gives {kind} {known.memory}",
                f"correct 'memory:' of {kind} under 'gpu_types:' in the site file",
            )
    if len(gpus) > asked:
        return question.warning(
            f"{seen}, though the job has {asked}: it sees other jobs' GPUs",
            "ask the admins for ConstrainDevices=yes in cgroup.conf; CUDA_VISIBLE_DEVICES decides",
        )
    return question.ok(seen)


def judge_driver(
    question: Question, gpus: Sequence[GpuSeen], versions: Sequence[str], *, in_images: bool
) -> Check:
    """Whether the node's driver is new enough for the CUDA of the site's vLLM images.

    Args:
        question: what is answered.
        gpus: what nvidia-smi shows; not empty.
        versions: of vLLM, as the site file says.
        in_images: whether they are container images, whose CUDA is known by their version.
    """
    driver, capability = gpus[0].driver, gpus[0].capability
    branch = _branch(driver)
    evidence = f"driver {driver}, compute capability {capability}"
    if branch is None:
        return question.unknown(f"{evidence}: not a driver version", "run nvidia-smi on the node")
    known = sorted(version for text in versions if (version := _version(text)) is not None)
    if not known or not in_images:
        return question.ok(f"{evidence}; the site has no vLLM image to compare it with")
    new = [str(version) for version in known if version >= _CUDA_13_FROM]
    old = [str(version) for version in known if version < _CUDA_13_FROM]
    if old and branch < _DRIVER_OF_CUDA_12:
        return question.failed(
            f"{evidence}: vLLM {some(old)} has CUDA 12, which needs driver {_DRIVER_OF_CUDA_12}",
            "ask the admins for a newer driver",
        )
    lowest = _CAPABILITY_OF_CUDA_13 if new else _CAPABILITY_BEFORE
    if _numbers(capability) and _numbers(capability) < lowest:
        return question.failed(
            f"{evidence}: vLLM {some(new or old)} needs {lowest[0]}.{lowest[1]} or higher",
            "build an image of vLLM 0.19 or older for these GPUs" if new else "use newer GPUs",
        )
    if new and branch < _DRIVER_OF_CUDA_13:
        return _cuda_13(question, evidence, branch, new)
    return question.ok(f"{evidence}: enough for vLLM {some([*old, *new])}")


def _cuda_13(question: Question, evidence: str, branch: int, new: Sequence[str]) -> Check:
    why = f"{evidence}: vLLM {some(new)} has CUDA 13, which needs driver {_DRIVER_OF_CUDA_13}"
    if branch in _COMPATIBLE_BRANCHES:
        return question.warning(
            f"{why}; R{branch} can be helped on datacenter GPUs",
            "VLLM_ENABLE_CUDA_COMPATIBILITY: '1' under this engine's 'environment:' (site file)",
        )
    return question.failed(
        why, "ask the admins for driver R580, or build an image of vLLM 0.19 or older (CUDA 12)"
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    return int(match[1]) * _UNITS[match[2]] if match else 0


def _branch(driver: str) -> int | None:
    match = re.match(r"(\d+)\.", driver)
    return int(match[1]) if match else None


def _numbers(capability: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return (int(match[1]), int(match[2])) if match else ()


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
