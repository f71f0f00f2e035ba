"""What a hub cache holds, as values.

The layout is huggingface_hub's (docs/adr/0005-snapshots.md):
``CACHE/models--OWNER--NAME/{refs,blobs,snapshots/COMMIT}``, with the files of a snapshot as links
into ``blobs``. A blob is named after the hub's own hash of its content: 64 hexadecimal digits are
a SHA-256 (files in LFS or Xet), 40 are the SHA-1 of a Git blob.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class StoredBlob(NamedTuple):
    """One file of ``blobs``, or a plain file of a snapshot folder.

    Attributes:
        name: the hub's hash of the content; of a plain file its path.
        size: bytes.
        allocated: bytes that the file system counts for it.
        accessed: last read, seconds since the epoch, as far as the file system keeps that.
        modified: last write, seconds since the epoch.
        owner: user id.
        mode: permission bits and file type, as in ``st_mode``.
        inode: device and inode, which tell one file from another.
    """

    name: str
    size: int
    allocated: int
    accessed: float
    modified: float
    owner: int
    mode: int
    inode: tuple[int, int]


class StoredFile(NamedTuple):
    """One file of a snapshot.

    Attributes:
        path: relative to the snapshot folder, with ``/``.
        blob: the blob that it links to; of a plain file its own. None when the link leads nowhere.
        link: the link's text; empty for a plain file.
    """

    path: str
    blob: StoredBlob | None
    link: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StoredSnapshot:
    """One commit of a repository on disk.

    Attributes:
        refs: branches and tags that point to it here.
        files: sorted by path.
    """

    repo: str
    commit: str
    path: Path
    refs: tuple[str, ...]
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StoredRepository:
    """One ``models--OWNER--NAME`` folder.

    Attributes:
        cache: the hub cache it lies in.
        path: its folder.
        snapshots: sorted by commit.
        blobs: every whole blob by name, whether something links to it or not.
        incomplete: unfinished downloads (``*.incomplete``).
        refs: commit by the name of a branch or tag.
        owner: user id of its folder.
        problems: what cannot be read, or is not as the layout has it; one sentence each.
    """

    repo: str
    cache: Path
    path: Path
    snapshots: tuple[StoredSnapshot, ...]
    blobs: dict[str, StoredBlob]
    incomplete: tuple[StoredBlob, ...]
    refs: dict[str, str]
    owner: int
    problems: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of its blobs and unfinished downloads, each once."""
        return sum(blob.size for blob in (*self.blobs.values(), *self.incomplete))


class ManifestFile(NamedTuple):
    """What one file must be.

    Attributes:
        size: bytes.
        sha256: of its content.
        hub_hash: as the hub names the content: the same SHA-256, or the SHA-1 of the Git blob;
            empty where the hub was never asked and the file is no link to a blob.
    """

    size: int
    sha256: str
    hub_hash: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Manifest:
    """What a snapshot was when it was verified, file by file.

    Attributes:
        files: by path in the snapshot.
        created: seconds since the epoch.
        by: name of the user who verified it.
        source: what the hashes were compared with: ``hub`` (its own list of the files) or
            ``blobs`` (the names of the blobs, which are the hub's hashes).
    """

    repo: str
    commit: str
    files: dict[str, ManifestFile]
    created: float
    by: str
    source: str


class ListedFile(NamedTuple):
    """One file as the hub lists it.

    Attributes:
        path: in the repository.
        size: bytes.
        hub_hash: SHA-256 of a file in LFS, else SHA-1 of the Git blob; the name of its blob here.
    """

    path: str
    size: int
    hub_hash: str


class Use(NamedTuple):
    """A job that serves a snapshot now, or may.

    Attributes:
        repo: of the snapshot.
        commit: of the snapshot.
        job: Slurm's number, or ``process N`` of this machine.
        user: whose job.
        name: of the endpoint or the job.
    """

    repo: str
    commit: str
    job: str
    user: str
    name: str


@dataclass(frozen=True, slots=True, repr=False)
class Uses:
    """What is in use now.

    Attributes:
        uses: every job that was found.
        unknown: why the answer may not be whole, one sentence each; empty when everybody who had
            to be asked has answered.
    """

    uses: tuple[Use, ...]
    unknown: tuple[str, ...] = ()

    def of(self, repo: str, commit: str) -> tuple[Use, ...]:
        """The jobs that serve one snapshot."""
        return tuple(use for use in self.uses if (use.repo, use.commit) == (repo, commit))


class Approval(NamedTuple):
    """One entry of a lock file: a snapshot that somebody answers for.

    Attributes:
        repo: of the snapshot.
        commit: 40 hexadecimal digits.
        manifest: digest of its manifest, ``sha256:…``; empty where it was pinned unverified.
        licence: as its model card says it; empty where that is unknown.
        by: who pinned it.
        date: when, as ``YYYY-MM-DD``.
        why: in the words of whoever pinned it.
    """

    repo: str
    commit: str
    manifest: str
    licence: str
    by: str
    date: str
    why: str = ""
