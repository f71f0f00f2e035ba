"""The facts of a site as a site file: what was found, how, and what is still to be filled in."""

from __future__ import annotations

from collections.abc import Iterable

from hpcvlm.site.facts import GpuFacts, PartitionFacts, SiteFacts
from hpcvlm.site.suggestions import suggestions
from hpcvlm.site.yaml_lines import comment, scalar
from hpcvlm.slurm.time import format_time_limit

_MIB_PER_GIB = 1024


def site_text(facts: SiteFacts) -> str:
    """A site file that validates as it is; comments say where each value is from."""
    lines = [
        *_head(facts),
        *_partition_lines(facts),
        *_account_lines(facts),
        *_gpu_lines(facts),
        *_partitions_lines(facts),
        *suggestions(facts.machine),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(facts: SiteFacts) -> list[str]:
    told = f"Slurm {facts.version}" if facts.version else "Slurm"
    lines = [
        "# Written by hpcvlm site init; yours to change. configs/sites/example.yaml has every key.",
        *comment(f"Cluster {facts.name}, {told}."),
    ]
    for missing in facts.unanswered:
        lines += comment(f"Not known, since {missing.command} did not answer: {missing.said}")
    lines += [line for note in facts.notes for line in comment(note)]
    return [*lines, "schema: 1", f"name: {scalar(facts.name)}", "executor: slurm", ""]


def _partition_lines(facts: SiteFacts) -> list[str]:
    lines = [*comment(f"Partition when none is asked for: {facts.partition_why}.")]
    if facts.partition is None:
        return [*lines, "# partition: NAME", ""]
    others = [part.name for part in facts.usable if part.name != facts.partition]
    if others:
        lines += comment(f"Others with GPUs: {', '.join(others)}.")
    return [*lines, f"partition: {scalar(facts.partition)}", ""]


def _account_lines(facts: SiteFacts) -> list[str]:
    if facts.accounting is False:
        return []
    if not facts.accounts:
        known = "sacctmgr showed none of yours"
        return [*comment(f"Accounts: {known}."), "# account: NAME", "# qos: NAME", ""]
    told = ", ".join(facts.accounts)
    needed = "; a job must have one" if facts.accounts_needed else ""
    lines = comment(f"Accounts that you may submit with (sacctmgr): {told}{needed}.")
    if facts.default_account:
        lines += comment(f"Without one Slurm takes {facts.default_account}, your default.")
        return [*lines, f"# account: {scalar(facts.default_account)}", "# qos: NAME", ""]
    if len(facts.accounts) == 1:
        lines += comment("In a file for all users leave it out.")
        return [*lines, f"account: {scalar(facts.accounts[0])}", "# qos: NAME", ""]
    return [*lines, "# account: NAME", "# required: [account]", "# qos: NAME", ""]


def _gpu_lines(facts: SiteFacts) -> list[str]:
    lines = []
    if facts.gpu_request_why:
        lines += comment(f"{facts.gpu_request_why}.")
    lines += [f"gpu_request: {facts.gpu_request}", ""]
    if not facts.gpu_types:
        return [
            *lines,
            *comment("No GPU of this cluster has a type: ask for a number, as in --gpus 1."),
            "# gpu_types:",
            "#   A100: {hardware: NVIDIA A100-SXM4-80GB, memory: 80G, constraint: a100}",
            "",
        ]
    lines += comment(
        "GPU types by the name that users type (--gpus NAME:1). Memory stands where a name says it."
    )
    lines.append("gpu_types:")
    for kind in facts.gpu_types:
        lines += _gpu_type(kind, facts.gpu_request)
    return [*lines, ""]


def _gpu_type(kind: GpuFacts, request: str) -> list[str]:
    lines = []
    if kind.nodes is not None:
        lines += comment(f"on {_count(kind.nodes, 'node')}", "  ")
    lines.append(f"  {scalar(kind.name)}:")
    if kind.slurm_name is not None:
        lines.append(f"    slurm_name: {scalar(kind.slurm_name)}")
    elif kind.constraint is not None:
        if request != "constraint":
            lines.append("    request: constraint")
        lines.append(f"    constraint: {scalar(kind.constraint)}")
    if kind.hardware:
        lines.append(f"    hardware: {scalar(kind.hardware)}")
    if kind.memory:
        return [*lines, f"    memory: {kind.memory}"]
    if kind.hint:
        lines += comment(f"the nodes have the feature {kind.hint}; if it means the GPU:", "    ")
    size = f"{kind.hint[:-2]}G" if kind.hint else "SIZE"
    return [*lines, f"    # memory: {size}"]


def _partitions_lines(facts: SiteFacts) -> list[str]:
    lines = comment(
        "Partitions with GPUs. cpus_per_gpu and memory_per_gpu are a node's fair share, of the "
        "node that has least; sinfo tells the rest at every launch."
    )
    usable = facts.usable
    lines.append("partitions:" if usable else "# partitions:")
    for part in usable:
        lines += _partition_entry(part)
    left_out: dict[str, list[str]] = {}
    for part in facts.partitions:
        if part.left_out:
            left_out.setdefault(part.left_out, []).append(part.name)
    if left_out:
        lines += ["", *comment("Left out:")]
    for reason, names in left_out.items():
        lines += comment(f"{', '.join(names)}: {reason}")
    return [*lines, ""]


def _partition_entry(part: PartitionFacts) -> list[str]:
    size = f"{part.cpus} CPUs and {part.memory} MB or more" if part.cpus else "a size not shown"
    down = f", {part.down} of them out of service" if part.down else ""
    limit = "no limit" if part.time_limit_s is None else format_time_limit(part.time_limit_s)
    lines = comment(
        f"{_count(part.nodes, 'node')}{down}; with GPUs come {size}; longest job: {limit}", "  "
    )
    for note in part.notes:
        lines += comment(note, "  ")
    if part.untyped:
        lines += comment(f"{_count(part.untyped, 'GPU')} of no type on a node", "  ")
    body = list(_partition_keys(part))
    if not body:
        return [*lines, f"  {scalar(part.name)}: {{}}"]
    return [*lines, f"  {scalar(part.name)}:", *body]


def _partition_keys(part: PartitionFacts) -> Iterable[str]:
    if part.gpus:
        counts = ", ".join(f"{scalar(name)}: {count}" for name, count in part.gpus)
        yield f"    gpus: {{{counts}}}"
    if part.cpus_per_gpu:
        yield f"    cpus_per_gpu: {part.cpus_per_gpu}"
    if part.memory_per_gpu:
        yield f"    memory_per_gpu: {part.memory_per_gpu // _MIB_PER_GIB}G"
    if part.account:
        yield f"    account: {scalar(part.account)}"
    if part.qos:
        yield f"    qos: {scalar(part.qos)}"


def _count(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"
