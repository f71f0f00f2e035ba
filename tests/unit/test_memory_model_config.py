"""A repository's config.json becomes the shape that decides its memory."""

from __future__ import annotations

import pytest

from hpcvlm.memory.checkpoint import header_bytes, index_bytes
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import LayerKind
from tests.unit import memory_configs as configs


def _kinds(config: configs.Config) -> dict[LayerKind, int]:
    return {layer.kind: layer.count for layer in read_model(config).layers}


def test_numbers_at_top_level_and_a_window_that_is_switched_off() -> None:
    shape = read_model(configs.QWEN25_VL_7B, 16_584_333_312)
    assert (shape.heads, shape.kv_heads, shape.hidden) == (28, 4, 3584)
    assert _kinds(configs.QWEN25_VL_7B) == {LayerKind.FULL: 28}
    assert shape.weight_bytes == 16_584_333_312
    assert shape.max_model_len == 128000
    assert shape.unknown == ()
    assert shape.vision is not None
    assert (shape.vision.matrices, shape.vision.inputs) == (3, 3 * 2 * 14 * 14)


def test_what_the_class_knows_fills_what_the_file_leaves_out() -> None:
    llava = read_model(configs.LLAVA_15_7B)
    assert [(one.count, one.kv_heads, one.head_dim) for one in llava.layers] == [(32, 32, 128)]
    gemma = read_model(configs.GEMMA3_4B)
    assert {one.head_dim for one in gemma.layers} == {256}
    assert {one.kv_heads for one in gemma.layers} == {4}
    assert gemma.vocabulary == 262208


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (configs.GEMMA3_27B, {LayerKind.SLIDING: 52, LayerKind.FULL: 10}),
        (configs.GEMMA3_4B, {LayerKind.SLIDING: 29, LayerKind.FULL: 5}),
        (configs.LLAMA4_SCOUT, {LayerKind.CHUNKED: 36, LayerKind.FULL: 12}),
        (configs.LLAMA32_11B_VISION, {LayerKind.FULL: 32, LayerKind.CROSS: 8}),
        (configs.KIMI_VL_A3B, {LayerKind.MLA: 27}),
        # Its window is longer than its context, yet vLLM treats it as one.
        (configs.PHI_35_VISION, {LayerKind.SLIDING: 32}),
        (configs.PIXTRAL_12B, {LayerKind.FULL: 40}),
    ],
)
def test_kinds_of_layers(config: configs.Config, kinds: dict[LayerKind, int]) -> None:
    assert _kinds(config) == kinds


def test_a_window_that_is_null_is_none_and_one_left_out_is_mistrals() -> None:
    plain = {**configs.LLAMA31_8B, "model_type": "mistral"}
    assert _kinds(plain) == {LayerKind.SLIDING: 32}
    assert read_model(plain).layers[0].window == 4096
    assert _kinds({**plain, "sliding_window": None}) == {LayerKind.FULL: 32}


def test_layer_types_count_before_a_pattern_and_shared_layers_keep_nothing() -> None:
    types = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
    text = {
        **configs.GEMMA3_4B["text_config"],
        "num_hidden_layers": 4,
        "layer_types": types,
        "sliding_window_pattern": 6,
    }
    config = {**configs.GEMMA3_4B, "text_config": text}
    assert _kinds(config) == {LayerKind.SLIDING: 2, LayerKind.FULL: 2}
    text["num_kv_shared_layers"] = 1
    assert _kinds(config) == {LayerKind.SLIDING: 2, LayerKind.FULL: 1}


def test_gemma4_has_heads_of_their_own_in_full_layers() -> None:
    text = {
        "model_type": "gemma4_text",
        "attention_k_eq_v": True,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size": 2816,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "num_attention_heads": 16,
        "num_global_key_value_heads": 2,
        "num_hidden_layers": 30,
        "num_key_value_heads": 8,
        "sliding_window": 1024,
    }
    shape = read_model({"model_type": "gemma4", "text_config": text})
    found = {one.kind: (one.count, one.kv_heads, one.head_dim) for one in shape.layers}
    assert found == {LayerKind.SLIDING: (25, 8, 256), LayerKind.FULL: (5, 2, 512)}


def test_states_of_linear_attention_and_of_mamba() -> None:
    qwen = {
        "model_type": "qwen3_5_text",
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_size": 5120,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 48,
        "linear_value_head_dim": 128,
        "mamba_ssm_dtype": "float32",
        "num_attention_heads": 24,
        "num_hidden_layers": 64,
        "num_key_value_heads": 4,
    }
    config = {"model_type": "qwen3_5", "text_config": qwen}
    assert _kinds(config) == {LayerKind.STATE: 48, LayerKind.FULL: 16}
    (state,) = (one.state for one in read_model(config).layers if one.state)
    # 3 taps of 10240 channels in 16 bits, and 48 matrices of 128 x 128 in 32.
    assert state.bytes_per_gpu(1, 2) == 3 * 10240 * 2 + 48 * 128 * 128 * 4
    assert state.bytes_per_gpu(4, 2) * 4 == state.bytes_per_gpu(1, 2)
    nemotron = {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-M-*-M",
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 80,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
    }
    assert _kinds(nemotron) == {LayerKind.STATE: 3, LayerKind.FULL: 1}


def test_what_is_missing_is_named_and_not_guessed() -> None:
    shape = read_model({"model_type": "somebody_new", "text_config": {"hidden_size": 64}})
    assert shape.layers == ()
    assert "text_config.num_hidden_layers" in shape.unknown
    assert "text_config.num_attention_heads" in shape.unknown
    assert {"dtype", "weight bytes", "max_position_embeddings"} <= set(shape.unknown)
    odd = {**configs.LLAMA31_8B, "num_hidden_layers": 2, "layer_types": ["full_attention", "x"]}
    assert read_model(odd).layers == ()
    assert "meaning of layer type 'x'" in read_model(odd).unknown


def test_layers_that_keep_something_else_are_not_taken_for_what_they_are_not() -> None:
    text = {**configs.KIMI_VL_A3B["text_config"], "model_type": "kimi_linear"}
    shape = read_model({"model_type": "kimi_k3", "text_config": text})
    assert shape.layers == ()
    assert "layers of kimi_linear" in shape.unknown


def test_null_says_that_there_are_no_compressed_vectors() -> None:
    text = {**configs.KIMI_VL_A3B["text_config"], "model_type": "deepseek_v2"}
    config = {"model_type": "deepseek_vl_v2", "language_config": {**text, "kv_lora_rank": None}}
    assert _kinds(config) == {LayerKind.FULL: 27}
    assert _kinds({**config, "language_config": text}) == {LayerKind.MLA: 27}


def test_a_kind_of_picture_that_is_not_known_is_named() -> None:
    config = {**configs.LLAMA31_8B, "model_type": "new_vl", "vision_config": {}}
    assert "tokens of a picture" in read_model(config).unknown


def test_params_json_of_mistral() -> None:
    shape = read_model(configs.PIXTRAL_12B)
    assert shape.architecture == "PixtralForConditionalGeneration"
    assert (shape.hidden, shape.heads, shape.kv_heads, shape.vocabulary) == (5120, 32, 8, 131072)
    assert shape.vision is not None
    assert shape.images is not None


@pytest.mark.parametrize(
    ("found", "method", "bits"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq", 4),
        ({"quant_method": "gptq", "bits": 8}, "gptq", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
            },
            "compressed-tensors",
            4,
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4),
        ({"quantization": {"quant_algo": "NVFP4"}, "quant_method": ""}, "modelopt_fp4", 4),
        ({"quant_method": "somebodys"}, "somebodys", None),
    ],
)
def test_quantisation(found: configs.Config, method: str, bits: int | None) -> None:
    shape = read_model({**configs.LLAMA31_8B, "quantization_config": found})
    assert shape.quantization is not None
    assert (shape.quantization.method, shape.quantization.bits) == (method, bits)
    below = {"text_config": {**configs.LLAMA31_8B, "quantization_config": found}}
    assert read_model(below).quantization == shape.quantization


def test_lengths() -> None:
    def length(**rope: object) -> int | None:
        return read_model({**configs.LLAMA31_8B, "rope_scaling": rope}).max_model_len

    assert read_model(configs.LLAMA31_8B).max_model_len == 131072
    assert length(rope_type="linear", factor=2.0) == 262144
    assert length(rope_type="yarn", factor=4.0) == 131072
    assert read_model(configs.GEMMA3_27B).max_model_len == 131072


def test_a_checkpoint_in_32_bits_is_loaded_in_16() -> None:
    config = {**configs.LLAMA31_8B, "torch_dtype": "float32"}
    assert read_model(config, 32_000).weight_bytes == 16_000
    assert read_model(config).dtype == "bfloat16"


def test_bytes_of_an_index_and_of_headers() -> None:
    assert index_bytes({"metadata": {"total_size": 16584333312}}) == 16584333312
    assert index_bytes({"metadata": {}}) is None
    assert index_bytes({}) is None
    header: configs.Config = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
        "b": {"dtype": "F32", "shape": [10], "data_offsets": [64, 104]},
        "c": {"dtype": "I32", "shape": [2], "data_offsets": [104, 112]},
    }
    assert header_bytes([header]) == 64 + 20 + 8
    assert header_bytes([header], loaded=False) == 64 + 40 + 8
