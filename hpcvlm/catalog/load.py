"""The catalog: from layers of model files and what the user typed to one checked ModelSpec.

A layer is a folder with one file per model, named after it. A file in a higher layer needs to say
only what is different there. Only the files that can matter are read: those of the name asked for,
and all of them where that name is no file's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Protocol

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.layers import Merged, Part, check, merge, read_part, sources
from hpcvlm.yamlfile.settings import read_settings
from hpcvlm.yamlfile.text import file_error

_ENDINGS = (".yaml", ".yml")
_LIST = "hpcvlm models ls"


class Folder(Protocol):
    """Texts by file name, read when they are asked for."""

    def names(self) -> Iterable[str]:
        """The file names."""
        ...

    def read(self, name: str) -> str | None:
        """The text of a file; None when it cannot be read."""
        ...

    def path(self, name: str) -> str:
        """The file as messages name it."""
        ...


@dataclass(frozen=True, slots=True)
class TextFolder:
    """A folder in memory."""

    texts: Mapping[str, str]

    def names(self) -> Iterable[str]:
        """The file names."""
        return list(self.texts)

    def read(self, name: str) -> str | None:
        """The text of a file."""
        return self.texts.get(name)

    def path(self, name: str) -> str:
        """The name itself."""
        return name


@dataclass(frozen=True, slots=True)
class Layer:
    """One folder of model files.

    Attributes:
        label: ``shipped``, ``site`` or ``user``; what `Resolved.sources` says.
    """

    label: str
    folder: Folder

    def files(self) -> dict[str, str]:
        """File names by the model they are for.

        Raises:
            HpcvlmError: ``file-invalid`` for two files of one model.
        """
        found: dict[str, str] = {}
        for file in sorted(self.folder.names()):
            stem, dot, ending = file.rpartition(".")
            if f"{dot}{ending}" not in _ENDINGS or not stem or file.startswith("."):
                continue
            if stem in found:
                problem = f"{found[stem]} is for the same model (expected one of the two)"
                raise file_error(self.folder.path(file), None, problem)
            found[stem] = file
        return found

    def part(self, stem: str, file: str) -> Part:
        """The keys of one file.

        Raises:
            HpcvlmError: ``file-invalid`` or ``file-unreadable``.
        """
        path = self.folder.path(file)
        text = self.folder.read(file)
        if text is None:
            raise HpcvlmError("file-unreadable", f"{path} cannot be read", f"ls -l {path}")
        part = read_part(self.label, path, text)
        name = part.data.get("name") or stem
        if name != stem:
            problem = (
                f"{part.where(('name',))}: name: is {name!r} (expected {stem!r}, the file's name)"
            )
            raise HpcvlmError("file-invalid", problem)
        return _with_one_spelling(part)


@dataclass(frozen=True, slots=True)
class Resolved:
    """One model, and where each part of it was said.

    Attributes:
        spec: the checked model.
        sources: the layer's label, ``command line`` or ``default``, by dotted key.
        files: path of the file by label.
        layer: label of the lowest layer that has the model.
    """

    spec: ModelSpec
    sources: dict[str, str]
    files: dict[str, str]
    layer: str
    merged: Merged


def find_model(name: str, layers: Sequence[Layer]) -> Resolved:
    """The model of that name, alias or repository.

    Args:
        name: what the user typed; capitals do not matter.
        layers: lowest first.

    Raises:
        HpcvlmError: ``model-unknown`` with the nearest names, ``model-ambiguous``, or
            ``file-invalid``.
    """
    files = [(layer, layer.files()) for layer in layers]
    stems = {stem.casefold(): stem for _, by_stem in files for stem in by_stem}
    stem = stems.get(name.casefold())
    if stem is None:
        stem = _by_alias(name, files, stems.values())
    return _resolve(stem, files)


def all_models(layers: Sequence[Layer]) -> list[Resolved]:
    """Every model, by name.

    Raises:
        HpcvlmError: ``file-invalid`` for the first file with a mistake.
    """
    files = [(layer, layer.files()) for layer in layers]
    return [_resolve(stem, files) for stem in _stems(files)]


def try_all_models(layers: Sequence[Layer]) -> tuple[list[Resolved], list[HpcvlmError]]:
    """Every model that can be used, and what is wrong with the others."""
    found: list[Resolved] = []
    broken: list[HpcvlmError] = []
    files = []
    for layer in layers:
        try:
            files.append((layer, layer.files()))
        except HpcvlmError as error:
            broken.append(error)
    for stem in _stems(files):
        try:
            found.append(_resolve(stem, files))
        except HpcvlmError as error:
            broken.append(error)
    return found, broken


def apply_settings(resolved: Resolved, settings: Sequence[str]) -> Resolved:
    """The model with ``--set`` settings laid over it.

    A name that resembles no key of a model file is taken for an engine option:
    ``max-model-len=4096`` means ``options.max-model-len=4096``.

    Raises:
        HpcvlmError: ``setting-invalid`` for a key, ``file-invalid`` for a value that does not fit.
    """
    if not settings:
        return resolved
    parts = read_settings(ModelSpec, settings, else_under="options")
    spelt = [_with_one_spelling(part) for part in parts]
    return _made(merge([*resolved.merged.parts, *spelt]), resolved.layer)


_Files = Sequence[tuple[Layer, Mapping[str, str]]]


def _stems(files: _Files) -> list[str]:
    return sorted({stem for _, by_stem in files for stem in by_stem})


def _resolve(stem: str, files: _Files) -> Resolved:
    lowest, *others = _parts(stem, files)
    # A file need not say its model's name, which is its own.
    named = replace(lowest, data={**lowest.data, "name": stem})
    return _made(merge([named, *others]), lowest.source)


def _parts(stem: str, files: _Files) -> list[Part]:
    return [layer.part(stem, by_stem[stem]) for layer, by_stem in files if stem in by_stem]


def _made(merged: Merged, layer: str) -> Resolved:
    spec = check(ModelSpec, merged)
    paths = {part.source: part.path for part in merged.parts if part.text}
    return Resolved(spec, sources(spec, merged), paths, layer, merged)


def _by_alias(name: str, files: _Files, stems: Iterable[str]) -> str:
    """The model that has the name among its aliases, or as its repository."""
    names: dict[str, set[str]] = {}
    shown = {stem.casefold(): stem for stem in stems}
    broken: list[str] = []
    for stem in sorted(stems):
        try:
            for alias in _aliases(stem, files):
                names.setdefault(alias.casefold(), set()).add(stem)
                shown.setdefault(alias.casefold(), alias)
        except HpcvlmError as error:
            broken.append(f"not looked at: {error.sentence}")
    found = sorted(names.get(name.casefold(), ()))
    if len(found) == 1:
        return found[0]
    if found:
        remedy = f"name one of them: {', '.join(found)}"
        raise HpcvlmError("model-ambiguous", f"{name!r} names {len(found)} models", remedy)
    near = get_close_matches(name.casefold(), shown, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(shown[word] for word in near)}?" if near else ""
    raise HpcvlmError("model-unknown", f"no model is called {name!r}{hint}", _LIST, tuple(broken))


def _aliases(stem: str, files: _Files) -> Iterator[str]:
    """Names of a model besides its own, read without checking the rest of its files."""
    parts = [layer.part(stem, by_stem[stem]) for layer, by_stem in files if stem in by_stem]
    data = merge(parts).data
    aliases = data.get("aliases")
    snapshot = data.get("snapshot")
    yield from (
        (alias for alias in aliases if isinstance(alias, str)) if isinstance(aliases, list) else ()
    )
    if isinstance(snapshot, dict) and isinstance(snapshot.get("repo"), str):
        yield snapshot["repo"]


def _with_one_spelling(part: Part) -> Part:
    """The part with dashes in option names, as vLLM writes them: layers must agree on a name."""
    options = part.data.get("options")
    if not isinstance(options, dict):
        return part
    spelt: dict[str, object] = {}
    for name, value in options.items():
        first, dot, rest = name.partition(".")
        other = f"{first.replace('_', '-')}{dot}{rest}"
        if other in spelt:
            where = part.where(("options", name))
            problem = f"{where}: options.{name}: stands there twice, with dashes and underscores"
            raise HpcvlmError("file-invalid", problem)
        spelt[other] = value
    return replace(part, data={**part.data, "options": spelt})
