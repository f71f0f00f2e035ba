"""hpcvlm containers ls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, table
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from hpcvlm.ops.containers_list import ListedImage

_SHORT = 12


def ls(as_json: options.Json = False) -> None:
    """List the images of this site.

    Nothing is started, and nothing large is read.
    """
    from hpcvlm.ops.containers_list import list_images
    from hpcvlm.ops.context import Context

    images, left = list_images(Context())
    if as_json:
        data_json(
            {"images": [_as_dict(one) for one in images], "leftovers": [str(p) for p in left]}
        )
        return
    if not images:
        note("no image here; hpcvlm containers build VERSION makes one")
    else:
        header = ("VERSION", "HOLDS", "CUDA", "SIZE", "BUILT", "SIGNED", "SHA256", "IMAGE", "STATE")
        data(table(header, [_row(one) for one in images], whole=(0, 6)))
    for one in images:
        for finding in one.findings:
            note(f"{one.image.typed}: {finding.sentence}")
            note(f"  try: {finding.remedy}")
    for path in left:
        note(f"left by a build that did not end: {path}; if none runs: rm {path}")


def _row(one: ListedImage) -> tuple[str, ...]:
    facts = one.facts
    cuda = (facts.cuda or (f"rocm {facts.hip}" if facts.hip else "none")) if facts else "?"
    return (
        one.image.said or "?",
        (facts.engine or "none") if facts else "?",
        cuda,
        bytes_text(one.size) if one.size else "-",
        day(one.built) or "-",
        _signed(one),
        one.digest[:_SHORT] or "?",
        one.image.image.rpartition("/")[2],
        one.findings[0].code.removeprefix("container-") if one.findings else "ok",
    )


def _signed(one: ListedImage) -> str:
    if one.signers:
        return f"by {one.signers[0][-8:]}"
    return "unverified" if one.signatures else "no"


def day(seconds: float | None) -> str:
    """``2026-11-21``; empty if unknown."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _as_dict(one: ListedImage) -> dict[str, object]:
    return {
        "engine": one.image.install.name,
        "version": one.image.said or None,
        "image": one.image.image,
        "listed": one.image.listed,
        "size": one.size,
        "built": one.built,
        "sha256": one.digest or None,
        "facts": one.facts._asdict() if one.facts else None,
        "signatures": one.signatures,
        "claimed_signers": list(one.claimed),
        "verified_signers": list(one.signers),
        "problems": [finding._asdict() for finding in one.findings],
    }
