"""Whether and how weights come closer to the engine: copied to the node, or read ahead.

Both are the job's to do, since only the node knows its disk, its memory and its mounts. The plan
says what is wanted; a node that cannot do it serves from the shared store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from hpcvlm.plan.model import PlannedPrefetch, PlannedSnapshot, PlannedStaging, StagedFile
from hpcvlm.site.schema import Staging
from hpcvlm.snapshots.pull.needed_files import needed_files

# Formats whose files are known; of any other, everything is copied.
_KNOWN_FORMATS = ("auto", "safetensors", "hf", "mistral", "pt", "npcache")

# File systems that are read over a network, as coreutils' stat names them (src/stat.c of 9.1), and
# wekafs. stat calls what it does not know UNKNOWN (0x…): on a cluster likely one more of them.
NETWORK_FILE_SYSTEMS = (
    "afs",
    "ceph",
    "cifs",
    "coda",
    "fhgfs",
    "fuse*",
    "gfs*",
    "gpfs",
    "ibrix",
    "k-afs",
    "lustre",
    "nfs*",
    "ocfs2",
    "panfs",
    "smb*",
    "snfs",
    "wekafs",
    "v9fs",
    "UNKNOWN*",
)
# From 0.19 on vLLM itself prefetches from these, where the checkpoint fits in 90 % of the free
# memory (vllm/model_executor/model_loader/weight_utils.py).
_ENGINE_PREFETCHES = ("lustre", "nfs*")
_ENGINE_PREFETCHES_SINCE = Version("0.19")
_STRATEGY = "safetensors-load-strategy"
_FORMAT = "load-format"


def staging_of(
    asked: bool | None,
    staging: Staging,
    snapshot: PlannedSnapshot,
    files: Sequence[StagedFile],
    options: Mapping[str, object],
    extra: Sequence[str] = (),
) -> PlannedStaging | None:
    """What the job copies to the node; None when it copies nothing.

    Args:
        asked: what the model's file says of staging; None leaves it to the site.
        staging: the site's.
        snapshot: what is served.
        files: all of its files; none where they are not on disk, or in an image.
        options: of ``vllm serve``.
        extra: further arguments of ``vllm serve``.
    """
    wanted = staging.always if asked is None else asked
    if not wanted or staging.folder is None or not files or snapshot.image is not None:
        return None
    by_hash = staging.check == "hashes"
    load_format = _said(_FORMAT, options, extra) or _KNOWN_FORMATS[0]
    if load_format in _KNOWN_FORMATS:
        files, _ = needed_files(files, load_format=load_format)
    chosen = tuple(
        StagedFile(file.path, file.size, file.sha256 if by_hash else "") for file in files
    )
    return PlannedStaging(
        folder=staging.folder,
        name=_folder_name(snapshot),
        files=chosen,
        bytes=sum(file.size for file in chosen),
        digest=_digest(snapshot, chosen),
        streams=staging.streams,
        keep=staging.keep,
    )


def prefetch_of(
    staging: Staging,
    snapshot: PlannedSnapshot,
    weight_bytes: int | None,
    engine_version: str,
    options: Mapping[str, object],
    extra: Sequence[str] = (),
) -> PlannedPrefetch | None:
    """What the job reads ahead while the engine imports; None when it reads nothing.

    Args:
        staging: the site's; ``auto`` leaves alone what the engine reads in its own way: a
            ``--safetensors-load-strategy`` or a ``--load-format`` that somebody has chosen, and
            the file systems that this version of vLLM prefetches from by itself.
        snapshot: what is served.
        weight_bytes: of its weights; None where they are not on disk.
        engine_version: of vLLM.
        options: of ``vllm serve``.
        extra: further arguments of ``vllm serve``.
    """
    strategy = _said(_STRATEGY, options, extra)
    load_format = _said(_FORMAT, options, extra)
    if staging.prefetch == "never" or strategy == "prefetch" or load_format == "dummy":
        return None
    if not weight_bytes and snapshot.image is None:
        return None
    if staging.prefetch == "always":
        return PlannedPrefetch(staging.streams, ())
    if strategy or load_format not in ("", "auto", "safetensors", "hf"):
        return None
    itself = _ENGINE_PREFETCHES if _prefetches_itself(engine_version) else ()
    kinds = tuple(kind for kind in NETWORK_FILE_SYSTEMS if kind not in itself)
    return PlannedPrefetch(staging.streams, kinds)


def _prefetches_itself(version: str) -> bool:
    try:
        return Version(version) >= _ENGINE_PREFETCHES_SINCE
    except InvalidVersion:
        return False


def _said(name: str, options: Mapping[str, object], extra: Sequence[str]) -> str:
    """What somebody has chosen for an option; empty when nobody has."""
    chosen = options.get(name)
    for place, word in enumerate(extra):
        spelt, _, value = word.replace("_", "-").partition("=")
        if spelt == f"--{name}":
            chosen = value or (extra[place + 1] if place + 1 < len(extra) else None)
    return "" if chosen is None else str(chosen)


def _folder_name(snapshot: PlannedSnapshot) -> str:
    """``OWNER--NAME--COMMIT``; a revision may hold slashes, as branches do."""
    text = f"{snapshot.repo}--{snapshot.commit}".replace("/", "--")
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _digest(snapshot: PlannedSnapshot, files: Sequence[StagedFile]) -> str:
    """Tells one list of files from another; a copy of another list is no copy of this one."""
    lines = [snapshot.path, *(f"{file.size} {file.sha256 or '-'} {file.path}" for file in files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
