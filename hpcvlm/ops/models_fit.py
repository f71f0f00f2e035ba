"""`hpcvlm models fit`: whether a model fits, without a cluster and without its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcvlm.catalog.load import Resolved, apply_settings, find_model
from hpcvlm.engines.vllm_versions import known_versions, release
from hpcvlm.errors import HpcvlmError
from hpcvlm.memory.advice import fewest_gpus
from hpcvlm.memory.estimate import EstimateOptions
from hpcvlm.memory.gpus import GpuSpec, find_gpu
from hpcvlm.memory.shapes import ModelShape
from hpcvlm.ops.context import Context
from hpcvlm.ops.models import in_cache
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.plan.gpus import choose_gpus, gpu_candidates
from hpcvlm.plan.memory import estimate_options, memory_fit, model_shape
from hpcvlm.plan.model import MemoryFit
from hpcvlm.plan.options import serve_options

USUAL_GPUS = ("V100-32", "L40S", "A100-40", "A100-80", "H100-80", "H200")


@dataclass(frozen=True, slots=True)
class FitQuestion:
    """What was asked; None where nothing was said.

    Attributes:
        gpus: ``TYPE:NUMBER``; the usual types when None.
        images: pictures in one prompt.
    """

    model: str
    gpus: str | None = None
    max_model_len: int | None = None
    images: int | None = None
    engine_version: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FitTable:
    """The fewest GPUs of each usual type; None where no number up to 16 is enough."""

    model: str
    fewest: tuple[tuple[GpuSpec, int | None], ...]
    unknown: tuple[str, ...]


def fit(question: FitQuestion, ctx: Context) -> MemoryFit:
    """The arithmetic for the GPUs that were named.

    Raises:
        HpcvlmError: ``gpus-invalid`` (no type, or one that nobody knows), ``vllm-version``,
            ``model-unsupported``, or as `find_model`.
    """
    model, options, version = _resolved(question, ctx)
    site, _ = site_of(ctx)
    gpus = choose_gpus(question.gpus, model.spec, site)
    if gpus.asked.count < 1:
        raise HpcvlmError(
            "gpus-invalid", f"--gpus {question.gpus} asks for no GPU", "ask for at least 1"
        )
    candidates = gpu_candidates(gpus.asked.type, gpus.type)
    if not candidates:
        raise HpcvlmError(
            "gpus-invalid",
            f"--gpus {question.gpus}: whose memory that is, is not known",
            f"for example --gpus A100-80:{max(1, gpus.asked.count)}; a site file can say more "
            "under gpu_types",
        )
    shape = _shape(model, ctx)
    return memory_fit(model.spec, shape, candidates, max(1, gpus.asked.count), version, options)


def fit_table(question: FitQuestion, ctx: Context) -> FitTable:
    """The fewest GPUs of each usual type.

    Raises:
        HpcvlmError: as `find_model`.
    """
    model, options, version = _resolved(question, ctx)
    shape = _shape(model, ctx)
    rows = tuple(
        (gpu, fewest_gpus(shape, gpu, version, options))
        for name in USUAL_GPUS
        for gpu in find_gpu(name)
    )
    return FitTable(model.name, rows, shape.unknown)


def fits_on(model: Resolved, gpus: str, ctx: Context) -> bool:
    """Whether a model of the catalog fits; False where nobody can say.

    Raises:
        HpcvlmError: ``gpus-invalid``.
    """
    question = FitQuestion(model.name, gpus)
    return fit(question, ctx).fits is True


def _shape(model: Resolved, ctx: Context) -> ModelShape:
    """From the files on disk where they are complete, else from the catalog."""
    held = in_cache(model, ctx)
    if held.snapshot is None or held.snapshot.problems:
        return model_shape(model.spec)
    found = held.snapshot
    return model_shape(model.spec, found.config, found.weight_bytes, found.preprocessor)


def _resolved(question: FitQuestion, ctx: Context) -> tuple[Resolved, EstimateOptions, str]:
    """The model, the options that decide, and the version of the engine."""
    found = find_model(question.model, model_layers(ctx))
    model = apply_settings(found, question.settings)
    if model.spec.unsupported is not None:
        raise HpcvlmError(
            "model-unsupported",
            f"{model.name} cannot be served: {model.spec.unsupported.reason}",
            f"hpcvlm models fit {' or '.join(model.spec.unsupported.instead)}",
        )
    if question.engine_version is not None:
        release(question.engine_version)  # refuses what is no version, or too old
    options = estimate_options(
        serve_options(model.spec, snapshot="", media_root="", tensor_parallel_size=1)
    )
    if question.max_model_len is not None:
        options = replace(options, max_model_len=question.max_model_len)
    if question.images is not None:
        options = replace(options, images=question.images)
    return model, options, question.engine_version or _version(model)


def _version(model: Resolved) -> str:
    """The version that the model's file prefers, else the newest of its range that is known."""
    from packaging.specifiers import SpecifierSet

    wanted = SpecifierSet(model.spec.engine.versions)
    fitting = [version for version in known_versions() if wanted.contains(version)]
    return model.spec.engine.preferred or (fitting or known_versions())[-1]
