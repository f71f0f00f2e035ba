"""Which release of vLLM has which flag, and options made fit for a release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.engines import vllm_versions
from hpcvlm.engines.vllm import flag as written
from hpcvlm.engines.vllm_adapt import adapt, adapt_arguments
from hpcvlm.engines.vllm_flags import (
    Computed,
    Flag,
    default,
    flag,
    flags_of,
    option_strings,
    refusal,
)
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

OLDEST, NEWEST = known_versions()[0], known_versions()[-1]

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


# What is asked for, the release, what comes out.
SAME_MEANING: list[tuple[dict[str, object], str, dict[str, object]]] = [
    ({"disable-mm-preprocessor-cache": True}, "0.33.0", {"mm-processor-cache-gb": 0}),
    ({"disable-mm-preprocessor-cache": False}, "0.33.0", {}),
    ({"disable-mm-preprocessor-cache": True}, "0.12.0", {"disable-mm-preprocessor-cache": True}),
    ({"mm-processor-cache-gb": 0}, "0.10.0", {"disable-mm-preprocessor-cache": True}),
    ({"mm-processor-cache-gb": 0}, "0.10.1", {"mm-processor-cache-gb": 0}),
    (
        {"enable-multimodal-encoder-data-parallel": True},
        "0.13.0",
        {"mm-encoder-tp-mode": "data"},
    ),
    (
        {"mm-encoder-tp-mode": "data"},
        "0.10.1",
        {"enable-multimodal-encoder-data-parallel": True},
    ),
    ({"mm-encoder-tp-mode": "weights"}, "0.10.1", {}),
    ({"disable-log-requests": True}, "0.33.0", {}),
    ({"disable-log-requests": True}, "0.10.1", {}),
    ({"disable-log-requests": True}, "0.10.0", {"disable-log-requests": True}),
    ({"disable-log-requests": False}, "0.17.0", {"enable-log-requests": True}),
    ({"enable-log-requests": False}, "0.10.0", {"disable-log-requests": True}),
    ({"enable-log-requests": True}, "0.10.0", {}),
    ({"task": "generate"}, "0.13.0", {"runner": "generate"}),
    ({"runner": "generate"}, "0.10.0", {"task": "generate"}),
    (
        {"guided-decoding-backend": "xgrammar", "guided-decoding-disable-any-whitespace": True},
        "0.12.0",
        {"structured-outputs-config": {"backend": "xgrammar", "disable_any_whitespace": True}},
    ),
    (
        {"structured-outputs-config.backend": "xgrammar"},
        "0.10.2",
        {"guided-decoding-backend": "xgrammar"},
    ),
    (
        {"structured-outputs-config.backend": "guidance", "guided-decoding-backend": "xgrammar"},
        "0.20.0",
        {"structured-outputs-config": {"backend": "guidance"}},
    ),
    ({"num-redundant-experts": 2}, "0.12.0", {"eplb-config": {"num_redundant_experts": 2}}),
    ({"eplb-config.window_size": 9}, "0.10.1", {"eplb-window-size": 9}),
    ({"cuda-graph-sizes": [64]}, "0.13.0", {"max-cudagraph-capture-size": 64}),
    ({"cuda-graph-sizes": [1, 2, 4]}, "0.13.0", {"cudagraph-capture-sizes": [1, 2, 4]}),
    ({"max-cudagraph-capture-size": 64}, "0.10.2", {"cuda-graph-sizes": [64]}),
    (
        {"pooler-config": {"pooling_type": "CLS"}},
        "0.10.2",
        {"override-pooler-config": {"pooling_type": "CLS"}},
    ),
    ({"device-memory-utilization": 0.8}, "0.20.0", {"gpu-memory-utilization": 0.8}),
    ({"logging-config.pylogging_config_file": "a"}, "0.30.0", {"log-config-file": "a"}),
    ({"swap-space": 4}, "0.18.0", {}),
    ({"max-seq-len-to-capture": 8192}, "0.11.0", {}),
    ({"disable-frontend-multiprocessing": True}, "0.19.0", {}),
    ({"trust-request-mm-kwargs": True}, "0.30.0", {}),
    ({"async-scheduling": False}, "0.9.2", {}),
    ({"enable-auto-tool-choice": False}, "0.9.2", {}),
    ({"reasoning-parser": "none"}, "0.32.0", {}),
    ({"reasoning-parser": "none"}, "0.33.0", {"reasoning-parser": "none"}),
    ({"tool-call-parser": "glm4_moe"}, "0.11.0", {"tool-call-parser": "glm45"}),
    ({"attention-backend": "auto"}, "0.33.0", {}),
    ({"disable-flashinfer-autotune": True}, "0.32.0", {"enable-flashinfer-autotune": False}),
    (
        {"limit-mm-per-prompt": {"image": {"count": 2, "width": 640}, "video": 0}},
        "0.11.0",
        {"limit-mm-per-prompt": {"image": 2, "video": 0}},
    ),
    ({"limit-mm-per-prompt.image": {"width": 640}}, "0.11.0", {}),
]


@pytest.mark.parametrize(("options", "version", "expected"), SAME_MEANING)
def test_an_option_becomes_what_says_the_same(
    options: dict[str, object], version: str, expected: dict[str, object]
) -> None:
    adapted = adapt(options, version)
    assert adapted.problems == ()
    assert adapted.options == expected
    assert bool(adapted.changes) == (expected != options)


def test_what_a_release_knows_is_left_alone() -> None:
    options: dict[str, object] = {
        "max-model-len": "32k",
        "trust-remote-code": True,
        "enable-prefix-caching": False,
        "limit-mm-per-prompt": {"image": {"count": 2, "width": 640}},
        "served-model-name": ["a", "b"],
        "gpu-memory-utilization": 0.9,
        "reasoning-parser": "qwen3",
        "hf-overrides": {"architectures": ["X"]},
    }
    adapted = adapt(options, NEWEST)
    assert (adapted.options, adapted.changes, adapted.problems) == (options, (), ())


def test_dotted_options_join_their_mapping() -> None:
    # 0.9.1 and 0.10 hand a dotted value on as text: {"image": "2"} is no limit.
    options = {"limit-mm-per-prompt": '{"audio":1}', "limit-mm-per-prompt.image": 2, "a.b": 1}
    del options["a.b"]
    adapted = adapt(options, "0.9.1")
    assert adapted.options == {"limit-mm-per-prompt": {"audio": 1, "image": 2}}
    assert adapted.changes == ()


def test_a_list_for_a_json_flag_is_written_as_json() -> None:
    adapted = adapt({"allowed-origins": ["https://a", "https://b"]}, NEWEST)
    assert adapted.options == {"allowed-origins": '["https://a","https://b"]'}
    assert adapt({"middleware": ["a.B"]}, NEWEST).options == {"middleware": "a.B"}


def test_what_becomes_environment_and_what_comes_from_it() -> None:
    adapted = adapt({"attention-backend": "triton_attn", "log-level": "DEBUG"}, "0.10.2")
    assert adapted.options == {}
    assert adapted.environment == {
        "VLLM_ATTENTION_BACKEND": "TRITON_ATTN_VLLM_V1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }
    assert adapt({"mm-processor-cache-gb": 8}, "0.9.1").environment == {
        "VLLM_MM_INPUT_CACHE_GIB": "8"
    }
    backwards = adapt({}, "0.15.0", {"VLLM_ATTENTION_BACKEND": "FLASHINFER"})
    assert backwards.options == {"attention-backend": "FLASHINFER"}
    assert backwards.changes[0].unset == ("VLLM_ATTENTION_BACKEND",)
    assert adapt({}, "0.14.1", {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}).options == {}


IMPOSSIBLE: list[tuple[dict[str, object], str, str, str]] = [
    (
        {"mm-encoder-only": True},
        "0.10.2",
        "vLLM 0.10.2 has no --mm-encoder-only; 0.15.0 is the first that has it",
        "0.15.0 or newer",
    ),
    (
        {"rope-scaling": {"factor": 2}},
        "0.12.0",
        "vLLM 0.12.0 has no --rope-scaling; 0.11.0 was the last that had it",
        "hf-overrides",
    ),
    (
        {"gpu-memory-utilisation": 0.9},
        "0.33.0",
        "vLLM has no --gpu-memory-utilisation",
        "did you mean --gpu-memory-utilization?",
    ),
    (
        {"max-model-len": "auto"},
        "0.10.2",
        "vLLM 0.10.2 cannot choose --max-model-len; 0.14.0 is the first that can",
        "8192",
    ),
    ({"max-model-len": -1}, "0.13.0", "0.14.0 is the first that can", "8192"),
    (
        {"kv-cache-dtype": "nvfp4"},
        "0.9.1",
        "takes one of auto, fp8, fp8_e4m3, fp8_e5m2; it was given 'nvfp4'",
        "kv-cache-dtype",
    ),
    ({"mm-processor-cache-gb": 0.5}, "0.10.1", "takes a whole number", "mm-processor-cache-gb"),
    ({"mm-processor-cache-gb": 0.5}, "0.9.1", "0.10.1 is the first", "0.10.1"),
    ({"trust-request-mm-kwargs": False}, "0.30.0", "0.31.0 is the first", "0.31.0"),
    ({"tool-call-parser": "gemma4"}, "0.11.0", "is the first that has it", "take one of"),
    ({"tool-call-parser": "no-such"}, "0.33.0", "has no --tool-call-parser no-such", "hermes"),
    ({"attention-backend": "XFORMERS"}, "0.20.0", "no attention backend XFORMERS", "FLASH_ATTN"),
    ({"attention-backend": "TREE_ATTN"}, "0.9.1", "no attention backend TREE_ATTN", "FLASH_ATTN"),
    ({"port": True}, "0.33.0", "takes a value, not true or false", "port"),
    ({"enforce-eager": "yes"}, "0.33.0", "takes no value: give true or false", "enforce-eager"),
    ({"port": {"a": 1}}, "0.33.0", "takes no mapping", "port"),
    ({"port.a": 1}, "0.33.0", "takes no mapping", "port"),
    ({"middleware": ["a", "b"]}, "0.33.0", "takes one value each time", "--middleware"),
    ({"guided-decoding-disable-fallback": True}, "0.18.0", "0.11.2 was the last", "0.11.2"),
    ({"task": "embed"}, "0.13.0", "0.12.0 was the last that had it", "0.12.0"),
]


@pytest.mark.parametrize(("options", "version", "sentence", "remedy"), IMPOSSIBLE)
def test_what_a_release_cannot_do_is_a_problem(
    options: dict[str, object], version: str, sentence: str, remedy: str
) -> None:
    problems = adapt(options, version).problems
    assert len(problems) == 1
    assert sentence in problems[0].sentence
    assert remedy in problems[0].remedy
    assert problems[0].flag == next(iter(options)).partition(".")[0]


def test_all_problems_are_told_at_once() -> None:
    adapted = adapt({"mm-encoder-only": True, "port": 1, "nosuch": 2}, "0.10.2")
    assert [problem.flag for problem in adapted.problems] == ["mm-encoder-only", "nosuch"]


def test_a_key_is_in_no_message() -> None:
    adapted = adapt({"api-key": ["hv-secret-1", "hv-secret-2"]}, "0.9.1")
    assert adapted.problems
    assert "hv-secret" not in repr((adapted.changes, adapted.problems))


def test_a_plugin_may_bring_any_parser() -> None:
    options: dict[str, object] = {"tool-call-parser": "mine", "tool-parser-plugin": "/x/mine.py"}
    assert adapt(options, NEWEST).options == options


def test_a_newer_version_may_know_more() -> None:
    adapted = adapt({"brand-new": 1, "kv-cache-dtype": "fp2", "tool-call-parser": "x"}, "9.0.0")
    assert adapted.problems == ()
    assert adapted.options == {"brand-new": 1, "kv-cache-dtype": "fp2", "tool-call-parser": "x"}
    sentences = [change.sentence for change in adapted.changes]
    assert sentences[0] == f"vLLM 9.0.0 is not in the table, taken as {NEWEST}"
    assert "--brand-new" in sentences[1]
    assert [p.flag for p in adapt({"swap-space": 1, "task": "embed"}, "9.0.0").problems] == ["task"]
    assert adapt_arguments(["--brand-new", "--task=embed"], "9.0.0")[0].flag == "task"


def _plausible(found: Flag, version: str) -> list[object]:
    """Values that the flag takes in that release, one of each sort."""
    kind = found.kind(version)
    if found.choices(version):
        return [found.choices(version)[0]]
    values: dict[str, list[object]] = {
        "boolean": [True, False],
        "switch": [True, False],
        "optional": [True, "a"],
        "json": [{"a": 1}],
        "text-or-json": ["a", {"a": 1}],
        "int": [0, 1, "2"],
        "int-with-suffix": [1, "4k"],
        "int-or-auto": [1, "4k", "auto"],
        "float": [0.5, 1],
        "list": [["1", "2"], "1"],
        "append": ["a"],
        "text": ["generate", "FLASH_ATTN", "hermes", "none", "auto", "data", "a"],
    }
    return values[kind]


def _everything() -> Iterator[tuple[str, object]]:
    names = {name for version in known_versions() for name in flags_of(version)}
    for name in sorted(names):
        found = flag(name)
        assert found is not None
        for value in _plausible(found, found.last or NEWEST):
            yield name, value


@pytest.mark.parametrize("version", known_versions())
def test_whatever_comes_out_is_something_that_the_release_takes(version: str) -> None:
    """Every flag of every release, asked of this one: kept, translated, dropped, or a problem."""
    there = set(flags_of(version))
    for name, value in _everything():
        adapted = adapt({name: value}, version)
        assert set(adapted.options) <= there, (name, value)
        for given, result in adapted.options.items():
            found = flag(given)
            assert found is not None
            assert refusal(found, result, version) == "", (name, value, given, result)
        if name not in there:
            assert adapted.changes or adapted.problems, (name, value)
        for variable in adapted.environment:
            assert reads_environment(variable, version), (name, value)
        arguments = [part for item in adapted.options.items() for part in written(*item)]
        assert adapt_arguments(arguments, version) == (), (name, value)


def test_raw_arguments_are_read_as_vllm_reads_them() -> None:
    fine = [
        *("--max_model_len=3", "--max-num-seqs", "5", "-tp", "2", "-O3", "-1", "--no-enable-lora"),
        *(
            "--limit-mm-per-prompt.image",
            "2",
            "--limit-mm-per-prompt.video=-1",
            "--tensor-par",
            "2",
        ),
        *("--api-key", "a", "-q=awq", "--help", "-h", "value", "--"),
    ]
    assert adapt_arguments(fine, "0.10.2") == ()
    wrong = ["--mm-encoder-only", "--nosuch.a", "1", "--no-port", "-n4", "--max-n", "1"]
    told = {problem.flag: problem.sentence for problem in adapt_arguments(wrong, "0.10.2")}
    assert told == {
        "mm-encoder-only": "vLLM 0.10.2 has no --mm-encoder-only; 0.15.0 is the first that has it",
        "nosuch": "vLLM has no --nosuch",
        "no-port": "vLLM 0.10.2 has --port, but no --no-port",
        "-n4": "vLLM 0.10.2 has no -n4",
        "max-n": "vLLM has no --max-n",
    }
    assert adapt_arguments(["-n4", "-cc.mode=3"], NEWEST) == ()


def test_the_inverse_of_a_pair_is_read_from_0_33_on() -> None:
    assert adapt_arguments(["--disable-prefix-caching"], "0.33.0") == ()
    problem = adapt_arguments(["--disable-prefix-caching"], "0.32.0")[0]
    assert "did you mean --enable-prefix-caching?" in problem.remedy


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
