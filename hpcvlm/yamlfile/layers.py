"""Lays files over each other: what a higher one says replaces what a lower one said.

Mappings merge; anything else replaces; null takes a key away. Every key that is left knows which
part it came from, so that a mistake is reported where it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpcvlm.yamlfile.check import S, build, dotted, read_mapping
from hpcvlm.yamlfile.schema import Section, keys_of
from hpcvlm.yamlfile.text import KeyPath, line_of

DEFAULT = "default"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Part:
    """What one file, or the command line, contributes.

    Attributes:
        source: where it is from, in a word or two: ``shipped``, ``user``, ``command line``.
        path: the file's name for messages; the source where there is no file.
        data: its keys.
        text: the file's text, for line numbers; empty where there is no file.
    """

    source: str
    path: str
    data: Mapping[str, object]
    text: str = ""

    def where(self, key: KeyPath) -> str:
        """``file:line`` of a key."""
        return f"{self.path}:{line_of(self.text, key) or 1}" if self.text else self.path


def read_part(source: str, path: str, text: str) -> Part:
    """One file as a part.

    Raises:
        HpcvlmError: ``file-invalid``.
    """
    return Part(source, path, read_mapping(text, path), text)


class Merged(NamedTuple):
    """Parts laid over each other.

    Attributes:
        parts: lowest first.
        data: what they say together.
        origins: the part that each key came from, or was taken away by; keys of every depth.
    """

    parts: tuple[Part, ...]
    data: dict[str, object]
    origins: dict[KeyPath, Part]

    def where(self, key: KeyPath) -> str:
        """``file:line`` of a key, or of the nearest key above it."""
        return self._part(key).where(key)

    def source(self, key: KeyPath) -> str:
        """Where a key came from; ``default`` when no part has it."""
        part = self.origins.get(key)
        return DEFAULT if part is None else part.source

    def _part(self, key: KeyPath) -> Part:
        for length in range(len(key), 0, -1):
            part = self.origins.get(key[:length])
            if part is not None:
                return part
        return self.parts[0]


def merge(parts: Sequence[Part]) -> Merged:
    """Lay parts over each other, the first one lowest."""
    merged = Merged(tuple(parts), {}, {})
    for part in parts:
        _lay(merged.data, part.data, (), part, merged.origins)
    return merged


def check(section: type[S], merged: Merged) -> S:
    """The checked value of merged parts.

    Raises:
        HpcvlmError: ``file-invalid``, each problem with the file and line it was written on.
    """
    whole = " + ".join(dict.fromkeys(part.path for part in merged.parts)) or "defaults"
    return build(section, merged.data, merged.where, whole)


def sources(section: Section, merged: Merged) -> dict[str, str]:
    """Where every value came from, by dotted key, down to the single entries of mappings."""
    found: dict[str, str] = {}
    _collect(section, (), merged, found)
    return found


def _lay(
    base: dict[str, object],
    over: Mapping[str, object],
    key: KeyPath,
    part: Part,
    origins: dict[KeyPath, Part],
) -> None:
    for name, value in over.items():
        here = (*key, name)
        below = base.get(name)
        if value is None:
            base.pop(name, None)
            _forget(here, origins)
            origins[here] = part
        elif isinstance(value, dict):
            if not isinstance(below, dict):
                _forget(here, origins)
                below = {}
            # A fresh mapping: a part's own data is never changed.
            base[name] = merged = dict(below)
            origins[here] = part
            _lay(merged, value, here, part, origins)
        else:
            base[name] = value
            _forget(here, origins)
            origins[here] = part


def _forget(key: KeyPath, origins: dict[KeyPath, Part]) -> None:
    for old in [known for known in origins if known[: len(key)] == key]:
        del origins[old]


def _collect(section: Section, key: KeyPath, merged: Merged, found: dict[str, str]) -> None:
    for known in keys_of(type(section)).values():
        here = (*key, known.name)
        value = getattr(section, known.attribute)
        if isinstance(value, Section):
            _collect(value, here, merged, found)
        elif isinstance(value, dict) and value:
            for name in value:
                found[f"{dotted(here)}.{name}"] = merged.source((*here, name))
        else:
            found[dotted(here)] = merged.source(here)
