"""Decides what may be deleted from hub caches, and how much room that really makes. No effects.

Nothing that is pinned, in use, or linked to by what stays is ever chosen. A blob that several
snapshots share is counted when the last of them goes; one that has other names in the file system
(hard links, huggingface_hub's store of shared blobs) when the last of its names goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpcvlm.snapshots.listing.completeness import WEIGHTS
from hpcvlm.snapshots.lock import approval_of
from hpcvlm.snapshots.model import (
    Approval,
    StoredBlob,
    StoredRepository,
    StoredSnapshot,
    Uses,
)
from hpcvlm.snapshots.prune.model import (
    DAY_S,
    UNREFERENCED,
    Circumstances,
    Kept,
    Kind,
    Policy,
    PrunePlan,
    Row,
)
from hpcvlm.snapshots.prune.references import Ledger, own_blob

# A download that makes no progress for so long is over; what it wrote is linked to by then.
SETTLED_S = DAY_S
_UNKNOWN_USE = "last use unknown"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def last_use(snapshot: StoredSnapshot) -> float | None:
    """When the weights were last read or written, in seconds since the epoch; None without any.

    Configurations do not count: listing and planning read them.
    """
    weights = [file.blob for file in snapshot.files if file.path.endswith(WEIGHTS)]
    return max((max(b.accessed, b.modified) for b in weights if b is not None), default=None)


def plan_prune(
    repositories: Sequence[StoredRepository], policy: Policy, around: Circumstances
) -> PrunePlan:
    """What a policy lets go of, in the order in which it is to be deleted.

    Args:
        repositories: everything in the caches, also what the policy is limited from: a blob can be
            linked to from anywhere.
        policy: what is to go.
        around: what else decides.
    """
    return _Planner(repositories, policy, around).plan()


def protection(repo: str, commit: str, approvals: Iterable[Approval], uses: Uses) -> str:
    """Why a snapshot may never be deleted, whatever the policy; empty when it may."""
    if (entry := approval_of(approvals, repo, commit)) is not None:
        why = f": {entry.why}" if entry.why else ""
        return f"pinned by {entry.by} on {entry.date}{why}"
    for use in uses.uses:
        # Where a job names a branch, or nothing, any commit may be what it reads.
        may_be = use.commit == commit or not _COMMIT.fullmatch(use.commit)
        if may_be and use.repo.casefold() == repo.casefold():
            job = use.job if use.job.startswith("process") else f"job {use.job}"
            return f"used by {job} of {use.user} ({use.name})"
    return ""


class _Candidate(NamedTuple):
    repository: StoredRepository
    snapshot: StoredSnapshot
    last_use: float | None
    reason: str


class _Planner:
    def __init__(
        self, repositories: Sequence[StoredRepository], policy: Policy, around: Circumstances
    ) -> None:
        self._policy = policy
        self._around = around
        self._limited = [
            repository
            for repository in repositories
            if not policy.repo or repository.repo.casefold() == policy.repo.casefold()
        ]
        self._repositories = repositories
        self._ledger = Ledger(repositories, around.names)
        self._rows: list[Row] = []
        self._kept: list[Kept] = []
        self._staying: set[Path] = set()

    def plan(self) -> PrunePlan:
        for repository in self._limited:
            self._leftovers(repository)
        chosen = list(self._by_policy())
        target = self._policy.free_bytes
        if target is not None:
            chosen = self._enough(target - sum(row.size for row in self._rows), chosen)
        self._snapshot_rows(chosen)
        size = sum(row.size for row in self._rows)
        short = max(0, target - size) if target is not None else 0
        return PrunePlan(tuple(self._rows), tuple(self._kept), short)

    def _leftovers(self, repository: StoredRepository) -> None:
        """The trash, unfinished downloads and orphans of one repository."""
        folder = repository.path
        if folder in self._around.trash and folder not in self._around.closed:
            self._row("trash", repository, (), self._around.trash[folder], "of a stopped prune")
        if self._policy.commit:
            return
        if self._policy.incomplete:
            self._loose("incomplete", repository, list(repository.incomplete), "unfinished")
        if self._policy.orphans:
            orphans = [
                blob
                for name, blob in sorted(repository.blobs.items())
                if not self._ledger.users(folder, name)
            ]
            self._loose("orphans", repository, orphans, "linked to by no snapshot")

    def _loose(
        self, kind: Kind, repository: StoredRepository, blobs: Sequence[StoredBlob], reason: str
    ) -> None:
        going = []
        for blob in blobs:
            if why := self._needed(repository, blob):
                self._keep(kind, repository, blob.name, blob.size, why, last_use=None)
            else:
                going.append(blob)
        if going:
            size = sum(self._ledger.remove_name(blob) for blob in going)
            files = tuple((blob.name, repr(blob.modified)) for blob in going)
            self._row(kind, repository, files, size, reason)

    def _needed(self, repository: StoredRepository, blob: StoredBlob) -> str:
        """Why a blob that no snapshot of its repository links to stays."""
        if repository.path in self._around.closed:
            return self._around.closed[repository.path]
        if blob.inode in self._ledger.foreign:
            return "a file of another folder links to it"
        if self._around.now - blob.modified < SETTLED_S:
            return "younger than a day: it may be part of a download"
        if repository.path in self._around.downloading:
            return "a download is going on in this repository"
        return ""

    def _by_policy(self) -> Iterator[_Candidate]:
        """The snapshots that may go."""
        for repository, snapshot in self._snapshots():
            used = self._last_use(repository, snapshot)
            reason, why_not = self._reason(snapshot, used)
            if reason:
                why_not = self._protection(repository, snapshot)
            if reason and not why_not:
                yield _Candidate(repository, snapshot, used, reason)
            else:
                wanted = bool(reason) or why_not == _UNKNOWN_USE
                self._keep_snapshot(repository, snapshot, why_not, used, wanted=wanted)

    def _enough(self, missing: int, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """The least recently used of them that together make as much room as is missing."""
        picked: list[_Candidate] = []
        freed = 0
        for candidate in sorted(candidates, key=_age_order):
            if freed >= missing:
                break
            freed += self._ledger.take(candidate.snapshot)
            picked.append(candidate)
        needed = self._without_needless(picked, freed - missing)
        for candidate in needed:
            self._ledger.give_back(candidate.snapshot)
        return needed

    def _without_needless(self, picked: list[_Candidate], spare: int) -> list[_Candidate]:
        """Give back, newest first, what the target does not need."""
        needed = []
        for candidate in reversed(picked):
            self._ledger.give_back(candidate.snapshot)
            gain = self._ledger.take(candidate.snapshot)
            if gain <= spare or gain == 0:
                self._ledger.give_back(candidate.snapshot)
                spare -= gain
            else:
                needed.append(candidate)
        return needed[::-1]

    def _snapshot_rows(self, chosen: Sequence[_Candidate]) -> None:
        """Rows in the order of deletion, each with what it frees at its turn."""
        for candidate in chosen:
            snapshot = candidate.snapshot
            files = tuple((file.path, file.link) for file in snapshot.files)
            size = self._ledger.take(snapshot)
            self._row(
                "snapshot",
                candidate.repository,
                files,
                size,
                candidate.reason,
                commit=snapshot.commit,
                used=candidate.last_use,
            )
        if self._policy.free_bytes is None:
            return
        going = {candidate.snapshot.path for candidate in chosen}
        for repository, snapshot in self._snapshots():
            if snapshot.path not in going and snapshot.path not in self._staying:
                used = self._last_use(repository, snapshot)
                why = "not needed for the room that was asked for"
                self._keep_snapshot(repository, snapshot, why, used, wanted=False)

    def _snapshots(self) -> Iterator[tuple[StoredRepository, StoredSnapshot]]:
        for repository in self._limited:
            for snapshot in repository.snapshots:
                if not self._policy.commit or snapshot.commit == self._policy.commit:
                    yield repository, snapshot

    def _reason(self, snapshot: StoredSnapshot, used: float | None) -> tuple[str, str]:
        """Why the policy wants a snapshot gone, or why it does not."""
        policy, why_not = self._policy, "no policy is about it"
        if policy.everything:
            return "asked for by name", ""
        if policy.free_bytes is not None and not policy.limits_snapshots:
            return ("", _UNKNOWN_USE) if used is None else ("least recently used", "")
        if policy.unreferenced:
            why_not = self._referenced(snapshot)
            if not why_not and self._is_young(snapshot):
                why_not = "younger than a day: it may be part of a download"
            if not why_not:
                return UNREFERENCED, ""
        if policy.unused_for_s is not None:
            if used is None:
                return "", _UNKNOWN_USE
            days = (self._around.now - used) / DAY_S
            if self._around.now - used >= policy.unused_for_s:
                return f"unused for {_days(days)}", ""
            why_not = f"used {_days(days)} ago"
        return "", why_not

    def _referenced(self, snapshot: StoredSnapshot) -> str:
        if snapshot.refs:
            return f"{', '.join(snapshot.refs)} points to it"
        model = self._around.named.get((snapshot.repo.casefold(), snapshot.commit))
        return f"the model {model} names it" if model else ""

    def _is_young(self, snapshot: StoredSnapshot) -> bool:
        written = [file.blob.modified for file in snapshot.files if file.blob is not None]
        return self._around.now - max(written, default=0.0) < SETTLED_S

    def _protection(self, repository: StoredRepository, snapshot: StoredSnapshot) -> str:
        around = self._around
        if repository.path in around.closed:
            return around.closed[repository.path]
        why = protection(snapshot.repo, snapshot.commit, around.approvals, around.uses)
        if not why and repository.path in around.downloading:
            why = "a download is going on in this repository"
        if not why and any(
            blob.inode in self._ledger.foreign for blob in self._files_of(repository, snapshot)
        ):
            why = "a file of another folder links to a file of it"
        return why

    @staticmethod
    def _files_of(repository: StoredRepository, snapshot: StoredSnapshot) -> Iterator[StoredBlob]:
        """The blobs and plain files that a snapshot holds itself."""
        for file in snapshot.files:
            if file.blob is not None and (not file.link or own_blob(repository, file)):
                yield file.blob

    def _last_use(self, repository: StoredRepository, snapshot: StoredSnapshot) -> float | None:
        return None if repository.path in self._around.no_access_times else last_use(snapshot)

    def _row(
        self,
        kind: Kind,
        repository: StoredRepository,
        files: tuple[tuple[str, str], ...],
        size: int,
        reason: str,
        *,
        commit: str = "",
        used: float | None = None,
    ) -> None:
        self._rows.append(
            Row(
                kind=kind,
                repo=repository.repo,
                commit=commit,
                folder=repository.path,
                files=files,
                size=size,
                reason=reason,
                last_use=used,
                owner=repository.owner,
            )
        )

    def _keep_snapshot(
        self,
        repository: StoredRepository,
        snapshot: StoredSnapshot,
        why: str,
        used: float | None,
        *,
        wanted: bool,
    ) -> None:
        blobs = {file.blob.inode: file.blob.size for file in snapshot.files if file.blob}
        size = sum(blobs.values())
        self._staying.add(snapshot.path)
        self._keep("snapshot", repository, snapshot.commit, size, why, last_use=used, wanted=wanted)

    def _keep(
        self,
        kind: Kind,
        repository: StoredRepository,
        name: str,
        size: int,
        why: str,
        *,
        last_use: float | None,
        wanted: bool = True,
    ) -> None:
        self._kept.append(
            Kept(
                kind,
                repository.repo,
                name,
                repository.path,
                size,
                why,
                wanted,
                last_use,
                repository.owner,
            )
        )


def _age_order(candidate: _Candidate) -> tuple[bool, float, Path]:
    """The longest unused first, those of unknown use last."""
    used = candidate.last_use
    return used is None, used or 0.0, candidate.snapshot.path


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"  # noqa: PLR2004
