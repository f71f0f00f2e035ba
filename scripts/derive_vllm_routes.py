"""Derives every path that each release of vLLM can answer on, and where it takes a middleware.

Reads vLLM's released source archives as text, as derive_vllm_tables.py does. The list is for the
tests of the key guard (tests/security/); hpcvlm itself does not need it, since the guard lets
nothing through but GET and HEAD of /health.

    python scripts/derive_vllm_routes.py           # writes tests/data/vllm_routes.json
    python scripts/derive_vllm_routes.py --check   # exit 1 if the file is not what it would write
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.vllm_tables import archives, compact  # noqa: E402
from scripts.vllm_tables.source import call_name  # noqa: E402

FILE = ROOT / "tests" / "data" / "vllm_routes.json"
CACHE = Path.home() / ".cache" / "hpcvlm" / "vllm-sdist"
_METHODS = {"get", "post", "put", "delete", "patch", "head", "options", "trace", "websocket"}
_CALLS = {
    *_METHODS,
    *("api_route", "route", "add_api_route", "add_route", "mount", "Mount", "Route"),
    *("add_api_websocket_route", "add_websocket_route", "websocket_route", "WebSocketRoute"),
}
# FastAPI's own, unless --disable-fastapi-docs.
_OF_FASTAPI = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")


def paths_of(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every path that a module gives a function or an application to, and how."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if call_name(node) in _CALLS and _is_on_an_app(node):
            words = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "path")]
            for word in words:
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    yield word.value, call_name(node)
        if any(keyword.arg == "prefix" for keyword in node.keywords) and call_name(node) in (
            "APIRouter",
            "include_router",
        ):
            sys.exit(f"{ast.unparse(node)}: a prefix, which this script does not add")


def _is_on_an_app(node: ast.Call) -> bool:
    """Whether it is a method of a router or an application, and not of a dict or a client."""
    if isinstance(node.func, ast.Name):
        return node.func.id in ("Mount", "Route", "WebSocketRoute")
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = call_name(node.func.value)
    return owner in ("app", "router") or owner.endswith(("_router", "_app"))


def middleware_place(folder: Path) -> str:
    """The function that adds what --middleware names, as ``file:function``."""
    found = []
    for file in sorted((folder / "vllm" / "entrypoints").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "args.middleware" not in text:
            continue
        found += [
            f"{file.relative_to(folder)}:{function.name}"
            for function in ast.walk(ast.parse(text))
            if isinstance(function, ast.FunctionDef) and _adds_middleware(function)
        ]
    if len(found) != 1:
        sys.exit(f"{folder}: --middleware is added in {found or 'no function'}")
    return found[0]


def _adds_middleware(function: ast.FunctionDef) -> bool:
    """Whether it has ``for X in args.middleware`` with ``app.add_middleware(...)`` in it."""
    return any(
        isinstance(loop, ast.For)
        and ast.unparse(loop.iter) == "args.middleware"
        and any("add_middleware" in ast.unparse(node) for node in loop.body)
        for loop in ast.walk(function)
    )


def after_it(folder: Path, place: str) -> list[str]:
    """What the function adds after it, and so outside of it: the last one sees a request first."""
    file, _, name = place.partition(":")
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    loops = [
        number
        for number, node in enumerate(function.body)
        if isinstance(node, ast.For) and ast.unparse(node.iter) == "args.middleware"
    ]
    later = function.body[loops[0] + 1 :]
    return sorted({call for node in later for call in _added(node)})


def _added(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and call_name(call) in ("add_middleware", "middleware"):
            yield ast.unparse(call.args[0]) if call.args else ast.unparse(call)


def derived() -> str:
    """The content of the file."""
    found = archives.listed()
    folders = [archives.unpacked(archive, CACHE) for archive in found]
    per_release: list[set[str]] = []
    for folder in folders:
        files = (folder / "vllm" / "entrypoints").rglob("*.py")
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)]
        paths = {path for tree in trees for path, _ in paths_of(tree)}
        per_release.append({*paths, *_OF_FASTAPI})
    places = [middleware_place(folder) for folder in folders]
    table = {
        "provenance": {
            "script": "scripts/derive_vllm_routes.py",
            "source": "released archives of https://pypi.org/project/vllm/",
        },
        "versions": [str(archive.version) for archive in found],
        "middleware": compact.series(enumerate(places)),
        "outside": [after_it(folder, place) for folder, place in zip(folders, places, strict=True)],
        "routes": compact.presence(per_release),
    }
    lines = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in table.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    text = derived()
    if parser.parse_args().check:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
