"""What hpcvlm foresees against what vLLM said on other people's GPUs.

The records (published_gpu_logs.yaml) are starts that others published. Each is foreseen from the
model's shape, the GPU and the options, with the same constants for all; and, where the log gives
the memory of the KV cache, its tokens are counted from that memory, which must come out as the log
has them.

What the memories show is less than it seems. The bytes of the weights are those that the log says
were loaded where the checkpoint's are not known, and estimate.py's constants for sampler, CUDA
and graphs come from the first of these logs: Llama 3.1 8B, Qwen 3 32B, Gemma 3. The tokens owe
nothing to them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from timing import Check, finish, options, table

from hpcvlm.memory.engine_rules import rules_of
from hpcvlm.memory.estimate import EstimateOptions, MemoryEstimate, estimate
from hpcvlm.memory.gpus import GpuSpec, find_gpu, gpu_of_bytes
from hpcvlm.memory.kv_cache import KvOptions, plan_cache
from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.shapes import GIB, ModelShape

Record = Mapping[str, Any]

WITHIN = 0.10
# The log rounds the cache's memory to 0.01 GiB, and one block more or less is decided by that.
ROUNDING = 0.005
# Of several GPUs the one with least memory decides the tokens, and the line that says how much
# there is can be another's; so fewer tokens by this much are no contradiction.
SPREAD = 0.02
# Logs that do not say their version are read by the rules before the changes of 0.12 and 0.17.
UNSTATED = "0.11.0"


@dataclass(frozen=True)
class Row:
    """One record and what became of it.

    Attributes:
        ratio: our memory for the KV cache divided by the log's.
        tokens: "equal" where the tokens of that memory come out as in the log.
        verdict: whether it fits: ours, and the log's.
        reason: why there is no number, or why it is off.
    """

    name: str
    version: str
    ours_gib: float | None = None
    said_gib: float | None = None
    tokens: str = ""
    verdict: str = ""
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs."""
        if self.ours_gib is None or not self.said_gib or self.said_gib <= 0:
            return None
        return self.ours_gib / self.said_gib


def main() -> None:
    """Compare and print."""
    arguments = options(__doc__).parse_args()
    here = Path(__file__).parent
    records = yaml.safe_load((here / "published_gpu_logs.yaml").read_text())["records"]
    models = yaml.safe_load((here / "published_gpu_logs_models.yaml").read_text())["models"]
    rows = [compare(record, models) for record in records]
    ratios = [row.ratio for row in rows if row.ratio is not None]
    near = [ratio for ratio in ratios if abs(ratio - 1) <= WITHIN]
    counted = [row for row in rows if row.tokens]
    verdicts = [row for row in rows if row.verdict]
    wrong = [row for row in verdicts if len(set(row.verdict.split("/"))) > 1]
    checks = [
        Check("tokens of a known memory that differ", _differ(counted), 0, f"of {len(counted)}"),
        Check("verdicts that are wrong", len(wrong), 0, f"of {len(verdicts)}"),
        Check("memories off by more than 10 %", len(ratios) - len(near), 0, f"of {len(ratios)}"),
    ]
    header = ("RECORD", "VLLM", "SAID GiB", "OURS GiB", "RATIO", "TOKENS", "FITS", "")
    numbers = {"rows": [{**vars(row), "ratio": row.ratio} for row in rows]}
    finish(checks, table(header, [_cells(row) for row in rows]), numbers, as_json=arguments.json)


def compare(record: Record, models: Mapping[str, Record]) -> Row:
    """Foresee one record."""
    name, version = record["id"], str(record.get("vllm", f"({UNSTATED})"))
    about = models.get(record["model"], {})
    observed = record.get("observed", {})
    said = observed.get("available_kv_gib")
    if record.get("engine") == "V0" or "# CPU blocks" in str(record.get("quote")):
        return Row(name, version, None, said, reason="V0 engine, whose arithmetic is another")
    if "config" not in about:
        return Row(name, version, None, said, reason="the model's config.json was not found")
    shape = read_model(about["config"], _weights(record, about))
    tokens = _counted(record, shape, version)
    gpu = _gpu(record)
    if gpu is None:
        return Row(name, version, None, said, tokens, reason="the GPU's memory is not said")
    if shape.weight_bytes is None:
        return Row(name, version, None, said, tokens, reason="bytes of the weights are not known")
    found = estimate(shape, gpu, _share(record), _plain(version), _options(record))
    ours = found.kv_bytes / GIB if found.kv_bytes is not None else None
    return Row(name, version, ours, said, tokens, _verdict(record, found), _reason(record, found))


def _weights(record: Record, about: Record) -> int | None:
    """Bytes of the checkpoint; without them, what the log says that loading took."""
    listed = about.get("weight_bytes")
    if isinstance(listed, dict):
        word = str(record.get("checkpoint", record["model"])).rsplit("/", 1)[-1]
        listed = next((size for key, size in listed.items() if key.endswith(word)), None)
    loaded = record.get("observed", {}).get("model_loading_gib")
    if listed is None and loaded is not None:
        listed = int(loaded * _share(record) * GIB)
    return listed


def _gpu(record: Record) -> GpuSpec | None:
    about = record.get("gpu", {})
    name = str(about.get("name", ""))
    total = about.get("total_gib")
    if total is not None:
        return gpu_of_bytes(name, int(total * GIB))
    memory = str(about.get("memory", "")).removesuffix("GB").strip()
    found = find_gpu(f"{name} {memory}GB") if memory else find_gpu(name)
    return found[0] if len(found) == 1 else None


def _share(record: Record) -> int:
    flags = record.get("flags", {})
    return int(record.get("tensor_parallel") or flags.get("tensor-parallel-size") or 1)


def _plain(version: str) -> str:
    return version.strip("()")


def _flag(record: Record, name: str) -> Any:  # noqa: ANN401 - YAML values
    flags, defaults = record.get("flags", {}), record.get("defaults", {})
    return flags.get(name, defaults.get(name))


def _options(record: Record) -> EstimateOptions:
    limits = _flag(record, "limit-mm-per-prompt") or {}
    return EstimateOptions(
        max_model_len=_flag(record, "max-model-len") or _length(record),
        max_num_seqs=_flag(record, "max-num-seqs"),
        max_num_batched_tokens=_flag(record, "max-num-batched-tokens"),
        gpu_memory_utilization=_flag(record, "gpu-memory-utilization"),
        kv_cache_dtype=_flag(record, "kv-cache-dtype") or "auto",
        enforce_eager=bool(_flag(record, "enforce-eager")),
        images=limits.get("image"),
        videos=limits.get("video"),
        processor=_flag(record, "mm-processor-kwargs") or {},
        prefix_caching=_flag(record, "enable-prefix-caching"),
    )


def _length(record: Record) -> int | None:
    """The longest context, where only the line about concurrency says it."""
    times = record.get("observed", {}).get("max_concurrency") or {}
    return times.get("tokens")


def _counted(record: Record, shape: ModelShape, version: str) -> str:
    """Whether the tokens of the log's memory are those of the log."""
    observed = record.get("observed", {})
    gib, said = observed.get("available_kv_gib"), observed.get("kv_tokens")
    length = _flag(record, "max-model-len") or _length(record) or shape.max_model_len
    if gib is None or said is None or length is None or gib <= 0:
        return ""
    if _flag(record, "speculative-config"):
        return ""
    kv_bytes = 1 if str(_flag(record, "kv-cache-dtype")).startswith("fp8") else 2
    hopper = "H100" in str(record.get("gpu", {}).get("name"))
    chosen = KvOptions(
        tensor_parallel=_share(record),
        max_num_batched_tokens=_flag(record, "max-num-batched-tokens")
        or (8192 if hopper else 2048),
        dtype_bytes=kv_bytes,
        prefix_caching=_flag(record, "enable-prefix-caching"),
    )
    plan = plan_cache(shape, rules_of(_plain(version), shape), chosen)
    if plan is None:
        return ""
    low, high = (plan.tokens(int((gib + off) * GIB), length) for off in (-ROUNDING, ROUNDING))
    if low <= said <= high:
        return "equal"
    if _share(record) > 1 and low * (1 - SPREAD) <= said < low:
        return f"{said / low - 1:+.1%}, of {_share(record)} GPUs"
    return f"{low:,} to {high:,}, said {said:,}"


def _verdict(record: Record, found: MemoryEstimate) -> str:
    if found.fits is None:
        return ""
    ours = "yes" if found.fits else "no"
    return f"{ours}/{'no' if record.get('failure') else 'yes'}"


def _reason(record: Record, found: MemoryEstimate) -> str:
    if record.get("reason"):
        return str(record["reason"])
    if _flag(record, "speculative-config"):
        return "a draft model takes memory, too"
    return "; ".join(found.reasons)


def _differ(rows: list[Row]) -> int:
    return sum("said" in row.tokens for row in rows)


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    return (
        row.name,
        row.version,
        number(row.said_gib),
        number(row.ours_gib),
        number(row.ratio),
        row.tokens,
        row.verdict,
        row.reason,
    )


if __name__ == "__main__":
    sys.exit(main())
