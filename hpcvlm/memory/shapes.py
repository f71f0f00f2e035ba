"""What of a model decides its memory: the values that `read_model` gives and the rest takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class LayerKind(StrEnum):
    """What a layer keeps of the tokens that it has seen.

    Attributes:
        FULL: keys and values of every token.
        SLIDING: keys and values of the last `window` tokens.
        CHUNKED: keys and values of the current chunk of `window` tokens (Llama 4).
        MLA: one compressed vector per token, the same on every GPU (DeepSeek).
        CROSS: keys and values of the picture's tokens (Llama 3.2 Vision).
        STATE: a state of constant size per request (Mamba, gated delta net).
    """

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    MLA = "mla"
    CROSS = "cross"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StateShape:
    """The state of one linear-attention or Mamba layer, of the whole model.

    Attributes:
        channels: channels of the convolution that are divided among GPUs.
        groups: Mamba 2 groups, which are repeated where GPUs do not divide them; 0 without.
        group_channels: channels that one group adds to the convolution.
        kernel: taps of the convolution; one less is kept.
        recurrent: elements of the recurrent state.
        recurrent_bytes: bytes of such an element; None for those of the model's type.
    """

    channels: int
    groups: int = 0
    group_channels: int = 0
    kernel: int
    recurrent: int
    recurrent_bytes: int | None = None

    def bytes_per_gpu(self, tensor_parallel: int, dtype_bytes: int) -> int:
        """Bytes of one request's state in this layer.

        Source: vllm/model_executor/layers/mamba/mamba_utils.py, MambaStateShapeCalculator.
        """
        groups = self.groups
        if groups % tensor_parallel:
            groups = tensor_parallel
        convolution = (self.channels + groups * self.group_channels) // tensor_parallel
        recurrent = self.recurrent // tensor_parallel
        width = self.recurrent_bytes or dtype_bytes
        return convolution * (self.kernel - 1) * dtype_bytes + recurrent * width


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Layers:
    """Layers of one kind and size that keep something of their own.

    Attributes:
        count: how many; layers that reuse another's keys and values are not among them.
        kv_heads: of the whole model; 1 for MLA.
        head_dim: width of a key; of the whole compressed vector for MLA.
        head_dim_v: width of a value; 0 for MLA.
        window: tokens of the window or chunk.
        state: for `LayerKind.STATE` alone.
    """

    kind: LayerKind
    count: int
    kv_heads: int = 0
    head_dim: int = 0
    head_dim_v: int = 0
    window: int | None = None
    state: StateShape | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ImageRule:
    """How a picture becomes tokens.

    Attributes:
        name: key of `images.RULES`.
        numbers: what the rule needs, from config.json and preprocessor_config.json.
    """

    name: str
    numbers: Mapping[str, int] = field(default_factory=dict)
    pinpoints: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VisionShape:
    """The vision encoder.

    Attributes:
        heads: attention heads; tensor parallel sizes that do not divide them leave it whole.
        matrices: weight matrices of one layer's feed-forward part: 2, or 3 where it is gated.
        patch: pixels along a patch.
        inputs: numbers of one patch that go in (channels, frames and pixels).
        outputs: width of what goes to the language model, per token, in its hidden size.
        levels: outputs kept per token: 1, and one for each deepstack level (Qwen3-VL).
        splits: whether vLLM divides it among tensor parallel GPUs.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int | None = None
    matrices: int = 2
    patch: int | None = None
    inputs: int | None = None
    levels: int = 1
    splits: bool = True

    @property
    def parameters(self) -> int:
        """Weights of the encoder's layers, without patch embedding and projector."""
        per_layer = 4 * self.hidden**2 + self.matrices * self.hidden * self.intermediate
        return self.layers * per_layer


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Quantization:
    """How the checkpoint's weights are stored.

    Attributes:
        method: vLLM's name, such as awq, gptq, fp8, compressed-tensors.
        bits: of a weight; None where the config does not say.
    """

    method: str
    bits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelShape:
    """What decides a model's memory. A field is None where the config does not say.

    Attributes:
        architecture: first of config.json's `architectures`.
        model_type: of config.json.
        dtype: type of the weights that are not quantised, as vLLM loads them; float32 becomes
            a 16-bit type.
        weight_bytes: of all weights as loaded on one GPU.
        layers: the layers that keep something of the tokens, by kind and size.
        num_layers: of the language model, all of them.
        intermediate: width of the feed-forward part that one token goes through, over all
            experts that it visits.
        max_model_len: longest context that the model was made for, in tokens.
        original_len: the shorter one that LongRoPE models were trained with, which newer engines
            take when nothing is asked for.
        images: how a picture becomes tokens.
        multimodal: whether the model takes pictures.
        unknown: keys of the config that were missing, or parts of it that are not understood.
    """

    architecture: str | None = None
    model_type: str | None = None
    dtype: str | None = None
    weight_bytes: int | None = None
    layers: tuple[Layers, ...] = ()
    num_layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    vocabulary: int | None = None
    max_model_len: int | None = None
    original_len: int | None = None
    multimodal: bool = False
    vision: VisionShape | None = None
    images: ImageRule | None = None
    quantization: Quantization | None = None
    unknown: tuple[str, ...] = ()

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number of `dtype`; vLLM computes in 16 bits whatever the checkpoint has."""
        return 2

    def allows(self, tensor_parallel: int) -> bool:
        """Whether that many GPUs divide the attention heads, which vLLM asks for."""
        return self.heads is None or self.heads % tensor_parallel == 0


GIB = 1 << 30
KIB = 1 << 10
