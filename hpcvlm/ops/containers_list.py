"""The images of a site at a glance: nothing is started, and nothing large is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcvlm.containers.judge import file_findings, version_finding
from hpcvlm.containers.model import Finding, ImageFacts
from hpcvlm.ops.containers_find import (
    SiteImage,
    in_files,
    leftovers,
    look_at,
    site_images,
    store_of,
)
from hpcvlm.ops.containers_inspect import kept_entry, known_facts
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.site.schema import SiteSpec


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One line.

    Attributes:
        size: bytes.
        built: seconds since the epoch, None if unknown.
        digest: as it was when it was last read; empty if the file has changed since, or nobody
            has read it.
        facts: as they were last read; None if nobody has.
        claimed: fingerprints of the keys that the file says it is signed by.
        signatures: how many signatures it carries.
        signers: of those, the keys that a verification of this very file found good.
        findings: what is wrong with it.
    """

    image: SiteImage
    size: int = 0
    built: float | None = None
    digest: str = ""
    facts: ImageFacts | None = None
    claimed: tuple[str, ...] = ()
    signatures: int = 0
    signers: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def list_images(ctx: Context) -> tuple[list[ListedImage], list[Path]]:
    """Every image of the site file and of the image folder, and what failed builds have left."""
    site, _ = site_of(ctx)
    look = _file if in_files(site) else _kept
    images = [look(image, site, ctx) for image in site_images(site, ctx)]
    return images, leftovers(site, ctx) if in_files(site) else []


def _file(image: SiteImage, site: SiteSpec, ctx: Context) -> ListedImage:
    path = Path(image.image)
    seen, header = look_at(path)
    findings = file_findings(image.image, image.said, seen)
    store = store_of(ctx)
    last, now = store.last(path), store.now(path)
    facts = known_facts(image, now.digest, site, ctx) if now else None
    if last is not None and now is None and not seen.problem:
        sentence = f"{image.image} has been written since it was last read"
        findings.append(
            Finding("container-changed", sentence, f"hpcvlm containers verify {image.typed}")
        )
    if facts is not None:
        wrong = version_finding(image.image, image.said, facts.engine, "asked inside")
        findings += [wrong] if wrong else []
    return ListedImage(
        image,
        seen.size,
        header.created if header else None,
        now.digest if now else "",
        facts,
        header.signers if header else (),
        header.signatures if header else 0,
        now.signers if now else (),
        tuple(findings),
    )


def _kept(image: SiteImage, site: SiteSpec, ctx: Context) -> ListedImage:
    entry = kept_entry(image.image, site, ctx)
    if entry is None:
        sentence = f"{site.runtime} has no image {image.image}"
        missing = Finding("container-missing", sentence, f"{site.runtime} pull {image.image}")
        return ListedImage(image, findings=(missing,))
    digest, size, _ = entry
    return ListedImage(image, size, digest=digest, facts=known_facts(image, digest, site, ctx))
