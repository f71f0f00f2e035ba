"""Which models of the catalog an image can serve, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.catalog.load import Resolved, all_models, find_model
from hpcvlm.containers.commands import gpu_driver
from hpcvlm.containers.judge import cuda_of, driver_finding, file_findings
from hpcvlm.containers.model import Finding, ImageFacts
from hpcvlm.engines.vllm_versions import reads_environment
from hpcvlm.errors import HpcvlmError
from hpcvlm.memory.gpus import GpuSpec, find_gpu
from hpcvlm.ops.containers_find import (
    SiteImage,
    find_image,
    in_files,
    look_at,
    site_images,
    store_of,
)
from hpcvlm.ops.containers_inspect import kept_entry, known_facts
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.plan.engine import in_range
from hpcvlm.plan.engine_fit import fit_to_engine, gpu_age_issues
from hpcvlm.plan.options import serve_options
from hpcvlm.site.schema import SiteSpec

_COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"
_ALL = "all"
_DRIVER_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What the user typed.

    Attributes:
        images: versions or files; all of the site's when empty.
        models: names; all when empty or ``all``.
        driver: version of the nodes' NVIDIA driver; this machine's when None.
        gpus: types of GPU; not looked at when empty.
    """

    images: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    driver: str | None = None
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """One model on one image.

    Attributes:
        reasons: why it cannot be served; empty if it can.
        doubts: what may stand against it, and a user may know better.
    """

    model: str
    reasons: tuple[Finding, ...]
    doubts: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """One image and every model on it.

    Attributes:
        version: of the engine, by the image itself where it was read.
        read: whether the version is the image's own word.
        cuda: empty if unknown, and for ROCm.
        findings: what is wrong with the image for every model.
    """

    image: SiteImage
    version: str
    read: bool
    cuda: str
    driver: str
    findings: tuple[Finding, ...]
    fits: tuple[Fit, ...]


def check(request: CheckRequest, ctx: Context) -> list[CheckedImage]:
    """Judge every image against every model; no image is started.

    Raises:
        HpcvlmError: ``container-missing``, ``model-unknown``, ``gpu-type-unknown``.
    """
    site, _ = site_of(ctx)
    images = [find_image(text, site, ctx) for text in request.images] or site_images(site, ctx)
    if not images:
        raise HpcvlmError(
            "container-missing", "this site has no image", "hpcvlm containers build VERSION"
        )
    models = _models(request.models, ctx)
    gpus = [_gpu(text) for text in request.gpus]
    driver = request.driver if request.driver is not None else _driver(site, ctx)
    return [_check(image, models, gpus, driver, site, ctx) for image in images]


def _models(names: Sequence[str], ctx: Context) -> list[Resolved]:
    layers = model_layers(ctx)
    if not names or _ALL in names:
        return [model for model in all_models(layers) if model.spec.unsupported is None]
    return [find_model(name, layers) for name in names]


def _gpu(text: str) -> tuple[GpuSpec, ...]:
    found = find_gpu(text.partition(":")[0])
    if not found:
        sentence = f"--gpus {text}: no GPU of that name is known"
        raise HpcvlmError("gpu-type-unknown", sentence, "for example --gpus A100")
    return found


def _driver(site: SiteSpec, ctx: Context) -> str:
    """This machine's driver; empty where it has none, as login nodes do."""
    if site.gpu_flag == "--rocm":
        return ""
    done = ctx.runner(gpu_driver(), env=dict(ctx.environment), timeout_s=_DRIVER_TIMEOUT_S)
    return (done.stdout.split() or [""])[0] if done.code == 0 else ""


def _check(
    image: SiteImage,
    models: Sequence[Resolved],
    gpus: Sequence[tuple[GpuSpec, ...]],
    driver: str,
    site: SiteSpec,
    ctx: Context,
) -> CheckedImage:
    facts, findings = _known(image, site, ctx)
    version = facts.engine if facts and facts.engine else image.said
    if not version:
        sentence = f"{image.image} has not been read, and nothing else tells its version"
        remedy = f"hpcvlm containers inspect {image.typed}"
        findings.append(Finding("container-facts", sentence, remedy))
        return CheckedImage(image, "", False, "", driver, tuple(findings), ())
    cuda, _ = cuda_of(facts, version)
    findings += _hardware(cuda, driver, version, gpus if cuda else ())
    fits = tuple(_fit(model, version) for model in models)
    read = facts is not None
    return CheckedImage(image, version, read, cuda, driver, tuple(findings), fits)


def _known(
    image: SiteImage, site: SiteSpec, ctx: Context
) -> tuple[ImageFacts | None, list[Finding]]:
    """What is remembered of an image, and what is wrong with its file."""
    if not in_files(site):
        entry = kept_entry(image.image, site, ctx)
        if entry is None:
            sentence = f"{site.runtime} has no image {image.image}"
            remedy = f"{site.runtime} pull {image.image}"
            return None, [Finding("container-missing", sentence, remedy)]
        return known_facts(image, entry[0], site, ctx), []
    path = Path(image.image)
    seen, _ = look_at(path)
    now = store_of(ctx).now(path)
    facts = known_facts(image, now.digest, site, ctx) if now else None
    return facts, file_findings(image.image, image.said, seen)


def _hardware(
    cuda: str, driver: str, version: str, gpus: Sequence[tuple[GpuSpec, ...]]
) -> list[Finding]:
    found = []
    try:
        compatible = reads_environment(_COMPATIBILITY, version)
    except HpcvlmError:
        compatible = False
    wrong = driver_finding(cuda, driver, compatible=compatible)
    if wrong:
        found.append(wrong)
    for meant in gpus:
        found += [
            Finding(issue.code, issue.sentence, issue.remedy)
            for issue in gpu_age_issues(meant, version)
        ]
    return found


def _fit(model: Resolved, version: str) -> Fit:
    spec = model.spec
    if not in_range(spec, version.partition("+")[0]):
        why = f" ({spec.engine.reason})" if spec.engine.reason else ""
        sentence = f"needs {spec.engine.name} {spec.engine.versions}{why}"
        preferred = spec.engine.preferred
        remedy = f"hpcvlm containers build {preferred}" if preferred else ""
        return Fit(model.name, (Finding("engine-version", sentence, remedy),))
    options = serve_options(spec, snapshot="/snapshot", media_root="/media", tensor_parallel_size=1)
    config = dict(spec.config) or None
    fit = fit_to_engine(spec, version, options, (), spec.environment, config)
    reasons: list[Finding] = []
    doubts: list[Finding] = []
    for issue in fit.issues:
        found = Finding(issue.code, issue.sentence, issue.remedy)
        (doubts if issue.arguable else reasons).append(found)
    return Fit(model.name, tuple(reasons), tuple(doubts))
