"""Finds the files that a launch would serve, and what is to be known of them before it may."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.catalog.schema import ModelSpec, SnapshotSource
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.plan.approved import Approvals
from hpcvlm.plan.model import PlannedSnapshot, StagedFile
from hpcvlm.resources import bundled_hub
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import (
    Snapshot,
    bytes_of_weights,
    expected_path,
    find_snapshot,
    heads_of,
    repository_folder_name,
    snapshot_at,
)
from hpcvlm.snapshots.links import link_targets, snapshot_files
from hpcvlm.snapshots.manifest import is_hash, manifest_digest, read_manifest
from hpcvlm.snapshots.squashfs import is_image

if TYPE_CHECKING:
    from hpcvlm.snapshots.model import Manifest

# Where a container sees what is in an image. It is no folder of any node, so nothing is hidden.
_IMAGE_PLACE = "/hpcvlm/snapshot"
_UNPACK_S = 60.0
_COMMIT_DIGITS = 40


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
    """Files that a model's file names by their folder; maybe one of a hub cache."""
    path = str(folder)
    real = Path(os.path.realpath(folder))
    identity = _identity(real)
    repo, commit = identity or (spec.snapshot.repo, spec.snapshot.revision)
    if not folder.is_dir():
        planned = PlannedSnapshot(repo, commit, path, path)
        return ServedSnapshot(planned, (f"snapshot.path: {path} {_no_folder(folder)}",), None)
    found = snapshot_at(real if identity else folder, repo, commit)
    problems = tuple(f"{path}: {problem}" for problem in found.problems)
    outside = link_targets(folder, folder)
    planned = PlannedSnapshot(repo, commit, path, path, link_targets=outside)
    files = _files(found, spec, site)
    return ServedSnapshot(planned, problems, found, files, _approvals(site, found, ctx))


def _no_folder(path: Path) -> str:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return "is not here"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "is neither a folder nor a SquashFS image"


def _identity(folder: Path) -> tuple[str, str] | None:
    """Repository and commit of a snapshot folder of a hub cache; None for any other folder.

    What is in use is known by them: `prune` must keep this snapshot, whatever a model's file says.

    Args:
        folder: without links.
    """
    around = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not is_hash(folder.name, _COMMIT_DIGITS):
        return None
    repo = around.removeprefix("models--").replace("--", "/")
    return (repo, folder.name) if repository_folder_name(repo) == around else None


def _image(source: SnapshotSource, image: Path, site: SiteSpec, ctx: Context) -> ServedSnapshot:
    """Files in one SquashFS image, which a container mounts."""
    from hpcvlm.snapshots.image_look import identity_problem, look_into_image

    planned = PlannedSnapshot(
        source.repo, source.revision, _IMAGE_PLACE, str(image), image=str(image)
    )

    def unpack(argv: list[str]) -> tuple[int, str, str]:
        return ctx.runner(argv, timeout_s=_UNPACK_S)

    try:
        look = look_into_image(image, unpack)
    except HpcvlmError as error:
        place = "" if str(image) in error.sentence else f"{image}: "
        return ServedSnapshot(planned, (f"{place}{error.sentence}",), None)
    manifest = look.manifest
    other = identity_problem(manifest, source.repo, source.revision)
    problems = tuple(f"{image}: {problem}" for problem in (other, *look.problems) if problem)
    if manifest is not None:
        planned = dataclasses.replace(planned, repo=manifest.repo, commit=manifest.commit)
    seen = Snapshot(
        repo=planned.repo,
        commit=planned.commit,
        path=image,
        repository_folder=image.parent,
        attention_heads=heads_of(look.config),
        problems=problems,
        config=look.config,
        preprocessor=look.preprocessor,
        weight_bytes=bytes_of_weights(look.sizes),
    )
    approvals = _approvals_of(manifest, site, ctx) if site.store.approved_only else None
    return ServedSnapshot(planned, problems, seen, approvals=approvals)


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
    return _approvals_of(read_manifest(found.repository_folder, found.commit), site, ctx)


def _approvals_of(manifest: Manifest | None, site: SiteSpec, ctx: Context) -> Approvals:
    from hpcvlm.snapshots.lock import lock_path, read_lock

    path = lock_path(site, ctx.settings)
    return Approvals(read_lock(path), manifest_digest(manifest) if manifest else "", str(path))
