"""What the cluster itself says: its partitions and their GPUs, read from sinfo's answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.commands import SINFO_FIELDS
from hpcvlm.slurm.gres import gpus_of, parse_gres
from hpcvlm.slurm.parse import refuse_failed
from hpcvlm.slurm.time import parse_time_limit


@dataclass(frozen=True, slots=True, repr=False)
class Partition:
    """One partition.

    Attributes:
        default: whether jobs that name no partition go here.
        available: whether it takes and starts jobs.
        time_limit_s: None when it has no limit.
        gpu_types: (type, most on one node) in sinfo's order; the type of GPUs that the site has
            not named is the empty text.
        nodes: how many.
        cpus: most on one node.
        memory: MB, most on one node.
    """

    name: str
    default: bool
    available: bool
    time_limit_s: int | None
    gpu_types: tuple[tuple[str, int], ...]
    nodes: int
    cpus: int
    memory: int

    @property
    def most_gpus(self) -> int:
        """The most GPUs on one node, whatever their type."""
        return max((count for _, count in self.gpu_types), default=0)

    def gpus(self, gpu_type: str | None) -> int:
        """The most GPUs of one type on one node; of any type when none is named."""
        if gpu_type is None:
            return self.most_gpus
        return dict(self.gpu_types).get(gpu_type, 0)


@dataclass(frozen=True, slots=True, repr=False)
class Cluster:
    """Every partition that the user can see."""

    partitions: tuple[Partition, ...]

    def partition(self, name: str | None) -> Partition | None:
        """The partition of that name; without a name the default one; None when there is none."""
        if name is None:
            return next((found for found in self.partitions if found.default), None)
        return next((found for found in self.partitions if found.name == name), None)

    def gpu_types(self, partition: str | None = None) -> dict[str, int]:
        """GPU types with the most on one node: of one partition, or of all together."""
        places = [p for p in self.partitions if partition is None or p.name == partition]
        most: dict[str, int] = {}
        for place in places:
            for kind, count in place.gpu_types:
                most[kind] = max(count, most.get(kind, 0))
        return most

    def partitions_with(self, gpu_type: str) -> tuple[str, ...]:
        """Names of the partitions that have GPUs of this type."""
        return tuple(p.name for p in self.partitions if p.gpus(gpu_type))


def nearest_type(asked: str, known: Iterable[str]) -> str | None:
    """The GPU type that was probably meant: ``A100`` for ``a100`` or ``nvidia_a100_80gb_pcie``.

    Args:
        asked: what the user typed.
        known: the cluster's types.

    Returns:
        None when nothing is near.
    """
    types = [kind for kind in known if kind]
    folded = {_fold(kind): kind for kind in reversed(types)}
    word = _fold(asked)
    if word in folded:
        return folded[word]
    if not word:
        return None
    containing = sorted(kind for kind in folded if word in kind or kind in word)
    if containing:
        return folded[containing[0]]
    close = get_close_matches(word, folded, n=1)
    return folded[close[0]] if close else None


def parse_sinfo(code: int, stdout: str, stderr: str) -> Cluster:
    """The cluster, from the answer to `hpcvlm.slurm.commands.sinfo`.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    refuse_failed("sinfo", code, stderr)
    rows: dict[str, list[dict[str, str]]] = {}
    for line in stdout.splitlines():
        if not line.strip() or line.startswith("CLUSTER: "):
            continue
        values = [value.strip() for value in line.split("|")]
        if len(values) != len(SINFO_FIELDS):
            raise HpcvlmError("slurm-output", f"sinfo gave a line that cannot be read: {line!r}")
        row = dict(zip(SINFO_FIELDS, values, strict=True))
        rows.setdefault(row["partition"], []).append(row)
    return Cluster(tuple(_partition(name, kinds) for name, kinds in rows.items()))


def _partition(name: str, kinds: list[dict[str, str]]) -> Partition:
    """One partition from its lines, one for each kind of node."""
    gpus: dict[str, int] = {}
    for row in kinds:
        for kind, count in gpus_of(parse_gres(row["gres"])).items():
            gpus[kind] = max(count, gpus.get(kind, 0))
    return Partition(
        name=name.removesuffix("*"),
        default=name.endswith("*"),
        available=kinds[0]["available"] == "up",
        time_limit_s=parse_time_limit(kinds[0]["time_limit"]),
        gpu_types=tuple(gpus.items()),
        nodes=sum(_number(row["nodes"]) for row in kinds),
        cpus=max(_number(row["cpus"]) for row in kinds),
        memory=max(_number(row["memory"]) for row in kinds),
    )


def _number(text: str) -> int:
    """``8``, or ``8+`` where the nodes of one line differ."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _fold(gpu_type: str) -> str:
    return re.sub(r"[^a-z0-9]", "", gpu_type.lower())
