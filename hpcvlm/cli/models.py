"""hpcvlm models: the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note, table

if TYPE_CHECKING:
    from hpcvlm.ops.models import CatalogModel

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The models that can be launched by name."
)

_BILLION = 10**9


@app.command("ls")
def ls(
    vision: Annotated[bool, typer.Option("--vision", help="Only those that take images.")] = False,
    fits: Annotated[
        str | None, typer.Option(help="Only those that fit on these GPUs, e.g. A100:1.")
    ] = None,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Only those whose files are complete here.")
    ] = False,
    max_params: Annotated[
        str | None, typer.Option(help="Only those with no more parameters, e.g. 10B.")
    ] = None,
    with_variants: Annotated[
        bool, typer.Option("--variants", help="Each variant on a line of its own, too.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the models of all layers: shipped, the site's, the user's."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.models import ModelFilter, list_models, parse_parameters

    limit = parse_parameters(max_params, "--max-params") if max_params is not None else None
    wanted = ModelFilter(vision=vision, on_disk=on_disk, max_parameters=limit, fits=fits)
    found = list_models(Context(), wanted, with_variants=with_variants)
    if as_json:
        data_json([_as_dict(model) for model in found])
        return
    if not found:
        note("no model passes; hpcvlm models ls lists them all")
        return
    header = ("NAME", "IMAGES", "PARAMS", "WEIGHTS", "CONTEXT", "VLLM", "ON DISK", "VARIANTS")
    data(table(header, [_row(model) for model in found], whole=(0,)))


@app.command("show")
def show(name: options.Model, as_json: options.Json = False) -> None:
    """Show one model: its facts with their sources, its variants, what is on disk."""
    from hpcvlm.cli.models_show import as_text
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.models import show_model

    model, variants = show_model(name, Context())
    if as_json:
        data_json({**_as_dict(model), "from": model.resolved.sources})
        return
    data(as_text(model, variants))


@app.command("fit")
def fit(
    model: options.Model,
    gpus: Annotated[
        str | None,
        typer.Option(help="GPUs of one node, TYPE:NUMBER; the usual types if left out."),
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest prompt and its answer.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=0, help="Images in one prompt.")] = None,
    engine_version: options.EngineVersion = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Tell whether a model fits, from its config.json alone; exit 1 if it does not."""
    from hpcvlm.cli.memory import fit_report, table_report
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.models_fit import FitQuestion, fit_table
    from hpcvlm.ops.models_fit import fit as calculate

    question = FitQuestion(
        model, gpus, max_model_len, images, engine_version, tuple(settings or ())
    )
    if gpus is None:
        table_report(fit_table(question, Context()), as_json=as_json)
        return
    found = calculate(question, Context())
    fit_report(model, found, as_json=as_json)
    if found.fits is not True:
        raise typer.Exit(1)


@app.command("validate")
def validate(
    files: Annotated[list[Path], typer.Argument(help="Model files.")],
) -> None:
    """Check model files: every problem with its line and key."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.models import validate_file

    ctx = Context()
    for file in files:
        validate_file(file, ctx)
        data(f"{file}: ok")


@app.command("add")
def add(
    target: Annotated[
        str, typer.Argument(metavar="REPO|FOLDER", help="A repository, or a folder of weights.")
    ],
    name: Annotated[str | None, typer.Option(help="Name; the repository's if left out.")] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
) -> None:
    """Write a model file of your own from config.json and what lies beside it; reads no weights."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.models_add import add_model

    path = add_model(target, Context(), name=name, revision=revision, force=force)
    note(f"written; look it over, then: hpcvlm plan {path.stem}")
    data(str(path))


@app.command("schema")
def schema(
    site: Annotated[bool, typer.Option("--site", help="Of site files instead.")] = False,
) -> None:
    """Print the JSON Schema of model files, for editors."""
    from hpcvlm.catalog.json_schema import json_schema

    data_json(json_schema("site" if site else "model"))


def _as_dict(model: CatalogModel) -> dict[str, object]:
    spec = model.resolved.spec
    return {
        **spec.model_dump(mode="json", by_alias=True),
        "variant": model.resolved.variant,
        "launch": model.resolved.name,
        "layer": model.resolved.layer,
        "on_disk": model.disk,
        "snapshot_path": str(model.snapshot.path) if model.snapshot else None,
    }


def _row(model: CatalogModel) -> tuple[str, ...]:
    from hpcvlm.cli.models_show import billions, gigabytes, tokens, versions

    spec = model.resolved.spec
    return (
        model.resolved.name,
        str(spec.multimodal.limit_per_prompt.get("image", 0)),
        billions(spec.parameters),
        gigabytes(spec.weight_bytes),
        tokens(spec.context_length),
        "none" if spec.unsupported else versions(spec.engine.versions),
        model.disk,
        " ".join(spec.variants) if model.resolved.variant is None else "",
    )
