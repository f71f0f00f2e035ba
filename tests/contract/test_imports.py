"""The rooms' one way, and commands that start fast because they import little."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts import generate_reference
from tests.command import ROOT

HEAVY = ("httpx", "jinja2", "submitit", "PIL", "huggingface_hub", "tenacity", "pydantic", "rich")


@pytest.mark.parametrize("arguments", [["--version"], ["ls"], ["status", "nothing"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['hpcvlm', *{arguments!r}]\n"
        "from hpcvlm.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_generated_pages_are_what_the_code_gives() -> None:
    assert generate_reference.outdated(ROOT) == []
