"""Checks plain data against a schema: a value of the schema's class, or every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.schema import Key, Section, is_section, keys_of, rules_of
from hpcvlm.yamlfile.text import KeyPath, file_error, line_of, parse

S = TypeVar("S", bound=Section)
Locate = Callable[[KeyPath], str]

_REFUSED: Any = object()
_MOST_SHOWN = 60
_TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Problem(NamedTuple):
    """What is wrong with the value of one key."""

    key: KeyPath
    sentence: str


def validate(section: type[S], text: str, path: str) -> S:
    """Read one whole file.

    Args:
        section: the schema's class.
        text: the file's text.
        path: its name, for messages.

    Raises:
        HpcvlmError: ``file-invalid``, with every problem as ``file:line: key: what is wrong``.
    """
    data = read_mapping(text, path)
    return build(section, data, lambda key: f"{path}:{line_of(text, key) or 1}", path)


def read_mapping(text: str, path: str) -> dict[str, object]:
    """The keys of a file; an empty file has none.

    Raises:
        HpcvlmError: ``file-invalid``.
    """
    data = parse(text, path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise file_error(
            path, 1, f"the file is {_shown(data)} (expected keys, as in 'name: value')"
        )
    return data


def build(section: type[S], data: dict[str, object], locate: Locate, whole: str) -> S:
    """Check data and make the section of it.

    Args:
        section: the schema's class.
        data: plain data, from one file or merged from several.
        locate: gives ``file:line`` for a key, for messages.
        whole: what the data is, where there is more than one problem to tell.

    Raises:
        HpcvlmError: ``file-invalid``.
    """
    problems: list[Problem] = []
    made = _section(section, data, (), problems)
    if not problems:
        return cast("S", made)
    lines = [f"{locate(p.key)}: {dotted(p.key)}: {p.sentence}" for p in problems]
    if len(lines) == 1:
        raise HpcvlmError("file-invalid", lines[0])
    raise HpcvlmError("file-invalid", f"{whole}: {len(lines)} problems", details=tuple(lines))


def dotted(key: KeyPath) -> str:
    """A key as messages show it: ``engines[0].binds[1]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def suggest(word: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """``; did you mean 'x'?``, or nothing where no known word is near.

    Args:
        word: what was written.
        known: the words that may be meant, or these with what to suggest for each.
    """
    meant = known if isinstance(known, Mapping) else {name: name for name in known}
    folded = {_fold(name): shown for name, shown in meant.items()}
    near = get_close_matches(_fold(word), folded, n=1, cutoff=0.65)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def nearest_key(name: str, section: type[Section]) -> str:
    """As `suggest`: a key of the section, or one of the same name in a section below."""
    keys = keys_of(section)
    for key in keys.values():
        if is_section(key.type) and _fold(name) in map(_fold, keys_of(key.type)):
            return suggest(name, {name: f"{key.name}.{name.replace('-', '_')}"})
    return suggest(name, list(keys))


def expected(hint: Any, description: str = "") -> str:  # noqa: ANN401 - any type of a schema
    """What a value of this type must be, in words."""
    plain, rules = rules_of(hint)
    if rules:
        return rules[0].says
    origin = get_origin(plain)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(plain))
    if origin in {Union, UnionType}:
        words = [expected(member) for member in get_args(plain)]
        return ", ".join(words[:-1]) + f" or {words[-1]}"
    word = _TYPE_WORDS.get(plain, "")
    if not word:
        word = "a list" if origin in {list, tuple} else "keys with values"
    return f"{word}: {description}" if description else word


def _section(section: type[Section], value: object, key: KeyPath, problems: list[Problem]) -> Any:  # noqa: ANN401
    keys = keys_of(section)
    if not isinstance(value, dict):
        problems.append(Problem(key, f"is {_shown(value)} (expected {_some(keys)})"))
        return _REFUSED
    before = len(problems)
    values = {}
    for name, item in value.items():
        known = keys.get(name)
        if known is None:
            problems.append(Problem((*key, name), _unknown(name, section)))
        elif item is not None:
            values[known.attribute] = _key(known, item, (*key, name), problems)
    for known in keys.values():
        if known.required and known.attribute not in values:
            wanted = expected(known.type) if rules_of(known.type)[1] else known.description
            problems.append(Problem((*key, known.name), f"is missing (expected {wanted})"))
    return section(**values) if len(problems) == before else _REFUSED


def _key(known: Key, value: object, key: KeyPath, problems: list[Problem]) -> Any:  # noqa: ANN401
    return _value(known.type, value, key, problems, known.description)


def _value(
    hint: Any,  # noqa: ANN401
    value: object,
    key: KeyPath,
    problems: list[Problem],
    description: str = "",
) -> Any:  # noqa: ANN401
    plain, rules = rules_of(hint)
    before = len(problems)
    made = _of_type(plain, value, key, problems)
    if made is _REFUSED:
        if len(problems) == before:
            problems.append(Problem(key, _misfit(hint, plain, value, description)))
        return _REFUSED
    for rule in rules:
        if len(problems) == before and not rule.allows(made):
            problems.append(Problem(key, f"is {_shown(value)} (expected {rule.says})"))
    return made


def _of_type(plain: Any, value: object, key: KeyPath, problems: list[Problem]) -> Any:  # noqa: ANN401
    """The value as its type wants it, or _REFUSED; what is wrong inside it goes to `problems`."""
    origin = get_origin(plain)
    if is_section(plain):
        return _section(plain, value, key, problems)
    if origin in {list, tuple}:
        return _list(plain, value, key, problems)
    if origin is dict:
        return _dict(plain, value, key, problems)
    if origin in {Union, UnionType}:
        return _union(get_args(plain), value, key)
    return _scalar(plain, value)


def _scalar(plain: Any, value: object) -> Any:  # noqa: ANN401
    if get_origin(plain) is Literal:
        same = (c for c in get_args(plain) if type(c) is type(value) and c == value)
        return next(same, _REFUSED)
    return value if plain is object or type(value) is plain else _REFUSED


def _union(members: tuple[Any, ...], value: object, key: KeyPath) -> Any:  # noqa: ANN401
    for member in members:
        problems: list[Problem] = []
        made = _value(member, value, key, problems)
        if not problems:
            return made
    return _REFUSED


def _list(plain: Any, value: object, key: KeyPath, problems: list[Problem]) -> Any:  # noqa: ANN401
    if not isinstance(value, list):
        return _REFUSED
    item_type = get_args(plain)[0]
    made = [_value(item_type, item, (*key, i), problems) for i, item in enumerate(value)]
    return tuple(made) if get_origin(plain) is tuple else made


def _dict(plain: Any, value: object, key: KeyPath, problems: list[Problem]) -> Any:  # noqa: ANN401
    if not isinstance(value, dict):
        return _REFUSED
    key_type, value_type = get_args(plain)
    made = {}
    for name, item in value.items():
        if item is None:
            continue
        wrong: list[Problem] = []
        _value(key_type, name, key, wrong)
        if wrong:
            choices = get_args(key_type) if get_origin(key_type) is Literal else ()
            hint = suggest(name, choices)
            sentence = f"is no key here (expected {expected(key_type)}){hint}"
            problems.append(Problem((*key, name), sentence))
        else:
            made[name] = _value(value_type, item, (*key, name), problems)
    return made


def _misfit(hint: Any, plain: Any, value: object, description: str) -> str:  # noqa: ANN401
    wanted = expected(hint, description)
    if plain is str and isinstance(value, bool | int | float):
        wanted = expected(hint)
        return f"is {_shown(value)}, not text (expected {wanted}; put it in quotes)"
    return f"is {_shown(value)} (expected {wanted})"


def _unknown(name: str, section: type[Section]) -> str:
    near = nearest_key(name, section)
    if near:
        return f"unknown key{near}"
    hint = f"; {section.UNKNOWN_KEY}" if section.UNKNOWN_KEY else ""
    return f"unknown key (expected one of {', '.join(keys_of(section))}{hint})"


def _some(keys: dict[str, Key]) -> str:
    names = ", ".join(list(keys)[:3])
    return f"keys such as {names}"


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _fold(word: str) -> str:
    return word.lower().replace("_", "-").lstrip("-")
