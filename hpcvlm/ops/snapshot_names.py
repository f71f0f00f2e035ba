"""Which snapshot a word on the command line means."""

from __future__ import annotations

from typing import NamedTuple

from hpcvlm.catalog.load import apply_settings, find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers

DEFAULT_REVISION = "main"


class Wanted(NamedTuple):
    """A snapshot that somebody named.

    Attributes:
        repo: ``owner/name``.
        revision: a branch, tag, commit or the beginning of a commit.
        model: the model of the catalog that was named; empty for a repository of no model, or of
            several.
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
    is_repository = text.count("/") == 1 and all(text.split("/")) and ":" not in text
    if is_repository and not _is_in_catalog(text, ctx):
        return Wanted(text, revision or DEFAULT_REVISION)
    try:
        resolved = apply_settings(find_model(text, model_layers(ctx)), ())
    except HpcvlmError as error:
        if error.code not in {"model-unknown", "model-ambiguous"} or not is_repository:
            raise
        return Wanted(text, revision or _agreed_revision(text, ctx))
    source = resolved.spec.snapshot
    return Wanted(source.repo, revision or source.revision, resolved.name)


def _is_in_catalog(repo: str, ctx: Context) -> bool:
    """Whether any model file holds the name; only then need the files be parsed."""
    word = repo.casefold()
    folders = [layer.folder for layer in model_layers(ctx)]
    return any(word in (f.read(name) or "").casefold() for f in folders for name in f.names())


def _agreed_revision(repo: str, ctx: Context) -> str:
    """The revision that all models of a repository name; ``main`` where there is no such one."""
    from hpcvlm.ops.snapshots_ls import catalog_sources  # which needs this module

    sources = catalog_sources(model_layers(ctx), {repo}, []).get(repo.casefold(), ())
    revisions = {revision for revision, _ in sources}
    return revisions.pop() if len(revisions) == 1 else DEFAULT_REVISION
