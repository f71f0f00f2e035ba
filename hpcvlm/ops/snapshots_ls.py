"""The snapshots on disk: what each is, who has it, who serves it, and whether it is complete."""

from __future__ import annotations

import fnmatch
import functools
import pwd
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcvlm.catalog.load import Layer
from hpcvlm.catalog.variants import full_name, variants_of, with_variant
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.ops.snapshot_names import DEFAULT_REVISION
from hpcvlm.ops.snapshot_uses import find_uses
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.listing.summary import OnProgress, Summary, disk_use, summarise
from hpcvlm.snapshots.lock import approval_of, lock_path, read_lock
from hpcvlm.snapshots.model import Approval, StoredRepository, Use, Uses
from hpcvlm.snapshots.store import cache_problem, distinct
from hpcvlm.yamlfile.layers import merge

_REPOSITORY = re.compile(r"[a-z0-9][\w.-]*/[\w.-]+")

Sort = Literal["name", "size", "last-use", "owner"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Listed:
    """One line of the list.

    Attributes:
        summary: what lies on disk.
        owner: name of the user who has most of its bytes.
        approval: its entry in the lock file; None when it has none.
        uses: the jobs that serve it.
        models: the entries of the catalog that it belongs to.
    """

    summary: Summary
    owner: str
    approval: Approval | None
    uses: tuple[Use, ...]
    models: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it; of its repository, too, where that has no other line."""
        if self.summary.snapshot is None:
            return self.summary.repository.problems
        return self.summary.state.missing


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Listing:
    """The answer of `list_snapshots`.

    Attributes:
        listed: what passed the filter.
        repositories: of what passed, each once.
        size: bytes of these repositories, each file once.
        caches: that were looked at.
        now: when this was, seconds since the epoch.
        notes: what could not be found out, one sentence each.
        uses_known: whether `Listed.uses` is everybody's.
    """

    listed: tuple[Listed, ...]
    repositories: tuple[StoredRepository, ...]
    size: int
    caches: tuple[Path, ...]
    now: float
    notes: tuple[str, ...]
    uses_known: bool


@dataclass(frozen=True, slots=True)
class SnapshotFilter:
    """Which snapshots are wanted; what is left at its default wants all.

    Attributes:
        repo: a pattern as a shell has it, or a part of the name; capitals do not matter.
        caches: folders looked at instead of the configured caches.
        incomplete: only those that lack something, or whose repository has a problem or an
            unfinished download.
        unused_for: seconds; only those known not to have been read for so long.
        pinned: whether they must, or must not, be in the lock file.
        in_use: only those that a job serves.
        owner: a user's name or number.
        bundled: also the cache that is shipped with hpcvlm.
    """

    repo: str | None = None
    caches: tuple[Path, ...] = ()
    incomplete: bool = False
    unused_for: float | None = None
    pinned: bool | None = None
    in_use: bool = False
    owner: str | None = None
    bundled: bool = False


def list_snapshots(
    ctx: Context,
    wanted: SnapshotFilter,
    sort: Sort = "name",
    on_progress: OnProgress | None = None,
) -> Listing:
    """The snapshots of all configured caches that pass a filter.

    Args:
        ctx: the outside.
        wanted: the filter.
        sort: by name; largest first; longest unused first, unknown last; or owner.
        on_progress: called after each repository.

    Raises:
        HpcvlmError: ``option-invalid`` for a cache that is no folder; what the site's files and,
            where the filter asks for pins, the lock file raise.
    """
    site, _ = site_of(ctx)
    caches = _caches(site, ctx, wanted)
    notes = [problem for cache in caches if (problem := cache_problem(cache))]
    summaries = summarise(caches, on_progress)
    repos = {summary.repository.repo for summary in summaries}
    described = Described.load(site, ctx, repos, notes, must_know_pins=wanted.pinned is not None)
    now = ctx.clock.now()
    listed = (described.listed(summary) for summary in summaries)
    passed = [one for one in listed if _passes(one, wanted, now)]
    passed.sort(key=_ORDER[sort])
    repositories = {one.summary.repository.path: one.summary.repository for one in passed}
    return Listing(
        listed=tuple(passed),
        repositories=tuple(repositories.values()),
        size=disk_use(repositories.values()),
        caches=tuple(caches),
        now=now,
        notes=tuple(notes),
        uses_known=not described.uses.unknown,
    )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Described:
    """What is known of snapshots besides what lies on disk.

    Attributes:
        uses: what jobs serve.
        approvals: the lock file.
        models: (revision, name) of the catalog's entries by repository, in small letters.
    """

    uses: Uses
    approvals: tuple[Approval, ...]
    models: Mapping[str, Sequence[tuple[str, str]]]

    @classmethod
    def load(
        cls,
        site: SiteSpec,
        ctx: Context,
        repos: Collection[str],
        notes: list[str],
        *,
        must_know_pins: bool = False,
    ) -> Described:
        """Ask Slurm, the lock file and the catalog; what does not answer is told in `notes`.

        Args:
            site: says where the lock file is.
            ctx: the outside.
            repos: the repositories that are asked about.
            notes: what could not be found out is put in here.
            must_know_pins: whether a lock file that cannot be read is an error.

        Raises:
            HpcvlmError: ``file-invalid`` and ``file-unreadable`` of the lock file, where the pins
                must be known.
        """
        uses = find_uses(ctx)
        notes += uses.unknown
        try:
            approvals = read_lock(lock_path(site, ctx.settings))
        except HpcvlmError as error:
            if must_know_pins:
                raise
            approvals = ()
            notes.append(f"what is pinned is unknown: {error.sentence}")
        return cls(uses, approvals, catalog_sources(model_layers(ctx), repos, notes))

    def listed(self, summary: Summary) -> Listed:
        """One line of the list."""
        owner = user_name(summary.owner)
        snapshot = summary.snapshot
        if snapshot is None:
            return Listed(summary, owner, None, (), ())
        repo, commit = snapshot.repo, snapshot.commit
        known = self.models.get(repo.casefold(), ())
        names = (commit, *snapshot.refs)
        models = tuple(name for revision, name in known if revision in names)
        approval = approval_of(self.approvals, repo, commit)
        # A job that names no commit may serve any.
        uses = tuple(
            use
            for use in self.uses.uses
            if use.commit in ("", commit) and use.repo.casefold() == repo.casefold()
        )
        return Listed(summary, owner, approval, uses, models)


def catalog_sources(
    layers: Sequence[Layer], repos: Collection[str], notes: list[str]
) -> dict[str, list[tuple[str, str]]]:
    """(revision, name) of the catalog's models and variants by repository, in small letters.

    Only files that name one of the repositories are parsed, and none is checked against its
    schema, which takes most of the time. A file that cannot be read is told in `notes`.
    """
    wanted = {repo.casefold() for repo in repos}
    found: dict[str, list[tuple[str, str]]] = {}
    files = []
    for layer in layers:
        try:
            files.append((layer, layer.files()))
        except HpcvlmError as error:
            notes.append(error.sentence)
    named = {
        stem
        for layer, by_stem in files
        for stem, file in by_stem.items()
        if not wanted.isdisjoint(_REPOSITORY.findall((layer.folder.read(file) or "").casefold()))
    }
    for stem in sorted(named):
        try:
            parts = [layer.part(stem, by_stem[stem]) for layer, by_stem in files if stem in by_stem]
            data = merge(parts).data
            each: list[tuple[str | None, Mapping[str, object]]] = [(None, data)]
            each += [(v, merge(with_variant(parts, v, stem)).data) for v in variants_of(data)]
        except HpcvlmError as error:
            notes.append(error.sentence)
            continue
        for variant, keys in each:
            for repo, revision in _source(keys):
                found.setdefault(repo.casefold(), []).append((revision, full_name(stem, variant)))
    return found


@functools.cache
def user_name(number: int) -> str:
    """The name of a user; the number where it has none, ``unknown`` for -1."""
    if number < 0:
        return "unknown"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _source(data: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    source = data.get("snapshot")
    if isinstance(source, Mapping) and isinstance(repo := source.get("repo"), str):
        yield repo, str(source.get("revision") or DEFAULT_REVISION)


def _caches(site: SiteSpec, ctx: Context, wanted: SnapshotFilter) -> list[Path]:
    if not wanted.caches:
        return distinct(searched_caches(site, ctx, bundled=wanted.bundled))
    for cache in wanted.caches:
        if not cache.is_dir():
            raise HpcvlmError(
                "option-invalid",
                f"--cache {cache} is no folder",
                "name a Hugging Face hub cache, such as ~/.cache/huggingface/hub",
            )
    return distinct([cache.absolute() for cache in wanted.caches])


def _passes(one: Listed, wanted: SnapshotFilter, now: float) -> bool:
    summary = one.summary
    repository = summary.repository
    if wanted.repo is not None and not _matches(repository.repo, wanted.repo):
        return False
    unfinished = repository.problems or repository.incomplete
    if wanted.incomplete and summary.complete and not unfinished:
        return False
    if wanted.unused_for is not None:
        used = summary.last_use
        if used is None or now - used < wanted.unused_for:
            return False
    if wanted.pinned is not None and wanted.pinned != (one.approval is not None):
        return False
    if wanted.in_use and not one.uses:
        return False
    return wanted.owner is None or wanted.owner in (one.owner, str(summary.owner))


def _matches(repo: str, pattern: str) -> bool:
    repo, pattern = repo.casefold(), pattern.casefold()
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(repo, pattern)
    return pattern in repo


def _name(one: Listed) -> tuple[str, ...]:
    snapshot = one.summary.snapshot
    repository = one.summary.repository
    return (
        repository.repo.casefold(),
        str(repository.cache),
        snapshot.commit if snapshot is not None else "",
    )


_ORDER: dict[Sort, Callable[[Listed], tuple[object, ...]]] = {
    "name": _name,
    "size": lambda one: (-one.summary.size, *_name(one)),
    "last-use": lambda one: (
        one.summary.last_use is None,
        one.summary.last_use or 0.0,
        *_name(one),
    ),
    "owner": lambda one: (one.owner, *_name(one)),
}
