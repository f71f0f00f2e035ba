"""The files of this user on this cluster: of the site, and of models."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.catalog.load import Layer
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.resources import shipped_models
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import SiteSpec
from hpcvlm.system.files import FolderOfTexts, read_text


def site_texts(ctx: Context) -> list[tuple[str, str, str]]:
    """(label, path, text) of the site files that are there, lowest first.

    Raises:
        HpcvlmError: ``file-unreadable``.
    """
    texts = []
    for label, path in (
        ("site", ctx.settings.site_file),
        ("user", ctx.settings.user_config / "site.yaml"),
    ):
        text = read_text(path)
        if text is not None:
            texts.append((label, str(path), text))
        elif path.exists():
            raise HpcvlmError("file-unreadable", f"{path} cannot be read", f"ls -l {path}")
    return texts


def model_layers(ctx: Context) -> list[Layer]:
    """The catalog's layers, lowest first: shipped, the site's, the user's."""
    settings = ctx.settings
    return [
        Layer("shipped", FolderOfTexts(shipped_models())),
        Layer("site", FolderOfTexts(settings.site_file.parent / "models")),
        Layer("user", FolderOfTexts(settings.user_config / "models")),
    ]


def site_of(ctx: Context, settings: Sequence[str] = ()) -> tuple[SiteSpec, dict[str, str]]:
    """The site as its files, the environment and settings describe it, and each value's source."""
    return load_site(site_texts(ctx), settings, ctx.environment)
