"""One snapshot on disk, with everything that is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from hpcvlm.ops.snapshots_ls import Described, Listed
from hpcvlm.snapshots.listing.summary import summaries_of
from hpcvlm.snapshots.model import StoredRepository, StoredSnapshot
from hpcvlm.snapshots.model_card import licence_of
from hpcvlm.snapshots.store import cache_problem, distinct, matching, scan_named

_SHORT = 12


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Shown:
    """The answer of `show_snapshot`.

    Attributes:
        listed: as `hpcvlm.ops.snapshots_ls.list_snapshots` has it.
        snapshot: what was asked for.
        licence: as the model card on disk names it; empty where it names none.
        elsewhere: folders of the same commit in further caches.
        notes: what could not be found out, one sentence each.
        uses_known: whether `Listed.uses` is everybody's.
    """

    listed: Listed
    snapshot: StoredSnapshot
    licence: str
    elsewhere: tuple[Path, ...]
    notes: tuple[str, ...]
    uses_known: bool


def show_snapshot(text: str, revision: str | None, ctx: Context) -> Shown:
    """The snapshot that a model's name, an alias or a repository means.

    Args:
        text: as `hpcvlm.ops.snapshot_names.wanted_snapshot` takes it.
        revision: branch, tag, commit, or beginning of a commit; the model's own, else ``main``,
            when None. A repository that has one snapshot only and no such ref means that one.
        ctx: the outside.

    Raises:
        HpcvlmError: ``snapshot-missing`` where no cache has it, ``option-invalid`` for a
            beginning of several commits, and what names and files of the site raise.
    """
    site, _ = site_of(ctx)
    wanted = wanted_snapshot(text, revision, ctx)
    caches = distinct(searched_caches(site, ctx, bundled=True))
    repositories = scan_named(caches, wanted.repo)
    repository, snapshot, others = _choose(wanted, revision, repositories, caches)
    notes: list[str] = []
    described = Described.load(site, ctx, {snapshot.repo}, notes)
    summary = next(one for one in summaries_of(repository) if one.snapshot is snapshot)
    return Shown(
        listed=described.listed(summary),
        snapshot=snapshot,
        licence=licence_of(snapshot.path),
        elsewhere=tuple(other.path for other in others),
        notes=tuple(notes),
        uses_known=not described.uses.unknown,
    )


def _choose(
    wanted: Wanted,
    revision: str | None,
    repositories: list[StoredRepository],
    caches: list[Path],
) -> tuple[StoredRepository, StoredSnapshot, list[StoredSnapshot]]:
    found = matching(repositories, wanted.repo, wanted.revision)
    if not found and revision is None:
        # Pulled by its commit, as the lock file has it, so that there is no ref.
        every = [(r, s) for r in repositories for s in r.snapshots]
        found = every if len({snapshot.commit for _, snapshot in every}) == 1 else []
    if not found:
        raise _missing(wanted, repositories, caches)
    first = [snapshot for repository, snapshot in found if repository is found[0][0]]
    if len(first) > 1:
        raise HpcvlmError(
            "option-invalid",
            f"{wanted.repo} has {len(first)} snapshots that begin with {wanted.revision}",
            f"hpcvlm snapshots show {wanted.repo} --revision {first[0].commit}",
            tuple(snapshot.commit for snapshot in first),
        )
    chosen, snapshot = found[0]
    return chosen, snapshot, [other for _, other in found[1:] if other.commit == snapshot.commit]


def _missing(
    wanted: Wanted, repositories: list[StoredRepository], caches: list[Path]
) -> HpcvlmError:
    here = sorted({(s.commit, s.refs) for r in repositories for s in r.snapshots})
    problems = [f"{r.path}: {problem}" for r in repositories for problem in r.problems]
    problems += filter(None, map(cache_problem, caches))
    if here:
        sentence = f"{wanted.repo} has no snapshot of revision {wanted.revision} on disk"
        lines = [f"on disk: {commit} {', '.join(refs)}".rstrip() for commit, refs in here]
        remedy = f"hpcvlm snapshots show {wanted.repo} --revision {here[0][0][:_SHORT]}"
        return HpcvlmError("snapshot-missing", sentence, remedy, (*lines, *problems))
    searched = ", ".join(str(cache) for cache in caches)
    return HpcvlmError(
        "snapshot-missing",
        f"{wanted.repo} is in no hub cache ({searched})",
        f"hpcvlm snapshots pull {wanted.repo}",
        tuple(problems),
    )
