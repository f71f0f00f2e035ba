"""hpcvlm snapshots ls: what is on disk."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_progress import Looking

if TYPE_CHECKING:
    from hpcvlm.ops.snapshots_ls import Listed, Listing
    from hpcvlm.snapshots.model import StoredBlob, StoredRepository

_DAY = 86400
_COMMIT = 8
_MOST_PROBLEMS = 5


def ls(
    repo: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only these: part of a name, or a pattern with *."),
    ] = None,
    cache: Annotated[
        list[Path] | None,
        typer.Option(help="Look into this hub cache instead of the configured ones; repeatable."),
    ] = None,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Only those that lack something.")
    ] = False,
    unused_for: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those not read for so long, e.g. 30d.")
    ] = None,
    pinned: Annotated[
        bool | None,
        typer.Option("--pinned/--unpinned", help="Only those that are, or are not, pinned."),
    ] = None,
    in_use: Annotated[
        bool, typer.Option("--in-use", help="Only those that a job serves now.")
    ] = False,
    owner: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's.")] = None,
    sort: Annotated[
        Literal["name", "size", "last-use", "owner"], typer.Option(help="What comes first.")
    ] = "name",
    bundled: Annotated[
        bool, typer.Option("--bundled", help="Also the tiny model that comes with hpcvlm.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the snapshots in all hub caches: size, last use, state."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_ls import SnapshotFilter, list_snapshots
    from hpcvlm.slurm.time import parse_duration

    seconds = parse_duration(unused_for, "--unused-for") if unused_for is not None else None
    wanted = SnapshotFilter(
        repo=repo,
        caches=tuple(path.expanduser() for path in cache or ()),
        incomplete=incomplete,
        unused_for=seconds,
        pinned=pinned,
        in_use=in_use,
        owner=owner,
        bundled=bundled,
    )
    with Looking() as on_progress:
        listing = list_snapshots(Context(), wanted, sort, on_progress)
    if as_json:
        data_json(_as_dict(listing))
    elif listing.listed:
        data("\n".join(_as_text(listing)))
    for line in listing.notes:
        note(f"note: {printable(line)}")
    note(_totals(listing))


def printable(text: str) -> str:
    """A text without what a terminal would obey, and of bytes that are no UTF-8."""
    sound = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in sound
    )


def json_text(value: object) -> str:
    """A text for JSON: bytes that are no UTF-8 as escapes."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def ago(then: float | None, now: float) -> str:
    """``today``, ``3 days``, ``unknown``; how long ago something was."""
    if then is None:
        return "unknown"
    days = int(max(0.0, now - then) // _DAY)
    if days == 0:
        return "today"
    return "1 day" if days == 1 else f"{days} days"


def moment(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC; None for None, and for what no calendar has."""
    from datetime import UTC, datetime

    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _as_text(listing: Listing) -> Iterator[str]:
    header = ("REPOSITORY", "COMMIT", "REFS", "SIZE", "OWNER", "LAST USE", "STATE")
    yield table(header, [_row(one, listing.now) for one in listing.listed])
    problems = [
        (f"{one.summary.repository.repo} {_commit(one)}", one.summary.state.missing)
        for one in listing.listed
        if one.summary.state.missing
    ]
    for repository in listing.repositories:
        told = list(repository.problems)
        if repository.incomplete:
            told.append(_unfinished(repository, listing.now))
        if told:
            problems.append((str(repository.path), tuple(told)))
    if problems:
        yield ""
        yield paint("Problems", "bold", sys.stdout)
    for what, sentences in problems:
        yield f"  {printable(what)}"
        for sentence in sentences[:_MOST_PROBLEMS]:
            yield from _indented(sentence)
        if len(sentences) > _MOST_PROBLEMS:
            yield f"    and {len(sentences) - _MOST_PROBLEMS} more (--json has them all)"


def _indented(sentence: str) -> list[str]:
    return textwrap.wrap(
        printable(sentence), WIDTH, initial_indent="    ", subsequent_indent="      "
    )


def _row(one: Listed, now: float) -> tuple[str, ...]:
    summary = one.summary
    refs = summary.snapshot.refs if summary.snapshot is not None else ()
    return (
        printable(summary.repository.repo),
        printable(_commit(one)),
        printable(" ".join(refs)),
        bytes_text(summary.size),
        printable(one.owner),
        ago(summary.last_use, now),
        _state(one),
    )


def _commit(one: Listed) -> str:
    return one.summary.snapshot.commit[:_COMMIT] if one.summary.snapshot is not None else "-"


def _state(one: Listed) -> str:
    """The worst first; what is usual, a snapshot that lacks nothing, is ``ok``."""
    if one.summary.snapshot is None:
        return "broken"
    words = ["ok" if one.summary.complete else "incomplete"]
    words += ["pinned"] if one.approval is not None else []
    words += [f"in use ({len(one.uses)})"] if one.uses else []
    return ", ".join(words)


def _unfinished(repository: StoredRepository, now: float) -> str:
    count = len(repository.incomplete)
    size = bytes_text(sum(blob.size for blob in repository.incomplete))
    newest = ago(max(blob.modified for blob in repository.incomplete), now)
    files = "1 unfinished download" if count == 1 else f"{count} unfinished downloads"
    when = newest if newest == "today" else f"{newest} ago"
    return f"{files}, {size}, last written {when}"


def _totals(listing: Listing) -> str:
    count = sum(one.summary.snapshot is not None for one in listing.listed)
    snapshots = "1 snapshot" if count == 1 else f"{count} snapshots"
    repositories = len(listing.repositories)
    of = "1 repository" if repositories == 1 else f"{repositories} repositories"
    lacking = sum(not one.summary.complete for one in listing.listed)
    words = [f"{snapshots} of {of}, {bytes_text(listing.size)} on disk"]
    words += [f"{lacking} not complete"] if lacking else []
    if not listing.listed:
        caches = ", ".join(printable(str(cache)) for cache in listing.caches)
        words.append(f"looked into {caches or 'no cache'}")
    return "; ".join(words)


def _as_dict(listing: Listing) -> dict[str, object]:
    return {
        "caches": [json_text(cache) for cache in listing.caches],
        "size": listing.size,
        "uses_known": listing.uses_known,
        "notes": [json_text(line) for line in listing.notes],
        "snapshots": [
            snapshot_dict(one) for one in listing.listed if one.summary.snapshot is not None
        ],
        "repositories": [_repository_dict(repository) for repository in listing.repositories],
    }


def snapshot_dict(one: Listed) -> dict[str, object]:
    """One snapshot for JSON, without its files."""
    summary = one.summary
    repository, snapshot = summary.repository, summary.snapshot
    assert snapshot is not None  # noqa: S101 - asked by the callers
    return {
        "repo": json_text(repository.repo),
        "commit": json_text(snapshot.commit),
        "refs": [json_text(ref) for ref in snapshot.refs],
        "path": json_text(snapshot.path),
        "cache": json_text(repository.cache),
        "size": summary.size,
        "own_size": summary.own,
        "shared_size": summary.size - summary.own,
        "files": len(snapshot.files),
        "owner": one.owner,
        "uid": summary.owner,
        "last_use": moment(summary.last_use),
        "complete": summary.complete,
        "missing": [json_text(line) for line in summary.state.missing],
        "verified": moment(summary.state.manifest.created) if summary.state.manifest else None,
        "pinned": one.approval._asdict() if one.approval is not None else None,
        "uses": [use._asdict() for use in one.uses],
        "models": list(one.models),
    }


def _repository_dict(repository: StoredRepository) -> dict[str, object]:
    from hpcvlm.snapshots.listing.summary import disk_use

    return {
        "repo": json_text(repository.repo),
        "path": json_text(repository.path),
        "size": disk_use([repository]),
        "refs": {json_text(ref): json_text(to) for ref, to in repository.refs.items()},
        "refs_without_snapshot": sorted(
            json_text(ref)
            for ref, to in repository.refs.items()
            if to not in {snapshot.commit for snapshot in repository.snapshots}
        ),
        "unfinished": [_blob_dict(blob) for blob in repository.incomplete],
        "unreferenced": _unreferenced(repository),
        "problems": [json_text(line) for line in repository.problems],
    }


def _blob_dict(blob: StoredBlob) -> dict[str, object]:
    return {
        "name": json_text(blob.name),
        "size": blob.size,
        "modified": moment(blob.modified),
    }


def _unreferenced(repository: StoredRepository) -> dict[str, int]:
    """Whole blobs that no snapshot has a link to."""
    linked = {f.blob.inode for s in repository.snapshots for f in s.files if f.blob is not None}
    loose = [blob for blob in repository.blobs.values() if blob.inode not in linked]
    return {"files": len(loose), "size": sum(blob.size for blob in loose)}
