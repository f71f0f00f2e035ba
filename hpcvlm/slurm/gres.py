"""Generic resources as Slurm writes them: ``gpu:A100:4(S:0-1),shard:A100:40``."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNTYPED = ""
# gpu:4, gpu:A100:4(S:0-1), gpu:1g.5gb:2(IDX:0-1), gpu:no_consume:4, craynetwork:4K. A name begins
# the text or follows a comma; what stands in parentheses may have commas of its own.
_COUNT = r"\d+[KMGTP]?(?=[,(\s]|$)"
_GRES = re.compile(
    rf"(?:^|,)\s*(?P<name>[A-Za-z_][\w-]*)(?::(?!{_COUNT})(?P<type>[^:,()]+))?"
    rf"(?::(?P<count>{_COUNT}))?(?:\([^()]*\))?(?=,|\s|$)"
)
_NO_CONSUME = "no_consume"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


@dataclass(frozen=True, slots=True, repr=False)
class Gres:
    """One kind of generic resource of a node.

    Attributes:
        name: ``gpu``, ``shard``, ``nvme``.
        type: as the site calls it; empty where it has not named it.
    """

    name: str
    type: str
    count: int


def parse_gres(text: str) -> tuple[Gres, ...]:
    """Every resource in a text; none in ``(null)``. A count that is left out is 1.

    The form is that of ``Gres=`` in slurm.conf(5), with the sockets or indices that scontrol adds.
    """
    found = []
    for match in _GRES.finditer(text.strip()):
        kind = match["type"] or UNTYPED
        kind = UNTYPED if kind == _NO_CONSUME else kind
        found.append(Gres(match["name"], kind, _number(match["count"] or "1")))
    return tuple(found)


def gpus_of(gres: tuple[Gres, ...]) -> dict[str, int]:
    """GPUs by type; a node may have several types, or one in several lots."""
    found: dict[str, int] = {}
    for one in gres:
        if one.name == "gpu":
            found[one.type] = found.get(one.type, 0) + one.count
    return found


def _number(text: str) -> int:
    """``4`` or ``4K``."""
    digits = text.rstrip("KMGTP")
    return int(digits) * _UNITS[text.removeprefix(digits)]
