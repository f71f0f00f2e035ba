"""Write the reference pages that are made from the code.

    python scripts/generate_reference.py            # write them
    python scripts/generate_reference.py --check    # name those out of date; exit status 1 if any

GENERATORS lists the pages: a path below the repository, and a function that gives the text.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hpcvlm.catalog.json_schema import Kind, json_schema  # noqa: E402
from hpcvlm.catalog.schema import ModelSpec  # noqa: E402
from hpcvlm.site.schema import SiteSpec  # noqa: E402
from hpcvlm.yamlfile.schema import (  # noqa: E402
    Key,
    Section,
    is_section,
    keys_of,
    rules_of,
)

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
MADE_BY = "<!-- Made by scripts/generate_reference.py; change that, or the schema it reads. -->"

MODEL_INTRODUCTION = """\
# Model files

A model file says how one model is served. `hpcvlm launch NAME` looks for `NAME.yaml` in three
places; a file in a later one is laid over the earlier ones, so it needs to say only what is
different there:

1. shipped with hpcvlm: `configs/models/`
2. the site's: `models/` beside the site file, `/etc/hpcvlm/models/` where nothing else is set
3. yours: `~/.config/hpcvlm/models/`
4. the command line: `--set options.max-model-len=4096`

Mappings are merged key by key. Any other value, a list too, replaces the one below. `null` takes a
key away. plan.json, which `hpcvlm render -o DIR` writes beside the script, names the source of each
value.

A name may be an alias or the repository too, and capitals do not matter. With `--set`, a name that
resembles no key below is taken for an engine option: `--set max-model-len=4096`.

`hpcvlm models validate FILE` reports every mistake in a file with its line;
[model.schema.json](model.schema.json) lets an editor do so while you type. Values are YAML with two
differences: a key that stands twice is an error, and `30:00` or a date is text.
"""

SITE_INTRODUCTION = """\
# Site files

A site file says what is particular to one cluster. Every key is optional. There are three places; a
later one is laid over the earlier ones:

1. the site's: `/etc/hpcvlm/site.yaml`, or the file that `HPCVLM_SITE` names
2. yours: `~/.config/hpcvlm/site.yaml`
3. the command line: `--partition`, `--account` and the like

Mappings are merged key by key. Any other value, a list too, replaces the one below. `null` takes a
key away. plan.json, which `hpcvlm render -o DIR` writes beside the script, names the source of each
value.

`configs/sites/example.yaml` is a site file with every key in it;
[site.schema.json](site.schema.json) lets an editor check yours while you type.
"""


def schema_page(kind: Kind) -> str:
    """A JSON Schema as a file."""
    return json.dumps(json_schema(kind), indent=2) + "\n"


def file_page(section: type[Section], introduction: str) -> str:
    """A kind of file: an introduction, then a table for each of its sections."""
    parts = [MADE_BY, "", introduction]
    for title, part in _sections("Top level", section):
        parts += [f"## {title}", "", *_table(part), ""]
    return "\n".join(parts)


def _sections(title: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield title, section
    for key in keys_of(section).values():
        inner, is_list = _inner(key.type)
        if is_section(inner):
            name = f"Each of `{key.name}`" if is_list else f"`{key.name}`"
            yield from _sections(name, inner)


def _inner(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401
    plain, _ = rules_of(hint)
    if get_origin(plain) in {list, tuple}:
        return rules_of(get_args(plain)[0])[0], True
    return plain, False


def _table(section: type[Section]) -> list[str]:
    rows = [_row(key) for key in keys_of(section).values()]
    return ["| key | what it says | value | default |", "| --- | --- | --- | --- |", *rows]


def _row(key: Key) -> str:
    cells = (f"`{key.name}`", key.description, _value(key.type), _default(key))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(key: Key) -> str:
    if key.required:
        return "must be given"
    if is_section(key.type) or key.default is None or key.default in ((), {}, ""):
        return ""
    default = list(key.default) if isinstance(key.default, tuple) else key.default
    return f"`{json.dumps(default)}`"


def _value(hint: Any) -> str:  # noqa: ANN401
    plain, rules = rules_of(hint)
    if rules:
        return rules[0].says
    if get_origin(plain) is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in get_args(plain))
    if is_section(plain):
        return "keys, see below"
    if get_origin(plain) is None:
        return _WORDS.get(plain, "anything")
    return _container(plain)


def _container(plain: Any) -> str:  # noqa: ANN401
    *_, value = get_args(plain)
    if get_origin(plain) is dict:
        name = get_args(plain)[0]
        keys = "a name" if name is str else _value(name)
        return f"mapping; key: {keys}; value: {_value(value)}"
    inner = get_args(plain)[0]
    return "list, see below" if is_section(inner) else f"list of {_value(inner)}"


def commands_page() -> str:
    """Every command with its options, as Typer itself documents them."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "hpcvlm.cli.main", "utils", "docs", "--name", "hpcvlm"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    text = done.stdout.strip().replace("# `hpcvlm`", "# Commands", 1)
    return f"{MADE_BY}\n\n{text}\n"


GENERATORS: dict[str, Callable[[], str]] = {
    "docs/reference/model.schema.json": lambda: schema_page("model"),
    "docs/reference/site.schema.json": lambda: schema_page("site"),
    "docs/reference/model-file.md": lambda: file_page(ModelSpec, MODEL_INTRODUCTION),
    "docs/reference/site-file.md": lambda: file_page(SiteSpec, SITE_INTRODUCTION),
    "docs/reference/commands.md": commands_page,
}


def outdated(root: Path) -> list[str]:
    """The pages whose text is not what the code gives."""
    return [name for name, make in GENERATORS.items() if _read(root / name) != make()]


def write(root: Path) -> list[str]:
    """Write the pages that are out of date, and name them."""
    names = outdated(root)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GENERATORS[name](), encoding="utf-8")
    return names


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def main() -> int:
    """Write or check, as the command line says."""
    parser = argparse.ArgumentParser(description="Write the reference pages made from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    names = outdated(ROOT) if check else write(ROOT)
    for name in names:
        print(f"{name}: {'out of date' if check else 'written'}")
    return 1 if check and names else 0


if __name__ == "__main__":
    sys.exit(main())
