"""Which flag of one release stands for which of another, read from vLLM's released source.

Every rule names the place in the source that proves it. A rule returns False for what it does not
cover; then the option is kept if the release has the flag, and a problem if not.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpcvlm.engines.vllm_draft import Change, Draft, Rule
from hpcvlm.engines.vllm_flags import flag
from hpcvlm.engines.vllm_versions import (
    attention_backends,
    known_versions,
    name_spans,
    reads_environment,
    reasoning_parsers,
    tool_parsers,
)

_BACKEND = "VLLM_ATTENTION_BACKEND"
_CACHE = "VLLM_MM_INPUT_CACHE_GIB"

HINTS = {
    "rope-scaling": "give its content with hf-overrides",
    "rope-theta": "give its content with hf-overrides",
}

_NO_EFFECT = {
    # vllm/engine/arg_utils.py of 0.9.1 and 0.9.2: declared, read nowhere
    "enable-reasoning": "a reasoning parser alone turns reasoning on",
    "use-v2-block-manager": "it has no effect",
    "tokenizer-pool-size": "it has no effect",
    "tokenizer-pool-type": "it has no effect",
    "tokenizer-pool-extra-config": "it has no effect",
    "qlora-adapter-name-or-path": "it has no effect",
    # vllm/entrypoints/openai/api_server.py of 0.11.0 to 0.18.1: a warning, and nothing else
    "disable-frontend-multiprocessing": "the V1 engine takes no notice of it",
    # 0.10.2: read by vllm/worker/model_runner.py and vllm/core/scheduler.py, which are V0's
    "max-seq-len-to-capture": "only the V0 engine read it, which is gone since 0.11.0",
    "disable-async-output-proc": "only the V0 engine read it, which is gone since 0.11.0",
    # vllm/config/cache.py of 0.17.1: compared with the node's memory, and not used
    "swap-space": "the V1 engine never swaps",
}

_OFF: dict[str, tuple[object, ...]] = {
    # Values that ask for nothing: where a release does not have the flag, it does not have what
    # the flag turns on, or does it always.
    "async-scheduling": (False,),
    "calculate-kv-scales": (False,),
    "convert": ("auto",),
    "device": ("auto", "cuda"),
    "enable-eplb": (False,),
    "enable-lora-bias": (False,),
    "enable-prompt-adapter": (False,),
    "enable-mm-embeds": (True,),  # before 0.11.1 embeddings are taken without asking
    "language-model-only": (False,),
    "max-long-partial-prefills": (1,),
    "max-num-partial-prefills": (1,),
    "mm-encoder-only": (False,),
    "mm-encoder-tp-mode": ("weights",),
    "nnodes": (1,),
    "num-lookahead-slots": (0,),
    "num-scheduler-steps": (1,),
    "scheduler-delay-factor": (0,),
    "skip-mm-profiling": (False,),
    "trust-request-chat-template": (True,),  # earlier releases always do
    "trust-request-mm-kwargs": (True,),
}

_EPLB = {
    # vllm/config/parallel.py, EPLBConfig; arg_utils.py of 0.10.2 maps one to the other
    "num-redundant-experts": "num_redundant_experts",
    "eplb-window-size": "window_size",
    "eplb-step-interval": "step_interval",
    "eplb-log-balancedness": "log_balancedness",
}
_GUIDED = {
    # vllm/config/structured_outputs.py; in 0.11.0 the old flags set names that nothing reads
    "guided-decoding-backend": "backend",
    "guided-decoding-disable-fallback": "disable_fallback",
    "guided-decoding-disable-any-whitespace": "disable_any_whitespace",
    "guided-decoding-disable-additional-properties": "disable_additional_properties",
}
_RENAMED_PARSERS = {"glm4_moe": "glm45", "GptOss": "openai_gptoss"}


def translate(draft: Draft, name: str, value: object) -> bool:
    """Deal with one option if a rule covers it in the draft's release."""
    rule = _ALWAYS.get(name)
    if rule and rule(draft, name, value):
        return True
    found = flag(name)
    if found is None or found.in_version(draft.version):
        return False
    if name in _NO_EFFECT:
        return draft.drop(name, _NO_EFFECT[name])
    if any(value == off and type(value) is type(off) for off in _OFF.get(name, ())):
        return draft.drop(name, f"vLLM {draft.version} has no such flag, and does so anyway")
    rule = _ABSENT.get(name)
    return rule is not None and rule(draft, name, value)


def from_environment(draft: Draft, environment: Mapping[str, str]) -> None:
    """Turn a variable that the release no longer reads into the flag that took its place."""
    backend = environment.get(_BACKEND, "")
    if not backend or reads_environment(_BACKEND, draft.version):
        return
    if "attention-backend" not in draft.asked:
        draft.options["attention-backend"] = backend
    sentence = f"{_BACKEND}={backend} became --attention-backend: the variable is not read any more"
    draft.changes.append(Change(_BACKEND, sentence, unset=(_BACKEND,)))


def _no_preprocessor_cache(draft: Draft, name: str, value: object) -> bool:
    """arg_utils.py of 0.10.1 to 0.12.0: `if disable_mm_preprocessor_cache: cache_gb = 0`."""
    if value is True:
        why = "no cache is a cache of no size"
        return draft.replace(name, "mm-processor-cache-gb", 0, why)
    return value is False and draft.drop(name, "the cache is on unless its size is 0")


def _processor_cache(draft: Draft, name: str, value: object) -> bool:
    """vllm/envs.py up to 0.12.0: the variable, whole GiB, is the size of the same cache."""
    if value in {0, "0"} and not isinstance(value, bool):
        why = f"vLLM {draft.version} has no size to set to 0"
        return draft.replace(name, "disable-mm-preprocessor-cache", True, why)
    if isinstance(value, bool) or not str(value).isdecimal():
        return False
    return draft.by_environment(name, _CACHE, str(value))


def _encoder_data_parallel(draft: Draft, name: str, value: object) -> bool:
    """arg_utils.py of 0.10.2 to 0.12.0: `if enable_…: mm_encoder_tp_mode = "data"`."""
    if value is True:
        why = "the encoder on every GPU, each with its share of the images"
        return draft.replace(name, "mm-encoder-tp-mode", "data", why)
    return value is False and draft.drop(name, "the encoder is split over the GPUs by default")


def _encoder_tp_mode(draft: Draft, name: str, value: object) -> bool:
    why = "the flag's name in that release"
    return value == "data" and draft.replace(
        name, "enable-multimodal-encoder-data-parallel", True, why
    )


def _no_request_log(draft: Draft, name: str, value: object) -> bool:
    """arg_utils.py from 0.10.1: `enable_log_requests: bool = False`; the old flag sets nothing."""
    if draft.before("0.10.1"):
        return False
    if value is True:
        return draft.drop(name, "requests are not logged unless --enable-log-requests is given")
    return value is False and draft.replace(
        name, "enable-log-requests", True, "the flag's successor since 0.10.1"
    )


def _request_log(draft: Draft, name: str, value: object) -> bool:
    """arg_utils.py up to 0.10.0: `disable_log_requests: bool = False`."""
    if value is True:
        return draft.drop(name, "requests are logged unless --disable-log-requests is given")
    return value is False and draft.replace(
        name, "disable-log-requests", True, "requests are logged unless told not to"
    )


def _task(draft: Draft, name: str, value: object) -> bool:
    """vllm/config/model.py of 0.12.0 turns the task `generate` into the runner `generate`."""
    if value == "auto":
        return draft.drop(name, "the task is found from the model")
    return value == "generate" and draft.replace(name, "runner", value, "the flag's successor")


def _runner(draft: Draft, name: str, value: object) -> bool:
    if value == "auto":
        return draft.drop(name, "the task is found from the model")
    return value == "generate" and draft.replace(
        name, "task", value, "the flag's name in that release"
    )


def _guided(draft: Draft, name: str, value: object) -> bool:
    """From 0.11.0 the structured outputs config is what is read; see `_GUIDED`."""
    if draft.before("0.11.0"):
        return False
    key = _GUIDED[name]
    if key == "disable_fallback" and not draft.before("0.18.0"):  # 0.17.1 was the last with it
        return value is False and draft.drop(name, "there is no such fallback any more")
    why = "the flag's successor since 0.11.0"
    return draft.replace(name, "structured-outputs-config", {key: value}, why)


def _structured(draft: Draft, name: str, value: object) -> bool:
    return _spread(draft, name, value, {key: old for old, key in _GUIDED.items()})


def _eplb(draft: Draft, name: str, value: object) -> bool:
    if draft.before("0.10.2"):
        return False
    return draft.replace(name, "eplb-config", {_EPLB[name]: value}, "the flag's successor")


def _eplb_config(draft: Draft, name: str, value: object) -> bool:
    if draft.before("0.9.2"):
        return False
    return _spread(draft, name, value, {key: old for old, key in _EPLB.items()})


def _spread(draft: Draft, name: str, value: object, flags: Mapping[str, str]) -> bool:
    """Write each key of a mapping as the flag of its own that it is in an older release."""
    if not isinstance(value, dict) or not value.keys() <= flags.keys():
        return False
    for key, inner in value.items():
        draft.replace(name, flags[key], inner, "a flag of its own in that release")
    return True


def _graph_sizes(draft: Draft, name: str, value: object) -> bool:
    """One number is the largest size, several are the sizes: vllm/config.py of 0.9.1 to 0.11.0.

    Source of the successors: vllm/config/compilation.py from 0.11.1.
    """
    if draft.before("0.11.1"):
        return False
    sizes = value if isinstance(value, list) else [value]
    if len(sizes) == 1:
        why = "one number is the largest batch that is captured"
        return draft.replace(name, "max-cudagraph-capture-size", sizes[0], why)
    return draft.replace(name, "cudagraph-capture-sizes", sizes, "the flag's successor")


def _largest_graph(draft: Draft, name: str, value: object) -> bool:
    why = "one number is the largest batch that is captured"
    return draft.replace(name, "cuda-graph-sizes", [value], why)


def _capture_sizes(draft: Draft, name: str, value: object) -> bool:
    if not isinstance(value, list) or len(value) < 2:  # noqa: PLR2004  # one would be the largest
        return False
    return draft.replace(name, "cuda-graph-sizes", value, "the flag's name in that release")


def _renamed(new: str) -> Rule:
    def rule(draft: Draft, name: str, value: object) -> bool:
        found = flag(new)
        there = found is not None and found.in_version(draft.version)
        return there and draft.replace(name, new, value, "the flag's name in that release")

    return rule


def _log_level(draft: Draft, name: str, value: object) -> bool:
    """vllm/config/logging.py of 0.31.0: the level's default is that variable."""
    return isinstance(value, str) and draft.by_environment(name, "VLLM_LOGGING_LEVEL", value)


def _logging_config(draft: Draft, name: str, value: object) -> bool:
    """arg_utils.py from 0.31.0: --log-config-file sets pylogging_config_file."""
    if not isinstance(value, dict) or not value.keys() <= {"pylogging_config_file", "log_level"}:
        return False
    if path := value.get("pylogging_config_file"):
        draft.replace(name, "log-config-file", path, "the flag's name in that release")
    if level := value.get("log_level"):
        _log_level(draft, name, level)
    return True


def _attention_backend(draft: Draft, name: str, value: object) -> bool:
    """The variable and the flag take the same names; vllm/attention/…/registry.py, envs.py."""
    if not isinstance(value, str):
        return False
    if value.lower() == "auto":
        return draft.drop(name, "the backend is chosen automatically")
    known = attention_backends(draft.version)
    wanted = next((n for n in (value.upper(), f"{value.upper()}_VLLM_V1") if n in known), "")
    if not wanted and draft.newer:
        return False
    if not wanted:
        sentence = f"vLLM {draft.version} has no attention backend {value}"
        return draft.refuse(name, sentence, f"take one of {', '.join(known)}, or leave it out")
    found = flag(name)
    if found and not found.in_version(draft.version):
        return draft.by_environment(name, _BACKEND, wanted)
    draft.options[name] = value
    return True


def _model_length(draft: Draft, name: str, value: object) -> bool:
    """vllm/utils/argparse_utils.py from 0.14.0: human_readable_int_or_auto."""
    found = flag(name)
    automatic = str(value).lower() in {"auto", "-1"}
    if not automatic or found is None or found.kind(draft.version) == "int-or-auto":
        return False
    sentence = f"vLLM {draft.version} cannot choose --max-model-len; 0.14.0 is the first that can"
    return draft.refuse(name, sentence, "give max-model-len in tokens, such as 8192")


def _limits(draft: Draft, name: str, value: object) -> bool:
    """vllm/config/multimodal.py: from 0.11.1 a limit may be {"count": …, "width": …}."""
    if not draft.before("0.11.1") or not isinstance(value, dict):
        return False
    if not any(isinstance(limit, dict) for limit in value.values()):
        return False
    counts = {
        kind: limit["count"] if isinstance(limit, dict) else limit
        for kind, limit in value.items()
        if not isinstance(limit, dict) or "count" in limit
    }
    if counts:
        draft.options[name] = counts
    why = "sizes are hints for the memory profile, which vLLM takes from 0.11.1 on"
    draft.changes.append(Change(name, f"--{name} reduced to the counts: {why}"))
    return True


def _parser(draft: Draft, name: str, value: object) -> bool:
    """The parsers that a release registers by itself; a plugin may register any other."""
    tool = name == "tool-call-parser"
    kind = "tool_parsers" if tool else "reasoning_parsers"
    known = tool_parsers(draft.version) if tool else reasoning_parsers(draft.version)
    plugin = "tool-parser-plugin" if tool else "reasoning-parser-plugin"
    text = str(value)
    if not text or text in known or plugin in draft.asked or draft.newer:
        return False
    if not tool and text == "none":
        # arg_utils.py of 0.33.0: "`none` … the same as leaving it unset"
        return draft.before("0.33.0") and draft.drop(name, "none is what it does unless told")
    both = _RENAMED_PARSERS | {new: old for old, new in _RENAMED_PARSERS.items()}
    if both.get(text) in known:
        draft.options[name] = both[text]
        draft.changes.append(Change(name, f"{text} is called {both[text]} in that release"))
        return True
    return draft.refuse(name, *_unknown_parser(draft, name, kind, text, known))


def _unknown_parser(
    draft: Draft, name: str, kind: str, text: str, known: tuple[str, ...]
) -> tuple[str, str]:
    sentence = f"vLLM {draft.version} has no --{name} {text}"
    spans = name_spans(kind, text)
    versions = known_versions()
    if spans and draft.index < spans[0][0]:
        sentence += f"; {versions[spans[0][0]]} is the first that has it"
    elif spans:
        sentence += f"; {versions[spans[-1][1]]} was the last that had it"
    return sentence, f"take one of {', '.join(known)}"


_ALWAYS: dict[str, Rule] = {
    "attention-backend": _attention_backend,
    "limit-mm-per-prompt": _limits,
    "max-model-len": _model_length,
    "reasoning-parser": _parser,
    "tool-call-parser": _parser,
    "cuda-graph-sizes": _graph_sizes,
    "disable-log-requests": _no_request_log,
    **dict.fromkeys(_GUIDED, _guided),
    **dict.fromkeys(_EPLB, _eplb),
}
_ABSENT: dict[str, Rule] = {
    "cudagraph-capture-sizes": _capture_sizes,
    "disable-mm-preprocessor-cache": _no_preprocessor_cache,
    "enable-log-requests": _request_log,
    "enable-multimodal-encoder-data-parallel": _encoder_data_parallel,
    "eplb-config": _eplb_config,
    "log-level": _log_level,
    "logging-config": _logging_config,
    "max-cudagraph-capture-size": _largest_graph,
    "mm-encoder-tp-mode": _encoder_tp_mode,
    "mm-processor-cache-gb": _processor_cache,
    "override-pooler-config": _renamed("pooler-config"),
    "pooler-config": _renamed("override-pooler-config"),
    "runner": _runner,
    "structured-outputs-config": _structured,
    "task": _task,
}
