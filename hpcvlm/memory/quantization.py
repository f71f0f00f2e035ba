"""How a checkpoint's weights are stored, from config.json's `quantization_config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpcvlm.memory.shapes import Quantization

_BITS = {"fp8": 8, "modelopt": 8, "fbgemm_fp8": 8, "mxfp4": 4, "modelopt_fp4": 4, "awq": 4}


def read_quantization(config: Mapping[str, object]) -> Quantization | None:
    """The quantisation of a config, or None for plain weights.

    Source: vllm/transformers_utils/model_arch_config_convertor.py, get_quantization_config: at
    top level, as `quantization_config` or `compression_config`, or in `text_config`.
    """
    for place in _places(config):
        for key in ("quantization_config", "compression_config", "quantization"):
            found = place.get(key)
            if isinstance(found, dict) and found:
                return _read(found)
    return None


def _places(config: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    yield config
    text = config.get("text_config")
    if isinstance(text, dict):
        yield text


def _read(found: Mapping[str, object]) -> Quantization:
    inner = found.get("quantization")
    method = str(found.get("quant_method") or found.get("qformat_weight") or "unknown").lower()
    method = method.replace("compressed_tensors", "compressed-tensors")
    if isinstance(inner, dict) and inner.get("quant_algo"):
        method = "modelopt_fp4" if "NVFP4" in str(inner["quant_algo"]).upper() else "modelopt"
    bits = found.get("bits") or found.get("w_bit")
    if bits is None and found.get("load_in_4bit"):
        bits = 4
    elif bits is None and found.get("load_in_8bit"):
        bits = 8
    if bits is None:
        bits = _group_bits(found) or _BITS.get(method)
    if method.startswith("fp8"):
        method, bits = "fp8", bits or 8
    return Quantization(method=method, bits=int(bits) if isinstance(bits, int) else None)


def _group_bits(found: Mapping[str, object]) -> int | None:
    """compressed-tensors: ``config_groups.*.weights.num_bits``."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
        if isinstance(bits, int):
            return bits
    return None
