"""`--gpus A100:4`: what it means, and whether the cluster has it."""

from __future__ import annotations

import re

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import GpuRequest, Issue
from hpcvlm.site.cluster import Cluster, Partition

_GPUS = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*)(?::(?P<typed>\d+))?|(?P<count>\d+))")
_DEFAULT = "default"


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
    count = int(match["typed"]) if match["typed"] else default_count(spec, match["type"])
    return GpuRequest(count, match["type"])


def default_count(spec: ModelSpec, gpu_type: str | None) -> int:
    """GPUs per node that the model's file gives for a type, 1 when it gives none."""
    gpus = spec.parallelism.gpus
    by_type = {name.lower(): number for name, number in gpus.items()}
    return by_type.get((gpu_type or _DEFAULT).lower(), gpus.get(_DEFAULT, 1))


def gpu_issues(gpus: GpuRequest, heads: int | None, executor: str) -> list[Issue]:
    """What is wrong with the number of GPUs, whatever the cluster."""
    issues = []
    if gpus.count < 1 and executor == "slurm":
        issues.append(
            Issue("gpus-invalid", "--gpus", "--gpus 0 asks for no GPU", "ask for at least 1")
        )
    if heads and gpus.count > 1 and heads % gpus.count:
        fitting = [n for n in range(1, 17) if heads % n == 0]
        issues.append(
            Issue(
                "tensor-parallel",
                "--gpus",
                f"a tensor parallel size of {gpus.count} does not divide the model's {heads} "
                "attention heads",
                f"ask for {_any_of(fitting)} GPUs per node",
            )
        )
    return issues


def cluster_issues(gpus: GpuRequest, cluster: Cluster, partition: str | None) -> list[Issue]:
    """What the cluster's partitions do not have."""
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
    places = [chosen] if chosen is not None else list(cluster.partitions)
    return _type_issues(gpus, places)


def _type_issues(gpus: GpuRequest, places: list[Partition]) -> list[Issue]:
    have = {kind: max(n, 0) for place in places for kind, n in place.gpu_types}
    where = f"partition {places[0].name}" if len(places) == 1 else "this cluster"
    named = (f"{kind}:{n}" if kind else f"{n} of no type" for kind, n in sorted(have.items()))
    offer = ", ".join(named) or "no GPUs"
    if gpus.type is not None and gpus.type not in have:
        same = [kind for kind in have if kind.lower() == gpus.type.lower()]
        near = same or [kind for kind in have if gpus.type.lower() in kind.lower()]
        hint = f"--gpus {near[0]}:{gpus.count}" if near else "ask for one of these, or a number"
        sentence = f"{where} has no GPU of type {gpus.type!r}; it has {offer}"
        return [Issue("gpu-type-unknown", "--gpus", sentence, hint)]
    most = have.get(gpus.type, 0) if gpus.type else max(have.values(), default=0)
    if gpus.count > most:
        sentence = f"no node of {where} has {gpus.text} GPUs; it has {offer}"
        return [Issue("gpu-count", "--gpus", sentence, f"ask for at most {most}")]
    return []


def _any_of(numbers: list[int]) -> str:
    return ", ".join(str(n) for n in numbers[:-1]) + f" or {numbers[-1]}" if numbers[1:] else "1"
