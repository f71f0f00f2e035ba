"""Verifies images, signs them, and tells a launch whether it may use one."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hpcvlm.containers import commands
from hpcvlm.containers.judge import (
    changed_finding,
    file_findings,
    policy_findings,
    signature_findings,
    version_finding,
)
from hpcvlm.containers.model import FileKey, Finding, Remembered, Verification
from hpcvlm.containers.parse import parse_verification
from hpcvlm.containers.run import run_in_terminal
from hpcvlm.containers.store import file_key
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_find import SiteImage, find_image, in_files, look_at, store_of
from hpcvlm.ops.containers_inspect import OnBytes, facts_of, nothing_said, read_digest
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.plan.model import Issue
from hpcvlm.site.schema import SiteSpec

# Findings that say that an image is not what it was; they are not remembered as its state.
_ALTERED = "container-altered"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    Attributes:
        digest: SHA-256 of the file now.
        known_since: when this digest was first read here, seconds since the epoch; None if now.
        signature: what the runtime said; None where it was not asked.
        engine: version of the engine in it; empty if it could not be asked.
        findings: what is wrong; empty if nothing is.
    """

    image: SiteImage
    digest: str
    known_since: float | None
    signature: Verification | None
    engine: str
    findings: tuple[Finding, ...]


def verify(
    text: str, ctx: Context, *, accept: bool = False, on_bytes: OnBytes = nothing_said
) -> Verified:
    """Read every byte of an image, and compare it with what is known of it.

    Args:
        text: a version or an image.
        ctx: the outside.
        accept: whether a file that has been replaced is from now on what is expected.
        on_bytes: told the bytes read so far and all of them.

    Raises:
        HpcvlmError: ``container-missing``, ``container-invalid``, ``container-unsupported``.
    """
    site, _ = site_of(ctx)
    image = _a_file(find_image(text, site, ctx), site, "verified")
    path, store = Path(image.image), store_of(ctx)
    last, before = store.last(path), store.now(path)
    key, digest = read_digest(path, on_bytes)
    signature = _signature(image, site, ctx)
    findings = signature_findings(
        image.image, signature, site.images.signed_by, f"{_runtime(site)} key"
    )
    _, header = look_at(path)
    if header is not None and header.signatures and not signature.signatures:
        sentence = f"{_runtime(site)} did not verify {image.image}: {signature.said}"
        findings.append(Finding("container-unverified", sentence, f"{_runtime(site)} --version"))
    if _key_of(path) != key:
        sentence = f"{path} was written while it was read"
        raise HpcvlmError("container-invalid", sentence, "try again when it is whole")
    changed = changed_finding(
        image.image,
        last,
        digest,
        untouched=before is not None,
        since=_day(last.recorded) if last else "",
    )
    if changed and not (accept and before is None):
        findings.append(changed)
    engine = ""
    if not findings:  # what is not what it should be is not started
        engine, wrong = _engine(image, digest, site, ctx, text)
        findings += wrong
    same = last is not None and last.digest == digest
    if not any(finding.code == _ALTERED for finding in findings):
        kept = last if same and last else Remembered(key, digest, ctx.clock.now())
        with suppress(OSError):
            store.remember(kept._replace(key=key, signers=signature.signers))
    findings = [_named(finding, text) for finding in findings]
    since = last.recorded if same and last else None
    return Verified(image, digest, since, signature, engine, tuple(findings))


def _engine(
    image: SiteImage, digest: str, site: SiteSpec, ctx: Context, text: str
) -> tuple[str, list[Finding]]:
    """The version that the image itself tells, and whether it is the one that it should be."""
    facts, problem = facts_of(image, digest, site, ctx)
    if facts is None:
        sentence = f"{image.image} does not tell its version: {problem}"
        return "", [Finding("container-facts", sentence, f"hpcvlm containers inspect {text}")]
    wrong = version_finding(image.image, image.said, facts.engine, "asked inside")
    return facts.engine, [wrong] if wrong else []


def sign(
    text: str, ctx: Context, *, key: int | None = None, on_bytes: OnBytes = nothing_said
) -> Verified:
    """Have the runtime sign an image with a key of its own keyring, then verify it.

    The runtime asks for the passphrase on the terminal; it does not pass through this process.

    Args:
        text: a version or an image.
        ctx: the outside.
        key: the key's place in ``RUNTIME key list --secret``; the runtime's choice when None.
        on_bytes: as for `verify`.

    Raises:
        HpcvlmError: ``container-altered`` for an image that is not what was verified or signed
            before; ``container-sign`` when the runtime refuses; otherwise as `verify`.
    """
    site, _ = site_of(ctx)
    image = _a_file(find_image(text, site, ctx), site, "signed")
    path, store = Path(image.image), store_of(ctx)
    if not os.access(path, os.W_OK):
        sentence = f"{path} cannot be written by you, and a signature stands in the file itself"
        raise HpcvlmError("container-sign", sentence, f"ls -l {path}")
    last, before = store.last(path), store.now(path)
    _, digest = read_digest(path, on_bytes)
    broken = _broken(image, site, ctx)
    changed = changed_finding(
        image.image,
        last,
        digest,
        untouched=before is not None,
        since=_day(last.recorded) if last else "",
    )
    for finding in (*broken, *([changed] if changed else ())):
        raise HpcvlmError(finding.code, finding.sentence, _named(finding, text).remedy)
    code = run_in_terminal(commands.sign(_runtime(site), str(path), key), ctx.environment)
    if code != 0:
        raise HpcvlmError(
            "container-sign",
            f"{site.runtime} did not sign {path} (exit code {code}; its own words are above)",
            f"{site.runtime} key list --secret",
        )
    if last is not None or before is not None:
        # The signature is part of the file: it has a new digest, and this is why.
        signed_key, signed = read_digest(path)
        source = last.source if last else ""
        with suppress(OSError):
            store.remember(Remembered(signed_key, signed, ctx.clock.now(), source))
    return verify(text, ctx)


def image_issues(image: str | None, version: str, site: SiteSpec, ctx: Context) -> list[Issue]:
    """Whether a launch may use an image at a site that asks for signatures; reads no image.

    Args:
        image: of the planned engine; None where it needs none.
        version: of the planned engine, for what to type next.
        site: its ``images.signed_by`` names the keys.
        ctx: the outside; what `verify` has found is remembered in its state folder.
    """
    if image is None or not site.images.signed_by:
        return []
    if not in_files(site):
        sentence = f"'signed_by:' of the site file asks for a signature; {site.runtime} has none"
        return [Issue("container-unsigned", "images.signed_by", sentence, "runtime: apptainer")]
    path = Path(image)
    if not path.exists():
        return []  # told as missing
    known = store_of(ctx).now(path)
    found = policy_findings(image, version, site.images.signed_by, known.signers if known else None)
    return [Issue(one.code, "images.signed_by", one.sentence, one.remedy) for one in found]


def _broken(image: SiteImage, site: SiteSpec, ctx: Context) -> list[Finding]:
    """Signatures that no longer hold; a key that is not here is no reason not to sign."""
    seen = _signature(image, site, ctx)
    found = signature_findings(image.image, seen, (), f"{site.runtime} key")
    return [one for one in found if one.code == _ALTERED]


def _a_file(image: SiteImage, site: SiteSpec, what: str) -> SiteImage:
    """Only SIF files carry signatures."""
    if not in_files(site):
        raise HpcvlmError(
            "container-unsupported",
            f"{site.runtime} keeps its images itself, by digest; only .sif files are {what}",
            f"hpcvlm containers inspect {image.image}",
        )
    seen, _ = look_at(Path(image.image))
    for finding in file_findings(image.image, image.said, seen):
        if finding.code != "container-writable":
            raise HpcvlmError(finding.code, finding.sentence, finding.remedy)
    if seen.is_folder:
        sentence = f"{image.image} is a folder; only .sif files are {what}"
        raise HpcvlmError("container-unsupported", sentence, "hpcvlm containers build")
    return image


def _signature(image: SiteImage, site: SiteSpec, ctx: Context) -> Verification:
    argv = commands.verify(_runtime(site), image.image)
    done = ctx.runner(argv, env=dict(ctx.environment), timeout_s=None)
    return parse_verification(done.code, done.stdout, done.stderr)


def _key_of(path: Path) -> FileKey | None:
    try:
        return file_key(path)
    except OSError:
        return None


def _runtime(site: SiteSpec) -> str:
    return site.runtime if site.runtime in commands.APPTAINER_LIKE else "apptainer"


def _named(finding: Finding, text: str) -> Finding:
    return finding._replace(remedy=finding.remedy.replace("IMAGE", text))


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
