"""What would make a model fit that does not, each checked by the same estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from hpcvlm.memory.estimate import EstimateOptions, MemoryEstimate, estimate
from hpcvlm.memory.gpus import GpuSpec
from hpcvlm.memory.shapes import ModelShape, Quantization

# The sizes that sites give out; others are counted only where they divide the heads, too.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
_ROUND = 1024
# Tokens of a picture that is still good for documents, at 28 x 28 pixels each: 1003520 pixels.
_PIXELS = (4_014_080, 1_003_520, 501_760)
_FEW_REQUESTS = 16


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Advice:
    """One change that makes the model fit.

    Attributes:
        kind: ``gpus``, ``variant``, ``length``, ``pixels``, ``videos``, ``requests``, ``kv-fp8``,
            ``eager`` or ``utilization``.
        change: what to type: an option of vllm serve, a number of GPUs, or a variant's name.
        value: the number or word alone.
        estimate: with the change.
    """

    kind: str
    change: str
    value: int | float | str
    estimate: MemoryEstimate


def advise(
    shape: ModelShape,
    gpu: GpuSpec,
    tensor_parallel: int = 1,
    engine_version: str = "0.32.0",
    options: EstimateOptions | None = None,
    variants: Mapping[str, tuple[int, Quantization | None]] | None = None,
    most_gpus: int = 8,
) -> tuple[Advice, ...]:
    """Single changes that make a model fit, the cheapest for the user first.

    Args:
        shape: of `read_model`.
        gpu: the GPU that was asked for.
        tensor_parallel: how many of it.
        engine_version: as for `estimate`.
        options: what was asked for.
        variants: further sets of weights by name: bytes, and how they are stored.
        most_gpus: that the user can have for one server.

    Returns:
        Nothing where it fits already, or where what fits cannot be known.
    """
    asked = options or EstimateOptions()
    now = estimate(shape, gpu, tensor_parallel, engine_version, asked)
    if now.fits is not False:
        return ()

    def again(
        changed: EstimateOptions = asked,
        of: ModelShape = shape,
        gpus: int = tensor_parallel,
    ) -> MemoryEstimate:
        return estimate(of, gpu, gpus, engine_version, changed)

    found = [
        *_length(now, asked, again),
        *_pictures(shape, asked, again),
        *_options(now, gpu, asked, again),
        *_gpus(shape, tensor_parallel, most_gpus, again),
        *_variants(shape, variants or {}, again),
    ]
    return tuple(one for one in found if one.estimate.fits)


_Again = Callable[..., MemoryEstimate]


def tensor_parallel_sizes(shape: ModelShape, most: int = 8) -> tuple[int, ...]:
    """Numbers of GPUs that divide the model's attention heads, 1 first.

    Without knowing the heads, powers of two.
    """
    if shape.heads is None:
        return tuple(size for size in (1, 2, 4, 8, 16) if size <= most)
    return tuple(size for size in _SIZES if size <= most and shape.allows(size))


def fewest_gpus(
    shape: ModelShape,
    gpu: GpuSpec,
    engine_version: str = "0.32.0",
    options: EstimateOptions | None = None,
    most: int = 16,
) -> int | None:
    """The smallest number of GPUs that the model fits on, or None up to `most`."""
    for size in tensor_parallel_sizes(shape, most):
        if estimate(shape, gpu, size, engine_version, options).fits:
            return size
    return None


def _length(now: MemoryEstimate, asked: EstimateOptions, again: _Again) -> Iterator[Advice]:
    """The longest context that fits, rounded down to whole 1024s where it is long enough."""
    largest = now.largest_max_model_len
    if not largest:
        return
    length = largest // _ROUND * _ROUND or largest
    changed = replace(asked, max_model_len=length)
    yield Advice("length", f"--max-model-len {length}", length, again(changed))


def _pictures(shape: ModelShape, asked: EstimateOptions, again: _Again) -> Iterator[Advice]:
    if shape.images is None or shape.images.name != "grid":
        return
    if asked.videos != 0 and shape.images.numbers.get("videos"):
        changed = replace(asked, videos=0)
        yield Advice("videos", "--limit-mm-per-prompt.video 0", 0, again(changed))
    for pixels in _PIXELS:
        if pixels < shape.images.numbers["max_pixels"] and "max_pixels" not in asked.processor:
            processor = {**asked.processor, "max_pixels": pixels}
            fewer = again(replace(asked, processor=processor))
            if fewer.fits:
                text = f"--mm-processor-kwargs '{{\"max_pixels\": {pixels}}}'"
                yield Advice("pixels", text, pixels, fewer)
                return


def _options(
    now: MemoryEstimate, gpu: GpuSpec, asked: EstimateOptions, again: _Again
) -> Iterator[Advice]:
    if now.max_num_seqs > _FEW_REQUESTS:
        changed = replace(asked, max_num_seqs=_FEW_REQUESTS)
        yield Advice("requests", f"--max-num-seqs {_FEW_REQUESTS}", _FEW_REQUESTS, again(changed))
    # 8-bit floats in the cache need hardware of compute capability 8.9 or AMD's.
    able = gpu.capability is None or gpu.capability >= (8, 9)
    if asked.kv_cache_dtype == "auto" and able:
        changed = replace(asked, kv_cache_dtype="fp8")
        yield Advice("kv-fp8", "--kv-cache-dtype fp8", "fp8", again(changed))
    if not asked.enforce_eager and any(line.bytes for line in now.lines if line.name == "graphs"):
        eager = replace(asked, enforce_eager=True)
        yield Advice("eager", "--enforce-eager", "", again(eager))
    if now.gpu_memory_utilization < 0.95:  # noqa: PLR2004 - more leaves too little for graphs
        more = replace(asked, gpu_memory_utilization=0.95)
        yield Advice("utilization", "--gpu-memory-utilization 0.95", 0.95, again(more))


def _gpus(shape: ModelShape, now: int, most: int, again: _Again) -> Iterator[Advice]:
    for size in tensor_parallel_sizes(shape, most):
        if size > now:
            found = again(gpus=size)
            if found.fits:
                yield Advice("gpus", f"{size} GPUs", size, found)
                return


def _variants(
    shape: ModelShape, variants: Mapping[str, tuple[int, Quantization | None]], again: _Again
) -> Iterator[Advice]:
    for name, (weight_bytes, how) in sorted(variants.items(), key=lambda one: -one[1][0]):
        smaller = replace(shape, weight_bytes=weight_bytes, quantization=how)
        found = again(of=smaller)
        if found.fits:
            yield Advice("variant", name, name, found)
