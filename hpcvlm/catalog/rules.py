"""What the values of a model file must say together, beyond what each must be by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from packaging.specifiers import SpecifierSet

from hpcvlm.catalog.load import Layer, Resolved, TextFolder, find_model, variants
from hpcvlm.errors import HpcvlmError

_Found = tuple[tuple[str, ...], str]


def problems_of(text: str, path: str, below: Sequence[Layer] = ()) -> list[str]:
    """Everything wrong in a file, as ``file:line: key: what``.

    Args:
        text: the file's text.
        path: its name; the model's name is its stem.
        below: the layers that have models already; where one has this model, the file is laid
            over it.
    """
    stem = PurePath(path).stem
    own = Layer(path, TextFolder({f"{stem}.yaml": text}))
    try:
        known = [layer for layer in below if stem in layer.files()]
        model = find_model(stem, [*known, own])
        family = [model, *variants(model)]
    except HpcvlmError as error:
        return [_renamed(line, stem, path) for line in (error.details or (error.sentence,))]
    found: dict[str, None] = {}
    for member in family:
        for key, problem in _contradictions(member):
            where = _renamed(member.merged.where(key), stem, path)
            found[f"{where}: {'.'.join(key)}: {problem}"] = None
    return list(found)


def _renamed(line: str, stem: str, path: str) -> str:
    """A message about the file as it was read, with the name that it was given by."""
    return f"{path}{line.removeprefix(f'{stem}.yaml')}" if line.startswith(f"{stem}.yaml") else line


def _contradictions(model: Resolved) -> Iterator[_Found]:
    yield from _parallelism(model)
    yield from _engine(model)
    yield from _numbers(model)
    yield from _names(model)


def _parallelism(model: Resolved) -> Iterator[_Found]:
    layout = model.spec.parallelism
    heads = layout.attention_heads
    for size in layout.sizes:
        if heads and heads % size:
            problem = f"{size} does not divide the {heads} attention heads"
            yield ("parallelism", "sizes"), problem
    for kind, count in layout.gpus.items():
        if heads and heads % count:
            problem = f"{count} GPUs do not divide the {heads} attention heads"
            yield ("parallelism", "gpus", kind), problem
        elif layout.sizes and count not in layout.sizes:
            yield ("parallelism", "gpus", kind), f"{count} is not among parallelism.sizes"


def _engine(model: Resolved) -> Iterator[_Found]:
    engine = model.spec.engine
    if engine.preferred and not SpecifierSet(engine.versions).contains(
        engine.preferred, prereleases=True
    ):
        problem = f"{engine.preferred} is not in engine.versions ({engine.versions})"
        yield ("engine", "preferred"), problem


def _numbers(model: Resolved) -> Iterator[_Found]:
    spec = model.spec
    length = spec.options.get("max-model-len")
    if isinstance(length, int) and spec.context_length and length > spec.context_length:
        problem = f"{length} is more than context_length ({spec.context_length})"
        yield ("options", "max-model-len"), problem
    active, all_of_them = spec.active_parameters, spec.parameters
    if active and all_of_them and active > all_of_them:
        yield ("active_parameters",), f"{active} is more than parameters ({all_of_them})"


def _names(model: Resolved) -> Iterator[_Found]:
    spec = model.spec
    if spec.unsupported is not None and spec.name in spec.unsupported.instead:
        yield ("unsupported", "instead"), f"{spec.name} is no substitute for itself"
    if spec.snapshot.repo.casefold() in (alias.casefold() for alias in spec.aliases):
        yield ("aliases",), f"{spec.snapshot.repo} is the repository, which is a name by itself"
