"""The catalog: from layers of model files and what the user typed to one checked ModelSpec.

A layer is a folder with one file per model, named after it. A file in a higher layer needs to say
only what is different there. Only the files that can matter are read: those of the name asked for,
and all of them where that name is no file's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.catalog.variants import full_name, names_of, split_name, variants_of, with_variant
from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.layers import Merged, Part, check, merge, read_part, sources
from hpcvlm.yamlfile.settings import read_settings
from hpcvlm.yamlfile.text import KeyPath, file_error

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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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


class Layer(NamedTuple):
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


class Resolved(NamedTuple):
    """One model, and where each part of it was said.

    Attributes:
        spec: the checked model.
        sources: the layer's label, ``command line`` or ``default``, by dotted key.
        files: path of the file by label.
        layer: label of the lowest layer that has the model.
        variant: the variant that was taken, whose keys are laid over the rest; None for the
            model's own weights.
    """

    spec: ModelSpec
    sources: dict[str, str]
    files: dict[str, str]
    layer: str
    merged: Merged
    variant: str | None = None

    @property
    def name(self) -> str:
        """What `hpcvlm launch` takes: ``model`` or ``model:variant``."""
        return full_name(self.spec.name, self.variant)


def find_model(name: str, layers: Sequence[Layer]) -> Resolved:
    """The model of that name, alias or repository, or one variant of it.

    Args:
        name: what the user typed: ``model``, ``model:variant``, an alias of either, or the
            repository of either; capitals do not matter.
        layers: lowest first.

    Raises:
        HpcvlmError: ``model-unknown`` with the nearest names, ``model-ambiguous``,
            ``variant-unknown`` or ``file-invalid``.
    """
    files = [(layer, layer.files()) for layer in layers]
    stems = {stem.casefold(): stem for _, by_stem in files for stem in by_stem}
    model, variant = split_name(name.casefold())
    stem = stems.get(model)
    if stem is None:
        stem, variant = _by_alias(name, files, stems.values())
    return _resolve(stem, files, variant)


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
    return _made(merge([*resolved.merged.parts, *spelt]), resolved.layer, resolved.variant)


def variants(resolved: Resolved) -> list[Resolved]:
    """Every variant of a model, each resolved by itself.

    Raises:
        HpcvlmError: ``file-invalid`` for a variant that makes no sense with the rest of its file.
    """
    parts = resolved.merged.parts
    return [
        _made(merge(with_variant(parts, name, resolved.spec.name)), resolved.layer, name)
        for name in variants_of(resolved.merged.data)
    ]


_Files = Sequence[tuple[Layer, Mapping[str, str]]]


def _stems(files: _Files) -> list[str]:
    return sorted({stem for _, by_stem in files for stem in by_stem})


def _resolve(stem: str, files: _Files, variant: str | None = None) -> Resolved:
    lowest, *others = _parts(stem, files)
    # A file need not say its model's name, which is its own.
    parts = [replace(lowest, data={**lowest.data, "name": stem}), *others]
    if variant is not None:
        parts = with_variant(parts, variant, stem)
    return _made(merge(parts), lowest.source, variant)


def _parts(stem: str, files: _Files) -> list[Part]:
    return [layer.part(stem, by_stem[stem]) for layer, by_stem in files if stem in by_stem]


def _made(merged: Merged, layer: str, variant: str | None = None) -> Resolved:
    spec = check(ModelSpec, merged)
    paths = {part.source: part.path for part in merged.parts if part.text}
    return Resolved(spec, sources(spec, merged), paths, layer, merged, variant)


def _by_alias(name: str, files: _Files, stems: Iterable[str]) -> tuple[str, str | None]:
    """The model that has the name among its aliases, or as its repository, and the variant."""
    stems = sorted(stems)
    # An alias may hold a colon, as Ollama's names do; else what follows it is a variant.
    words = dict.fromkeys((name.casefold(), split_name(name.casefold())[0]))
    # A file that does not hold the word need not be parsed, unless no file holds it.
    names, shown, _ = _names(files, [stem for stem in stems if _holds(stem, files, min(words))])
    broken: list[str] = []
    if not words.keys() & names:
        names, shown, broken = _names(files, stems)
    word = next((one for one in words if one in names), split_name(name.casefold())[0])
    found = names.get(word, set())
    if len(found) == 1:
        stem, variant = next(iter(found))
        return stem, split_name(name.casefold().removeprefix(word))[1] or variant
    if found:
        remedy = f"name one of them: {', '.join(sorted(full_name(*one) for one in found))}"
        raise HpcvlmError("model-ambiguous", f"{name!r} names {len(found)} models", remedy)
    name = split_name(name)[0]
    shown |= {stem.casefold(): stem for stem in stems}
    near = get_close_matches(word, shown, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(shown[word] for word in near)}?" if near else ""
    raise HpcvlmError("model-unknown", f"no model is called {name!r}{hint}", _LIST, tuple(broken))


def _holds(stem: str, files: _Files, word: str) -> bool:
    texts = (layer.folder.read(by_stem[stem]) for layer, by_stem in files if stem in by_stem)
    return any(word in (text or "").casefold() for text in texts)


_Names = dict[str, set[tuple[str, str | None]]]


def _names(files: _Files, stems: Iterable[str]) -> tuple[_Names, dict[str, str], list[str]]:
    """Further names of models: what each leads to, how it is written, and what is broken."""
    names: _Names = {}
    shown: dict[str, str] = {}
    broken: list[str] = []
    for stem in stems:
        try:
            for alias, variant in _aliases(stem, files):
                names.setdefault(alias.casefold(), set()).add((stem, variant))
                shown.setdefault(alias.casefold(), alias)
        except HpcvlmError as error:
            broken.append(f"not looked at: {error.sentence}")
    return names, shown, broken


def _aliases(stem: str, files: _Files) -> Iterator[tuple[str, str | None]]:
    """Names of a model besides its own, read without checking the rest of its files."""
    parts = [layer.part(stem, by_stem[stem]) for layer, by_stem in files if stem in by_stem]
    yield from names_of(merge(parts).data)


def _with_one_spelling(part: Part) -> Part:
    """The part with dashes in option names, as vLLM writes them: layers must agree on a name."""
    data = dict(part.data)
    if isinstance(options := data.get("options"), dict):
        data["options"] = _spelt(options, part, ())
    if isinstance(below := data.get("variants"), dict):
        data["variants"] = {
            name: {**variant, "options": _spelt(options, part, ("variants", name))}
            if isinstance(variant, dict) and isinstance(options := variant.get("options"), dict)
            else variant
            for name, variant in below.items()
        }
    return replace(part, data=data)


def _spelt(options: dict[str, object], part: Part, above: KeyPath) -> dict[str, object]:
    spelt: dict[str, object] = {}
    for name, value in options.items():
        first, dot, rest = name.partition(".")
        other = f"{first.replace('_', '-')}{dot}{rest}"
        if other in spelt:
            where = part.where((*above, "options", name))
            problem = f"{where}: options.{name}: stands there twice, with dashes and underscores"
            raise HpcvlmError("file-invalid", problem)
        spelt[other] = value
    return spelt
