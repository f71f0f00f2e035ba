from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from hpcvlm.probe.model import CaseResult, Kind, ProbeReport, Sees, Verdict
from hpcvlm.probe.report import as_dict, as_junit, as_row, as_rows

PASSED = CaseResult(
    name="image_base64",
    verdict=Verdict.PASSED,
    reason="named a red circle (+16 tokens)",
    latency_s=0.123456,
    prompt_tokens=30,
    completion_tokens=4,
    image_tokens=16,
    answer="a red circle",
    expected="a red circle",
    sees=Sees.TRUE,
    http_status=200,
)
FAILED = CaseResult(
    name="image_url",
    verdict=Verdict.FAILED,
    reason='no way to "http://10.0.0.5:1" <there>',
    remedy="send images as base64",
    kind=Kind.NETWORK,
    latency_s=5.0,
)
SKIPPED = CaseResult(name="image_file", verdict=Verdict.SKIPPED, reason="no folder is known")
REPORT = ProbeReport(
    url="http://node07:8000",
    model="tiny-vlm",
    engine_version="0.32.0",
    system_fingerprint=None,
    seed=7,
    require_naming=True,
    started=1_800_000_000.0,
    seconds=6.5,
    results=(PASSED, FAILED, SKIPPED),
)


def test_the_report_as_json() -> None:
    value = json.loads(json.dumps(as_dict(REPORT)))
    assert value["schema_version"] == 1
    assert value["ok"] is False
    assert value["started"] == "2027-01-15T08:00:00+00:00"
    assert value["seed"] == 7
    first, second, third = value["results"]
    assert (first["verdict"], first["kind"], first["sees"]) == ("passed", "", "true")
    assert first["latency_s"] == 0.1235
    assert (second["kind"], second["remedy"]) == ("network", "send images as base64")
    assert third["latency_s"] is None


@pytest.mark.parametrize(
    ("results", "ok"),
    [
        ((), False),
        ((SKIPPED,), False),
        ((PASSED, SKIPPED), True),
        ((PASSED, FAILED), False),
    ],
)
def test_when_a_report_is_good(results: tuple[CaseResult, ...], ok: bool) -> None:
    assert replace(REPORT, results=results).ok is ok


def parsed(report: ProbeReport) -> ET.Element:
    return ET.fromstring(as_junit(report).encode())  # noqa: S314 - our own text


def test_the_report_as_junit() -> None:
    suite = parsed(REPORT).find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "6.500",
    }
    properties = {entry.get("name"): entry.get("value") for entry in suite.iter("property")}
    assert properties == {
        "url": "http://node07:8000",
        "model": "tiny-vlm",
        "engine_version": "0.32.0",
        "seed": "7",
    }
    passed, failed, skipped = suite.findall("testcase")
    assert (passed.get("classname"), passed.get("time")) == ("tiny-vlm", "0.123")
    assert passed.findtext("system-out") == "a red circle"
    failure = failed.find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("network", FAILED.reason)
    assert failure.text == FAILED.remedy
    notice = skipped.find("skipped")
    assert notice is not None
    assert notice.get("message") == "no folder is known"


def test_junit_carries_whatever_a_model_says() -> None:
    answer = "\x00\x0b\x1b[31mred\ud800 ]]> <b>\u20ac \U0001f534\ufffe"
    odd = replace(FAILED, answer=answer, reason=answer)
    suite = parsed(replace(REPORT, results=(odd,)))
    assert suite.findtext(".//system-out") == "\ufffd\ufffd\ufffd[31mred\ufffd ]]> <b>€ 🔴\ufffd"


def test_the_report_as_rows() -> None:
    assert [row.case for row in as_rows(REPORT)] == ["image_base64", "image_url", "image_file"]
    row = as_row(PASSED)
    assert (row.seconds, row.tokens, row.says) == ("0.12", "30 (+16)", PASSED.reason)
    assert as_row(FAILED).says == f"{FAILED.reason}; send images as base64"
    assert (as_row(SKIPPED).seconds, as_row(SKIPPED).tokens) == ("", "")
