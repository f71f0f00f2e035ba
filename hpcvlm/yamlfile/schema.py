"""How a file's schema is written: classes whose types and rules say what is allowed.

A schema is plain typing. `hpcvlm.yamlfile.check` reads it to check a file and
`hpcvlm.yamlfile.json_schema` to describe it to editors. pydantic would do the same, but importing
it and building its validators takes 0.12 s, which is more than all the rest of a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

_REQUIRED = object()


class Rule(NamedTuple):
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


class Declared(NamedTuple):
    """What a schema says of one key besides its type: see `about`."""

    description: str
    default: object
    default_factory: Callable[[], object] | None
    written: str

    @property
    def required(self) -> bool:
        """Whether the file must have the key."""
        return self.default is _REQUIRED and self.default_factory is None

    def value(self) -> object:
        """The value where the file has none; for a key that it must have, nothing at all."""
        return self.default if self.default_factory is None else self.default_factory()


def about(
    description: str,
    *,
    default: object = _REQUIRED,
    default_factory: Callable[[], object] | None = None,
    written: str = "",
) -> Any:  # noqa: ANN401 - as dataclasses.field, it stands for a value of the key's own type
    """Declares a key of a section; without a default the file must have it.

    Args:
        description: what the key is about, in words.
        default: the value where the file has none.
        default_factory: makes that value, where it is a mapping.
        written: the key in the file, where it is not the attribute's name.
    """
    return Declared(description, default, default_factory, written)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(about,))
class Section:
    """A part of a file with keys of its own; each is declared as ``name: type = about(...)``.

    A frozen value that is made with keywords, as a dataclass would be. What `dataclass` writes and
    compiles for each class anew stands here once for all of them: that took a tenth of the time of
    a short command.
    """

    # What to say of a key that nothing known resembles.
    UNKNOWN_KEY: ClassVar[str] = ""
    DECLARED: ClassVar[Mapping[str, Declared]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {name: one for name, one in vars(cls).items() if isinstance(one, Declared)}
        cls.DECLARED = {**cls.DECLARED, **own}

    def __init__(self, **values: object) -> None:
        declared = self.DECLARED
        if unknown := values.keys() - declared.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        for name, one in declared.items():
            if name not in values:
                if one.required:
                    raise TypeError(f"{type(self).__name__} needs {name}")
                values[name] = one.value()
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to {name} of {type(self).__name__}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete {name} of {type(self).__name__}")

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
        return type(self)(**{**vars(self), **update})

    def model_dump(self, *, mode: str = "json", by_alias: bool = True) -> dict[str, object]:  # noqa: ARG002
        """The data as a file would hold it, with every default spelt out."""
        return dump(self)


class Key(NamedTuple):
    """One key of a section.

    Attributes:
        name: as in the file.
        attribute: as in the class.
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


def _read_keys(section: type[Section]) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for attribute, declared in section.DECLARED.items():
        name = declared.written or attribute
        found[name] = Key(
            name=name,
            attribute=attribute,
            type=without_none(hints[attribute]),
            description=declared.description,
            required=declared.required,
            default=None if declared.required else declared.value(),
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
