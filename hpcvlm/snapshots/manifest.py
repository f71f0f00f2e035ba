"""What hpcvlm keeps about a snapshot beside it: its manifest, and the hub's list of its files.

Both are JSON in the repository's folder (docs/adr/0005-snapshots.md), which huggingface_hub leaves
alone: ``.hpcvlm/manifests/COMMIT.json`` and ``.hpcvlm/listings/COMMIT.json``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.system.files import write_atomically

# Every launch plan reads sizes only, and does not wait for the classes of everything else.
if TYPE_CHECKING:
    from hpcvlm.snapshots.model import ListedFile, Manifest

OWN_FOLDER = ".hpcvlm"
SCHEMA = 1

_MANIFESTS = "manifests"
_LISTINGS = "listings"
_DIGITS = "0123456789abcdef"
_SHA1_DIGITS, _SHA256_DIGITS = 40, 64
# What a file that is not as it was written may raise; the last two by nesting, or by huge numbers.
_BAD = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
_READABLE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class KeptSizes(NamedTuple):
    """The part of a manifest that a look at names and sizes needs.

    Attributes:
        created: seconds since the epoch.
        digest: of the whole manifest.
        files: size in bytes and hash of the hub by path.
    """

    created: float
    digest: str
    files: dict[str, tuple[int, str]]


def manifest_path(repository_folder: Path, commit: str) -> Path:
    """Where the manifest of a commit lies, or would."""
    return _path(repository_folder, _MANIFESTS, commit)


def listing_path(repository_folder: Path, commit: str) -> Path:
    """Where the hub's list of a commit's files lies, or would."""
    return _path(repository_folder, _LISTINGS, commit)


def read_manifest(repository_folder: Path, commit: str) -> Manifest | None:
    """The manifest of a snapshot; None when it has none.

    Raises:
        HpcvlmError: ``manifest-damaged`` when it is there but cannot be read or trusted.
    """
    from hpcvlm.snapshots.model import Manifest, ManifestFile

    data = _kept_manifest(repository_folder, commit)
    if data is None:
        return None
    files = {
        name: ManifestFile(entry["size"], entry["sha256"], entry.get("hub_hash", ""))
        for name, entry in data["files"].items()
    }
    return Manifest(
        repo=data["repo"],
        commit=commit,
        files=files,
        created=float(data["created"]),
        by=str(data["by"]),
        source=str(data["source"]),
    )


def read_sizes(repository_folder: Path, commit: str) -> KeptSizes | None:
    """Sizes and hashes of the hub as the manifest has them; None when there is none.

    Raises:
        HpcvlmError: as `read_manifest`.
    """
    data = _kept_manifest(repository_folder, commit)
    if data is None:
        return None
    files = {n: (entry["size"], entry.get("hub_hash", "")) for n, entry in data["files"].items()}
    return KeptSizes(float(data["created"]), data["digest"], files)


def write_manifest(repository_folder: Path, manifest: Manifest) -> None:
    """Keep the manifest of a snapshot, in one step; readable for whoever may read the repository.

    Raises:
        HpcvlmError: ``manifest-unwritable``: read-only, full, not ours, or a file's name cannot
            stand in it. Nothing is left half written.
    """
    path = manifest_path(repository_folder, manifest.commit)
    bad = [name for name in manifest.files if not is_safe_path(name)]
    if bad:
        raise HpcvlmError("manifest-unwritable", f"{path}: no name for a file: {bad[0]!r}")
    _write("manifest", repository_folder, path, manifest_data(manifest))


def manifest_data(manifest: Manifest) -> dict[str, object]:
    """A manifest as it is kept in JSON, in stores and in archives."""
    return {
        "schema": SCHEMA,
        "repo": manifest.repo,
        "commit": manifest.commit,
        "digest": manifest_digest(manifest),
        "created": manifest.created,
        "by": manifest.by,
        "source": manifest.source,
        "files": {
            name: {"size": kept.size, "sha256": kept.sha256, "hub_hash": kept.hub_hash}
            for name, kept in sorted(manifest.files.items())
        },
    }


def manifest_digest(manifest: Manifest | KeptSizes) -> str:
    """``sha256:…`` over the repository, the commit, and size, SHA-256 and path of every file.

    Who verified, when, and with what does not count: docs/adr/0005-snapshots.md.
    """
    if isinstance(manifest, KeptSizes):
        return manifest.digest
    files = ((name, kept.size, kept.sha256) for name, kept in manifest.files.items())
    return _digest(manifest.repo, manifest.commit, files)


def read_listing(repository_folder: Path, commit: str) -> tuple[ListedFile, ...] | None:
    """The hub's list of a commit's files, as `write_listing` kept it; None when it was not kept.

    Raises:
        HpcvlmError: ``listing-damaged`` when it is there but cannot be read.
    """
    from hpcvlm.snapshots.model import ListedFile

    rows = read_rows(repository_folder, commit)
    return None if rows is None else tuple(ListedFile(*row) for row in rows)


def read_rows(repository_folder: Path, commit: str) -> list[tuple[str, int, str]] | None:
    """Path, size and hash of each file of the listing; None when it was not kept.

    Raises:
        HpcvlmError: as `read_listing`.
    """
    path = listing_path(repository_folder, commit)
    try:
        data = _read(path)
        return None if data is None else [_row(entry) for entry in data["files"]]
    except (*_BAD, OSError) as error:
        raise _damaged(
            "listing", path, error, "hpcvlm snapshots pull then writes a new one"
        ) from None


def write_listing(repository_folder: Path, commit: str, files: Iterable[ListedFile]) -> None:
    """Keep the hub's list of a commit's files, in one step.

    Raises:
        HpcvlmError: ``listing-unwritable``: read-only, full, not ours. Nothing is left half
            written.
    """
    path = listing_path(repository_folder, commit)
    entries = [
        {"path": file.path, "size": file.size, "hub_hash": file.hub_hash} for file in sorted(files)
    ]
    data = {"schema": SCHEMA, "commit": commit, "files": entries}
    _write("listing", repository_folder, path, data)


def is_safe_path(path: str) -> bool:
    """Whether a path names a file below a snapshot's folder, and fits on a line."""
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and not set(path) & {"\n", "\0"}


def is_hash(value: str, *lengths: int) -> bool:
    """Whether a text is so many hexadecimal digits, in small letters."""
    return len(value) in lengths and not value.strip(_DIGITS)


_BYTES = ("utf-8", "surrogateescape")  # file names need not be UTF-8


def _path(repository_folder: Path, kind: str, commit: str) -> Path:
    # A folder that is no hub cache has no commit but what its model file says: maybe refs/pr/1.
    return repository_folder / OWN_FOLDER / kind / f"{commit.replace('/', '--')}.json"


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(data, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - it is the file that is wrong
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r}, {SCHEMA} is known")
    return data


def _kept_manifest(repository_folder: Path, commit: str) -> Mapping[str, Any] | None:
    """What the manifest's file holds, once everything in it can be trusted."""
    path = manifest_path(repository_folder, commit)
    try:
        data = _read(path)
        if data is not None:
            _check_manifest(data, commit)
    except (*_BAD, OSError) as error:
        raise _damaged(
            "manifest", path, error, "hpcvlm snapshots verify then writes a new one"
        ) from None
    return data


def _check_manifest(data: Mapping[str, Any], commit: str) -> None:
    for name, entry in data["files"].items():
        _safe(name)
        _size(entry["size"])
        _hash(entry["sha256"], _SHA256_DIGITS)
        _hash(entry.get("hub_hash", ""), _SHA256_DIGITS, _SHA1_DIGITS, 0)
    if data["commit"] != commit:
        raise ValueError(f"it is of commit {data['commit']}")
    rows = ((name, entry["size"], entry["sha256"]) for name, entry in data["files"].items())
    if _digest(data["repo"], commit, rows) != data["digest"]:
        raise ValueError("its digest is not that of its files: it was changed by hand or by a disk")
    # Nobody else looks at these before they are used.
    float(data["created"])
    str(data["by"] + data["source"])


def _digest(repo: str, commit: str, files: Iterable[tuple[str, int, str]]) -> str:
    import hashlib

    lines = [f"{repo}@{commit}\n"]
    # Sorted as bytes, so that no locale and no other language sorts otherwise.
    for name, size, sha256 in sorted(files, key=lambda row: row[0].encode(*_BYTES)):
        lines.append(f"{size} {sha256} {name}\n")
    return f"sha256:{hashlib.sha256(''.join(lines).encode(*_BYTES)).hexdigest()}"


def _row(entry: Mapping[str, Any]) -> tuple[str, int, str]:
    return _safe(entry["path"]), _size(entry["size"]), _hub_hash(entry)


def _safe(name: str) -> str:
    if not is_safe_path(name):
        raise ValueError(f"{name!r} is no path in a snapshot")
    return name


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _hub_hash(entry: Mapping[str, Any]) -> str:
    return _hash(entry["hub_hash"], _SHA256_DIGITS, _SHA1_DIGITS, 0)


def _hash(value: str, *lengths: int) -> str:
    if not is_hash(value, *lengths):
        raise ValueError(f"{value!r} is no hash")
    return value


def _write(kind: str, repository_folder: Path, path: Path, data: Mapping[str, object]) -> None:
    try:
        mode = _make_folders(repository_folder, path.parent)
        write_atomically(path, json.dumps(data, indent=1) + "\n", mode)
        _give_group(repository_folder, path)
    except OSError as error:
        sentence = f"{path}: the {kind} cannot be written ({error.strerror or error})"
        raise HpcvlmError(f"{kind}-unwritable", sentence) from None


def _make_folders(repository_folder: Path, folder: Path) -> int:
    """Make ``.hpcvlm/KIND`` with the rights of the repository; gives the mode of files there."""
    rights = stat.S_IMODE(repository_folder.stat().st_mode)
    for place in (folder.parent, folder):
        if not place.is_dir():
            place.mkdir(exist_ok=True)
            _give_group(repository_folder, place)
            place.chmod(rights)  # mkdir's own mode is subject to the umask
    return rights & _READABLE | stat.S_IRUSR | stat.S_IWUSR


def _give_group(repository_folder: Path, path: Path) -> None:
    """The group of the repository; whoever is not in it keeps their own."""
    with suppress(OSError):
        os.chown(path, -1, repository_folder.stat().st_gid)


def _damaged(kind: str, path: Path, error: Exception, then: str) -> HpcvlmError:
    why = {KeyError: f"without {error}", TypeError: "not as expected"}.get(type(error), str(error))
    if isinstance(error, OSError):
        return HpcvlmError(
            f"{kind}-damaged", f"{path}: the {kind} cannot be read ({error.strerror})"
        )
    return HpcvlmError(
        f"{kind}-damaged",
        f"{path}: the {kind} is damaged ({why})",
        f"rm {path}; {then}",
    )
