"""What a snapshot needs besides its weights before an engine can serve it.

Only what is sure is a problem. A repository may bring code of its own, keep its tokenizer in a form
of its own, or be a base model without a chat template; these lacks are warnings.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from hpcvlm.snapshots.verify.findings import Finding

CONFIG = "config.json"
MISTRAL_CONFIG = "params.json"
_TOKENIZERS = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "tekken.json",
        "tiktoken.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "vocab.txt",
    }
)
_PROCESSORS = frozenset(
    {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}
)
_TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})
# Model types for which vLLM has a template of its own: vllm/transformers_utils/chat_templates/
# registry.py of 0.33.
_BUILT_IN_TEMPLATES = frozenset(
    {
        "blip-2",
        "clip",
        "colpali",
        "deepseek_ocr",
        "deepseek_ocr2",
        "deepseek_vl_v2",
        "minicpm_ocr",
        "minicpmv",
        "minicpmv4_6",
        "minicpmv4_7",
        "paligemma",
        "siglip",
        "siglip2",
        "unlimited-ocr",
        "unlimited_ocr",
    }
)
_VISION = ("vision_config", "vision_tower", "mm_vision_tower", "img_processor", "image_token_index")


def needs_config(files: AbstractSet[str]) -> bool:
    """Whether config.json must be there: Mistral's own format and GGUF bring something else."""
    return MISTRAL_CONFIG not in files and not any(name.endswith(".gguf") for name in files)


def has_weights(files: AbstractSet[str]) -> bool:
    """Whether there is any file of weights at the top, of whatever format."""
    endings = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
    return any("/" not in name and name.endswith(endings) for name in files)


def lacks(
    files: AbstractSet[str], config: Mapping[str, object], texts: Mapping[str, Mapping[str, object]]
) -> list[Finding]:
    """What is missing of tokenizer, processor, chat template and architecture.

    Args:
        files: paths of all files of the snapshot.
        config: its config.json; empty when that is missing or damaged.
        texts: its tokenizer_config.json and processor_config.json by name, where they are there.
    """
    if not config:
        return []
    found = []
    if not _has_architecture(config):
        text = "names no architectures; vLLM then needs --hf-overrides"
        found.append(Finding(CONFIG, "lacks", text, problem=False))
    if not _has_tokenizer(files):
        text = f"no tokenizer: none of {', '.join(sorted(_TOKENIZERS))}"
        found.append(Finding("", "lacks", text, problem=False))
    if _sees(config) and not files & _PROCESSORS and MISTRAL_CONFIG not in files:
        # vLLM 0.32 ends with "Can't load image processor" when it is missing.
        text = "no image processor: neither preprocessor_config.json nor processor_config.json"
        found.append(Finding("", "lacks", text, problem="auto_map" not in config))
    if not _has_template(files, config, texts):
        text = "no chat template: a chat request needs one, as --chat-template of the engine"
        found.append(Finding("", "lacks", text, problem=False))
    return found


def _has_architecture(config: Mapping[str, object]) -> bool:
    architectures = config.get("architectures")
    return isinstance(architectures, list) and bool(architectures)


def _has_tokenizer(files: AbstractSet[str]) -> bool:
    if files & _TOKENIZERS or {"vocab.json", "merges.txt"} <= files:
        return True
    endings = (".tiktoken", ".gguf")
    return any(
        name.endswith(endings) or name.startswith(("tokenizer.model", "tokenization_"))
        for name in files
    )


def _sees(config: Mapping[str, object]) -> bool:
    return any(config.get(key) is not None for key in _VISION)


def _has_template(
    files: AbstractSet[str], config: Mapping[str, object], texts: Mapping[str, Mapping[str, object]]
) -> bool:
    if files & _TEMPLATES or MISTRAL_CONFIG in files:
        return True
    if any(name.startswith("additional_chat_templates/") for name in files):
        return True
    if any(text.get("chat_template") for text in texts.values()):
        return True
    return config.get("model_type") in _BUILT_IN_TEMPLATES
