"""Looks at a snapshot without reading its weights: names, links, sizes, headers.

Every launch plan does this, so it must stay within milliseconds: one walk, one look at each file's
inode, and the headers of the safetensors files.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, TypeVar

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.manifest import OWN_FOLDER, KeptSizes, is_hash, read_rows, read_sizes
from hpcvlm.snapshots.pull.needed_files import needed_files
from hpcvlm.snapshots.safetensors import Shard, look_into
from hpcvlm.snapshots.verify.findings import Finding
from hpcvlm.snapshots.verify.required_files import CONFIG, has_weights, lacks, needs_config
from hpcvlm.snapshots.verify.tensors import INDEX_ENDING, index_findings

_HASHES = (64, 40)  # digits of a SHA-256, and of the SHA-1 of a Git blob
_POINTER = b"version https://git-lfs.github.com/spec/v1"
_LARGEST_POINTER = 1024  # the Git LFS specification: pointers are less than 1024 bytes
_EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # SHA-1 of Git's empty blob
# Not part of a snapshot where it is no hub cache but a clone, or a download to a plain folder.
_FOREIGN = frozenset({OWN_FOLDER, ".git", ".cache"})
_DECORATION = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf", ".mp4", ".ipynb")
_TEXTS = ("tokenizer_config.json", "processor_config.json")

_Kept = TypeVar("_Kept")
_Row = tuple[str, int, str]  # path, size, hash of the hub: a ListedFile is one


class SeenFile(NamedTuple):
    """One file of a snapshot folder.

    Attributes:
        path: relative to the folder, with ``/``.
        link: the link's text; empty for a plain file.
        size: bytes; -1 when the link leads nowhere or the file cannot be looked at.
        error: why it cannot be looked at; empty when it can.
        inode: device and inode.
        modified: last change of the content, in nanoseconds since the epoch.
        blob_hash: the hub's hash of its content, as the name of its blob tells it; empty if it
            does not.
    """

    path: str
    link: str
    size: int
    error: str = ""
    inode: tuple[int, int] = (0, 0)
    modified: int = 0
    blob_hash: str = ""


class Look(NamedTuple):
    """What one look at a snapshot folder gave.

    Attributes:
        files: by path, sorted.
        config: its config.json; empty when that is missing or damaged.
        manifest: its sizes when it was verified, None when it never was.
        listing: path, size and hash of what the hub says it holds, as `pull` kept it; None when
            that was not kept.
        findings: in the order in which they explain each other.
    """

    files: dict[str, SeenFile]
    config: Mapping[str, object]
    manifest: KeptSizes | None
    listing: Sequence[_Row] | None
    findings: tuple[Finding, ...]


def look(folder: Path, repository_folder: Path, commit: str) -> Look:
    """Look at the snapshot in a folder; nothing is raised for what is found."""
    found: list[Finding] = []
    in_cache = folder.parent.name == "snapshots"
    files = {seen.path: seen for seen in sorted(_walk(str(folder), in_cache, found))}
    manifest = _kept(read_sizes, repository_folder, commit, found)
    listing = _kept(read_rows, repository_folder, commit, found)
    config = _config(folder, files, found)
    unread = _unread(files, manifest, listing)
    found += (_broken(seen, unread) for seen in files.values() if seen.size < 0)
    shards = _shards(folder, files)
    found += _indexes(folder, files, shards)
    if not has_weights(files.keys()) and not any(_is_index(name) for name in files):
        found.append(
            Finding("", "missing", "no weights: there is no .safetensors file", stops=True)
        )
    found += [
        Finding(name, "header", shard.problem, stops="/" not in name, fetch=True)
        for name, shard in shards.items()
        if shard.problem
    ]
    found += _small_files(folder, files, unread)
    found += _sizes(files, manifest, listing, unread)
    found += lacks(files.keys(), config, _texts(folder, files))
    return Look(files, config, manifest, listing, tuple(found))


def verified_on(created: float) -> str:
    """The day of a manifest, for messages."""
    import time

    return time.strftime("%Y-%m-%d", time.gmtime(created))


def _unread(
    files: Mapping[str, SeenFile], manifest: KeptSizes | None, listing: Sequence[_Row] | None
) -> frozenset[str]:
    """What is here, or was, and no server reads; a launch does not need it."""
    sizes = {path: seen.size for path, seen in files.items()}
    sizes |= {path: size for path, size, _ in listing or ()}
    sizes |= {path: size for path, (size, _) in manifest.files.items()} if manifest else {}
    _, left_out = needed_files(SeenFile(path, "", size) for path, size in sizes.items())
    return frozenset(file.path for file in left_out)


def is_decoration(path: str) -> bool:
    """Whether no engine reads the file: pictures, papers, the model card."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(_DECORATION) or name.startswith((".git", "LICENSE", "USE_POLICY"))


def _kept(
    read: Callable[[Path, str], _Kept | None], folder: Path, commit: str, found: list[Finding]
) -> _Kept | None:
    try:
        return read(folder, commit)
    except HpcvlmError as error:
        # What only this user may not read is no fault of the snapshot.
        text = f"{error.sentence}; {error.remedy}" if error.remedy else error.sentence
        found.append(Finding("", "manifest", text, problem=bool(error.remedy)))
        return None


def _walk(folder: str, in_cache: bool, found: list[Finding]) -> Iterator[SeenFile]:
    waiting = [("", folder)]
    while waiting:
        prefix, place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                inside = list(entries)
        except OSError as error:
            text = f"the folder cannot be read ({error.strerror})"
            found.append(Finding(prefix.rstrip("/"), "unreadable", text, stops=True))
            continue
        for entry in inside:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if in_cache or name not in _FOREIGN:
                    waiting.append((f"{name}/", entry.path))
            else:
                yield _seen(entry, name)


def _seen(entry: os.DirEntry[str], name: str) -> SeenFile:
    link = ""
    try:
        if entry.is_symlink():
            link = os.readlink(entry.path)  # noqa: PTH115 - fast
        status = entry.stat()
    except OSError as error:
        return SeenFile(name, link, -1, error.strerror or "not readable")
    if not stat.S_ISREG(status.st_mode):
        return SeenFile(name, link, -1, "no regular file")
    inode = (status.st_dev, status.st_ino)
    return SeenFile(name, link, status.st_size, "", inode, status.st_mtime_ns, _hub_hash(link))


def _hub_hash(link: str) -> str:
    blob = link.rpartition("/blobs/")[2]
    return blob if blob != link and is_hash(blob, *_HASHES) else ""


def _broken(seen: SeenFile, unread: AbstractSet[str]) -> Finding:
    stops = seen.path not in unread
    if seen.link and seen.error == os.strerror(errno.ENOENT):
        text = f"its blob is missing ({seen.link})"
        return Finding(seen.path, "link", text, stops=stops, fetch=True)
    return Finding(seen.path, "unreadable", f"not readable ({seen.error})", stops=stops)


def _config(
    folder: Path, files: Mapping[str, SeenFile], found: list[Finding]
) -> Mapping[str, object]:
    if CONFIG not in files and not needs_config(files.keys()):
        return {}
    return _json(folder, CONFIG, found, stops=True)


def _json(
    folder: Path, name: str, found: list[Finding], *, stops: bool = False
) -> Mapping[str, object]:
    try:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError as error:
        absent = error.errno == errno.ENOENT
        text = "missing or not readable" if absent else f"not readable ({error.strerror})"
        found.append(Finding(name, "json", text, stops=stops, fetch=absent))
        return {}
    except (ValueError, RecursionError):
        found.append(Finding(name, "json", "not valid JSON", stops=stops, fetch=True))
        return {}
    return data if isinstance(data, dict) else {}


def _shards(folder: Path, files: Mapping[str, SeenFile]) -> dict[str, Shard]:
    return {
        name: look_into(folder / name)
        for name, seen in files.items()
        if name.endswith(".safetensors") and seen.size >= 0
    }


def _is_index(name: str) -> bool:
    return name.endswith(INDEX_ENDING)


def _indexes(
    folder: Path, files: Mapping[str, SeenFile], shards: Mapping[str, Shard]
) -> list[Finding]:
    found: list[Finding] = []
    for name, seen in files.items():
        if not _is_index(name) or seen.size < 0:
            continue
        before = len(found)
        data = _json(folder, name, found, stops="/" not in name)
        if len(found) == before:
            found += index_findings(name, data.get("weight_map"), files.keys(), shards)
    return found


def _texts(folder: Path, files: Mapping[str, SeenFile]) -> dict[str, Mapping[str, object]]:
    here = [name for name in _TEXTS if name in files]
    return {name: _json(folder, name, []) for name in here}


def _small_files(
    folder: Path, files: Mapping[str, SeenFile], unread: AbstractSet[str]
) -> Iterator[Finding]:
    """Git LFS pointers, empty files, and files that this user may not read."""
    place = str(folder)
    for name, seen in files.items():
        path = f"{place}/{name}"
        if seen.size < 0:
            continue
        stops = name not in unread and not is_decoration(name)
        if not os.access(path, os.R_OK):
            text = "not readable (Permission denied)"
            yield Finding(name, "unreadable", text, stops=stops)
        elif seen.size == 0 and seen.blob_hash != _EMPTY_BLOB:
            yield Finding(name, "empty", "is empty", problem=_is_read(name), fetch=True)
        elif 0 < seen.size < _LARGEST_POINTER and _is_pointer(path):
            text = "a Git LFS pointer instead of the file"
            yield Finding(name, "pointer", text, stops=stops, fetch=True)


def _is_read(name: str) -> bool:
    return name.endswith((".json", ".safetensors", ".bin", ".model", ".gguf", ".jinja"))


def _is_pointer(path: str) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _sizes(
    files: Mapping[str, SeenFile],
    manifest: KeptSizes | None,
    listing: Sequence[_Row] | None,
    unread: AbstractSet[str],
) -> Iterator[Finding]:
    """Sizes and blobs against the manifest, else against the hub's list; what is gone, or new."""
    if manifest is not None:
        since = f"it was verified ({verified_on(manifest.created)})"
        for name, (size, hub_hash) in manifest.files.items():
            for found in _against(files.get(name), name, size, hub_hash, f"when {since}", "gone"):
                yield found._replace(stops=found.stops and name not in unread)
        for name in files.keys() - manifest.files.keys():
            yield Finding(name, "added", f"added since {since}", problem=False)
    known = manifest.files.keys() if manifest is not None else frozenset()
    for found in compared_with_list(files, [row for row in listing or () if row[0] not in known]):
        yield found._replace(stops=found.stops and found.path not in unread)


def compared_with_list(files: Mapping[str, SeenFile], listing: Iterable[_Row]) -> Iterator[Finding]:
    """Files whose size or blob is another than the hub's list says, and those not here."""
    for name, size, hub_hash in listing:
        yield from _against(files.get(name), name, size, hub_hash, "on the hub", "missing")


def _against(
    seen: SeenFile | None, name: str, size: int, hub_hash: str, when: str, absent: str
) -> Iterator[Finding]:
    stops = not is_decoration(name)
    if seen is None:
        text = f"gone; it was here {when}" if absent == "gone" else "on the hub's list, not here"
        yield Finding(name, absent, text, stops=stops, fetch=True)
    elif seen.size < 0:
        return  # told already
    elif seen.size != size:
        text = f"{seen.size:,} bytes on disk, {size:,} {when}"
        yield Finding(name, "size", text, stops=stops, fetch=True)
    elif seen.blob_hash and hub_hash and seen.blob_hash != hub_hash:
        text = f"links to blob {seen.blob_hash[:12]}…, it is {hub_hash[:12]}… {when}"
        yield Finding(name, "content", text, stops=stops, fetch=True)
