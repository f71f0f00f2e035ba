"""What a container sees of the host: only what its plan needs."""

from __future__ import annotations

from collections.abc import Mapping

from hpcvlm.plan.model import Bind, Issue, LaunchPlan, PlannedEngine, PlannedSnapshot
from hpcvlm.site.schema import EngineInstall, SiteSpec


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
        snapshot: what is served; its whole repository, for the blobs that its links point to.
        media_root: folder of ``file://`` images.
        cache: the engine's cache, the only folder that it may write to.
    """
    binds = [
        Bind(f"{folder}/payloads", f"{folder}/payloads"),
        Bind(f"{folder}/key", f"{folder}/key"),
        Bind(snapshot.repository_folder, snapshot.repository_folder),
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
    """Paths that a --bind cannot name: Apptainer splits it at colons and commas."""
    if plan.engine.image is None:
        return []
    paths = {path for bind in plan.binds for path in (bind.source, bind.target)}
    return [
        Issue(
            "path-unsafe",
            "binds",
            f"{path} cannot be mounted into a container: its name holds a colon or a comma",
            "use a folder without them; HPCVLM_STATE moves hpcvlm's own",
        )
        for path in sorted(paths)
        if any(mark in path for mark in ":,")
    ]


def _bind(text: str) -> Bind:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return Bind(source, target or source, mode != "rw")
