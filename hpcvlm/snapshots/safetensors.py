"""Reads the header of a safetensors file, and whether the file is whole. No weights are read.

A file is an 8-byte little-endian header length, a JSON header, then the tensors; the largest end
offset in the header gives the size of the rest (the safetensors format description).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the safetensors library refuses more
_DAMAGED = "its header is damaged"


def read_header(shard: Path) -> dict[str, dict[str, Any]]:
    """Entry (dtype, shape, data_offsets) of each tensor by name; empty when it cannot be read."""
    try:
        _, entries = _read(shard)
    except (OSError, ValueError):
        return {}
    return entries


def cut_short(shard: Path) -> str:
    """Why a safetensors file cannot be whole; empty when its size is what its header says."""
    try:
        length, entries = _read(shard)
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        size = shard.stat().st_size
    except OSError as error:
        return f"not readable ({error.strerror})"
    except NotSafetensorsError:
        return "not a safetensors file (an unfinished download, or a Git LFS pointer)"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return _DAMAGED
    expected = _LENGTH_BYTES + length + end
    return "" if size == expected else f"{size:,} bytes on disk, {expected:,} expected"


class NotSafetensorsError(ValueError):
    """The file does not begin as one of this format does."""


def _read(shard: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The header's length in bytes and its entries, without the file's own metadata."""
    size = shard.stat().st_size
    with shard.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(size, _LARGEST_HEADER):
            raise NotSafetensorsError
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - it is the file that is wrong
    return length, {name: entry for name, entry in header.items() if name != "__metadata__"}
