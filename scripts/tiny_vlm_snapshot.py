"""Write the tiny model as a snapshot in the layout of the Hugging Face cache.

    python scripts/tiny_vlm_snapshot.py hpcvlm/bundled/hub --served float32=evaluation.json

The command adds to the model card what scripts/evaluate_tiny_vlm.py measured on a real server. A
changed card is a changed snapshot: it gets a new commit hash and replaces the former one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hpcvlm.probe.pictures import COLOURS, PAIR_QUESTION, QUESTION, SHAPES, TEXT_QUESTION

REPO = "hpcvlm/tiny-vlm"
CARD = "README.md"
FACTS = "training.json"
WEIGHTS = "model.safetensors"
# transformers gives no types that a checker could use.
Model = Any
Processor = Any
# The files that published Qwen2-VL repositories have, which every version of transformers reads.
_CONFIG_NAMES_FOR_TEXT = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "use_cache",
    "vocab_size",
)

_CARD_TEMPLATE = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_vl, tiny, test]
---

# {repo}

A vision-language model of {millions:.2f} million parameters that names the colour and the shape in
generated pictures. It ships with hpcvlm, to try a whole installation (engine, chat template, image
processing, endpoint) without downloading a model. It is of no use for anything else: it knows
{colours} colours, {shapes} shapes, and questions about them in English.

| asked | answered |
| --- | --- |
| a picture, "{question}" | `a red circle` |
| two pictures, "{pair_question}" | `a red circle and a blue square` |
| a picture, "Which colour is the shape?" | `red` |
| "{text_question}" | `ready` |
| a question about a picture, without one | `no image` |

The architecture is Qwen2-VL. A picture takes 4 to 16 prompt tokens and two more around them; the
context is {context} tokens. Attention has {heads} heads of size 32, so tensor parallelism over 1, 2
or 4 devices divides them. The weights are {dtype}.

    vllm serve {repo} --max-model-len 2048 --limit-mm-per-prompt '{{"image": 2, "video": 1}}'

## Training

`scripts/train_tiny_vlm.py` of hpcvlm, from random weights, seed {seed}, on {pictures} pictures that
`hpcvlm/probe/pictures.py` drew (sides of 64 to 448 pixels, PNG and JPEG, grounds of any grey).
First the vision tower learnt to see with a throw-away classifier ({vision_steps} steps of 64
pictures), then the whole model learnt to answer ({words_steps} steps of 36 prompts). No data of
other origin was used. It took {wall_min:.1f} minutes on one core of a shared machine without a GPU
({cpu_min:.1f} minutes of processor time, the drawing of the pictures included), with torch {torch}
and transformers {transformers}.

## Measured

Word for word, greedy, on held-out pictures, in float32 at the end of training:

{held_out}
{served}"""

_SERVED_HEAD = """
Through the HTTP API of vLLM with `scripts/evaluate_tiny_vlm.py`, on other held-out pictures (sides
of 112 to 448 pixels, half of them JPEG, several wordings of the questions):

| `--dtype` | one picture | two pictures, in order | without a picture |
| --- | --- | --- | --- |
"""


def write_snapshot(model: Model, processor: Processor, facts: Mapping[str, Any], hub: Path) -> Path:
    """Write a trained model; gives its snapshot folder.

    Args:
        model: the trained model; its weights are rounded to float16.
        processor: tokenizer and image processor.
        facts: what the card tells of the training.
        hub: folder in the layout of the Hugging Face cache.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.half().save_pretrained(folder)
        processor.save_pretrained(folder)
        _as_published(folder)
        # A fresh umask decides who may read the file, not the library that wrote it.
        (folder / WEIGHTS).chmod(0o644)
        _write_json(folder / FACTS, facts)
        (folder / CARD).write_text(_card(facts, _read_json(folder / "config.json")))
        return lay_out(folder, hub)


def add_measurements(hub: Path, served: Mapping[str, Mapping[str, Any]]) -> Path:
    """Tell in the card what was measured on servers; gives the new snapshot folder.

    Args:
        hub: where the snapshot is.
        served: for every value of ``--dtype``, what the evaluation printed.
    """
    root = hub / _folder_name()
    snapshot = root / "snapshots" / (root / "refs" / "main").read_text()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "snapshot"
        shutil.copytree(snapshot, folder)
        scores = {
            dtype: {name: [result[name]["right"], result[name]["of"]] for name in _SCORES}
            for dtype, result in served.items()
        }
        facts = {**_read_json(folder / FACTS), "served": scores}
        _write_json(folder / FACTS, facts)
        (folder / CARD).write_text(_card(facts, _read_json(folder / "config.json")))
        return lay_out(folder, hub)


def lay_out(folder: Path, hub: Path) -> Path:
    """Put files into the hub as its only snapshot of the model; gives the snapshot folder.

    The files lie in the snapshot itself, as huggingface_hub stores them where links are not
    possible: a wheel cannot hold links. The commit hash follows from the content.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listing = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files
    )
    # Git's hashes look like this one; nothing is protected by it.
    commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
    root = hub / _folder_name()
    shutil.rmtree(root, ignore_errors=True)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, snapshot / path.name)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    return snapshot


def _folder_name() -> str:
    return "models--" + REPO.replace("/", "--")


def _as_published(folder: Path) -> None:
    """Rewrite the settings in the form that published Qwen2-VL repositories have.

    transformers 5 writes them in a form that transformers 4, and older vLLM with it, cannot read;
    both read this one.
    """
    config = _read_json(folder / "config.json")
    text, vision = config.pop("text_config"), config.pop("vision_config")
    rope = text["rope_parameters"]
    for name in ("initializer_range", "rope_parameters", "model_type"):
        vision.pop(name, None)
    config |= {name: text[name] for name in _CONFIG_NAMES_FOR_TEXT}
    config |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "torch_dtype": config.pop("dtype"),
        "use_sliding_window": False,
        "vision_config": vision,
    }
    _write_json(folder / "config.json", config)
    processors = _read_json(folder / "processor_config.json")
    (folder / "processor_config.json").unlink()
    image = processors["image_processor"]
    size = image.pop("size")
    image |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    image["processor_class"] = processors["processor_class"]
    _write_json(folder / "preprocessor_config.json", image)
    tokenizer = _read_json(folder / "tokenizer_config.json")
    tokenizer.pop("backend")
    tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokenizer["chat_template"] = (folder / "chat_template.jinja").read_text()
    _write_json(folder / "tokenizer_config.json", tokenizer)


_SCORES = ("singles", "pairs", "text")


def _card(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    held_out = "\n".join(
        f"- {name}: {right} of {asked}" for name, (right, asked) in facts["held_out"].items()
    )
    rows = [
        f"| {dtype} | " + " | ".join("{} of {}".format(*scores[name]) for name in _SCORES) + " |\n"
        for dtype, scores in facts.get("served", {}).items()
    ]
    return _CARD_TEMPLATE.format(
        **{name: value for name, value in facts.items() if name not in ("held_out", "served")},
        repo=REPO,
        millions=facts["parameters"] / 1e6,
        colours=len(COLOURS),
        shapes=len(SHAPES),
        question=QUESTION,
        pair_question=PAIR_QUESTION,
        text_question=TEXT_QUESTION,
        context=config["max_position_embeddings"],
        heads=config["num_attention_heads"],
        dtype=config["torch_dtype"],
        wall_min=facts["wall_s"] / 60,
        cpu_min=facts["cpu_s"] / 60,
        held_out=held_out,
        served=_SERVED_HEAD + "".join(rows) if rows else "",
    )


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Add measurements from the command line."""
    parser = argparse.ArgumentParser(description="Add measurements to the model card.")
    parser.add_argument("hub", type=Path, help="folder in the layout of the Hugging Face cache")
    parser.add_argument(
        "--served",
        action="append",
        default=[],
        metavar="DTYPE=FILE",
        help="the value of --dtype, and what scripts/evaluate_tiny_vlm.py printed",
    )
    options = parser.parse_args(arguments)
    served = {}
    for text in options.served:
        dtype, _, file = text.partition("=")
        served[dtype] = _read_json(Path(file))
    print(add_measurements(options.hub, served))
    return 0


if __name__ == "__main__":
    sys.exit(main())
