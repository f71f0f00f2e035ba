"""hpcvlm containers check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, table

if TYPE_CHECKING:
    from hpcvlm.ops.containers_check import CheckedImage


def check(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION|IMAGE]...", help="All if left out.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model, or all; repeatable.")
    ] = None,
    driver: Annotated[
        str | None, typer.Option(help="NVIDIA driver of the nodes; this machine's if left out.")
    ] = None,
    gpus: Annotated[list[str] | None, typer.Option(help="A type of GPU; repeatable.")] = None,
    as_json: options.Json = False,
) -> None:
    """Tell which models each image can serve, and why not the rest.

    Exit 1 if a model that was named cannot be served by any of the images.
    """
    from hpcvlm.ops.containers_check import CheckRequest
    from hpcvlm.ops.containers_check import check as judge
    from hpcvlm.ops.context import Context

    names = tuple(model or ())
    request = CheckRequest(tuple(images or ()), names, driver, tuple(gpus or ()))
    found = judge(request, Context())
    if as_json:
        data_json([_as_dict(one) for one in found])
    else:
        _show(found)
    if names and "all" not in names and not _all_served(found):
        raise typer.Exit(1)


def _show(found: list[CheckedImage]) -> None:
    rows = [
        (
            fit.model,
            one.version,
            "no" if fit.reasons else ("perhaps" if fit.doubts else "yes"),
            next((finding.sentence for finding in (*fit.reasons, *fit.doubts)), ""),
        )
        for one in found
        for fit in one.fits
    ]
    if rows:
        data(table(("MODEL", "IMAGE", "SERVES", "WHY"), rows, whole=(0, 1)))
    for one in found:
        served = sum(not fit.reasons for fit in one.fits)
        how = "read inside" if one.read else "by its name: hpcvlm containers inspect reads it"
        note(f"{one.image.image}: vLLM {one.version} ({how}), {served} of {len(one.fits)} models")
        for finding in one.findings:
            note(f"  wrong: {finding.sentence}")
            note(f"    try: {finding.remedy}")
        if not one.driver and one.cuda:
            note("  no NVIDIA driver here to compare with; --driver 550.54 names the nodes'")


def _all_served(found: list[CheckedImage]) -> bool:
    served = {fit.model for one in found for fit in one.fits if not fit.reasons}
    asked = {fit.model for one in found for fit in one.fits}
    return bool(asked) and asked <= served


def _as_dict(one: CheckedImage) -> dict[str, object]:
    return {
        "image": one.image.image,
        "version": one.version or None,
        "read": one.read,
        "cuda": one.cuda or None,
        "driver": one.driver or None,
        "problems": [finding._asdict() for finding in one.findings],
        "models": [
            {
                "model": fit.model,
                "serves": not fit.reasons,
                "reasons": [finding._asdict() for finding in fit.reasons],
                "doubts": [finding._asdict() for finding in fit.doubts],
            }
            for fit in one.fits
        ],
    }
