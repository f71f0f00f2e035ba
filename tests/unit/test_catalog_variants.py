"""Variants: how they are named, what they change, and what is said of mistakes in them."""

from __future__ import annotations

import pytest

from hpcvlm.catalog.load import Layer, TextFolder, apply_settings, find_model, variants
from hpcvlm.errors import HpcvlmError

TEXT = """\
aliases: [big]
description: the full weights
snapshot: {repo: org/big, revision: abc}
parameters: 8000000000
weight_bytes: 16000000000
engine: {versions: '>=0.9.1', preferred: 0.10.2}
options: {max-model-len: 1000, max-num-seqs: 4}
config: {hidden_size: 64, text_config: {num_hidden_layers: 2}}
variants:
  awq:
    aliases: [big-awq]
    description: four bits
    snapshot: {repo: org/big-AWQ}
    weight_bytes: 5000000000
    precision: awq
    options: {max_num_seqs: 16, quantization: awq}
    config: {quantization_config: {bits: 4}}
  same:
    options: {max-model-len: 500}
"""


def layer(text: str = TEXT, label: str = "shipped") -> Layer:
    return Layer(label, TextFolder({"big-vlm.yaml": text}))


def error_of(name: str, *layers: Layer) -> HpcvlmError:
    with pytest.raises(HpcvlmError) as error:
        find_model(name, layers)
    return error.value


def test_without_a_variant_nothing_of_one_applies() -> None:
    found = find_model("big-vlm", [layer()])
    assert (found.name, found.variant) == ("big-vlm", None)
    assert found.spec.snapshot.repo == "org/big"
    assert found.spec.precision is None
    assert found.spec.options == {"max-model-len": 1000, "max-num-seqs": 4}


@pytest.mark.parametrize(
    "name", ["big-vlm:awq", "BIG-vlm:AWQ", "big-awq", "org/big-awq", "big:awq"]
)
def test_the_names_of_a_variant(name: str) -> None:
    found = find_model(name, [layer()])
    assert (found.name, found.variant) == ("big-vlm:awq", "awq")


def test_a_variant_is_laid_over_the_rest_of_its_file() -> None:
    found = find_model("big-vlm:awq", [layer()])
    spec = found.spec
    assert spec.name == "big-vlm"
    assert (spec.snapshot.repo, spec.snapshot.revision) == ("org/big-AWQ", "abc")
    assert (spec.weight_bytes, spec.precision) == (5_000_000_000, "awq")
    assert spec.description == "four bits"
    # What it does not say is the model's; mappings merge, whatever the spelling.
    assert spec.parameters == 8_000_000_000
    assert spec.options == {"max-model-len": 1000, "max-num-seqs": 16, "quantization": "awq"}
    assert spec.config == {
        "hidden_size": 64,
        "text_config": {"num_hidden_layers": 2},
        "quantization_config": {"bits": 4},
    }
    assert found.sources["options.max-num-seqs"] == "shipped"


def test_the_model_s_own_repository_names_the_model_and_no_variant_of_it() -> None:
    assert find_model("org/big", [layer()]).variant is None


def test_what_is_set_wins_over_the_variant() -> None:
    found = apply_settings(find_model("big-vlm:awq", [layer()]), ["max-num-seqs=2"])
    assert found.spec.options["max-num-seqs"] == 2
    assert found.name == "big-vlm:awq"


def test_a_user_s_file_changes_and_adds_variants() -> None:
    user = layer("variants: {awq: {options: {seed: 1}}, fp8: {snapshot: {repo: me/fp8}}}", "user")
    found = find_model("big-vlm:awq", [layer(), user])
    assert found.spec.options["seed"] == 1
    assert found.spec.options["max-num-seqs"] == 16
    assert found.sources["options.seed"] == "user"
    assert find_model("me/fp8", [layer(), user]).name == "big-vlm:fp8"


def test_all_variants_of_a_model() -> None:
    found = variants(find_model("big-vlm", [layer()]))
    assert [one.name for one in found] == ["big-vlm:awq", "big-vlm:same"]
    assert found[1].spec.options["max-model-len"] == 500


def test_a_variant_that_is_not_there() -> None:
    error = error_of("big-vlm:aqw", layer())
    assert error.code == "variant-unknown"
    assert error.sentence == "big-vlm has no variant 'aqw'; did you mean big-vlm:awq?"
    assert error.remedy == "one of big-vlm:awq, big-vlm:same"
    error = error_of("big-vlm:fp8", layer("snapshot: {repo: org/big}"))
    assert error.sentence == "big-vlm has no variants"
    assert error.remedy == "leave out :fp8"


def test_a_variant_of_a_model_that_is_not_there() -> None:
    assert error_of("bug-vlm:awq", layer()).code == "model-unknown"


def test_a_mistake_in_a_variant_is_told_where_it_is_written() -> None:
    wrong = TEXT.replace("precision: awq", "precison: awq")
    error = error_of("big-vlm", layer(wrong))
    assert error.code == "file-invalid"
    assert error.sentence == (
        "big-vlm.yaml:15: variants.awq.precison: unknown key; did you mean 'precision'?"
    )


def test_an_option_in_two_spellings_in_one_variant() -> None:
    wrong = TEXT.replace("{max_num_seqs: 16", "{max-num-seqs: 8, max_num_seqs: 16")
    assert error_of("big-vlm", layer(wrong)).sentence.startswith("big-vlm.yaml:16: ")


def test_an_empty_text_in_a_variant_takes_the_model_s_away() -> None:
    """As InternVL's ``hf`` weights do, which need no code of their repository."""
    text = TEXT + "custom_code: its own classes\n"
    text = text.replace("  same:\n", "  hf:\n    custom_code: ''\n  same:\n")
    assert find_model("big-vlm", [layer(text)]).spec.custom_code
    assert not find_model("big-vlm:hf", [layer(text)]).spec.custom_code
