"""Verifies snapshots: one that is named, or all; and fetches again what is damaged."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hpcvlm.catalog.load import apply_settings, find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from hpcvlm.resources import bundled_hub
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import repository_folder_name
from hpcvlm.snapshots.manifest import is_safe_path, read_listing, read_manifest
from hpcvlm.snapshots.model import Approval, ListedFile, StoredRepository, StoredSnapshot
from hpcvlm.snapshots.pull.pull import OnProgress as OnFetch
from hpcvlm.snapshots.pull.pull import fetch_files
from hpcvlm.snapshots.store import (
    cache_problem,
    find_stored,
    only_stored,
    scan_caches,
    scan_repository,
)
from hpcvlm.snapshots.verify.findings import Finding
from hpcvlm.snapshots.verify.result import OnProgress, Verification
from hpcvlm.snapshots.verify.verify import (
    How,
    differing_copies,
    repository_folder_of,
    verify_snapshot,
)


class VerifyRequest(NamedTuple):
    """What is to be verified, and how.

    Attributes:
        name: model or repository; None for every snapshot of all caches.
        revision: branch, tag, commit or the beginning of one; the model's own when None.
        quick: names, links, sizes and headers only.
        online: ask the hub for its list of the files.
        repair: fetch what is damaged or missing.
    """

    name: str | None
    revision: str | None = None
    quick: bool = False
    online: bool = False
    repair: bool = False


class RepairPlan(NamedTuple):
    """What a repair is about to fetch.

    Attributes:
        repo: of the snapshot.
        commit: of the snapshot.
        cache: the hub cache that it goes to.
        paths: files in the snapshot.
        size: bytes of all of them, as far as they are known.
    """

    repo: str
    commit: str
    cache: Path
    paths: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, repr=False)
class Verified:
    """The answer for one snapshot.

    Attributes:
        found: how it is now.
        repaired: what was fetched, None when nothing was.
        number: which one of all this is, beginning with 1.
        of: how many there are.
    """

    found: Verification
    repaired: RepairPlan | None = None
    number: int = 1
    of: int = 1


OnRepair = Callable[[RepairPlan], OnFetch | None]
# Of many snapshots, the hub may refuse one and answer for the others.
_ABOUT_ONE = frozenset(
    {
        "content-wrong",
        "hub-entry-unknown",
        "hub-gated",
        "hub-repo-unknown",
        "hub-revision-unknown",
        "hub-token",
    }
)
_Chosen = list[tuple[StoredSnapshot, StoredRepository | None]]


def verify(
    request: VerifyRequest,
    ctx: Context,
    on_progress: OnProgress | None = None,
    on_repair: OnRepair | None = None,
) -> Iterator[Verified]:
    """Verify one snapshot, or each of all caches, one after the other.

    Args:
        request: which, and how.
        ctx: the outside.
        on_progress: called several times a second while files are read.
        on_repair: called before anything is fetched; gives what is told how far that is.

    Raises:
        HpcvlmError: ``snapshot-missing``, ``model-unknown``; ``store-unwritable`` before anything
            else when a repair could not be written; and what
            `hpcvlm.snapshots.pull.hub_errors` says of the hub, with ``online`` and ``repair``.
    """
    site, _ = site_of(ctx)
    approvals = _approvals(site, ctx)
    if request.name is None:
        caches = searched_caches(site, ctx)
        repositories = [*scan_caches(caches), *_closed(caches)]
        chosen: _Chosen = [(held, around) for around in repositories for held in _held(around)]
        everything = [held for held, _ in chosen]
    else:
        chosen, everything = _named(request, request.name, site, ctx)
    if request.repair:
        for held, _ in chosen:
            if held.commit:  # nothing can be fetched for what cannot be looked into
                _check_repairable(held)
    known = _how(request, ctx).known
    for number, (held, repository) in enumerate(chosen, 1):
        how = replace(
            _how(request, ctx),
            known=known,
            approved=_approved(approvals, held),
            keep=bundled_hub() not in held.path.parents,
        )
        notes = (*_notes(repository, held), *differing_copies(held, everything))
        verified = _verify_one(request, held, how, ctx, on_progress, on_repair)
        findings = (*verified.found.findings, *notes)
        found = replace(verified.found, findings=findings)
        yield replace(verified, found=found, number=number, of=len(chosen))


def _how(request: VerifyRequest, ctx: Context) -> How:
    return How(by=_user(), now=ctx.clock.now(), quick=request.quick)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())


def _approvals(site: SiteSpec, ctx: Context) -> tuple[Approval, ...]:
    from hpcvlm.snapshots.lock import lock_path, read_lock

    return read_lock(lock_path(site, ctx.settings))


def _approved(approvals: Sequence[Approval], held: StoredSnapshot) -> str | None:
    for approval in approvals:
        if (approval.repo.casefold(), approval.commit) == (held.repo.casefold(), held.commit):
            return approval.manifest or None
    return None


def _closed(caches: Sequence[Path]) -> Iterator[StoredRepository]:
    """Caches that cannot be looked into, as if each were one broken repository."""
    for cache in caches:
        if problem := cache_problem(cache):
            why = problem.removeprefix(f"{cache}: ")
            yield StoredRepository("(all of a cache)", cache, cache, (), {}, (), {}, -1, (why,))


def _held(repository: StoredRepository) -> Iterator[StoredSnapshot]:
    """Its snapshots; one without a commit where not even these can be read."""
    yield from repository.snapshots
    if not repository.snapshots and repository.problems:
        yield StoredSnapshot(repository.repo, "", repository.path, (), ())


def _notes(repository: StoredRepository | None, held: StoredSnapshot) -> tuple[Finding, ...]:
    """What is wrong around a snapshot; the worst there is where nothing else can be read."""
    problems = repository.problems if repository is not None else ()
    told = f"snapshots/{held.commit}/"  # what is wrong with its own files
    return tuple(
        Finding(
            "",
            "store",
            f"{held.path.parent.parent if held.commit else held.path}: {problem}",
            problem=not held.commit,
        )
        for problem in problems
        if not held.commit or not problem.startswith(told)
    )


def _named(
    request: VerifyRequest, name: str, site: SiteSpec, ctx: Context
) -> tuple[_Chosen, list[StoredSnapshot]]:
    """The snapshot that is meant, and all copies of its repository."""
    wanted = wanted_snapshot(name, request.revision, ctx)
    if (plain := _plain_folder(wanted, ctx)) is not None:
        return [(plain, None)], []
    caches = searched_caches(site, ctx, bundled=True)
    repositories = _repositories(wanted.repo, caches)
    held = find_stored(repositories, wanted.repo, wanted.revision)
    if held is None and request.revision is None:
        held = only_stored(repositories)
    if held is None:
        raise _missing(wanted, repositories, caches)
    around = next(r for r in repositories if any(s is held for s in r.snapshots))
    return [(held, around)], [s for r in repositories for s in r.snapshots]


def _missing(
    wanted: Wanted, repositories: Sequence[StoredRepository], caches: Sequence[Path]
) -> HpcvlmError:
    searched = ", ".join(str(cache) for cache in caches[:-1])
    here = [f"on disk: {s.commit}" for r in repositories for s in r.snapshots]
    problems = [f"{r.path}: {problem}" for r in repositories for problem in r.problems]
    return HpcvlmError(
        "snapshot-missing",
        f"{wanted.repo} at revision {wanted.revision} is in no hub cache ({searched})",
        f"hpcvlm snapshots pull {wanted.repo} --revision {wanted.revision}",
        (*here, *problems, *filter(None, map(cache_problem, caches))),
    )


def _plain_folder(wanted: Wanted, ctx: Context) -> StoredSnapshot | None:
    """The folder of a model whose files lie in no hub cache."""
    if not wanted.model:
        return None
    source = apply_settings(find_model(wanted.model, model_layers(ctx)), ()).spec.snapshot
    if source.path is None:
        return None
    folder = Path(source.path).expanduser().absolute()
    if not folder.is_dir():
        raise HpcvlmError(
            "snapshot-missing",
            f"snapshot.path of {wanted.model}: {folder} is no folder here",
            f"hpcvlm models show {wanted.model} tells where that is written",
        )
    return StoredSnapshot(wanted.repo, wanted.revision, folder, (), ())


def _repositories(repo: str, caches: Sequence[Path]) -> list[StoredRepository]:
    """The copies of one repository; the hub does not tell small letters from capitals."""
    name = repository_folder_name(repo).casefold()
    found: dict[str, StoredRepository] = {}
    for cache in caches:
        try:
            entries = sorted(cache.iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.name.casefold() == name:
                found.setdefault(os.path.realpath(entry), scan_repository(entry))
    return list(found.values())


def _verify_one(
    request: VerifyRequest,
    held: StoredSnapshot,
    how: How,
    ctx: Context,
    on_progress: OnProgress | None,
    on_repair: OnRepair | None,
) -> Verified:
    if not held.commit:
        return Verified(Verification(held.repo, "", held.path, (), "quick", (), 0, 0))
    refused: list[Finding] = []
    if request.online:
        with _one_refusal(request, refused):
            how = replace(how, hub_list=_hub_files(held.repo, held.commit, ctx))
    found = verify_snapshot(held, how, on_progress)
    plan = None
    if request.repair:
        with _one_refusal(request, refused):
            plan = _plan(found, how, ctx)
            found = _repair(plan, held, how, on_progress, on_repair) if plan else found
    return Verified(replace(found, findings=(*found.findings, *refused)), plan)


@contextmanager
def _one_refusal(request: VerifyRequest, refused: list[Finding]) -> Iterator[None]:
    """Of all snapshots, one that the hub refuses is a line of the report, and no end."""
    try:
        yield
    except HpcvlmError as error:
        if request.name is not None or error.code not in _ABOUT_ONE:
            raise
        refused.append(Finding("", "hub", error.sentence, problem=False))


def _hub_files(repo: str, commit: str, ctx: Context) -> tuple[ListedFile, ...]:
    from hpcvlm.snapshots.pull.hub_api import list_commit
    from hpcvlm.snapshots.pull.hub_errors import hub_of

    return list_commit(repo, commit, hub_of(ctx.environment)).files


def _check_repairable(held: StoredSnapshot) -> None:
    """Refuse before anything is read when nothing could be written."""
    repair = "verify it without --repair"
    if held.path.parent.name != "snapshots":
        raise HpcvlmError(
            "store-unwritable",
            f"{held.path} is in no hub cache: nothing is known of where its files come from",
            repair,
        )
    repository = repository_folder_of(held.path)
    for place in (repository, repository / "blobs", held.path):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise HpcvlmError(
                "store-unwritable",
                f"{place} is not writable for {_user()}: nothing can be repaired there",
                f"as its owner: hpcvlm snapshots verify {held.repo} --repair; or {repair}",
            )


def _plan(found: Verification, how: How, ctx: Context) -> RepairPlan | None:
    paths = sorted({f.path for f in found.problems if f.fetch and is_safe_path(f.path)})
    if not paths:
        return None
    sizes = _sizes(found, paths, how, ctx)
    total = sum(sizes.get(path, 0) for path in paths)
    cache = repository_folder_of(found.path).parent
    return RepairPlan(found.repo, found.commit, cache, tuple(paths), total)


def _sizes(found: Verification, paths: Sequence[str], how: How, ctx: Context) -> dict[str, int]:
    """Sizes of files as they must be, by what was kept, or the hub says."""
    folder = repository_folder_of(found.path)
    sizes: dict[str, int] = {}
    try:
        manifest = read_manifest(folder, found.commit)
        sizes = {name: kept.size for name, kept in manifest.files.items()} if manifest else {}
        listing = read_listing(folder, found.commit) or ()
    except HpcvlmError:
        listing = ()
    known = sizes | {file.path: file.size for file in (*listing, *(how.hub_list or ()))}
    if all(path in known for path in paths):
        return known
    from hpcvlm.snapshots.pull.hub_api import list_files
    from hpcvlm.snapshots.pull.hub_errors import hub_of

    asked = list_files(found.repo, found.commit, paths, hub_of(ctx.environment))
    return known | {file.path: file.size for file in asked}


def _repair(
    plan: RepairPlan,
    held: StoredSnapshot,
    how: How,
    on_progress: OnProgress | None,
    on_repair: OnRepair | None,
) -> Verification:
    on_fetch = on_repair(plan) if on_repair is not None else None
    fetch_files(plan.repo, plan.commit, plan.paths, plan.cache, on_progress=on_fetch)
    return verify_snapshot(held, replace(how, also=frozenset(plan.paths)), on_progress)
