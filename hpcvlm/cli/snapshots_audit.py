"""hpcvlm snapshots audit: what is wrong with a store, and what users have a second time."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint, table
from hpcvlm.cli.sizes import bytes_text
from hpcvlm.cli.snapshots_ls import json_text, printable
from hpcvlm.cli.snapshots_progress import Looking

if TYPE_CHECKING:
    from hpcvlm.ops.snapshots_audit import Audited, AuditReport
    from hpcvlm.snapshots.audit.duplicates import Duplicates
    from hpcvlm.snapshots.audit.kinds import AuditFinding

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_MOST_USERS = 20


def audit(
    caches: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CACHE...", help="Hub caches; the site's if left out."),
    ] = None,
    users: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Where users keep caches of their own, e.g. '/home/*/.cache/huggingface/hub'; "
            "repeatable.",
        ),
    ] = None,
    access: Annotated[
        Literal["group", "world", "private", "any"] | None,
        typer.Option(help="Who is meant to read the store; the site's rule if left out."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check rights, owners, links and contents; find copies.

    Nothing is changed. Exit 1 on errors.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.snapshots_audit import audit as look

    with Looking() as on_progress:
        report = look(
            Context(),
            tuple(caches or ()),
            users=tuple(users or ()),
            access=access,
            on_progress=on_progress,
        )
    if as_json:
        data_json(_as_dict(report))
    else:
        data("\n".join(_as_text(report)))
    for folder, reason in report.unreadable:
        note(f"not looked at: {printable(folder)}: {reason}; what lies there is not counted")
    if report.errors:
        raise typer.Exit(1)


def _as_text(report: AuditReport) -> Iterator[str]:
    for audited in report.audited:
        yield from _cache(audited)
    if not report.audited:
        yield "there is no hub cache to look at"
    if report.duplicates is not None:
        yield ""
        yield from _duplicates(report.duplicates, report)


def _cache(audited: Audited) -> Iterator[str]:
    rule = "no rule of the site" if audited.access == "any" else f"access: {audited.access}"
    heading = f"{printable(str(audited.cache))} ({rule})"
    yield paint(heading, "bold", sys.stdout)
    for finding in audited.findings:
        yield from _finding(finding)
    counts = Counter(finding.severity for finding in audited.findings)
    words = [
        f"{counts[severity]} {severity}{'s' if counts[severity] != 1 else ''}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    ]
    yield f"  {', '.join(words) or 'nothing is wrong'}"


def _finding(finding: AuditFinding) -> Iterator[str]:
    severity = paint(finding.severity, _COLOURS[finding.severity], sys.stdout)
    # Paths and commands are to be copied, and so stay whole.
    yield f"  {severity}: {printable(finding.path)}"
    yield from textwrap.wrap(
        printable(finding.what), WIDTH, initial_indent="    ", subsequent_indent="    "
    )
    if finding.remedy:
        yield f"    try: {printable(finding.remedy)}"


def _duplicates(found: Duplicates, report: AuditReport) -> Iterator[str]:
    yield paint("Copies in users' own caches", "bold", sys.stdout)
    caches = "1 cache" if report.users == 1 else f"{report.users} caches"
    if not found.repositories:
        yield f"  none in {caches}"
        return
    rows = [
        (
            printable(one.repo),
            "yes" if one.in_store else "no",
            bytes_text(one.saved),
            printable(", ".join(one.users)),
        )
        for one in found.repositories
    ]
    yield table(("REPOSITORY", "IN STORE", "SAVES", "USERS"), rows)
    yield ""
    shares = [
        (printable(one.user), bytes_text(one.size), bytes_text(one.copies))
        for one in found.users[:_MOST_USERS]
    ]
    yield table(("USER", "HAS", "COPIES"), shares)
    if len(found.users) > _MOST_USERS:
        yield f"and {len(found.users) - _MOST_USERS} more users (--json has them all)"
    yield ""
    yield f"one shared store would save {bytes_text(found.saved)} in {caches}"


def _as_dict(report: AuditReport) -> dict[str, object]:
    return {
        "errors": report.errors,
        "caches": [
            {
                "cache": json_text(one.cache),
                "access": one.access,
                "findings": [_finding_dict(finding) for finding in one.findings],
            }
            for one in report.audited
        ],
        "user_caches": None if report.duplicates is None else _users_dict(report),
        "unreadable": [
            {"path": json_text(path), "reason": reason} for path, reason in report.unreadable
        ],
    }


def _finding_dict(finding: AuditFinding) -> dict[str, object]:
    return {
        "severity": finding.severity,
        "kind": finding.kind,
        "path": json_text(finding.path),
        "what": json_text(finding.what),
        "remedy": json_text(finding.remedy) or None,
        "paths": [json_text(path) for path in finding.paths],
    }


def _users_dict(report: AuditReport) -> dict[str, object]:
    found = report.duplicates
    assert found is not None  # noqa: S101 - asked by the caller
    return {
        "patterns": list(report.patterns),
        "caches": report.users,
        "saved": found.saved,
        "repositories": [
            {**one._asdict(), "repo": json_text(one.repo)} for one in found.repositories
        ],
        "users": [
            {**one._asdict(), "caches": [json_text(cache) for cache in one.caches]}
            for one in found.users
        ],
    }
