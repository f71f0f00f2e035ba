"""vLLM: how `vllm serve` is told what to do, and how its log names its phases.

Flags and log lines by version: vLLM's release archives 0.9.1 to 0.33.0
(vllm/engine/arg_utils.py, vllm/v1/worker/gpu_worker.py, vllm/entrypoints/openai).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hpcvlm.engines.model import ActivityMetrics, LogMarker

GUARD_MODULE = "hpcvlm_guard"
GUARD_CLASS = f"{GUARD_MODULE}.KeyGuard"

PHASES = (
    "allocated",
    "staging",
    "container",
    "engine",
    "weights",
    "compile",
    "warm-up",
    "graphs",
    "probing",
    "ready",
)

LOG_MARKERS = (
    LogMarker("Starting to load model", "weights"),
    LogMarker("Loading model from scratch", "weights"),
    LogMarker("checkpoint shards:", "weights"),
    LogMarker("for vLLM's torch.compile", "compile"),
    LogMarker("Dynamo bytecode transform time", "compile"),
    LogMarker("KV cache memory", "warm-up"),
    LogMarker("KV cache size:", "warm-up"),
    LogMarker("GiB for KV cache", "warm-up"),
    LogMarker("Capturing CUDA graph", "graphs"),
)

PORT_TAKEN = "Address already in use"

# In /metrics of every release read, 0.9.1 to 0.33.0, under the same names: vllm/engine/metrics.py
# and vllm/v1/metrics/loggers.py. Counters have the suffix that Prometheus' client adds.
_METRICS = ActivityMetrics(
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    finished="vllm:request_success_total",
    prompt_tokens="vllm:prompt_tokens_total",
    generation_tokens="vllm:generation_tokens_total",
)


def flag(name: str, value: object) -> list[str]:
    """The arguments that set one option of `vllm serve`.

    ``True`` and ``False`` become ``--name`` and ``--no-name`` (the spelling that every version
    since 0.9.1 knows), mappings become JSON, lists follow the flag one by one. Nothing is
    quoted: each element is one argument.
    """
    dashed = "--" + name.lstrip("-").replace("_", "-")
    if value is True:
        return [dashed]
    if value is False:
        return ["--no-" + dashed[2:]]
    if isinstance(value, Mapping):
        return [dashed, json.dumps(value, separators=(",", ":"), ensure_ascii=False)]
    if isinstance(value, (list, tuple)):
        return [dashed, *(str(item) for item in value)]
    text = str(value)
    return [f"{dashed}={text}"] if text.startswith("-") else [dashed, text]


def serve_arguments(
    snapshot: str, options: Mapping[str, object], extra: Sequence[str]
) -> tuple[str, ...]:
    """Everything after ``vllm``, but for host and port, which the job chooses.

    Args:
        snapshot: the folder that is served; a path, so that no hub is asked.
        options: options by their names without dashes.
        extra: arguments passed on as they are, last, so that they win.
    """
    arguments = ["serve", snapshot, *flag("middleware", GUARD_CLASS)]
    for name, value in options.items():
        arguments += flag(name, value)
    return (*arguments, *extra)


def environment(
    *, cache: str, payloads: str, key_file: str, start_timeout_s: int
) -> dict[str, str]:
    """The engine's environment: offline, silent to the outside, caches where there is space.

    Args:
        cache: private folder for everything that the engine compiles or remembers.
        payloads: folder of the guard module.
        key_file: the file that holds the endpoint's key; the key itself is in no environment.
        start_timeout_s: seconds the engine may take for its own start (its default is 600).
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{cache}/huggingface",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "XDG_CACHE_HOME": cache,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(start_timeout_s),
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": payloads,
        "HPCVLM_KEY_FILE": key_file,
    }


def activity_metrics(version: str) -> ActivityMetrics:
    """What a version calls the metrics that tell whether anybody uses it.

    Args:
        version: of vLLM. No release from 0.9.1 to 0.33.0 has another name for any of them, so
            that an unknown version gets the same ones; a job never takes a server for idle whose
            metrics lack them.
    """
    del version
    return _METRICS
