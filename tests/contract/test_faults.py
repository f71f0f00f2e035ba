"""The page of faults names every test that makes one, and no other."""

from __future__ import annotations

import re

from tests.command import ROOT


def test_the_page_of_faults_names_every_test_of_faults() -> None:
    page = (ROOT / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/faults/\w+\.py)::(\w+)`", page))
    there = {
        (f"tests/faults/{path.name}", test)
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        for test in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) >= 50
    assert named == there
