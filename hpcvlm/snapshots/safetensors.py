"""Reads the header of a safetensors file, and whether the file is whole. No weights are read.

A file is an 8-byte little-endian header length, a JSON header, then the tensors; the largest end
offset in the header gives the size of the rest (the safetensors format description). The library
refuses a file whose tensors overlap or leave gaps (``InvalidOffset`` in
https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from hpcvlm.snapshots.noatime import quietly

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the safetensors library refuses more
_DAMAGED = "its header is damaged"
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


class Shard(NamedTuple):
    """What the header of a safetensors file tells.

    Attributes:
        problem: why the file cannot be whole; empty when its size is what its header says.
        tensors: names of its tensors; empty when the header cannot be read.
    """

    problem: str
    tensors: frozenset[str] = frozenset()


def read_header(shard: Path) -> dict[str, dict[str, Any]]:
    """Entry (dtype, shape, data_offsets) of each tensor by name; empty when it cannot be read."""
    try:
        _, _, entries = _read(shard)
    except (OSError, ValueError):
        return {}
    return entries


def cut_short(shard: Path) -> str:
    """Why a safetensors file cannot be whole; empty when its size is what its header says."""
    return look_into(shard).problem


def look_into(shard: Path) -> Shard:
    """The tensors of a safetensors file, and whether it can be whole."""
    try:
        length, size, entries = _read(shard)
        spans = [(int(e["data_offsets"][0]), int(e["data_offsets"][1])) for e in entries.values()]
    except OSError as error:
        return Shard(f"not readable ({error.strerror})")
    except NotSafetensorsError:
        return Shard("not a safetensors file (an unfinished download, or a Git LFS pointer)")
    except _MALFORMED:
        return Shard(_DAMAGED)
    expected = _LENGTH_BYTES + length + max((end for _, end in spans), default=0)
    names = frozenset(entries)
    if size != expected:
        return Shard(f"{size:,} bytes on disk, {expected:,} expected", names)
    return Shard(_overlap(spans), names)


class NotSafetensorsError(ValueError):
    """The file does not begin as one of this format does."""


def _overlap(spans: list[tuple[int, int]]) -> str:
    """Each tensor must begin where the one before it ends."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position or end < begin:
            return f"{_DAMAGED}: its tensors overlap or leave gaps at byte {position:,}"
        position = end
    return ""


def _read(shard: Path) -> tuple[int, int, dict[str, dict[str, Any]]]:
    """Bytes of the header and of the file, and the entries without the file's own metadata."""
    with open(shard, "rb", opener=quietly) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(size, _LARGEST_HEADER):
            raise NotSafetensorsError
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - it is the file that is wrong
    return length, size, {name: entry for name, entry in header.items() if name != "__metadata__"}
