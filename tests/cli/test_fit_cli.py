"""hpcvlm models fit, and models ls --fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Command


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    command = Command(tmp_path, {"HOME": str(home), "HF_HOME": str(home)})
    folder = command.config / "models"
    folder.mkdir()
    (folder / "mid.yaml").write_text(
        "snapshot: {repo: me/mid}\nweight_bytes: 60000000000\n"
        "options: {max-model-len: 16384}\n"
        "config: {architectures: [LlamaForCausalLM], model_type: llama, num_hidden_layers: 48,"
        " hidden_size: 5120, intermediate_size: 13824, vocab_size: 32000,"
        " num_attention_heads: 40, num_key_value_heads: 8, torch_dtype: bfloat16,"
        " max_position_embeddings: 131072}\n"
        "variants: {awq: {weight_bytes: 17000000000}}\n"
    )
    return command


def test_it_fits_and_how_much_more_would(hpcvlm: Command) -> None:
    done = hpcvlm("models", "fit", "mid", "--gpus", "A100-80:1")
    assert done.code == 0, done.stderr
    assert "it fits" in done.stdout
    assert "192 KiB for one more" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_it_does_not_fit_and_what_would_help(hpcvlm: Command) -> None:
    done = hpcvlm("models", "fit", "mid", "--gpus", "A100-40:1", "--json")
    assert done.code == 1
    fit = done.json()
    assert fit["fits"] is False
    kinds = {advice["kind"]: advice["change"] for advice in fit["advice"]}
    assert kinds["gpus"] == "2 GPUs"
    assert kinds["variant"] == "mid:awq"
    assert hpcvlm("models", "fit", "mid", "--gpus", "A100-40:2").code == 0
    assert hpcvlm("models", "fit", "mid:awq", "--gpus", "A100-40:1").code == 0


def test_a_longer_context_needs_more(hpcvlm: Command) -> None:
    asked = ("models", "fit", "mid", "--gpus", "A100-80:1", "--json")
    short = hpcvlm(*asked).json()["estimates"][0]
    too_long = short["largest_max_model_len"] + 16
    assert hpcvlm(*asked, "--max-model-len", str(too_long)).code == 1
    assert hpcvlm(*asked, "--max-model-len", str(short["largest_max_model_len"])).code == 0


def test_without_gpus_the_fewest_of_each_usual_type(hpcvlm: Command) -> None:
    done = hpcvlm("models", "fit", "mid")
    assert done.code == 0
    rows = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()[1:]}
    assert (rows["A100-40"], rows["A100-80"], rows["H200"]) == ("2", "1", "1")


@pytest.mark.parametrize("gpus", ["4", "Mystery9000:1"])
def test_gpus_whose_memory_nobody_knows(hpcvlm: Command, gpus: str) -> None:
    done = hpcvlm("models", "fit", "mid", "--gpus", gpus)
    assert done.code == 2
    assert done.stderr.splitlines()[0].startswith(f"error: --gpus {gpus}: whose memory that is")


def test_the_site_says_what_its_names_mean(hpcvlm: Command) -> None:
    hpcvlm.site("gpu_types: {big: {hardware: NVIDIA A100-SXM4-80GB, memory: 80G}}\n")
    assert hpcvlm("models", "fit", "mid", "--gpus", "big:1").code == 0


def test_only_those_that_fit_are_listed(hpcvlm: Command) -> None:
    def names(gpus: str) -> set[str]:
        done = hpcvlm("models", "ls", "--fits", gpus, "--variants")
        return {line.split()[0] for line in done.stdout.splitlines()[1:]}

    assert "mid" not in names("A100-40:1")
    assert "mid:awq" in names("A100-40:1")
    assert "mid" in names("A100-40:2")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("mid", "--gpus", "A100:0"), 2, "--gpus A100:0 asks for no GPU"),
        (("mid", "--gpus", "A100-80:1", "--engine-version", "soon"), 2, "'soon' is no version"),
        (("mid", "--gpus", "A100-80:1", "--engine-version", "0.5.0"), 2, "vLLM 0.5.0 is older"),
        (("vila", "--gpus", "A100-80:1"), 4, "vila cannot be served: "),
    ],
)
def test_questions_without_an_answer(
    hpcvlm: Command, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = hpcvlm("models", "fit", *arguments)
    assert done.code == code
    assert done.stderr.startswith(f"error: {sentence}")
