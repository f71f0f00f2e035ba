"""Reads an image once: its digest, and what the software in it says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.containers import commands
from hpcvlm.containers.judge import file_findings, version_finding
from hpcvlm.containers.model import FileKey, Finding, ImageFacts, Remembered, SifHeader
from hpcvlm.containers.parse import VERSION_LABEL, last_words, parse_facts, parse_labels
from hpcvlm.containers.store import file_key, sha256_of
from hpcvlm.doctor.commands import container
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_find import SiteImage, find_image, in_files, look_at, store_of
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.site.schema import SiteSpec
from hpcvlm.system.process import Completed

OnBytes = Callable[[int, int], None]
_START_TIMEOUT_S = 180.0
_LABELS_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """One image as it is.

    Attributes:
        size: bytes.
        digest: SHA-256 of the file; of docker and podman their own id.
        built: seconds since the epoch, None if unknown.
        source: where it was pulled or built from, if hpcvlm did that.
        findings: what is wrong with it.
    """

    image: SiteImage
    size: int
    digest: str
    built: float | None
    facts: ImageFacts | None
    labels: dict[str, str]
    header: SifHeader | None
    source: str
    findings: tuple[Finding, ...]


def nothing_said(_done: int, _all: int) -> None:
    """Progress that nobody wants to see."""


def inspect(text: str, ctx: Context, on_bytes: OnBytes = nothing_said) -> Inspected:
    """Everything that one image says.

    Args:
        text: a version or an image.
        ctx: the outside.
        on_bytes: told the bytes read so far and all of them, while the digest is made.

    Raises:
        HpcvlmError: ``container-missing``, ``container-invalid``.
    """
    site, _ = site_of(ctx)
    return inspect_image(find_image(text, site, ctx), site, ctx, on_bytes)


def inspect_image(
    image: SiteImage, site: SiteSpec, ctx: Context, on_bytes: OnBytes = nothing_said
) -> Inspected:
    """As `inspect`, of an image that is known."""
    if not in_files(site):
        return _kept(image, site, ctx)
    path = Path(image.image)
    seen, header = look_at(path)
    wrong = file_findings(image.image, image.said, seen)
    if any(one.code != "container-writable" for one in wrong):
        first = wrong[0]
        raise HpcvlmError(first.code, first.sentence, first.remedy)
    remembered = None if seen.is_folder else remembered_now(path, ctx, on_bytes)
    digest = remembered.digest if remembered else ""
    facts, problem = facts_of(image, digest, site, ctx)
    labels = labels_of(image.image, site, ctx)
    wrong += _version(image, facts, labels, problem)
    return Inspected(
        image,
        seen.size,
        digest,
        header.created if header else None,
        facts,
        labels,
        header,
        remembered.source if remembered else "",
        tuple(wrong),
    )


def remembered_now(path: Path, ctx: Context, on_bytes: OnBytes = nothing_said) -> Remembered:
    """What is remembered of a file; it is read, and remembered, where that is nothing.

    Raises:
        HpcvlmError: ``container-invalid`` for a file that cannot be read or does not keep still.
    """
    store = store_of(ctx)
    found = store.now(path)
    if found is not None:
        return found
    key, digest = read_digest(path, on_bytes)
    last = store.last(path)
    same = last is not None and last.digest == digest
    kept = last if same and last is not None else Remembered(key, digest, ctx.clock.now())
    kept = kept._replace(key=key)
    with suppress(OSError):  # read again next time
        store.remember(kept)
    return kept


def read_digest(path: Path, on_bytes: OnBytes = nothing_said) -> tuple[FileKey, str]:
    """SHA-256 of an image, and the state of the file that it is of.

    Raises:
        HpcvlmError: ``container-invalid``.
    """
    try:
        key = file_key(path)
        digest = sha256_of(path, lambda done: on_bytes(done, key.size))
        same = file_key(path) == key
    except OSError as error:
        sentence = f"{path} cannot be read: {error.strerror}"
        raise HpcvlmError("container-invalid", sentence, f"ls -l {path}") from None
    if not same:
        sentence = f"{path} was written while it was read"
        raise HpcvlmError("container-invalid", sentence, "try again when it is whole")
    return key, digest


def facts_of(
    image: SiteImage, digest: str, site: SiteSpec, ctx: Context
) -> tuple[ImageFacts | None, str]:
    """The facts, remembered or asked for; and why there are none."""
    if site.runtime == "none":
        return None, "the site file says 'runtime: none'"
    argv = (
        *container(site, image.install, gpus=False),
        *commands.facts(image.install.name, image.install.command),
    )
    # Binds can bring other software into the same image.
    place = {image.image: "IMAGE"}
    how = hashlib.sha256(json.dumps([place.get(word, word) for word in argv]).encode()).hexdigest()
    store = store_of(ctx)
    if digest and (known := store.facts(digest, how)) is not None:
        return known, ""
    done = ctx.runner(argv, env=dict(ctx.environment), timeout_s=_START_TIMEOUT_S)
    facts = parse_facts(done.stdout) if done.code == 0 else None
    if facts is None:
        return None, last_words(done.stderr) or f"{site.runtime} ended with {done.code}"
    if digest:
        with suppress(OSError):
            store.remember_facts(digest, how, facts)
    return facts, ""


def known_facts(image: SiteImage, digest: str, site: SiteSpec, ctx: Context) -> ImageFacts | None:
    """The facts if they are remembered; nothing is started."""

    def refuse(*_: object, **__: object) -> Completed:
        return Completed(1, "", "")

    quiet = Context(ctx.settings, ctx.environment, refuse, ctx.clock)
    return facts_of(image, digest, site, quiet)[0] if digest else None


def labels_of(image: str, site: SiteSpec, ctx: Context) -> dict[str, str]:
    """The image's labels; none where the runtime cannot tell."""
    if site.runtime == "none":
        return {}
    argv = commands.labels(site.runtime, image)
    done = ctx.runner(argv, env=dict(ctx.environment), timeout_s=_LABELS_TIMEOUT_S)
    return parse_labels(done.stdout) if done.code == 0 else {}


def _version(
    image: SiteImage, facts: ImageFacts | None, labels: dict[str, str], problem: str
) -> list[Finding]:
    if facts is None:
        sentence = f"{image.image} does not tell what is in it: {problem}"
        remedy = "look for missing 'binds:' or a wrong 'command:' of this engine in the site file"
        return [Finding("container-facts", sentence, remedy)]
    if not facts.engine:
        return [
            Finding(
                "container-facts",
                f"the Python of {image.image} has no package {image.install.name}",
                "name the engine's own command as 'command:' under 'engines:' in the site file",
            )
        ]
    said = image.said or labels.get(VERSION_LABEL, "")
    wrong = version_finding(image.image, said, facts.engine, "asked inside")
    return [wrong] if wrong else []


def _kept(image: SiteImage, site: SiteSpec, ctx: Context) -> Inspected:
    """An image that docker or podman keep."""
    entry = kept_entry(image.image, site, ctx)
    if entry is None:
        raise HpcvlmError(
            "container-missing",
            f"{site.runtime} has no image {image.image}",
            f"{site.runtime} pull {image.image}",
        )
    digest, size, labels = entry
    facts, problem = facts_of(image, digest, site, ctx)
    findings = tuple(_version(image, facts, labels, problem))
    return Inspected(image, size, digest, None, facts, labels, None, "", findings)


def kept_entry(image: str, site: SiteSpec, ctx: Context) -> tuple[str, int, dict[str, str]] | None:
    """Id, size and labels of an image that docker or podman keep; None where they have none."""
    argv = commands.kept_image(site.runtime, image)
    done = ctx.runner(argv, env=dict(ctx.environment), timeout_s=_LABELS_TIMEOUT_S)
    try:
        (entry,) = json.loads(done.stdout)
        digest = str(entry["Id"]).removeprefix("sha256:")
        config = entry.get("Config") or {}
        labels = {str(key): str(value) for key, value in (config.get("Labels") or {}).items()}
        return digest, int(entry.get("Size") or 0), labels
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
