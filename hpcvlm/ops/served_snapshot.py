"""Finds the files that a launch would serve, and what is to be known of them before it may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.catalog.schema import ModelSpec, SnapshotSource
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.plan.approved import Approvals
from hpcvlm.plan.model import PlannedSnapshot, StagedFile
from hpcvlm.resources import bundled_hub
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import Snapshot, expected_path, find_snapshot, heads_of, snapshot_at
from hpcvlm.snapshots.links import link_targets, snapshot_files
from hpcvlm.snapshots.manifest import manifest_digest, read_manifest
from hpcvlm.snapshots.squashfs import is_image, read_member

# Where a container sees what is in an image. It is no folder of any node, so nothing is hidden.
_IMAGE_PLACE = "/hpcvlm/snapshot"
_UNPACK_S = 60.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ServedSnapshot:
    """The files that a launch would serve.

    Attributes:
        planned: where they are, or would be.
        problems: why they cannot be served; empty when they can.
        on_disk: what was found; None when nothing was.
        files: all of them, where the job may copy them to the node.
        approvals: what the site lets launches serve; None where it lets them serve everything.
    """

    planned: PlannedSnapshot
    problems: tuple[str, ...]
    on_disk: Snapshot | None
    files: tuple[StagedFile, ...] = ()
    approvals: Approvals | None = None


def served_snapshot(spec: ModelSpec, site: SiteSpec, ctx: Context) -> ServedSnapshot:
    """Look for the snapshot of a model; nothing is read but names, sizes and headers.

    Raises:
        HpcvlmError: a manifest or the lock file is damaged.
    """
    source = spec.snapshot
    if source.path is not None:
        path = Path(source.path).expanduser().absolute()
        return _image(source, path, site, ctx) if is_image(path) else _folder(spec, path, site, ctx)
    caches = searched_caches(site, ctx, bundled=True)
    found = find_snapshot(source.repo, source.revision, caches)
    if found is None:
        folder, place = expected_path(source.repo, source.revision, caches[0])
        searched = ", ".join(str(cache) for cache in caches[:-1])
        sentence = f"{source.repo} at revision {source.revision} is in no hub cache ({searched})"
        planned = PlannedSnapshot(source.repo, source.revision, str(place), str(folder))
        return ServedSnapshot(planned, (sentence,), None)
    planned = PlannedSnapshot(
        found.repo,
        found.commit,
        str(found.path),
        str(found.repository_folder),
        link_targets=link_targets(found.path, found.repository_folder),
    )
    problems = tuple(f"{found.path}: {problem}" for problem in found.problems)
    files = _files(found, spec, site)
    return ServedSnapshot(planned, problems, found, files, _approvals(site, found, ctx))


def _folder(spec: ModelSpec, folder: Path, site: SiteSpec, ctx: Context) -> ServedSnapshot:
    """Files that lie in no hub cache."""
    source, path = spec.snapshot, str(folder)
    planned = PlannedSnapshot(source.repo, source.revision, path, path)
    if not folder.is_dir():
        return ServedSnapshot(planned, (f"snapshot.path: {path} is no folder here",), None)
    found = snapshot_at(folder, source.repo, source.revision)
    problems = tuple(f"{path}: {problem}" for problem in found.problems)
    outside = link_targets(folder, folder)
    planned = PlannedSnapshot(source.repo, source.revision, path, path, link_targets=outside)
    files = _files(found, spec, site)
    return ServedSnapshot(planned, problems, found, files, _approvals(site, found, ctx))


def _image(source: SnapshotSource, image: Path, site: SiteSpec, ctx: Context) -> ServedSnapshot:
    """Files in one SquashFS image, which a container mounts."""
    planned = PlannedSnapshot(
        source.repo, source.revision, _IMAGE_PLACE, str(image), image=str(image)
    )

    def unpack(argv: list[str]) -> tuple[int, str, str]:
        return ctx.runner(argv, timeout_s=_UNPACK_S)

    try:
        config = json.loads(read_member(image, "config.json", unpack))
    except HpcvlmError as error:
        return ServedSnapshot(planned, (error.sentence,), None)
    except ValueError:
        return ServedSnapshot(planned, (f"{image}: config.json is not valid JSON",), None)
    config = config if isinstance(config, Mapping) else {}
    seen = Snapshot(
        repo=source.repo,
        commit=source.revision,
        path=image,
        repository_folder=image.parent,
        attention_heads=heads_of(config),
        problems=(),
        config=config,
    )
    return ServedSnapshot(planned, (), seen, approvals=_approvals(site, seen, ctx))


def _files(found: Snapshot, spec: ModelSpec, site: SiteSpec) -> tuple[StagedFile, ...]:
    """Every file with its size, where a copy on the node is wanted, and its hash where known."""
    wanted = site.staging.always if spec.stage is None else spec.stage
    if not wanted or found.problems:
        return ()
    manifest = read_manifest(found.repository_folder, found.commit)
    known = manifest.files if manifest is not None else {}
    return tuple(
        StagedFile(path, size, known[path].sha256 if path in known else "")
        for path, size in snapshot_files(found.path)
    )


def _approvals(site: SiteSpec, found: Snapshot, ctx: Context) -> Approvals | None:
    """What the site lets launches serve; the model that comes with hpcvlm is part of it."""
    if not site.store.approved_only or found.path.is_relative_to(bundled_hub()):
        return None
    from hpcvlm.snapshots.lock import lock_path, read_lock

    path = lock_path(site, ctx.settings)
    manifest = read_manifest(found.repository_folder, found.commit)
    return Approvals(read_lock(path), manifest_digest(manifest) if manifest else "", str(path))
