"""The flags of `vllm serve` in one release, read from the code that builds its parser.

`vllm serve` fills one argparse parser from `ServeSubcommand.subparser_init` downwards. This module
follows those functions statement by statement, with a stand-in for the parser. A statement that it
does not understand ends the run: a table with a hole would be worse than none.
"""

from __future__ import annotations

import ast
import copy
import sys
from typing import Any

from scripts.vllm_tables.source import Place, Release, Unknown, call_name
from scripts.vllm_tables.values import Hint, default_of, hints_of, value_of

Kwargs = dict[str, Any]
"""What one flag hands to `add_argument`, its type as a word of `_TYPES`."""

_ENTRY = ("vllm.entrypoints.cli.serve", "ServeSubcommand", "subparser_init")
_ARGUMENTS = "vllm.engine.arg_utils"
_TYPES = {
    "json.loads": "json",
    "optional_type(json.loads)": "json",
    "parse_type(json.loads)": "json",
    "union_dict_and_str": "text-or-json",
    "int": "int",
    "float": "float",
}
_ENTERED = {"add_cli_args", "make_arg_parser"}
_HARMLESS = {
    "add_argument_group", "add_parser", "load_general_plugins", "pre_register_and_update",
    "show_filtered_argument_or_group_from_help", "pop",
}  # fmt: skip


class FlagReader:
    """Collects the flags of one release."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.found: dict[str, Kwargs] = {}
        arguments = release.module(_ARGUMENTS)
        self._arguments_text = ast.unparse(arguments)
        self._suffixed, self._automatic = _readable_integers(arguments)

    def read(self) -> dict[str, Kwargs]:
        """Every flag by its first long name, without dashes."""
        module, owner, method = _ENTRY
        place = self.release.find_class(module, owner)
        if place is None:
            sys.exit(f"{self.release.folder}: no {owner} in {module}")
        self._run_method(place, place, method)
        return self.found

    def _run_method(self, owner: Place, place: Place, method: str) -> None:
        """Follow a method of `place`, or of the class it inherits it from, on behalf of `owner`."""
        holder = self._holder(place, method)
        self._run(holder.module, _method(holder, method).body, {"cls": owner, "holder": holder})

    def _holder(self, place: Place, method: str) -> Place:
        node = place.node
        if isinstance(node, ast.ClassDef):
            if _has_method(node, method):
                return place
            for base in node.bases:
                parent = self.release.find_class(place.module, call_name(base))
                if parent:
                    return self._holder(parent, method)
        sys.exit(f"{self.release.folder}: no method {method} in {ast.unparse(node)[:80]}")

    def _run(self, module: str, body: list[ast.stmt], names: dict[str, Any]) -> None:
        for statement in body:
            self._statement(module, statement, names)

    def _statement(self, module: str, node: ast.stmt, names: dict[str, Any]) -> None:  # noqa: C901
        match node:
            case ast.Return() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                return
            case ast.Expr(value=ast.Call() as call):
                self._call(module, call, names)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = self._assigned(module, value, names)
            case ast.Assign(targets=[ast.Subscript(value=target, slice=key)], value=value):
                _set(
                    self._kwargs(target, names), ast.literal_eval(key), value, self.release, module
                )
            case ast.Assign(targets=[ast.Attribute(attr="epilog")]):
                return
            case ast.AugAssign(target=ast.Subscript(value=target, slice=key)):
                if ast.literal_eval(key) == "choices":
                    self._kwargs(target, names).pop("choices")
            case ast.Delete(targets=[ast.Subscript(value=target, slice=key)]):
                self._kwargs(target, names).pop(ast.literal_eval(key), None)
            case ast.If(test=ast.Compare(left=ast.Constant(value="nargs"))):
                self._run(module, node.body, names)
            case ast.If(test=ast.UnaryOp(op=ast.Not())):  # not for help; not only the async part
                self._run(module, node.body, names)
            case ast.For():
                self._loop(node, names)
            case _:
                self._give_up(node)

    def _give_up(self, node: ast.AST) -> None:
        sys.exit(f"{self.release.folder}: not understood: {ast.unparse(node)}")

    def _assigned(self, module: str, value: ast.expr, names: dict[str, Any]) -> object:
        """What a name stands for: flags' keyword arguments, or nothing that matters here."""
        match value:
            case ast.Call(func=ast.Name(id="get_kwargs"), args=[ast.Name(id=owner)]):
                return self._config_kwargs(module, names.get(owner, owner))
            case ast.Subscript(value=ast.Call() as call, slice=key):
                found = self._assigned(module, call, names)
                return found[ast.literal_eval(key)] if isinstance(found, dict) else None
            case ast.Subscript(value=ast.Name(id=name), slice=key) if isinstance(
                names.get(name), dict
            ):
                return names[name][ast.literal_eval(key)]
            case ast.Call(func=ast.Attribute(attr="_customize_cli_kwargs" as method)):
                own = call_name(value.func.value) == "cls"  # type: ignore[attr-defined]
                start = names["cls"] if own else self._parent(names["holder"])
                holder = self._holder(start, method)
                inner = {"cls": names["cls"], "holder": holder, **_dicts(names)}
                self._run(holder.module, _method(holder, method).body, inner)
                return inner["frontend_kwargs"]
            case ast.Call() if call_name(value) in _ENTERED:
                self._call(module, value, names)
        return None

    def _parent(self, place: Place) -> Place:
        node = place.node
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        found = self.release.find_class(place.module, call_name(bases[0]))
        if found is None:
            sys.exit(f"{self.release.folder}: base class not found: {ast.unparse(bases[0])}")
        return found

    def _call(self, module: str, call: ast.Call, names: dict[str, Any]) -> None:
        name = call_name(call)
        if name == "add_argument":
            self._argument(module, call, names)
        elif name == "make_arg_parser":
            place = self.release.find(module, name)
            if place is None or not isinstance(place.node, ast.FunctionDef):
                sys.exit(f"{self.release.folder}: no {name}")
            self._run(place.module, place.node.body, {})
        elif name == "add_cli_args" and isinstance(call.func, ast.Attribute):
            owner = self.release.find_class(module, call_name(call.func.value))
            if owner is None:
                sys.exit(f"{self.release.folder}: no {ast.unparse(call.func)}")
            self._run_method(owner, owner, name)
        elif name == "remove" and isinstance(call.func, ast.Attribute):
            choices = call.func.value
            if not isinstance(choices, ast.Subscript):
                self._give_up(call)
                return
            gone = value_of(self.release, module, call.args[0])
            self._kwargs(choices.value, names)["choices"].remove(gone)
        elif name not in _HARMLESS:
            self._give_up(call)

    def _kwargs(self, node: ast.expr, names: dict[str, Any]) -> Kwargs:
        """The keyword arguments that `name` or `name["field"]` stands for."""
        match node:
            case ast.Name(id=name) if isinstance(names.get(name), dict):
                found: Kwargs = names[name]
                return found
            case ast.Subscript(value=inner, slice=key):
                inner_kwargs: Kwargs = self._kwargs(inner, names)[ast.literal_eval(key)]
                return inner_kwargs
        sys.exit(f"{self.release.folder}: not understood: {ast.unparse(node)}")

    def _loop(self, node: ast.For, names: dict[str, Any]) -> None:
        """The two loops that parsers have: over a dataclass's fields, over written-out pairs."""
        if isinstance(node.iter, ast.Call) and call_name(node.iter) == "items":
            source = node.iter.func
            fields = self._kwargs(source.value, names)  # type: ignore[attr-defined]
            for key, kwargs in fields.items():
                self._add([*kwargs.pop("flags", []), f"--{key.replace('_', '-')}"], kwargs)
        elif isinstance(node.iter, ast.List):
            for pair in node.iter.elts:
                option, type_ = pair.elts  # type: ignore[attr-defined]
                self._add([option.value], {"type": _type_word(type_), "deprecated": True})
        else:
            self._give_up(node)

    def _argument(self, module: str, call: ast.Call, names: dict[str, Any]) -> None:
        options = [str(argument.value) for argument in call.args]  # type: ignore[attr-defined]
        kwargs: Kwargs = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                kwargs |= self._splatted(module, keyword.value, names)
            elif keyword.arg == "default" and isinstance(keyword.value, ast.Subscript):
                kwargs["default"] = self._kwargs(keyword.value.value, names)["default"]
            else:
                _set(kwargs, keyword.arg, keyword.value, self.release, module)
            if "DEPRECATION" in ast.unparse(keyword.value):
                kwargs["deprecated"] = True
        self._add(options, kwargs)

    def _splatted(self, module: str, node: ast.expr, names: dict[str, Any]) -> Kwargs:
        """The keyword arguments in `**kwargs["field"]` and in `**{**kwargs["field"], "a": b}`."""
        if not isinstance(node, ast.Dict):
            return dict(self._kwargs(node, names))
        found: Kwargs = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self._splatted(module, value, names)
            else:
                _set(found, ast.literal_eval(key), value, self.release, module)
        return found

    def _add(self, options: list[str], kwargs: Kwargs) -> None:
        if not options[0].startswith("-"):
            return  # the model, which is no flag
        long = [option for option in options if option.startswith("--")]
        name = long[0].removeprefix("--")
        others = sorted(option for option in options if option != long[0])
        if kwargs.get("action") == "store_true":
            kwargs.setdefault("default", False)
        self.found[name] = {**copy.deepcopy(kwargs), "aliases": others}

    def _config_kwargs(self, module: str, owner: str | Place) -> dict[str, Kwargs]:
        """What vLLM's `get_kwargs` makes of a dataclass."""
        place = self.release.find_class(module, owner) if isinstance(owner, str) else owner
        if place is None:
            sys.exit(f"{self.release.folder}: no class {owner} for {module}")
        made: dict[str, Kwargs] = {}
        for name, field in self.release.fields(place).items():
            hints = hints_of(self.release, field.place.module, field.annotation)
            made[name] = {"default": default_of(self.release, field)} | self._typed(name, hints)
        return made

    def _typed(self, name: str, hints: set[Hint]) -> Kwargs:  # noqa: PLR0911
        """The order of these questions is that of vLLM's `get_kwargs`."""
        kinds = {hint.kind for hint in hints}
        if "dataclass" in kinds:
            return {"type": "json"}
        if kinds == {"bool", "str", "none"} and "type_hints == {bool, str" in self._arguments_text:
            return {"type": "text", "nargs": "?"}
        if "bool" in kinds:
            return {"action": "boolean"}
        if "literal" in kinds:
            return self._literal(hints)
        for collection in ("tuple", "list", "set"):
            if collection in kinds:
                values = next(hint.values for hint in hints if hint.kind == collection)
                return {"nargs": "+", **({"choices": sorted(map(str, values))} if values else {})}
        if "int" in kinds:
            word = "int-or-auto" if name in self._automatic else "int"
            return {"type": "int-with-suffix" if name in self._suffixed else word}
        if "float" in kinds:
            return {"type": "float"}
        if "dict" in kinds:
            return {"type": "text-or-json" if kinds & {"str", "other"} else "json"}
        return {"type": "text"}

    def _literal(self, hints: set[Hint]) -> Kwargs:
        values = next(hint.values for hint in hints if hint.kind == "literal")
        word = "int" if isinstance(values[0], int) else "text"
        open_ended = any(hint.kind == "str" for hint in hints)
        if open_ended and "'metavar' if contains_type" in self._arguments_text:
            return {"type": word}
        return {"type": word, "choices": sorted(set(values))}


def _dicts(names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if isinstance(value, dict)}


def _method(place: Place, name: str) -> ast.FunctionDef:
    node = place.node
    body = node.body if isinstance(node, ast.ClassDef) else []
    return next(s for s in body if isinstance(s, ast.FunctionDef) and s.name == name)


def _has_method(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(s, ast.FunctionDef) and s.name == name for s in node.body)


def _type_word(node: ast.expr) -> str:
    return _TYPES.get(ast.unparse(node), "text")


def _set(kwargs: Kwargs, key: str, node: ast.expr, release: Release, module: str) -> None:
    """Put one keyword argument in, in this module's words."""
    if key == "type":
        kwargs[key] = _type_word(node)
    elif key == "action":
        text = ast.unparse(node)
        kwargs[key] = "boolean" if text.endswith("BooleanOptionalAction") else text.strip("'")
    elif key == "choices":
        found = value_of(release, module, node)
        kwargs.pop(key, None)
        if not isinstance(found, Unknown):
            kwargs[key] = found
    elif key in {"default", "nargs", "deprecated"}:
        kwargs[key] = value_of(release, module, node)


def _readable_integers(module: ast.Module) -> tuple[set[str], set[str]]:
    """Fields whose flags take ``32k``; fields whose flags take ``auto`` besides.

    Both are named in `get_kwargs`, in the branch that handles integers.
    """
    suffixed: set[str] = set()
    automatic: set[str] = set()
    functions = {n.name: n for n in ast.walk(module) if isinstance(n, ast.FunctionDef)}
    function = functions.get("_compute_kwargs") or functions["get_kwargs"]
    sets = {
        call_name(node.targets[0]): node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Set)
    }
    for node in ast.walk(function):
        if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare):
            continue
        if call_name(node.test.left) != "name":
            continue
        listed = node.test.comparators[0]
        listed = sets.get(call_name(listed), listed)
        fields = {c.value for c in ast.walk(listed) if isinstance(c, ast.Constant)}
        assigned = " ".join(ast.unparse(statement) for statement in node.body)
        target = automatic if "human_readable_int_or_auto" in assigned else suffixed
        if "human_readable_int" in assigned:
            target |= {str(field) for field in fields}
    return suffixed, automatic


def kind_of(kwargs: Kwargs) -> str:
    """One word for how a flag is written and what it takes."""
    action = kwargs.get("action")
    if action in {"boolean", "append"}:
        return str(action)
    if action == "store_true":
        return "switch"
    if kwargs.get("nargs") == "?":
        return "optional"
    if kwargs.get("nargs"):
        return "list"
    return str(kwargs.get("type", "text"))
