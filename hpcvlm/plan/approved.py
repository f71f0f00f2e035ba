"""Whether a launch may serve a snapshot where the site wants only approved ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.plan.model import Issue, PlannedSnapshot
from hpcvlm.snapshots.manifest import is_hash

if TYPE_CHECKING:
    from hpcvlm.snapshots.model import Approval

CODE = "snapshot-not-approved"
_FIELD = "site.store.approved_only"
_COMMIT_DIGITS = 40
_EXPORT = "hpcvlm snapshots export REPO FILE.sqsh makes an image that says what it holds"


class Approvals(NamedTuple):
    """What a site lets launches serve.

    Attributes:
        entries: of the lock file.
        digest: of the manifest of the snapshot that is to be served; empty where it has none.
        lock_file: where the entries are from.
    """

    entries: tuple[Approval, ...]
    digest: str
    lock_file: str


def approval_issues(snapshot: PlannedSnapshot, approvals: Approvals) -> list[Issue]:
    """Why a snapshot may not be served; nothing when it may."""
    issue = approval_issue(snapshot, approvals.entries, approvals.digest, approvals.lock_file)
    return [] if issue is None else [issue]


def approval_issue(
    snapshot: PlannedSnapshot, approvals: Sequence[Approval], digest: str, lock_file: str
) -> Issue | None:
    """Why a snapshot may not be served where ``store.approved_only`` is true; None when it may.

    Args:
        snapshot: what would be served.
        approvals: the entries of the lock file.
        digest: of the snapshot's manifest on disk, ``sha256:…``; empty where it has none.
        lock_file: where the entries are from, for messages.
    """
    from hpcvlm.snapshots.lock import approval_of

    repo, commit = snapshot.repo, snapshot.commit
    entry = approval_of(approvals, repo, commit)
    if entry is None:
        if not is_hash(commit, _COMMIT_DIGITS):
            return _unknown_commit(snapshot)
        known = [a.commit for a in approvals if a.repo.casefold() == repo.casefold()]
        others = f"; approved of {repo}: {', '.join(known)}" if known else ""
        return Issue(
            CODE,
            _FIELD,
            f"{repo}@{commit} is not in {lock_file}, and only approved snapshots may be served"
            f"{others}",
            "ask who answers for that file; hpcvlm snapshots lock lists what is approved",
        )
    if not entry.manifest or entry.manifest == digest:
        return None
    verify = f"hpcvlm snapshots verify {repo} --revision {commit}"
    if not digest and snapshot.image is not None:
        return Issue(
            CODE,
            _FIELD,
            f"{repo}@{commit} is approved as {entry.by} verified it, but {snapshot.image} holds no "
            "manifest",
            _EXPORT,
        )
    if not digest:
        return Issue(
            CODE,
            _FIELD,
            f"{repo}@{commit} is approved as {entry.by} verified it, but was never verified here",
            verify,
        )
    return Issue(
        CODE,
        _FIELD,
        f"{repo}@{commit} is not what {entry.by} approved on {entry.date}: its manifest is "
        f"{digest[:19]}, approved is {entry.manifest[:19]} ({lock_file})",
        f"{verify} --online" if snapshot.image is None else _EXPORT,
    )


def _unknown_commit(snapshot: PlannedSnapshot) -> Issue:
    """An image without a manifest, or a folder outside of hub caches: any commit may be in it."""
    return Issue(
        CODE,
        _FIELD,
        f"only approved snapshots may be served, and nobody can say which commit of "
        f"{snapshot.repo} {snapshot.image or snapshot.path} holds",
        "write its commit as 'snapshot: revision' in the model's file"
        if snapshot.image is None
        else _EXPORT,
    )
