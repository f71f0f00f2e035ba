"""How a model of the catalog is shown."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hpcvlm.cli.output import WIDTH, paint, table

if TYPE_CHECKING:
    from hpcvlm.catalog.schema import ModelSpec
    from hpcvlm.ops.models import CatalogModel

_KIBI = 1024
_LABEL = 20


def billions(count: int | None) -> str:
    """``8.3B``, ``500M``; empty when unknown."""
    if count is None:
        return ""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"  # noqa: PLR2004


def gigabytes(count: int | None) -> str:
    """Decimal gigabytes, as disks and hubs count; empty when unknown."""
    if count is None:
        return ""
    return f"{count / 1e9:.3g} GB" if count < 1e11 else f"{count / 1e9:.0f} GB"  # noqa: PLR2004


def tokens(count: int | None) -> str:
    """``128k`` for 131072, else the number; empty when unknown."""
    if count is None:
        return ""
    return f"{count // _KIBI}k" if count % _KIBI == 0 else str(count)


def versions(text: str) -> str:
    """``0.9.1-0.10.2`` or ``0.11.0+`` for a plain range; any other as it is written."""
    match = re.fullmatch(r">=([\w.]+)(?:,<=([\w.]+))?", text)
    if match is None:
        return text
    return f"{match[1]}-{match[2]}" if match[2] else f"{match[1]}+"


def as_text(model: CatalogModel, variants: Iterable[CatalogModel]) -> str:
    """All that the catalog says of a model, within `WIDTH` columns."""
    spec = model.resolved.spec
    lines = [paint(model.resolved.name, "bold", sys.stdout)]
    if spec.description:
        lines += textwrap.wrap(spec.description, WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines += [line for name, value in _facts(model) for line in _fact(name, value) if value]
    if spec.unsupported is not None:
        lines += ["", *_fact("cannot be served", spec.unsupported.reason)]
        lines += _fact("instead", ", ".join(spec.unsupported.instead))
    rows = [
        (
            one.resolved.name,
            one.resolved.spec.precision or "",
            gigabytes(one.resolved.spec.weight_bytes),
            one.disk,
            one.resolved.spec.snapshot.repo,
        )
        for one in variants
    ]
    if rows:
        header = ("VARIANT", "PRECISION", "WEIGHTS", "ON DISK", "REPOSITORY")
        lines += ["", table(header, rows, whole=(0,))]
    if spec.sources:
        lines += ["", paint("Where the facts are from", "bold", sys.stdout)]
        for name, source in spec.sources.items():
            lines += _fact(name, source)
    return "\n".join(lines)


def _facts(model: CatalogModel) -> Iterator[tuple[str, str]]:
    spec = model.resolved.spec
    yield "aliases", ", ".join(spec.aliases)
    yield "repository", spec.snapshot.repo
    yield "revision", spec.snapshot.revision
    yield "on disk", _disk(model)
    yield "licence", spec.licence
    yield "gated", "yes: accept its terms on the hub before a download" if spec.gated else ""
    yield "architecture", spec.architecture or ""
    yield "parameters", _parameters(spec)
    yield (
        "weights",
        " ".join(part for part in (gigabytes(spec.weight_bytes), spec.precision) if part),
    )
    yield "context", tokens(spec.context_length)
    yield "engine", f"{spec.engine.name} {spec.engine.versions}"
    yield "", spec.engine.reason
    yield "GPUs", ", ".join(f"{kind}:{count}" for kind, count in spec.parallelism.gpus.items())
    yield "tensor parallel", ", ".join(str(size) for size in spec.parallelism.sizes)
    limits = spec.multimodal.limit_per_prompt.items()
    yield "per prompt", ", ".join(f"{count} {kind}" for kind, count in limits) or "text only"
    yield "tokens per image", _image_tokens(spec)
    yield "tool calls", spec.chat.tools or ""
    yield "reasoning", spec.chat.reasoning or ""
    yield "custom code", spec.custom_code or ""
    runs = (f"{run.date} on {run.gpus}, {spec.engine.name} {run.engine}" for run in spec.verified)
    yield "verified", "; ".join(runs) or "no run yet"
    files = model.resolved.files
    yield "written in", ", ".join(f"{path} ({label})" for label, path in files.items())


def _parameters(spec: ModelSpec) -> str:
    active = f", {billions(spec.active_parameters)} active" if spec.active_parameters else ""
    return f"{billions(spec.parameters)}{active}" if spec.parameters else ""


def _image_tokens(spec: ModelSpec) -> str:
    counted = spec.multimodal.tokens_per_image
    most = f"at most {counted.most}" if counted.most else ""
    return "; ".join(part for part in (most, counted.rule) if part)


def _disk(model: CatalogModel) -> str:
    if model.snapshot is None:
        return "no"
    problems = f" ({'; '.join(model.snapshot.problems[:2])})" if model.snapshot.problems else ""
    return f"{model.disk}, {model.snapshot.path}{problems}"


def _fact(name: str, value: str) -> list[str]:
    """A name and its value; the value goes on below itself."""
    label = f"  {name:<{_LABEL}}" if len(name) < _LABEL else f"  {name} "
    return textwrap.wrap(
        value,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * (_LABEL + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
