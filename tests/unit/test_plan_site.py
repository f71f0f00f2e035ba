"""What a site says, in the plan."""

from __future__ import annotations

import pytest

from hpcvlm.plan.model import LaunchRequest, PlanResult
from tests.job_fixtures import make_plan, model
from tests.plan_fixtures import (
    TINY,
    argument,
    only_issue,
    option,
    plan_in_image,
)

# ---- what a site calls its GPUs ---------------------------------------------------------------

GPU_SITE = """
gpu_types:
  A100: {slurm_name: nvidia_a100_80gb, aliases: [a100-80]}
  H100: {request: gres}
  L40S: {request: constraint, constraint: l40s}
  A40: {request: constraint}
"""


@pytest.mark.parametrize(
    ("gpus", "option_name", "value", "constraint"),
    [
        ("A100:2", "gpus-per-node", "nvidia_a100_80gb:2", None),
        ("a100-80:2", "gpus-per-node", "nvidia_a100_80gb:2", None),
        ("NVIDIA_A100_80GB:2", "gpus-per-node", "nvidia_a100_80gb:2", None),
        ("h100:4", "gres", "gpu:H100:4", None),
        ("L40S:1", "gpus-per-node", "1", "l40s"),
        ("A40:1", "gpus-per-node", "1", "A40"),
        ("T4:1", "gpus-per-node", "T4:1", None),
        ("2", "gpus-per-node", "2", None),
    ],
)
def test_gpus_are_asked_for_as_the_site_wants_it(
    gpus: str, option_name: str, value: str, constraint: str | None
) -> None:
    plan = plan_in_image(LaunchRequest(TINY, gpus=gpus), GPU_SITE).plan
    assert option(plan, option_name) == value
    assert option(plan, "constraint") == constraint


def test_a_feature_that_picks_the_gpu_joins_those_that_were_asked_for() -> None:
    asked = LaunchRequest(TINY, gpus="L40S:1", constraint="ib|roce")
    assert option(plan_in_image(asked, GPU_SITE).plan, "constraint") == "(ib|roce)&l40s"


def test_a_partition_s_own_account_qos_and_shares() -> None:
    text = (
        "partition: big\naccount: all\nqos: normal\ncpus_per_gpu: 4\n"
        "partitions: {big: {account: few, cpus_per_gpu: 16, time_limit: 1h}}\n"
    )
    known = {"site.partitions.big": "site"}
    result = plan_in_image(LaunchRequest(TINY, gpus="2"), text, sources=known)
    wanted = {"account": "few", "qos": "normal", "cpus-per-task": "32", "partition": "big"}
    assert {name: option(result.plan, name) for name in wanted} == wanted
    assert result.plan.sources["account"] == "site file: partitions.big.account"
    issue = only_issue(plan_in_image(LaunchRequest(TINY, time="2h"), text))
    assert (issue.code, issue.field) == ("time-limit", "--time")


def test_what_every_job_must_say() -> None:
    text = "name: Alpha\nrequired: [account, time]\n"
    issues = plan_in_image(LaunchRequest(TINY), text).issues
    assert [(i.code, i.field) for i in issues] == [
        ("option-required", "--account"),
        ("option-required", "--time"),
    ]
    assert issues[0].sentence == "every job at Alpha must name its account"
    assert not plan_in_image(LaunchRequest(TINY, account="a", time="1h"), text).issues


def test_only_the_site_s_folders_of_images_may_be_named() -> None:
    text = "media_roots: [/data/images, /scratch/]\n"
    for allowed in ("/data/images", "/data/images/mine", "/scratch/x"):
        assert not plan_in_image(LaunchRequest(TINY, media_root=allowed), text).issues
    for refused in ("/data", "/data/images2", "/home/me"):
        issue = only_issue(plan_in_image(LaunchRequest(TINY, media_root=refused), text))
        assert issue.code == "media-root-refused"


def test_proxies_and_mails() -> None:
    text = (
        "proxy: {http: 'http://proxy:3128', no_proxy: [.local]}\n"
        "notify: {mail_type: [END, FAIL], mail_user: me@example.org}\n"
    )
    plan = plan_in_image(LaunchRequest(TINY), text).plan
    values = dict(plan.environment)
    assert values["http_proxy"] == values["HTTP_PROXY"] == "http://proxy:3128"
    assert values["no_proxy"] == "localhost,127.0.0.1,.local"
    assert "https_proxy" not in values
    assert option(plan, "mail-type") == "END,FAIL"
    assert option(plan, "mail-user") == "me@example.org"


def test_chat_and_custom_code_become_options_and_the_file_s_own_options_win() -> None:
    chat = "chat={template: /t.jinja, tools: hermes, reasoning: qwen3}"
    spec = model(TINY, chat, "custom_code=its processor", "options.reasoning-parser=glm45")
    plan = make_plan(LaunchRequest(TINY), spec=spec).plan
    assert argument(plan, "--chat-template") == "/t.jinja"
    assert argument(plan, "--tool-call-parser") == "hermes"
    assert argument(plan, "--reasoning-parser") == "glm45"
    assert "--enable-auto-tool-choice" in plan.engine_arguments
    assert "--trust-remote-code" in plan.engine_arguments


def test_a_model_that_no_engine_can_serve() -> None:
    spec = model(TINY, "unsupported={reason: vLLM has no such class, instead: [qwen2.5-vl-7b]}")
    issue = only_issue(make_plan(LaunchRequest(TINY), spec=spec))
    assert issue.code == "model-unsupported"
    assert issue.sentence == "tiny-vlm cannot be served: vLLM has no such class"
    assert issue.remedy == "hpcvlm launch qwen2.5-vl-7b"


def test_sizes_that_the_weights_can_be_cut_into() -> None:
    spec = model(TINY, "parallelism.sizes=[1, 4]")
    issue = only_issue(make_plan(LaunchRequest(TINY, gpus="2"), spec=spec))
    assert issue.sentence == "the model cannot be spread over 2 GPUs"
    assert issue.remedy == "ask for 1 or 4 GPUs per node"


def test_an_engine_version_that_was_asked_for() -> None:
    text = "engines: [{version: 0.32.0, image: /a.sif}, {version: 0.31.0, image: /b.sif}]\n"
    on_disk = frozenset({"/a.sif", "/b.sif"})

    def planned(version: str) -> PlanResult:
        asked = LaunchRequest(TINY, engine_version=version)
        return make_plan(asked, site_text=text, images_on_disk=on_disk)

    assert planned("0.31").plan.engine.image == "/b.sif"
    assert (
        only_issue(planned("0.30.0")).sentence
        == "no vllm 0.30.0 is known here; it has 0.32.0, 0.31.0"
    )
    issue = only_issue(planned("0.9.1"))
    assert issue.sentence == "tiny-vlm needs vllm >=0.10.0; 0.9.1 was asked for"


def test_every_value_of_a_plan_says_where_it_is_from() -> None:
    known = {"model.options.dtype": "shipped", "model.multimodal.limit_per_prompt.image": "user"}
    asked = LaunchRequest(TINY, gpus="1", time="1h")
    sources = plan_in_image(asked, sources=known).plan.sources
    assert sources["gpus"] == sources["time"] == "command line"
    assert sources["option dtype"] == "model file: options.dtype"
    limit = sources["option limit-mm-per-prompt"]
    assert limit == "your model file: multimodal.limit_per_prompt"
    assert sources["option tensor-parallel-size"] == "from the GPUs"
    assert sources["environment HF_HUB_OFFLINE"] == "hpcvlm"
