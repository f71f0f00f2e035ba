"""How the memory arithmetic is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpcvlm.cli.output import data, data_json, note, paint, table

if TYPE_CHECKING:
    from hpcvlm.memory.estimate import MemoryEstimate
    from hpcvlm.ops.models_fit import FitTable
    from hpcvlm.plan.model import MemoryFit

_GIB = 1 << 30
_KIB = 1 << 10
_NAMES = {"kv": "left for the KV cache"}


def fit_report(model: str, fit: MemoryFit, *, as_json: bool) -> None:
    """Print the arithmetic for the GPUs that were named."""
    if as_json:
        data_json({"model": model, **memory_json(fit)})
        return
    data("\n".join([model, *memory_text(fit)]))


def table_report(found: FitTable, *, as_json: bool) -> None:
    """Print the fewest GPUs of each usual type."""
    rows = [(gpu.name, gpu.total_bytes, fewest) for gpu, fewest in found.fewest]
    if as_json:
        keys = ("gpu", "total_bytes", "fewest")
        lines = [dict(zip(keys, row, strict=True)) for row in rows]
        data_json({"model": found.model, "gpus": lines, "unknown": found.unknown})
        return
    header = ("GPU", "MEMORY", "FEWEST OF THEM")
    shown = [
        (name, f"{total / _GIB:.1f} GiB", "none up to 16" if fewest is None else str(fewest))
        for name, total, fewest in rows
    ]
    data(table(header, shown))
    if found.unknown:
        note(f"not known, and not counted: {', '.join(found.unknown)}")
    note(f"for the arithmetic: hpcvlm models fit {found.model} --gpus {rows[0][0]}:1")


def memory_text(fit: MemoryFit) -> Iterator[str]:
    """The arithmetic of every GPU that may be meant, the verdicts, and what would help."""
    if len(fit.estimates) > 1:
        names = " or ".join(found.gpu.name for found in fit.estimates)
        yield f"  The name says not which GPU is meant: {names}."
    for found in fit.estimates:
        yield f"  {_heading(found)}"
        yield from (f"    {line}" for line in _lines(found))
    if fit.unknown:
        yield f"  No verdict: {fit.unknown}."
    if fit.advice:
        from hpcvlm.plan.memory import advice_words

        yield "  What would make it fit, each by itself:"
        yield from (f"    {advice_words(one)}" for one in fit.advice)


def memory_json(fit: MemoryFit) -> dict[str, object]:
    """The same for machines; sizes in bytes."""
    return {
        "fits": fit.fits,
        "unknown": fit.unknown or None,
        "estimates": [dataclasses.asdict(found) for found in fit.estimates],
        "advice": [
            {"kind": one.kind, "change": one.change, "value": one.value} for one in fit.advice
        ],
    }


def _heading(found: MemoryEstimate) -> str:
    share = "" if found.tensor_parallel == 1 else f", each of {found.tensor_parallel}"
    return f"{found.gpu.name}{share}, vLLM {found.engine_version}"


def _lines(found: MemoryEstimate) -> Iterator[str]:
    total, share = found.gpu.total_bytes, found.gpu_memory_utilization
    yield _row("may be taken", found.requested, f"{share:.0%} of {total / _GIB:.1f} GiB")
    for line in found.lines:
        mark = "" if line.exact else "about "
        yield _row(_NAMES.get(line.name, line.name), line.bytes, line.note, mark)
    if found.kv_tokens is not None and found.bytes_per_token:
        per_token = f"{found.bytes_per_token / _KIB:.4g} KiB"
        yield f"{'KV cache size':<24}{found.kv_tokens:>16,} tokens, {per_token} for one more"
    yield _verdict(found)
    largest = found.largest_max_model_len
    if largest:
        together = _together(found.concurrency_at_largest)
        yield f"{'longest context':<24}{largest:>16,} tokens{together}"


def _row(name: str, size: int | None, note: str, mark: str = "") -> str:
    shown = "unknown" if size is None else f"{mark}{size / _GIB:.2f} GiB"
    return f"{name:<24}{shown:>16}  {note}".rstrip()


def _verdict(found: MemoryEstimate) -> str:
    import sys

    if found.fits is None:
        return paint("nobody can say whether it fits", "yellow", sys.stdout)
    if found.fits:
        together = _together(found.concurrency)
        fits = paint(f"{'it fits':<24}", "green", sys.stdout)
        return f"{fits}{found.max_model_len:>16,} tokens{together}"
    return paint(f"it does not fit: {'; '.join(found.reasons)}", "red", sys.stdout)


def _together(concurrency: float | None) -> str:
    return "" if concurrency is None else f", {concurrency:.2f} such requests at once"
