"""hpcvlm containers build and pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, note

if TYPE_CHECKING:
    from hpcvlm.ops.containers_order import BuildRequest

_Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="File to make; image_folder/vllm-VERSION.sif if left out."),
]
_As = Annotated[
    str | None, typer.Option("--as", help="here, or job (Slurm); the site's choice if left out.")
]
_Force = Annotated[bool, typer.Option("--force", help="Replace an image of that name.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the script; change nothing.")]
_NoSpace = Annotated[bool, typer.Option("--no-space-check", help="Begin on a small disk, too.")]
_Cpus = Annotated[int, typer.Option(min=1, help="CPU cores of a build job.")]


def build(
    version: Annotated[str, typer.Argument(help="Version of the engine, e.g. 0.10.2.")] = "",
    engine: Annotated[str, typer.Option(help="The engine.")] = "vllm",
    rocm: Annotated[
        bool | None, typer.Option("--rocm/--cuda", help="For whose GPUs; as gpu_flag says.")
    ] = None,
    definition: Annotated[
        str | None, typer.Option("--def", help="A definition file of your own.")
    ] = None,
    output: _Output = None,
    where: _As = None,
    force: _Force = False,
    cpus: _Cpus = 4,
    partition: options.Partition = None,
    account: options.Account = None,
    no_space_check: _NoSpace = False,
    dry_run: _DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Build an image from the shipped definition.

    The version that it holds is asked before it gets its name.
    """
    from hpcvlm.errors import HpcvlmError
    from hpcvlm.ops.containers_order import BuildRequest

    if engine != "vllm":
        sentence = f"--engine {engine}: there is no definition for it"
        raise HpcvlmError("option-invalid", sentence, "--engine vllm")
    request = BuildRequest(
        version=version,
        definition=definition,
        output=output,
        rocm=rocm,
        where=where,
        force=force,
        cpus=cpus,
        partition=partition,
        account=account,
        check_space=not no_space_check,
    )
    _make(request, dry_run=dry_run, as_json=as_json)


def pull(
    source: Annotated[
        str, typer.Argument(help="docker://…, oras://…, oci:FOLDER, oci-archive:FILE, or a file.")
    ],
    version: Annotated[
        str, typer.Option(help="Version of the engine in it; the tag's if left out.")
    ] = "",
    output: _Output = None,
    where: _As = None,
    force: _Force = False,
    cpus: _Cpus = 4,
    partition: options.Partition = None,
    account: options.Account = None,
    no_space_check: _NoSpace = False,
    dry_run: _DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Fetch an image that is made already.

    @sha256:… in the address pins it.
    """
    from hpcvlm.ops.containers_order import BuildRequest

    request = BuildRequest(
        version=version,
        source=source,
        output=output,
        where=where,
        force=force,
        cpus=cpus,
        partition=partition,
        account=account,
        check_space=not no_space_check,
    )
    _make(request, dry_run=dry_run, as_json=as_json)


def _make(request: BuildRequest, *, dry_run: bool, as_json: bool) -> None:
    from hpcvlm.cli.containers_inspect import show
    from hpcvlm.cli.containers_progress import ImageProgress
    from hpcvlm.ops.containers_make import make_image
    from hpcvlm.ops.containers_order import make_order
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.site_files import site_of

    ctx = Context()
    site, _ = site_of(ctx)
    made = make_order(request, site, ctx)
    for words in made.notes:
        note(f"note: {words}")
    if dry_run:
        data(made.script)
        return
    with ImageProgress() as progress:
        found = make_image(made, ctx, progress.on_build, progress.on_bytes)
    note(f"made {made.order.image}; log: {made.order.folder}/build.log")
    show(found, as_json=as_json)
    if found.findings:
        raise typer.Exit(1)
