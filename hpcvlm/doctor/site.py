"""Judges the site file: whether what it names exists, here and in Slurm."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hpcvlm.doctor.model import Check, Question, some
from hpcvlm.errors import HpcvlmError
from hpcvlm.site.cluster import Cluster, nearest_type
from hpcvlm.site.schema import Notify, SiteSpec

PART = "site"
FILES = Question("site-file", PART, "site files")
ENGINES = Question("engines", PART, "engines")
PARTITIONS = Question("site-partitions", PART, "partitions")
GPU_TYPES = Question("site-gpus", PART, "GPU types")
FOLDERS = Question("site-folders", PART, "folders")
NOTIFY = Question("site-notify", PART, "notices")


def judge_files(read: Sequence[str], error: HpcvlmError | None, asked: Sequence[str]) -> Check:
    """Whether the site files say nothing that cannot be.

    Args:
        read: the files that are there, lowest first.
        error: why they were refused; None when every value is as the schema wants it.
        asked: where they were looked for.
    """
    if error is not None:
        return FILES.failed(error.sentence, error.remedy or "hpcvlm reads every value at once")
    if read:
        return FILES.ok(f"every value is valid: {', '.join(read)}")
    return FILES.warning(
        f"there is none ({', '.join(asked)}); every setting is Slurm's or hpcvlm's own",
        "hpcvlm site init writes one; configs/sites/example.yaml explains every key",
    )


def judge_engines(names: Sequence[str]) -> Check:
    """Whether there is anything that could serve.

    Args:
        names: engines of the site file and its image folder, as ``vllm 0.33.0``.
    """
    if names:
        return ENGINES.ok(some(names, 6))
    return ENGINES.warning(
        "the site file names no engine, and the image folder has no image",
        "hpcvlm containers build 0.33.0",
    )


def judge_partitions(site: SiteSpec, cluster: Cluster | None) -> Check:
    """Whether Slurm has the partitions that the site file names, and whether one is the default."""
    if cluster is None:
        return PARTITIONS.skipped("Slurm did not tell its partitions")
    have = [part.name for part in cluster.partitions]
    named = dict.fromkeys([*([site.partition] if site.partition else []), *site.partitions])
    missing = [name for name in named if name not in have]
    if missing:
        return PARTITIONS.failed(
            f"the site file names {some(missing)}; Slurm has {some(have, 8)}",
            "correct 'partition:' or 'partitions:' in the site file",
        )
    if site.partition is None and cluster.partition(None) is None:
        return PARTITIONS.warning(
            f"Slurm has no default partition and the site file names none ({some(have, 8)})",
            "name one as 'partition:' in the site file, or launch with --partition",
        )
    chosen = cluster.partition(site.partition)
    assert chosen is not None  # noqa: S101 - else it had been missing above
    if not chosen.gpu_types:
        gpus = [part.name for part in cluster.partitions if part.gpu_types]
        return PARTITIONS.warning(
            f"jobs go to {chosen.name}, which has no GPUs",
            f"name {' or '.join(gpus)} as 'partition:' in the site file"
            if gpus
            else "ask your admins: no partition of this cluster has GPUs that sinfo shows",
        )
    return PARTITIONS.ok(f"jobs go to {chosen.name}; Slurm has {some(have, 8)}")


def judge_gpu_types(site: SiteSpec, cluster: Cluster | None) -> Check:
    """Whether the GPU types that the site file names are those of Slurm."""
    if cluster is None:
        return GPU_TYPES.skipped("Slurm did not tell its GPUs")
    have = {kind for kind in cluster.gpu_types() if kind}
    wrong = []
    for name, kind in site.gpu_types.items():
        # A type that is asked for by a node feature needs no name in Slurm.
        request = kind.request or site.gpu_request
        if request == "constraint" or kind.constraint:
            continue
        slurm_name = kind.slurm_name or name
        if slurm_name not in have:
            near = nearest_type(slurm_name, have)
            wrong.append(f"{name} ({slurm_name})" + (f", perhaps {near}" if near else ""))
    if wrong:
        return GPU_TYPES.failed(
            f"sinfo shows no GPU of type {some(wrong)}; it shows {some(sorted(have), 8) or 'none'}",
            "give the type Slurm's name as 'slurm_name:' under 'gpu_types:' in the site file",
        )
    if not cluster.gpu_types():
        return GPU_TYPES.warning("sinfo shows no GPUs", "sinfo -o '%P %G' lists GPUs by partition")
    if not have:
        return GPU_TYPES.ok("Slurm's GPUs have no type here; ask for a number: --gpus 1")
    return GPU_TYPES.ok(some(sorted(have), 8))


def judge_folders(missing: Sequence[str], looked_at: Collection[str]) -> Check:
    """Whether the folders of the site file exist on this machine.

    Args:
        missing: ``KEY: PATH`` of those that do not.
        looked_at: paths of all that were looked at.
    """
    if missing:
        return FOLDERS.warning(
            f"not on this machine: {some(missing)}",
            "correct the site file, unless these exist on the compute nodes only (--on-node looks)",
        )
    if not looked_at:
        return FOLDERS.skipped("the site file names none")
    return FOLDERS.ok(some(sorted(looked_at), 6))


def judge_notify(notify: Notify, problems: Sequence[str]) -> Check:
    """Whether those who are to be told what becomes of an endpoint can be told.

    Args:
        notify: what the site says.
        problems: what is wrong here with its program, its file and the mail command, in words.
    """
    ways = {
        "command": notify.command,
        "webhook_file": notify.webhook_file,
        "mail_to": notify.mail_to,
    }
    named = [f"notify.{name}" for name, value in ways.items() if value]
    if problems:
        return NOTIFY.warning(
            some(problems),
            "correct the site file, unless the compute nodes have it; each failure stands in "
            "events.log of the job",
        )
    if notify.events and named:
        return NOTIFY.ok(f"{', '.join(notify.events)} by {', '.join(named)}")
    if notify.events not in (Notify().events, ()):
        return NOTIFY.warning(
            "notify.events names events, and nothing says who is told",
            "add notify.command, notify.webhook_file or notify.mail_to",
        )
    return NOTIFY.skipped("the site file names nobody that jobs tell what becomes of them")
