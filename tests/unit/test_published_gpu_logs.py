"""The form of the published starts in benchmarks/, and that their numbers agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDS: list[dict[str, Any]] = yaml.safe_load(
    (BENCHMARKS / "published_gpu_logs.yaml").read_text(encoding="utf-8")
)["records"]
MODELS: dict[str, dict[str, Any]] = yaml.safe_load(
    (BENCHMARKS / "published_gpu_logs_models.yaml").read_text(encoding="utf-8")
)["models"]

FAILURES = {
    "kv-too-small",
    "no-kv-memory",
    "oom-in-profiling",
    "oom-in-loading",
    "oom-in-graph-capture",
    "unstated",
}
KEYS = {
    "id",
    "url",
    "title",
    "model",
    "checkpoint",
    "vllm",
    "engine",
    "gpu",
    "gpus",
    "tensor_parallel",
    "flags",
    "defaults",
    "observed",
    "failure",
    "note",
    "quote",
}
each_record = pytest.mark.parametrize("record", RECORDS, ids=[r["id"] for r in RECORDS])
each_model = pytest.mark.parametrize("name", sorted(MODELS))


def test_there_are_enough_and_each_has_its_own_name() -> None:
    assert len(RECORDS) >= 22
    assert len({record["id"] for record in RECORDS}) == len(RECORDS)


def test_enough_of_them_are_of_vision_models() -> None:
    assert sum(MODELS[record["model"]]["vision"] for record in RECORDS) >= 12


@each_record
def test_a_record_says_where_it_is_from_and_what_was_seen(record: dict[str, Any]) -> None:
    assert set(record) <= KEYS
    assert record["url"].startswith("https://")
    assert record["title"].strip()
    assert record["quote"].strip()
    assert record.get("observed") or record.get("failure")
    assert isinstance(record.get("flags", {}), dict)
    assert record.get("engine", "V1") in {"V0", "V1"}
    if "failure" in record:
        assert record["failure"]["kind"] in FAILURES


@each_record
def test_every_number_is_in_the_quote(record: dict[str, Any]) -> None:
    """A number that its own quotation does not show was typed wrong or comes from elsewhere."""
    quote = record["quote"].replace(",", "")
    seen = dict(record.get("observed", {}))
    seen |= {k: v for k, v in record.get("failure", {}).items() if k != "kind"}
    concurrency = seen.pop("max_concurrency", None)
    if concurrency:
        seen |= {"length": concurrency["tokens"], "value": concurrency["value"]}
    for key, number in seen.items():
        assert any(text in quote for text in (str(number), f"{number:.2f}")), key


@each_record
def test_the_model_is_known(record: dict[str, Any]) -> None:
    assert record["model"] in MODELS


@each_record
def test_tensor_parallel_is_said_once(record: dict[str, Any]) -> None:
    flag = record.get("flags", {}).get("tensor-parallel-size")
    if flag is not None and "tensor_parallel" in record:
        assert flag == record["tensor_parallel"]


@each_record
def test_tokens_and_concurrency_agree(record: dict[str, Any]) -> None:
    """Where all layers keep every token, the concurrency printed is tokens / length."""
    observed = record.get("observed", {})
    concurrency = observed.get("max_concurrency")
    hybrid = any(name in record["model"] for name in ("gemma-3", "Qwen3.6", "Qwen3.8", "Llama-4"))
    if concurrency and "kv_tokens" in observed and not hybrid:
        ratio = observed["kv_tokens"] / concurrency["tokens"]
        assert ratio == pytest.approx(concurrency["value"], abs=0.006)


@each_model
def test_a_model_says_where_its_shapes_are_from(name: str) -> None:
    model = MODELS[name]
    if "config" in model:
        assert model["config_source"].startswith("https://")
        assert model["config"]["architectures"]
    elif "shape_facts" in model:
        assert all(source.startswith("https://") for source in model["shape_source"])
    else:
        assert model["note"]
    if "class_defaults" in model:
        assert model["class_defaults"]["source"].startswith("https://")
    if "weight_bytes" in model:
        assert model["weight_source"].startswith("https://")


def test_no_model_is_left_over() -> None:
    assert set(MODELS) == {record["model"] for record in RECORDS}
