"""Which model architectures each release of vLLM serves by itself.

From vllm/model_executor/models/registry.py of each release. An architecture that is not
registered may still run on vLLM's Transformers backend; whether it does depends on the installed
`transformers`, which no table here knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from hpcvlm.engines.vllm_versions import (
    known_versions,
    release,
    still_there,
    table,
    value_at,
    within,
)


class Architecture(NamedTuple):
    """One name of config.json's ``architectures``.

    Attributes:
        name: the name.
        spans: runs of releases that register it, as places in `known_versions()`.
        v0_spans: runs of releases in which only the V0 engine ran it.
        categories: the registry's part that holds it, release by release, where it changes.
        multimodal: whether it takes images, video or audio.
        advised_last: the last release that vLLM itself advises, where it has left the registry.
        plugin: address of an out-of-tree plugin that vLLM names; empty if none.
    """

    name: str
    spans: tuple[tuple[int, int], ...]
    v0_spans: tuple[tuple[int, int], ...]
    categories: tuple[tuple[int, str], ...]
    multimodal: bool
    advised_last: str
    plugin: str

    @property
    def first(self) -> str:
        """The first release, of those known, that registers it."""
        return known_versions()[self.spans[0][0]]

    @property
    def last(self) -> str | None:
        """The last release that registers it; None if the newest still does."""
        return None if still_there(self.spans) else known_versions()[self.spans[-1][1]]

    @property
    def v0_only(self) -> tuple[str, str] | None:
        """The first and the last release in which only the V0 engine ran it; None if never."""
        if not self.v0_spans:
            return None
        versions = known_versions()
        return versions[self.v0_spans[0][0]], versions[self.v0_spans[-1][1]]

    def runs_on_v0(self, version: str) -> bool:
        """Whether that release runs it on the V0 engine only."""
        return within(self.v0_spans, release(version).index)

    def category(self, version: str) -> str:
        """The registry's part: ``multimodal``, ``text_generation`` and others."""
        return str(value_at(self.categories, release(version).index) or self.categories[0][1])


def architecture(name: str) -> Architecture | None:
    """The architecture of that name; None if no known release registers it."""
    content = table("architectures")
    entry = content["architectures"].get(name)
    if entry is None:
        return None
    return Architecture(
        name,
        _pairs(entry["in"]),
        _pairs(entry.get("v0_only", ())),
        tuple((start, value) for start, value in entry["category"]),
        bool(entry.get("multimodal", False)),
        content["told"].get(name, ""),
        content["plugins"].get(name, ""),
    )


def _pairs(spans: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in spans)


def supports(name: str, version: str) -> bool:
    """Whether that release registers the architecture.

    Raises:
        HpcvlmError: ``vllm-version``, where `version` is no version or older than the tables.
    """
    found = architecture(name)
    return found is not None and within(found.spans, release(version).index)


def why_not(name: str, version: str) -> str | None:
    """One sentence on why that release cannot serve the architecture; None if it can.

    Raises:
        HpcvlmError: ``vllm-version``, as `supports`.
    """
    taken = release(version)
    found = architecture(name)
    if found is None:
        return _unknown(name)
    if within(found.spans, taken.index):
        return None
    cannot = f"vLLM {version} cannot serve {name}"
    if taken.index < found.spans[0][0]:
        return f"{cannot}; {found.first} is the first that can"
    earlier = [last for _, last in found.spans if last < taken.index]
    sentence = f"{cannot}; {known_versions()[earlier[-1]]} was the last that could"
    return (
        f"{sentence} by itself; vLLM names a plugin: {found.plugin}" if found.plugin else sentence
    )


def _unknown(name: str) -> str:
    near = get_close_matches(name, table("architectures")["architectures"], n=1, cutoff=0.8)
    newest = known_versions()[-1]
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no vLLM from {known_versions()[0]} to {newest} has {name} in its registry{hint}"


def window(name: str) -> str:
    """The releases that serve an architecture, as a version specifier: ``>=0.9.1,<=0.10.2``.

    The upper bound is left out while the newest known release serves it. Empty for an architecture
    that no known release registers.
    """
    found = architecture(name)
    if found is None:
        return ""
    return f">={found.first}" + (f",<={found.last}" if found.last else "")
