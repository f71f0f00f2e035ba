"""How long a job may run: what was asked for, within what the partition allows."""

from __future__ import annotations

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.plan.model import Issue, LaunchRequest
from hpcvlm.plan.sources import COMMAND_LINE, Sources
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.time import format_time_limit, parse_duration


def place_of(cluster: Cluster | None, partition: str | None) -> str | None:
    """The partition that a job will be in; None where nobody says which is the default."""
    found = cluster.partition(partition) if cluster is not None else None
    return found.name if found is not None else partition


def choose_time(
    request: LaunchRequest,
    spec: ModelSpec,
    site: SiteSpec,
    cluster: Cluster | None,
    place: str | None,
    sources: Sources,
) -> tuple[int, list[Issue]]:
    """The job's time in seconds; the model's own default gives way to the partition's limit.

    Args:
        request: what the user typed.
        spec: its ``time`` is the default.
        site: may limit a partition further.
        cluster: says the partition's limit.
        place: of `place_of`.
        sources: notes where the time is from.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    seconds = parse_duration(request.time or spec.time, "--time" if request.time else "time")
    sources.say("time", COMMAND_LINE if request.time else "model.time")
    limit = longest_time(site, cluster, place)
    if limit is None or seconds <= limit:
        return seconds, []
    if request.time is None:
        sources.say("time", f"partition {place}")
        return limit, []
    longest = format_time_limit(limit)
    issue = Issue(
        "time-limit",
        "--time",
        f"--time {request.time} is longer than partition {place} allows ({longest})",
        f"--time {longest}, or another partition",
        arguable=True,
    )
    return seconds, [issue]


def longest_time(site: SiteSpec, cluster: Cluster | None, place: str | None) -> int | None:
    """The partition's time limit in seconds, None when there is none."""
    partition = cluster.partition(place) if cluster is not None else None
    limits = [partition.time_limit_s] if partition is not None else []
    described = site.partitions.get(place or "")
    if described is not None and described.time_limit:
        limits.append(parse_duration(described.time_limit, "time_limit"))
    return min((limit for limit in limits if limit is not None), default=None)
