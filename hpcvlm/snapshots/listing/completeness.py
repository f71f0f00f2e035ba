"""Says what of a snapshot is missing, from names, links and sizes alone.

Of contents only the indexes of the shards are read, and what hpcvlm keeps itself: the manifest, and
the hub's list of the files. Whether the bytes are right is `verify`'s business.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.manifest import listing_path, manifest_path, read_listing, read_manifest
from hpcvlm.snapshots.model import (
    ListedFile,
    Manifest,
    ManifestFile,
    StoredFile,
    StoredSnapshot,
)

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".msgpack", ".h5", ".onnx")
_INDEX = ".index.json"
_LARGEST_INDEX = 100_000_000  # bytes; indexes of real models have at most some ten million


class Completeness(NamedTuple):
    """What a snapshot lacks.

    Attributes:
        missing: one sentence a file; empty when the snapshot is complete.
        manifest: as it was verified; None when it never was, or its manifest is damaged.
    """

    missing: tuple[str, ...]
    manifest: Manifest | None


def look_at(snapshot: StoredSnapshot) -> Completeness:
    """What a snapshot lacks by its links, its indexes, its manifest and the hub's list."""
    folder = snapshot.path.parent.parent
    problems = list(_links(snapshot))
    by_path = {file.path: file for file in snapshot.files}
    problems += _shards(snapshot, by_path)
    if not any(file.path.endswith(WEIGHTS) for file in snapshot.files):
        problems.append("no weights are here")
    manifest = None
    try:
        manifest = _manifest(folder, snapshot.commit)
        sizes = {path: kept.size for path, kept in manifest.files.items()} if manifest else {}
        problems += _differences(sizes, by_path, "when it was verified")
    except HpcvlmError as error:
        problems.append(error.sentence)
    try:
        listing = _listing(folder, snapshot.commit)
        problems += _differences({f.path: f.size for f in listing}, by_path, "on the hub")
    except HpcvlmError as error:
        problems.append(error.sentence)
    return Completeness(tuple(dict.fromkeys(problems)), manifest)


def read_quietly(path: Path, most: int) -> bytes:
    """A file's content, without leaving an access time where the kernel allows that.

    Args:
        path: a file.
        most: bytes; a larger file is not read.

    Raises:
        OSError: it cannot be read, is larger, or is no file.
    """
    descriptor = open_quietly(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no plain file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than {most:,}")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(most)
    finally:
        os.close(descriptor)


def open_quietly(path: Path | str) -> int:
    """A descriptor for reading; O_NOATIME is for a file's owner and root only (open(2)).

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _manifest(folder: Path, commit: str) -> Manifest | None:
    """The manifest without a check of its digest, which is most of the work of reading it.

    Raises:
        HpcvlmError: ``manifest-damaged``.
    """
    path = manifest_path(folder, commit)
    try:
        data = json.loads(read_quietly(path, _LARGEST_INDEX))
        files = {
            name: ManifestFile(int(kept["size"]), kept["sha256"], kept.get("hub_hash", ""))
            for name, kept in data["files"].items()
        }
        created, by, source = float(data["created"]), str(data["by"]), str(data["source"])
        return Manifest(str(data["repo"]), commit, files, created, by, source)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        sentence = f"{path}: the manifest cannot be read ({error.strerror})"
        raise HpcvlmError("manifest-damaged", sentence) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return read_manifest(folder, commit)  # which tells what is wrong with it


def _listing(folder: Path, commit: str) -> tuple[ListedFile, ...]:
    """The hub's list of the files, where `pull` has kept it.

    Raises:
        HpcvlmError: ``listing-damaged``.
    """
    if not os.path.isfile(listing_path(folder, commit)):  # noqa: PTH113 - not a named pipe, either
        return ()
    return read_listing(folder, commit) or ()


def _links(snapshot: StoredSnapshot) -> Iterator[str]:
    for file in snapshot.files:
        if file.blob is not None:
            continue
        if _is_hidden(snapshot.path / file.path):
            yield f"{file.path}: not readable ({os.strerror(errno.EACCES)})"
        elif file.link:
            yield f"{file.path}: its blob is missing ({file.link})"
        else:
            yield f"{file.path}: is no file that can be read"


def _is_hidden(path: Path) -> bool:
    """Whether what a link leads to is merely not for this user to see."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _shards(snapshot: StoredSnapshot, by_path: Mapping[str, StoredFile]) -> Iterator[str]:
    """Shards that an index names and that are not there; the index lies beside them."""
    for path, file in by_path.items():
        if not path.endswith(_INDEX) or file.blob is None:
            continue
        try:
            index = json.loads(read_quietly(snapshot.path / path, _LARGEST_INDEX))
            # One for each tensor, and few that differ.
            names = {str(name) for name in set(index["weight_map"].values())}
        except OSError as error:
            yield f"{path}: cannot be read ({error.strerror})"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield f"{path}: is no index of shards"
        else:
            folder = path.rpartition("/")[0]
            prefix = f"{folder}/" if folder else ""
            for name in sorted(names):
                if f"{prefix}{name}" not in by_path:
                    yield f"{prefix}{name}: named in the index, not on disk"


def _differences(
    sizes: Mapping[str, int], by_path: Mapping[str, StoredFile], where: str
) -> Iterator[str]:
    for path, size in sorted(sizes.items()):
        file = by_path.get(path)
        if file is None:
            yield f"{path}: not on disk, {size:,} bytes {where}"
        elif file.blob is not None and file.blob.size != size:
            yield f"{path}: {file.blob.size:,} bytes on disk, {size:,} {where}"
