"""Compares the index of a checkpoint with the shards that lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from hpcvlm.snapshots.safetensors import Shard
from hpcvlm.snapshots.verify.findings import Finding

INDEX_ENDING = ".index.json"
# The two whose shards vLLM reads: vllm/model_executor/model_loader/default_loader.py.
_SERVED = frozenset({"model.safetensors.index.json", "consolidated.safetensors.index.json"})
_NOT_HERE = "named in the index, not on disk"
_NAMED = 3  # so many tensors are named; thousands would help nobody


def index_findings(
    index: str, weight_map: object, files: AbstractSet[str], shards: Mapping[str, Shard]
) -> list[Finding]:
    """What an index of shards promises, and the shards do not hold.

    Args:
        index: path of the index in the snapshot, such as ``model.safetensors.index.json``.
        weight_map: its ``weight_map``: shard by tensor.
        files: paths of all files that are there.
        shards: safetensors files by path, with those whose header cannot be read.
    """
    if not isinstance(weight_map, Mapping):
        return [Finding(index, "json", "has no weight_map", fetch=True)]
    folder = index.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    tensors: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        tensors.setdefault(f"{prefix}{shard}", set()).add(str(tensor))
    missing = sorted(tensors.keys() - files)
    if missing and len(missing) == len(tensors) and _weights(files, prefix):
        # Who takes only one of the two forms of a checkpoint may still have the other's index.
        text = "none of its shards is here; the weights are those of another file"
        return [Finding(index, "missing", text, problem=False)]
    found = [
        Finding(name, "missing", _NOT_HERE, stops=index in _SERVED, fetch=True) for name in missing
    ]
    for name, promised in sorted(tensors.items()):
        shard = shards.get(name)
        if shard is not None and not shard.problem:
            found += _differences(index, name, promised, shard.tensors)
    return found


def _weights(files: AbstractSet[str], prefix: str) -> bool:
    here = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
    return any("/" not in name and name.endswith((".safetensors", ".bin")) for name in here)


def _differences(
    index: str, shard: str, promised: AbstractSet[str], held: AbstractSet[str]
) -> list[Finding]:
    found = []
    if lacking := sorted(promised - held):
        text = f"lacks {_listed(lacking)}, which {index} says it holds"
        found.append(Finding(shard, "tensors", text, fetch=True))
    if extra := sorted(held - promised):
        text = f"holds {_listed(extra)}, which {index} does not say"
        found.append(Finding(shard, "tensors", text, problem=False))
    return found


def _listed(tensors: list[str]) -> str:
    if len(tensors) == 1:
        return f"tensor {tensors[0]}"
    more = len(tensors) - _NAMED
    names = ", ".join(tensors[:_NAMED])
    return f"{len(tensors)} tensors ({names}{f' and {more} more' if more > 0 else ''})"
