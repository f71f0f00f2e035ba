"""The releases of vLLM that are known, and what each has: parsers, backends, batch sizes.

The tables in `data/` are derived from vLLM's released archives by scripts/derive_vllm_tables.py.
They name a release by its place in the list of versions.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from hpcvlm.errors import HpcvlmError

GIB = 1024**3
# Not importlib.resources, whose import alone takes longer than all of the reading.
_DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True, slots=True, repr=False)
class Release:
    """A place in the table of releases.

    Attributes:
        index: the place.
        version: the release whose facts are taken.
        note: a sentence where that is not the version that was asked for; else empty.
    """

    index: int
    version: str
    note: str = ""


class BatchDefaults(NamedTuple):
    """What a server takes for --max-num-seqs and --max-num-batched-tokens when they are not set."""

    max_num_seqs: int
    max_num_batched_tokens: int


@cache
def table(name: str) -> Mapping[str, Any]:
    """One of the derived tables: ``flags``, ``architectures`` or ``versions``; read once."""
    file = _DATA / f"vllm_{name}.json"
    content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@cache
def known_versions() -> tuple[str, ...]:
    """Every release in the tables, oldest first."""
    return tuple(table("versions")["versions"])


@cache
def _parsed() -> tuple[Version, ...]:
    return tuple(Version(text) for text in known_versions())


@cache
def release(version: str) -> Release:
    """The release in the tables that stands for `version`.

    A version between two known ones is taken as the older of them, one that is newer than all as
    the newest; `Release.note` says so. Suffixes such as ``+cu128`` or ``rc1`` are left out.

    Raises:
        HpcvlmError: ``vllm-version``, where the text is no version or older than the tables.
    """
    try:
        wanted = Version(Version(version).base_version)
    except InvalidVersion:
        raise HpcvlmError(
            "vllm-version",
            f"{version!r} is no version of vLLM",
            f"name a release, such as {known_versions()[-1]}",
        ) from None
    index = bisect_right(_parsed(), wanted) - 1
    if index < 0:
        oldest = known_versions()[0]
        raise HpcvlmError(
            "vllm-version",
            f"vLLM {version} is older than {oldest}, the oldest release that is supported",
            f"use an image of vLLM {oldest} or newer",
        )
    found = known_versions()[index]
    if wanted == _parsed()[index]:
        return Release(index, found)
    return Release(index, found, f"vLLM {version} is not in the table, taken as {found}")


def within(spans: Sequence[Sequence[int]], index: int) -> bool:
    """Whether a release is in one of the runs of releases."""
    return any(first <= index <= last for first, last in spans)


def value_at(series: Sequence[Sequence[Any]], index: int) -> Any:  # noqa: ANN401  # JSON
    """The value that a release has, in a list of successive values; None before the first."""
    found = None
    for start, value in series:
        if start > index:
            break
        found = value
    return found


def still_there(spans: Sequence[Sequence[int]]) -> bool:
    """Whether the newest known release is in the runs of releases."""
    return bool(spans) and spans[-1][1] == len(known_versions()) - 1


@cache
def _names(kind: str, version: str) -> tuple[str, ...]:
    index = release(version).index
    return tuple(name for name, spans in table("versions")[kind].items() if within(spans, index))


def tool_parsers(version: str) -> tuple[str, ...]:
    """The names that --tool-call-parser takes without a plugin."""
    return _names("tool_parsers", version)


def reasoning_parsers(version: str) -> tuple[str, ...]:
    """The names that --reasoning-parser takes without a plugin."""
    return _names("reasoning_parsers", version)


def attention_backends(version: str) -> tuple[str, ...]:
    """The names of attention backends, for --attention-backend or VLLM_ATTENTION_BACKEND."""
    return _names("attention_backends", version)


def reads_environment(name: str, version: str) -> bool:
    """Whether that release reads an environment variable through vllm/envs.py."""
    spans = table("versions")["environment"].get(name, ())
    return within(spans, release(version).index)


def name_spans(kind: str, name: str) -> Sequence[Sequence[int]]:
    """The runs of releases that know a name of ``tool_parsers`` and the like; empty if none."""
    found: Sequence[Sequence[int]] = table("versions")[kind].get(name, ())
    return found


def constant(name: str, version: str) -> int | None:
    """A size that is a plain number in vLLM's source, or None where that release has none.

    Names: ``default-max-num-batched-tokens`` and ``multimodal-max-num-batched-tokens`` (tokens;
    the second is the least that the V0 engine gives to a multimodal model), ``default-block-size``
    (tokens per block of the KV cache on CUDA, from 0.18.0).
    """
    entry = table("versions")["constants"].get(name)
    index = release(version).index
    if entry is None or not within(entry["in"], index):
        return None
    value: int = value_at(entry["value"], index)
    return value


def batch_defaults(version: str, gpu_memory: int, gpu_name: str) -> BatchDefaults:
    """The batch sizes that the V1 engine's server takes on a CUDA GPU.

    Source: `get_batch_defaults` and its predecessors in vllm/engine/arg_utils.py.

    Args:
        version: of vLLM.
        gpu_memory: total memory of one GPU, bytes.
        gpu_name: as the driver names it; A100s are in the lowest tier, however large.
    """
    tiers = value_at(table("versions")["batch_defaults"], release(version).index)
    for tier in tiers:
        excluded = any(name in gpu_name.lower() for name in tier.get("not", ()))
        if gpu_memory >= tier["gib"] * GIB and not excluded:
            return BatchDefaults(tier["max-num-seqs"], tier["max-num-batched-tokens"])
    raise AssertionError(f"no last tier for vLLM {version}")


def recipes() -> tuple[str, ...]:
    """The models, ORG/REPO, for which the newest release's source has a recipe."""
    return tuple(table("versions")["recipes"])
