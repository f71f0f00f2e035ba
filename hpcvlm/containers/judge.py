"""Judges images: what is wrong with one, whether a driver runs it, whether a launch may use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from hpcvlm.containers.model import Finding, ImageFacts, Remembered, Verification

# The oldest driver for each CUDA, https://docs.nvidia.com/deploy/cuda-compatibility/
# minor-version-compatibility.html: a driver of that branch runs every 12.x or 13.x.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# Compatibility libraries inside the image: docs/getting_started/installation/gpu.cuda.inc.md of
# vLLM 0.33, for data-centre GPUs on hosts of these branches.
_COMPATIBLE_HOSTS = (535, 570)
# docker/Dockerfile of each release: CUDA 12.8 or 12.9 up to 0.19, 13.0 from 0.20.
_CUDA_13 = Version("0.20.0")
_WORLD_WRITABLE = 0o002


class SeenFile(NamedTuple):
    """An image file as it lies there.

    Attributes:
        problem: why it cannot be read; empty when it can.
        missing: whether that is because there is none.
        size: bytes.
        mode: permission bits.
        is_sif: whether it is a SIF file.
        is_folder: whether it is a sandbox.
        end: bytes that a SIF file must at least have.
    """

    problem: str = ""
    missing: bool = False
    size: int = 0
    mode: int = 0
    is_sif: bool = False
    is_folder: bool = False
    end: int = 0


def file_findings(image: str, version: str, seen: SeenFile) -> list[Finding]:
    """Whether a file can be an image at all: there, readable, SIF, whole.

    Args:
        image: its path.
        version: the engine's, for what to type next; empty if unknown.
        seen: the file.
    """
    build = f"hpcvlm containers build {version}".strip()
    if seen.missing:
        return [Finding("container-missing", f"{image} does not exist", build)]
    if seen.problem:
        return [Finding("container-invalid", f"{image}: {seen.problem}", f"ls -l {image}")]
    if not (seen.is_sif or seen.is_folder):
        return [Finding("container-invalid", f"{image} is no SIF file", f"{build} --force")]
    if seen.size < seen.end:
        cut = f"{image} is cut off: {seen.size} of at least {seen.end} bytes"
        return [Finding("container-invalid", cut, f"{build} --force")]
    if seen.mode & _WORLD_WRITABLE:
        open_to = f"{image} can be written by everybody"
        return [Finding("container-writable", open_to, f"chmod o-w {image}")]
    return []


def version_finding(image: str, said: str, found: str, how: str) -> Finding | None:
    """Whether an image holds the version that the site file, or its file name, says."""
    if not said or not found or same_release(said, found):
        return None
    sentence = f"{image} holds {found} ({how}), and not {said}"
    return Finding(
        "container-version",
        sentence,
        f"hpcvlm containers build {said} --force, or say 'version: {found}' in the site file",
    )


def same_release(one: str, other: str) -> bool:
    """Whether two versions are the same but for what stands after a ``+``, as in ``+cu128``."""
    try:
        return Version(one).public == Version(other).public
    except InvalidVersion:
        return one.partition("+")[0] == other.partition("+")[0]


def changed_finding(
    image: str, last: Remembered | None, digest: str, *, untouched: bool, since: str
) -> Finding | None:
    """Whether an image is still what it was when it was last read.

    Args:
        image: its path.
        last: what is remembered of it.
        digest: what it is now.
        untouched: whether inode, size and time of the file are those that are remembered.
        since: when it was last read, for people.
    """
    if last is None or last.digest == digest:
        return None
    short = f"was sha256:{last.digest[:12]} on {since}, is sha256:{digest[:12]}"
    if untouched:
        return Finding(
            "container-altered",
            f"{image} has changed although nobody wrote it: {short}",
            "the disk or its file system is broken; make the image again elsewhere",
        )
    return Finding(
        "container-altered",
        f"{image} has changed: {short}",
        "if it was replaced on purpose: hpcvlm containers verify IMAGE --accept",
    )


def signature_findings(
    image: str, seen: Verification, signed_by: Sequence[str], keyring: str
) -> list[Finding]:
    """What is wrong with the signatures of an image.

    Args:
        image: its path.
        seen: what the runtime said.
        signed_by: fingerprints that the site asks for; any signature, or none, will do if empty.
        keyring: the command that gets a key, ``apptainer key``.
    """
    if seen.altered:
        parts = ", ".join(one.part for one in seen.seen if not one.intact)
        sentence = f"{image} has been altered since it was signed: {parts}"
        return [Finding("container-altered", sentence, "make the image again; do not run this one")]
    if not seen.ok and seen.signatures and not seen.seen:
        sentence = f"{image} is signed by a key that is not in your keyring"
        return [Finding("container-unsigned", sentence, f"{keyring} import FILE")]
    if not seen.ok and seen.signatures:
        return [Finding("container-altered", f"{image}: {seen.said}", "make the image again")]
    return policy_findings(image, "IMAGE", signed_by, seen.signers)


def policy_findings(
    image: str, name: str, signed_by: Sequence[str], signers: Sequence[str] | None
) -> list[Finding]:
    """Whether an image has a signature that the site asks for.

    Args:
        image: its path.
        name: what to type for it.
        signed_by: fingerprints; nothing is asked for when empty.
        signers: of a verification of this very file; None where there was none.
    """
    wanted = {fingerprint(one) for one in signed_by}
    if not wanted:
        return []
    asked = "'signed_by:' of the site file"
    if signers is None:
        return [
            Finding(
                "container-unverified",
                f"{asked} asks for a signature, and {image} has not been verified as it is now",
                f"hpcvlm containers verify {name}",
            )
        ]
    if wanted & {fingerprint(one) for one in signers}:
        return []
    has = f"it is signed by {', '.join(signers)}" if signers else "it has no good signature"
    return [
        Finding(
            "container-unsigned",
            f"{image} is not signed by a key that {asked} names; {has}",
            f"whoever answers for it types: hpcvlm containers sign {name}",
        )
    ]


def fingerprint(text: str) -> str:
    """A fingerprint as it is compared: capitals, no blanks, colons or ``0x``."""
    return re.sub(r"^0X|[\s:]", "", text.upper())


def cuda_of(facts: ImageFacts | None, version: str) -> tuple[str, str]:
    """The CUDA of an image, and where that is from; empty for ROCm and where nobody knows."""
    if facts is not None and (facts.cuda or facts.hip):
        return facts.cuda, "read inside"
    try:
        parsed = Version(version)
    except InvalidVersion:
        return "", ""
    if "rocm" in (parsed.local or ""):
        return "", ""
    return ("13" if parsed >= _CUDA_13 else "12"), "as vLLM's own images have it"


def driver_finding(cuda: str, driver: str, *, compatible: bool) -> Finding | None:
    """Whether a driver is new enough for an image's CUDA.

    Args:
        cuda: of the image, ``12.8`` or ``13``; empty if unknown.
        driver: of the node, ``550.54.15``.
        compatible: whether the engine takes VLLM_ENABLE_CUDA_COMPATIBILITY.
    """
    major, branch = _leading(cuda), _leading(driver)
    oldest = _OLDEST_DRIVER.get(major or 0)
    if oldest is None or branch is None or branch >= oldest:
        return None
    remedy = f"a driver of branch {oldest} or newer, or an image with an older CUDA"
    if compatible and major == max(_OLDEST_DRIVER) and branch in _COMPATIBLE_HOSTS:
        remedy = (
            "environment: {VLLM_ENABLE_CUDA_COMPATIBILITY: '1'} for this engine in the site file "
            "(data-centre GPUs only)"
        )
    sentence = f"CUDA {cuda} needs driver {oldest} or newer, and this one is {driver}"
    return Finding("driver", sentence, remedy)


def _leading(text: str) -> int | None:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None
