"""A repository's config.json becomes a `ModelShape`."""

from __future__ import annotations

from collections.abc import Mapping

from hpcvlm.memory.checkpoint import loaded_bytes
from hpcvlm.memory.image_rules import read_rule
from hpcvlm.memory.layers import read_layers
from hpcvlm.memory.mistral_format import is_mistral_format, translated
from hpcvlm.memory.parts import Part, sequence, text_part, vision_part
from hpcvlm.memory.quantization import read_quantization
from hpcvlm.memory.shapes import ModelShape, VisionShape

# Encoders that vLLM gives whole to every GPU, whatever --mm-encoder-tp-mode says.
_WHOLE_ENCODERS = frozenset({"pixtral", "phi3_v", "phi4mm", "phi4_multimodal", "minicpmv", "molmo"})
# vllm/config/model.py, _get_and_verify_max_len: these say their length already scaled.
_SCALED_ROPE = frozenset(
    {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default"}
)


def read_model(
    config: Mapping[str, object],
    weight_bytes: int | None = None,
    preprocessor: Mapping[str, object] | None = None,
) -> ModelShape:
    """What decides a model's memory, of its config.json.

    Args:
        config: the parsed file, whole or trimmed to the keys that are read here. A key whose
            value is null says something else than a key that is left out (`sliding_window`).
            Mistral's own ``params.json`` is understood, too.
        weight_bytes: of the checkpoint: `checkpoint.index_bytes`, or the sizes of its files.
        preprocessor: the parsed preprocessor_config.json, for the tokens of a picture.

    Returns:
        The shape; what could not be read is None there and named in `unknown`.
    """
    if is_mistral_format(config):
        config = translated(config)
    missing: list[str] = []
    architecture = next((str(one) for one in sequence(config.get("architectures"))), None)
    kind = config.get("model_type")
    text = text_part(config, missing)
    heads = text.number("num_attention_heads")
    dtype = _dtype(config, text)
    if dtype is None:
        missing.append("dtype")
    vision = _vision(config, missing)
    rule = read_rule(config, preprocessor or {})
    multimodal = rule is not None or vision_part(config, []) is not None
    if multimodal and rule is None:
        missing.append("tokens of a picture")
    if weight_bytes is None:
        missing.append("weight bytes")
    return ModelShape(
        architecture=architecture,
        model_type=kind if isinstance(kind, str) else None,
        dtype="bfloat16" if dtype == "float32" else dtype,
        weight_bytes=None if weight_bytes is None else loaded_bytes(weight_bytes, dtype),
        layers=read_layers(text, architecture),
        num_layers=text.number("num_hidden_layers", "num_layers", "n_layers"),
        hidden=text.needed("hidden_size"),
        intermediate=_intermediate(text),
        heads=heads,
        kv_heads=text.number("num_key_value_heads") or heads,
        vocabulary=text.number("vocab_size") or Part("", config).number("vocab_size"),
        max_model_len=_length(config, text),
        original_len=_original(config, text),
        multimodal=multimodal,
        vision=vision,
        images=rule,
        quantization=read_quantization(config),
        unknown=tuple(dict.fromkeys(missing)),
    )


def _dtype(config: Mapping[str, object], text: Part) -> str | None:
    """In vLLM's order: top level, language part, vision part (get_torch_dtype)."""
    vision = config.get("vision_config")
    places = (config, text.data, vision if isinstance(vision, dict) else {})
    for place in places:
        for key in ("dtype", "torch_dtype"):
            found = place.get(key)
            if isinstance(found, str):
                return found.removeprefix("torch.")
    return None


def _intermediate(text: Part) -> int | None:
    """Width that one token goes through: of a mixture, that of the experts that it visits."""
    experts = text.number("num_experts_per_tok", "moe_topk", "top_k_experts")
    width = text.number("moe_intermediate_size")
    dense = text.number("intermediate_size", "ffn_hidden_size")
    if experts and (width or text.type.startswith(("llama4", "mixtral"))):
        shared = text.number("shared_expert_intermediate_size", "n_shared_experts") or 0
        if 0 < shared < 100:  # noqa: PLR2004 - a number of experts, not a width
            shared *= width or 0
        return (width or dense or 0) * experts + shared
    return dense


def _length(config: Mapping[str, object], text: Part) -> int | None:
    """Longest context by the rules of vllm/config/model.py, _get_and_verify_max_len."""
    found = text.number("max_position_embeddings", "max_seq_len", "seq_length", "model_max_length")
    if found is None:
        text.missing.append("max_position_embeddings")
        return None
    if str(config.get("model_type")).startswith("gemma3"):
        return found
    rope = text.data.get("rope_scaling") or text.data.get("rope_parameters")
    if not isinstance(rope, dict):
        return found
    kind = rope.get("rope_type") or rope.get("type")
    factor = rope.get("factor")
    if kind in _SCALED_ROPE or "mrope_section" in rope or not isinstance(factor, (int, float)):
        return found
    return int(found * factor)


def _original(config: Mapping[str, object], text: Part) -> int | None:
    rope = text.data.get("rope_scaling") or text.data.get("rope_parameters")
    if not isinstance(rope, dict) or (rope.get("rope_type") or rope.get("type")) != "longrope":
        return None
    return Part("", config).number("original_max_position_embeddings")


def _vision(config: Mapping[str, object], missing: list[str]) -> VisionShape | None:
    part = vision_part(config, missing)
    if part is None:
        return None
    kind = str(config.get("model_type"))
    hidden = part.number("embed_dim") if kind == "qwen2_vl" else None
    hidden = hidden or part.number("hidden_size", "width", "embed_dim", "vt_hidden_size")
    layers = part.number("depth", "num_hidden_layers", "layers", "vt_num_hidden_layers")
    wide = part.number("intermediate_size", "vt_intermediate_size")
    if wide is None and hidden is not None and (ratio := part.ratio("mlp_ratio")):
        wide = int(hidden * ratio)
    if hidden is None or layers is None or wide is None:
        missing.append("vision_config.hidden_size, depth or intermediate_size")
        return None
    layers += part.number("num_global_layers") or 0
    patch = part.number("patch_size", "spatial_patch_size")
    channels = part.number("num_channels", "in_channels", "in_chans") or 3
    frames = part.number("temporal_patch_size") or 1
    gated = kind.startswith(("qwen2_5", "pixtral", "mistral3", "glm4v", "kimi")) or (
        part.type == "pixtral"
    )
    return VisionShape(
        hidden=hidden,
        intermediate=wide,
        layers=layers,
        heads=part.number("num_heads", "num_attention_heads", "attention_heads"),
        matrices=3 if gated else 2,
        patch=patch,
        inputs=None if patch is None else channels * frames * patch * patch,
        levels=1 + len(part.numbers("deepstack_visual_indexes")),
        splits=part.type not in _WHOLE_ENCODERS and kind not in _WHOLE_ENCODERS,
    )
