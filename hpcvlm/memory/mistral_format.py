"""Mistral's own params.json in the words of a config.json.

Source: vllm/transformers_utils/configs/mistral.py.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
}
# vllm/transformers_utils/config.py, MistralConfigParser: where params.json says nothing.
_LENGTH = 128_000


def is_mistral_format(config: Mapping[str, object]) -> bool:
    """Whether this is a params.json."""
    return "dim" in config and "n_layers" in config


def translated(params: Mapping[str, object]) -> dict[str, object]:
    """The same in the words of a config.json; `vision_encoder` becomes `vision_config`."""
    text: dict[str, object] = {_NAMES.get(key, key): value for key, value in params.items()}
    text.setdefault("max_position_embeddings", params.get("max_position_embeddings") or _LENGTH)
    text.setdefault("sliding_window", None)
    text["model_type"] = "mistral"
    text["dtype"] = "bfloat16"
    several = params.get("multimodal")
    vision = several.get("vision_encoder_args") if isinstance(several, dict) else None
    vision = vision or text.pop("vision_encoder", None)
    if not isinstance(vision, dict):
        return {**text, "architectures": ["MistralForCausalLM"]}
    return {
        "model_type": "pixtral",
        "architectures": ["PixtralForConditionalGeneration"],
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": {**vision, "model_type": "pixtral"},
        **({"quantization": params["quantization"]} if params.get("quantization") else {}),
    }
