"""huggingface_hub's store of blobs that several repositories of a cache share.

Newer versions keep large files at ``CACHE/blobs/XX/HASH``, and the blob of a repository is a link
to it. The store counts its links itself (huggingface_hub.utils._shared_blobs, a module that is not
public): where this version of huggingface_hub has no such functions, nothing of it is deleted.
"""

from __future__ import annotations

from pathlib import Path

# More names than anybody takes away: where the store cannot be asked, nothing becomes free.
_VERY_MANY = 1 << 30
_NOT_THERE = (ImportError, AttributeError, TypeError, ValueError, OSError)


def names_of(blob: Path, cache: Path) -> int:
    """How many blobs of repositories are links to the same shared one as a blob that is a link."""
    try:
        from huggingface_hub.utils import _shared_blobs as store

        target = store.shared_blob_target(blob, cache)
        known = target and store._read_valid_manifest_references(target, cache)  # noqa: SLF001
    except _NOT_THERE:
        return _VERY_MANY
    return len(known) if isinstance(known, set) and known else _VERY_MANY


def sweep(target: Path, cache: Path) -> int:
    """Delete a shared blob if no link leads to it any more; gives the bytes that became free."""
    try:
        from huggingface_hub.utils import _shared_blobs as store

        return int(store.sweep_shared_blob(target, cache_dir=cache))
    except _NOT_THERE:
        return 0
