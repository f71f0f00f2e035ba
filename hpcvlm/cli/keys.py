"""hpcvlm rotate-key."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.output import data, data_json, note

if TYPE_CHECKING:
    from hpcvlm.ops.keys import Rotation

Name = Annotated[str, typer.Argument(help="Name, unique prefix or job id.")]


def rotate_key(name: Name, as_json: options.Json = False) -> None:
    """Give a running endpoint a new key; the old one is refused from then on."""
    from hpcvlm.cli.slow import telling_context
    from hpcvlm.ops.keys import rotate_key as rotate

    def waiting(job: str) -> None:
        note(f"waiting until {job} refuses its old key (up to a minute on a shared file system)")

    found = rotate(name, telling_context(), on_wait=waiting)
    if as_json:
        data_json(dataclasses.asdict(found))
        return
    data(_told(found))
    for path in found.repaired:
        note(f"{path} could be read by others: it is 0600 now")
    for job in found.unconfirmed:
        note(f"not confirmed for {job}; the engine looks at its key file once a second")
    note(f'clients get 401 until they have the new key: eval "$(hpcvlm env {found.endpoint})"')


def _told(found: Rotation) -> str:
    parts = [f"{found.endpoint}: new key"]
    if found.confirmed:
        parts.append(f"{', '.join(found.confirmed)} took it and refuses the old one")
    if found.waiting:
        parts.append(f"{', '.join(found.waiting)} will start with it")
    return "; ".join(parts)
