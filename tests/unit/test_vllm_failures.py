"""What is said about a failed start, and that nothing is said about a healthy one."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcvlm.engines.vllm_failures import SIGNATURES, Signature, diagnose
from hpcvlm.engines.vllm_log import shard_progress, telling_lines

LOGS = Path(__file__).parents[1] / "data" / "logs"
FAILURES = sorted(path.stem for path in (LOGS / "failures").glob("*.stdout"))
HEALTHY = sorted(path.stem for path in (LOGS / "healthy").glob("*.stdout"))
QUOTED: list[dict[str, Any]] = yaml.safe_load((LOGS / "quoted.yaml").read_text(encoding="utf-8"))

# log -> (id, part of the cause, part of the remedy)
EXPECTED = {
    "bad-choice": ("argument-invalid", "--dtype: invalid choice: 'float99'", "--set"),
    "chat-template-missing": ("chat-template-missing", "/no/such/template.jinja", "chat-template="),
    "config-file-missing": ("file-missing", "/no/such/config.yaml", ""),
    "config-json-bad": ("config-broken", "config.json is not valid JSON", "--repair"),
    "config-json-missing": ("config-missing", "config-json-missing", "hpcvlm snapshots pull"),
    "gated-repo-401": (
        "gated",
        "some-org/noauth-model",
        "hpcvlm snapshots pull some-org/noauth-model",
    ),
    "gated-repo-403": ("gated", "some-org/gated-model", "hf auth login"),
    "hub-unreachable": ("hub-unreachable", "http://127.0.0.1:9", "hpcvlm snapshots pull"),
    "kv-cache-over-ram": ("kv-cache-over-memory", "100.0 GiB", "--set kv-cache-memory-bytes="),
    "limit-mm-bad-json": ("argument-not-json", "--limit-mm-per-prompt takes JSON, and got", "JSON"),
    "lora-missing": ("lora-missing", "no LoRA adapter ad at /no/such/lora", "lora-modules"),
    "max-len-over-config": (
        "context-too-long",
        "the model takes 2048 tokens at most, and max-model-len asks for 100000",
        "--set max-model-len=2048",
    ),
    "max-len-over-kv-cache": (
        "kv-cache-too-small",
        "holds 896 tokens, and the model's context is 2048",
        "--set max-model-len=896",
    ),
    "media-domains-bad": ("argument-invalid", "--allowed-media-domains: expected", "--set"),
    "misspelt-argument": ("argument-unknown", "--max-modle-len 1024", "--engine-arg"),
    "needs-remote-code": ("remote-code", "its own Python code", "--set trust-remote-code=true"),
    "no-torchvision": ("module-missing", "torchvision", "engines"),
    "not-a-number": ("argument-invalid", "--port: invalid int value: 'abc'", "--set"),
    "path-missing": ("model-folder-missing", "/no/such/model", "binds"),
    "port-in-use": ("port-taken", "port", "launch again"),
    "pp-4": ("numa-nodes", "4 workers", "--gpus"),
    "preprocessor-missing": ("processor-missing", "preprocessor-missing", "hpcvlm snapshots pull"),
    "quantization-awq": ("quantization-mismatch", "awq", "quantization"),
    "revision-missing": ("snapshot-missing", "revision", "hpcvlm snapshots pull"),
    "ssl-key-missing": ("file-missing", "does not say which", "ssl-keyfile"),
    "tools-without-parser": ("tool-parser-missing", "parser", "--set tool-call-parser="),
    "tp-2": ("numa-nodes", "2 workers", "--gpus"),
    "tp-4": ("parallel-size", "2 attention heads cannot be shared out to 4", "divides 2: --gpus"),
    "unknown-architecture": ("architecture-unknown", "NopeForConditionalGeneration", "engine"),
    "unknown-argument": ("argument-unknown", "--no-such-flag", "hpcvlm render"),
    "unknown-model-type": ("transformers-too-old", "model type nope", "newer engine"),
    "unknown-quantization": ("quantization-unknown", "quantization nope", "leave"),
    "unknown-repo-offline": ("snapshot-missing", "hub cache", "hub_caches"),
    "unknown-repo-online": ("repository-unknown", "no-such-org/no-such-model", "hf auth login"),
    "unknown-tool-parser": ("tool-parser-unknown", "tool call parser nope", "engine"),
    "weights-missing": ("weights-missing", "weights-missing", "hpcvlm snapshots pull"),
    "weights-truncated": ("weights-broken", "cut short", "snapshots verify"),
}

TELLING: dict[str, list[str]] = yaml.safe_load((LOGS / "telling.yaml").read_text(encoding="utf-8"))


def streams(kind: str, name: str) -> tuple[str, str]:
    folder = LOGS / kind
    return (
        (folder / f"{name}.stdout").read_text(encoding="utf-8"),
        (folder / f"{name}.stderr").read_text(encoding="utf-8"),
    )


def test_every_failure_has_an_expectation() -> None:
    assert sorted(EXPECTED) == FAILURES


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_explained(name: str) -> None:
    found = diagnose(*streams("failures", name))
    identifier, cause, remedy = EXPECTED[name]
    assert found.id == identifier
    assert cause in found.cause
    assert remedy in found.remedy
    assert found.remedy
    assert 1 <= len(found.evidence) <= 3
    for line in (found.cause, found.remedy, *found.evidence):
        assert "\n" not in line
        assert "Traceback" not in line
        assert len(line) <= 400


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_log_matches_no_signature(name: str) -> None:
    assert diagnose(*streams("healthy", name)).id == "unknown"


@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"{case['id']} {case['source']}")
def test_quoted_line_is_explained(case: dict[str, Any]) -> None:
    found = diagnose(case.get("stdout", ""), case.get("stderr", ""))
    assert found.id == case["id"]
    assert case.get("cause", "") in found.cause
    assert case.get("remedy", "") in found.remedy
    assert found.evidence


@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"{case['id']} {case['source']}")
def test_quoted_line_wins_over_a_healthy_log(case: dict[str, Any]) -> None:
    out, err = streams("healthy", "serve-final")
    found = diagnose(out + case.get("stdout", ""), err + case.get("stderr", ""))
    assert found.id == case["id"]


@pytest.mark.parametrize("name", FAILURES)
def test_telling_lines_are_clean(name: str) -> None:
    lines = telling_lines(*streams("failures", name))
    assert 1 <= len(lines) <= 6
    assert len(set(lines)) == len(lines)
    for line in lines:
        assert line == line.strip()
        assert len(line) <= 400
        for noise in ('File "', "^^^", "Traceback", "resource_tracker", "pid=", "input_value"):
            assert noise not in line
        assert "Engine core initialization failed" not in line
        assert "WorkerProc initialization failed" not in line


@pytest.mark.parametrize("name", sorted(TELLING))
def test_telling_lines_of(name: str) -> None:
    assert telling_lines(*streams("failures", name)) == TELLING[name]


def test_most_telling_lines() -> None:
    stderr = "".join(f"ValueError: number {n}\n" for n in range(9))
    assert telling_lines("", stderr, most=2) == ["ValueError: number 0", "ValueError: number 1"]


def test_long_line_is_cut() -> None:
    (line,) = telling_lines("", "ValueError: " + "x" * 1000)
    assert len(line) == 400
    assert line.endswith("x…")


def test_consequence_is_told_when_there_is_nothing_else() -> None:
    line = "RuntimeError: Engine core initialization failed. See root cause above."
    assert telling_lines("", line) == [line]


def test_last_lines_when_nothing_looks_like_an_error() -> None:
    stdout = "(APIServer pid=1) INFO 11-21 04:26:10 [model.py:733] Resolved architecture: X\n\n"
    stderr = "Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]\rhello\n"
    assert telling_lines(stdout, stderr) == ["Resolved architecture: X", "hello"]
    assert telling_lines("", "one\ntwo\nthree\n", most=2) == ["two", "three"]
    assert telling_lines("", "") == []


def test_processes_that_write_at_the_same_time_are_read_apart() -> None:
    stdout = (
        "(APIServer pid=6) ERROR 01-01 00:00:00 [b.py:1] only a record\n"
        "(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1] Traceback (most recent call last):\n"
        "(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1] Traceback (most recent call last):\n"
        '(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1]   File "a.py", line 1, in f\n'
        '(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1]   File "a.py", line 1, in f\n'
        "(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1] pkg.OddlyNamed: no memory here\n"
        "(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1] pkg.OddlyNamed: no memory there\n"
    )
    assert telling_lines(stdout, "") == [
        "pkg.OddlyNamed: no memory here",
        "pkg.OddlyNamed: no memory there",
        "only a record",
    ]


def test_the_outermost_of_chained_exceptions_comes_first() -> None:
    stderr = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        "KeyError: 'inner'\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n'
        "ValueError: worded for a reader\n"
    )
    assert telling_lines("", stderr) == ["ValueError: worded for a reader", "KeyError: 'inner'"]


def test_control_characters_do_not_reach_the_reader() -> None:
    assert telling_lines("", "\x1b[31mValueError: red\x1b[0m\x07\n") == ["ValueError: red"]


def test_braces_and_newlines_of_a_log_do_no_harm() -> None:
    found = diagnose("", "vllm: error: unrecognized arguments: --a={x} --b {0}\n")
    assert found.cause == "this version of vLLM does not know --a={x} --b {0}"


def test_unknown_cause_gives_the_telling_lines() -> None:
    found = diagnose("", "Traceback (most recent call last):\nWeirdError: never seen\n")
    assert found.id == "unknown"
    assert found.cause == "the cause is unknown; the engine's last telling lines follow"
    assert found.remedy == ""
    assert found.evidence == ("WeirdError: never seen",)


def test_the_scheduler_wins_over_what_follows_from_it() -> None:
    found = diagnose(
        "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] EngineCore failed to start.\n",
        "torch.OutOfMemoryError: CUDA out of memory.\n"
        "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.\n",
    )
    assert found.id == "out-of-memory"


def test_vllm_warnings_are_no_cause() -> None:
    warning = "WARNING 11-21 04:05:32 [x.py:2] like `OSError: [Errno 98] Address already in use`\n"
    assert diagnose("(APIServer pid=1) " + warning, warning).id == "unknown"


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda each: each.pattern.pattern[:40])
def test_signature_is_well_formed(signature: Signature) -> None:
    for sentence in (signature.cause, signature.remedy):
        fields = {field for _, field, _, _ in string.Formatter().parse(sentence) if field}
        assert fields <= set(signature.pattern.groupindex)
        assert sentence
        assert "\n" not in sentence
        assert not sentence.endswith(".")
    assert not signature.pattern.search("")


def test_every_signature_is_seen_at_work() -> None:
    logs = [streams("failures", name) for name in FAILURES]
    logs += [(case.get("stdout", ""), case.get("stderr", "")) for case in QUOTED]
    at_work = set()
    for stdout, stderr in logs:
        cause = diagnose(stdout, stderr).cause
        at_work |= {each for each in SIGNATURES if _could_say(each, cause)}
    assert [each.pattern.pattern for each in SIGNATURES if each not in at_work] == []


def _could_say(signature: Signature, cause: str) -> bool:
    parts = [literal for literal, _, _, _ in string.Formatter().parse(signature.cause)]
    return all(part.rstrip(" :") in cause for part in parts)


def test_shard_progress() -> None:
    log = "\rLoading safetensors checkpoint shards:  40% Completed | 2/5 [00:01<00:02,  1.5it/s]\r"
    assert shard_progress(log) == (2, 5)
    assert shard_progress("Starting to load model") is None
    assert shard_progress(streams("healthy", "serve-main")[1]) == (1, 1)
