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
from hpcvlm.catalog.load import Layer, TextFolder, all_models  # noqa: E402
from hpcvlm.catalog.schema import ModelSpec, Variant  # noqa: E402
from hpcvlm.cli.models_show import billions, gigabytes, tokens, versions  # noqa: E402
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
key away. `hpcvlm plan NAME` prints each value with its source.

A variant is another set of weights of the same model, launched as `NAME:VARIANT`; its keys are laid
over those of its model. Facts carry their source under `sources`, by their dotted key or one above.

A name may be an alias or the repository too, and capitals do not matter. With `--set`, a name that
resembles no key below is taken for an engine option: `--set max-model-len=4096`.

`hpcvlm models validate FILE` reports every mistake in a file with its line;
[model.schema.json](model.schema.json) lets an editor do so while you type. Values are YAML with two
differences: a key that stands twice is an error, and `30:00` or a date is text.
"""

SITE_INTRODUCTION = """\
# Site files

A site file says what is particular to one cluster. Every key is optional. There are four places; a
later one is laid over the earlier ones:

1. the site's: `/etc/hpcvlm/site.yaml`, or the file that `HPCVLM_SITE` names
2. yours: `~/.config/hpcvlm/site.yaml`
3. the environment: `HPCVLM_SITE_PARTITION=gpu`, and so for every key that holds one value
4. the command line: `--partition`, `--account` and the like, and `--set site.KEY=VALUE`

Mappings are merged key by key. Any other value, a list too, replaces the one below. `null` takes a
key away. `hpcvlm site show` prints each value with its source; `hpcvlm site init` writes a first
file from what Slurm says.

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
        inner, is_many = _inner(key.type)
        # A variant's own sections are the model's.
        if is_section(inner) and not (section is Variant and is_section(key.type)):
            name = f"Each of `{key.name}`" if is_many else f"`{key.name}`"
            yield from _sections(name, inner)


def _inner(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401
    """What a value holds, and whether there may be many of it."""
    plain, _ = rules_of(hint)
    if get_origin(plain) in {list, tuple}:
        return rules_of(get_args(plain)[0])[0], True
    if get_origin(plain) is dict:
        return rules_of(get_args(plain)[1])[0], True
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
        [sys.executable, "-m", "typer", "hpcvlm.cli.app", "utils", "docs", "--name", "hpcvlm"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    text = done.stdout.strip().replace("# `hpcvlm`", "# Commands", 1)
    return f"{MADE_BY}\n\n{text}\n"


def models_page() -> str:
    """Every shipped model: what it is, what serves it, on how many GPUs."""
    folder = ROOT / "configs" / "models"
    texts = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yaml"))}
    models = all_models([Layer("shipped", TextFolder(texts))])
    served = [model.spec for model in models if model.spec.unsupported is None]
    parts = [MADE_BY, "", MODELS_INTRODUCTION]
    for title, specs in (
        ("Models that see", [spec for spec in served if spec.vision]),
        ("Text models", [spec for spec in served if not spec.vision]),
    ):
        parts += [f"## {title}", "", *_models_table(specs), ""]
    parts += ["## What cannot be served", ""]
    for model in models:
        if model.spec.unsupported is not None:
            instead = ", ".join(f"`{name}`" for name in model.spec.unsupported.instead)
            parts.append(
                f"- `{model.spec.name}`: {model.spec.unsupported.reason} Instead: {instead}."
            )
    return "\n".join(parts) + "\n"


MODELS_INTRODUCTION = """\
# Models

`hpcvlm models show NAME` has all of it with the source of each fact, `hpcvlm models fit NAME --gpus
A100:1` the arithmetic for other GPUs and longer contexts. Sizes are decimal gigabytes on disk.
*GPUs* is the number that a launch takes of each type unless told otherwise; it fits by arithmetic.
*verified* names runs that proved it; it is empty until there is one.
"""


def _models_table(specs: list[ModelSpec]) -> Iterator[str]:
    names = [
        "name",
        "repository",
        "parameters",
        "weights",
        "context",
        "vLLM",
        "GPUs",
        "variants",
        "verified",
    ]
    yield f"| {' | '.join(names)} |"
    yield f"| {' | '.join('---' for _ in names)} |"
    for spec in specs:
        repo = spec.snapshot.repo
        link = repo if repo.startswith("hpcvlm/") else f"[{repo}](https://huggingface.co/{repo})"
        gpus = ", ".join(f"{kind}:{count}" for kind, count in spec.parallelism.gpus.items())
        runs = ", ".join(f"{run.gpus}, vLLM {run.engine}" for run in spec.verified)
        cells = (
            f"`{spec.name}`",
            link + (" (gated)" if spec.gated else ""),
            billions(spec.parameters),
            gigabytes(spec.weight_bytes),
            tokens(spec.context_length),
            versions(spec.engine.versions),
            gpus,
            ", ".join(f"`{name}`" for name in spec.variants),
            runs,
        )
        yield f"| {' | '.join(cells)} |"


GENERATORS: dict[str, Callable[[], str]] = {
    "docs/reference/model.schema.json": lambda: schema_page("model"),
    "docs/reference/site.schema.json": lambda: schema_page("site"),
    "docs/reference/model-file.md": lambda: file_page(ModelSpec, MODEL_INTRODUCTION),
    "docs/reference/site-file.md": lambda: file_page(SiteSpec, SITE_INTRODUCTION),
    "docs/reference/commands.md": commands_page,
    "docs/reference/models.md": models_page,
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
