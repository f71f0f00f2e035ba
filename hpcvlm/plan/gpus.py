"""`--gpus A100:4`: what it means, and whether the cluster has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import GpuRequest, Issue
from hpcvlm.site.cluster import Cluster, Partition, nearest_type
from hpcvlm.site.schema import GpuType, SiteSpec

if TYPE_CHECKING:
    from hpcvlm.memory.gpus import GpuSpec

# A type may begin with a digit, as 1g.5gb does.
_GPUS = re.compile(r"(?P<count>\d+)|(?P<type>\d*[A-Za-z_][\w.-]*)(?::(?P<typed>\d+))?", re.ASCII)
_DEFAULT = "default"
_SITE_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# What a driver leaves of the size that a maker names; see hpcvlm.memory.gpu_table.
_SHARE_OF_NAMED = 0.98
_LIST = "sinfo -o '%P %G' lists GPUs by partition"


class ChosenGpus(NamedTuple):
    """GPUs as the user says it, and as Slurm is asked for them here.

    Attributes:
        asked: with the type's name that the user typed, or the site's name for it.
        slurm: with the type's name that Slurm knows; without one where the type is picked by a
            node feature.
        option: ``gpus-per-node`` or ``gres``.
        constraint: the node feature that picks the type.
        type: what the site file says of the type; None when it does not name it.
    """

    asked: GpuRequest
    slurm: GpuRequest
    option: str
    constraint: str | None = None
    type: GpuType | None = None

    @property
    def sbatch(self) -> tuple[str, str]:
        """The option's name and value."""
        text = self.slurm.text
        return self.option, f"gpu:{text}" if self.option == "gres" else text


def choose_gpus(text: str | None, spec: ModelSpec, site: SiteSpec) -> ChosenGpus:
    """The GPUs of a launch.

    Args:
        text: the user's ``--gpus``; the model's default number when None.
        spec: the model.
        site: says what Slurm calls a type, and how it is asked for.

    Raises:
        HpcvlmError: ``gpus-invalid``.
    """
    asked = parse_gpus(text, spec) if text is not None else GpuRequest(default_count(spec, None))
    name, kind = site_type(asked.type, site)
    if text is not None and ":" not in text and asked.type is not None:
        meant = gpu_candidates(asked.type, kind)
        asked = GpuRequest(default_count(spec, asked.type, meant), asked.type)
    style = (kind.request if kind else None) or site.gpu_request
    option = "gres" if style == "gres" else "gpus-per-node"
    constraint = kind.constraint if kind else None
    slurm_type = (kind.slurm_name if kind else None) or name
    if style == "constraint" and asked.type is not None:
        constraint, slurm_type = constraint or slurm_type, None
    slurm = GpuRequest(asked.count, slurm_type)
    return ChosenGpus(GpuRequest(asked.count, name), slurm, option, constraint, kind)


def gpu_candidates(name: str | None, kind: GpuType | None) -> tuple[GpuSpec, ...]:
    """The GPUs that a name can mean here, smallest first.

    Args:
        name: as the user or Slurm says it; None for any.
        kind: what the site file says of the type.
    """
    from hpcvlm.memory.gpus import find_gpu, gpu_of_bytes

    words = [word for word in (kind and kind.hardware, kind and kind.slurm_name, name) if word]
    found = next((specs for specs in map(find_gpu, words) if specs), ())
    if kind is None or kind.memory is None:
        return found
    total = int(_site_bytes(kind.memory) * _SHARE_OF_NAMED)
    near = [spec for spec in found if abs(spec.total_bytes - total) < total * 0.1]
    return tuple(near[:1]) or (gpu_of_bytes(words[0] if words else "GPU", total),)


def site_type(asked: str | None, site: SiteSpec) -> tuple[str | None, GpuType | None]:
    """The site's own name of a type, and what its file says of it."""
    if asked is None:
        return None, None
    word = asked.casefold()
    for name, kind in site.gpu_types.items():
        known = (name, kind.slurm_name or name, *kind.aliases)
        if word in (one.casefold() for one in known):
            return name, kind
    return asked, None


def only_gpu_type(cluster: Cluster | None, partition: str | None) -> str | None:
    """The type that every GPU of a partition has; None where there are several, or no names."""
    place = cluster.partition(partition) if cluster is not None else None
    types = [kind for kind, _ in place.gpu_types] if place is not None else []
    return types[0] or None if len(types) == 1 else None


def parse_gpus(text: str, spec: ModelSpec) -> GpuRequest:
    """``A100:4``, ``A100`` or ``4``; a type alone takes the model's number for that type.

    Raises:
        HpcvlmError: ``gpus-invalid``.
    """
    match = _GPUS.fullmatch(text.strip())
    if match is None:
        raise HpcvlmError(
            "gpus-invalid",
            f"--gpus {text!r} is neither a number nor TYPE:NUMBER",
            "for example --gpus A100:4 or --gpus 4",
        )
    if match["count"]:
        return GpuRequest(int(match["count"]))
    kind = match["type"]
    typed = match["typed"]
    count = int(typed) if typed else default_count(spec, kind, gpu_candidates(kind, None))
    return GpuRequest(count, kind)


def default_count(spec: ModelSpec, gpu_type: str | None, hardware: Sequence[GpuSpec] = ()) -> int:
    """GPUs per node that the model's file gives for a type, 1 when it gives none.

    Args:
        spec: the model.
        gpu_type: as the user or Slurm says it.
        hardware: what that name can mean; where it has several sizes, the number for all counts.
    """
    gpus = spec.parallelism.gpus
    by_type = {name.lower(): number for name, number in gpus.items()}
    if gpu_type is not None and gpu_type.lower() in by_type:
        return by_type[gpu_type.lower()]
    if not hardware:
        return gpus.get(_DEFAULT, 1)
    from hpcvlm.memory.gpus import find_gpu

    meant = {gpu.name for gpu in hardware}
    numbers = [
        number
        for name, number in gpus.items()
        if name != _DEFAULT and meant & {gpu.name for gpu in find_gpu(name)}
    ]
    return max(numbers, default=gpus.get(_DEFAULT, 1))


def gpu_issues(
    gpus: GpuRequest, heads: int | None, executor: str, sizes: tuple[int, ...] = ()
) -> list[Issue]:
    """What is wrong with the number of GPUs, whatever the cluster.

    Args:
        gpus: GPUs per node.
        heads: query heads of the language model; None when unknown.
        executor: ``slurm`` or ``local``.
        sizes: tensor parallel sizes that work; all that divide the heads when empty.
    """
    issues = []
    if gpus.count < 1 and executor == "slurm":
        issues.append(
            Issue("gpus-invalid", "--gpus", "--gpus 0 asks for no GPU", "ask for at least 1")
        )
    if heads and gpus.count > 1 and heads % gpus.count:
        fitting = [n for n in sizes or range(1, 17) if heads % n == 0]
        issues.append(
            Issue(
                "tensor-parallel",
                "--gpus",
                f"a tensor parallel size of {gpus.count} does not divide the model's {heads} "
                "attention heads",
                f"ask for {_any_of(fitting)} GPUs per node",
            )
        )
    elif sizes and gpus.count > 1 and gpus.count not in sizes:
        issues.append(
            Issue(
                "tensor-parallel",
                "--gpus",
                f"the model cannot be spread over {gpus.count} GPUs",
                f"ask for {_any_of(list(sizes))} GPUs per node",
            )
        )
    return issues


def cluster_issues(chosen_gpus: ChosenGpus, cluster: Cluster, partition: str | None) -> list[Issue]:
    """What the cluster's partitions do not have."""
    gpus = chosen_gpus.slurm
    chosen = cluster.partition(partition)
    if partition is not None and chosen is None:
        names = ", ".join(p.name for p in cluster.partitions)
        return [
            Issue(
                "partition-unknown",
                "--partition",
                f"this cluster has no partition {partition!r}",
                f"one of {names}",
            )
        ]
    return _type_issues(gpus, cluster, chosen)


def _type_issues(gpus: GpuRequest, cluster: Cluster, chosen: Partition | None) -> list[Issue]:
    have = cluster.gpu_types(chosen.name if chosen is not None else None)
    where = f"partition {chosen.name}" if chosen is not None else "this cluster"
    named = (f"{kind}:{n}" if kind else f"{n} of no type" for kind, n in sorted(have.items()))
    offer = ", ".join(named) or "no GPUs"
    elsewhere = [
        p.name for p in cluster.partitions if p.available and p.gpus(gpus.type) >= gpus.count
    ]
    if gpus.type is not None and gpus.type not in have:
        sentence = f"{where} has no GPU of type {gpus.type!r}; it has {offer}"
        near = nearest_type(gpus.type, have)
        hint = f"--gpus {near}:{gpus.count}" if near else "ask for one of these, or a number"
        hint = hint if have else _LIST
        return [Issue("gpu-type-unknown", "--gpus", sentence, _other(elsewhere) or hint)]
    most = have.get(gpus.type, 0) if gpus.type else max(have.values(), default=0)
    if gpus.count > most:
        sentence = f"no node of {where} has {gpus.text} GPUs; it has {offer}"
        hint = f"ask for at most {most}" if most else _LIST
        return [Issue("gpu-count", "--gpus", sentence, _other(elsewhere) or hint)]
    return []


def _other(partitions: list[str]) -> str:
    return f"--partition {' or '.join(partitions)}, which has them" if partitions else ""


def _any_of(numbers: list[int]) -> str:
    return ", ".join(str(n) for n in numbers[:-1]) + f" or {numbers[-1]}" if numbers[1:] else "1"


def _site_bytes(text: str) -> int:
    """``80G`` of a site file; without a letter megabytes, as Slurm counts."""
    unit = text[-1] if text[-1].isalpha() else ""
    return int(text.removesuffix(unit)) * _SITE_UNITS[unit]
