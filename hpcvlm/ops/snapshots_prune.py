"""Makes room in hub caches: what may go, and its deletion."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.ops.snapshot_names import wanted_snapshot
from hpcvlm.ops.snapshot_uses import find_uses
from hpcvlm.ops.snapshots_ls import catalog_sources, user_name
from hpcvlm.snapshots.file_locks import is_downloading
from hpcvlm.snapshots.listing.summary import keeps_access_times
from hpcvlm.snapshots.lock import lock_path, read_lock
from hpcvlm.snapshots.model import StoredRepository, Uses
from hpcvlm.snapshots.prune.delete import Outcome, delete, links_problem, other_names, trash_bytes
from hpcvlm.snapshots.prune.model import DAY_S, Circumstances, Policy, PrunePlan, Row
from hpcvlm.snapshots.prune.plan import plan_prune, protection
from hpcvlm.snapshots.store import cache_problem, distinct, matching, scan_caches

# How old the answer to "what is in use" may be when something is deleted.
_FRESH_S = 5.0
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(h|d|w)", re.IGNORECASE)
_AGES_S = {"h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_POWERS = {letter: power for power, letter in enumerate(("", "k", "m", "g", "t", "p"))}

OnProgress = Callable[[int, int, Row], None]


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What the user typed.

    Attributes:
        name: a model or repository that everything is limited to; None for all.
        revision: a branch, tag or commit of it.
        caches: folders instead of the configured caches.
    """

    name: str | None = None
    revision: str | None = None
    unused_for: str | None = None
    unreferenced: bool = False
    incomplete: bool = False
    orphans: bool = False
    free: str | None = None
    everything: bool = False
    caches: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prepared:
    """A plan with what it was made from.

    Attributes:
        unknown: why it is not known what is in use; empty when it is.
        notes: what else a person should know.
    """

    plan: PrunePlan
    policy: Policy
    lock_file: Path
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def plan_of(request: PruneRequest, ctx: Context) -> Prepared:
    """What would be deleted; nothing is changed.

    Raises:
        HpcvlmError: ``option-invalid``, ``snapshot-missing``, ``model-unknown``, and what cannot
            be read of the site's files and the lock file.
    """
    site, _ = site_of(ctx)
    caches = _caches(request, searched_caches(site, ctx))
    notes = [problem for cache in caches if (problem := cache_problem(cache))]
    repositories = scan_caches(caches)
    policy = _policy(request, repositories, ctx)
    lock_file = lock_path(site, ctx.settings)
    approvals = read_lock(lock_file)
    uses = find_uses(ctx)
    limited = [r for r in repositories if policy.repo.casefold() in ("", r.repo.casefold())]
    around = Circumstances(
        now=ctx.clock.now(),
        approvals=approvals,
        uses=uses,
        named=_named(limited, ctx) if policy.unreferenced else {},
        no_access_times=frozenset(r.path for r in limited if not keeps_access_times(r.path)),
        downloading=frozenset(r.path for r in limited if is_downloading(r.path)),
        closed={r.path: why for r in limited if (why := _closed(r))},
        names={inode: n for r in limited for inode, n in _names(r).items()},
        trash={r.path: size for r in limited if (size := _trash(r)) is not None},
    )
    plan = plan_prune(repositories, policy, around)
    return Prepared(plan, policy, lock_file, uses.unknown, tuple(notes))


def refuse_if_unsure(prepared: Prepared) -> None:
    """Refuse to delete snapshots while it is unknown what is in use.

    What no snapshot needs may go anyway: no job can have begun with it.

    Raises:
        HpcvlmError: ``uses-unknown``.
    """
    if prepared.unknown and any(row.kind == "snapshot" for row in prepared.plan.rows):
        raise HpcvlmError(
            "uses-unknown",
            "it is unknown which snapshots are in use, so none is deleted",
            "hpcvlm snapshots prune --incomplete --orphans deletes what no snapshot needs",
            prepared.unknown,
        )


def execute(
    prepared: Prepared, ctx: Context, on_progress: OnProgress | None = None
) -> Iterator[Outcome]:
    """Delete what a plan says, row by row; what fails does not stop the rest.

    Each row is deleted when its outcome is asked for.

    Args:
        prepared: the plan.
        ctx: the outside.
        on_progress: told before each row: its number from 1, of how many, and the row.

    Raises:
        HpcvlmError: ``uses-unknown``; nothing was changed then.
    """
    refuse_if_unsure(prepared)
    guard = _Guard(prepared.lock_file, ctx)
    rows = prepared.plan.rows
    for number, row in enumerate(rows, start=1):
        if on_progress is not None:
            on_progress(number, len(rows), row)
        yield delete(row, guard, ctx.clock.sleep)


class _Guard:
    """Asks again, right before a snapshot goes, whether somebody needs it."""

    def __init__(self, lock_file: Path, ctx: Context) -> None:
        self._lock_file = lock_file
        self._ctx = ctx
        self._asked = float("-inf")
        self._uses = Uses(())

    def __call__(self, row: Row) -> str:
        if self._ctx.clock.now() - self._asked > _FRESH_S:
            self._uses = find_uses(self._ctx)
            self._asked = self._ctx.clock.now()
        if self._uses.unknown:
            return self._uses.unknown[0]
        try:
            approvals = read_lock(self._lock_file)
        except HpcvlmError as error:
            return error.sentence
        return protection(row.repo, row.commit, approvals, self._uses)


def parse_age(text: str, option: str) -> float:
    """``90d``, ``12h`` or ``2w`` in seconds.

    Raises:
        HpcvlmError: ``option-invalid``.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        sentence = f"{option} {text!r} is no age"
        raise HpcvlmError("option-invalid", sentence, "hours, days or weeks, such as 90d")
    return float(match[1]) * _AGES_S[match[2].lower()]


def parse_size(text: str, option: str) -> int:
    """``500GB``, ``2TB`` or ``1.5TiB`` in bytes; decimal units, as disks count.

    Raises:
        HpcvlmError: ``option-invalid``.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        sentence = f"{option} {text!r} is no size"
        raise HpcvlmError("option-invalid", sentence, "a number with a unit, such as 500GB or 2TB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])


def _policy(
    request: PruneRequest, repositories: Sequence[StoredRepository], ctx: Context
) -> Policy:
    repo, commit = _limit(request, repositories, ctx)
    if request.everything and not repo:
        raise HpcvlmError(
            "option-invalid",
            "--all needs a model or repository: it never means all of them",
            "hpcvlm snapshots prune --all OWNER/NAME",
        )
    of_snapshots = request.unused_for or request.unreferenced or request.everything
    named = bool(of_snapshots or request.incomplete or request.orphans)
    return Policy(
        unused_for_s=parse_age(request.unused_for, "--unused-for") if request.unused_for else None,
        unreferenced=request.unreferenced,
        # What nobody can serve goes first, and is all that goes where nothing was said.
        incomplete=request.incomplete or not named or request.free is not None,
        orphans=request.orphans or not named or request.free is not None,
        free_bytes=parse_size(request.free, "--free") if request.free else None,
        everything=request.everything,
        repo=repo,
        commit=commit,
    )


def _limit(
    request: PruneRequest, repositories: Sequence[StoredRepository], ctx: Context
) -> tuple[str, str]:
    """The repository and commit that everything is limited to; empty for all."""
    if request.name is None:
        if request.revision is not None:
            sentence = "--revision needs a model or repository"
            raise HpcvlmError("option-invalid", sentence, "hpcvlm snapshots ls lists them")
        return "", ""
    wanted = wanted_snapshot(request.name, request.revision, ctx)
    known = [r.repo for r in repositories if r.repo.casefold() == wanted.repo.casefold()]
    if not known:
        raise HpcvlmError(
            "snapshot-missing",
            f"{wanted.repo} is in no cache that is looked at",
            "hpcvlm snapshots ls lists what is there",
        )
    if request.revision is None:
        return known[0], ""
    commits = {s.commit for _, s in matching(repositories, wanted.repo, request.revision)}
    if len(commits) != 1:
        found = "is not on disk" if not commits else f"may be {' or '.join(sorted(commits))}"
        raise HpcvlmError(
            "snapshot-missing",
            f"{wanted.repo} at revision {request.revision} {found}",
            f"hpcvlm snapshots ls {wanted.repo} lists what is there",
        )
    return known[0], commits.pop()


def _caches(request: PruneRequest, configured: Sequence[Path]) -> list[Path]:
    for cache in request.caches:
        if not cache.is_dir():
            raise HpcvlmError(
                "option-invalid",
                f"--cache {cache} is no folder",
                "name a Hugging Face hub cache, such as ~/.cache/huggingface/hub",
            )
    return distinct([cache.absolute() for cache in request.caches] or configured)


def _named(limited: Sequence[StoredRepository], ctx: Context) -> dict[tuple[str, str], str]:
    """The models that name a commit of these repositories.

    Raises:
        HpcvlmError: ``file-invalid`` where a model file cannot be read that may name what is about
            to be deleted.
    """
    layers = model_layers(ctx)
    problems = [
        f"{layer.folder.path(file)}: it cannot be read"
        for layer in layers
        for file in layer.files().values()
        if layer.folder.read(file) is None
    ]
    sources = catalog_sources(layers, {repository.repo for repository in limited}, problems)
    if problems:
        raise HpcvlmError(
            "file-invalid",
            f"--unreferenced cannot know what models need: {problems[0]}",
            "correct the file (hpcvlm models validate FILE)",
            tuple(problems[1:]),
        )
    return {
        (repo, revision): name for repo, known in sources.items() for revision, name in known[::-1]
    }


def _closed(repository: StoredRepository) -> str:
    """Why nothing of a repository may or can be deleted; empty when it can."""
    folder = repository.path
    for place in (folder, folder / "blobs", folder / "snapshots"):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            return f"{place} is not writable for you; it is {user_name(repository.owner)}'s"
    return links_problem(folder) if repository.problems else ""


def _names(repository: StoredRepository) -> dict[tuple[int, int], int]:
    try:
        return other_names(repository.path)
    except OSError:
        return {}  # closed anyway


def _trash(repository: StoredRepository) -> int | None:
    try:
        return trash_bytes(repository.path)
    except OSError:
        return None  # nothing of it can be deleted
