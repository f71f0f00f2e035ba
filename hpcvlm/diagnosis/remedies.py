"""Remedies with numbers: what fits, what a partition allows, what is left on a disk.

One small function for each signature that has something to compute; each gets what the log said
and the rest of the evidence, and says nothing where a number is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hpcvlm.diagnosis.model import Evidence, PlanFacts, Room

_GIB = 1024**3
_BLOCK = 16  # tokens of a KV cache block; vLLM's default on GPUs
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)  # GPUs that sites give out on one node
_NEARLY = 0.95  # of the memory of a job: then it was killed for want of it
_FULL_BYTES = 2_000_000_000
_FULL_INODES = 1000
_MORE_MEMORY = 1.5
_TELLING = 0.5
_SEEN_S = 120  # after which Slurm has looked at a job's memory a few times
_HOUR = 3600
_OF_ENDPOINT = re.compile(r"\b(hpcvlm (?:logs|smoke-test|status|stop|wait|why)) NAME\b")


class Said(NamedTuple):
    """What was computed; empty where the signature's own words are better.

    Attributes:
        more: is put after the cause.
    """

    cause: str = ""
    remedy: str = ""
    more: str = ""


Values = Mapping[str, str]


def computed(identifier: str, values: Values, evidence: Evidence) -> Said:
    """Cause and remedy of a signature with the numbers of this job.

    Args:
        identifier: of the signature.
        values: what its pattern's groups matched.
        evidence: everything that was found.
    """
    function = _COMPUTED.get(identifier)
    return Said() if function is None else function(values, evidence)


def in_your_words(remedy: str, plan: PlanFacts) -> str:
    """The remedy with the names of this job in place of the general ones."""
    if plan.repo:
        remedy = remedy.replace("OWNER/NAME", plan.repo)
    if plan.name:
        remedy = _OF_ENDPOINT.sub(rf"\1 {plan.name}", remedy)
    if plan.job_id:
        remedy = remedy.replace("JOBID", plan.job_id)
    kind, colon, _ = plan.gpus.partition(":")
    if plan.gpus:
        remedy = remedy.replace("--gpus TYPE:", f"--gpus {kind}:" if colon else "--gpus ")
    return remedy


def relaunch(plan: PlanFacts, change: str, gpus: str = "") -> str:
    """The command that launches the same with one change; the change alone without a model."""
    if not plan.model:
        return change
    wanted = gpus or plan.gpus
    parts = ["hpcvlm launch", plan.model, f"--gpus {wanted}" if wanted else "", change]
    return " ".join(part for part in parts if part)


def duration_text(seconds: int) -> str:
    """``24h``, ``90m``, ``7d``: as --time takes it."""
    for unit, size in (("d", 24 * _HOUR), ("h", _HOUR), ("m", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{math.ceil(seconds / 60)}m"


def size_text(count: float) -> str:
    """``412 MB``, ``3.1 GB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"


def _context(values: Values, evidence: Evidence) -> Said:
    """The longest context that the KV cache holds."""
    length = _whole(values.get("length"))
    asked = _whole(values.get("asked"))
    needed, free = _number(values.get("needed")), _number(values.get("free"))
    about = ""
    if not length and asked and needed and free and free < needed:
        length = int(asked * free / needed) // _BLOCK * _BLOCK
        about = "about "
    if not length:
        return Said()
    change = relaunch(evidence.plan, f"--set max-model-len={length}")
    return Said(
        remedy=f"max_model_len {about}{length} fits: {change}; or more memory: "
        f"--set gpu-memory-utilization=0.95, more GPUs (--gpus TYPE:N)"
    )


def _derived_context(values: Values, evidence: Evidence) -> Said:
    longest = _whole(values.get("longest"))
    if not longest:
        return Said()
    return Said(remedy=relaunch(evidence.plan, f"--set max-model-len={longest}"))


def _time_limit(_values: Values, evidence: Evidence) -> Said:
    """What the partition allows, beside what the job had."""
    plan, slurm = evidence.plan, evidence.slurm
    had = slurm.time_limit_s or plan.time_limit_s
    limit = dict(evidence.partitions).get(plan.partition)
    more = f" of {duration_text(had)}" if had else ""
    if not limit:
        return Said(more=more)
    allows = f"partition {plan.partition} allows {duration_text(limit)}"
    if had and had < limit:
        wanted = min(limit, max(2 * had, 2 * _HOUR))
        change = relaunch(plan, f"--time {duration_text(wanted)}")
        return Said(more=more, remedy=f"{allows}: {change}")
    longer = [
        f"{name} {duration_text(seconds) if seconds else 'any time'}"
        for name, seconds in evidence.partitions
        if seconds is None or seconds > limit
    ]
    others = f", others more ({', '.join(longer)}: --partition)" if longer else ""
    return Said(
        more=more,
        remedy=f"{allows} at most{others}; --keep 3d lets a new job take over before one ends",
    )


def _too_long(_values: Values, evidence: Evidence) -> Said:
    """A time limit over the partition's, seen while it waits or as sbatch refuses it."""
    plan = evidence.plan
    limit = dict(evidence.partitions).get(plan.partition)
    if not limit:
        return Said()
    change = relaunch(plan, f"--time {duration_text(limit)}")
    return Said(remedy=f"partition {plan.partition} allows {duration_text(limit)}: {change}")


def _main_memory(values: Values, evidence: Evidence) -> Said:
    """What the job held, what it was given, and what to give it."""
    slurm, plan = evidence.slurm, evidence.plan
    given = slurm.requested_memory or _whole(values.get("given_kib")) * 1024
    if not given:
        return Said()
    most = max(slurm.max_rss or 0, _whole(values.get("held_kib")) * 1024)
    # Slurm looks every 30 s or so, and so may have missed the peak.
    held = f", and held {size_text(most)}" if most >= _TELLING * given else ""
    each = math.ceil(given * _MORE_MEMORY / max(1, plan.gpu_count) / _GIB)
    return Said(
        more=f" (it was given {size_text(given)}{held})",
        remedy=f"memory_per_gpu: {each}G in the site's file (hpcvlm site show names it), or more "
        "GPUs (--gpus TYPE:N), which bring their share",
    )


def _killed(values: Values, evidence: Evidence) -> Said:
    """Whether a kill from outside looks like one for want of memory."""
    slurm = evidence.slurm
    if not (slurm.requested_memory and slurm.max_rss and (slurm.elapsed_s or 0) >= _SEEN_S):
        return Said()
    if slurm.max_rss < _NEARLY * slurm.requested_memory:
        return Said(
            cause=f"the engine was killed from outside; it held {size_text(slurm.max_rss)} of "
            f"{size_text(slurm.requested_memory)} when Slurm last looked, so hardly for want of "
            "main memory",
            remedy="launch again; ask your admin who kills processes on "
            f"{slurm.nodes or 'the node'}",
        )
    return _main_memory(values, evidence)


def _cancelled(_values: Values, evidence: Evidence) -> Said:
    """By whom."""
    match = re.match(r"CANCELLED by (\d+)", evidence.slurm.state)
    if match is None:
        return Said()
    who = "root, an administrator or Slurm itself" if match[1] == "0" else f"user id {match[1]}"
    return Said(more=f" by {who}")


def _disk(values: Values, evidence: Evidence) -> Said:
    """Which folder is full, what is needed and what is left."""
    needed = _number(values.get("needed_mb"))
    left = _number(values.get("left_mb"))
    full = [room for room in evidence.rooms if _is_full(room)]
    words = []
    if needed is not None and left is not None:
        words.append(f"needs {size_text(needed * 1e6)}, {size_text(left * 1e6)} are left")
    words += [_room_text(room) for room in full]
    words += [
        f"{quota.where}: {size_text(quota.used)} of a quota of {size_text(quota.limit)} are used, "
        f"it leaves {size_text(max(0, quota.limit - quota.used))}"
        for quota in evidence.quotas
    ]
    return Said(more=f" ({'; '.join(words)})" if words else "")


def _is_full(room: Room) -> bool:
    return room.free < _FULL_BYTES or (room.inodes is not None and room.inodes < _FULL_INODES)


def _room_text(room: Room) -> str:
    if room.inodes is not None and room.inodes < _FULL_INODES:
        return f"{room.what} {room.path} has room for {room.inodes} more files"
    return f"{room.what} {room.path} has {size_text(room.free)} left"


def _gpu_memory(_values: Values, evidence: Evidence) -> Said:
    """What the memory arithmetic says would fit."""
    if not evidence.plan.fits:
        return Said()
    return Said(remedy=f"by arithmetic this fits: {'; or '.join(evidence.plan.fits[:2])}")


def _share(values: Values, evidence: Evidence) -> Said:
    """A share of the memory that is free."""
    free, total = _number(values.get("free")), _number(values.get("total"))
    if not free or not total:
        return Said()
    share = math.floor(100 * free / total - 2) / 100
    if share < 0.1:  # noqa: PLR2004 - too little for any model
        return Said()
    change = relaunch(evidence.plan, f"--set gpu-memory-utilization={share:.2f}")
    return Said(remedy=f"a share of {share:.2f} is free: {change}; or a node with a free GPU")


def _main_share(values: Values, evidence: Evidence) -> Said:
    found = _share(values, evidence)
    return Said(remedy=found.remedy.partition("; or")[0])


def _cpu_cache(values: Values, evidence: Evidence) -> Said:
    free = _number(values.get("free"))
    if not free:
        return Said()
    fits = max(1, math.floor(free * 0.8))
    change = relaunch(evidence.plan, f"--set kv-cache-memory-bytes={fits}G")
    return Said(
        remedy=f"{fits} GiB fit: {change}, or VLLM_CPU_KVCACHE_SPACE: {fits} in the model's "
        "`environment`"
    )


def _heads(values: Values, evidence: Evidence) -> Said:
    """Numbers of GPUs that divide the attention heads."""
    heads = _whole(values.get("heads")) or evidence.plan.heads
    asked = _whole(values.get("size")) or evidence.plan.gpu_count
    if not heads:
        return Said()
    good = [size for size in _SIZES if heads % size == 0 and size != asked]
    near = sorted(good, key=lambda size: abs(size - asked))[:3]
    kind, colon, _ = evidence.plan.gpus.partition(":")
    named = [f"{kind}:{size}" if colon else str(size) for size in sorted(near)]
    if not evidence.plan.gpus:
        named = [f"TYPE:{size}" for size in sorted(near)]
    if not named:
        return Said()
    return Said(remedy=f"a number of GPUs that divides {heads}: --gpus {' or '.join(named)}")


def _start_timeout(_values: Values, evidence: Evidence) -> Said:
    had = evidence.plan.start_timeout_s
    if not had:
        return Said()
    change = relaunch(evidence.plan, f"--set start_timeout={duration_text(2 * had)}")
    return Said(
        more=f" of {duration_text(had)}",
        remedy=f"{change}; weights on a disk near the node load faster",
    )


def _whole(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,12}", text) else 0


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,12}(\.\d{0,9})?", text) else None


_COMPUTED: dict[str, Callable[[Values, Evidence], Said]] = {
    "kv-cache-too-small": _context,
    "context-too-long": _derived_context,
    "time-limit": _time_limit,
    "partition-time-limit": _too_long,
    "cancelled": _cancelled,
    "out-of-memory": _main_memory,
    "killed": _killed,
    "disk-full": _disk,
    "quota-exceeded": _disk,
    "shared-memory-full": _disk,
    "gpu-out-of-memory": _gpu_memory,
    "kv-cache-none": _gpu_memory,
    "gpu-in-use": _share,
    "memory-in-use": _main_share,
    "kv-cache-over-memory": _cpu_cache,
    "parallel-size": _heads,
    "start-timeout": _start_timeout,
    "engine-timeout": _start_timeout,
}
