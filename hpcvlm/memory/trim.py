"""A config.json cut down to the keys that decide memory, for models that are not on disk."""

from __future__ import annotations

from collections.abc import Mapping

SECTIONS = frozenset(
    {"text_config", "llm_config", "language_config", "vision_config", "thinker_config"}
)
"""Sections that are cut down in turn."""

KEYS = frozenset(
    """
    architectures model_type dtype torch_dtype quantization_config compression_config quantization
    hidden_size intermediate_size ffn_hidden_size num_hidden_layers num_layers n_layers
    num_attention_heads num_key_value_heads num_kv_heads n_head_kv head_dim v_head_dim vocab_size
    max_position_embeddings original_max_position_embeddings max_seq_len seq_length
    model_max_length rope_scaling rope_parameters
    layer_types layers_block_type hybrid_override_pattern sliding_window sliding_window_pattern
    _sliding_window_pattern use_sliding_window num_kv_shared_layers cross_attention_layers
    attention_chunk_size no_rope_layers no_rope_layer_interval full_attention_interval
    global_head_dim attention_k_eq_v num_global_key_value_heads kv_lora_rank qk_rope_head_dim
    linear_num_value_heads linear_num_key_heads linear_key_head_dim linear_value_head_dim
    linear_conv_kernel_dim mamba_ssm_dtype mamba_ssm_cache_dtype mamba_num_heads mamba_head_dim
    ssm_state_size mamba_d_state n_groups conv_kernel mamba_d_conv num_experts_per_tok moe_topk
    top_k_experts moe_intermediate_size shared_expert_intermediate_size n_shared_experts
    embed_dim width vt_hidden_size depth layers vt_num_hidden_layers vt_intermediate_size mlp_ratio
    num_global_layers patch_size spatial_patch_size num_channels in_channels in_chans
    temporal_patch_size num_heads attention_heads deepstack_visual_indexes spatial_merge_size
    image_size vision_feature_select_strategy mm_tokens_per_image pooling_kernel_size
    force_image_size downsample_ratio max_dynamic_patch use_thumbnail pixel_shuffle_ratio
    max_num_tiles max_image_size image_grid_pinpoints scale_factor slice_config query_num
    dim n_heads n_kv_heads hidden_dim vision_encoder multimodal
    """.split()  # noqa: SIM905 - a hundred words, which one a line would say no better
)
"""Keys that `read_model` reads, in whichever section."""

_QUANTIZATION = frozenset(
    {"quant_method", "bits", "w_bit", "load_in_4bit", "load_in_8bit", "quantization"}
)


def trimmed(config: Mapping[str, object]) -> dict[str, object]:
    """The part of a config.json that decides memory.

    `read_model` gives the same of it as of the whole file. A key whose value is null stays: null
    is not the class's default.
    """
    found: dict[str, object] = {}
    for key, value in config.items():
        if key in SECTIONS and isinstance(value, dict):
            found[key] = trimmed(value)
        elif key in {"quantization_config", "compression_config"} and isinstance(value, dict):
            found[key] = _quantization(value)
        elif key in KEYS:
            found[key] = value
    return found


def _quantization(config: Mapping[str, object]) -> dict[str, object]:
    """Method and bits; of compressed-tensors' groups the bits of the weights."""
    found = {key: value for key, value in config.items() if key in _QUANTIZATION}
    groups = config.get("config_groups")
    if isinstance(groups, dict):
        found["config_groups"] = {
            name: {"weights": {"num_bits": weights.get("num_bits")}}
            for name, group in groups.items()
            if isinstance(group, dict) and isinstance(weights := group.get("weights"), dict)
        }
    return found
