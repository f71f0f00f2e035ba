"""The KV cache: bytes of a token, groups of layers, and the numbers that vLLM prints."""

from __future__ import annotations

import pytest

from hpcvlm.memory.engine_rules import rules_of, version_of
from hpcvlm.memory.kv_cache import KvOptions, KvPlan, bytes_of_token, plan_cache
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import GIB, KIB
from tests.unit import memory_configs as configs


def _plan(config: configs.Config, version: str = "0.32.0", **options: int | bool | None) -> KvPlan:
    shape = read_model(config)
    plan = plan_cache(shape, rules_of(version, shape), KvOptions(**options))  # type: ignore[arg-type]
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("config", "kib"),
    [
        (configs.QWEN25_VL_7B, 56),
        (configs.QWEN25_VL_72B, 320),
        (configs.QWEN3_VL_8B, 144),
        (configs.LLAVA_15_7B, 512),
        (configs.GLM_41V_9B, 40),
        (configs.GEMMA3_27B, 80),  # of the 10 layers that see everything
        (configs.LLAMA32_11B_VISION, 128),
        (configs.PIXTRAL_12B, 160),
        (configs.KIMI_VL_A3B, 30.375),
        (configs.INTERNVL3_8B, 56),
        (configs.LLAMA31_8B, 128),
    ],
)
def test_bytes_of_one_more_token(config: configs.Config, kib: float) -> None:
    assert bytes_of_token(read_model(config)) == kib * KIB


def test_bytes_of_a_token_in_windows_and_chunks() -> None:
    assert _plan(configs.PHI_35_VISION).block_bytes == 16 * 384 * KIB
    assert _plan(configs.LLAMA4_SCOUT).block_bytes == 16 * 192 * KIB
    off = _plan(configs.GEMMA3_27B, hybrid=False)
    assert off.block_bytes == 16 * 496 * KIB
    assert off.groups == (1,)


@pytest.mark.parametrize(
    ("config", "tensor_parallel", "kib"),
    [
        (configs.QWEN25_VL_7B, 2, 28),
        (configs.QWEN25_VL_7B, 4, 14),
        # 2 key heads on 4 GPUs: one on each, so twice as many in all.
        (configs.GLM_41V_9B, 4, 20),
        # The compressed vector is on every GPU.
        (configs.KIMI_VL_A3B, 4, 30.375),
    ],
)
def test_tensor_parallel(config: configs.Config, tensor_parallel: int, kib: float) -> None:
    assert bytes_of_token(read_model(config), tensor_parallel) == kib * KIB


def test_an_8_bit_cache_holds_twice_the_tokens() -> None:
    plain, small = _plan(configs.LLAMA31_8B), _plan(configs.LLAMA31_8B, dtype_bytes=1)
    assert small.tokens(GIB, 8192) == 2 * plain.tokens(GIB, 8192)


# https://github.com/llm-d-incubation/llm-d-planner, accuracy/results/v0.19.0/logs: H100, 8192
# tokens a step, --max-model-len 8192.
def test_gemma3_as_a_published_log_has_it() -> None:
    """15997 blocks; 36,560 tokens; 4.46x for 8,192 tokens."""
    plan = _plan(configs.GEMMA3_27B, "0.19.0", max_num_batched_tokens=8192)
    available = 15997 * plan.block_bytes
    assert round(available / GIB, 2) == 19.53
    # 52 layers with a window in 6 groups of 10, the last with 8 missing, and 10 without.
    assert sorted(plan.groups) == [1, 6]
    assert plan.tokens(available, 8192) == 36560
    assert round(plan.concurrency(available, 8192), 2) == 4.46


@pytest.mark.parametrize(
    ("config", "gib", "tokens"),
    [(configs.LLAMA31_8B, 58.11, 476016), (configs.GEMMA3_4B, 62.51, 468144)],
)
def test_other_published_logs(config: configs.Config, gib: float, tokens: int) -> None:
    """The logs round the memory to 0.01 GiB, so the tokens can be off by as much."""
    plan = _plan(config, "0.19.0", max_num_batched_tokens=8192)
    found = [plan.tokens(int((gib + off) * GIB), 8192) for off in (-0.005, 0.005)]
    assert found[0] <= tokens <= found[1]


def test_the_printed_size_changed_in_0_20_1() -> None:
    old = _plan(configs.GEMMA3_27B, "0.20.0")
    new = _plan(configs.GEMMA3_27B, "0.20.1")
    assert old.concurrency(20 * GIB, 131072) == new.concurrency(20 * GIB, 131072)
    assert old.tokens(20 * GIB, 131072) < new.tokens(20 * GIB, 131072)
    assert new.tokens(20 * GIB, 131072) == int(new.concurrency(20 * GIB, 131072) * 131072)


def test_one_request_must_fit_and_since_0_29_one_block_is_kept() -> None:
    old, new = _plan(configs.LLAMA31_8B, "0.28.0"), _plan(configs.LLAMA31_8B, "0.29.0")
    exact = 8192 * 128 * KIB
    assert old.fits(8192, exact)
    assert not old.fits(8192, exact - 1)
    assert not new.fits(8192, exact)
    assert new.fits(8192, exact + new.block_bytes)


def test_the_longest_request() -> None:
    plan = _plan(configs.LLAMA31_8B)
    assert plan.longest(GIB, 131072) == 8192 - 16
    assert plan.longest(GIB, 4096) == 4096
    assert plan.longest(plan.block_bytes, 4096) == 0
    # Windows stop growing: a long context costs the layers without one alone.
    gemma = _plan(configs.GEMMA3_27B)
    assert gemma.longest(12 * GIB, 131072) > gemma.num_blocks(12 * GIB) // 7 * 16


def test_llama_3_2_vision_on_the_old_engine() -> None:
    """All 40 layers have a place for every token, and a picture draws from the same pool."""
    plan = _plan(configs.LLAMA32_11B_VISION, "0.10.2", encoder_tokens=6404)
    assert plan.block_bytes == 16 * 160 * KIB
    assert plan.request_blocks(4096) == 4096 // 16 + 401


def _qwen35(layers: int, value_heads: int, key_value_heads: int) -> configs.Config:
    """Text part of a Qwen3.5: every fourth layer sees everything, the others have states."""
    return {
        "model_type": "qwen3_5_text",
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_size": 2048,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": 128,
        "mamba_ssm_dtype": "float32",
        "num_attention_heads": 16,
        "num_hidden_layers": layers,
        "num_key_value_heads": key_value_heads,
    }


def test_states_make_blocks_large_enough_to_hold_one() -> None:
    plan = _plan(_qwen35(64, 48, 4))
    state = 3 * 10240 * 2 + 48 * 128 * 128 * 4
    block = -(-state // (16 * 4096)) * 16
    assert plan.smallest_block == block
    assert sorted(plan.groups) == [1, 3]
    # Two states in each of three groups, whatever the length.
    assert plan.request_blocks(block) == 3 * 2 + 1
    assert plan.request_blocks(100 * block) == 3 * 2 + 100


@pytest.mark.parametrize(
    ("config", "tensor_parallel", "gib", "tokens", "times"),
    [
        # https://github.com/noonghunna/club-3090/issues/612: Qwen3.6-35B-A3B, vLLM 0.24.0
        (_qwen35(40, 32, 2), 1, 5.98, 567978, 4.33),
        # https://github.com/noonghunna/club-3090/issues/652: the same
        (_qwen35(40, 32, 2), 1, 6.01, 569878, 4.35),
        # https://github.com/mitchross/talos-argocd-proxmox/pull/1995: Qwen3.8-27B on two GPUs
        (_qwen35(64, 48, 4), 2, 4.99, 302921, 2.31),
    ],
)
def test_states_as_published_logs_have_them(
    config: configs.Config, tensor_parallel: int, gib: float, tokens: int, times: float
) -> None:
    """All three with an fp8 cache, prefix caching and --max-model-len 131072."""
    plan = _plan(
        config, "0.24.0", tensor_parallel=tensor_parallel, dtype_bytes=1, prefix_caching=True
    )
    available = int(gib * GIB)
    assert plan.tokens(available, 131072) == tokens
    assert round(plan.concurrency(available, 131072), 2) == times


def test_versions() -> None:
    assert version_of("0.10.1.1") == (0, 10, 1, 1)
    assert version_of("0.32.0+cpu") == (0, 32, 0)
    with pytest.raises(ValueError, match="not a version"):
        version_of("main")


def test_a_model_of_unknown_layers_has_no_plan() -> None:
    shape = read_model({"model_type": "new"})
    assert plan_cache(shape, rules_of("0.32.0"), KvOptions()) is None
