"""hpcvlm site: what is particular to this cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.site import Draft, ShownValue

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What is particular to this cluster: its site file.",
)
_KEY_WIDTH = 30
_VALUE_WIDTH = 30


@app.command("init")
def init(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; your own site.yaml if left out."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there already.")
    ] = False,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Print the file instead of writing it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Ask Slurm what this cluster has, and write a site file with it."""
    from hpcvlm.errors import HpcvlmError
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.site import check_free, default_file, draft_site, write_site

    if stdout and (output is not None or force):
        raise HpcvlmError(
            "option-invalid",
            "--stdout writes no file, so --output and --force mean nothing",
            "leave out one or the other",
        )
    ctx = Context()
    path = None if stdout else (output or default_file(ctx)).expanduser().absolute()
    if path is not None:
        check_free(path, force=force)
    draft = draft_site(ctx)
    if path is not None:
        write_site(path, draft.text, force=force)
    if as_json:
        data_json(_as_dict(draft, path))
        return
    if path is None:
        data(draft.text)
    else:
        data(str(path))
    for line in _found(draft):
        note(line)
    if path is not None and path != default_file(ctx):
        note(f"hpcvlm reads it once it is named: export HPCVLM_SITE={path}")


@app.command("show")
def show(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Only these keys.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key for this once; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show each value of the site, and where it was said."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.site import resolve, shown_values

    ctx = Context()
    values = shown_values(resolve(ctx, settings or ()), keys or ())
    if as_json:
        data_json([_value_dict(one) for one in values])
        return
    lines = [_bold(_row("KEY", "VALUE", "FROM")[0])]
    for one in values:
        lines += _row(one.key, _shown(one.value), _origin(one))
    data("\n".join(lines))
    _note_missing(ctx)


@app.command("validate")
def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Site files; those in use if left out."),
    ] = None,
) -> None:
    """Check site files: every problem with its line and key."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.site_files import site_texts
    from hpcvlm.site.schema import SiteSpec
    from hpcvlm.yamlfile import validate as check

    texts = [(str(file), _text(file)) for file in files or ()]
    if not files:
        ctx = Context()
        texts = [(path, text) for _, path, text in site_texts(ctx)]
        _note_missing(ctx)
        if not texts:
            note("no site file is in use; hpcvlm site init writes one")
    for file, text in texts:
        check(SiteSpec, text, file)
        data(f"{file}: ok")


def _note_missing(ctx: Context) -> None:
    """A file that is named and not there would else be missed by nobody."""
    file = ctx.settings.site_file
    if "HPCVLM_SITE" in ctx.environment and not file.exists():
        note(f"note: HPCVLM_SITE names {file}, which is not there")


def _text(file: Path) -> str:
    from hpcvlm.errors import HpcvlmError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise HpcvlmError(
            "file-unreadable", f"cannot read {file}: {why}", "hpcvlm site show names those in use"
        ) from None


def _bold(text: str) -> str:
    import sys

    return paint(text, "bold", sys.stdout)


def _row(key: str, value: str, origin: str) -> list[str]:
    """One value and its origin; what does not fit beside the others gets lines of its own."""
    import textwrap

    room = WIDTH - _KEY_WIDTH - _VALUE_WIDTH
    fits = len(key) < _KEY_WIDTH and len(value) < _VALUE_WIDTH
    first = f"{key:<{_KEY_WIDTH}}{value if fits else '':<{_VALUE_WIDTH}}"
    below = (
        []
        if fits
        else textwrap.wrap(
            value,
            WIDTH,
            initial_indent="    ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
    if len(first) == _KEY_WIDTH + _VALUE_WIDTH and len(origin) <= room:
        return [f"{first}{origin}".rstrip(), *below]
    return [first.rstrip(), *below, f"    {origin}"]


def _shown(value: object) -> str:
    """A value in one line, without the keys that nobody has set."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(_said(value), ensure_ascii=False)


def _said(value: object) -> object:
    if isinstance(value, dict):
        said = {key: _said(item) for key, item in value.items()}
        return {key: item for key, item in said.items() if item not in (None, [], {})}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _origin(one: ShownValue) -> str:
    if not one.place:
        return one.source
    return f"{one.source}: {_tilde(one.place)}" if one.source in {"site", "user"} else one.place


def _tilde(place: str) -> str:
    home = str(Path.home())
    return f"~{place.removeprefix(home)}" if place.startswith(f"{home}/") else place


def _value_dict(one: ShownValue) -> dict[str, object]:
    return {"key": one.key, "value": one.value, "source": one.source, "place": one.place or None}


def _as_dict(draft: Draft, path: Path | None) -> dict[str, object]:
    import dataclasses

    from hpcvlm.site.suggestions import missing

    return {
        "file": None if path is None else str(path),
        "text": draft.text,
        "found": dataclasses.asdict(draft.facts),
        "to_fill_in": list(missing(draft.facts)),
    }


def _found(draft: Draft) -> list[str]:
    """What was found, and what is still to be filled in, for people."""
    from hpcvlm.site.suggestions import missing

    facts = draft.facts
    version = f", Slurm {facts.version}" if facts.version else ""
    types = ", ".join(kind.name for kind in facts.gpu_types) or "none with a type"
    lines = [
        f"cluster      {facts.name}{version}",
        f"GPU types    {types}",
        f"partitions   {', '.join(part.name for part in facts.usable) or 'none with GPUs for you'}",
    ]
    if facts.accounts:
        lines.append(f"accounts     {', '.join(facts.accounts)}")
    runtimes = ", ".join(f"{one.name} {one.version}".strip() for one in facts.machine.runtimes)
    lines.append(f"containers   {runtimes or 'no runtime on PATH'}")
    if facts.machine.module_system:
        offered = ", ".join(facts.machine.runtime_modules)
        told = (
            f"{facts.machine.module_system}: {offered}" if offered else facts.machine.module_system
        )
        lines.append(f"modules      {told}")
    lines += [
        f"images       {folder}: {', '.join(names)}" for folder, names in facts.machine.images
    ]
    lines += [f"hub cache    {folder} ({origin})" for origin, folder in facts.machine.hub_caches]
    lines += [f"no answer    {one.command}: {one.said}" for one in facts.unanswered]
    lines += ["still to be filled in:"]
    lines += [f"  {sentence}" for sentence in missing(facts)]
    lines.append("hpcvlm site show shows what holds; hpcvlm plan tiny-vlm tries it")
    return lines
