"""Tables that store what changed from release to release, instead of one copy per release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scripts.vllm_tables.source import Unknown


def plain(value: object) -> object:
    """A value as JSON can hold it; what only running vLLM would tell becomes its text, marked."""
    if isinstance(value, Unknown):
        return {"computed": value.text}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def spans(present: Sequence[bool]) -> list[list[int]]:
    """The runs of releases in which something is there: first and last index of each."""
    found: list[list[int]] = []
    for index, there in enumerate(present):
        if there and found and found[-1][1] == index - 1:
            found[-1][1] = index
        elif there:
            found.append([index, index])
    return found


def series(values: Iterable[tuple[int, object]]) -> list[list[object]]:
    """The successive values of something: each with the index of the release that brought it."""
    found: list[list[object]] = []
    for index, value in values:
        if not found or found[-1][1] != value:
            found.append([index, value])
    return found


def names(tables: Sequence[Mapping[str, object]]) -> list[str]:
    """Every key of any of the tables, sorted."""
    return sorted({name for table in tables for name in table})


def presence(tables: Sequence[Iterable[str]]) -> dict[str, list[list[int]]]:
    """For every name that any release knows: the runs of releases that know it."""
    sets = [set(table) for table in tables]
    return {name: spans([name in table for table in sets]) for name in sorted(set().union(*sets))}
