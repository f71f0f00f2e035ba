"""What the vision encoder takes while vLLM measures its memory.

At the start vLLM encodes as many of the costliest pictures as a step may hold, keeps what comes
out, and takes the peak from the KV cache. Source: vllm/v1/worker/gpu_model_runner.py profile_run,
vllm/multimodal/encoder_budget.py, vllm/v1/core/encoder_cache_manager.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcvlm.memory.engine_rules import EngineRules
from hpcvlm.memory.images import ImageTokens, most_tokens, video_tokens
from hpcvlm.memory.shapes import ModelShape, VisionShape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EncoderLoad:
    """The pictures of that measurement.

    Attributes:
        item: the costliest picture or video.
        budget: tokens that the encoder may put out in one step, and that its cache holds.
        items: pictures encoded at once.
        activation_bytes: peak beside the weights, on one GPU.
        cache_bytes: the encoder's output that is kept, on each GPU.
    """

    item: ImageTokens
    budget: int
    items: int
    activation_bytes: int
    cache_bytes: int


def encoder_load(
    shape: ModelShape,
    rules: EngineRules,
    *,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    tensor_parallel: int = 1,
    images: int | None = None,
    videos: int | None = None,
    processor: Mapping[str, object] | None = None,
    whole_encoder: bool = False,
) -> EncoderLoad | None:
    """The pictures that vLLM reserves memory for.

    Args:
        shape: of `read_model`.
        rules: of the engine's version.
        max_model_len: as the engine takes it, which bounds a video.
        max_num_seqs: as the engine takes it.
        max_num_batched_tokens: as the engine takes it.
        tensor_parallel: GPUs that share the model.
        images: of ``--limit-mm-per-prompt``; None for no limit, 0 for none.
        videos: the same of videos.
        processor: ``--mm-processor-kwargs``.
        whole_encoder: ``--mm-encoder-tp-mode data``.

    Returns:
        None for a model without pictures, with none allowed, or whose rule is unknown.
    """
    if shape.images is None or (images == 0 and videos == 0):
        return None
    still = most_tokens(shape.images, processor) if images != 0 else None
    moving = None
    if videos != 0:
        moving = video_tokens(shape.images, max_model_len, rules.video_frames, processor)
    found = [(one, limit) for one, limit in ((still, images), (moving, videos)) if one is not None]
    if not found:
        return None
    item, limit = max(found, key=lambda one: one[0].tokens)
    budget = max(max_num_batched_tokens, item.tokens)
    if rules.legacy:
        # The older engine measures with one picture for every request that may run.
        items, budget = max_num_seqs, max_num_seqs * item.tokens
    else:
        per_prompt = max(1, min(limit or 999, max_model_len // max(1, item.tokens)))
        items = max(1, min(budget // max(1, item.tokens), max_num_seqs * per_prompt))
    vision = shape.vision
    # In data mode each GPU encodes its share of the pictures with the whole encoder.
    shared = -(-items // tensor_parallel) if whole_encoder else items
    divide = 1 if whole_encoder or vision is None or not vision.splits else tensor_parallel
    levels = vision.levels if vision else 1
    kept = items * item.tokens * (shape.hidden or 0) * levels * shape.dtype_bytes
    return EncoderLoad(
        item=item,
        budget=budget,
        items=items,
        activation_bytes=shared * item.patches * patch_bytes(vision, divide) if vision else 0,
        cache_bytes=kept,
    )


def patch_bytes(vision: VisionShape, tensor_parallel: int = 1) -> int:
    """Bytes that one patch takes at the encoder's peak.

    The numbers that go in, the residual and its norm, and the larger of attention (query, key
    and value, the rotated two, the output) and feed-forward (its matrices' outputs), in 16 bits.
    Attention itself needs no memory that grows with the square (FlashAttention).
    """
    common = 2 * (vision.inputs or 0) + 2 * 2 * vision.hidden
    attention = 2 * 6 * vision.hidden // tensor_parallel
    forward = 2 * vision.matrices * vision.intermediate // tensor_parallel
    return common + max(attention, forward)
