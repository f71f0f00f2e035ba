"""The lock file: puts snapshots into it, takes them out, and compares it with the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from hpcvlm.ops.snapshots_ls import catalog_sources, user_name
from hpcvlm.snapshots.listing.completeness import look_at
from hpcvlm.snapshots.lock import approval_of, lock_path, read_lock, update_lock
from hpcvlm.snapshots.manifest import manifest_digest, read_manifest
from hpcvlm.snapshots.model import Approval, StoredRepository, StoredSnapshot
from hpcvlm.snapshots.store import matching, scan_caches, scan_named
from hpcvlm.snapshots.verify.quick_look import look
from hpcvlm.system.files import read_text
from hpcvlm.yamlfile.text import parse

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LEAST_PREFIX = 7
_ROOT = 0


@dataclass(frozen=True, slots=True)
class PinRequest:
    """What the user typed.

    Attributes:
        name: a model or repository.
        revision: branch, tag, commit or beginning of a commit; the model's own, else main.
        why: in the user's words; what the entry has when None.
        unverified: whether a snapshot without a manifest may be pinned.
        update: whether an entry whose manifest differs may be replaced.
    """

    name: str
    revision: str | None = None
    why: str | None = None
    unverified: bool = False
    update: bool = False


@dataclass(frozen=True, slots=True)
class Pinned:
    """What became of a pin.

    Attributes:
        approval: the entry as it is now.
        before: as it was; None where there was none.
        path: the lock file.
    """

    approval: Approval
    before: Approval | None
    path: Path


@dataclass(frozen=True, slots=True)
class LockRow:
    """One entry of the lock file, and what it stands for here.

    Attributes:
        models: of the catalog that serve it.
        problems: why it is not what was approved; empty when it is, or was not looked at.
        folder: of the snapshot; None where it is not on disk.
    """

    approval: Approval
    models: tuple[str, ...]
    problems: tuple[str, ...]
    folder: Path | None


@dataclass(frozen=True, slots=True)
class LockList:
    """The lock file.

    Attributes:
        approved_only: whether launches may serve nothing else.
        checked: whether the entries were compared with the disk.
        notes: what could not be found out.
    """

    path: Path
    rows: tuple[LockRow, ...]
    approved_only: bool
    checked: bool
    notes: tuple[str, ...]


def pin(request: PinRequest, ctx: Context) -> Pinned:
    """Put a snapshot that is on disk into the lock file.

    Raises:
        HpcvlmError: ``snapshot-missing``, ``snapshot-broken``, ``manifest-missing``,
            ``manifest-damaged``, ``pin-differs``, and what reading and writing the file raise.
    """
    site, _ = site_of(ctx)
    wanted = wanted_snapshot(request.name, request.revision, ctx)
    caches = searched_caches(site, ctx, bundled=True)
    snapshot = _on_disk(scan_named(caches, wanted.repo), wanted)
    digest = _digest(snapshot, request)
    entry = Approval(
        repo=snapshot.repo,
        commit=snapshot.commit,
        manifest=digest,
        licence=licence_of(read_text(snapshot.path / "README.md") or ""),
        by=_user(ctx),
        date=datetime.fromtimestamp(ctx.clock.now(), tz=UTC).strftime("%Y-%m-%d"),
        why=" ".join((request.why or "").split()),
    )
    path = lock_path(site, ctx.settings)
    before: list[Approval] = []
    now = [entry]

    def change(approvals: tuple[Approval, ...]) -> Sequence[Approval]:
        old = approval_of(approvals, entry.repo, entry.commit)
        if old is None:
            return (*approvals, entry)
        before.append(old)
        now[0] = _renewed(old, entry, request, path)
        return [now[0] if one == old else one for one in approvals]

    update_lock(path, change)
    return Pinned(now[0], before[0] if before else None, path)


def unpin(name: str, revision: str | None, ctx: Context) -> tuple[Approval, Path]:
    """Take one entry out of the lock file; gives it and the file.

    Raises:
        HpcvlmError: ``pin-unknown``, ``pin-ambiguous``, ``model-unknown``, and what reading and
            writing the file raise.
    """
    site, _ = site_of(ctx)
    path = lock_path(site, ctx.settings)
    approvals = read_lock(path)
    wanted = _wanted_entry(name, revision, approvals, ctx)
    refs = {
        repository.refs[wanted.revision]
        for repository in scan_named(searched_caches(site, ctx, bundled=True), wanted.repo)
        if wanted.revision in repository.refs
    }
    taken: list[Approval] = []

    def change(now: tuple[Approval, ...]) -> Sequence[Approval]:
        taken.append(_entry(now, wanted, revision, refs, path))
        return [one for one in now if one != taken[-1]]

    update_lock(path, change)
    return taken[-1], path


def list_lock(ctx: Context, *, check: bool) -> LockList:
    """The entries of the lock file; with `check` each is compared with what is on disk.

    Raises:
        HpcvlmError: what reading the site's files and the lock file raise.
    """
    site, _ = site_of(ctx)
    path = lock_path(site, ctx.settings)
    approvals = read_lock(path)
    notes: list[str] = []
    sources = catalog_sources(model_layers(ctx), {entry.repo for entry in approvals}, notes)
    repositories = scan_caches(searched_caches(site, ctx, bundled=True)) if approvals else []
    rows = []
    for entry in approvals:
        found = matching(repositories, entry.repo, entry.commit)
        names = {entry.commit, *(ref for _, snapshot in found for ref in snapshot.refs)}
        known = sources.get(entry.repo.casefold(), ())
        models = tuple(model for revision, model in known if revision in names)
        snapshot = found[0][1] if found else None
        problems = tuple(_problems(entry, snapshot)) if check else ()
        rows.append(LockRow(entry, models, problems, snapshot.path if snapshot else None))
    return LockList(path, tuple(rows), site.store.approved_only, check, tuple(notes))


def licence_of(card: str) -> str:
    """The licence in the front matter of a model card; empty where it has none.

    The keys are the hub's: ``license``, and ``license_name`` where that is ``other``
    (https://huggingface.co/docs/hub/model-cards).
    """
    if not card.startswith("---"):
        return ""
    front = re.split(r"^---\s*$", card, maxsplit=2, flags=re.MULTILINE)
    try:
        data = parse(front[1], "README.md")
    except (HpcvlmError, IndexError):
        return ""
    if not isinstance(data, dict):
        return ""
    licence = data.get("license")
    if licence == "other":
        licence = data.get("license_name") or licence
    several = licence if isinstance(licence, list) else [licence]
    return ", ".join(str(one).strip() for one in several if one)


def _on_disk(repositories: Sequence[StoredRepository], wanted: Wanted) -> StoredSnapshot:
    found = matching(repositories, wanted.repo, wanted.revision)
    commits = sorted({snapshot.commit for _, snapshot in found})
    revision = "" if wanted.revision == "main" else f" --revision {wanted.revision}"
    if not commits:
        raise HpcvlmError(
            "snapshot-missing",
            f"{wanted.repo} at revision {wanted.revision} is not on disk; a pin is of what is here",
            f"hpcvlm snapshots pull {wanted.model or wanted.repo}{revision}",
        )
    if len(commits) > 1:
        raise HpcvlmError(
            "option-invalid",
            f"--revision {wanted.revision} may be {' or '.join(commits)}",
            "type more of the commit",
        )
    return found[0][1]


def _digest(snapshot: StoredSnapshot, request: PinRequest) -> str:
    """Digest of the manifest; empty where there is none and that is allowed."""
    folder = snapshot.path.parent.parent
    missing = look_at(snapshot).missing
    name = f"{snapshot.repo} --revision {snapshot.commit[:12]}"
    manifest = read_manifest(folder, snapshot.commit)
    if missing:
        raise HpcvlmError(
            "snapshot-broken",
            f"{snapshot.path}: it is not complete, so nobody can answer for it",
            f"hpcvlm snapshots verify {name} --repair",
            missing,
        )
    if not _COMMIT.fullmatch(snapshot.commit):
        raise HpcvlmError(
            "snapshot-broken",
            f"{snapshot.path}: {snapshot.commit!r} is no commit of a repository",
            "hpcvlm snapshots pull fetches one that is",
        )
    if manifest is not None:
        return manifest_digest(manifest)
    if request.unverified:
        return ""
    raise HpcvlmError(
        "manifest-missing",
        f"{snapshot.repo}@{snapshot.commit} was never verified",
        f"hpcvlm snapshots verify {name}; or pin it with --unverified",
    )


def _renewed(old: Approval, entry: Approval, request: PinRequest, path: Path) -> Approval:
    """The entry that replaces one of the same snapshot."""
    why = old.why if request.why is None else entry.why
    if old.manifest == entry.manifest:
        return old._replace(why=why)
    if old.manifest and not request.update:
        raise HpcvlmError(
            "pin-differs",
            f"{old.repo}@{old.commit} is pinned with another manifest ({old.manifest[:19]}, here "
            f"{entry.manifest[:19] or 'none'}) in {path}",
            f"hpcvlm snapshots verify {old.repo} --revision {old.commit[:12]}; if what is here is "
            "right, pin it with --update",
        )
    return entry._replace(why=why)


def _wanted_entry(
    name: str, revision: str | None, approvals: Sequence[Approval], ctx: Context
) -> Wanted:
    """What is to be unpinned: a repository of an entry, also one that no longer is anywhere."""
    for entry in approvals:
        if entry.repo.casefold() == name.casefold():
            return Wanted(entry.repo, revision or "")
    return wanted_snapshot(name, revision, ctx)


def _entry(
    approvals: Sequence[Approval],
    wanted: Wanted,
    revision: str | None,
    refs: set[str],
    path: Path,
) -> Approval:
    of_repo = [one for one in approvals if one.repo.casefold() == wanted.repo.casefold()]
    found = of_repo
    if revision is not None or (wanted.model and len(of_repo) > 1):
        found = [
            one
            for one in of_repo
            if one.commit in refs
            or (len(wanted.revision) >= _LEAST_PREFIX and one.commit.startswith(wanted.revision))
        ]
    if len(found) == 1:
        return found[0]
    if found or (of_repo and revision is None):
        raise HpcvlmError(
            "pin-ambiguous",
            f"{path}: {wanted.repo} has {len(found or of_repo)} entries",
            "name one with --revision COMMIT",
            tuple(f"{one.commit}  {one.date}  {one.by}" for one in found or of_repo),
        )
    near = get_close_matches(wanted.repo, {one.repo for one in approvals}, n=3, cutoff=0.5)
    of_it = f" at revision {revision}" if of_repo else ""
    meant = of_repo[0].commit if of_repo else " or ".join(near)
    hint = f"; did you mean {meant}?" if meant else ""
    raise HpcvlmError(
        "pin-unknown",
        f"{path}: {wanted.repo}{of_it} is not pinned{hint}",
        "hpcvlm snapshots lock lists what is",
    )


def _problems(entry: Approval, snapshot: StoredSnapshot | None) -> list[str]:
    """Why what is on disk is not what was approved."""
    if snapshot is None:
        return ["not on disk"]
    folder = snapshot.path.parent.parent
    seen = look(snapshot.path, folder, snapshot.commit)
    problems = [finding.sentence for finding in seen.findings if finding.problem]
    if entry.manifest and seen.manifest is None:
        problems.append("it was approved verified, but has no manifest here")
    elif entry.manifest and seen.manifest is not None:
        here = manifest_digest(seen.manifest)
        if here != entry.manifest:
            problems.append(f"its manifest is {here[:19]}, approved is {entry.manifest[:19]}")
    return problems


def _user(ctx: Context) -> str:
    """Who types this; with sudo not root, since nobody knows who that was."""
    number = os.geteuid()
    return (ctx.environment.get("SUDO_USER") if number == _ROOT else None) or user_name(number)
