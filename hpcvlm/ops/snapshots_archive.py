"""`snapshots export` and `snapshots import`: a snapshot as one file, for sites without internet."""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches, store_folder
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.ops.snapshot_names import wanted_snapshot
from hpcvlm.snapshots.archive.archive import (
    CHUNK,
    Contents,
    OnProgress,
    Progress,
    contents_of,
    verified_manifest,
    write_tar,
)
from hpcvlm.snapshots.archive.importing import Imported, Target, import_archive
from hpcvlm.snapshots.archive.squashfs_tools import make_image, need_tool
from hpcvlm.snapshots.archive.unpack import TarArchive, open_archive
from hpcvlm.snapshots.hub import repository_folder_name
from hpcvlm.snapshots.manifest import manifest_digest, write_manifest
from hpcvlm.snapshots.model import StoredSnapshot
from hpcvlm.snapshots.pull.space import room_at
from hpcvlm.snapshots.store import (
    cache_problem,
    find_stored,
    only_stored,
    scan_caches,
    scan_repository,
)

STREAM = "-"
_PARTIAL = ".partial"
_FORMATS = {".tar": "tar", ".sqsh": "squashfs", ".squashfs": "squashfs"}
_OVERHEAD = 4096  # bytes of an archive for each file: headers and padding
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Exported:
    """An archive that was written.

    Attributes:
        file: its path; ``-`` for stdout.
        kind: ``tar`` or ``squashfs``.
        sha256: of the archive.
        size: bytes of the snapshot's files.
        digest: of the manifest.
        manifest_note: what became of the manifest in the store; empty where it was there.
    """

    repo: str
    commit: str
    file: str
    kind: str
    sha256: str
    size: int
    files: int
    digest: str
    manifest_note: str = ""


def export(
    name: str,
    file: str,
    ctx: Context,
    on_progress: OnProgress,
    *,
    revision: str | None = None,
    force: bool = False,
) -> Exported:
    """Write a snapshot into one file; every byte is compared with its hash on the way.

    Args:
        name: model, alias or repository.
        file: ``FILE.tar``, ``FILE.sqsh``, ``FILE.squashfs``, or ``-`` for a tar on stdout.
        ctx: the outside.
        on_progress: told as it goes.
        revision: branch, tag, commit or the beginning of a commit.
        force: replace a file that is there.

    Raises:
        HpcvlmError: whatever keeps it from being whole; FILE is then as it was before.
    """
    kind = _kind(file)
    _check_target(file, force=force)
    stored = _find(name, revision, ctx)
    if kind == "squashfs":
        need_tool("mksquashfs", "or export to a .tar")
    contents = contents_of(stored)
    if file == STREAM:
        sha256 = _to_stdout(contents, on_progress)
    else:
        target = Path(file).expanduser()
        _check_room(target, contents)
        with _partial(target) as (partial, stream):
            sha256 = _write(kind, contents, partial, stream, on_progress)
    return Exported(
        repo=stored.repo,
        commit=stored.commit,
        file=file,
        kind=kind,
        sha256=sha256,
        size=contents.size,
        files=len(contents.files),
        digest=manifest_digest(contents.manifest),
        manifest_note=_keep_manifest(stored, contents, ctx),
    )


def import_file(
    file: str,
    ctx: Context,
    on_progress: OnProgress,
    *,
    to: str | None = None,
    ref: str | None = None,
) -> Imported:
    """Unpack an archive into a hub cache; every byte is compared with the manifest's hashes.

    Args:
        file: the archive, or ``-`` for a tar on stdin.
        ctx: the outside.
        on_progress: told as it goes.
        to: the hub cache; the site's store when None.
        ref: branch or tag that will name the snapshot.

    Raises:
        HpcvlmError: what is wrong with the archive or the store; no part of it then looks whole.
    """
    site, _ = site_of(ctx)
    store = site.store
    target = Target(
        cache=store_folder(site, ctx, to),
        access=store.access,
        group=store.group,
        ref=ref,
        created=ctx.clock.now(),
        by=_user(),
    )
    if file == STREAM:
        if sys.stdin.isatty():
            raise HpcvlmError(
                "option-invalid",
                "stdin is a terminal, no archive",
                "ssh HOST hpcvlm snapshots export MODEL - | hpcvlm snapshots import -",
            )
        return import_archive(TarArchive(sys.stdin.buffer, "stdin"), target, on_progress)
    with open_archive(Path(file).expanduser()) as archive:
        return import_archive(archive, target, on_progress)


def _find(name: str, revision: str | None, ctx: Context) -> StoredSnapshot:
    site, _ = site_of(ctx)
    wanted = wanted_snapshot(name, revision, ctx)
    caches = searched_caches(site, ctx, bundled=True)
    folder = repository_folder_name(wanted.repo)
    # Unlike Path's, os.path's questions do not raise where one may not look.
    named = [cache / folder for cache in caches]
    exact = [scan_repository(path) for path in named if os.path.isdir(path)]  # noqa: PTH112
    found = find_stored(exact, wanted.repo, wanted.revision)
    found = found or find_stored(scan_caches(caches), wanted.repo, wanted.revision)
    if found is None and revision is None:
        found = only_stored(exact)
    if found is not None:
        return found
    commits = ", ".join(s.commit[:12] for repository in exact for s in repository.snapshots)
    here = f"; here is {commits}" if commits else ""
    searched = [f"searched: {cache}" for cache in caches[:-1]]
    pulled = f"hpcvlm snapshots pull {name}" + (f" --revision {revision}" if revision else "")
    raise HpcvlmError(
        "snapshot-missing",
        f"{wanted.repo} at {wanted.revision} is in no hub cache{here}",
        f"{pulled}; or --revision with a commit that is here" if here else pulled,
        (*searched, *filter(None, map(cache_problem, caches))),
    )


def _kind(file: str) -> str:
    if file == STREAM:
        return "tar"
    kind = _FORMATS.get(Path(file).suffix)
    if kind is None:
        raise HpcvlmError(
            "option-invalid",
            f"{file}: an archive ends in .tar, .sqsh or .squashfs",
            "name it so; - writes a tar to stdout. Weights do not get smaller by gzip or zip",
        )
    return kind


def _check_target(file: str, *, force: bool) -> None:
    if file == STREAM:
        if sys.stdout.isatty():
            raise HpcvlmError(
                "option-invalid",
                "stdout is a terminal; an archive would garble it",
                "hpcvlm snapshots export MODEL - | ssh HOST hpcvlm snapshots import -",
            )
        return
    target = Path(file).expanduser()
    if os.path.isdir(target):  # noqa: PTH112
        raise HpcvlmError("option-invalid", f"{file} is a folder", "name a file in it")
    if not os.path.isdir(target.parent):  # noqa: PTH112
        raise HpcvlmError(
            "option-invalid",
            f"{file}: there is no folder {target.parent}",
            "make it first, or see who may look there with: ls -ld",
        )
    if os.path.lexists(target) and not force:
        raise HpcvlmError("archive-exists", f"{file} is there already", "--force replaces it")


def _check_room(target: Path, contents: Contents) -> None:
    needed = contents.size + _OVERHEAD * (len(contents.files) + 16)
    free = room_at(target.parent).free
    if needed > free:
        raise HpcvlmError(
            "archive-space",
            f"{target}: {needed:,} bytes are needed, {free:,} are free",
            "write it elsewhere, or to a pipe: hpcvlm snapshots export MODEL - | ssh …",
        )


@contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """FILE.partial, held against a second export, which becomes FILE at the end of the block."""
    partial = target.with_name(target.name + _PARTIAL)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        stream = os.fdopen(os.open(partial, flags, 0o666), "wb", 0)
    except OSError as error:
        raise _unwritable(target, error) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HpcvlmError(
                "archive-exists",
                f"another export to {target} is running",
                "wait for it, or name another file",
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            stream.truncate(0)
            yield partial, stream
            partial.replace(target)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _unwritable(target, error) from None
            raise


def _write(
    kind: str, contents: Contents, partial: Path, stream: BinaryIO, on_progress: OnProgress
) -> str:
    if kind == "tar":
        sha256 = write_tar(contents, _Whole(stream.fileno()), on_progress)
        os.fsync(stream.fileno())
        return sha256
    with make_image(partial) as taking:
        write_tar(contents, taking, on_progress)
    os.fsync(stream.fileno())
    return _sha256_of(partial, on_progress)


def _to_stdout(contents: Contents, on_progress: OnProgress) -> str:
    sys.stdout.flush()
    try:
        return write_tar(contents, _Whole(sys.stdout.fileno()), on_progress)
    except BrokenPipeError:
        raise HpcvlmError(
            "export-failed",
            "whoever reads the archive has stopped before its end",
            "see what the program behind the pipe says",
        ) from None
    except OSError as error:
        what = f"stdout: {error.strerror or error}: what was written is no archive"
        raise HpcvlmError("export-failed", what, "make room there, and export again") from None


class _Whole:
    """Writes all of it: one write(2) to a pipe or a full disk may take only a part."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """As a file's."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


def _sha256_of(path: Path, on_progress: OnProgress) -> str:
    """The image is written in no order, so it is hashed once it is whole."""
    found = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            found.update(chunk)
            done += len(chunk)
            on_progress(Progress(done, total, "SHA-256 of the image"))
    return found.hexdigest()


def _keep_manifest(stored: StoredSnapshot, contents: Contents, ctx: Context) -> str:
    """An export reads every byte, as verify does: its manifest is worth keeping."""
    if contents.was_verified:
        return ""
    manifest = verified_manifest(contents, ctx.clock.now(), _user())
    try:
        write_manifest(stored.path.parent.parent, manifest)
    except HpcvlmError as error:
        return error.sentence
    return "written"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user whom this machine does not know
        return str(os.getuid())


def _unwritable(target: Path, error: OSError) -> HpcvlmError:
    if error.errno in _FULL:
        return HpcvlmError(
            "archive-space",
            f"{target}: {error.strerror}: nothing is left of the archive",
            "make room, or write it elsewhere",
        )
    return HpcvlmError(
        "archive-unwritable", f"{target}: {error.strerror or error}", "write it elsewhere"
    )
