"""``--set key=value``: one key of a file, given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.check import nearest_key, suggest
from hpcvlm.yamlfile.layers import Part
from hpcvlm.yamlfile.schema import Section, is_section, keys_of, rules_of
from hpcvlm.yamlfile.text import KeyPath, parse_value

COMMAND_LINE = "command line"
_EXAMPLE = "for example --set options.max-model-len=4096"


def read_settings(
    section: type[Section], settings: Sequence[str], else_under: str | None = None
) -> list[Part]:
    """Each setting as a part of its own, so that a mistake names the setting it is in.

    Args:
        section: the schema's class.
        settings: texts such as ``options.max-model-len=4096``.
        else_under: the mapping that takes names that resemble no key of the schema.

    Raises:
        HpcvlmError: ``setting-invalid``.
    """
    return [_part(section, setting, else_under) for setting in settings]


def _part(section: type[Section], setting: str, else_under: str | None) -> Part:
    name, equals, text = setting.partition("=")
    name = name.strip()
    if not equals or not name:
        raise HpcvlmError("setting-invalid", f"--set {setting!r} is not KEY=VALUE", _EXAMPLE)
    key, hint = _resolve(section, name, setting, else_under)
    data: Any = _read_value(hint, text.strip())
    for part in reversed(key):
        data = {part: data}
    return Part(COMMAND_LINE, f"--set {setting}", data)


def _resolve(
    section: type[Section], name: str, setting: str, else_under: str | None
) -> tuple[KeyPath, Any]:
    """The key that a dotted name means, and its type."""
    first, _, rest = name.partition(".")
    keys = keys_of(section)
    known = keys.get(first) or keys.get(first.replace("-", "_"))
    if known is not None:
        below, hint = _below(known.type, rest, setting)
        return (known.name, *below), hint
    near = nearest_key(first, section)
    if else_under is None or near or (rest and not _is_option_like(first)):
        remedy = f"--set {else_under}.{name}=... is for engine options" if else_under else ""
        wrong = near or f"; the keys are {', '.join(keys)}"
        raise HpcvlmError(
            "setting-invalid", f"--set {setting}: unknown key {first!r}{wrong}", remedy
        )
    below, hint = _below(keys[else_under].type, name, setting)
    return (else_under, *below), hint


def _is_option_like(name: str) -> bool:
    """``limit-mm-per-prompt.image`` is an option of several words; ``optoins.x`` is a mistake."""
    return "-" in name or "_" in name


def _below(hint: Any, rest: str, setting: str) -> tuple[KeyPath, Any]:  # noqa: ANN401
    """The remaining parts of a dotted name, read by the type they lead into."""
    plain, _ = rules_of(hint)
    if not rest:
        return (), plain
    if is_section(plain):
        first, _, deeper = rest.partition(".")
        keys = keys_of(plain)
        known = keys.get(first) or keys.get(first.replace("-", "_"))
        if known is None:
            wrong = suggest(first, list(keys)) or f"; the keys are {', '.join(keys)}"
            sentence = f"--set {setting}: unknown key {first!r}{wrong}"
            raise HpcvlmError("setting-invalid", sentence)
        below, found = _below(known.type, deeper, setting)
        return (known.name, *below), found
    if get_origin(plain) is dict:
        value_type = get_args(plain)[1]
        # A name in a flat mapping may have dots (a GPU type, an option); in a free one they nest.
        return (tuple(rest.split(".")) if value_type is object else (rest,)), value_type
    raise HpcvlmError("setting-invalid", f"--set {setting}: {rest!r} has nothing to stand in")


def _read_value(hint: Any, text: str) -> object:  # noqa: ANN401
    """The value; where the schema wants text, what was typed is text, 0.10 and yes too."""
    value = parse_value(text)
    if rules_of(hint)[0] is str and value is not None and not isinstance(value, str):
        return text
    return value
