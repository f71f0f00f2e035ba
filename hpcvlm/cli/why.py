"""hpcvlm why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json

if TYPE_CHECKING:
    from hpcvlm.ops.why import Report

Name = Annotated[str, typer.Argument(help="Name, unique prefix or job id.")]


def why(name: Name, as_json: options.Json = False) -> None:
    """Say why an endpoint failed, ended or waits: cause, remedy, evidence."""
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.ops.why import why as look

    report = look(name, telling_context())
    if as_json:
        data_json(as_dict(report))
        return
    data(as_text(report))


def as_text(report: Report) -> str:
    """The report for a reader."""
    from hpcvlm.ops.endpoints import describe

    found, record = report.diagnosis, report.row.record
    lines = [
        f"name    {record.name}",
        f"state   {describe(report.row.verdict)}",
        f"cause   {found.cause}",
    ]
    if found.remedy:
        lines.append(f"try     {found.remedy}")
    elif not found.known:
        lines.append(f"try     hpcvlm logs {record.name}")
    width = max((len(each.where) for each in found.evidence), default=0)
    lines += [f"says    {each.where:<{width}}  {each.text}" for each in found.evidence]
    if found.tried:
        lines.append(f"seen    {'; '.join(found.tried)}")
    lines.append(f"folder  {record.folder}")
    return "\n".join(lines)


def as_dict(report: Report) -> dict[str, object]:
    """The report for a machine."""
    from hpcvlm.ops.endpoints import describe

    found, row = report.diagnosis, report.row
    return {
        "name": row.record.name,
        "state": type(row.verdict).__name__.lower(),
        "description": describe(row.verdict),
        "id": found.id,
        "cause": found.cause,
        "remedy": found.remedy,
        "evidence": [
            {"file": each.file, "line": each.line or None, "text": each.text}
            for each in found.evidence
        ],
        "tried": list(found.tried),
        "job_id": row.record.job_id,
        "folder": row.record.folder,
    }
