"""Tokens of a picture, by the rules of the models' own processors."""

from __future__ import annotations

import pytest

from hpcvlm.memory.images import ImageTokens, most_tokens, tokens_of, video_tokens
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import ImageRule
from tests.unit import memory_configs as configs


def _rule(config: configs.Config, preprocessor: configs.Config | None = None) -> ImageRule:
    rule = read_model(config, None, preprocessor).images
    assert rule is not None
    return rule


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (configs.QWEN25_VL_7B, 16384),
        (configs.QWEN3_VL_8B, 16384),
        (configs.LLAVA_15_7B, 576),
        (configs.GEMMA3_27B, 256),
        (configs.INTERNVL3_8B, 13 * 256),
        (configs.LLAMA4_SCOUT, 17 * 144),
        (configs.LLAMA32_11B_VISION, 4 * 1601),
        (configs.PIXTRAL_12B, 64 * 64),
        (configs.KIMI_VL_A3B, 1024),
    ],
)
def test_the_costliest_picture(config: configs.Config, tokens: int) -> None:
    assert most_tokens(_rule(config)).tokens == tokens


def test_max_pixels_of_the_command_line_and_of_the_preprocessor() -> None:
    rule = _rule(configs.QWEN25_VL_7B)
    # 1003520 = 1280 x 28 x 28: a square of 35 x 35 fits.
    assert most_tokens(rule, {"max_pixels": 1_003_520}) == ImageTokens(35 * 35, 4 * 35 * 35)
    nested = {"images_kwargs": {"size": {"longest_edge": 1_003_520}}}
    assert most_tokens(rule, nested).tokens == 35 * 35
    own = _rule(configs.QWEN25_VL_7B, {"max_pixels": 1_003_520, "min_pixels": 3136})
    assert most_tokens(own).tokens == 35 * 35


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    # As a real vLLM counted them for the tiny Qwen2-VL with min_pixels 784, max_pixels 12544.
    [(64, 48, 4), (100, 100, 16)],
)
def test_a_picture_of_some_size(width: int, height: int, tokens: int) -> None:
    rule = _rule(configs.QWEN25_VL_7B, {"min_pixels": 784, "max_pixels": 12544})
    assert tokens_of(rule, width, height).tokens == tokens


def test_tiles_follow_the_shape() -> None:
    rule = _rule(configs.INTERNVL3_8B)
    assert tokens_of(rule, 448, 448).tokens == 256
    assert tokens_of(rule, 1792, 448).tokens == 5 * 256
    assert most_tokens(rule, {"max_dynamic_patch": 4}).tokens == 5 * 256


def test_phi_3_vision_crops() -> None:
    """757 tokens with 4 crops, 2509 with 16: its model card's numbers."""
    rule = _rule(configs.PHI_35_VISION)
    assert most_tokens(rule).tokens == 757
    assert most_tokens(rule, {"num_crops": 16}).tokens == 2509


def test_llava_next_takes_the_largest_grid() -> None:
    config = {
        **configs.LLAVA_15_7B,
        "model_type": "llava_next",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    }
    # The whole picture, 48 x 48 unpadded, and 48 line ends: 2928, as upstream's tests have it.
    assert most_tokens(_rule(config)).tokens == 576 + 48 * 48 + 48


def test_idefics3_counts_whole_tiles() -> None:
    """As transformers' own processor counts, with longest edges 1456 and 364."""
    config = {
        "model_type": "idefics3",
        "scale_factor": 2,
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "idefics3_vision", "image_size": 364, "patch_size": 14},
    }
    preprocessor = {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}}
    rule = _rule(config, preprocessor)
    assert tokens_of(rule, 1591, 2841).tokens == 13 * 169
    assert tokens_of(rule, 2787, 318).tokens == 5 * 169
    assert most_tokens(rule).tokens == 17 * 169
    assert read_model(config).images is None


def test_llava_onevision_shrinks_what_is_more_than_nine_tiles() -> None:
    points = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = {
        "model_type": "llava_onevision",
        "image_grid_pinpoints": points,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": 384,
            "patch_size": 14,
        },
    }
    rule = _rule(config)
    assert tokens_of(rule, 384, 384).tokens == 729 + 27 * 27 + 27
    assert tokens_of(rule, 2304, 2304).tokens == 729 + 81 * 81 + 81


def test_mistral3_merges_patches_in_fours() -> None:
    config = {
        "model_type": "mistral3",
        "spatial_merge_size": 2,
        "vision_config": {"model_type": "pixtral", "image_size": 1540, "patch_size": 14},
    }
    assert most_tokens(_rule(config)) == ImageTokens(55 * 55, 4 * 55 * 55)
    assert tokens_of(_rule(config), 280, 140).tokens == 50


def test_gemma3_pan_and_scan_adds_four_crops() -> None:
    rule = _rule(configs.GEMMA3_27B)
    assert most_tokens(rule, {"do_pan_and_scan": True}).tokens == 5 * 256


def test_videos_of_qwen2_vl_fill_the_context() -> None:
    rule = _rule(configs.QWEN25_VL_7B)
    assert video_tokens(rule, 32768, 14) == ImageTokens(32768, 4 * 32768)
    assert video_tokens(rule, 131072, 14) == ImageTokens(7 * 16384, 4 * 7 * 16384)
    assert video_tokens(_rule(configs.QWEN3_VL_8B), 131072, 14) is None


def test_glm_has_no_rule_without_its_preprocessor() -> None:
    assert read_model(configs.GLM_41V_9B).images is None
    sizes = {"size": {"shortest_edge": 12544, "longest_edge": 9_633_792}}
    rule = _rule(configs.GLM_41V_9B, sizes)
    assert most_tokens(rule).tokens == 6084
    assert video_tokens(rule, 32768, 14) is None
