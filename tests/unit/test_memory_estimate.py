"""Whether a model fits, and what would make it fit."""

from __future__ import annotations

import pytest

from hpcvlm.memory.advice import advise, fewest_gpus, tensor_parallel_sizes
from hpcvlm.memory.encoder import encoder_load
from hpcvlm.memory.engine_rules import batch_defaults, rules_of
from hpcvlm.memory.estimate import EstimateOptions, MemoryEstimate, estimate
from hpcvlm.memory.gpus import GpuSpec, find_gpu
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import GIB, ModelShape, Quantization
from hpcvlm.memory.weights import encoder_bytes, weights_per_gpu
from tests.unit import memory_configs as configs

QWEN_7B = read_model(configs.QWEN25_VL_7B, 16_584_333_312)
QWEN_72B = read_model(configs.QWEN25_VL_72B, 146_821_406_720)
GEMMA_27B = read_model(configs.GEMMA3_27B, int(51.1 * GIB))
LLAMA_8B = read_model(configs.LLAMA31_8B, 16_060_522_496)
MLLAMA = read_model(configs.LLAMA32_11B_VISION, 21_340_441_670)


def _gpu(name: str) -> GpuSpec:
    (gpu,) = find_gpu(name)
    return gpu


def _bytes(found: MemoryEstimate, name: str) -> int:
    (line,) = (line for line in found.lines if line.name == name)
    assert line.bytes is not None
    return line.bytes


STILL = EstimateOptions(max_model_len=32768, videos=0)


def test_weights_are_divided_and_an_encoder_in_data_mode_is_not() -> None:
    assert weights_per_gpu(QWEN_7B) == QWEN_7B.weight_bytes
    halves = weights_per_gpu(QWEN_7B, 2)
    assert QWEN_7B.weight_bytes is not None
    assert halves == QWEN_7B.weight_bytes // 2
    whole = weights_per_gpu(QWEN_7B, 2, whole_encoder=True)
    assert whole is not None
    assert whole == pytest.approx(halves + encoder_bytes(QWEN_7B) / 2, rel=1e-6)
    # 670 million of its 8.3 billion weights.
    assert encoder_bytes(QWEN_7B) / 2 == pytest.approx(0.63e9, rel=0.05)


def test_key_heads_that_gpus_outnumber_are_repeated() -> None:
    shape = read_model(configs.GLM_41V_9B, 20_000_000_000)
    four = weights_per_gpu(shape, 4)
    assert four is not None
    assert four > 20_000_000_000 // 4


def test_defaults_of_a_step_follow_the_gpu() -> None:
    rules = rules_of("0.32.0")
    assert batch_defaults(rules, 79 * GIB, "H100-80") == (8192, 1024)
    assert batch_defaults(rules, 79 * GIB, "A100-80") == (2048, 256)
    assert batch_defaults(rules, 178 * GIB, "B200") == (16384, 1024)
    assert batch_defaults(rules_of("0.27.0"), 178 * GIB, "B200") == (8192, 1024)
    assert batch_defaults(rules, 39 * GIB, "A100-40") == (2048, 256)


def test_utilization_and_graphs_by_version() -> None:
    old = estimate(LLAMA_8B, _gpu("H100-80"), 1, "0.19.0")
    new = estimate(LLAMA_8B, _gpu("H100-80"), 1, "0.21.0")
    assert (old.gpu_memory_utilization, new.gpu_memory_utilization) == (0.9, 0.92)
    assert _bytes(old, "graphs") == 0
    assert 0.4 * GIB < _bytes(new, "graphs") < GIB
    eager = EstimateOptions(enforce_eager=True)
    assert _bytes(estimate(LLAMA_8B, _gpu("H100-80"), 1, "0.21.0", eager), "graphs") == 0


def test_the_lines_add_up_to_what_vllm_asks_for() -> None:
    found = estimate(QWEN_7B, _gpu("A100-40"), 1, "0.32.0", STILL)
    assert sum(line.bytes or 0 for line in found.lines) == found.requested
    assert [line.name for line in found.lines][-1] == "kv"
    assert found.fits is True
    assert found.reasons == ()
    assert found.bytes_per_token == 56 * 1024
    assert found.kv_tokens is not None
    assert found.concurrency == pytest.approx(found.kv_tokens / 32768, rel=1e-3)


def test_longrope_starts_with_its_trained_length() -> None:
    phi = read_model(configs.PHI_35_VISION, 8_300_000_000)
    gpu = _gpu("A100-40")
    lengths = [estimate(phi, gpu, 1, version).max_model_len for version in ("0.11.0", "0.11.1")]
    assert lengths == [131072, 4096]
    assert estimate(phi, gpu, 1, "0.32.0").largest_max_model_len != 4096


def test_a_given_cache_is_not_measured() -> None:
    options = EstimateOptions(max_model_len=8192, kv_cache_memory_bytes=GIB)
    found = estimate(LLAMA_8B, _gpu("H100-80"), 1, "0.28.0", options)
    assert (found.kv_bytes, found.kv_tokens) == (GIB, 8192)


def test_the_encoder_of_pictures_and_videos() -> None:
    rules = rules_of("0.32.0")
    still = encoder_load(
        QWEN_7B, rules, max_model_len=32768, max_num_seqs=256, max_num_batched_tokens=2048, videos=0
    )
    assert still is not None
    assert (still.item.tokens, still.items, still.budget) == (16384, 1, 16384)
    assert still.cache_bytes == 16384 * 3584 * 2
    moving = encoder_load(
        QWEN_7B, rules, max_model_len=131072, max_num_seqs=256, max_num_batched_tokens=2048
    )
    assert moving is not None
    assert moving.item.tokens == 7 * 16384
    assert moving.activation_bytes == 7 * still.activation_bytes
    gemma = encoder_load(
        GEMMA_27B, rules, max_model_len=8192, max_num_seqs=1024, max_num_batched_tokens=8192
    )
    assert gemma is not None
    assert gemma.items == 32
    none = encoder_load(
        QWEN_7B,
        rules,
        max_model_len=8192,
        max_num_seqs=1,
        max_num_batched_tokens=2048,
        images=0,
        videos=0,
    )
    assert none is None


def test_what_does_not_fit_says_why() -> None:
    found = estimate(QWEN_72B, _gpu("A100-40"), 4, "0.32.0", STILL)
    assert found.fits is False
    assert "more than vLLM may take" in found.reasons[0]
    assert found.largest_max_model_len == 0
    long = EstimateOptions(max_model_len=128000, videos=0)
    llava = read_model(configs.LLAVA_15_7B, 14_127_325_184)
    close = estimate(llava, _gpu("A100-40"), 1, "0.32.0", long)
    assert close.fits is False
    assert close.reasons[0].startswith("one request of 128000 tokens needs 62.5 GiB")
    assert close.largest_max_model_len is not None
    shorter = EstimateOptions(max_model_len=close.largest_max_model_len, videos=0)
    assert estimate(llava, _gpu("A100-40"), 1, "0.32.0", shorter).fits


def test_the_largest_length_is_the_largest() -> None:
    found = estimate(GEMMA_27B, _gpu("H100-80"), 1, "0.32.0")
    largest = found.largest_max_model_len
    assert largest is not None
    assert 0 < largest < 131072
    for length, fits in ((largest, True), (largest + 1, False)):
        options = EstimateOptions(max_model_len=length)
        assert estimate(GEMMA_27B, _gpu("H100-80"), 1, "0.32.0", options).fits is fits


def test_heads_that_gpus_do_not_divide() -> None:
    found = estimate(QWEN_7B, _gpu("A100-40"), 8, "0.32.0", STILL)
    assert found.fits is False
    assert found.reasons == ("28 attention heads cannot be divided by 8 GPUs",)
    assert tensor_parallel_sizes(QWEN_7B) == (1, 2, 4)


def test_unknown_stays_unknown() -> None:
    nothing = estimate(ModelShape(unknown=("weight bytes",)), _gpu("L4"), 1, "0.32.0")
    assert nothing.fits is None
    assert nothing.kv_tokens is None
    assert nothing.largest_max_model_len is None
    assert "weight bytes" in nothing.unknown
    odd = EstimateOptions(kv_cache_dtype="turboquant_4bit_nc")
    assert (
        "kv cache type turboquant_4bit_nc"
        in estimate(LLAMA_8B, _gpu("L4"), 1, "0.32.0", odd).unknown
    )


def test_llama_3_2_vision_measures_a_picture_for_every_request() -> None:
    """Why its guides say --max-num-seqs 16: with 256 it runs out of 96 GB (vllm issue 9630)."""
    many = estimate(MLLAMA, _gpu("H100-80"), 1, "0.10.2", EstimateOptions(max_model_len=8192))
    assert many.fits is False
    few = EstimateOptions(max_model_len=8192, max_num_seqs=16)
    found = estimate(MLLAMA, _gpu("H100-80"), 1, "0.10.2", few)
    assert found.fits is True


def test_advice_names_changes_that_do_make_it_fit() -> None:
    long = EstimateOptions(max_model_len=49152)
    found = {
        one.kind: one
        for one in advise(
            QWEN_7B,
            _gpu("RTX-3090"),
            1,
            "0.32.0",
            long,
            variants={"awq": (6_900_000_000, Quantization(method="awq", bits=4))},
        )
    }
    assert all(one.estimate.fits for one in found.values())
    assert found["videos"].change == "--limit-mm-per-prompt.video 0"
    assert found["length"].value == found["length"].estimate.max_model_len
    assert advise(QWEN_7B, _gpu("A100-80"), 1, "0.32.0", STILL) == ()


def test_advice_counts_gpus_that_divide_the_heads() -> None:
    found = {one.kind: one for one in advise(QWEN_72B, _gpu("A100-80"), 1, "0.32.0", STILL)}
    assert found["gpus"].value == 4
    assert "length" not in found
    assert fewest_gpus(QWEN_72B, _gpu("A100-80"), "0.32.0", STILL) == 4
    assert fewest_gpus(QWEN_72B, _gpu("T4"), "0.32.0", STILL) is None
    awq = {"awq": (43_000_000_000, Quantization(method="awq", bits=4))}
    named = advise(QWEN_72B, _gpu("A100-80"), 1, "0.32.0", STILL, variants=awq)
    assert [one.value for one in named if one.kind == "variant"] == ["awq"]


def test_a_group_of_no_gpus() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        estimate(LLAMA_8B, _gpu("L4"), 0)
