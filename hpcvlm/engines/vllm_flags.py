"""The flags of `vllm serve`, release by release: what there is, what it takes, its default."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from hpcvlm.engines.vllm_versions import (
    known_versions,
    release,
    still_there,
    table,
    value_at,
    within,
)

BOOLEAN = "boolean"
SWITCH = "switch"
_SUFFIXED = re.compile(r"\d+(\.\d+)?[kKmMgGtT]")


@dataclass(frozen=True, slots=True, repr=False)
class Computed:
    """A default that vLLM works out when it starts; `text` is the expression in its source."""

    text: str


class Flag(NamedTuple):
    """One flag of `vllm serve`, by its name without leading dashes.

    The kinds: ``boolean`` (--x and --no-x), ``switch`` (--x alone), ``optional`` (a value or none),
    ``append`` (given once per value), ``list``, ``json``, ``text-or-json``, ``int``,
    ``int-with-suffix`` (also ``32k``), ``int-or-auto`` (also ``auto``), ``float``, ``text``.
    """

    name: str
    entry: dict[str, Any]

    @property
    def first(self) -> str:
        """The first release, of those known, that has it."""
        spans: list[list[int]] = self.entry["in"]
        return known_versions()[spans[0][0]]

    @property
    def last(self) -> str | None:
        """The last release that has it; None if the newest still does."""
        spans: list[list[int]] = self.entry["in"]
        return None if still_there(spans) else known_versions()[spans[-1][1]]

    def in_version(self, version: str) -> bool:
        """Whether that release has it."""
        return within(self.entry["in"], release(version).index)

    def kind(self, version: str) -> str:
        """How it is written and what it takes in that release; the first kind before that."""
        found = value_at(self.entry["kind"], release(version).index)
        return str(found or self.entry["kind"][0][1])

    def default(self, version: str) -> Any:  # noqa: ANN401  # JSON
        """Its default in that release: a plain value, or `Computed`. None before it was there."""
        found = value_at(self.entry.get("default", ()), release(version).index)
        if isinstance(found, dict) and found.keys() == {"computed"}:
            return Computed(found["computed"])
        return found

    def choices(self, version: str) -> tuple[object, ...]:
        """The only values that it takes; empty where the source lists none."""
        return tuple(value_at(self.entry.get("choices", ()), release(version).index) or ())

    def aliases(self, version: str) -> tuple[str, ...]:
        """Its other names, with their dashes: ``-tp``."""
        return tuple(value_at(self.entry.get("aliases", ()), release(version).index) or ())

    def deprecated(self, version: str) -> bool:
        """Whether that release warns that it will go."""
        return within(self.entry.get("deprecated", ()), release(version).index)


@cache
def flag(name: str) -> Flag | None:
    """The flag of that name, with or without dashes, or of that alias; None if none ever had it."""
    bare = canonical(name)
    entry = table("flags")["flags"].get(bare)
    if entry is None and (owner := _aliased().get(name if name.startswith("-") else f"--{bare}")):
        bare, entry = owner, table("flags")["flags"][owner]
    return Flag(bare, entry) if entry is not None else None


@cache
def _aliased() -> dict[str, str]:
    """The flag that each alias of any release stands for."""
    return {
        alias: name
        for name, entry in table("flags")["flags"].items()
        for _, aliases in entry.get("aliases", ())
        for alias in aliases
    }


def canonical(name: str) -> str:
    """A flag's name as the tables have it: without leading dashes, with dashes inside."""
    head, dot, rest = name.lstrip("-").partition(".")
    return head.replace("_", "-") + dot + rest


@cache
def flags_of(version: str) -> tuple[str, ...]:
    """The names of all flags of that release."""
    index = release(version).index
    return tuple(n for n, entry in table("flags")["flags"].items() if within(entry["in"], index))


def default(name: str, version: str) -> Any:  # noqa: ANN401  # JSON
    """A flag's default in that release, as `Flag.default`; None if it has no such flag."""
    found = flag(name)
    return found.default(version) if found and found.in_version(version) else None


def nearest(name: str, version: str) -> str:
    """The flag of that release whose name is most like `name`; empty if none is."""
    near = get_close_matches(canonical(name), flags_of(version), n=1, cutoff=0.75)
    return near[0] if near else ""


def option_strings(found: Flag, version: str) -> set[str]:
    """Every way in which that release's parser, asked for help, names the flag."""
    names = {f"--{found.name}", *found.aliases(version)}
    if found.kind(version) == BOOLEAN:
        names |= {f"--no-{name[2:]}" for name in names if name.startswith("--")}
    return names


def refusal(found: Flag, value: object, version: str) -> str:  # noqa: PLR0911
    """What is wrong with a flag's value in that release, as ``takes …``; empty if nothing is.

    Only what vLLM's own parser would refuse is wrong; the text of a JSON value is not read.
    """
    kind = found.kind(version)
    if kind in {BOOLEAN, SWITCH}:
        return "" if isinstance(value, bool) else "takes no value: give true or false"
    if isinstance(value, bool):
        return "" if kind == "optional" and value else "takes a value, not true or false"
    if kind in {"json", "text-or-json"}:
        return "" if kind != "json" or not isinstance(value, (int, float)) else "takes JSON"
    if isinstance(value, dict):
        return "takes no mapping"
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) != 1 and kind not in {"list", "append"}:
        return "takes one value"
    if kind.startswith("int") and not all(_is_integer(item, kind) for item in values):
        return _INTEGERS[kind]
    if kind == "float" and not all(_is_number(item) for item in values):
        return "takes a number"
    allowed = {str(choice) for choice in found.choices(version)}
    if allowed and not {str(item) for item in values} <= allowed:
        return f"takes one of {', '.join(sorted(allowed))}"
    return ""


_INTEGERS = {
    "int": "takes a whole number",
    "int-with-suffix": "takes a whole number, such as 32768 or 32k",
    "int-or-auto": "takes a whole number, such as 32768 or 32k, or auto",
}


def _is_integer(value: object, kind: str) -> bool:
    text = str(value)
    if isinstance(value, float):
        return False
    if kind == "int-or-auto" and text.lower() in {"auto", "-1"}:
        return True
    if kind != "int" and _SUFFIXED.fullmatch(text):
        return True
    return re.fullmatch(r"[+-]?\d+", text) is not None


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
