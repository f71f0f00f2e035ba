"""hpcvlm snapshots pin, unpin and lock: the list of snapshots that somebody answers for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, table
from hpcvlm.cli.snapshots_ls import json_text, printable

if TYPE_CHECKING:
    from hpcvlm.ops.snapshots_lock import LockList, LockRow, Pinned
    from hpcvlm.snapshots.model import Approval

_SHORT = 12
_MOST_PROBLEMS = 5

Name = Annotated[
    str, typer.Argument(metavar="MODEL|REPO", help="Model, alias or repository (owner/name).")
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag, commit or the beginning of a commit.")
]


def pin(
    name: Name,
    revision: Revision = None,
    why: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why it is approved, in your words.")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also if it was never verified.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Replace an entry with another manifest.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Approve a snapshot on disk, in the lock file.

    prune keeps it, and launches may be limited to what is pinned.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_lock import PinRequest
    from hpcvlm.ops.snapshots_lock import pin as pin_snapshot

    pinned = pin_snapshot(PinRequest(name, revision, why, unverified, update), Context())
    if as_json:
        data_json({**_entry(pinned.approval), "lock_file": str(pinned.path), "done": _done(pinned)})
        return
    entry = pinned.approval
    data(f"{entry.repo}@{entry.commit}: {_done(pinned)}")
    data(f"  {pinned.path}")
    data(f"  manifest {entry.manifest or 'none: it was never verified'}")
    data(f"  licence {printable(entry.licence) or 'unknown'}, by {entry.by} on {entry.date}")
    if entry.why:
        data(f"  {printable(entry.why)}")


def unpin(name: Name, revision: Revision = None, as_json: options.Json = False) -> None:
    """Take a snapshot out of the lock file; it stays on disk."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_lock import unpin as unpin_snapshot

    entry, path = unpin_snapshot(name, revision, Context())
    if as_json:
        data_json({**_entry(entry), "lock_file": str(path), "done": "unpinned"})
        return
    why = f": {printable(entry.why)}" if entry.why else ""
    data(f"{entry.repo}@{entry.commit}: no longer pinned")
    data(f"  it was by {entry.by} on {entry.date}{why}")
    note(f"prune may delete it now; hpcvlm snapshots pin {entry.repo} --revision {entry.commit}")


def lock(
    check: Annotated[
        bool, typer.Option("--check", help="Compare each with the disk; exit 1 if one differs.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the approved snapshots, and the models that they serve."""
    from hpcvlm.errors import ExitCode
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_lock import list_lock

    found = list_lock(Context(), check=check)
    if as_json:
        data_json(_as_dict(found))
    elif found.rows:
        _as_text(found)
    for line in found.notes:
        note(f"note: {printable(line)}")
    note(_total(found))
    if any(row.problems for row in found.rows):
        raise typer.Exit(ExitCode.FAILED)


def _done(pinned: Pinned) -> str:
    if pinned.before is None:
        return "pinned"
    return "pinned already" if pinned.before == pinned.approval else "pinned anew"


def _as_text(found: LockList) -> None:
    header = ["REPO", "COMMIT", "VERIFIED", "LICENCE", "BY", "DATE", "MODELS"]
    rows = [_row(row) for row in found.rows]
    if found.checked:
        header.append("HERE")
        for row, cells in zip(found.rows, rows, strict=True):
            cells.append("differs" if row.problems else "same")
    data(table(header, rows, whole=(1,)))
    for row in found.rows:
        if row.approval.why:
            data(f"{_name(row)}: {printable(row.approval.why)}")
    for row in found.rows:
        for problem in row.problems[:_MOST_PROBLEMS]:
            note(f"{_name(row)}: {printable(problem)}")
        if len(row.problems) > _MOST_PROBLEMS:
            note(f"{_name(row)}: {len(row.problems) - _MOST_PROBLEMS} more problems")


def _total(found: LockList) -> str:
    count = len(found.rows)
    entries = "1 entry" if count == 1 else f"{count} entries"
    if not found.rows and not found.path.exists():
        return f"{found.path} is not there; hpcvlm snapshots pin MODEL makes it"
    policy = "launches may serve nothing else" if found.approved_only else "launches may serve all"
    differ = sum(bool(row.problems) for row in found.rows)
    told = f"; {differ} not as approved" if differ else ""
    return f"{entries} in {found.path}{told}; {policy}"


def _name(row: LockRow) -> str:
    return f"{row.approval.repo}@{row.approval.commit[:_SHORT]}"


def _row(row: LockRow) -> list[str]:
    entry = row.approval
    return [
        entry.repo,
        entry.commit[:_SHORT],
        "yes" if entry.manifest else "no",
        printable(entry.licence) or "unknown",
        printable(entry.by),
        entry.date,
        " ".join(row.models) or "none",
    ]


def _entry(entry: Approval) -> dict[str, object]:
    return {key: json_text(value) for key, value in entry._asdict().items()}


def _as_dict(found: LockList) -> dict[str, object]:
    return {
        "lock_file": str(found.path),
        "approved_only": found.approved_only,
        "checked": found.checked,
        "snapshots": [
            {
                **_entry(row.approval),
                "models": list(row.models),
                "path": str(row.folder) if row.folder else None,
                **({"problems": [json_text(p) for p in row.problems]} if found.checked else {}),
            }
            for row in found.rows
        ],
    }
