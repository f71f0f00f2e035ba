"""Which release of vLLM serves which model architecture."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet

from hpcvlm.engines.vllm_architectures import architecture, supports, why_not, window
from hpcvlm.engines.vllm_versions import known_versions, table

NEWEST = known_versions()[-1]

# Read in vllm/model_executor/models/registry.py of the releases on both sides of each change.
WINDOWS = {
    "AyaVisionForConditionalGeneration": ">=0.9.1,<=0.24.0",
    "ChameleonForConditionalGeneration": ">=0.9.1,<=0.28.0",
    "Cohere2VisionForConditionalGeneration": ">=0.10.1",
    "DeepseekOCRForCausalLM": ">=0.11.1",
    "DonutForConditionalGeneration": ">=0.10.2,<=0.10.2",
    "Florence2ForConditionalGeneration": ">=0.9.1,<=0.10.2",
    "FuyuForCausalLM": ">=0.9.1,<=0.25.1",
    "Gemma3ForConditionalGeneration": ">=0.9.1",
    "Gemma4ForConditionalGeneration": ">=0.19.0",
    "Glm4vForConditionalGeneration": ">=0.9.2",
    "InternVLChatModel": ">=0.9.1",
    "LlavaForConditionalGeneration": ">=0.9.1",
    "MantisForConditionalGeneration": ">=0.9.1,<=0.24.0",
    "MiniMaxVL01ForConditionalGeneration": ">=0.9.1,<=0.23.0",
    "MllamaForConditionalGeneration": ">=0.9.1,<=0.10.2",
    "Qwen2_5_VLForConditionalGeneration": ">=0.9.1",
    "Qwen3VLForConditionalGeneration": ">=0.11.0",
    "Qwen3_5ForConditionalGeneration": ">=0.17.0",
    "QwenVLForConditionalGeneration": ">=0.9.1,<=0.23.0",
    "SmolVLMForConditionalGeneration": ">=0.9.1",
}


@pytest.mark.parametrize("name", WINDOWS)
def test_the_releases_that_serve_an_architecture(name: str) -> None:
    assert window(name) == WINDOWS[name]
    specifier = SpecifierSet(window(name))
    served = {version for version in known_versions() if supports(name, version)}
    assert served == set(specifier.filter(known_versions()))
    found = architecture(name)
    assert found is not None
    assert found.multimodal


def test_llama_3_2_vision_ends_with_0_10_2_and_ran_on_v0_only() -> None:
    name = "MllamaForConditionalGeneration"
    assert why_not(name, "0.9.1") is None
    assert why_not(name, "0.10.2") is None
    assert why_not(name, "0.33.0") == (
        "vLLM 0.33.0 cannot serve MllamaForConditionalGeneration; 0.10.2 was the last that could"
    )
    found = architecture(name)
    assert found is not None
    assert (found.first, found.last, found.v0_only) == ("0.9.1", "0.10.2", ("0.9.1", "0.10.2"))
    assert found.runs_on_v0("0.10.2")


def test_an_architecture_that_came_later() -> None:
    assert why_not("Qwen3VLForConditionalGeneration", "0.10.2") == (
        "vLLM 0.10.2 cannot serve Qwen3VLForConditionalGeneration; 0.11.0 is the first that can"
    )
    found = architecture("Qwen3VLForConditionalGeneration")
    assert found is not None
    assert (found.last, found.v0_only, found.category(NEWEST)) == (None, None, "multimodal")


def test_an_architecture_that_a_plugin_serves() -> None:
    sentence = why_not("Florence2ForConditionalGeneration", "0.20.0") or ""
    assert "0.10.2 was the last that could by itself" in sentence
    assert "https://github.com/vllm-project/bart-plugin" in sentence


def test_a_name_that_no_release_has() -> None:
    assert architecture("NoSuchForCausalLM") is None
    assert window("NoSuchForCausalLM") == ""
    assert not supports("NoSuchForCausalLM", NEWEST)
    sentence = why_not("Qwen3VLForConditionalGenerations", NEWEST) or ""
    assert sentence.endswith("did you mean Qwen3VLForConditionalGeneration?")


def test_one_that_moved_to_the_transformers_backend() -> None:
    found = architecture("HunYuanVLForConditionalGeneration")
    assert found is not None
    assert found.category("0.28.0") == "multimodal"
    assert found.category("0.29.0") == "transformers_supported"
    assert found.multimodal
    assert found.last is None


def test_text_models_are_known_too() -> None:
    found = architecture("LlamaForCausalLM")
    assert found is not None
    assert not found.multimodal
    assert found.v0_only is None
    assert found.category("0.9.1") == "text_generation"


def test_the_number_of_multimodal_architectures() -> None:
    """43 and 127 entries of _MULTIMODAL_MODELS, counted in the source."""
    names = table("architectures")["architectures"]
    for version, expected in (("0.9.1", 43), (NEWEST, 127)):
        served = [
            name
            for name in names
            if supports(name, version)
            and (found := architecture(name))
            and found.category(version) == "multimodal"
        ]
        assert len(served) == expected


def test_what_vllm_says_itself_is_never_later_than_the_registry() -> None:
    """_PREVIOUSLY_SUPPORTED_MODELS may advise an earlier release than the last that registers."""
    order = {version: place for place, version in enumerate(known_versions())}
    for name in table("architectures")["told"]:
        found = architecture(name)
        if found is None or found.last is None:
            continue
        assert order[found.advised_last] <= order[found.last], name
