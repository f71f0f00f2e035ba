"""Which files of a repository a server needs.

vLLM reads weights from the top folder only, ``*.safetensors`` where there are any, and one of
Mistral's ``consolidated*`` and the others, never both
(vllm/model_executor/model_loader/default_loader.py). Which of these two it takes when nobody says
depends on its version: 0.33 takes Mistral's where they are, 0.9.1 the others. Everything that is
not plainly a second copy of the weights is needed: a small file too many costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

# Weights in other formats; an export's data lie beside it.
_OTHER_FORMATS = (
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".tflite",
    ".mlmodel",
    ".mlpackage",
    ".ot",
    ".bin.index.json",
)
# PyTorch's own, which is also that of a speaker's voice or of a small part of a model: Qwen2.5-Omni
# does not load without its spk_dict.pt of 250 kB (https://github.com/vllm-project/vllm-omni/pull/47).
_PYTORCH = (".bin", ".pt", ".pth")
_SMALL = 10_000_000  # bytes
# How whole checkpoints, and what a training leaves beside them, are named.
_CHECKPOINTS = (
    "pytorch_model",
    "model",
    "consolidated",
    "adapter_model",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "training_args",
)
# Folders that hold the same weights once more, for other programs.
_OTHER_FOLDERS = ("original", "onnx", "openvino", "coreml", "gguf", "metal", "mlx")
# What a training left behind: its states, as transformers and DeepSpeed name their folders.
_TRAINING_FOLDERS = ("checkpoint-", "global_step")
_SAFETENSORS = ".safetensors"
_CONSOLIDATED = "consolidated"
_AUTO = "auto"
_MISTRAL = "mistral"
# What --load-format reads where not safetensors: vllm/config/load.py, and of 0.9.1 also gguf.
_READS = {"pt": _PYTORCH, "npcache": (*_PYTORCH, ".bin.index.json"), "gguf": (".gguf",)}


class RepositoryFile(Protocol):
    """A file of a repository, as the hub lists it or as it lies on disk."""

    @property
    def path(self) -> str:
        """In the repository."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...


File = TypeVar("File", bound=RepositoryFile)


def needed_files(
    listing: Iterable[File], *, load_format: str = _AUTO
) -> tuple[list[File], list[File]]:
    """The files that a server reads, and those that it does not; both sorted by path.

    Args:
        listing: every file of the repository.
        load_format: as the engine is told. With ``auto`` a repository that has its weights in
            Mistral's own format and in the usual one is needed with both.
    """
    files = sorted(listing, key=lambda file: file.path)
    tops = [file.path for file in files if "/" not in file.path]
    own = any(_is_consolidated(path) for path in tops)
    usual = any(path.endswith(_SAFETENSORS) and not _is_consolidated(path) for path in tops)
    read = _READS.get(load_format, ())
    drop: list[Callable[[RepositoryFile], bool]] = []
    if own or usual:
        drop.append(lambda file: _is_other_format(file) and not file.path.lower().endswith(read))
    if own and usual and load_format != _AUTO:
        unread = _is_usual_weight if load_format == _MISTRAL else _is_consolidated
        drop.append(lambda file: unread(file.path))
    if own or usual or any(path.endswith((*_OTHER_FORMATS, *_PYTORCH)) for path in tops):
        drop.append(lambda file: _is_other_folder(file.path))
    return _split(files, drop)


def _split(
    files: Sequence[File], drop: Sequence[Callable[[RepositoryFile], bool]]
) -> tuple[list[File], list[File]]:
    needed: list[File] = []
    left_out: list[File] = []
    for file in files:
        (left_out if any(test(file) for test in drop) else needed).append(file)
    return needed, left_out


def _is_other_format(file: RepositoryFile) -> bool:
    """Weights of another format, in the top folder: code of the repository may read those below."""
    path = file.path.lower()
    if "/" in path or not path.endswith(_PYTORCH):
        return "/" not in path and path.endswith(_OTHER_FORMATS)
    return file.size >= _SMALL or path.startswith(_CHECKPOINTS)


def _is_other_folder(path: str) -> bool:
    top, slash, _ = path.lower().partition("/")
    return bool(slash) and (top in _OTHER_FOLDERS or top.startswith(_TRAINING_FOLDERS))


def _is_consolidated(path: str) -> bool:
    return path.startswith(_CONSOLIDATED) and (
        path.endswith((_SAFETENSORS, f"{_SAFETENSORS}.index.json"))
    )


def _is_usual_weight(path: str) -> bool:
    ends = path.endswith((_SAFETENSORS, f"{_SAFETENSORS}.index.json"))
    return "/" not in path and ends and not _is_consolidated(path)
