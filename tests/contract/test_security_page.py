"""Each promise of the security page has tests, and they are there."""

from __future__ import annotations

import re

import pytest

from tests.command import ROOT

PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| promise |", "| what |"))
]
PROMISES = [line for line in ROWS if "::" in line]


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_a_test_that_is_named_is_there(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_promise_names_its_tests() -> None:
    assert len(PROMISES) >= 30
    values = PAGE.partition("## Other users")[0]  # the table of what is worth something
    without = [line for line in ROWS if line not in PROMISES and line not in values.splitlines()]
    assert without == []


def test_every_part_of_the_threat_model_says_what_is_not_promised() -> None:
    for part in ("Other users", "The network", "Malicious model", "Malicious pictures", "A stolen"):
        section = PAGE.partition(f"## {part}")[2].partition("\n## ")[0]
        assert "Not promised: " in section, part


def test_every_file_of_security_tests_stands_behind_a_promise() -> None:
    files = {f"tests/security/{p.name}" for p in (ROOT / "tests/security").glob("test_*.py")}
    files |= {f"tests/fuzz/{p.name}" for p in (ROOT / "tests" / "fuzz").glob("test_*.py")}
    assert files - {file for file, _ in NAMED} == set()
