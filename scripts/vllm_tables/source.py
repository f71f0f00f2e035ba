"""Reading Python source without running it: names, classes, annotations, simple values.

Only as much of the language is understood as vLLM's argument parsers need. What is not understood
becomes `Unknown`, never a guess.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ENUM_BASES = {"Enum", "IntEnum", "StrEnum"}
_DATACLASS_MARKS = {"dataclass", "config"}


@dataclass(frozen=True, slots=True)
class Unknown:
    """An expression whose value is known only when vLLM runs; its text is kept."""

    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """A definition, and the module whose names it uses."""

    module: str
    node: ast.AST


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a dataclass: its annotation and default, and where they were written."""

    name: str
    place: Place
    annotation: ast.expr
    default: ast.expr | None


def call_name(node: ast.AST) -> str:
    """The last part of the name of what is called, or of a name itself."""
    if isinstance(node, ast.Call):
        return call_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class Release:
    """The unpacked source of one release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = cache(self._module)
        self._names = cache(self._read_names)

    def path(self, module: str) -> Path | None:
        """The file of a module, or None where the release has no such module."""
        base = self.folder.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        return None

    def _module(self, module: str) -> ast.Module:
        path = self.path(module)
        return ast.parse(path.read_text()) if path else ast.Module([], [])

    def _read_names(self, module: str) -> dict[str, ast.AST]:
        """Everything that the top level of a module defines or imports, by name."""
        return dict(_definitions(self.module(module).body))

    def find(self, module: str, name: str) -> Place | None:
        """Where `name`, as `module` sees it, is defined; imports within vLLM are followed."""
        node = self._names(module).get(name)
        if not isinstance(node, ast.ImportFrom):
            return Place(module, node) if node is not None else None
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        source = _absolute(node, module, is_package=self._is_package(module))
        if source.partition(".")[0] != "vllm":
            return None
        if self.path(source) is None:
            sys.exit(f"{self.folder}: {source}, imported by {module}, is not among the kept files")
        return self.find(source, original)

    def _is_package(self, module: str) -> bool:
        path = self.path(module)
        return path is not None and path.name == "__init__.py"

    def find_class(self, module: str, name: str) -> Place | None:
        """As `find`, for a class only."""
        found = self.find(module, name)
        return found if found and isinstance(found.node, ast.ClassDef) else None

    def fields(self, place: Place) -> dict[str, Field]:
        """The fields of a dataclass, inherited ones first, as `dataclasses.fields` orders them."""
        found: dict[str, Field] = {}
        node = place.node
        if not isinstance(node, ast.ClassDef):
            return found
        for base in reversed(node.bases):
            inherited = self.find_class(place.module, call_name(base))
            if inherited:
                found |= self.fields(inherited)
        for statement in node.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(
                statement.target, ast.Name
            ):
                continue
            if ast.unparse(statement.annotation).startswith(("ClassVar", "InitVar")):
                continue
            name = statement.target.id
            found[name] = Field(name, place, statement.annotation, statement.value)
        return found

    def is_dataclass(self, place: Place) -> bool:
        """Whether a class, or one that it inherits from, is marked as a dataclass."""
        node = place.node
        if not isinstance(node, ast.ClassDef):
            return False
        if any(call_name(mark) in _DATACLASS_MARKS for mark in node.decorator_list):
            return True
        bases = (self.find_class(place.module, call_name(base)) for base in node.bases)
        return any(self.is_dataclass(base) for base in bases if base)

    def inherits(self, place: Place, wanted: str) -> bool:
        """Whether a class has a base class of that name, directly or through other classes."""
        node = place.node
        if not isinstance(node, ast.ClassDef):
            return False
        for base in node.bases:
            bare = base.value if isinstance(base, ast.Subscript) else base
            if call_name(bare) == wanted:
                return True
            parent = self.find_class(place.module, call_name(bare))
            if parent and self.inherits(parent, wanted):
                return True
        return False

    def enum_values(self, place: Place) -> list[object] | None:
        """The values of an enumeration's members, or None for any other class."""
        node = place.node
        if not isinstance(node, ast.ClassDef):
            return None
        names = {call_name(base) for base in node.bases}
        if not names & _ENUM_BASES:
            return None
        return [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        ]


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Names defined by statements, in order, so that a later one replaces an earlier one.

    Of `if TYPE_CHECKING: … else: …`, the second part comes last: it is what runs.
    """
    for statement in body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name, statement
            case ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name, statement) for alias in names)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.If(body=first, orelse=second):
                yield from _definitions(first)
                yield from _definitions(second)
            case ast.Try(body=first):
                yield from _definitions(first)
            case _:
                pass


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The full name of the module that an import statement names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, node.module] if node.module else kept)
