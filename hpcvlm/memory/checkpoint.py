"""Bytes of a checkpoint's weights, from what lies beside them; no tensor is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# https://huggingface.co/docs/safetensors: the header's names of types, in bytes.
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}


def index_bytes(index: Mapping[str, object]) -> int | None:
    """Bytes that a parsed ``model.safetensors.index.json`` names, in the checkpoint's types.

    Returns:
        None where the index does not say; files written by old tools do not.
    """
    about = index.get("metadata")
    total = about.get("total_size") if isinstance(about, dict) else None
    return int(total) if isinstance(total, (int, float)) and total > 0 else None


def header_bytes(headers: Iterable[Mapping[str, object]], *, loaded: bool = True) -> int:
    """Bytes of the tensors that safetensors headers list.

    Args:
        headers: the JSON at the start of each file.
        loaded: count 32-bit floats as the 16-bit ones that vLLM makes of them.
    """
    total = 0
    for header in headers:
        for name, tensor in header.items():
            if name == "__metadata__" or not isinstance(tensor, dict):
                continue
            kind, shape = tensor.get("dtype"), tensor.get("shape")
            width = _BYTES.get(str(kind))
            if width is None or not isinstance(shape, list):
                continue
            if loaded and kind in {"F32", "F64"}:
                width = 2
            count = 1
            for side in shape:
                count *= int(side)
            total += count * width
    return total


def loaded_bytes(weight_bytes: int, dtype: str | None) -> int:
    """Bytes on the GPU of a checkpoint of that type: vLLM loads float32 as 16 bits.

    Args:
        weight_bytes: in the checkpoint.
        dtype: config.json's; None counts as 16 bits.
    """
    return weight_bytes // 2 if dtype == "float32" else weight_bytes
