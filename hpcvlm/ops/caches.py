"""Which hub caches are searched for snapshots, and which one new snapshots go to."""

from __future__ import annotations

from pathlib import Path

from hpcvlm.ops.context import Context
from hpcvlm.resources import bundled_hub
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import hub_caches


def searched_caches(site: SiteSpec, ctx: Context, *, bundled: bool = False) -> list[Path]:
    """The site's caches, its store, the user's own; hpcvlm's bundled one only when asked for."""
    names = [*site.hub_caches]
    if site.store.folder and site.store.folder not in names:
        names.insert(0, site.store.folder)
    caches = hub_caches(names, ctx.environment, bundled_hub())
    return caches if bundled else caches[:-1]


def store_folder(site: SiteSpec, ctx: Context, to: str | None = None) -> Path:
    """The cache that new snapshots go to: what was asked for, the site's, the user's own."""
    if to is not None:
        return Path(to).expanduser().absolute()
    return searched_caches(site, ctx)[0]
