"""Options of `vllm serve` made fit for a release: translated, left out, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcvlm.engines.vllm import flag as written
from hpcvlm.engines.vllm_adapt import adapt, adapt_arguments
from hpcvlm.engines.vllm_flags import Flag, flag, flags_of, refusal
from hpcvlm.engines.vllm_versions import known_versions, reads_environment

NEWEST = known_versions()[-1]

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
    # 0.9.1 hands a dotted value on as text: {"image": "2"} is no limit.
    options: dict[str, object] = {
        "limit-mm-per-prompt": '{"audio":1}',
        "limit-mm-per-prompt.image": 2,
    }
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
