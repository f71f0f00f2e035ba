"""Reads what container runtimes say. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hpcvlm.containers.model import ImageFacts, Signature, Verification

VERSION_LABEL = "org.hpcvlm.version"


def parse_facts(stdout: str) -> ImageFacts | None:
    """The last line that is a JSON object; None where there is none.

    A container may say something of its own before it.
    """
    for line in reversed(stdout.splitlines()):
        found = _object(line)
        if found is not None:
            return ImageFacts(*(str(found.get(name) or "") for name in ImageFacts._fields))
    return None


def parse_labels(stdout: str) -> dict[str, str]:
    """Labels from the JSON of a runtime's inspect command; none where it is something else."""
    found = _object(stdout)
    for key in ("data", "attributes", "labels"):
        if found is not None and isinstance(inner := found.get(key), Mapping):
            found = dict(inner)
    return {str(key): str(value) for key, value in (found or {}).items()}


def parse_verification(code: int, stdout: str, stderr: str) -> Verification:
    """What ``verify --json`` said; an exit code of 0 alone means that it accepted the image."""
    found = _object(stdout) or {}
    keys = found.get("SignerKeys")
    seen = []
    for entry in keys if isinstance(keys, list) else []:
        signer = entry.get("Signer") if isinstance(entry, Mapping) else None
        if isinstance(signer, Mapping):
            seen.append(
                Signature(
                    str(signer.get("Fingerprint", "")).upper(),
                    str(signer.get("Name", "")),
                    str(signer.get("Partition", "")),
                    signer.get("DataCheck") is True and signer.get("KeyCheck") is True,
                )
            )
    count = found.get("Signatures")
    number = count if isinstance(count, int) else 0
    return Verification(code == 0, number, tuple(seen), "" if code == 0 else last_words(stderr))


def last_words(stderr: str) -> str:
    """The line that tells why a runtime gave up, without its level."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("FATAL", "ERROR"))]
    line = (fatal or lines or [""])[-1]
    _, colon, rest = line.partition(":")
    return rest.strip() if colon and line.startswith(("FATAL", "ERROR")) else line


def _object(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
