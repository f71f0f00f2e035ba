"""The table of flags against a real vLLM: what its own parser says, flag by flag."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.engines.vllm_flags import Computed, Flag, flag, flags_of, option_strings
from hpcvlm.engines.vllm_versions import attention_backends, reasoning_parsers, tool_parsers

pytestmark = [pytest.mark.slow, pytest.mark.engine]

# What argparse adds by itself.
_HELP = {"-h", "--help"}
# Of these, the choices depend on the machine's platform, so the table has none.
_PLATFORM = {"mm-processor-device"}

_DUMP = """
import json, sys
sys.argv = ["vllm", "serve", "--help=all"]
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.attention.backends.registry import AttentionBackendEnum
import vllm
parser = ServeSubcommand().subparser_init(FlexibleArgumentParser().add_subparsers())
def plain(value):
    if hasattr(value, "value"):
        value = value.value
    if isinstance(value, (set, tuple)):
        value = list(value)
    return value if isinstance(value, (str, int, float, list, dict, type(None))) else repr(value)
print("DUMP" + json.dumps({
    "version": vllm.__version__,
    "tool_parsers": sorted(ToolParserManager.list_registered()),
    "reasoning_parsers": sorted(ReasoningParserManager.list_registered()),
    "attention_backends": sorted(AttentionBackendEnum.__members__),
    "flags": [{
        "names": action.option_strings,
        "action": type(action).__name__,
        "nargs": action.nargs,
        "choices": [plain(one) for one in action.choices or [] if one is not None],
        "default": plain(action.default),
        "deprecated": action in parser._deprecated,
    } for action in parser._actions if action.option_strings],
}, default=repr))
"""


@dataclass(frozen=True, slots=True)
class Real:
    """What the installed engine says of itself."""

    version: str
    help_text: str
    content: dict[str, Any]

    def flags(self) -> dict[str, dict[str, Any]]:
        """Its flags by their first long name, without those of argparse itself."""
        found = {}
        for one in self.content["flags"]:
            if not set(one["names"]) & _HELP:
                long = next(name for name in one["names"] if name.startswith("--"))
                found[long.removeprefix("--")] = one
        return found


@pytest.fixture(scope="module")
def real(vllm_cpu: Path) -> Real:
    """Asked once: --help=all as a user sees it, and the parser itself."""
    shown = subprocess.run(
        [vllm_cpu, "serve", "--help=all"], capture_output=True, text=True, check=True
    )
    dumped = subprocess.run(
        [vllm_cpu.parent / "python", "-c", _DUMP], capture_output=True, text=True, check=True
    )
    line = next(line for line in dumped.stdout.splitlines() if line.startswith("DUMP"))
    content = json.loads(line.removeprefix("DUMP"))
    return Real(str(content["version"]), shown.stdout, content)


def _table(name: str) -> Flag:
    found = flag(name)
    assert found is not None
    return found


def _kind(one: dict[str, Any]) -> str:
    """The table's word for an action, as far as the action tells."""
    word = {
        "BooleanOptionalAction": "boolean",
        "_StoreTrueAction": "switch",
        "_AppendAction": "append",
    }.get(one["action"])
    if word:
        return word
    if one["nargs"] == "?":
        return "optional"
    return "list" if one["nargs"] else "value"


def test_help_shows_exactly_the_flags_of_the_table(real: Real) -> None:
    shown = set()
    for line in real.help_text.splitlines():
        if re.match(r"  -", line):
            shown |= set(re.findall(r"(?:^  |, )(-{1,2}[A-Za-z][\w-]*)", line))
    expected = {
        name for one in flags_of(real.version) for name in option_strings(_table(one), real.version)
    }
    assert len(expected) > 400
    assert shown - _HELP == expected


def test_the_parser_has_exactly_the_names_and_kinds_of_the_table(real: Real) -> None:
    flags = real.flags()
    assert set(flags) == set(flags_of(real.version))
    for name, one in flags.items():
        kind = _table(name).kind(real.version)
        assert set(one["names"]) == option_strings(_table(name), real.version), name
        assert _kind(one) == (
            kind if kind in {"boolean", "switch", "append", "optional", "list"} else "value"
        ), name


def test_the_choices_are_those_of_the_table(real: Real) -> None:
    compared = 0
    for name, one in real.flags().items():
        if name in _PLATFORM:
            continue
        mine = {str(choice) for choice in _table(name).choices(real.version)}
        assert {str(choice) for choice in one["choices"]} == mine, name
        compared += bool(mine)
    assert compared > 30


def test_the_defaults_are_those_of_the_table(real: Real) -> None:
    compared = 0
    for name, one in real.flags().items():
        mine = _table(name).default(real.version)
        if not isinstance(mine, Computed):
            assert one["default"] == mine, name
            compared += 1
    assert compared > 280


def test_what_the_parser_calls_deprecated_is_so_in_the_table(real: Real) -> None:
    told = {name for name, one in real.flags().items() if one["deprecated"]}
    mine = {name for name in flags_of(real.version) if _table(name).deprecated(real.version)}
    assert told <= mine
    # Those say so in their help text only.
    assert {"log-config-file", "disable-cascade-attn"} == mine - told


def test_the_parsers_and_backends_are_those_of_the_table(real: Real) -> None:
    assert real.content["tool_parsers"] == sorted(tool_parsers(real.version))
    assert real.content["reasoning_parsers"] == sorted(reasoning_parsers(real.version))
    assert real.content["attention_backends"] == sorted(attention_backends(real.version))
