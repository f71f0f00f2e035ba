"""What of vLLM's memory arithmetic changed between its versions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcvlm.memory.shapes import GIB, LayerKind, ModelShape

_Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EngineRules:
    """The rules of one version; the sources name the file that says so.

    Attributes:
        utilization: default of --gpu-memory-utilization: 0.9 up to 0.19, 0.92 from 0.20
            (vllm/config/cache.py).
        counts_graphs: whether CUDA graphs come out of the share that the utilization allows,
            from 0.21 (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS, vllm/envs.py).
        tokens_by_request: whether the logged size is concurrency times length, from 0.20.1,
            or blocks times their size (vllm/v1/core/kv_cache_utils.py).
        padding: groups of layers are as long as the longest kind, when it is shorter than this
            many times the shortest: 1.25 from 0.12, 1.5 from 0.18.
        fit_by_groups: whether the test for one request counts the padding of groups, from 0.14.
        spare_block: whether that test keeps one block back, from 0.29.
        batches: batches that may be on their way, each holding tokens beyond a window: 2 from
            0.26 (VllmConfig.max_in_flight_tokens).
        chunked_is_full: whether chunked local layers keep everything: always but in 0.10.0
            (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE).
        state_copies: states that one request holds with prefix caching: 2 from 0.15
            (MambaSpec.max_memory_usage_bytes); without it 1.
        caches_states: whether prefix caching is on by default for models with states, from 0.26
            (vllm/config/model.py, is_prefix_caching_supported).
        largest_batch: whether GPUs of 160 GiB and more have a default of their own, from 0.28.
        video_frames: most frames of a video that memory is reserved for, in Qwen2-VL's class.
        original_len: whether LongRoPE models start with the length that they were trained with,
            from 0.11.1 (vllm/config/model.py, _get_and_verify_max_len).
        legacy: whether the older engine (V0) serves the model: Llama 3.2 Vision up to 0.10.
    """

    version: _Version
    utilization: float
    counts_graphs: bool
    tokens_by_request: bool
    padding: float
    fit_by_groups: bool
    spare_block: bool
    batches: int
    chunked_is_full: bool
    state_copies: int
    caches_states: bool
    largest_batch: bool
    video_frames: int
    original_len: bool
    legacy: bool = False


def version_of(text: str) -> _Version:
    """The numbers of a version such as ``0.10.1.1`` or ``0.32.0+cpu``.

    Raises:
        ValueError: it does not begin with numbers.
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    if found is None:
        raise ValueError(f"not a version: {text!r}")
    return tuple(int(part) for part in found[1].split("."))


def rules_of(engine_version: str, shape: ModelShape | None = None) -> EngineRules:
    """The rules of a version of vLLM, for a model.

    Args:
        engine_version: such as ``0.32.0``.
        shape: decides whether the older engine serves it.
    """
    version = version_of(engine_version)
    cross = shape is not None and any(one.kind is LayerKind.CROSS for one in shape.layers)
    return EngineRules(
        version=version,
        utilization=0.92 if version >= (0, 20) else 0.9,
        counts_graphs=version >= (0, 21),
        tokens_by_request=version >= (0, 20, 1),
        padding=1.5 if version >= (0, 18) else 1.25 if version >= (0, 12) else 1.0,
        fit_by_groups=version >= (0, 14),
        spare_block=version >= (0, 29),
        batches=2 if version >= (0, 26) else 1,
        chunked_is_full=not (0, 10) <= version < (0, 10, 1),
        state_copies=2 if version >= (0, 15) else 1,
        caches_states=version >= (0, 26),
        largest_batch=version >= (0, 28),
        video_frames=14 if version >= (0, 11) else 16,
        original_len=version >= (0, 11, 1),
        legacy=cross and version < (0, 11),
    )


def batch_defaults(rules: EngineRules, total_bytes: int, gpu_name: str) -> tuple[int, int]:
    """The server's --max-num-batched-tokens and --max-num-seqs when they are left out.

    Source: vllm/engine/arg_utils.py, get_batch_defaults.
    """
    if rules.legacy:
        return 2048, 256
    if rules.largest_batch and total_bytes >= 160 * GIB:
        return 16384, 1024
    if total_bytes >= 70 * GIB and "a100" not in gpu_name.lower():
        return 8192, 1024 if rules.version >= (0, 9, 2) else 256
    return 2048, 256
