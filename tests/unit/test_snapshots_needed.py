"""Which files are pulled: lists as they stand on the hub, shortened."""

from __future__ import annotations

import pytest

from hpcvlm.snapshots.model import ListedFile
from hpcvlm.snapshots.pull.needed_files import needed_files

COMMON = ("config.json", "tokenizer.json", "README.md", "LICENSE", "chat_template.jinja")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def left_out(*paths: str, load_format: str = "auto", size: int = 1) -> set[str]:
    listing = [ListedFile(path, size, "0" * 40) for path in (*COMMON, *paths)]
    needed, out = needed_files(listing, load_format=load_format)
    assert sorted([*needed, *out]) == sorted(listing)
    assert [*needed] == sorted(needed)
    assert {file.path for file in needed} >= set(COMMON)
    return {file.path for file in out}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # meta-llama/Llama-3.2-11B-Vision-Instruct
        (
            (*SHARDS, INDEX, "original/consolidated.pth", "original/params.json"),
            {"original/consolidated.pth", "original/params.json"},
        ),
        # llava-hf with both formats
        (
            (*SHARDS, INDEX, "pytorch_model-00001-of-00003.bin", "pytorch_model.bin.index.json"),
            {"pytorch_model-00001-of-00003.bin", "pytorch_model.bin.index.json"},
        ),
        # only the older format
        (("pytorch_model.bin", "vision.py"), set()),
        # only GGUF, in several quantizations: which one is asked for is not known here
        (("model-Q4_K_M.gguf", "mmproj.gguf"), set()),
        (
            (*SHARDS, "tf_model.h5", "flax_model.msgpack", "model.gguf", "model.onnx"),
            {"tf_model.h5", "flax_model.msgpack", "model.gguf", "model.onnx"},
        ),
        (
            (*SHARDS, "onnx/decoder.onnx", "openvino/openvino_model.xml", "training_args.bin"),
            {"onnx/decoder.onnx", "openvino/openvino_model.xml", "training_args.bin"},
        ),
        # openbmb/MiniCPM-o: its own code reads these
        ((*SHARDS, "assets/Vocos.pt", "modeling.py", "sub/preprocessor_config.json"), set()),
        ((*SHARDS, "global_step10/mp_rank_00.pt"), {"global_step10/mp_rank_00.pt"}),
        ((*SHARDS, "checkpoint-500/optimizer.pt"), {"checkpoint-500/optimizer.pt"}),
        # a file that only looks like a folder
        ((*SHARDS, "original"), set()),
        # no weights at all
        (("original/a.pth",), set()),
    ],
)
def test_a_second_copy_of_the_weights_stays_where_it_is(
    files: tuple[str, ...], expected: set[str]
) -> None:
    assert left_out(*files) == expected


OWN = ("consolidated.safetensors", "params.json", "tekken.json")


@pytest.mark.parametrize(
    ("load_format", "expected"),
    [
        # 0.9.1 takes the usual ones, 0.33 its own: Mistral-Small-3.2 has no image processor for the
        # usual ones.
        ("auto", set()),
        ("mistral", {*SHARDS, INDEX}),
        ("safetensors", {"consolidated.safetensors"}),
        ("runai_streamer", {"consolidated.safetensors"}),
    ],
)
def test_mistrals_own_format_beside_the_usual_one(load_format: str, expected: set[str]) -> None:
    assert left_out(*SHARDS, INDEX, *OWN, load_format=load_format) == expected


@pytest.mark.parametrize("load_format", ["auto", "mistral", "hf"])
def test_mistrals_own_format_alone(load_format: str) -> None:
    own = (*OWN, "consolidated-00001-of-00002.safetensors", "consolidated.safetensors.index.json")
    assert left_out(*own, load_format=load_format) == set()


def test_asking_for_mistrals_format_where_there_is_none() -> None:
    assert left_out(*SHARDS, INDEX, load_format="mistral") == set()


def test_a_format_that_is_asked_for_is_not_left_out() -> None:
    both = (*SHARDS, "model-Q4_K_M.gguf", "pytorch_model.bin", "pytorch_model.bin.index.json")
    assert left_out(*both, load_format="gguf") == {*both[-2:]}
    assert left_out(*both, load_format="npcache") == {"model-Q4_K_M.gguf"}


def test_a_small_part_in_pytorchs_format_is_no_second_copy() -> None:
    # Qwen/Qwen2.5-Omni-7B
    assert left_out(*SHARDS, "spk_dict.pt", size=250_000) == set()
    assert left_out(*SHARDS, "weights.pt", size=1 << 30) == {"weights.pt"}
