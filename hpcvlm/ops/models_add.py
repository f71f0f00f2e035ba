"""`hpcvlm models add`: gathers what is known of a repository, offline where it can."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hpcvlm.catalog.load import find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.model_entry import RepositoryFacts, model_entry
from hpcvlm.ops.models import validate_file
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.snapshots.hub import Snapshot, find_snapshot, snapshot_at
from hpcvlm.snapshots.safetensors import read_header
from hpcvlm.system.files import read_text, write_atomically

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_IN_CACHE = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_MODEL_NAME = re.compile(r"[^a-z0-9._-]+")
_LICENCE = re.compile(r"^license:\s*['\"]?([^'\"\n]+)", re.MULTILINE)
_LONGEST_NAME = 63


def add_model(
    target: str,
    ctx: Context,
    *,
    name: str | None = None,
    revision: str = "main",
    force: bool = False,
) -> Path:
    """Write a model file into the user's own folder.

    Args:
        target: a repository, or a folder with config.json and weights.
        ctx: the outside.
        name: of the model; made from the repository's when None.
        revision: of the repository; a folder of a hub cache says its own.
        force: replace a file of that name.

    Returns:
        The file.

    Raises:
        HpcvlmError: ``option-invalid``, ``snapshot-missing``, ``hub-unreachable``,
            ``hub-refused``, ``model-exists`` or ``file-unreadable``.
    """
    facts = facts_of(target, ctx, name=name, revision=revision)
    folder = ctx.settings.user_config / "models"
    path = folder / f"{facts.name}.yaml"
    _refuse_known(facts, path, ctx, force=force)
    text = model_entry(facts, engine_versions(facts.config))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, 0o644)
    except OSError as error:
        raise HpcvlmError("file-unreadable", f"cannot write {path}: {error.strerror}") from None
    validate_file(path, ctx)
    return path


def facts_of(
    target: str, ctx: Context, *, name: str | None = None, revision: str = "main"
) -> RepositoryFacts:
    """What can be found out about a folder or a repository.

    Raises:
        HpcvlmError: as `add_model`.
    """
    folder = Path(target).expanduser()
    if folder.is_dir():
        return _of_folder(folder.resolve(), name)
    if not _REPOSITORY.fullmatch(target):
        raise HpcvlmError(
            "option-invalid",
            f"{target} is neither a folder here nor a repository (owner/name)",
            "for example hpcvlm models add Qwen/Qwen2.5-VL-7B-Instruct",
        )
    site, _ = site_of(ctx)
    caches = searched_caches(site, ctx, bundled=True)
    snapshot = find_snapshot(target, revision, caches)
    if snapshot is not None and snapshot.config:
        return _of_snapshot(snapshot, name or _name(target), None)
    from hpcvlm.ops.models_hub import facts_of_hub

    return facts_of_hub(target, revision, name or _name(target))


def engine_versions(config: Mapping[str, object]) -> str | None:
    """The range of vLLM versions that have the architecture; None when the table lacks it."""
    from hpcvlm.engines.vllm_architectures import window

    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return window(first) if isinstance(first, str) else None


def _of_folder(folder: Path, name: str | None) -> RepositoryFacts:
    """A snapshot of a hub cache knows its repository; any other folder is its own."""
    cached = _IN_CACHE.fullmatch(folder.parent.parent.name)
    if cached and folder.parent.name == "snapshots":
        repo = f"{cached['owner']}/{cached['name']}"
        return _of_snapshot(snapshot_at(folder, repo, folder.name), name or _name(repo), None)
    repo = f"local/{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder.name) or 'model'}"
    snapshot = snapshot_at(folder, repo, "main")
    return _of_snapshot(snapshot, name or _name(repo), str(folder))


def _of_snapshot(snapshot: Snapshot, name: str, path: str | None) -> RepositoryFacts:
    if not snapshot.config:
        raise HpcvlmError(
            "snapshot-missing",
            f"{snapshot.path} holds no readable config.json",
            "name the folder that holds config.json and the weights",
        )
    card = read_text(snapshot.path / "README.md") or ""
    licence = _LICENCE.search(card)
    whole = not snapshot.problems
    return RepositoryFacts(
        name=name,
        repo=snapshot.repo,
        revision=snapshot.commit,
        config=snapshot.config,
        origin=f"{snapshot.repo} at {snapshot.commit[:12]}" if path is None else path,
        path=path,
        preprocessor=_json(snapshot.path / "preprocessor_config.json"),
        weight_bytes=snapshot.weight_bytes or None if whole else None,
        parameters=_parameters(snapshot) if whole else None,
        licence=licence[1].strip() if licence else "",
        has_template=any(_templates(snapshot.path)),
    )


def _parameters(snapshot: Snapshot) -> int | None:
    """Numbers in all tensors; None where they are packed several to an integer."""
    if "quantization_config" in snapshot.config:
        return None
    count = 0
    for shard in snapshot.path.glob("*.safetensors"):
        for entry in read_header(shard).values():
            size = 1
            for length in entry.get("shape", ()):
                size *= int(length)
            count += size
    return count or None


def _templates(folder: Path) -> Iterator[bool]:
    yield (folder / "chat_template.jinja").exists()
    yield (folder / "chat_template.json").exists()
    yield "chat_template" in _json(folder / "tokenizer_config.json")


def _json(path: Path) -> dict[str, object]:
    try:
        data = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _name(repo: str) -> str:
    """The repository's own name as a model's: small letters, no owner."""
    word = _MODEL_NAME.sub("-", repo.rpartition("/")[2].casefold()).strip("-._")
    return word[:_LONGEST_NAME] or "model"


def _refuse_known(facts: RepositoryFacts, path: Path, ctx: Context, *, force: bool) -> None:
    """A file is not replaced, and a repository that has a name gets no second one, unasked."""
    if force:
        return
    again = "--force replaces it, --name gives another name"
    if path.exists():
        raise HpcvlmError("model-exists", f"{path} is there already", again)
    for known in (facts.repo, facts.name):
        try:
            found = find_model(known, model_layers(ctx))
        except HpcvlmError:
            continue
        raise HpcvlmError(
            "model-exists",
            f"{known} is in the catalog already, as {found.name}",
            f"hpcvlm models show {found.name}; --force writes the file all the same",
        )
