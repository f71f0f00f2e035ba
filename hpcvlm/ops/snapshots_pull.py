"""Pulls a model's snapshot into the store: `hpcvlm snapshots pull`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.catalog.load import Layer, apply_settings, find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import store_folder
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from hpcvlm.ops.snapshots_ls import catalog_sources
from hpcvlm.resources import bundled_hub
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import hub_caches, repository_folder_name, snapshot_at
from hpcvlm.snapshots.manifest import manifest_path, read_listing
from hpcvlm.snapshots.pull.fetch import Source
from hpcvlm.snapshots.pull.hub_api import list_commit
from hpcvlm.snapshots.pull.hub_errors import Hub, hub_of
from hpcvlm.snapshots.pull.needed_files import needed_files
from hpcvlm.snapshots.pull.pull import (
    Access,
    OnProgress,
    Progress,
    PullPlan,
    check_plan,
    plan_pull,
    pull,
)
from hpcvlm.snapshots.pull.space import room_at

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MISTRAL_FORMAT = "mistral"
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What somebody asks to have pulled.

    Attributes:
        name: a model's name, an alias, or ``owner/name``.
        revision: branch, tag, commit or the beginning of one; the model's own when None.
        to: the hub cache; the site's store when None.
        all_files: also those that a server does not need.
    """

    name: str
    revision: str | None = None
    to: str | None = None
    all_files: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Prepared:
    """A pull that can be done.

    Attributes:
        licence: as the hub says; empty where it does not, or was not asked.
        free: bytes that are free in the cache's file system.
    """

    plan: PullPlan
    hub: Hub
    licence: str
    free: int

    @property
    def complete(self) -> bool:
        """Whether everything is there already."""
        return not self.plan.fetch


@dataclass(frozen=True, slots=True, repr=False)
class Pulled:
    """What a pull has done.

    Attributes:
        problems: of the snapshot now, by names, sizes and headers; one sentence each.
        verified: whether it has a manifest.
    """

    plan: PullPlan
    progress: Progress
    problems: tuple[str, ...]
    verified: bool = False


def prepare_pull(request: PullRequest, ctx: Context) -> Prepared:
    """Ask the hub what is wanted, and compare with what is there; nothing is changed.

    Raises:
        HpcvlmError: as `hub_api.list_commit` and `pull.check_plan`.
    """
    site, _ = site_of(ctx)
    wanted = wanted_snapshot(request.name, request.revision, ctx)
    cache = store_folder(site, ctx, request.to)
    hub = hub_of(ctx.environment)
    found = None if request.all_files else _complete_already(wanted, cache)
    licence = ""
    if found is None:
        listed = list_commit(wanted.repo, wanted.revision, hub)
        needed, left_out = needed_files(listed.files, load_format=_load_format(wanted, ctx))
        if request.all_files:
            needed, left_out = list(listed.files), []
        source, licence = Source(wanted.repo, listed.commit, hub), listed.licence
        access = _access(site, cache, ctx)
        found = plan_pull(needed, left_out, source, wanted.revision, cache, access)
        if found.fetch:
            check_plan(found)
    return Prepared(found, hub, licence, room_at(cache).free)


def do_pull(prepared: Prepared, on_progress: OnProgress | None = None) -> Pulled:
    """Fetch what is missing, and look at what is then there.

    Raises:
        HpcvlmError: as `pull.pull`.
    """
    plan = prepared.plan
    if plan.fetch or not _names(plan):
        progress = pull(plan, prepared.hub, on_progress)
    else:
        progress = Progress(len(plan.there), len(plan.there), 0, 0, 0, 0.0)
    problems = snapshot_at(plan.path, plan.repo, plan.commit).problems
    verified = manifest_path(plan.folder, plan.commit).exists()
    return Pulled(plan, progress, problems, verified)


def _names(plan: PullPlan) -> bool:
    """Whether the branch or tag names the commit here, or needs not to."""
    if plan.commit.startswith(plan.revision):
        return True
    try:
        return (plan.folder / "refs" / plan.revision).read_text(encoding="ascii") == plan.commit
    except (OSError, UnicodeDecodeError):
        return False


def _complete_already(wanted: Wanted, cache: Path) -> PullPlan | None:
    """A whole commit that is all there by the list that its pull has kept: no need to ask."""
    if not _COMMIT.fullmatch(wanted.revision):
        return None
    folder = cache / repository_folder_name(wanted.repo)
    try:
        listing = read_listing(folder, wanted.revision)
    except HpcvlmError:
        return None
    source = Source(wanted.repo, wanted.revision, Hub())
    plan = plan_pull(listing or (), (), source, wanted.revision, cache)
    return plan if listing and not plan.fetch else None


def _load_format(wanted: Wanted, ctx: Context) -> str:
    """How the engine is told to load it by the model's file, or by all that serve the repository.

    ``auto`` where nobody says, or not all say the same.
    """
    layers = model_layers(ctx)
    names = [wanted.model] if wanted.model else _models_of(wanted.repo, layers)
    formats = set()
    for name in names:
        try:
            options = apply_settings(find_model(name, layers), ()).spec.options
        except HpcvlmError:
            continue  # a file that says nothing of use; the snapshot was named without it
        is_mistral = options.get("config-format") == _MISTRAL_FORMAT
        formats.add(str(options.get("load-format", _MISTRAL_FORMAT if is_mistral else _AUTO)))
    return formats.pop() if len(formats) == 1 else _AUTO


def _models_of(repo: str, layers: Sequence[Layer]) -> list[str]:
    return [name for _, name in catalog_sources(layers, {repo}, []).get(repo.casefold(), ())]


def _access(site: SiteSpec, cache: Path, ctx: Context) -> Access | None:
    """The store's policy; the user's own cache is theirs, and goes by their umask."""
    own = hub_caches((), ctx.environment, bundled_hub())[0]
    shared = {site.store.folder, *site.hub_caches}
    if cache == own and str(cache) not in shared:
        return None
    return Access(site.store.access, site.store.group)
