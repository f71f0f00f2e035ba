"""hpcvlm models: the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, table

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The models that can be launched by name."
)


@app.command("ls")
def ls(as_json: options.Json = False) -> None:
    """List the models of all layers: shipped, the site's, the user's."""
    from hpcvlm.catalog.load import all_models
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.prepare import model_layers

    found = all_models(model_layers(Context()))
    if as_json:
        data_json([resolved.spec.model_dump(mode="json", by_alias=True) for resolved in found])
        return
    rows = [
        (
            r.spec.name,
            r.spec.snapshot.repo,
            f"{r.spec.engine.name} {r.spec.engine.versions}",
            str(r.spec.multimodal.limit_per_prompt.get("image", 0)),
            r.layer,
        )
        for r in found
    ]
    data(table(("NAME", "REPOSITORY", "ENGINE", "IMAGES", "FROM"), rows))


@app.command("validate")
def validate(
    files: Annotated[list[Path], typer.Argument(help="Model files.")],
) -> None:
    """Check model files: every problem with its line and key."""
    from hpcvlm.catalog.schema import ModelSpec
    from hpcvlm.errors import HpcvlmError
    from hpcvlm.yamlfile import validate as check

    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HpcvlmError("file-unreadable", f"cannot read {file}: {error}") from None
        check(ModelSpec, text, str(file))
        data(f"{file}: ok")


@app.command("schema")
def schema(
    site: Annotated[bool, typer.Option("--site", help="Of site files instead.")] = False,
) -> None:
    """Print the JSON Schema of model files, for editors."""
    from hpcvlm.catalog.json_schema import json_schema

    data_json(json_schema("site" if site else "model"))
