"""Which snapshot a word on the command line means."""

from __future__ import annotations

from typing import NamedTuple

from hpcvlm.catalog.load import apply_settings, find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches, store_folder
from hpcvlm.ops.context import Context
from hpcvlm.ops.prepare import model_layers

__all__ = ["DEFAULT_REVISION", "Wanted", "searched_caches", "store_folder", "wanted_snapshot"]
DEFAULT_REVISION = "main"


class Wanted(NamedTuple):
    """A snapshot that somebody named.

    Attributes:
        repo: ``owner/name``.
        revision: a branch, tag, commit or the beginning of a commit.
        model: the model of the catalog that was named; empty for a repository of no model.
    """

    repo: str
    revision: str
    model: str = ""


def wanted_snapshot(text: str, revision: str | None, ctx: Context) -> Wanted:
    """The snapshot that a model's name, an alias or a repository means.

    Args:
        text: ``NAME``, ``NAME:VARIANT``, an alias, or ``owner/name``.
        revision: the user's; the model's own, else ``main``, when None.
        ctx: the outside.

    Raises:
        HpcvlmError: ``model-unknown`` for a word that is neither a model nor a repository.
    """
    try:
        resolved = apply_settings(find_model(text, model_layers(ctx)), ())
    except HpcvlmError as error:
        if error.code == "model-unknown" and text.count("/") == 1 and all(text.split("/")):
            return Wanted(text, revision or DEFAULT_REVISION)
        raise
    source = resolved.spec.snapshot
    return Wanted(source.repo, revision or source.revision, resolved.name)
