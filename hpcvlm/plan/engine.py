"""Which installed engine serves a model: the newest in the model's range."""

from __future__ import annotations

import shlex

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import Issue, PlannedEngine
from hpcvlm.site.schema import EngineInstall, SiteSpec


def choose_engine(
    spec: ModelSpec, site: SiteSpec, images_on_disk: frozenset[str]
) -> tuple[PlannedEngine, list[Issue]]:
    """The engine, and what is wrong with it.

    Args:
        spec: the model; its ``engine.versions`` is the range that can serve it.
        site: its ``engines``, or its ``image_folder`` for versions that are not listed.
        images_on_disk: container images that exist.

    Raises:
        HpcvlmError: ``engine-version`` when no engine can even be named.
    """
    wanted = SpecifierSet(spec.engine.versions)
    installs = [install for install in site.engines if install.name == spec.engine.name]
    fitting = [
        install for install in installs if wanted.contains(install.version, prereleases=True)
    ]
    if fitting:
        best = max(fitting, key=_version)
        return _planned(best), _image_issues(best.image, best.version, images_on_disk)
    version = spec.engine.preferred
    if site.image_folder and version:
        image = f"{site.image_folder}/{spec.engine.name}-{version}.sif"
        planned = PlannedEngine(spec.engine.name, version, (spec.engine.name,), image)
        return planned, _image_issues(image, version, images_on_disk)
    raise _none_in_range(spec, installs)


def candidate_images(spec: ModelSpec, site: SiteSpec) -> set[str]:
    """Every image that `choose_engine` may come to name."""
    images = {install.image for install in site.engines if install.image}
    if site.image_folder and spec.engine.preferred:
        images.add(f"{site.image_folder}/{spec.engine.name}-{spec.engine.preferred}.sif")
    return images


def _version(install: EngineInstall) -> Version:
    try:
        return Version(install.version)
    except InvalidVersion:
        return Version("0")


def _planned(install: EngineInstall) -> PlannedEngine:
    return PlannedEngine(install.name, install.version, install.command, install.image)


def _image_issues(image: str | None, version: str, images_on_disk: frozenset[str]) -> list[Issue]:
    if image is None or image in images_on_disk:
        return []
    arguments = f"--build-arg VERSION={version} {shlex.quote(image)}"
    return [
        Issue(
            "container-missing",
            "engines",
            f"the container image {image} does not exist",
            f"apptainer build {arguments} containers/apptainer.def",
        )
    ]


def _none_in_range(spec: ModelSpec, installs: list[EngineInstall]) -> HpcvlmError:
    why = f" ({spec.engine.reason})" if spec.engine.reason else ""
    need = f"{spec.name} needs {spec.engine.name} {spec.engine.versions}{why}"
    if not installs:
        return HpcvlmError(
            "engine-missing",
            f"{need}; no engine is known here",
            "name one under 'engines:' in the site file, or its folder as 'image_folder:'",
        )
    have = ", ".join(install.version for install in installs)
    return HpcvlmError(
        "engine-version",
        f"{need}; this site has {have}",
        f"install {spec.engine.name} {spec.engine.preferred or spec.engine.versions} and name it "
        "under 'engines:' in the site file",
    )
