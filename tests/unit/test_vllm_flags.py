"""Which release of vLLM has which flag, what it takes, and what else differs by release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcvlm.engines import vllm_versions
from hpcvlm.engines.vllm_adapt import adapt, adapt_arguments
from hpcvlm.engines.vllm_flags import Computed, default, flag, option_strings
from hpcvlm.engines.vllm_versions import (
    GIB,
    batch_defaults,
    constant,
    known_versions,
    reads_environment,
    reasoning_parsers,
    recipes,
    release,
    tool_parsers,
)
from hpcvlm.errors import HpcvlmError

NEWEST = known_versions()[-1]

# flag -> (first release that has it, last one; None where the newest still does).
# Each was looked up by hand in vllm/engine/arg_utils.py and entrypoints/**/cli_args.py.
LIVES = {
    "allowed-local-media-path": ("0.9.1", None),
    "allowed-media-domains": ("0.11.0", None),
    "attention-backend": ("0.13.0", None),
    "calculate-kv-scales": ("0.9.1", "0.27.1"),
    "device": ("0.9.1", "0.9.2"),
    "disable-access-log-for-endpoints": ("0.16.0", None),
    "disable-frontend-multiprocessing": ("0.9.1", "0.18.1"),
    "disable-log-requests": ("0.9.1", "0.16.0"),
    "disable-mm-preprocessor-cache": ("0.9.1", "0.12.0"),
    "enable-mm-embeds": ("0.11.1", None),
    "enable-multimodal-encoder-data-parallel": ("0.9.1", "0.12.0"),
    "enable-reasoning": ("0.9.1", "0.9.2"),
    "guided-decoding-backend": ("0.9.1", "0.11.2"),
    "interleave-mm-strings": ("0.10.0", None),
    "kv-cache-memory-bytes": ("0.10.2", None),
    "language-model-only": ("0.17.0", None),
    "limit-mm-per-prompt": ("0.9.1", None),
    "max-seq-len-to-capture": ("0.9.1", "0.10.2"),
    "media-io-kwargs": ("0.9.2", None),
    "mm-encoder-only": ("0.15.0", None),
    "mm-encoder-tp-mode": ("0.10.2", None),
    "mm-hasher-algorithm": ("0.27.0", None),
    "mm-processor-cache-gb": ("0.10.1", None),
    "mm-processor-cache-type": ("0.11.0", None),
    "mm-tensor-ipc": ("0.19.0", None),
    "nnodes": ("0.11.1", None),
    "num-scheduler-steps": ("0.9.1", "0.10.0"),
    "rope-scaling": ("0.9.1", "0.11.0"),
    "shutdown-timeout": ("0.18.0", None),
    "skip-mm-profiling": ("0.10.1", None),
    "swap-space": ("0.9.1", "0.17.1"),
    "task": ("0.9.1", "0.12.0"),
    "trust-request-mm-kwargs": ("0.31.0", None),
    "uds": ("0.10.1", None),
    "video-pruning-method": ("0.27.0", None),
}


@pytest.mark.parametrize("name", LIVES)
def test_the_first_and_the_last_release_of_a_flag(name: str) -> None:
    found = flag(name)
    assert found is not None
    assert (found.first, found.last) == LIVES[name]
    assert found.in_version(found.first)
    assert found.in_version(NEWEST) == (found.last is None)


def test_defaults_that_changed() -> None:
    assert default("gpu-memory-utilization", "0.19.1") == 0.9
    assert default("gpu-memory-utilization", "0.20.0") == 0.92
    assert default("allowed-origins", "0.31.0") == ["*"]
    assert default("allowed-origins", "0.32.0") == []
    assert default("safetensors-load-strategy", "0.18.1") == "lazy"
    assert default("safetensors-load-strategy", "0.19.0") is None
    assert default("mm-processor-cache-gb", NEWEST) == 4
    assert default("mm-processor-cache-gb", "0.9.1") is None
    assert default("log-error-stack", NEWEST) == Computed("envs.VLLM_SERVER_DEV_MODE")


def test_kinds_that_changed() -> None:
    def kind(name: str, version: str) -> str:
        found = flag(name)
        assert found is not None
        return found.kind(version)

    assert kind("enable-auto-tool-choice", "0.9.2") == "switch"
    assert kind("enable-auto-tool-choice", "0.10.0") == "boolean"
    assert kind("max-model-len", "0.13.0") == "int-with-suffix"
    assert kind("max-model-len", "0.14.0") == "int-or-auto"
    assert kind("mm-processor-cache-gb", "0.10.1") == "int"
    assert kind("mm-processor-cache-gb", "0.10.2") == "float"
    assert kind("middleware", NEWEST) == "append"
    assert kind("hf-token", NEWEST) == "optional"
    assert kind("limit-mm-per-prompt", "0.9.1") == "json"


def test_a_flag_is_found_by_any_of_its_names() -> None:
    for name in ("tensor-parallel-size", "--tensor_parallel_size", "-tp"):
        found = flag(name)
        assert found is not None
        assert found.name == "tensor-parallel-size"
    alias = flag("device-memory-utilization")
    assert alias is not None
    assert alias.name == "gpu-memory-utilization"
    assert flag("no-such-flag") is None


def test_sizes_of_a_server_by_its_gpu() -> None:
    def sizes(version: str, gib: int, name: str) -> tuple[int, int]:
        found = batch_defaults(version, gib * GIB, name)
        return found.max_num_seqs, found.max_num_batched_tokens

    assert sizes("0.9.1", 80, "NVIDIA H100 80GB HBM3") == (1024, 8192)
    assert sizes("0.9.1", 80, "NVIDIA A100-SXM4-80GB") == (256, 2048)
    assert sizes("0.9.1", 40, "NVIDIA A100-SXM4-40GB") == (256, 2048)
    assert sizes(NEWEST, 180, "NVIDIA B200") == (1024, 16384)
    assert sizes("0.9.1", 180, "NVIDIA B200") == (1024, 8192)
    assert sizes(NEWEST, 119, "NVIDIA GB10") == (256, 2048)
    assert constant("multimodal-max-num-batched-tokens", "0.10.2") == 5120
    assert constant("multimodal-max-num-batched-tokens", "0.12.0") is None
    assert constant("default-block-size", NEWEST) == 16


def test_parsers() -> None:
    assert " ".join(tool_parsers("0.9.1")) == (
        "deepseek_v3 granite granite-20b-fc hermes internlm jamba llama3_json llama4_json"
        " llama4_pythonic mistral phi4_mini_json pythonic"
    )
    assert set(reasoning_parsers("0.9.1")) == {"deepseek_r1", "granite", "qwen3"}
    assert {"glm45", "kimi_k2", "qwen3_coder", "qwen3_xml", "openai"} <= set(tool_parsers("0.11.0"))
    assert {"gemma4", "glm47", "kimi_k3", "lfm2", "muse"} <= set(tool_parsers("0.33.0"))
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in recipes()


def test_environment_variables() -> None:
    assert reads_environment("VLLM_ATTENTION_BACKEND", "0.14.1")
    assert not reads_environment("VLLM_ATTENTION_BACKEND", "0.15.0")
    assert reads_environment("VLLM_USE_V1", "0.10.2")
    assert not reads_environment("VLLM_NO_SUCH_THING", NEWEST)


@pytest.mark.parametrize(
    ("asked", "taken", "note"),
    [
        ("0.10.2", "0.10.2", ""),
        ("0.10.2+cu128", "0.10.2", ""),
        ("0.11.0rc1", "0.11.0", ""),
        ("0.10.3", "0.10.2", "vLLM 0.10.3 is not in the table, taken as 0.10.2"),
        ("0.99.0", NEWEST, f"vLLM 0.99.0 is not in the table, taken as {NEWEST}"),
    ],
)
def test_the_release_that_stands_for_a_version(asked: str, taken: str, note: str) -> None:
    assert (release(asked).version, release(asked).note) == (taken, note)


@pytest.mark.parametrize("version", ["0.8.5", "latest", ""])
def test_a_version_that_the_tables_do_not_reach(version: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        release(version)
    assert caught.value.code == "vllm-version"
    adapted = adapt({"port": 1}, version)
    assert [problem.flag for problem in adapted.problems] == [""]
    assert adapted.problems[0].remedy
    assert adapt_arguments(["--port", "1"], version) == adapted.problems


def test_every_table_has_the_same_releases_and_says_where_it_is_from() -> None:
    for name in ("flags", "architectures", "versions"):
        table = vllm_versions.table(name)
        assert tuple(table["versions"]) == known_versions()
        archives = table["provenance"]["archives"]
        assert len(archives) == len(known_versions())
        assert all(len(sha256) == 64 for sha256 in archives.values())


def test_a_boolean_is_named_both_ways() -> None:
    found = flag("trust-remote-code")
    assert found is not None
    assert option_strings(found, "0.9.1") == {"--trust-remote-code", "--no-trust-remote-code"}


def test_the_tables_are_small() -> None:
    folder = Path(vllm_versions.__file__).parent / "data"
    files = list(folder.glob("vllm_*.json"))
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) < 300_000
    assert all(json.loads(file.read_text())["provenance"]["script"] for file in files)
