"""YAML text to plain data, and the line that a key stands on.

The data is what JSON could hold too: mappings with text keys, lists, text, whole and other
numbers, true/false and null. YAML's surprises are left out: ``30:00`` is text and not a number in
base 60, a date is text, a key is text however it looks, and a key that stands twice is an error.

Reading is one pass in C where PyYAML has its C part; lines are looked up only for a message.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

import yaml
from yaml.constructor import BaseConstructor, ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hpcvlm.errors import HpcvlmError

KeyPath = tuple[str | int, ...]

# A text within these limits cannot exhaust the C stack of PyYAML's composer, which has no limit
# of its own; a model or site file stays far below them.
_MOST_CHARACTERS = 200_000
_MOST_BRACKETS = 2_000
_MOST_LEVELS = 20
_MOST_VALUES = 20_000
_COMPACT_NESTING = re.compile(r"(?:[-?:][ \t]+){100}")

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE|yes|Yes|YES|on|On|ON")
_FALSE = re.compile(r"false|False|FALSE|no|No|NO|off|Off|OFF")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
# At most two digits of exponent: every match is a finite number.
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,2})?")


def file_error(path: str, line: int | None, problem: str, remedy: str = "") -> HpcvlmError:
    """The error for a file that cannot be used: ``file:line: problem``."""
    where = path if line is None else f"{path}:{line}"
    return HpcvlmError("file-invalid", f"{where}: {problem}", remedy)


def parse(text: str, path: str) -> object:
    """Read YAML text into plain data.

    Args:
        text: one YAML document.
        path: the name of the file, for messages.

    Returns:
        The data; None for an empty text.

    Raises:
        HpcvlmError: ``file-invalid``, with file and line.
    """
    _refuse_monsters(text, path)
    try:
        data: object = yaml.load(text, Loader=_loader())  # noqa: S506 - plain data only
        _refuse_big_data([data], 0)
    except yaml.YAMLError as error:
        line, problem = _explain(error, text)
        raise file_error(path, line, problem) from None
    except UnicodeEncodeError:
        raise file_error(path, None, "the file is not UTF-8 text") from None
    except RecursionError:
        raise file_error(path, None, "the file is nested too deeply, or too large") from None
    return data


def parse_value(text: str) -> object:
    """A value as typed after ``--set key=``: a YAML scalar, or a list or mapping in one line.

    Text that is no YAML is taken as it stands.
    """
    try:
        return parse(text, "")
    except HpcvlmError:
        return text


def line_of(text: str, key: KeyPath) -> int | None:
    """The line, from 1, on which a key stands; its nearest parent's when it is not there.

    Args:
        text: YAML text that `parse` has accepted.
        key: mapping keys and list positions, from the top.
    """
    try:
        node = yaml.compose(text, Loader=_loader())
    except yaml.YAMLError:
        return None
    if node is None or not key:
        return None
    line: int | None = None
    for part in key:
        found = _child(node, part)
        if found is None:
            return line
        line, node = found
    return line


def _refuse_monsters(text: str, path: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise file_error(path, None, f"the file has more than {_MOST_CHARACTERS} characters")
    brackets = text.count("[") + text.count("{")
    if brackets > _MOST_BRACKETS or _COMPACT_NESTING.search(text):
        raise file_error(path, None, "the file is nested too deeply, or too large")


def _refuse_big_data(items: Collection[object], depth: int, seen: int = 0) -> int:
    """Count what a walk through the data meets; aliases can make a short text very large."""
    seen += len(items)
    if depth > _MOST_LEVELS or seen > _MOST_VALUES:
        raise RecursionError
    for item in items:
        if isinstance(item, dict):
            seen = _refuse_big_data(item.values(), depth + 1, seen)
        elif isinstance(item, list):
            seen = _refuse_big_data(item, depth + 1, seen)
    return seen


def _child(node: Node, part: str | int) -> tuple[int, Node] | None:
    """A key's or an item's line and value."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            # Options may be written with dashes or underscores.
            if key.value == part or str(key.value).replace("_", "-") == part:
                return key.start_mark.line + 1, value
    elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None


def _explain(error: Exception, text: str) -> tuple[int | None, str]:
    """Line and words for one of PyYAML's errors."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        problem = getattr(error, "problem", None) or "cannot be read as YAML"
        context = getattr(error, "context", None)
        # libyaml puts what is missing at the end one line below the last one.
        line = min(mark.line + 1, len(text.splitlines()))
        return line, f"{problem} ({context})" if context else problem
    position = getattr(error, "position", None)
    if isinstance(position, int):
        return text[:position].count("\n") + 1, f"{getattr(error, 'reason', 'unreadable text')}"
    return None, "cannot be read as YAML"


@cache
def _loader() -> Any:  # noqa: ANN401 - PyYAML's stubs know neither its C base nor its classmethods
    """The loader class."""
    base = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    loader: Any = type("PlainLoader", (base,), {})
    resolvers = (
        ("null", _NULL, ("~", "n", "N", "")),
        ("bool", _TRUE, ("t", "T", "y", "Y", "o", "O")),
        ("bool", _FALSE, ("f", "F", "n", "N", "o", "O")),
        ("int", _INT, tuple("-+0123456789")),
        ("float", _FLOAT, tuple("-+.0123456789")),
    )
    for name, pattern, first in resolvers:
        whole = re.compile(rf"(?:{pattern.pattern})\Z")
        loader.add_implicit_resolver(_TAG + name, whole, first)
    for name, constructor in _CONSTRUCTORS.items():
        loader.add_constructor(_TAG + name, constructor)
    loader.add_constructor(None, _unknown_tag)
    return loader


def _fail(node: Node, problem: str) -> Exception:
    return ConstructorError(None, None, problem, node.start_mark)


def _kind(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return "single value"
    return "list" if isinstance(node, SequenceNode) else "mapping"


def _scalar(node: Node, kind: str) -> str:
    if not isinstance(node, ScalarNode):
        raise _fail(node, f"expected {kind}, found a {_kind(node)}")
    return str(node.value)


def _null(_loader: BaseConstructor, node: Node) -> None:
    if not _NULL.fullmatch(_scalar(node, "null")):
        raise _fail(node, f"{node.value!r} is not null")


def _bool(_loader: BaseConstructor, node: Node) -> bool:
    text = _scalar(node, "true or false")
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    raise _fail(node, f"{text!r} is neither true nor false")


def _int(_loader: BaseConstructor, node: Node) -> int:
    text = _scalar(node, "a whole number")
    if not _INT.fullmatch(text):
        raise _fail(node, f"{text!r} is not a whole number")
    return int(text)


def _float(_loader: BaseConstructor, node: Node) -> float:
    text = _scalar(node, "a number")
    if not (_FLOAT.fullmatch(text) or _INT.fullmatch(text)):
        raise _fail(node, f"{text!r} is not a number")
    return float(text)


def _str(_loader: BaseConstructor, node: Node) -> str:
    return _scalar(node, "text")


def _list(loader: BaseConstructor, node: Node) -> list[object]:
    if not isinstance(node, SequenceNode):
        raise _fail(node, f"expected a list, found a {_kind(node)}")
    construct = loader.construct_object
    return [construct(item, deep=True) for item in node.value]


def _mapping(loader: BaseConstructor, node: Node) -> dict[str, object]:
    if not isinstance(node, MappingNode):
        raise _fail(node, f"expected keys, found a {_kind(node)}")
    construct = loader.construct_object
    data: dict[str, object] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise _fail(key, f"a key must be text, not a {_kind(key)}")
        if key.value in data:
            raise _fail(key, f"the key {key.value!r} stands here a second time")
        data[key.value] = construct(value, deep=True)
    return data


def _unknown_tag(_loader: BaseConstructor, node: Node) -> None:
    raise _fail(node, f"the tag {node.tag!r} is not allowed; write plain values")


_CONSTRUCTORS = {
    "null": _null,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "seq": _list,
    "map": _mapping,
}
