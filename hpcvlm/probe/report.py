"""A smoke test's report in the forms that others read: JSON, JUnit XML, rows. No effects."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from hpcvlm.probe.model import CaseResult, ProbeReport, Verdict

SCHEMA_VERSION = 1
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table on the terminal; empty text where there is nothing to say."""

    case: str
    verdict: Verdict
    seconds: str
    tokens: str
    says: str


def as_dict(report: ProbeReport) -> dict[str, Any]:
    """The whole report as plain JSON values; times in seconds, the start in UTC."""
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": report.ok,
        "url": report.url,
        "model": report.model,
        "engine_version": report.engine_version,
        "system_fingerprint": report.system_fingerprint,
        "seed": report.seed,
        "require_naming": report.require_naming,
        "started": _utc(report.started),
        "seconds": round(report.seconds, 3),
        "results": [_result_as_dict(result) for result in report.results],
    }


def as_junit(report: ProbeReport) -> str:
    """The report as JUnit XML: one test case for each case, for a CI system to show."""
    counts = [result.verdict for result in report.results]
    suite = ET.Element(
        "testsuite",
        name="hpcvlm smoke-test",
        tests=str(len(counts)),
        failures=str(counts.count(Verdict.FAILED)),
        errors="0",
        skipped=str(counts.count(Verdict.SKIPPED)),
        time=f"{report.seconds:.3f}",
        timestamp=_utc(report.started),
    )
    properties = ET.SubElement(suite, "properties")
    for name in ("url", "model", "engine_version", "system_fingerprint", "seed"):
        value = getattr(report, name)
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=_xml_text(str(value)))
    for result in report.results:
        suite.append(_junit_case(report.model, result))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_rows(report: ProbeReport) -> tuple[Row, ...]:
    """The report as lines of a table."""
    return tuple(as_row(result) for result in report.results)


def as_row(result: CaseResult) -> Row:
    """One result as a line of a table: seconds, prompt tokens with the images' part, sentence."""
    tokens = "" if result.prompt_tokens is None else str(result.prompt_tokens)
    if tokens and result.image_tokens is not None:
        tokens = f"{tokens} (+{result.image_tokens})"
    seconds = "" if result.latency_s is None else f"{result.latency_s:.2f}"
    says = f"{result.reason}; {result.remedy}" if result.remedy else result.reason
    return Row(result.name, result.verdict, seconds, tokens, says)


def _result_as_dict(result: CaseResult) -> dict[str, Any]:
    return {field.name: _plain(getattr(result, field.name)) for field in fields(result)}


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    return round(value, 4) if isinstance(value, float) else value


def _junit_case(model: str, result: CaseResult) -> ET.Element:
    case = ET.Element(
        "testcase",
        classname=_xml_text(model),
        name=result.name,
        time=f"{result.latency_s or 0:.3f}",
    )
    if result.verdict is Verdict.FAILED:
        attributes = {"type": result.kind.value, "message": _xml_text(result.reason)}
        ET.SubElement(case, "failure", attributes).text = _xml_text(result.remedy)
    elif result.verdict is Verdict.SKIPPED:
        ET.SubElement(case, "skipped", message=_xml_text(result.reason))
    if result.answer:
        ET.SubElement(case, "system-out").text = _xml_text(result.answer)
    return case


def _xml_text(text: str) -> str:
    """Text without the characters that XML cannot carry; a model may well say some."""
    return _NOT_XML.sub("\ufffd", text)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
