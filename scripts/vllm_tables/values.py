"""The values of simple expressions in vLLM's source, and what its annotations mean to argparse."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from scripts.vllm_tables.source import Field, Place, Release, Unknown, call_name

_PLAIN = {"bool", "int", "float", "str", "dict", "list", "tuple", "set"}
_GENERIC = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set", "Mapping": "Mapping"}
_TRANSPARENT = {"Annotated", "SkipValidation", "Final", "Required", "NotRequired"}


@dataclass(frozen=True, slots=True)
class Hint:
    """One alternative of an annotation, flattened: `str | None` gives two of them.

    `kind` is a plain type's name, ``none``, ``literal``, ``dataclass`` or ``other``.
    """

    kind: str
    values: tuple[object, ...] = ()


def value_of(release: Release, module: str, node: ast.AST | None) -> object:  # noqa: C901, PLR0911, PLR0912
    """The value of an expression as `module` sees it; `Unknown` if only running it would tell."""
    match node:
        case None:
            return None
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            values = [value_of(release, module, part) for part in parts]
            return values if _all_known(values) else Unknown(ast.unparse(node))
        case ast.Dict(keys=keys, values=parts) if all(keys):
            pairs = [
                (value_of(release, module, k), value_of(release, module, v))
                for k, v in zip(keys, parts, strict=True)
            ]
            flat = [item for pair in pairs for item in pair]
            return {str(k): v for k, v in pairs} if _all_known(flat) else Unknown(ast.unparse(node))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = value_of(release, module, operand)
            return -number if isinstance(number, (int, float)) else Unknown(ast.unparse(node))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            truth = value_of(release, module, operand)
            return not truth if isinstance(truth, bool) else Unknown(ast.unparse(node))
        case ast.BinOp(left=left, op=operator, right=right):
            return _arithmetic(
                value_of(release, module, left),
                operator,
                value_of(release, module, right),
                ast.unparse(node),
            )
        case ast.Name(id=name):
            place = release.find(module, name)
            if place and isinstance(place.node, ast.expr):
                return value_of(release, place.module, place.node)
        case ast.Attribute(value=ast.Attribute(), attr="value"):
            return value_of(release, module, node.value)
        case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
            place = release.find_class(module, owner)
            if place:
                return _class_value(release, place, attribute, ast.unparse(node))
        case ast.Subscript() if call_name(node.value) == "Literal":
            return list(literal_values(release, module, node))
        case ast.Call():
            return _called(release, module, node)
        case ast.ListComp(generators=[ast.comprehension(iter=ast.Name(id=name))]):
            place = release.find_class(module, name)
            members = release.enum_values(place) if place else None
            if members is not None and ast.unparse(node.elt).endswith(".value"):
                return members
        case _:
            pass
    return Unknown(ast.unparse(node) if node is not None else "")


def _all_known(values: list[object]) -> bool:
    return not any(isinstance(value, Unknown) for value in values)


def _arithmetic(left: object, operator: ast.operator, right: object, text: str) -> object:
    if isinstance(left, list) and isinstance(right, list) and isinstance(operator, ast.Add):
        return left + right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        match operator:
            case ast.Mult():
                return left * right
            case ast.Add():
                return left + right
            case ast.Pow() if isinstance(left, int) and isinstance(right, int):
                return int(left**right)
            case ast.LShift() if isinstance(left, int) and isinstance(right, int):
                return left << right
            case _:
                pass
    return Unknown(text)


def _class_value(release: Release, place: Place, attribute: str, text: str) -> object:
    """The default of a dataclass's field, or the value of an enumeration's member."""
    field = release.fields(place).get(attribute)
    if field:
        return default_of(release, field)
    node = place.node
    for statement in node.body if isinstance(node, ast.ClassDef) else []:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == attribute:
                return value_of(release, place.module, value)
            case _:
                pass
    return Unknown(text)


def _called(release: Release, module: str, node: ast.Call) -> object:
    """The value of the few calls that appear in defaults and choices."""
    name = call_name(node)
    arguments = node.args
    if name in {"list", "sorted", "tuple"} and len(arguments) == 1:
        value = value_of(release, module, arguments[0])
        if isinstance(value, list):
            return sorted(value) if name == "sorted" else value
    if name in {"list", "dict"} and not arguments:
        return [] if name == "list" else {}
    if name == "int" and ast.unparse(node) == "int(ssl.CERT_NONE)":
        return 0
    if name == "get_args" and len(arguments) == 1:
        return list(literal_values(release, module, arguments[0]))
    if name == "get_field" and len(arguments) == 2 and isinstance(arguments[0], ast.Name):
        place = release.find_class(module, arguments[0].id)
        wanted = arguments[1]
        if place and isinstance(wanted, ast.Constant):
            return _class_value(release, place, str(wanted.value), ast.unparse(node))
    return Unknown(ast.unparse(node))


def default_of(release: Release, field: Field) -> object:
    """The default of a dataclass's field; `Unknown` for one that a function makes."""
    node = field.default
    module = field.place.module
    if isinstance(node, ast.Call) and call_name(node) in {"field", "Field"}:
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if "default" in named or node.args:
            value = named.get("default") or node.args[0]
            return value_of(release, module, value)
        factory = named.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return value_of(release, module, factory.body)
        if isinstance(factory, ast.Name) and factory.id in {"list", "dict", "set"}:
            return {} if factory.id == "dict" else []
        made = release.find_class(module, call_name(factory)) if factory else None
        if made and release.inherits(made, "dict"):
            return {}
        return Unknown(f"{ast.unparse(factory)}()" if factory is not None else "")
    return value_of(release, module, node)


def literal_values(release: Release, module: str, node: ast.expr) -> tuple[object, ...]:
    """The values of a `Literal`, through aliases and nested literals; empty for anything else."""
    return tuple(
        value
        for hint in hints_of(release, module, node)
        if hint.kind == "literal"
        for value in hint.values
    )


def hints_of(release: Release, module: str, node: ast.expr) -> set[Hint]:
    """The alternatives of an annotation, through aliases, `Optional`, `Union` and `Annotated`."""
    match node:
        case ast.Constant(value=None):
            return {Hint("none")}
        case ast.Constant(value=str() as text):
            return hints_of(release, module, ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, right=right):
            return hints_of(release, module, left) | hints_of(release, module, right)
        case ast.Subscript():
            return _subscripted(release, module, node)
        case ast.Name(id=name):
            return _named(release, module, name)
        case _:
            return {Hint("other")}


def _named(release: Release, module: str, name: str) -> set[Hint]:
    if name in _PLAIN:
        return {Hint(name)}
    place = release.find(module, name)
    if place is None:
        return {Hint(_GENERIC[name])} if name in _GENERIC else {Hint("other")}
    if isinstance(place.node, ast.expr):
        return hints_of(release, place.module, place.node)
    if release.is_dataclass(place):
        return {Hint("dataclass")}
    if release.inherits(place, "dict"):
        return {Hint("dict")}
    return {Hint("other")}


def _subscripted(release: Release, module: str, node: ast.Subscript) -> set[Hint]:
    base = call_name(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if base == "Literal":
        return {Hint("literal", tuple(_literal_parts(release, module, inner)))}
    if base == "Optional":
        return {Hint("none")} | hints_of(release, module, inner[0])
    if base == "Union":
        return {hint for part in inner for hint in hints_of(release, module, part)}
    if base in _TRANSPARENT:
        return hints_of(release, module, inner[0])
    plain = _GENERIC.get(base, base)
    if plain in {"list", "tuple", "set"}:
        first = hints_of(release, module, inner[0])
        literal = next((hint for hint in first if hint.kind == "literal"), None)
        return {Hint(plain, literal.values if literal and len(first) == 1 else ())}
    return {Hint(plain if plain == "dict" else "other")}


def _literal_parts(release: Release, module: str, parts: list[ast.expr]) -> list[object]:
    found: list[object] = []
    for part in parts:
        if isinstance(part, ast.Constant):
            found.append(part.value)
        else:
            found += literal_values(release, module, part)
    return found
