"""Bytes of weights on each GPU of a tensor parallel group."""

from __future__ import annotations

from hpcvlm.memory.shapes import LayerKind, ModelShape


def weights_per_gpu(
    shape: ModelShape, tensor_parallel: int = 1, *, whole_encoder: bool = False
) -> int | None:
    """Bytes of weights on one GPU.

    vLLM divides attention, feed-forward parts, experts, embeddings and the output head; norms
    are repeated, and too small to count. What is not divided: the vision encoder with
    ``--mm-encoder-tp-mode data``, or where its heads cannot be divided, and the key and value
    heads that there are fewer of than GPUs.

    Args:
        shape: of `read_model`.
        tensor_parallel: GPUs that share the model.
        whole_encoder: ``--mm-encoder-tp-mode data``.

    Returns:
        None where the checkpoint's size is unknown.
    """
    if shape.weight_bytes is None:
        return None
    if tensor_parallel == 1:
        return shape.weight_bytes
    encoder = encoder_bytes(shape) if _is_whole(shape, tensor_parallel, whole_encoder) else 0
    divided = (shape.weight_bytes - encoder) // tensor_parallel
    return divided + encoder + _repeated_heads(shape, tensor_parallel)


def encoder_bytes(shape: ModelShape) -> int:
    """Bytes of the vision encoder's layers; checkpoints leave it in 16 bits when they quantise."""
    return 0 if shape.vision is None else shape.vision.parameters * shape.dtype_bytes


def _is_whole(shape: ModelShape, tensor_parallel: int, asked: bool) -> bool:
    vision = shape.vision
    if vision is None:
        return False
    indivisible = vision.heads is not None and vision.heads % tensor_parallel != 0
    return asked or not vision.splits or indivisible


def _repeated_heads(shape: ModelShape, tensor_parallel: int) -> int:
    """Key and value projections of which every GPU has one head, though there are fewer."""
    if shape.hidden is None or shape.num_layers is None:
        return 0
    bits = shape.quantization.bits if shape.quantization and shape.quantization.bits else 16
    extra = 0
    for layer in shape.layers:
        if layer.kind in {LayerKind.MLA, LayerKind.STATE} or layer.kv_heads >= tensor_parallel:
            continue
        spare = 1 - layer.kv_heads / tensor_parallel
        width = layer.head_dim + layer.head_dim_v
        extra += int(layer.count * shape.hidden * width * spare * bits / 8)
    return extra
