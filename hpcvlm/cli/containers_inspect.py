"""hpcvlm containers inspect, verify and sign: what one image is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.containers_ls import day
from hpcvlm.cli.output import data, data_json, note
from hpcvlm.cli.sizes import bytes_text

if TYPE_CHECKING:
    from hpcvlm.containers.model import Finding
    from hpcvlm.ops.containers_inspect import Inspected
    from hpcvlm.ops.containers_verify import Verified

Image = Annotated[str, typer.Argument(metavar="VERSION|IMAGE", help="A version, or an image.")]


def inspect(image: Image, as_json: options.Json = False) -> None:
    """Show what is in an image; it is read once, and remembered.

    Exit 1 if something is wrong.
    """
    from hpcvlm.cli.containers_progress import ImageProgress
    from hpcvlm.ops.containers_inspect import inspect as look
    from hpcvlm.ops.context import Context

    with ImageProgress() as progress:
        found = look(image, Context(), progress.on_bytes)
    show(found, as_json=as_json)
    if found.findings:
        raise typer.Exit(1)


def show(found: Inspected, *, as_json: bool) -> None:
    """Everything that is known of an image."""
    if as_json:
        data_json(_as_dict(found))
        return
    facts, header = found.facts, found.header
    rows = [
        ("image", found.image.image),
        ("engine", f"{found.image.install.name} {facts.engine}" if facts and facts.engine else ""),
        ("site's word", found.image.said),
        ("CUDA", facts.cuda if facts else ""),
        ("ROCm", facts.hip if facts else ""),
        ("torch", facts.torch if facts else ""),
        ("transformers", facts.transformers if facts else ""),
        ("Python", facts.python if facts else ""),
        ("architecture", facts.architecture if facts else (header.architecture if header else "")),
        ("size", bytes_text(found.size) if found.size else ""),
        ("built", day(found.built)),
        ("sha256", found.digest),
        ("from", found.source),
        ("signed by", ", ".join(header.signers) if header else ""),
    ]
    data("\n".join(f"{name:<14}{value}" for name, value in rows if value))
    for key, value in sorted(found.labels.items()):
        data(f"  {key}: {value.strip()}")
    _wrong(found.findings)


def verify(
    image: Image,
    accept: Annotated[
        bool, typer.Option("--accept", help="A replaced file is from now on the expected one.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Read every byte: signature, digest, version.

    Exit 1 if something is wrong.
    """
    from hpcvlm.cli.containers_progress import ImageProgress
    from hpcvlm.ops.containers_verify import verify as check
    from hpcvlm.ops.context import Context

    with ImageProgress() as progress:
        found = check(image, Context(), accept=accept, on_bytes=progress.on_bytes)
    _report(found, as_json=as_json)


def sign(
    image: Image,
    key: Annotated[
        int | None, typer.Option(help="The key's number in: apptainer key list --secret.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Sign an image with a key of yours, then verify it.

    The key is of the runtime's own keyring.
    """
    from hpcvlm.cli.containers_progress import ImageProgress
    from hpcvlm.ops.containers_verify import sign as put
    from hpcvlm.ops.context import Context

    with ImageProgress() as progress:
        found = put(image, Context(), key=key, on_bytes=progress.on_bytes)
    _report(found, as_json=as_json)


def _report(found: Verified, *, as_json: bool) -> None:
    if as_json:
        data_json(_verified_dict(found))
    else:
        data(f"image      {found.image.image}")
        data(f"sha256     {found.digest}{_since(found)}")
        data(f"signature  {_signature(found)}")
        if found.engine:
            data(f"engine     {found.image.install.name} {found.engine}")
        _wrong(found.findings)
        if not found.findings:
            data("result     ok")
    if found.findings:
        raise typer.Exit(1)


def _since(found: Verified) -> str:
    if any(finding.code == "container-altered" for finding in found.findings):
        return ""
    if found.known_since is None:
        return " (read for the first time)"
    return f" (as on {day(found.known_since)})"


def _signature(found: Verified) -> str:
    seen = found.signature
    if seen is None or not seen.signatures:
        return "none"
    if seen.signers:
        names = {one.fingerprint: one.name for one in seen.seen}
        return "; ".join(f"good, by {one} {names[one]}" for one in seen.signers)
    return f"not good: {seen.said}"


def _wrong(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        note(f"wrong: {finding.sentence}")
        if finding.remedy:
            note(f"  try: {finding.remedy}")


def _as_dict(found: Inspected) -> dict[str, object]:
    return {
        "image": found.image.image,
        "version": found.image.said or None,
        "size": found.size,
        "built": found.built,
        "sha256": found.digest or None,
        "facts": found.facts._asdict() if found.facts else None,
        "labels": found.labels,
        "source": found.source or None,
        "claimed_signers": list(found.header.signers) if found.header else [],
        "problems": [finding._asdict() for finding in found.findings],
    }


def _verified_dict(found: Verified) -> dict[str, object]:
    seen = found.signature
    return {
        "image": found.image.image,
        "sha256": found.digest,
        "known_since": found.known_since,
        "signatures": seen.signatures if seen else 0,
        "signers": list(seen.signers) if seen else [],
        "engine": found.engine or None,
        "ok": not found.findings,
        "problems": [finding._asdict() for finding in found.findings],
    }
