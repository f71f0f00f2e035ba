"""The site: from layers of site files and what the user typed to one checked SiteSpec."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile.layers import check, merge, read_part, sources
from hpcvlm.yamlfile.settings import read_settings


def load_site(
    texts: Sequence[tuple[str, str, str]], settings: Sequence[str] = ()
) -> tuple[SiteSpec, dict[str, str]]:
    """The site, and where each value came from.

    Args:
        texts: (label, path, text) of each site file, lowest first; none at all is a site where
            everything is Slurm's own default.
        settings: ``key=value`` texts from the command line.

    Returns:
        The site, and by dotted key a file's label, ``command line`` or ``default``.

    Raises:
        HpcvlmError: ``file-invalid`` or ``setting-invalid``.
    """
    parts = [read_part(label, path, text) for label, path, text in texts]
    merged = merge([*parts, *read_settings(SiteSpec, settings)])
    site = check(SiteSpec, merged)
    return site, sources(site, merged)
