"""One image to be made: everything that its script says. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

GB = 10**9
# vllm/vllm-openai: "around 12 GB" as it is downloaded (github.com/vllm-project/vllm/issues/27154,
# October 2025) and 28.6 GB unpacked (github.com/vllm-project/vllm/pull/22377, December 2025).
LAYERS_BYTES = 13 * GB
UNPACKED_BYTES = 30 * GB
# The .sif is compressed, as the layers are; Apptainer makes it beside the unpacked files first.
IMAGE_BYTES = 13 * GB
_AS_IT_IS = ("library://", "oras://", "shub://", "https://", "http://")
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*)://.+|(?:oci|oci-archive|docker-archive):.+")
_TAG = re.compile(r"v?(?P<version>\d+\.\d+(?:\.\d+)*(?:\.post\d+|rc\d+)?)(?![\d.])")
_PINNED = re.compile(r"@sha256:(?P<digest>[0-9a-f]{64})$")


class Directive(NamedTuple):
    """One ``#SBATCH --name=value`` line; an empty value leaves the name alone."""

    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What the script of a build says.

    Attributes:
        image: the file to make.
        partial: what it is called while it is made.
        folder: where the script, its log and its result lie.
        source: definition or address, for people.
        build: the command that makes `partial`.
        version: what the image must hold; empty where nobody knows.
        ask: the command that prints the version that it holds.
        replace: whether an image of that name may be replaced.
        temporary: folder for unpacked files, may name variables; empty for TMPDIR or /tmp.
        cache: the runtime's cache of layers.
        work: folder that the build runs in.
        need_temporary: bytes; 0 where nobody knows.
        need_cache: bytes.
        need_image: bytes.
        sbatch: options, where it is a job.
    """

    image: str
    partial: str
    folder: str
    source: str
    runtime: str
    engine: str
    build: tuple[str, ...]
    version: str
    ask: tuple[str, ...]
    replace: bool
    temporary: str
    cache: str
    work: str
    need_temporary: int
    need_cache: int
    need_image: int
    modules: tuple[str, ...]
    proxies: tuple[tuple[str, str], ...]
    sbatch: tuple[Directive, ...] = ()


def is_address(source: str) -> bool:
    """Whether it names an image elsewhere, and no file."""
    return _ADDRESS.fullmatch(source) is not None


def is_fetched_whole(source: str) -> bool:
    """Whether the address gives a SIF file, which is not built but downloaded."""
    return source.startswith(_AS_IT_IS)


def version_in(source: str) -> str:
    """The version that an address or a file's name tells: ``docker://…/vllm-openai:v0.10.2``."""
    name = source.rpartition("/")[2].partition("@")[0]
    words = name.partition(":")[2] or name.removesuffix(".sif").removesuffix(".tar")
    found = _TAG.search(words)
    return found["version"] if found else ""


def pinned(source: str) -> str:
    """The digest that an address names, ``sha256:…``; empty if it names none."""
    found = _PINNED.search(source)
    return f"sha256:{found['digest']}" if found else ""


def host_of(source: str) -> str:
    """The registry of a ``docker://`` or ``oras://`` address."""
    if not source.startswith(("docker://", "oras://")):
        return ""
    first, slash, _ = source.partition("://")[2].partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return first if is_host else "docker.io"


def image_name(engine: str, version: str, *, rocm: bool, other: bool) -> str:
    """The file name under which `hpcvlm launch` finds an image.

    Args:
        engine: the engine.
        version: its version.
        rocm: whether the image is for AMD's GPUs.
        other: whether that is not what this site's nodes have, so that the name has to say it.
    """
    mark = ("+rocm" if rocm else "+cuda") if other and "+" not in version else ""
    return f"{engine}-{version}{mark}.sif"
