"""Does it fit: the memory arithmetic for one plan, and what to change where it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.memory.estimate import EstimateOptions, estimate
from hpcvlm.memory.gpus import GpuSpec
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.quantization import read_quantization
from hpcvlm.memory.shapes import ModelShape, Quantization
from hpcvlm.plan.model import Issue, MemoryFit

if TYPE_CHECKING:
    from hpcvlm.memory.advice import Advice

MEMORY_CODE = "memory"
_UNITS = {"": 1, "k": 1000, "m": 10**6, "g": 10**9, "K": 1024, "M": 1024**2, "G": 1024**3}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")


def model_shape(
    spec: ModelSpec,
    config: Mapping[str, object] | None = None,
    weight_bytes: int | None = None,
    preprocessor: Mapping[str, object] | None = None,
) -> ModelShape:
    """What decides a model's memory: from its files on disk, else from its catalog entry.

    Args:
        spec: the model.
        config: config.json of the snapshot on disk.
        weight_bytes: of the weights on disk.
        preprocessor: preprocessor_config.json of the snapshot on disk.
    """
    return read_model(config or spec.config, weight_bytes or spec.weight_bytes, preprocessor)


def memory_fit(
    spec: ModelSpec,
    shape: ModelShape,
    gpus: Sequence[GpuSpec],
    tensor_parallel: int,
    engine_version: str,
    options: EstimateOptions,
) -> MemoryFit:
    """The verdict, for each GPU that may be meant.

    Args:
        spec: the model; its variants are offered where they fit.
        shape: of `model_shape`.
        gpus: of `gpu_candidates`.
        tensor_parallel: GPUs that share the model.
        engine_version: a version of vLLM.
        options: of `estimate_options`.
    """
    if not gpus:
        return MemoryFit(unknown="the type of the GPUs is not known")
    try:
        found = tuple(
            estimate(shape, gpu, tensor_parallel, engine_version, options) for gpu in gpus
        )
    except ValueError as error:
        return MemoryFit(unknown=str(error))
    fit = MemoryFit(found)
    if fit.fits is None:
        missing = ", ".join(dict.fromkeys(name for one in found for name in one.unknown))
        return MemoryFit(found, unknown=f"not known: {missing or 'how long a context is wanted'}")
    if fit.fits:
        return fit
    from hpcvlm.memory.advice import advise

    advice = advise(
        shape, gpus[-1], tensor_parallel, engine_version, options, _smaller(spec, shape)
    )
    return MemoryFit(found, advice)


def estimate_options(options: Mapping[str, object], extra: Sequence[str] = ()) -> EstimateOptions:
    """Those options of `vllm serve` that decide memory.

    Args:
        options: by name, without dashes.
        extra: arguments that the user added; they win.
    """
    said = {**options, **_from_arguments(extra)}
    limits = _mapping(said.get("limit-mm-per-prompt"))
    limits |= {
        name.partition(".")[2]: value
        for name, value in said.items()
        if name.startswith("limit-mm-per-prompt.")
    }
    share = said.get("gpu-memory-utilization")
    return EstimateOptions(
        max_model_len=_count(said.get("max-model-len")),
        max_num_seqs=_count(said.get("max-num-seqs")),
        max_num_batched_tokens=_count(said.get("max-num-batched-tokens")),
        gpu_memory_utilization=float(share) if isinstance(share, (int, float)) else None,
        kv_cache_dtype=str(said.get("kv-cache-dtype", "auto")),
        kv_cache_memory_bytes=_count(said.get("kv-cache-memory-bytes")),
        enforce_eager=said.get("enforce-eager") is True,
        images=_limit(limits.get("image")),
        videos=_limit(limits.get("video")),
        processor=_mapping(said.get("mm-processor-kwargs")),
        block_size=_count(said.get("block-size")),
        whole_encoder=said.get("mm-encoder-tp-mode") == "data",
        hybrid=said.get("disable-hybrid-kv-cache-manager") is not True,
        prefix_caching=said.get("enable-prefix-caching") is not False,
        skip_mm_profiling=said.get("skip-mm-profiling") is True,
    )


def memory_issues(fit: MemoryFit, gpus: str) -> list[Issue]:
    """The refusal of a launch that cannot fit; an estimate may be wrong, so it is arguable."""
    if fit.fits is not False:
        return []
    largest = fit.estimates[-1]
    changes = [advice_words(one) for one in fit.advice]
    remedy = "; or ".join(changes[:3]) or "a smaller model, or GPUs with more memory"
    reason = "; ".join(largest.reasons)
    sentence = f"does not fit on {gpus} ({largest.gpu.name}): {reason}"
    return [Issue(MEMORY_CODE, "--gpus", sentence, remedy, arguable=True)]


def advice_words(advice: Advice) -> str:
    """What to type for a change, as options of plan and launch."""
    change, value = advice.change, advice.value
    return {
        "length": f"--set max-model-len={value}",
        "requests": f"--set max-num-seqs={value}",
        "kv-fp8": "--set kv-cache-dtype=fp8",
        "eager": "--set enforce-eager=true",
        "utilization": f"--set gpu-memory-utilization={value}",
        "pixels": f"--set multimodal.processor.max_pixels={value}",
        "videos": "--set multimodal.limit_per_prompt.video=0",
        "gpus": f"{value} of these GPUs",
        "variant": f"{value} instead",
    }.get(advice.kind, change)


def _smaller(spec: ModelSpec, shape: ModelShape) -> dict[str, tuple[int, Quantization | None]]:
    """The variants with fewer bytes, as `advise` takes them."""
    return {
        f"{spec.name}:{name}": (variant.weight_bytes, read_quantization(variant.config))
        for name, variant in spec.variants.items()
        if variant.weight_bytes and variant.weight_bytes < (shape.weight_bytes or 0)
    }


def _from_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """``--name value`` and ``--name=value`` as options; only their values matter here."""
    found: dict[str, object] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("_", "-")
            found[name.removeprefix("no-")] = (
                _value(value) if equals else not name.startswith("no-")
            )
        elif name:
            found[name] = _value(argument)
    return found


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _count(value: object) -> int | None:
    """A whole number, also as vLLM writes one: 32K is 32768, 32k is 32000."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value > 0 else None
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _limit(value: object) -> int | None:
    """How many of a modality: a number, or vLLM's longer form with a count."""
    if isinstance(value, Mapping):
        value = value.get("count")
    return value if isinstance(value, int) else None


def _mapping(value: object) -> dict[str, object]:
    if isinstance(value, str):
        value = _value(value)
    return dict(value) if isinstance(value, Mapping) else {}
