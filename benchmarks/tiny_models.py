"""Tiny models of many architectures, for an engine that fills them with random weights.

    PYTHON_OF_THE_ENGINE tiny_models.py FOLDER [ARCHITECTURE ...]

Each becomes FOLDER/ARCHITECTURE with a config.json as a repository has it, a tokenizer and the
image processor's settings. There is no weight file: `vllm serve --load-format dummy` makes the
weights. Runs in the engine's environment, for its transformers and tokenizers; the configs alone
(`CONFIGS`) need neither.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Config = dict[str, Any]

LENGTH = 2048
VOCABULARY = 512
IMAGE = 56
PATCH = 14

_WORDS = "a tiny picture shows one red square and a blue circle on plain ground what is it"
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def _text(model_type: str, **more: object) -> Config:
    """A language model of two layers, whose heads have a width that CPU attention takes."""
    return {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LENGTH,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def _top(architecture: str, model_type: str, **more: object) -> Config:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def _alone(architecture: str, model_type: str, **more: object) -> Config:
    """A model without pictures: its numbers stand at top level."""
    return {**_text(model_type, **more), "architectures": [architecture], "torch_dtype": "bfloat16"}


def _encoder(model_type: str, **more: object) -> Config:
    return {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE,
        "patch_size": PATCH,
        **more,
    }


_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_QWEN_TOKENS = {
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
}
_QWEN_EYE = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

CONFIGS: Mapping[str, Config] = {
    "llama": _alone("LlamaForCausalLM", "llama", num_hidden_layers=3),
    # No key and value heads, no head width: both follow from the others.
    "phi3": {
        key: value
        for key, value in _alone(
            "Phi3ForCausalLM", "phi3", original_max_position_embeddings=LENGTH
        ).items()
        if key not in {"num_key_value_heads", "head_dim"}
    },
    # A window on every layer.
    "mistral": _alone("MistralForCausalLM", "mistral", sliding_window=300),
    # 10 layers with a short window, 2 without: groups of 2.
    "gemma3": _top(
        "Gemma3ForConditionalGeneration",
        "gemma3",
        text_config=_text(
            "gemma3_text",
            num_hidden_layers=12,
            query_pre_attn_scalar=32,
            sliding_window=256,
            tie_word_embeddings=True,
        ),
        vision_config=_encoder("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=3,
        eoi_token_index=4,
        image_token_index=5,
        tie_word_embeddings=True,
    ),
    # 6 with a window, 1 without, and one that fills the last group only in part.
    "gemma3-text": _alone(
        "Gemma3ForCausalLM",
        "gemma3_text",
        num_hidden_layers=7,
        sliding_window=512,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention"] * 2
        + ["full_attention"]
        + ["sliding_attention"] * 3
        + ["full_attention"],
        tie_word_embeddings=True,
    ),
    # One compressed vector per token.
    "deepseek-v2": _alone(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        num_key_value_heads=2,
        head_dim=0,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
        scoring_func="softmax",
        hidden_act="silu",
        attention_bias=False,
        rope_theta=10000.0,
    ),
    # Three layers of four have a state of constant size.
    "qwen3.5": _top(
        "Qwen3_5ForConditionalGeneration",
        "qwen3_5",
        text_config=_text(
            "qwen3_5_text",
            num_hidden_layers=4,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=32,
            linear_value_head_dim=32,
            linear_conv_kernel_dim=4,
            rope_parameters={**_ROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        ),
        vision_config={
            **_QWEN_EYE,
            "model_type": "qwen3_5",
            "patch_size": 16,
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "in_channels": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": [],
        },
        **_QWEN_TOKENS,
    ),
    # Its language model stands at top level, as in the first repositories.
    "qwen2-vl": {
        **_text("qwen2_vl", num_hidden_layers=4),
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {
            **_QWEN_EYE,
            "model_type": "qwen2_vl",
            "embed_dim": 64,
            "hidden_size": 64,
            "mlp_ratio": 2,
        },
        **_QWEN_TOKENS,
    },
    "qwen2.5-vl": _top(
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl",
        text_config=_text(
            "qwen2_5_vl_text",
            hidden_size=128,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters=_ROPE,
        ),
        vision_config={
            **_QWEN_EYE,
            "model_type": "qwen2_5_vl",
            "hidden_size": 64,
            "out_hidden_size": 128,
            "intermediate_size": 128,
            "window_size": IMAGE,
            "fullatt_block_indexes": [1],
        },
        **_QWEN_TOKENS,
    ),
    "llava": _top(
        "LlavaForConditionalGeneration",
        "llava",
        text_config=_text("llama", num_key_value_heads=2, num_hidden_layers=5),
        vision_config=_encoder("clip_vision_model", projection_dim=64),
        image_token_index=5,
        image_seq_length=(IMAGE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    ),
    "idefics3": _top(
        "Idefics3ForConditionalGeneration",
        "idefics3",
        text_config=_text("llama", head_dim=64),
        vision_config=_encoder("idefics3_vision"),
        image_token_id=5,
        scale_factor=2,
    ),
}


def tokens_of(architecture: str) -> list[str]:
    """The special tokens of an architecture, in the order of their ids from 3 on."""
    if architecture.startswith("qwen"):
        names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    elif architecture == "gemma3":
        names = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
        names += ["\n" * count for count in (1, 2, 3, 4)]  # vLLM looks runs of them up
    elif architecture == "idefics3":
        names = ["<fake_token_around_image>", "<end_of_utterance>", "<image>", "<global-img>"]
        names += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    else:
        names = ["<unused3>", "<unused4>", "<image>"]
    return names


def make(architecture: str, folder: Path) -> Path:
    """Write one model; gives its folder."""
    target = folder / architecture
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(CONFIGS[architecture], indent=2))
    tokenizer = _tokenizer(architecture)
    tokenizer.save_pretrained(target)
    processor = _PROCESSORS.get(architecture)
    if processor is not None:
        processor(tokenizer).save_pretrained(target)
    return target


def _tokenizer(architecture: str) -> Any:  # noqa: ANN401 - transformers is not installed here
    parts = importlib.import_module("tokenizers")
    transformers = importlib.import_module("transformers")
    base = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *tokens_of(architecture)]
    model = parts.Tokenizer(parts.models.BPE())
    model.pre_tokenizer = parts.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = parts.decoders.ByteLevel()
    alphabet = parts.pre_tokenizers.ByteLevel.alphabet()
    trainer = parts.trainers.BpeTrainer(
        vocab_size=VOCABULARY - 32,
        special_tokens=base,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    model.train_from_iterator([_WORDS], trainer)
    special: dict[str, str] = {}
    if architecture == "gemma3":
        special = dict(zip(("boi_token", "eoi_token", "image_token"), base[3:6], strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        **{f"{role}_token": base[at] for role, at in (("bos", 0), ("eos", 2), ("pad", 0))},
        extra_special_tokens=special,
        model_max_length=LENGTH,
        chat_template=_TEMPLATE,
    )


def _qwen(tokenizer: Any, family: str) -> Any:  # noqa: ANN401
    transformers = importlib.import_module("transformers")
    patch = 16 if family == "Qwen3VL" else PATCH
    pixels = {"min_pixels": (2 * patch) ** 2, "max_pixels": (8 * patch) ** 2}
    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    video = "Qwen3VLVideoProcessor" if family == "Qwen3VL" else "Qwen2VLVideoProcessor"
    return getattr(transformers, f"{family}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels, **sizes),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, video)(**sizes),
        chat_template=_TEMPLATE,
    )


def _gemma3(tokenizer: Any) -> Any:  # noqa: ANN401
    transformers = importlib.import_module("transformers")
    return transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": IMAGE, "width": IMAGE}),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
        image_seq_length=4,
    )


def _llava(tokenizer: Any) -> Any:  # noqa: ANN401
    transformers = importlib.import_module("transformers")
    crop = {"height": IMAGE, "width": IMAGE}
    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": IMAGE}, crop_size=crop
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=tokens_of("llava")[2],
        chat_template=_TEMPLATE,
    )


def _idefics3(tokenizer: Any) -> Any:  # noqa: ANN401
    transformers = importlib.import_module("transformers")
    edge = {"longest_edge": IMAGE}
    return transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(size=edge, max_image_size=edge),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_TEMPLATE,
    )


_PROCESSORS: Mapping[str, Callable[[Any], Any]] = {
    "gemma3": _gemma3,
    "llava": _llava,
    "idefics3": _idefics3,
    "qwen2-vl": lambda tokenizer: _qwen(tokenizer, "Qwen2VL"),
    "qwen2.5-vl": lambda tokenizer: _qwen(tokenizer, "Qwen2_5_VL"),
    "qwen3.5": lambda tokenizer: _qwen(tokenizer, "Qwen3VL"),
}


def main() -> None:
    """Make the models that the command line names, or all of them."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder, *names = sys.argv[1:]
    for name in names or CONFIGS:
        print(make(name, Path(folder)))


if __name__ == "__main__":
    main()
