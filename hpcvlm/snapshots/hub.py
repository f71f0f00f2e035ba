"""Finds a snapshot in Hugging Face hub caches, and says whether it is complete.

The layout is huggingface_hub's: ``models--OWNER--NAME/{refs,blobs,snapshots/COMMIT}``. Only names,
links, sizes and safetensors headers are read, no weights (`hpcvlm.snapshots.verify.quick_look`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcvlm.snapshots.verify.findings import one_each
from hpcvlm.snapshots.verify.quick_look import look


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Snapshot:
    """One snapshot folder.

    Attributes:
        commit: name of the snapshot folder.
        path: the snapshot folder.
        repository_folder: ``models--OWNER--NAME`` around it.
        attention_heads: query heads of the language model, None when config.json does not say.
        problems: why it must not be served, one sentence a file: what is missing, cut short, or of
            another size than when it was verified; empty when it may.
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
        if _is_folder(path):
            return snapshot_at(path, repo, commit)
    return None


def snapshot_at(path: Path, repo: str, commit: str) -> Snapshot:
    """The snapshot in a folder: one of a hub cache, or any that holds a repository's files."""
    in_cache = path.parent.name == "snapshots"
    repository_folder = path.parent.parent if in_cache else path
    seen = look(path, repository_folder, commit)
    return Snapshot(
        repo=repo,
        commit=commit,
        path=path,
        repository_folder=repository_folder,
        attention_heads=heads_of(seen.config),
        problems=tuple(f.sentence for f in one_each(f for f in seen.findings if f.stops)),
        config=seen.config,
        preprocessor=_json(path / "preprocessor_config.json"),
        weight_bytes=bytes_of_weights({name: file.size for name, file in seen.files.items()}),
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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # somebody else's
        return False


def _commit(folder: Path, revision: str) -> str:
    try:
        return (folder / "refs" / revision).read_text(encoding="ascii").strip() or revision
    except (OSError, UnicodeDecodeError):
        return revision


def bytes_of_weights(by_path: Mapping[str, int]) -> int:
    """Bytes of all safetensors files; one of Mistral's own format beside others counts once.

    vLLM loads ``consolidated*.safetensors`` or the others, never both
    (vllm/model_executor/model_loader/default_loader.py).

    Args:
        by_path: bytes of each file of a snapshot; negative where that is not known.
    """
    sizes: dict[bool, int] = {True: 0, False: 0}
    for name, size in by_path.items():
        if name.endswith(".safetensors") and "/" not in name and size > 0:
            sizes[name.startswith("consolidated")] += size
    return sizes[False] or sizes[True]


def _json(path: Path) -> Mapping[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def heads_of(config: Mapping[str, object]) -> int | None:
    """Query heads of the language model in a config.json; None when it does not say."""
    for place in ("text_config", "llm_config", "language_config"):
        inner = config.get(place)
        if isinstance(inner, Mapping) and isinstance(inner.get("num_attention_heads"), int):
            return int(inner["num_attention_heads"])
    heads = config.get("num_attention_heads")
    return heads if isinstance(heads, int) else None
