"""What sbatch is asked for: the `#SBATCH` lines of a job."""

from __future__ import annotations

from pathlib import PurePosixPath

from hpcvlm.plan.gpus import ChosenGpus
from hpcvlm.plan.model import Issue, LaunchRequest, PlannedSnapshot, SbatchOption
from hpcvlm.plan.sources import COMMAND_LINE, Sources
from hpcvlm.site.schema import PartitionSpec, SiteSpec
from hpcvlm.slurm.comments import use_comment
from hpcvlm.slurm.time import format_time_limit

# Seconds before the time limit at which Slurm warns the script; sbatch(1) says that the signal
# may come up to 60 s early.
WARN_BEFORE_END_S = 60
NO_PARTITION = PartitionSpec()


def partition_of(request: LaunchRequest, site: SiteSpec, sources: Sources) -> str | None:
    """The partition that is asked for; None for the cluster's own default."""
    return sources.first(
        "partition", (request.partition, COMMAND_LINE), (site.partition, "site.partition")
    )


def sbatch_options(
    request: LaunchRequest,
    site: SiteSpec,
    *,
    name: str,
    folder: str,
    snapshot: PlannedSnapshot | None,
    partition: str | None,
    place: str | None,
    gpus: ChosenGpus,
    time_limit_s: int,
    requeue: bool = False,
    sources: Sources,
) -> tuple[SbatchOption, ...]:
    """Every option, hpcvlm's own first, then the site's further ones.

    Args:
        request: what the user typed.
        site: the site.
        name: the endpoint's.
        folder: job folder, absolute.
        snapshot: what is served; everybody can read it in the job's comment, so that nobody
            deletes it meanwhile; None for a job that serves nothing.
        partition: as `partition_of` gives it.
        place: the partition that the job will be in: that one, or the cluster's default.
        gpus: as `hpcvlm.plan.gpus.choose_gpus` gives it.
        time_limit_s: of the job.
        requeue: whether Slurm may put the job back into its queue.
        sources: notes where each value is from.
    """
    escaped = str(PurePosixPath(folder)).replace("%", "%%")
    options = {
        "job-name": name,
        "output": f"{escaped}/job.out",
        "error": f"{escaped}/job.err",
        "open-mode": "append",
        "time": format_time_limit(time_limit_s),
        "signal": f"B:TERM@{WARN_BEFORE_END_S}",
        "nodes": str(request.nodes or 1),
        "requeue" if requeue else "no-requeue": "",
    }
    if snapshot is not None:
        comment = use_comment(snapshot.repo, snapshot.commit)
        options["comment"] = " ".join(filter(None, (site.sbatch.get("comment"), comment)))
    options |= _per_gpu(site, place, gpus, sources)
    options |= {
        key: value
        for key, value in (
            ("partition", partition),
            *_who(request, site, place, gpus, sources),
            ("mail-type", ",".join(site.notify.mail_type)),
            ("mail-user", site.notify.mail_user),
        )
        if value
    }
    decided = {*options, "requeue", "no-requeue"}  # the job must know which of these holds
    further = {key: value for key, value in site.sbatch.items() if key not in decided}
    for key in further:
        sources.say(f"sbatch.{key}", f"site.sbatch.{key}")
    return tuple(SbatchOption(key, value) for key, value in (options | further).items())


def required_issues(
    request: LaunchRequest, site: SiteSpec, options: tuple[SbatchOption, ...]
) -> list[Issue]:
    """What every job must say at this site, and this one does not."""
    said = {option.name for option in options if option.name != "time"}
    if request.time is not None:
        said.add("time")
    return [
        Issue(
            "option-required",
            f"--{name}",
            f"every job at {site.name} must name its {name}",
            f"--{name} ..., or '{name}:' in your own site file",
        )
        for name in site.required
        if name not in said
    ]


def _per_gpu(
    site: SiteSpec, name: str | None, gpus: ChosenGpus, sources: Sources
) -> dict[str, str]:
    if not gpus.slurm.count:
        return {}
    options = dict([gpus.sbatch])
    place = site.partitions.get(name or "", NO_PARTITION)
    above = f"site.partitions.{name}"
    cpus = sources.first(
        "cpus-per-task",
        (place.cpus_per_gpu, f"{above}.cpus_per_gpu"),
        (site.cpus_per_gpu, "site.cpus_per_gpu"),
    )
    memory = sources.first(
        "mem-per-gpu",
        (place.memory_per_gpu, f"{above}.memory_per_gpu"),
        (site.memory_per_gpu, "site.memory_per_gpu"),
    )
    if cpus:
        options["cpus-per-task"] = str(cpus * gpus.slurm.count)
    if memory:
        options["mem-per-gpu"] = memory
    return options


def _who(
    request: LaunchRequest,
    site: SiteSpec,
    name: str | None,
    gpus: ChosenGpus,
    sources: Sources,
) -> list[tuple[str, str | None]]:
    place = site.partitions.get(name or "", NO_PARTITION)
    above = f"site.partitions.{name}"
    account = sources.first(
        "account",
        (request.account, COMMAND_LINE),
        (place.account, f"{above}.account"),
        (site.account, "site.account"),
    )
    qos = sources.first(
        "qos",
        (request.qos, COMMAND_LINE),
        (place.qos, f"{above}.qos"),
        (site.qos, "site.qos"),
    )
    features = sources.first(
        "constraint",
        (request.constraint, COMMAND_LINE),
        (place.constraint, f"{above}.constraint"),
        (site.constraint, "site.constraint"),
    )
    if gpus.constraint:
        sources.taken.setdefault("constraint", sources.of("site.gpu_types"))
    return [
        ("account", account),
        ("qos", qos),
        ("constraint", _both(features, gpus.constraint)),
    ]


def _both(features: str | None, more: str | None) -> str | None:
    """Two --constraint expressions that must both hold; sbatch(1) allows () around an or."""
    if not features or not more or features == more:
        return features or more
    return "&".join(f"({part})" if "|" in part else part for part in (features, more))
