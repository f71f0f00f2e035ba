"""What a model's file says, as options of `vllm serve`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hpcvlm.catalog.schema import ModelSpec

SNAPSHOT = "{snapshot}"
NOTHING: Mapping[str, object] = MappingProxyType({})


def serve_options(
    spec: ModelSpec,
    *,
    snapshot: str,
    media_root: str,
    tensor_parallel_size: int,
    media: Mapping[str, object] = NOTHING,
) -> dict[str, object]:
    """Options by name, without dashes; the file's own `options` win over what follows from it.

    Args:
        spec: the model.
        snapshot: its folder, which ``{snapshot}`` in a value stands for.
        media_root: folder below which ``file://`` images are allowed.
        tensor_parallel_size: GPUs that share the weights.
        media: what limits the hosts that images may come from.
    """
    options: dict[str, object] = {
        "served-model-name": spec.served_name or spec.snapshot.repo,
        "tensor-parallel-size": tensor_parallel_size,
    }
    if spec.multimodal.limit_per_prompt:
        options["limit-mm-per-prompt"] = dict(spec.multimodal.limit_per_prompt)
        options["allowed-local-media-path"] = media_root
    options |= media
    if spec.multimodal.processor:
        options["mm-processor-kwargs"] = dict(spec.multimodal.processor)
    if spec.custom_code:
        options["trust-remote-code"] = True
    own = {name: _with_snapshot(value, snapshot) for name, value in spec.options.items()}
    return {**options, **_chat(spec), **own}


def _with_snapshot(value: object, snapshot: str) -> object:
    if isinstance(value, str):
        return value.replace(SNAPSHOT, snapshot)
    if isinstance(value, list):
        return [_with_snapshot(item, snapshot) for item in value]
    if isinstance(value, dict):
        return {name: _with_snapshot(item, snapshot) for name, item in value.items()}
    return value


def option_source(name: str) -> tuple[str, ...]:
    """The keys of a model file that an option follows from, the strongest first."""
    own = f"options.{name}"
    return (own, *_FROM.get(name, ()))


_FROM = {
    "served-model-name": ("served_name", "snapshot.repo"),
    "limit-mm-per-prompt": ("multimodal.limit_per_prompt",),
    "mm-processor-kwargs": ("multimodal.processor",),
    "trust-remote-code": ("custom_code",),
    "chat-template": ("chat.template",),
    "enable-auto-tool-choice": ("chat.tools",),
    "tool-call-parser": ("chat.tools",),
    "reasoning-parser": ("chat.reasoning",),
}


def _chat(spec: ModelSpec) -> dict[str, object]:
    options: dict[str, object] = {}
    if spec.chat.template:
        options["chat-template"] = spec.chat.template
    if spec.chat.tools:
        options |= {"enable-auto-tool-choice": True, "tool-call-parser": spec.chat.tools}
    if spec.chat.reasoning:
        options["reasoning-parser"] = spec.chat.reasoning
    return options
