"""Pulls a snapshot from the hub into a hub cache.

In an order that is right wherever it stops: the list of what is to come, blobs that were checked,
links to them, and the branch or tag last, so that one that named a whole snapshot never names a
half one.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.access import (
    file_mode,
    prepare_repository_folder,
    prepare_store_folder,
    store_permissions,
    unwritable,
)
from hpcvlm.snapshots.file_locks import repository_lock
from hpcvlm.snapshots.hub import repository_folder_name
from hpcvlm.snapshots.manifest import is_safe_path, read_listing, write_listing
from hpcvlm.snapshots.model import ListedFile
from hpcvlm.snapshots.pull.fetch import (
    Meter,
    Place,
    Source,
    fetch_blob,
    is_whole,
    stop_xet,
)
from hpcvlm.snapshots.pull.hub_api import list_files
from hpcvlm.snapshots.pull.hub_errors import Hub, file_trouble, hub_of
from hpcvlm.snapshots.pull.space import check_room, check_writable
from hpcvlm.snapshots.pull.unfinished import kept_bytes
from hpcvlm.snapshots.pull.workers import Job, quiet_hub, run_crew

_SMALL = 10_000_000
_GROUP_MAY_WRITE = 0o020


class Progress(NamedTuple):
    """How far a pull is.

    Attributes:
        files: that are there now.
        of_files: that are to be there.
        size: bytes that are on disk now, of those that were missing.
        of_size: bytes that were missing.
        received: bytes that came over the network.
        seconds: since it began.
        waiting: files that somebody else fetches just now.
    """

    files: int
    of_files: int
    size: int
    of_size: int
    received: int
    seconds: float
    waiting: int = 0


OnProgress = Callable[[Progress], None]


class Access(NamedTuple):
    """Who may read what is pulled: `site.store.access` and `site.store.group`."""

    access: str
    group: str | None


@dataclass(frozen=True, slots=True, repr=False)
class PullPlan:
    """What a pull would do.

    Attributes:
        folder: ``CACHE/models--OWNER--NAME``.
        there: files that are in the snapshot already.
        fetch: those that are not.
        left_out: those that a server does not need.
        kept: bytes of `fetch` that an earlier pull has left behind.
        access: None as the umask has it.
    """

    repo: str
    revision: str
    commit: str
    folder: Path
    there: tuple[ListedFile, ...]
    fetch: tuple[ListedFile, ...]
    left_out: tuple[ListedFile, ...]
    kept: int
    access: Access | None = None

    @property
    def path(self) -> Path:
        """The snapshot's folder."""
        return self.folder / "snapshots" / self.commit

    @property
    def missing(self) -> tuple[ListedFile, ...]:
        """One file for each blob that is to come."""
        blobs = {file.hub_hash: file for file in self.fetch if not _has_blob(self.folder, file)}
        return tuple(blobs.values())

    @property
    def to_come(self) -> int:
        """Bytes that are to come over the network."""
        return sum(file.size for file in self.missing) - self.kept


def plan_pull(
    needed: Sequence[ListedFile],
    left_out: Sequence[ListedFile],
    source: Source,
    revision: str,
    cache: Path,
    access: Access | None = None,
) -> PullPlan:
    """Compare what is wanted with what is there; nothing is changed.

    Raises:
        HpcvlmError: ``hub-listing`` for a path that would lie outside of the snapshot's folder, or
            a revision that would lie outside of the repository's.
    """
    for file in needed:
        if not is_safe_path(file.path) or not file.hub_hash.isalnum():
            raise HpcvlmError(
                "hub-listing",
                f"{source.repo}: the hub lists a file that no snapshot can hold: {file.path!r}",
                "nothing was pulled",
            )
    for name in (revision, source.commit):  # both become names of files
        if not is_safe_path(name):
            raise HpcvlmError(
                "hub-listing", f"{source.repo}: {name!r} is no branch, tag or commit", "--revision"
            )
    folder = cache / repository_folder_name(source.repo)
    path = folder / "snapshots" / source.commit
    there = tuple(file for file in needed if is_whole(path / file.path, file.size))
    present = set(there)
    fetch = tuple(file for file in needed if file not in present)
    missing = {f.hub_hash: f for f in fetch if not _has_blob(folder, f)}.values()
    return PullPlan(
        repo=source.repo,
        revision=revision,
        commit=source.commit,
        folder=folder,
        there=there,
        fetch=fetch,
        left_out=tuple(left_out),
        kept=sum(kept_bytes(folder / "blobs", file) for file in missing),
        access=access,
    )


def check_plan(plan: PullPlan) -> None:
    """Refuse what cannot succeed here; nothing is changed.

    Raises:
        HpcvlmError: ``store-unwritable``, ``store-space``, ``store-inodes``.
    """
    try:
        check_writable(plan.folder.parent, plan.folder, plan.commit)
        check_room(plan.folder.parent, plan.to_come, len(plan.fetch))
    except OSError as error:
        raise file_trouble(error) from None


def pull(plan: PullPlan, hub: Hub, on_progress: OnProgress | None = None) -> Progress:
    """Fetch what is missing; gives what was done.

    Raises:
        HpcvlmError: as `check_plan` and `fetch.fetch_blob`; ``interrupted`` by Ctrl-C, with what is
            there by then. What was fetched is kept, and the next pull goes on from there.
    """
    check_plan(plan)
    source = Source(plan.repo, plan.commit, hub)
    with _permissions(plan.access), _added_to(plan):
        plan = _as_it_is_now(plan)
        place = Place(plan.folder, None if plan.access is None else file_mode(plan.access.access))
        done = _fetch_all(plan, source, place, on_progress)
        _write_ref(plan)
    return done


def fetch_files(
    repo: str,
    commit: str,
    paths: Sequence[str],
    cache: Path,
    *,
    on_progress: OnProgress | None = None,
) -> None:
    """Fetch some files of a commit anew, though they are there.

    A blob is replaced only by one with the right hash, in one step.

    Args:
        repo: ``owner/name``.
        commit: 40 hexadecimal digits.
        paths: in the repository.
        cache: the hub cache.
        on_progress: is told how far it is.

    Raises:
        HpcvlmError: as `hub_api.list_commit`, `check_plan` and `fetch.fetch_blob`;
            ``hub-entry-unknown`` for a path that the commit does not have.
    """
    hub = hub_of(os.environ)
    folder = cache / repository_folder_name(repo)
    listed = {file.path: file for file in _kept_listing(folder, commit)}
    if not all(path in listed for path in paths) or hub.offline:
        listed = {file.path: file for file in list_files(repo, commit, paths, hub)}
    unknown = sorted(set(paths) - set(listed))
    if unknown:
        raise HpcvlmError(
            "hub-entry-unknown",
            f"{unknown[0]} is not in {repo} at {commit}",
            f"see {hub.endpoint}/{repo}/tree/{commit}",
        )
    files = tuple(listed[path] for path in dict.fromkeys(paths))
    plan = PullPlan(repo, commit, commit, folder, (), files, (), 0)
    try:
        check_writable(cache, folder, commit)
        check_room(cache, sum(file.size for file in files), len(files))
        mode = folder.stat().st_mode & 0o666
        with _umask(~folder.stat().st_mode & 0o777):
            _make_folders(plan)
            place = Place(folder, mode)
            _fetch_all(plan, Source(repo, commit, hub), place, on_progress, force=True)
    except OSError as error:
        raise file_trouble(error) from None


def _kept_listing(folder: Path, commit: str) -> tuple[ListedFile, ...]:
    try:
        return read_listing(folder, commit) or ()
    except HpcvlmError:
        return ()  # it is damaged; the hub is asked instead


def _has_blob(folder: Path, file: ListedFile) -> bool:
    return is_whole(folder / "blobs" / file.hub_hash, file.size)


@contextmanager
def _added_to(plan: PullPlan) -> Iterator[None]:
    """Prepare the repository's folder, and keep `prune` from it until the snapshot is whole."""
    _prepare(plan)
    try:
        with repository_lock(plan.folder, shared=True) as is_ours:
            if not is_ours:
                raise HpcvlmError(
                    "store-busy",
                    f"{plan.folder} is being pruned, or imported into",
                    "pull again in a minute; nothing was fetched",
                )
            _prepare(plan)  # what was pruned before it was ours
            yield
    except OSError as error:
        raise file_trouble(error, str(plan.folder)) from None


def _as_it_is_now(plan: PullPlan) -> PullPlan:
    """What is there may have been pruned since it was planned."""
    files = (*plan.there, *plan.fetch)
    there = tuple(file for file in files if is_whole(plan.path / file.path, file.size))
    present = set(there)
    return replace(plan, there=there, fetch=tuple(f for f in files if f not in present))


def _permissions(access: Access | None) -> AbstractContextManager[None]:
    return nullcontext() if access is None else store_permissions(access.access)


@contextmanager
def _umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def _prepare(plan: PullPlan) -> None:
    """Folders, the list of what is to come, and the branch or tag where it names nothing yet."""
    cache = plan.folder.parent
    try:
        if plan.access is not None:
            prepare_repository_folder(plan.folder, *plan.access)
            _prepare_locks(cache, plan.access)
            prepare_store_folder(cache / ".locks" / plan.folder.name, *plan.access)
        _make_folders(plan)
        known = {file.path: file for file in _kept_listing(plan.folder, plan.commit)}
        wanted = {file.path: file for file in (*plan.there, *plan.fetch)}
        if known != {**known, **wanted}:
            write_listing(plan.folder, plan.commit, {**known, **wanted}.values())
        if not (plan.folder / "refs" / plan.revision).exists():
            _write_ref(plan)
    except OSError as error:
        raise unwritable(plan.folder, error) from None


def _prepare_locks(cache: Path, access: Access) -> None:
    """The folder of all locks is for everybody who may add repositories to the cache.

    One admin's 2750 would keep the others of a group-writable store from pulling at all.
    """
    locks = cache / ".locks"
    is_new = not locks.exists()
    prepare_store_folder(locks, *access)
    if is_new and cache.stat().st_mode & _GROUP_MAY_WRITE and access.access != "private":
        locks.chmod(locks.stat().st_mode & 0o7777 | _GROUP_MAY_WRITE)


def _make_folders(plan: PullPlan) -> None:
    places = {plan.path, plan.folder / "blobs", plan.folder / "refs"}
    places |= {(plan.path / file.path).parent for file in plan.fetch}
    for place in sorted({*places, plan.folder.parent / ".locks" / plan.folder.name}):
        place.mkdir(parents=True, exist_ok=True)


def _write_ref(plan: PullPlan) -> None:
    """As huggingface_hub writes it; a commit needs none."""
    if plan.commit.startswith(plan.revision):
        return
    path = plan.folder / "refs" / plan.revision
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(plan.commit, encoding="ascii")
        temporary.replace(path)
    except OSError as error:
        raise file_trouble(error, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _link(plan: PullPlan, file: ListedFile) -> None:
    """Put a file into the snapshot: a link to its blob, replaced in one step."""
    path = plan.path / file.path
    target = os.path.relpath(plan.folder / "blobs" / file.hub_hash, path.parent)
    try:
        with suppress(FileExistsError):
            path.symlink_to(target)
            return
        if path.is_symlink() and str(path.readlink()) == target:
            return
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.symlink_to(target)
        temporary.replace(path)
    except OSError as error:
        raise file_trouble(error, str(path)) from None


class _Fetching:
    """The blobs of a plan on their way."""

    def __init__(self, plan: PullPlan, source: Source, place: Place, *, force: bool) -> None:
        self._plan, self._source, self._place, self._force = plan, source, place, force
        self._blobs: dict[str, list[ListedFile]] = {}
        # Small files first: the index of the shards tells others what is missing.
        for file in sorted(plan.fetch, key=lambda file: (file.size > _SMALL, -file.size)):
            self._blobs.setdefault(file.hub_hash, []).append(file)
        self._meters = {name: Meter() for name in self._blobs}
        self._missing = {
            name: files[0].size
            for name, files in self._blobs.items()
            if force or not _has_blob(plan.folder, files[0])
        }
        self._done: list[ListedFile] = []
        self._begun = time.monotonic()

    def jobs(self) -> Iterator[Job]:
        """One for each blob."""
        return (functools.partial(self._fetch, name) for name in self._blobs)

    def _fetch(self, name: str, stop: threading.Event) -> None:
        files = self._blobs[name]
        meter = self._meters[name]
        fetch_blob(files[0], self._source, self._place, meter, stop, force=self._force)
        for file in files:
            _link(self._plan, file)
        self._done.extend(files)

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            files=len(self._plan.there) + len(self._done),
            of_files=len(self._plan.there) + len(self._plan.fetch),
            size=sum(self._meters[name].bytes_now() for name in self._missing),
            of_size=sum(self._missing.values()),
            received=sum(meter.received for meter in self._meters.values()),
            seconds=time.monotonic() - self._begun,
            waiting=sum(meter.waiting for meter in self._meters.values()),
        )


def _fetch_all(
    plan: PullPlan,
    source: Source,
    place: Place,
    on_progress: OnProgress | None,
    *,
    force: bool = False,
) -> Progress:
    fetching = _Fetching(plan, source, place, force=force)

    def look() -> None:
        if on_progress is not None:
            on_progress(fetching.progress())

    try:
        with quiet_hub():
            run_crew(fetching.jobs(), look)
    except KeyboardInterrupt:
        stop_xet()
        now = fetching.progress()
        raise HpcvlmError(
            "interrupted",
            f"stopped: {now.files} of {now.of_files} files are there, {now.size:,} of "
            f"{now.of_size:,} missing bytes have come",
            "nothing is broken; the same command goes on from there",
        ) from None
    return fetching.progress()
