"""Which installed engine serves a model: the newest in the model's range."""

from __future__ import annotations

import shlex

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.plan.model import Issue, PlannedEngine
from hpcvlm.site.schema import EngineInstall, SiteSpec

_OCI = {"docker", "podman"}
# vLLM's own image, https://hub.docker.com/r/vllm/vllm-openai/tags
_OFFICIAL = "docker.io/vllm/vllm-openai:v"
_SITE_FILE = "under 'engines:' in the site file"


def choose_engine(
    spec: ModelSpec, site: SiteSpec, images_on_disk: frozenset[str], asked: str | None = None
) -> tuple[PlannedEngine, list[Issue]]:
    """The engine, and what is wrong with it.

    Args:
        spec: the model; its ``engine.versions`` is the range that can serve it.
        site: its ``engines``, or its ``image_folder`` for versions that are not listed.
        images_on_disk: container images that exist.
        asked: the version that the user wants; the newest that fits when None.

    Returns:
        Where no engine can serve the model, the one that comes nearest, so that the rest can be
        planned, too; its issues then say why it cannot.
    """
    installs = [install for install in site.engines if install.name == spec.engine.name]
    if asked is not None:
        installs = [install for install in installs if _same(install.version, asked)]
    fitting = [install for install in installs if in_range(spec, install.version)]
    if fitting:
        best = max(fitting, key=_version)
        return _planned(best), _image_issues(best.image, best.version, images_on_disk, site)
    version = asked or spec.engine.preferred
    if site.runtime in _OCI and version and not installs and in_range(spec, version):
        name, image = spec.engine.name, f"{_OFFICIAL}{version}"
        return PlannedEngine(name, version, (name,), image), []
    if site.image_folder and version and (asked is None or in_range(spec, asked)):
        image = f"{site.image_folder}/{spec.engine.name}-{version}.sif"
        planned = PlannedEngine(spec.engine.name, version, (spec.engine.name,), image)
        return planned, _image_issues(image, version, images_on_disk, site)
    if installs:
        nearest = max(installs, key=_version)
        issues = [_out_of_range(spec, [install.version for install in installs], asked)]
        return _planned(nearest), issues
    if asked is not None and not in_range(spec, asked):
        issue = _out_of_range(spec, [asked], asked)
    else:
        issue = _missing(spec, asked, [install.version for install in site.engines])
    placeholder = PlannedEngine(spec.engine.name, version or "0", (spec.engine.name,), None)
    return placeholder, [issue]


def in_range(spec: ModelSpec, version: str) -> bool:
    """Whether the model's file says that this version can serve it."""
    return SpecifierSet(spec.engine.versions).contains(version, prereleases=True)


def candidate_images(spec: ModelSpec, site: SiteSpec, asked: str | None = None) -> set[str]:
    """Every image that `choose_engine` may come to name."""
    images = {install.image for install in site.engines if install.image}
    for version in (asked, spec.engine.preferred):
        if site.image_folder and version:
            images.add(f"{site.image_folder}/{spec.engine.name}-{version}.sif")
    return images


def _version(install: EngineInstall) -> Version:
    try:
        return Version(install.version)
    except InvalidVersion:
        return Version("0")


def _same(version: str, asked: str) -> bool:
    try:
        return Version(version) == Version(asked)
    except InvalidVersion:
        return version == asked


def _planned(install: EngineInstall) -> PlannedEngine:
    return PlannedEngine(install.name, install.version, install.command, install.image)


def _image_issues(
    image: str | None, version: str, images_on_disk: frozenset[str], site: SiteSpec
) -> list[Issue]:
    # docker and podman keep their images themselves, by name.
    if image is None or image in images_on_disk or site.runtime in _OCI:
        return []
    return [
        Issue(
            "container-missing",
            "engines",
            f"the container image {image} does not exist",
            _build(version, image),
        )
    ]


def _build(version: str, image: str = "") -> str:
    command = f"hpcvlm containers build {version}"
    return f"{command} --output {shlex.quote(image)}" if image else command


def _need(spec: ModelSpec) -> str:
    why = f" ({spec.engine.reason})" if spec.engine.reason else ""
    return f"{spec.name} needs {spec.engine.name} {spec.engine.versions}{why}"


def _out_of_range(spec: ModelSpec, have: list[str], asked: str | None) -> Issue:
    name, preferred = spec.engine.name, spec.engine.preferred
    if asked is not None:
        found, remedy = f"{asked} was asked for", "leave --engine-version out, or name one of these"
    else:
        found = f"this site has {', '.join(have)}"
        remedy = f"install {name} {preferred or spec.engine.versions} and name it {_SITE_FILE}"
        if preferred:
            remedy += f": {_build(preferred)}"
    return Issue("engine-version", "engines", f"{_need(spec)}; {found}", remedy)


def _missing(spec: ModelSpec, asked: str | None, others: list[str]) -> Issue:
    if asked is not None:
        have = f"; it has {', '.join(others)}" if others else ""
        return Issue(
            "engine-version",
            "--engine-version",
            f"no {spec.engine.name} {asked} is known here{have}",
            f"install it and name it {_SITE_FILE}",
        )
    return Issue(
        "engine-missing",
        "engines",
        f"{_need(spec)}; no engine is known here",
        f"name one {_SITE_FILE}, or its folder as 'image_folder:'",
    )
