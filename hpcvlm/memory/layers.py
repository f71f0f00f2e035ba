"""Which layers of a model keep what: read from the language model's part of config.json.

Source: the model classes of vLLM 0.32 (vllm/model_executor/models) and
vllm/transformers_utils/model_arch_config_convertor.py, which decide what each layer keeps.
"""

from __future__ import annotations

from collections import Counter

from hpcvlm.memory.parts import Part
from hpcvlm.memory.shapes import LayerKind, Layers, StateShape

# ModelArchConfigConvertorBase.is_deepseek_mla: other types with a kv_lora_rank (MiniCPM3) keep
# plain keys and values.
_MLA_TYPES = frozenset(
    {
        "axk1",
        "deepseek_v2",
        "deepseek_v3",
        "glm4_moe_lite",
        "kimi_k2",
        "pangu_ultra_moe",
        "deepseek_mtp",
    }
)
# Types whose layers keep something that the keys read here do not tell: an indexer's cache, two
# attentions in a layer, states of another make, heads that differ from layer to layer.
_NOT_UNDERSTOOD = frozenset(
    {
        "bailing_hybrid",
        "bamba",
        "deepseek_v32",
        "deepseek_v4",
        "dots3_note",
        "falcon_h1",
        "falcon_mamba",
        "glm5_next",
        "glm5_next_text",
        "glm_moe_dsa",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "longcat_flash",
        "mamba",
        "mamba2",
        "mimo_v2_flash",
        "minimax_m1",
        "minimax_text_01",
        "minimax_m3",
        "minimax_m3_vl",
        "nemotron-nas",
        "phi4flash",
        "plamo2",
        "qwen4_exp",
        "step3p5",
        "zamba2",
    }
)
_WINDOWS = {"sliding_attention", "sliding", "local", "local_sliding"}
_STATES = {"linear_attention", "mamba"}
_NEMOTRON = {"M": LayerKind.STATE, "*": LayerKind.FULL}


def read_layers(text: Part, architecture: str | None) -> tuple[Layers, ...]:
    """The layers that keep something of the tokens, by kind and size.

    Args:
        text: the language model's part; what is missing is noted in it.
        architecture: first of `architectures`.

    Returns:
        Nothing at all when a number that decides is missing: a part would look like the whole.
    """
    if not _understood(text):
        return ()
    kinds = _kinds(text)
    heads = text.needed("num_attention_heads")
    if kinds is None or heads is None:
        return ()
    if _is_mla(text, architecture):
        return _mla(text, len(kinds))
    head_dim = _head_dim(text, heads)
    if head_dim is None:
        return ()
    kv_heads = text.number("num_key_value_heads", "num_kv_heads", "n_head_kv") or heads
    found = [
        _layers(text, kind, count, kv_heads, head_dim) for kind, count in Counter(kinds).items()
    ]
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else ()


def _understood(text: Part) -> bool:
    types = {text.type, str(text.above)} & _NOT_UNDERSTOOD
    if types:
        text.missing.append(f"layers of {', '.join(sorted(types))}")
    return not types


def _layers(text: Part, kind: LayerKind, count: int, kv_heads: int, head_dim: int) -> Layers | None:
    """All layers of one kind, or None where a number that decides is missing."""
    if kind is LayerKind.STATE:
        state = _state(text)
        return None if state is None else Layers(kind=kind, count=count, state=state)
    window = None
    if kind is LayerKind.SLIDING:
        window = _window(text) or text.needed("sliding_window")
    elif kind is LayerKind.CHUNKED:
        window = text.needed("attention_chunk_size")
    if window is None and kind in {LayerKind.SLIDING, LayerKind.CHUNKED}:
        return None
    keys, width = _of_kind(text, kind, kv_heads, head_dim)
    return Layers(
        kind=kind,
        count=count,
        kv_heads=keys,
        head_dim=width,
        head_dim_v=text.number("v_head_dim") or width,
        window=window,
    )


def _kinds(text: Part) -> list[LayerKind] | None:
    """The kind of every layer that has keys and values, or a state, of its own."""
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [_NEMOTRON[letter] for letter in pattern if letter in _NEMOTRON]
    count = text.needed("num_hidden_layers", "num_layers", "n_layers")
    if count is None:
        return None
    own = count - (text.number("num_kv_shared_layers") or 0)
    words = text.words("layer_types") or text.words("layers_block_type")
    kinds = _named(text, words) if words else _by_rule(text, count)
    if kinds is not None and len(kinds) < own:
        text.missing.append("layer_types of all layers")
        return None
    if kinds is None:
        return None
    return kinds[:own]


def _named(text: Part, words: list[str]) -> list[LayerKind] | None:
    """From `layer_types`, one word a layer."""
    kinds = []
    for word in words:
        if word in _WINDOWS:
            kinds.append(LayerKind.SLIDING)
        elif word == "chunked_attention":
            kinds.append(LayerKind.CHUNKED)
        elif word in _STATES:
            kinds.append(LayerKind.STATE)
        elif word in {"full_attention", "attention", "global"}:
            kinds.append(LayerKind.FULL)
        else:
            text.missing.append(f"meaning of layer type {word!r}")
            return None
    return kinds


def _by_rule(text: Part, count: int) -> list[LayerKind]:
    """From the keys that older configs have in place of `layer_types`."""
    kinds = [LayerKind.FULL] * count
    cross = text.numbers("cross_attention_layers")
    pattern = text.number("sliding_window_pattern", "_sliding_window_pattern")
    interval = text.number("full_attention_interval")
    if cross:
        for index in cross:
            kinds[index] = LayerKind.CROSS
    elif text.number("attention_chunk_size"):
        kinds = _chunked(text, count)
    elif interval and text.number("linear_num_value_heads"):
        kinds = _every(interval, count, LayerKind.STATE)
    elif _window(text):
        kinds = _every(pattern or count + 1, count, LayerKind.SLIDING)
    return kinds


def _every(step: int, count: int, other: LayerKind) -> list[LayerKind]:
    return [LayerKind.FULL if (index + 1) % step == 0 else other for index in range(count)]


def _chunked(text: Part, count: int) -> list[LayerKind]:
    """Llama 4: layers without rotary positions see everything (1 keeps them, 0 does not)."""
    rope = text.numbers("no_rope_layers")
    if len(rope) != count:
        step = text.number("no_rope_layer_interval") or 4
        return _every(step, count, LayerKind.CHUNKED)
    return [LayerKind.CHUNKED if rotary else LayerKind.FULL for rotary in rope]


def _window(text: Part) -> int | None:
    """Tokens of the sliding window, if the model has one.

    A window that is there counts for all layers where nothing says which (arg_utils.py,
    create_engine_config), unless `use_sliding_window` is off, as in Qwen's. Mistral's class has
    4096 where the key is left out; its newer models say null.
    """
    if text.get("use_sliding_window") is False:
        return None
    if "sliding_window" in text.data:
        found = text.data["sliding_window"]
        return found if isinstance(found, int) and found > 0 else None
    if text.type in {"mistral", "mixtral"}:
        return 4096
    default = text.defaults.get("sliding_window")
    return default if isinstance(default, int) else None


def _is_mla(text: Part, architecture: str | None) -> bool:
    if not text.number("kv_lora_rank"):
        return False
    return text.type in _MLA_TYPES or "Deepseek" in (architecture or "")


def _mla(text: Part, count: int) -> tuple[Layers, ...]:
    rank, rope = text.needed("kv_lora_rank"), text.needed("qk_rope_head_dim")
    if rank is None or rope is None:
        return ()
    kind = LayerKind.MLA
    return (Layers(kind=kind, count=count, kv_heads=1, head_dim=rank + rope, head_dim_v=0),)


def _head_dim(text: Part, heads: int) -> int | None:
    """`head_dim`, else the width divided by the heads.

    A head_dim of the class's defaults counts only where the width is the class's, too.
    """
    own = text.data.get("head_dim")
    if isinstance(own, int) and own > 0:
        return own
    default = None if "head_dim" in text.data else text.defaults.get("head_dim")
    if isinstance(default, int):
        return default
    hidden = text.needed("hidden_size")
    return hidden // heads if hidden is not None else None


def _of_kind(text: Part, kind: LayerKind, kv_heads: int, head_dim: int) -> tuple[int, int]:
    """Key heads and width of one kind: Gemma 4's full layers have their own.

    Source: vllm/model_executor/models/gemma4.py; transformers' Gemma4TextConfig.
    """
    if kind is not LayerKind.FULL or not text.type.startswith("gemma4"):
        return kv_heads, head_dim
    width = text.number("global_head_dim") or head_dim
    if text.data.get("attention_k_eq_v") is True:
        kv_heads = text.number("num_global_key_value_heads") or kv_heads
    return kv_heads, width


def _state(text: Part) -> StateShape | None:
    """A gated delta net's state (Qwen3.5), or a Mamba 2 one (Nemotron-H)."""
    value_heads = text.number("linear_num_value_heads")
    if value_heads:
        key_heads = text.needed("linear_num_key_heads")
        key_dim, value_dim = (
            text.needed("linear_key_head_dim"),
            text.needed("linear_value_head_dim"),
        )
        kernel = text.needed("linear_conv_kernel_dim")
        if key_heads is None or key_dim is None or value_dim is None or kernel is None:
            return None
        return StateShape(
            channels=2 * key_heads * key_dim + value_heads * value_dim,
            kernel=kernel,
            recurrent=value_heads * value_dim * key_dim,
            recurrent_bytes=_width(text.get("mamba_ssm_dtype")),
        )
    heads, width = text.needed("mamba_num_heads"), text.needed("mamba_head_dim")
    size, groups = text.needed("ssm_state_size", "mamba_d_state"), text.needed("n_groups")
    kernel = text.needed("conv_kernel", "mamba_d_conv")
    if heads is None or width is None or size is None or groups is None or kernel is None:
        return None
    # NemotronHForCausalLMConfig: the recurrent state is float32 unless the config says another.
    return StateShape(
        channels=heads * width,
        groups=groups,
        group_channels=2 * size,
        kernel=kernel,
        recurrent=heads * width * size,
        recurrent_bytes=_width(text.get("mamba_ssm_cache_dtype")) or 4,
    )


def _width(dtype: object) -> int | None:
    return {"float32": 4, "bfloat16": 2, "float16": 2}.get(str(dtype))
