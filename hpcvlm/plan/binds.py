"""What a container sees of the host: only what its plan needs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from hpcvlm.plan.model import Bind, Issue, LaunchPlan, PlannedEngine, PlannedSnapshot
from hpcvlm.site.schema import EngineInstall, SiteSpec

# They mount an image by --bind IMAGE:TARGET:ro,image-src=/ (Apptainer's user guide, "Bind Paths and
# Mounts"); Docker and Podman mount folders only.
IMAGE_RUNTIMES = ("apptainer", "singularity")


def binds_of(
    site: SiteSpec,
    engine: PlannedEngine,
    *,
    folder: str,
    snapshot: PlannedSnapshot,
    media_root: str,
    cache: str,
) -> tuple[Bind, ...]:
    """The job's own folders first, then the site's, then the engine's.

    Args:
        site: the site.
        engine: the engine that was chosen.
        folder: the job folder; only its payloads and its key are seen.
        snapshot: what is served; its whole repository, for the blobs that its links point to, and
            what they point to outside of it.
        media_root: folder of ``file://`` images.
        cache: the engine's cache, the only folder that it may write to.
    """
    binds = [
        Bind(f"{folder}/payloads", f"{folder}/payloads"),
        Bind(f"{folder}/key", f"{folder}/key"),
        *_snapshot_binds(snapshot),
        Bind(media_root, media_root),
        Bind(cache, cache, read_only=False),
    ]
    install = install_of(site, engine)
    binds += [_bind(text) for text in (*site.binds, *(install.binds if install else ()))]
    return tuple(dict.fromkeys(binds))


def install_of(site: SiteSpec, engine: PlannedEngine) -> EngineInstall | None:
    """The site's entry for an engine; None for one that its image folder holds."""
    for install in site.engines:
        if install.version == engine.version and install.image == engine.image:
            return install
    return None


def engine_environment(site: SiteSpec, engine: PlannedEngine) -> Mapping[str, str]:
    """The environment that the site gives to this engine alone."""
    install = install_of(site, engine)
    return install.environment if install else {}


def path_issues(plan: LaunchPlan) -> list[Issue]:
    """What cannot be mounted into a container, or be written to by Slurm.

    Paths with colons and commas, at which Apptainer splits a --bind, and images of snapshots where
    no runtime takes them.
    """
    if plan.snapshot.image is not None and plan.runtime not in IMAGE_RUNTIMES:
        return [_image_refused(plan, plan.snapshot.image)]
    if plan.engine.image is None:
        return _folder_issues(plan)
    paths = {path for bind in plan.binds for path in (bind.source, bind.target)}
    return _folder_issues(plan) + [
        Issue(
            "path-unsafe",
            "binds",
            f"{path} cannot be mounted into a container: its name holds a colon or a comma",
            "use a folder without them; HPCVLM_STATE moves hpcvlm's own",
        )
        for path in sorted(paths)
        if any(mark in path for mark in ":,")
    ]


def _snapshot_binds(snapshot: PlannedSnapshot) -> list[Bind]:
    if snapshot.image is not None:
        return [Bind(snapshot.image, snapshot.path, in_image=True)]
    links = [Bind(host, seen) for host, seen in snapshot.link_targets]
    return [Bind(snapshot.repository_folder, snapshot.repository_folder), *links]


def _folder_issues(plan: LaunchPlan) -> list[Issue]:
    """Signs in the job folder's name that others read as their own.

    Python splits PYTHONPATH at colons, and Slurm takes backslashes out of the names of output files
    (sbatch(1), "filename pattern").
    """
    bad = {"\\": "a backslash"} if plan.executor == "slurm" else {}
    if plan.engine.image is None:
        bad[":"] = "a colon"  # which no container can mount either
    return [
        Issue(
            "path-unsafe",
            "HPCVLM_STATE",
            f"the job cannot work in {plan.folder}: its name holds {words}",
            "set HPCVLM_STATE to a folder without one",
        )
        for mark, words in bad.items()
        if mark in plan.folder
    ]


def _image_refused(plan: LaunchPlan, image: str) -> Issue:
    where = f"runtime {plan.runtime}" if plan.engine.image else "an engine without a container"
    return Issue(
        "snapshot-image-runtime",
        "snapshot.path",
        f"{image} is a SquashFS image, and {where} cannot mount it",
        f"serve it with Apptainer, or unpack it: unsquashfs -d FOLDER {shlex.quote(image)}, "
        "and name FOLDER as snapshot.path",
    )


def _bind(text: str) -> Bind:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return Bind(source, target or source, mode != "rw")
