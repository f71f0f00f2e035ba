"""A schema as JSON Schema (draft 2020-12), for editors and for the reference pages."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hpcvlm.yamlfile.schema import Key, Rule, Section, is_section, keys_of, rules_of

JsonSchema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(section: type[Section], title: str) -> JsonSchema:
    """The JSON Schema of a file whose keys are those of a section."""
    return {"$schema": DIALECT, "title": title, **_section(section)}


def _section(section: type[Section]) -> JsonSchema:
    keys = keys_of(section).values()
    schema: JsonSchema = {
        "description": inspect.getdoc(section),
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _key(key) for key in keys},
    }
    required = [key.name for key in keys if key.required]
    return {**schema, "required": required} if required else schema


def _key(key: Key) -> JsonSchema:
    # Null says that the key is not set, which a required one must not be.
    schema = _type(key.type) if key.required else _or_null(_type(key.type))
    schema = {**schema, "description": key.description}
    if not key.required and not is_section(key.type) and key.default is not None:
        default = key.default
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema


def _or_null(schema: JsonSchema) -> JsonSchema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return schema


def _type(hint: Any) -> JsonSchema:  # noqa: ANN401 - any type of a schema
    plain, rules = rules_of(hint)
    schema = _plain(plain)
    for rule in rules:
        schema = {**schema, **_rule(rule, schema)}
    return schema


def _plain(plain: Any) -> JsonSchema:  # noqa: ANN401
    origin = get_origin(plain)
    if is_section(plain):
        return _section(plain)
    if origin is Literal:
        return {"enum": list(get_args(plain))}
    if origin in {Union, UnionType}:
        return {"anyOf": [_type(member) for member in get_args(plain)]}
    if origin in {list, tuple}:
        return {"type": "array", "items": _type(get_args(plain)[0])}
    if origin is dict:
        name, value = get_args(plain)
        names = _type(name)
        schema: JsonSchema = {"type": "object", "additionalProperties": _or_null(_type(value))}
        return schema if names == {"type": "string"} else {**schema, "propertyNames": names}
    return {"type": _TYPES[plain]} if plain in _TYPES else {}


def _rule(rule: Rule, schema: JsonSchema) -> JsonSchema:
    found: JsonSchema = {}
    if rule.pattern:
        found["pattern"] = f"^(?:{rule.pattern})$"
    if rule.at_least is not None:
        found["minItems" if schema.get("type") == "array" else "minimum"] = rule.at_least
    return found
