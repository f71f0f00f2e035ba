"""Compares a snapshot with what the hub gave, byte by byte, and keeps its manifest.

What a file must be is told, best first, by the hub's own list, by the list that `pull` kept, and by
the name of the blob that it links to, which is the hub's hash of its content. What it was when it
was last verified is told by the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.manifest import (
    manifest_digest,
    read_listing,
    read_manifest,
    write_manifest,
)
from hpcvlm.snapshots.model import ListedFile, Manifest, ManifestFile, StoredSnapshot
from hpcvlm.snapshots.verify.findings import Finding, one_each
from hpcvlm.snapshots.verify.hashing import Hashed, ToHash, hash_files
from hpcvlm.snapshots.verify.quick_look import (
    SeenFile,
    compared_with_list,
    is_decoration,
    look,
    verified_on,
)
from hpcvlm.snapshots.verify.result import OnProgress, Progress, Verification

_NAMED = 3
_GIT_DIGITS = 40
_NOT_HASHED = frozenset({"size", "unreadable", "link"})
# What the hub may itself have got wrong; to fetch it again would mend nothing.
_ITS_OWN = frozenset({"json", "tensors", "header", "empty", "pointer"})


@dataclass(frozen=True, slots=True, repr=False)
class How:
    """How a snapshot is verified.

    Attributes:
        quick: names, links, sizes and headers only; no weights are read.
        also: files that are read all the same, such as those just fetched.
        keep: whether a manifest is written; not into an installed package.
        hub_list: the hub's list of the files at this commit, asked just now; None when it was not.
        approved: digest that the lock file has for it; None when it is not pinned, or without one.
        by: name of the user who verifies.
        now: seconds since the epoch.
        known: hashes of files that were read before in this run, by inode; filled on the way.
    """

    by: str
    now: float
    quick: bool = False
    also: frozenset[str] = frozenset()
    keep: bool = True
    hub_list: tuple[ListedFile, ...] | None = None
    approved: str | None = None
    known: dict[tuple[object, ...], Hashed] = field(default_factory=dict)


class _Subject(NamedTuple):
    """What is verified: the files as they were seen, and what was kept about them."""

    files: dict[str, SeenFile]
    manifest: Manifest | None
    listing: tuple[ListedFile, ...] | None


def repository_folder_of(snapshot: Path) -> Path:
    """The folder that holds what hpcvlm keeps about a snapshot."""
    return snapshot.parent.parent if snapshot.parent.name == "snapshots" else snapshot


def verify_snapshot(
    stored: StoredSnapshot, how: How, on_progress: OnProgress | None = None
) -> Verification:
    """Verify one snapshot; write its manifest when everything is right and it has none.

    Nothing is raised for what is found. A manifest that cannot be written is told in the result.

    Raises:
        KeyboardInterrupt: as it came; nothing was written.
    """
    folder = repository_folder_of(stored.path)
    looked = look(stored.path, folder, stored.commit)
    seen = _subject(looked.files, folder, stored.commit)
    findings = [*looked.findings, *_online(seen, how)]
    hashes: dict[str, Hashed] = {}
    read = 0
    if not how.quick or how.also:
        wanted = _to_hash(stored.path, seen, findings, how)
        hashes, read = _hash(wanted, seen, how, on_progress, stored.repo)
        findings = _in_order([*_contents(seen, how, hashes), *findings])
        findings = [_whose_fault(finding, seen, how, hashes) for finding in findings]
    now = _manifest(stored, seen, how, hashes) if hashes.keys() == seen.files.keys() else None
    approval = _approval(now or seen.manifest, how)
    told = one_each([*findings, *([approval] if approval else ())])
    state, note = _keep(folder, seen, now if how.keep else None, told)
    kept = now if state in {"written", "extended"} else seen.manifest
    return Verification(
        repo=stored.repo,
        commit=stored.commit,
        path=stored.path,
        refs=stored.refs,
        depth="quick" if how.quick else "full",
        findings=told,
        files=len(seen.files),
        size=sum(max(0, file.size) for file in seen.files.values()),
        read=read,
        compared_with=_compared_with(seen, how),
        manifest=state,
        manifest_note=note,
        digest=manifest_digest(kept) if kept is not None else "",
    )


def differing_copies(
    stored: StoredSnapshot, others: Sequence[StoredSnapshot]
) -> tuple[Finding, ...]:
    """How the same snapshot in other caches differs from this one, one warning a cache."""
    return tuple(
        Finding("", "copies", f"{other.path}: another copy, and it differs: {words}", problem=False)
        for other in others
        if other.path != stored.path
        and (other.repo, other.commit) == (stored.repo, stored.commit)
        and (words := _difference(stored, other))
    )


def _subject(files: dict[str, SeenFile], folder: Path, commit: str) -> _Subject:
    manifest, listing = None, None
    with suppress(HpcvlmError):  # what is damaged the look has told
        manifest = read_manifest(folder, commit)
    with suppress(HpcvlmError):
        listing = read_listing(folder, commit)
    return _Subject(files, manifest, listing)


def _difference(here: StoredSnapshot, there: StoredSnapshot) -> str:
    ours = {file.path: file.blob for file in here.files}
    theirs = {file.path: file.blob for file in there.files}
    differences = [f"{path} only there" for path in theirs.keys() - ours.keys()]
    differences += [f"{path} only here" for path in ours.keys() - theirs.keys()]
    for path in ours.keys() & theirs.keys():
        mine, other = ours[path], theirs[path]
        sizes = [f"{blob.size:,} bytes" if blob else "no blob" for blob in (mine, other)]
        if sizes[0] != sizes[1]:
            differences.append(f"{path} has {sizes[0]} here, {sizes[1]} there")
    return _listed(sorted(differences))


def _online(seen: _Subject, how: How) -> list[Finding]:
    """Against the hub's list; what was perhaps never wanted here is one warning."""
    if how.hub_list is None:
        return []
    wanted = {file.path for file in seen.listing or ()}
    here = [file for file in how.hub_list if file.path in seen.files or file.path in wanted]
    found = list(compared_with_list(seen.files, here))
    absent = sorted({file.path for file in how.hub_list} - seen.files.keys() - wanted)
    if absent:
        text = f"the hub has {_count(len(absent))} more, not here: {_listed(absent)}"
        found.append(Finding("", "missing", text, problem=False))
    extra = sorted(seen.files.keys() - {file.path for file in how.hub_list})
    found += [
        Finding(name, "added", "the hub has no such file", problem=not is_decoration(name))
        for name in extra
    ]
    return found


def _to_hash(
    folder: Path, seen: _Subject, findings: Sequence[Finding], how: How
) -> dict[str, ToHash]:
    """All files but those of which no hash can be had, or would tell anything new."""
    told = {finding.path for finding in findings if finding.kind in _NOT_HASHED and finding.problem}
    hub = {file.path: file.hub_hash for file in seen.listing or ()}
    wanted = {}
    for name, file in seen.files.items():
        if name in told or (how.quick and name not in how.also):
            continue
        names = (file.blob_hash, hub.get(name, ""))
        # A small plain file may be one of Git's: with both hashes the hub can be asked later.
        git = any(len(one) == _GIT_DIGITS for one in names) or not any(names)
        wanted[name] = ToHash(f"{folder}/{name}", file.size, git, file.inode)
    return wanted


def _hash(
    wanted: Mapping[str, ToHash],
    seen: _Subject,
    how: How,
    on_progress: OnProgress | None,
    what: str,
) -> tuple[dict[str, Hashed], int]:
    """The hashes, and the bytes read for them: what was read before in this run is not again."""
    keys = {
        name: (file.inode, file.size, seen.files[name].modified, file.git)
        for name, file in wanted.items()
    }
    fresh = {keys[name]: file for name, file in wanted.items() if keys[name] not in how.known}
    files = list(fresh.values())
    total = sum(file.size for file in files)

    def tell(done: int, finished: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, total, finished, len(files), what))

    answers = hash_files(files, tell)
    how.known.update(zip(fresh, answers, strict=True))
    return {name: how.known[key] for name, key in keys.items()}, total


def _hub_hashes(seen: _Subject, how: How) -> dict[str, str]:
    """What the hub says about each file, by the best witness there is."""
    hashes = {name: file.blob_hash for name, file in seen.files.items()}
    for listed in (*(seen.listing or ()), *(how.hub_list or ())):
        if listed.path in hashes and listed.hub_hash:
            hashes[listed.path] = listed.hub_hash
    return hashes


def _contents(seen: _Subject, how: How, hashes: Mapping[str, Hashed]) -> list[Finding]:
    """Files whose content is another than the hub's, or than when they were verified."""
    hub = _hub_hashes(seen, how)
    kept = seen.manifest.files if seen.manifest is not None else {}
    found = []
    unproven = []
    for name, hashed in hashes.items():
        before = kept.get(name)
        if hashed.error:
            found.append(Finding(name, "unreadable", f"not readable ({hashed.error})", stops=True))
        elif before is not None and before.sha256 != hashed.sha256 and seen.manifest is not None:
            since = f"it was verified ({verified_on(seen.manifest.created)})"
            text = f"content differs from when {since}; the byte count is the same"
            found.append(Finding(name, "content", text, fetch=True))
        elif hub[name] and hashed.like(hub[name]) != hub[name]:
            text = f"content differs from the hub's: its hash is {_pair(hashed, hub[name])}"
            found.append(Finding(name, "content", text, fetch=True))
        elif not hub[name] and before is None:
            unproven.append(name)
    if unproven:
        found.append(_unproven(unproven, seen.files))
    return found


def _in_order(findings: list[Finding]) -> list[Finding]:
    """That a shard is too short says more than that its content differs."""
    return sorted(findings, key=lambda finding: finding.kind != "header")


def _pair(hashed: Hashed, wanted: str) -> str:
    return f"{hashed.like(wanted)[:12]}…, it must be {wanted[:12]}…"


def _unproven(names: list[str], files: Mapping[str, SeenFile]) -> Finding:
    """Plain files among links were put there by somebody; a folder of plain files is as it is."""
    is_no = "1 file is no link to a blob" if len(names) == 1 else f"{len(names)} files are no links"
    which = f"{is_no} ({_listed(names)})"
    edited = "; all others are links, so it was edited or copied here"
    text = f"{which}, and no list of the hub was kept: nothing to compare with; use --online"
    if len(names) < len(files):
        text = f"{text}{edited}"
    return Finding("", "plain", text, problem=False)


def _whose_fault(
    finding: Finding, seen: _Subject, how: How, hashes: Mapping[str, Hashed]
) -> Finding:
    """A file that is damaged exactly as the hub has it cannot be mended from there."""
    hub_hash = _hub_hashes(seen, how).get(finding.path, "")
    hashed = hashes.get(finding.path)
    if finding.kind not in _ITS_OWN or not finding.fetch or not hub_hash or hashed is None:
        return finding
    if hashed.like(hub_hash) != hub_hash:
        return finding
    return finding._replace(text=f"{finding.text}; the hub has it so", fetch=False)


def _manifest(
    stored: StoredSnapshot, seen: _Subject, how: How, hashes: Mapping[str, Hashed]
) -> Manifest | None:
    """What the snapshot is now; None when a file could not be read."""
    if not hashes or any(hashed.error for hashed in hashes.values()):
        return None
    hub = _hub_hashes(seen, how)
    files = {
        name: ManifestFile(seen.files[name].size, hashed.sha256, hub[name])
        for name, hashed in hashes.items()
    }
    source = "hub" if how.hub_list is not None or seen.listing is not None else "blobs"
    return Manifest(stored.repo, stored.commit, files, how.now, how.by, source)


def _approval(manifest: Manifest | None, how: How) -> Finding | None:
    if not how.approved:
        return None
    if manifest is None:
        text = "it is approved by a digest, which is not known here; verify without --quick"
        return Finding("", "approval", text, problem=False)
    digest = manifest_digest(manifest)
    if digest == how.approved:
        return None
    text = f"is not what was approved: its digest is {digest}, the lock file has {how.approved}"
    return Finding("", "approval", text, stops=True)


def _keep(
    folder: Path, seen: _Subject, now: Manifest | None, findings: Sequence[Finding]
) -> tuple[str, str]:
    """Write the manifest where that is due; what became of it, and why not."""
    if any(finding.problem for finding in findings):
        return ("differs", "") if seen.manifest is not None else ("none", "")
    if now is None:
        return ("same", "") if seen.manifest is not None else ("none", "")
    if seen.manifest is not None:
        # What the hub does not answer for must not slip into what was verified.
        added = now.files.keys() - seen.manifest.files.keys()
        if not added or not all(now.files[name].hub_hash for name in added):
            return "same", ""
    try:
        write_manifest(folder, now)
    except HpcvlmError as error:
        return "not written", error.sentence
    return ("extended" if seen.manifest is not None else "written"), ""


def _compared_with(seen: _Subject, how: How) -> str:
    if how.hub_list is not None:
        return "hub"
    if seen.listing is not None:
        return "listing"
    if any(file.blob_hash for file in seen.files.values()):
        return "blobs"
    return "manifest" if seen.manifest is not None else "nothing"


def _count(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
