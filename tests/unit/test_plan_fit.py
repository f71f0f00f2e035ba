"""What the engine's version has, and whether the model fits."""

from __future__ import annotations

import pytest

from hpcvlm.plan.model import LaunchRequest, PlanResult
from hpcvlm.site.cluster import parse_sinfo
from tests.job_fixtures import make_plan, model
from tests.plan_fixtures import (
    IMAGE,
    IN_IMAGE,
    LLAMA,
    ON_DISK,
    TINY,
    argument,
    only_issue,
    plan_in_image,
)

# ---- what the engine's version has ------------------------------------------------------------


def test_an_option_of_another_version_is_translated_and_told() -> None:
    spec = model(TINY, "disable-mm-preprocessor-cache=true")
    result = make_plan(LaunchRequest(TINY), spec=spec)
    assert argument(result.plan, "--mm-processor-cache-gb") == "0"
    assert "--disable-mm-preprocessor-cache" not in result.plan.engine_arguments
    assert any("--disable-mm-preprocessor-cache became" in note for note in result.notes)
    assert not result.issues


def test_an_option_that_the_version_lacks_is_refused_with_the_version_that_has_it() -> None:
    text = "engines: [{version: 0.10.2, image: /a.sif}]\n"
    spec = model(TINY, "mm-encoder-only=true")
    result = make_plan(
        LaunchRequest(TINY, engine_arguments=("--no-such-flag", "--max-model-len=100")),
        spec=spec,
        site_text=text,
        images_on_disk=frozenset({"/a.sif"}),
    )
    assert [(issue.code, issue.field) for issue in result.issues] == [
        ("engine-flag", "--mm-encoder-only"),
        ("engine-flag", "--no-such-flag"),
    ]
    assert result.issues[0].sentence == (
        "vLLM 0.10.2 has no --mm-encoder-only; 0.15.0 is the first that has it"
    )


def test_a_class_that_the_version_has_lost() -> None:
    spec = model(LLAMA, "engine.versions=>=0.9.1", "architecture=MllamaForConditionalGeneration")
    result = make_plan(LaunchRequest(LLAMA), spec=spec, site_text=IN_IMAGE, images_on_disk=ON_DISK)
    issue = only_issue(result)
    assert issue.sentence == (
        "vLLM 0.32.0 cannot serve MllamaForConditionalGeneration; 0.10.2 was the last that could"
    )
    assert "--engine-version 0.10.2" in issue.remedy
    assert not issue.arguable


def test_a_class_that_no_version_has_may_still_run() -> None:
    result = make_plan(LaunchRequest(TINY), spec=model(TINY, "architecture=NobodyKnowsIt"))
    issue = only_issue(result)
    assert (issue.code, issue.arguable) == ("architecture", True)


@pytest.mark.parametrize(("version", "old"), [("0.19.0", False), ("0.20.0", True)])
def test_gpus_that_the_images_have_no_code_for(version: str, old: bool) -> None:
    text = f"engines: [{{version: {version}, image: {IMAGE}}}]\n"
    asked = LaunchRequest(TINY, gpus="V100:1")
    result = make_plan(asked, site_text=text, images_on_disk=ON_DISK)
    assert [issue.code for issue in result.issues] == (["gpu-too-old"] if old else [])


# ---- does it fit ------------------------------------------------------------------------------

LARGE = (
    "weight_bytes=40000000000",
    "options.max-model-len=8192",
    "parallelism.attention_heads=32",
    "config={architectures: [Qwen2_5_VLForConditionalGeneration], model_type: qwen2_5_vl,"
    " num_hidden_layers: 40, hidden_size: 4096, intermediate_size: 11008, vocab_size: 32000,"
    " num_attention_heads: 32, num_key_value_heads: 8, torch_dtype: bfloat16,"
    " max_position_embeddings: 32768}",
)


def fit_of(gpus: str, *settings: str, site_text: str = "") -> PlanResult:
    return plan_in_image(
        LaunchRequest(TINY, gpus=gpus), site_text, spec=model(TINY, *LARGE, *settings)
    )


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    result = fit_of("A100-40:1")
    issue = only_issue(result)
    assert (issue.code, issue.field, issue.arguable) == ("memory", "--gpus", True)
    assert "does not fit on A100-40:1" in issue.sentence
    assert "2 of these GPUs" in issue.remedy
    assert not fit_of("A100-40:2").issues
    assert not fit_of("A100-80:1").issues


def test_a_name_of_two_sizes_is_refused_only_when_neither_is_enough() -> None:
    result = fit_of("A100:1")
    assert not result.issues
    assert [found.fits for found in result.memory.estimates] == [False, True]
    assert result.memory.fits is True
    sized = "gpu_types: {A100: {memory: 40G}}\n"
    assert [found.gpu.name for found in fit_of("A100:1", site_text=sized).memory.estimates] == [
        "A100-40"
    ]
    assert only_issue(fit_of("A100:1", site_text=sized)).code == "memory"


def test_a_context_that_is_too_long_is_answered_with_the_longest_that_fits() -> None:
    issue = only_issue(fit_of("A100-80:1", "options.max-model-len=10000000"))
    assert "--set max-model-len=" in issue.remedy


def test_a_smaller_variant_is_offered() -> None:
    issue = only_issue(fit_of("A100-40:1", "variants={awq: {weight_bytes: 12000000000}}"))
    assert "tiny-vlm:awq instead" in issue.remedy


def test_what_nobody_can_know_is_no_refusal() -> None:
    assert fit_of("Mystery9000:1").memory.unknown == "the type of the GPUs is not known"
    unknown = plan_in_image(LaunchRequest(TINY, gpus="A100:1"), spec=model(TINY, "config=null"))
    assert unknown.memory.fits is None
    assert "not known" in unknown.memory.unknown
    assert not unknown.issues


def test_the_gpus_of_a_partition_that_has_one_type_need_no_name() -> None:
    text = "gpu*|up|1-00:00:00|2|8|16000|gpu:H100:4\n"
    result = fit_of("1", "time=1h")
    assert result.memory.unknown
    plan = plan_in_image(
        LaunchRequest(TINY, gpus="1"), cluster=parse_sinfo(0, text, ""), spec=model(TINY, *LARGE)
    )
    assert plan.memory.estimates[0].gpu.name.startswith("H100")


def test_arguments_that_the_user_adds_count() -> None:
    asked = LaunchRequest(
        TINY, gpus="A100-40:2", engine_arguments=("--gpu-memory-utilization", "0.3")
    )
    assert only_issue(plan_in_image(asked, spec=model(TINY, *LARGE))).code == "memory"
