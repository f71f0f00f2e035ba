"""How a file's schema is written: frozen dataclasses whose types and rules say what is allowed.

A schema is plain typing. `hpcvlm.yamlfile.check` reads it to check a file and
`hpcvlm.yamlfile.json_schema` to describe it to editors. pydantic would do the same, but importing
it and building its validators takes 0.12 s, which is more than all the rest of a command.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

_NO_DESCRIPTION: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be beyond its type; stands in ``Annotated``.

    Attributes:
        says: what is expected, in words; follows "expected" in a message.
        pattern: a regular expression that the whole text must match. Only what Python's and
            JavaScript's expressions have in common, since editors use it too.
        at_least: the smallest number, or the fewest items.
        accepts: a further check; False refuses.
    """

    says: str
    pattern: str = ""
    at_least: int | None = None
    accepts: Callable[[Any], bool] | None = None

    def allows(self, value: object) -> bool:
        """Whether a value of the right type obeys the rule."""
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            return False
        if self.at_least is not None:
            size = value if isinstance(value, int) else len(value)  # type: ignore[arg-type]
            if size < self.at_least:
                return False
        return self.accepts is None or self.accepts(value)


def about(description: str, key: str = "") -> dict[str, str]:
    """Metadata of a dataclass field: its description, and its key where that is another name."""
    return {"description": description, "key": key}


class Section:
    """A part of a file with keys of its own; subclasses are frozen, slotted dataclasses.

    They compare and print by what is written here rather than by methods that `dataclass` makes
    for each of them (``eq=False, repr=False``): making those takes a third of the import's time.
    """

    __slots__ = ()
    # What to say of a key that nothing known resembles.
    UNKNOWN_KEY: ClassVar[str] = ""

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other) and isinstance(other, Section) and dump(self) == dump(other)
        )

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dump(self)!r})"

    def model_copy(self, *, update: Mapping[str, object]) -> Self:
        """The same with some values replaced; they are taken as they are."""
        return dataclasses.replace(self, **update)  # type: ignore[type-var]

    def model_dump(self, *, mode: str = "json", by_alias: bool = True) -> dict[str, object]:  # noqa: ARG002
        """The data as a file would hold it, with every default spelt out."""
        return dump(self)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section.

    Attributes:
        name: as in the file.
        attribute: as in the dataclass.
        type: the type with its rules, without ``None``.
        required: whether the file must have it.
    """

    name: str
    attribute: str
    type: Any
    description: str
    required: bool
    default: object


_KEYS: dict[type[Section], dict[str, Key]] = {}


def keys_of(section: type[Section]) -> dict[str, Key]:
    """The keys of a section, by their name in the file."""
    if section not in _KEYS:
        _KEYS[section] = _read_keys(section)
    return _KEYS[section]


def _read_keys(section: type[Any]) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for field in dataclasses.fields(section):
        name = field.metadata.get("key") or field.name
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[name] = Key(
            name=name,
            attribute=field.name,
            type=without_none(hints[field.name]),
            description=field.metadata.get("description", ""),
            required=default is dataclasses.MISSING,
            default=None if default is dataclasses.MISSING else default,
        )
    return found


def without_none(hint: Any) -> Any:  # noqa: ANN401 - types have no common type
    """``X | None`` as ``X``: in a file null means that the key is not set."""
    if get_origin(hint) in {Union, UnionType} and type(None) in get_args(hint):
        members = [member for member in get_args(hint) if member is not type(None)]
        return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007
    return hint


def rules_of(hint: Any) -> tuple[Any, tuple[Rule, ...]]:  # noqa: ANN401
    """A type without its annotations, and the rules among these."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    plain, *extras = get_args(hint)
    return plain, tuple(extra for extra in extras if isinstance(extra, Rule))


def is_section(hint: Any) -> bool:  # noqa: ANN401
    """Whether a type is a section of its own."""
    return isinstance(hint, type) and issubclass(hint, Section)


def dump(section: Section) -> dict[str, object]:
    """The data as a file would hold it: plain mappings and lists, with every default spelt out."""
    return {
        key.name: _plain(getattr(section, key.attribute)) for key in keys_of(type(section)).values()
    }


def _plain(value: object) -> object:
    if isinstance(value, Section):
        return dump(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
