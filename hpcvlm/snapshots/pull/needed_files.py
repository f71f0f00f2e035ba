"""Which files of a repository a server needs.

vLLM reads weights from the top folder only, ``*.safetensors`` where there are any, and one of
Mistral's ``consolidated*`` and the others, never both
(vllm/model_executor/model_loader/default_loader.py). Everything that is not plainly a second copy
of the weights is needed: a small file too many costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hpcvlm.snapshots.model import ListedFile

# Weights in other formats; an export's data lie beside it.
_OTHER_FORMATS = (
    ".bin",
    ".pt",
    ".pth",
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
# Folders that hold the same weights once more, for other programs.
_OTHER_FOLDERS = ("original", "onnx", "openvino", "coreml", "gguf", "metal", "mlx")
# What a training left behind: its states, as transformers and DeepSpeed name their folders.
_TRAINING_FOLDERS = ("checkpoint-", "global_step")
_SAFETENSORS = ".safetensors"
_CONSOLIDATED = "consolidated"


def needed_files(
    listing: Iterable[ListedFile], *, mistral: bool = False
) -> tuple[list[ListedFile], list[ListedFile]]:
    """The files that a server reads, and those that it does not; both sorted by path.

    Args:
        listing: every file of the repository.
        mistral: whether the engine is told to load Mistral's own format
            (``load-format: mistral``), which is then needed and not the other.
    """
    files = sorted(listing)
    tops = [file.path for file in files if "/" not in file.path]
    own = any(_is_consolidated(path) for path in tops)
    usual = any(path.endswith(_SAFETENSORS) and not _is_consolidated(path) for path in tops)
    drop: list[Callable[[str], bool]] = []
    if own or usual:
        drop.append(_is_other_format)
    if own and usual:
        drop.append(_is_usual_weight if mistral else _is_consolidated)
    if own or usual or any(path.endswith(_OTHER_FORMATS) for path in tops):
        drop.append(_is_other_folder)
    return _split(files, drop)


def _split(
    files: Sequence[ListedFile], drop: Sequence[Callable[[str], bool]]
) -> tuple[list[ListedFile], list[ListedFile]]:
    left_out = [file for file in files if any(test(file.path) for test in drop)]
    gone = set(left_out)
    return [file for file in files if file not in gone], left_out


def _is_other_format(path: str) -> bool:
    """Weights of another format, in the top folder: code of the repository may read those below."""
    return "/" not in path and path.lower().endswith(_OTHER_FORMATS)


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
