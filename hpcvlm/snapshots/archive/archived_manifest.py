"""The manifest inside an archive: the store's own form, made of nobody and of no time.

An archive comes from elsewhere: its manifest is trusted in nothing before it is checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.manifest import (
    OWN_FOLDER,
    SCHEMA,
    is_safe_path,
    manifest_data,
    manifest_digest,
)
from hpcvlm.snapshots.model import Manifest, ManifestFile

MANIFEST_MEMBER = f"{OWN_FOLDER}/manifest.json"
LARGEST_MANIFEST = 64_000_000  # bytes; 100 000 files with long names need a third of it

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")
# huggingface_hub.utils.validate_repo_id: letters, digits, "-", "_", ".", no "--" and no "..".
_REPO = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as the archive's member, in the form that stores keep it in."""
    return (json.dumps(manifest_data(manifest), indent=1) + "\n").encode("ascii")


def manifest_from(text: bytes) -> Manifest:
    """The manifest of an archive, trusted in nothing.

    Raises:
        HpcvlmError: ``archive-invalid`` where it is damaged, or names what must not be unpacked.
    """
    try:
        data: Mapping[str, Any] = json.loads(text)
        return _parsed(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise invalid(f"{MANIFEST_MEMBER}: the manifest is damaged: {why}") from None


def invalid(sentence: str, details: tuple[str, ...] = ()) -> HpcvlmError:
    """What to tell of an archive that is not as it was exported."""
    return HpcvlmError(
        "archive-invalid",
        sentence,
        "compare its SHA-256 with the one that export printed (sha256sum FILE), and copy it again",
        details,
    )


def check_manifest(manifest: Manifest) -> None:
    """Refuse what could be unpacked elsewhere, or as something else.

    Raises:
        ValueError: says what.
    """
    if not _REPO.fullmatch(manifest.repo):
        raise ValueError(f"{manifest.repo!r} is no repository")
    if not SHA1.fullmatch(manifest.commit):
        raise ValueError(f"{manifest.commit!r} is no commit")
    if not manifest.files:
        raise ValueError("it names no files")
    folders = set(folders_of(manifest.files))
    for path, kept in manifest.files.items():
        if not is_safe_path(path) or _CONTROL.search(path) or path.split("/")[0] == OWN_FOLDER:
            raise ValueError(f"{path!r} is no path in a snapshot")
        if path in folders:
            raise ValueError(f"{path!r} is a file and a folder")
        if not isinstance(kept.size, int) or isinstance(kept.size, bool) or kept.size < 0:
            raise ValueError(f"{path}: {kept.size!r} is no size")
        if not SHA256.fullmatch(kept.sha256):
            raise ValueError(f"{path}: {kept.sha256!r} is no SHA-256")
        if kept.hub_hash not in {"", kept.sha256} and not SHA1.fullmatch(kept.hub_hash):
            raise ValueError(f"{path}: {kept.hub_hash!r} is no hash of the hub")


def folders_of(paths: Iterable[str]) -> list[str]:
    """Every folder that the paths lie in, outer ones first."""
    return sorted({"/".join(p.split("/")[:n]) for p in paths for n in range(1, p.count("/") + 1)})


def _parsed(data: Mapping[str, Any]) -> Manifest:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']!r}; {SCHEMA} is known")
    files = {
        str(path): ManifestFile(entry["size"], entry["sha256"], entry["hub_hash"])
        for path, entry in data["files"].items()
    }
    manifest = Manifest(str(data["repo"]), str(data["commit"]), files, 0.0, "", "blobs")
    check_manifest(manifest)
    if manifest_digest(manifest) != data["digest"]:
        raise ValueError("its digest is not that of its files")
    return manifest
