"""Finds a snapshot in Hugging Face hub caches, and says whether it is complete.

The layout is huggingface_hub's: ``models--OWNER--NAME/{refs,blobs,snapshots/COMMIT}``. Only names,
links, sizes and safetensors headers are read, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the safetensors library refuses more


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot folder.

    Attributes:
        commit: name of the snapshot folder.
        path: the snapshot folder.
        repository_folder: ``models--OWNER--NAME`` around it.
        attention_heads: query heads of the language model, None when config.json does not say.
        problems: what is missing or cut short, one sentence a file; empty when complete.
    """

    repo: str
    commit: str
    path: Path
    repository_folder: Path
    attention_heads: int | None
    problems: tuple[str, ...]


def repository_folder_name(repo: str) -> str:
    """``owner/name`` as the hub cache spells it."""
    return "models--" + repo.replace("/", "--")


def find_snapshot(repo: str, revision: str, caches: Sequence[Path]) -> Snapshot | None:
    """The first snapshot of a repository at a revision in the caches, in their order."""
    for cache in caches:
        folder = cache / repository_folder_name(repo)
        commit = _commit(folder, revision)
        path = folder / "snapshots" / commit
        if path.is_dir():
            problems, config = _check(path)
            return Snapshot(repo, commit, path, folder, _heads(config), tuple(problems))
    return None


def expected_path(repo: str, revision: str, cache: Path) -> tuple[Path, Path]:
    """Where a snapshot would lie: the repository's folder and the snapshot's."""
    folder = cache / repository_folder_name(repo)
    return folder, folder / "snapshots" / _commit(folder, revision)


def hub_caches(site: Sequence[str], environment: Mapping[str, str], bundled: Path) -> list[Path]:
    """The caches to search: the site's, the user's own, the bundled one.

    The user's own is found as huggingface_hub finds it: HF_HUB_CACHE, else HF_HOME/hub, else
    ``~/.cache/huggingface/hub``.
    """
    home = Path(environment.get("HOME") or Path.home())
    hf_home = environment.get("HF_HOME")
    base = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface"
    own = environment.get("HF_HUB_CACHE") or (Path(hf_home) if hf_home else base) / "hub"
    found = [Path(path).expanduser() for path in site]
    return [*found, Path(own).expanduser(), bundled]


def _commit(folder: Path, revision: str) -> str:
    try:
        return (folder / "refs" / revision).read_text(encoding="ascii").strip() or revision
    except (OSError, UnicodeDecodeError):
        return revision


def _check(path: Path) -> tuple[list[str], Mapping[str, object]]:
    problems: list[str] = []
    config = _json(path / "config.json", problems)
    broken = [e for e in sorted(path.rglob("*")) if e.is_symlink() and not e.exists()]
    problems += [f"{entry.name}: its blob is missing ({entry.readlink()})" for entry in broken]
    weights = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.exists():
        shards = _json(index, problems).get("weight_map", {})
        names = set(shards.values()) if isinstance(shards, Mapping) else set()
        missing = sorted(name for name in names if not (path / str(name)).exists())
        problems += [f"{name}: named in the index, not on disk" for name in missing]
    elif not weights and not any(path.glob("*.bin")):
        problems.append("no weights: there is no .safetensors file")
    for shard in weights:
        if shard.exists() and (problem := _cut_short(shard)):
            problems.append(f"{shard.name}: {problem}")
    return problems, config


def _json(path: Path, problems: list[str]) -> Mapping[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(f"{path.name}: missing or not readable")
        return {}
    except ValueError:
        problems.append(f"{path.name}: not valid JSON")
        return {}
    return data if isinstance(data, dict) else {}


def _cut_short(shard: Path) -> str:
    """Why a safetensors file cannot be whole; empty when its size is what its header says.

    A file is an 8-byte little-endian header length, a JSON header, then the tensors; the largest
    end offset in the header gives the size of the rest (the safetensors format description).
    """
    try:
        size = shard.stat().st_size
        with shard.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size, _LARGEST_HEADER):
                return "not a safetensors file (an unfinished download, or a Git LFS pointer)"
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except OSError as error:
        return f"not readable ({error.strerror})"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "its header is damaged"
    expected = _LENGTH_BYTES + length + end
    return "" if size == expected else f"{size:,} bytes on disk, {expected:,} expected"


def _heads(config: Mapping[str, object]) -> int | None:
    for place in ("text_config", "llm_config", "language_config"):
        inner = config.get(place)
        if isinstance(inner, Mapping) and isinstance(inner.get("num_attention_heads"), int):
            return int(inner["num_attention_heads"])
    heads = config.get("num_attention_heads")
    return heads if isinstance(heads, int) else None
