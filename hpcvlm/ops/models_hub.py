"""What the Hugging Face hub says of a repository, without its weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.model_entry import RepositoryFacts
from hpcvlm.snapshots.pull.hub_api import asked
from hpcvlm.snapshots.pull.hub_errors import hub_of, offline

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_ASKING_S = 20.0
_WEIGHTS = (".safetensors",)


def facts_of_hub(repo: str, revision: str, name: str) -> RepositoryFacts:
    """Ask the hub: the commit, sizes of files, licence, and three small JSON files.

    Raises:
        HpcvlmError: as `hpcvlm.snapshots.pull.hub_api.list_commit`; ``hub-refused`` where one of
            the files is not valid JSON.
    """
    from huggingface_hub import HfApi

    hub = hub_of(os.environ)
    if hub.offline:
        raise _with_folder(offline(hub, repo))
    api = HfApi(endpoint=hub.endpoint, library_name="hpcvlm")

    def look() -> RepositoryFacts:
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_ASKING_S)
        return _facts(info, repo, name)

    try:
        return asked(look, hub, repo, revision)
    except HpcvlmError as error:
        raise _with_folder(error) from None


def _with_folder(error: HpcvlmError) -> HpcvlmError:
    """Where the hub cannot be asked, the files themselves tell as much."""
    if error.code not in ("hub-unreachable", "hub-offline"):
        return error
    remedy = f"{error.remedy}; or, of a folder: hpcvlm models add /path/to/snapshot"
    return HpcvlmError(error.code, error.sentence, remedy, error.details)


def _facts(info: ModelInfo, repo: str, name: str) -> RepositoryFacts:
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    weights = [size for file, size in sizes.items() if _is_weight(file)]
    commit = info.sha or "main"
    template = "chat_template.jinja" in sizes or "chat_template.json" in sizes
    tokenizer = _file(repo, "tokenizer_config.json", commit, sizes)
    return RepositoryFacts(
        name=name,
        repo=repo,
        revision=commit,
        config=_file(repo, "config.json", commit, sizes),
        origin=f"https://huggingface.co/{repo}/tree/{commit}",
        preprocessor=_file(repo, "preprocessor_config.json", commit, sizes),
        weight_bytes=sum(size for size in weights if size) if all(weights) and weights else None,
        parameters=info.safetensors.total if info.safetensors else None,
        licence=str(getattr(info.card_data, "license", None) or ""),
        gated=bool(info.gated),
        has_template=template or "chat_template" in tokenizer,
    )


def _is_weight(file: str) -> bool:
    """Files that vLLM loads; Mistral's own copy and Meta's ``original/`` are left alone."""
    return file.endswith(_WEIGHTS) and "/" not in file and not file.startswith("consolidated")


def _file(repo: str, file: str, commit: str, sizes: dict[str, int | None]) -> dict[str, object]:
    from huggingface_hub import hf_hub_download

    if file not in sizes:
        return {}
    text = Path(hf_hub_download(repo, file, revision=commit)).read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except ValueError:
        raise HpcvlmError("hub-refused", f"{file} of {repo} is not valid JSON") from None
    return data if isinstance(data, dict) else {}
