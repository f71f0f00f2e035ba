"""Whether the chosen version of the engine knows the model's class and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import InvalidVersion, Version

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.engines.vllm_adapt import adapt, adapt_arguments
from hpcvlm.engines.vllm_architectures import architecture, why_not
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.engine import in_range
from hpcvlm.plan.model import Issue

if TYPE_CHECKING:
    from hpcvlm.memory.gpus import GpuSpec

# Images of vLLM 0.20 and later are built with CUDA 13, which has no code for Volta
# (docs/getting_started/installation/gpu.cuda.inc.md of those releases).
_NO_VOLTA = Version("0.20.0")
_TURING = (7, 5)


class EngineFit(NamedTuple):
    """The options as one release takes them.

    Attributes:
        options: of `vllm serve`, by name.
        environment: further variables, which stand for options of other releases.
        unset: variables that an option now stands for.
        issues: what the release cannot do.
        notes: what was translated or left out, and why.
    """

    options: Mapping[str, object]
    environment: Mapping[str, str]
    unset: tuple[str, ...]
    issues: tuple[Issue, ...]
    notes: tuple[str, ...]


def fit_to_engine(
    spec: ModelSpec,
    version: str,
    options: Mapping[str, object],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    config: Mapping[str, object] | None,
) -> EngineFit:
    """Make options fit for a release, and say what it cannot do.

    Args:
        spec: the model.
        version: of vLLM.
        options: what the model's file says, by name.
        arguments: what the user added, which is checked but never changed.
        environment: the engine's.
        config: config.json of the snapshot on disk.
    """
    adapted = adapt(options, version, environment)
    wrong = (*adapted.problems, *adapt_arguments(arguments, version))
    issues = [
        Issue("engine-flag", f"--{one.flag}" if one.flag else "engines", one.sentence, one.remedy)
        for one in wrong
    ]
    # A version that cannot be read is told once, by `adapt`.
    if not any(one.flag == "" for one in wrong):
        issues += _architecture_issues(spec, version, config)
    unset = tuple(name for change in adapted.changes for name in change.unset)
    notes = tuple(change.sentence for change in adapted.changes)
    return EngineFit(adapted.options, adapted.environment, unset, tuple(issues), notes)


def gpu_age_issues(gpus: Sequence[GpuSpec], version: str) -> list[Issue]:
    """GPUs that the release's images have no code for."""
    capabilities = [gpu.capability for gpu in gpus]
    try:
        recent = Version(version) >= _NO_VOLTA
    except InvalidVersion:
        return []
    if not recent or not capabilities or None in capabilities:
        return []
    if any(capability >= _TURING for capability in capabilities if capability):
        return []
    return [
        Issue(
            "gpu-too-old",
            "--gpus",
            f"the images of vLLM {version} do not run on a {gpus[0].name}: CUDA 13 needs compute "
            "capability 7.5",
            "other GPUs, or an engine up to 0.19 if the model's range has one",
            arguable=True,
        )
    ]


def _architecture_issues(
    spec: ModelSpec, version: str, config: Mapping[str, object] | None
) -> list[Issue]:
    name = spec.architecture or _first(config)
    # A version outside of the model's own range is told by the choice of the engine.
    if name is None or not in_range(spec, version):
        return []
    try:
        sentence = why_not(name, version)
    except HpcvlmError:
        return []
    if sentence is None:
        return []
    found = architecture(name)
    if found is None:
        remedy = "vLLM may still run it on its Transformers backend"
        return [Issue("architecture", "architecture", sentence, remedy, arguable=True)]
    last = f" up to {found.last}" if found.last else ""
    remedy = f"an engine from {found.first}{last}: --engine-version {found.last or found.first}"
    return [Issue("architecture", "architecture", sentence, remedy)]


def _first(config: Mapping[str, object] | None) -> str | None:
    names = (config or {}).get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name if isinstance(name, str) else None
