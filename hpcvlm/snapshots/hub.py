"""Finds a snapshot in Hugging Face hub caches, and says whether it is complete.

The layout is huggingface_hub's: ``models--OWNER--NAME/{refs,blobs,snapshots/COMMIT}``. Only names,
links, sizes and safetensors headers are read, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hpcvlm.snapshots.safetensors import cut_short


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Snapshot:
    """One snapshot folder.

    Attributes:
        commit: name of the snapshot folder.
        path: the snapshot folder.
        repository_folder: ``models--OWNER--NAME`` around it.
        attention_heads: query heads of the language model, None when config.json does not say.
        problems: what is missing or cut short, one sentence a file; empty when complete.
        config: its config.json; empty when that cannot be read.
        preprocessor: its preprocessor_config.json; empty when it has none.
        weight_bytes: size of all its safetensors files on disk.
    """

    repo: str
    commit: str
    path: Path
    repository_folder: Path
    attention_heads: int | None
    problems: tuple[str, ...]
    config: Mapping[str, object] = field(default_factory=dict)
    preprocessor: Mapping[str, object] = field(default_factory=dict)
    weight_bytes: int = 0


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
            return snapshot_at(path, repo, commit)
    return None


def snapshot_at(path: Path, repo: str, commit: str) -> Snapshot:
    """The snapshot in a folder: one of a hub cache, or any that holds a repository's files."""
    problems, config = _check(path)
    in_cache = path.parent.name == "snapshots"
    return Snapshot(
        repo=repo,
        commit=commit,
        path=path,
        repository_folder=path.parent.parent if in_cache else path,
        attention_heads=_heads(config),
        problems=tuple(problems),
        config=config,
        preprocessor=_json(path / "preprocessor_config.json", []),
        weight_bytes=_weight_bytes(path),
    )


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
        if shard.exists() and (problem := cut_short(shard)):
            problems.append(f"{shard.name}: {problem}")
    return problems, config


def _weight_bytes(path: Path) -> int:
    """Bytes of all safetensors files; one of Mistral's own format beside others counts once.

    vLLM loads ``consolidated*.safetensors`` or the others, never both
    (vllm/model_executor/model_loader/default_loader.py).
    """
    sizes: dict[bool, int] = {True: 0, False: 0}
    for shard in path.glob("*.safetensors"):
        with suppress(OSError):
            sizes[shard.name.startswith("consolidated")] += shard.stat().st_size
    return sizes[False] or sizes[True]


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


def _heads(config: Mapping[str, object]) -> int | None:
    for place in ("text_config", "llm_config", "language_config"):
        inner = config.get(place)
        if isinstance(inner, Mapping) and isinstance(inner.get("num_attention_heads"), int):
            return int(inner["num_attention_heads"])
    heads = config.get("num_attention_heads")
    return heads if isinstance(heads, int) else None
