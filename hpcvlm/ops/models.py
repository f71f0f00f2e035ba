"""The catalog as this machine sees it: which models there are, and which are on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.catalog.load import Resolved, all_models, find_model, variants
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.snapshots.hub import Snapshot, find_snapshot, snapshot_at

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One model, or one variant of it, and what of it is on disk.

    Attributes:
        resolved: the checked file.
        snapshot: the first of the hub caches that has it; None when none has.
    """

    resolved: Resolved
    snapshot: Snapshot | None

    @property
    def disk(self) -> str:
        """``yes``, ``no``, or ``incomplete``."""
        if self.snapshot is None:
            return "no"
        return "incomplete" if self.snapshot.problems else "yes"


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which models are wanted; None and False want all.

    Attributes:
        vision: only those that take images.
        on_disk: only those whose snapshot is complete here.
        max_parameters: only those that have no more.
        fits: only those that fit on these GPUs, ``TYPE:NUMBER``.
    """

    vision: bool = False
    on_disk: bool = False
    max_parameters: int | None = None
    fits: str | None = None


def list_models(ctx: Context, wanted: ModelFilter, *, with_variants: bool) -> list[CatalogModel]:
    """The models of all layers that pass a filter, by name.

    Args:
        ctx: the outside.
        wanted: the filter; a model whose file does not say what is asked for does not pass.
        with_variants: each variant as a model of its own, too.

    Raises:
        HpcvlmError: ``file-invalid``.
    """
    caches = _caches(ctx)
    found: list[CatalogModel] = []
    for model in all_models(model_layers(ctx)):
        family = [model, *(variants(model) if with_variants or wanted.on_disk else ())]
        found += [_on_disk(one, caches) for one in family]
    passed = [one for one in found if _passes(one, wanted)]
    if wanted.fits is None:
        return passed
    from hpcvlm.ops.models_fit import fits_on

    served = (one for one in passed if one.resolved.spec.unsupported is None)
    return [one for one in served if fits_on(one.resolved, wanted.fits, ctx)]


def show_model(name: str, ctx: Context) -> tuple[CatalogModel, list[CatalogModel]]:
    """One model, and its variants.

    Raises:
        HpcvlmError: as `hpcvlm.catalog.load.find_model`.
    """
    model = find_model(name, model_layers(ctx))
    caches = _caches(ctx)
    others = [] if model.variant is not None else variants(model)
    return _on_disk(model, caches), [_on_disk(one, caches) for one in others]


def parse_parameters(text: str, flag: str) -> int:
    """``7B``, ``500M`` or a number as a count of parameters.

    Raises:
        HpcvlmError: ``option-invalid``.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise HpcvlmError(
            "option-invalid",
            f"{flag} {text!r} is no number of parameters",
            f"for example {flag} 10B or {flag} 500M",
        )
    return round(float(match[1]) * _UNITS[match[2].upper()])


def validate_file(path: Path, ctx: Context) -> None:
    """Check one model file, each of its variants, and what its values say together.

    A file that changes a model of another layer needs to say only what is different there.

    Raises:
        HpcvlmError: ``file-unreadable``, or ``file-invalid`` with every problem.
    """
    from hpcvlm.catalog.rules import problems_of

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HpcvlmError("file-unreadable", f"cannot read {path}: {error}") from None
    problems = problems_of(text, str(path), model_layers(ctx))
    if len(problems) == 1:
        raise HpcvlmError("file-invalid", problems[0])
    if problems:
        count = f"{path}: {len(problems)} problems"
        raise HpcvlmError("file-invalid", count, details=tuple(problems))


def in_cache(model: Resolved, ctx: Context) -> CatalogModel:
    """A model with what of it is on disk."""
    return _on_disk(model, _caches(ctx))


def _caches(ctx: Context) -> list[Path]:
    site, _ = site_of(ctx)
    return searched_caches(site, ctx, bundled=True)


def _on_disk(model: Resolved, caches: Sequence[Path]) -> CatalogModel:
    source = model.spec.snapshot
    if source.path is not None:
        folder = Path(source.path).expanduser()
        held = snapshot_at(folder, source.repo, source.revision) if folder.is_dir() else None
        return CatalogModel(model, held)
    return CatalogModel(model, find_snapshot(source.repo, source.revision, caches))


def _passes(model: CatalogModel, wanted: ModelFilter) -> bool:
    spec = model.resolved.spec
    if wanted.vision and not spec.vision:
        return False
    if wanted.on_disk and model.disk != "yes":
        return False
    limit = wanted.max_parameters
    return limit is None or (spec.parameters is not None and spec.parameters <= limit)
