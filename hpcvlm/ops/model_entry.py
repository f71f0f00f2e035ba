"""A first model file for weights that the catalog does not know, from what lies beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import ModelShape

# What a file's own options do by default: enough for a conversation with pictures, and little
# enough for the KV cache of one GPU.
_SENSIBLE_LENGTH = 32768
_IMAGES = 4
_LARGEST_SIZE = 16
_MOST_ITEMS = 256
_NOT_NEEDED = re.compile(
    r"^_|_token_id$|_token_index$|dropout|_act$|^hidden_activation$|initializer|^transformers_version"
    r"|^auto_map$|^id2label$|^label2id$|^torchscript$|^output_|^use_cache$|^return_dict|^prefix$"
    r"|^task_specific|^problem_type$|^pruned_heads$|_norm_eps$|^finetuning_task$"
)


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    """What is known of a repository without reading weights.

    Attributes:
        name: of the model, as it will be launched.
        repo: ``owner/name``.
        revision: a commit where one is known.
        path: the folder, where it is none of a hub cache.
        config: config.json.
        preprocessor: preprocessor_config.json; empty where there is none.
        weight_bytes: of all weight files; None when unknown.
        parameters: as the safetensors headers or the hub count them; None when unknown.
        licence: as the model card says it.
        has_template: whether a chat template lies beside the weights.
        origin: where the facts are from, for `sources`.
    """

    name: str
    repo: str
    revision: str
    config: Mapping[str, object]
    origin: str
    path: str | None = None
    preprocessor: Mapping[str, object] = field(default_factory=dict)
    weight_bytes: int | None = None
    parameters: int | None = None
    licence: str = ""
    gated: bool = False
    has_template: bool = True


def model_entry(facts: RepositoryFacts, versions: str | None) -> str:
    """The text of a model file. What could not be found out is left out.

    Args:
        facts: of the repository.
        versions: versions of the engine that know the architecture; None when unknown.
    """
    import yaml

    shape = read_model(facts.config, facts.weight_bytes, facts.preprocessor)
    data = {key: value for key, value in _keys(facts, shape, versions) if value}
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=96)
    return "\n".join([*_header(facts, shape), body])


def trimmed(config: Mapping[str, object]) -> dict[str, object]:
    """config.json without what says nothing of memory: token ids, names, training settings."""
    kept: dict[str, object] = {}
    for key, value in config.items():
        if _NOT_NEEDED.search(key):
            continue
        if isinstance(value, Mapping):
            value = trimmed(value)  # noqa: PLW2901
        elif isinstance(value, list) and len(value) > _MOST_ITEMS:
            continue
        kept[key] = value
    return kept


def _keys(
    facts: RepositoryFacts, shape: ModelShape, versions: str | None
) -> Iterator[tuple[str, object]]:
    yield "name", facts.name
    yield "description", f"{facts.repo.rpartition('/')[2]}, as found on {facts.origin}"[:96]
    yield "licence", facts.licence
    yield "gated", facts.gated
    snapshot = {"repo": facts.repo, "revision": facts.revision}
    yield "snapshot", {**snapshot, "path": facts.path} if facts.path else snapshot
    yield "architecture", shape.architecture
    yield "parameters", facts.parameters
    yield "weight_bytes", facts.weight_bytes
    yield "precision", _precision(shape)
    yield "context_length", shape.max_model_len
    yield "engine", {"versions": versions} if versions else None
    yield "parallelism", _parallelism(shape)
    yield "multimodal", {"limit_per_prompt": {"image": _IMAGES}} if shape.multimodal else None
    length = shape.max_model_len
    yield "options", {"max-model-len": min(length, _SENSIBLE_LENGTH)} if length else None
    yield "config", trimmed(facts.config)
    yield "sources", _sources(facts, versions)


def _precision(shape: ModelShape) -> str | None:
    if shape.quantization is None:
        return None
    bits = f", {shape.quantization.bits} bit" if shape.quantization.bits else ""
    return f"{shape.quantization.method}{bits}"


def _parallelism(shape: ModelShape) -> dict[str, object] | None:
    if not shape.heads:
        return None
    sizes = [size for size in range(1, _LARGEST_SIZE + 1) if shape.heads % size == 0]
    return {"attention_heads": shape.heads, "sizes": sizes, "gpus": {"default": 1}}


def _sources(facts: RepositoryFacts, versions: str | None) -> dict[str, str]:
    found = {
        "config": f"{facts.origin}, config.json",
        "architecture": f"{facts.origin}, config.json",
        "context_length": f"{facts.origin}, config.json",
        "parallelism.attention_heads": f"{facts.origin}, config.json",
    }
    if facts.weight_bytes:
        found["weight_bytes"] = f"{facts.origin}, sizes of the weight files"
    if facts.parameters:
        found["parameters"] = f"{facts.origin}, safetensors headers"
    if facts.licence:
        found["licence"] = f"{facts.origin}, README.md"
    if versions:
        found["engine.versions"] = "vLLM's model registries, as hpcvlm's table has them"
    return found


def _header(facts: RepositoryFacts, shape: ModelShape) -> Iterator[str]:
    yield f"# {facts.repo}, written by hpcvlm models add from {facts.origin}."
    yield "# Look it over, then: hpcvlm plan " + facts.name
    if "auto_map" in facts.config:
        yield "#"
        yield "# Its config.json names Python code of the repository (auto_map). If vLLM asks"
        yield "# for it, review that code, then say why it may run:"
        yield "# custom_code: the processor is code of the repository"
    if shape.multimodal and not facts.has_template:
        yield "#"
        yield "# No chat template lies beside the weights. If vLLM has none built in, name one:"
        yield "# chat: {template: /path/in/the/image.jinja}"
    if shape.unknown:
        yield "#"
        yield f"# Not found, so the memory arithmetic cannot tell: {', '.join(shape.unknown)}."
    yield ""
