"""Whether a model fits on a GPU, line by line.

    shape = read_model(config, index_bytes(index))
    (gpu,) = find_gpu("A100-80")
    found = estimate(shape, gpu, tensor_parallel=2, engine_version="0.32.0")
    found.fits, found.kv_tokens, found.largest_max_model_len

The KV cache's arithmetic is vLLM's own and exact; what is left for it is an estimate, whose
constants come from published logs of starts (benchmarks/published_gpu_logs.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcvlm.memory.encoder import EncoderLoad, encoder_load
from hpcvlm.memory.engine_rules import batch_defaults, rules_of
from hpcvlm.memory.gpus import GpuSpec
from hpcvlm.memory.kv_cache import KvOptions, KvPlan, bytes_of_token, plan_cache
from hpcvlm.memory.shapes import GIB, LayerKind, ModelShape
from hpcvlm.memory.weights import weights_per_gpu

# Bytes a vocabulary entry takes for each request while the sampler is measured. 38.9 in logs of
# Llama 3.1 8B (4.76 GiB) and Qwen3 32B (5.64 GiB) with 1024 requests, where PyTorch sorts; 15.3 in
# those of 0.19 with the same and three more vocabularies, with the Triton kernel of 0.17 on.
_SAMPLER_SORT = 38.9
_SAMPLER_TRITON = 15.3
# Outside of PyTorch: 0.13 to 0.26 GiB on one GPU; NCCL and its buffers 0.55 GiB on each of two
# GPUs, 2.17 on each of four.
_CONTEXT = 0.25
_CONTEXT_PER_GPU = 0.6
_CONTEXT_MOST = 2.2
# vLLM's own estimate in logs of 0.19: 0.70 GiB for 34 layers, 1.02 for 48, 1.05 for 62.
_GRAPHS = 0.15
_GRAPHS_PER_LAYER = 0.016
_LONGEST = 16 * 1024 * 1024
_KV_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EstimateOptions:
    """vLLM's options that decide memory; None for the engine's default.

    Attributes:
        max_model_len: --max-model-len; the engine's default when None, which is the model's longest
            context but for LongRoPE.
        images: images of --limit-mm-per-prompt; None for no limit.
        videos: the same of videos; 0 where only pictures are served.
        processor: --mm-processor-kwargs.
        kv_cache_memory_bytes: --kv-cache-memory-bytes, which overrides the measurement.
        whole_encoder: --mm-encoder-tp-mode data.
        hybrid: False for --disable-hybrid-kv-cache-manager.
        prefix_caching: of --enable-prefix-caching and its opposite.
        skip_mm_profiling: --skip-mm-profiling: no memory is kept for the encoder.
    """

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool = False
    images: int | None = None
    videos: int | None = None
    processor: Mapping[str, object] = field(default_factory=dict)
    block_size: int | None = None
    whole_encoder: bool = False
    hybrid: bool = True
    prefix_caching: bool | None = None
    skip_mm_profiling: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MemoryLine:
    """One use of memory, in bytes on each GPU; None where it is unknown.

    Attributes:
        name: ``weights``, ``context``, ``activations``, ``encoder cache``, ``graphs``, ``kv``.
        note: how it came about, in a few words.
        exact: whether it is arithmetic, or an estimate.
    """

    name: str
    bytes: int | None
    note: str = ""
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class MemoryEstimate:
    """What a start would take, per GPU.

    Attributes:
        gpu: the GPU, and how many of them share the model.
        requested: bytes that vLLM takes at most: total times the utilization.
        lines: uses of them; the last is what is left for the KV cache.
        fits: whether one request of `max_model_len` fits; None where weights or layers are
            unknown, so that nobody can say.
        reasons: why it does not fit, in sentences; empty when it does.
        kv_bytes: what is left for the KV cache; less than nothing where the rest is too large.
        kv_tokens: the number of vLLM's line ``GPU KV cache size``.
        bytes_per_token: that one more token takes in a long request's cache.
        max_model_len: that was asked for.
        concurrency: requests of that length that fit together.
        largest_max_model_len: longest that fits, up to the model's own; 0 for none.
        concurrency_at_largest: requests of that length.
        max_num_seqs: as given or by default, as the next two.
        encoder: the pictures that memory is kept for.
        unknown: what could not be counted, named; the estimate is too low by it.
    """

    gpu: GpuSpec
    tensor_parallel: int
    engine_version: str
    requested: int
    lines: tuple[MemoryLine, ...]
    fits: bool | None
    reasons: tuple[str, ...]
    kv_bytes: int | None
    kv_tokens: int | None
    bytes_per_token: int | None
    max_model_len: int | None
    concurrency: float | None
    largest_max_model_len: int | None
    concurrency_at_largest: float | None
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    encoder: EncoderLoad | None
    unknown: tuple[str, ...]


def estimate(
    shape: ModelShape,
    gpu: GpuSpec,
    tensor_parallel: int = 1,
    engine_version: str = "0.32.0",
    options: EstimateOptions | None = None,
) -> MemoryEstimate:
    """What a start of vLLM takes on each GPU, and what fits into the rest.

    Args:
        shape: of `read_model`.
        gpu: of `find_gpu`; the GPUs of one server are alike.
        tensor_parallel: GPUs that share the model.
        engine_version: decides defaults and the KV cache's rules.
        options: of vllm serve; its defaults when None.

    Raises:
        ValueError: `engine_version` is not a version, or `tensor_parallel` is less than 1.
    """
    if tensor_parallel < 1:
        raise ValueError(f"tensor parallel size {tensor_parallel}: it is at least 1")
    return _Start(shape, gpu, tensor_parallel, engine_version, options or EstimateOptions()).found()


class _Start:
    """One start: the numbers that its lines share."""

    def __init__(
        self,
        shape: ModelShape,
        gpu: GpuSpec,
        tensor_parallel: int,
        engine_version: str,
        options: EstimateOptions,
    ) -> None:
        self.shape, self.gpu, self.options = shape, gpu, options
        self.tensor_parallel, self.engine_version = tensor_parallel, engine_version
        self.rules = rules_of(engine_version, shape)
        tokens, seqs = batch_defaults(self.rules, gpu.total_bytes, gpu.name)
        self.seqs = options.max_num_seqs or seqs
        self.tokens = options.max_num_batched_tokens or max(tokens, self._least_batch())
        self.share = options.gpu_memory_utilization or self.rules.utilization
        self.requested = math.ceil(gpu.total_bytes * self.share)
        self.kv_width = _kv_width(options.kv_cache_dtype)
        self.plan = self._plan()

    def found(self) -> MemoryEstimate:
        """All of it."""
        shape, options = self.shape, self.options
        length = options.max_model_len or self._default_length()
        lines = self.lines(length or 1)
        available = lines[-1].bytes
        plan = None if length is None else self.plan
        free = None if available is None else max(0, available)
        known = free is not None and plan is not None
        reasons = self._reasons(available, length)
        largest = self._largest(shape.max_model_len)
        return MemoryEstimate(
            gpu=self.gpu,
            tensor_parallel=self.tensor_parallel,
            engine_version=self.engine_version,
            requested=self.requested,
            lines=lines,
            fits=False if reasons else True if known else None,
            reasons=reasons,
            kv_bytes=available,
            kv_tokens=None if plan is None or free is None else plan.tokens(free, length or 1),
            bytes_per_token=self._per_token(),
            max_model_len=length,
            concurrency=self._concurrency(length),
            largest_max_model_len=largest,
            concurrency_at_largest=self._concurrency(largest),
            max_num_seqs=self.seqs,
            max_num_batched_tokens=self.tokens,
            gpu_memory_utilization=self.share,
            encoder=self._encoder(length or 1),
            unknown=self._unknown(),
        )

    def lines(self, length: int) -> tuple[MemoryLine, ...]:
        """The uses of memory with that longest context; the last is the rest."""
        weights = weights_per_gpu(
            self.shape, self.tensor_parallel, whole_encoder=self.options.whole_encoder
        )
        encoder = self._encoder(length)
        kept = encoder.cache_bytes if encoder else 0
        used = (
            MemoryLine("weights", weights, self._shared(), exact=True),
            MemoryLine("context", self._context(), "CUDA libraries, NCCL"),
            self._activations(encoder),
            MemoryLine("encoder cache", kept, "pictures already encoded"),
            MemoryLine("graphs", self._graphs(), "CUDA graphs"),
        )
        fixed = self.options.kv_cache_memory_bytes
        if fixed is not None:
            return (*used, MemoryLine("kv", fixed, "--kv-cache-memory-bytes", exact=True))
        sizes = [line.bytes for line in used]
        known = [size for size in sizes if size is not None]
        left = self.requested - sum(known) if len(known) == len(sizes) else None
        return (*used, MemoryLine("kv", left, "what is left"))

    def _shared(self) -> str:
        return "" if self.tensor_parallel == 1 else f"on each of {self.tensor_parallel} GPUs"

    def _activations(self, encoder: EncoderLoad | None) -> MemoryLine:
        """The largest of encoder, language model and sampler, which run one after the other."""
        shape, share = self.shape, self.tensor_parallel
        hidden, wide = shape.hidden or 0, shape.intermediate or 0
        # Residual, norm, and three matrices' outputs of the feed-forward part, in 16 bits.
        model = self.tokens * (2 * 2 * hidden + 2 * 3 * wide // share)
        width = _SAMPLER_TRITON if self.rules.version >= (0, 17) else _SAMPLER_SORT
        requests = min(self.seqs, self.tokens)
        sampler = int(requests * (shape.vocabulary or 0) * width)
        parts = {
            "encoder": encoder.activation_bytes if encoder else 0,
            "language model": model,
            "sampler": sampler,
        }
        largest = max(parts, key=lambda name: parts[name])
        notes = {
            "encoder": f"{_pictures(encoder.items if encoder else 0)} at once",
            "language model": f"{self.tokens} tokens in a step",
            "sampler": f"{requests} requests in a step",
        }
        return MemoryLine("activations", parts[largest], f"peak: {largest}, {notes[largest]}")

    def _encoder(self, length: int) -> EncoderLoad | None:
        if self.options.skip_mm_profiling:
            return None
        return encoder_load(
            self.shape,
            self.rules,
            max_model_len=length,
            max_num_seqs=self.seqs,
            max_num_batched_tokens=self.tokens,
            tensor_parallel=self.tensor_parallel,
            images=self.options.images,
            videos=self.options.videos,
            processor=self.options.processor,
            whole_encoder=self.options.whole_encoder,
        )

    def _context(self) -> int:
        extra = _CONTEXT_PER_GPU * (self.tensor_parallel - 1)
        return int(min(_CONTEXT + extra, _CONTEXT_MOST) * GIB)

    def _graphs(self) -> int:
        """Up to 0.20 they lie outside of what the utilization allows."""
        if self.options.enforce_eager or not self.rules.counts_graphs:
            return 0
        return int((_GRAPHS + _GRAPHS_PER_LAYER * (self.shape.num_layers or 0)) * GIB)

    def _least_batch(self) -> int:
        """V0 without chunked prefill takes a whole prompt in one step."""
        length = self.options.max_model_len or self._default_length() or 0
        return length if self.rules.legacy else 0

    def _default_length(self) -> int | None:
        short = self.shape.original_len if self.rules.original_len else None
        return short or self.shape.max_model_len

    def _plan(self) -> KvPlan | None:
        mla = any(layer.kind is LayerKind.MLA for layer in self.shape.layers)
        cross = self.shape.images
        encoder_tokens = 0
        if self.rules.legacy and cross is not None:
            encoder_tokens = cross.numbers["per_tile"] * cross.numbers["tiles"]
        return plan_cache(
            self.shape,
            self.rules,
            KvOptions(
                tensor_parallel=self.tensor_parallel,
                max_num_batched_tokens=self.tokens,
                block_size=self.options.block_size or (64 if mla else 16),
                dtype_bytes=self.kv_width or 2,
                hybrid=self.options.hybrid,
                encoder_tokens=encoder_tokens,
                prefix_caching=self.options.prefix_caching,
            ),
        )

    def _concurrency(self, length: int | None) -> float | None:
        available = self.lines(length)[-1].bytes if length else None
        if self.plan is None or available is None or not length:
            return None
        return self.plan.concurrency(max(0, available), length)

    def _per_token(self) -> int | None:
        if self.plan is None:
            return None
        return bytes_of_token(self.shape, self.tensor_parallel, self.kv_width or 2)

    def _largest(self, limit: int | None) -> int | None:
        """The longest context that fits; the encoder's share grows with it where videos do."""
        if self.plan is None or self.lines(1)[-1].bytes is None:
            return None
        if not self.shape.allows(self.tensor_parallel):
            return 0
        low, high = 0, limit or _LONGEST
        while low < high:
            middle = (low + high + 1) // 2
            available = self.lines(middle)[-1].bytes or 0
            low, high = (middle, high) if self.plan.fits(middle, available) else (low, middle - 1)
        return low

    def _reasons(self, available: int | None, length: int | None) -> tuple[str, ...]:
        shape, share = self.shape, self.tensor_parallel
        if not shape.allows(share):
            heads = f"{shape.heads} attention heads cannot be divided by {share} GPUs"
            return (heads,)
        if available is None:
            return ()
        if available <= 0:
            short = f"{-available / GIB:.1f} GiB more than vLLM may take on each GPU"
            return (f"weights and activations take {short}",)
        if self.plan is None or length is None or self.plan.fits(length, available):
            return ()
        needed = self.plan.request_bytes(length) / GIB
        room = f"the KV cache has {available / GIB:.1f} GiB"
        return (f"one request of {length} tokens needs {needed:.1f} GiB, {room}",)

    def _unknown(self) -> tuple[str, ...]:
        found = list(self.shape.unknown)
        if self.kv_width is None:
            found.append(f"kv cache type {self.options.kv_cache_dtype}")
        if self.shape.vocabulary is None:
            found.append("vocab_size")
        return tuple(found)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _kv_width(dtype: str) -> int | None:
    """Bytes of a number of the KV cache: 8-bit floats count with their one scale per layer."""
    if dtype.startswith("fp8") and "per_token" not in dtype:
        return 1
    return _KV_BYTES.get(dtype)
