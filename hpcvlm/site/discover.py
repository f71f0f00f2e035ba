"""From what Slurm answered to the facts of a site. Nothing is asked here, and nothing guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpcvlm.site.access import allowed_accounts, allowed_qos, no_access
from hpcvlm.site.cluster import Partition
from hpcvlm.site.facts import Answers, GpuFacts, PartitionFacts, SiteFacts
from hpcvlm.site.gpu_names import (
    feature_for,
    is_type_name,
    read_name,
    site_names,
    size_feature,
)
from hpcvlm.site.notes import partition_notes, site_notes
from hpcvlm.slurm.accounts import Association
from hpcvlm.slurm.gres import UNTYPED
from hpcvlm.slurm.records import NodeRecord, PartitionRecord, SlurmConfig

_KIB = 1024


def site_facts(answers: Answers) -> SiteFacts:
    """The facts of a site.

    Args:
        answers: any of them may be missing; sinfo's or scontrol's partitions are needed for more
            than the cluster's name.
    """
    config = answers.config or SlurmConfig({})
    view = _view(answers)
    types = _gpu_types(view)
    partitions = tuple(_partition(pair, view, types, answers) for pair in _pairs(answers))
    request, why = _gpu_request(config, types)
    partition, partition_why = _default_partition(partitions)
    rows = answers.associations or ()
    accounts = tuple(sorted({row.account for row in _here(answers) if row.account}))
    return SiteFacts(
        name=config.get("ClusterName") or "this site",
        version=config.get("SLURM_VERSION"),
        gpu_types=tuple(types.values()),
        partitions=partitions,
        gpu_request=request,
        gpu_request_why=why,
        partition=partition,
        partition_why=partition_why,
        accounts=accounts,
        default_account=answers.default_account if rows else None,
        accounts_needed="associations" in config.enforces or "limits" in config.enforces,
        accounting=config.accounting if answers.config is not None else None,
        notes=site_notes(answers, config),
        machine=answers.machine,
        unanswered=answers.unanswered,
    )


@dataclass(frozen=True, slots=True)
class _View:
    """Nodes by partition.

    Attributes:
        every: each node once.
        nodes: None where scontrol did not show them; then `kinds` is all there is.
        kinds: Slurm's GPU types with the most on one node, by partition.
    """

    every: tuple[NodeRecord, ...]
    nodes: dict[str, tuple[NodeRecord, ...]] | None
    kinds: dict[str, dict[str, int]]

    def features(self, node: NodeRecord) -> str | None:
        """The feature that picks a node's GPUs, where these have no type."""
        return feature_for(node.features) if UNTYPED in node.gpus else None


_Pair = tuple[str, Partition | None, PartitionRecord | None]


def _pairs(answers: Answers) -> list[_Pair]:
    """Every partition as sinfo and scontrol show it, in their order."""
    seen = {part.name: part for part in (answers.cluster.partitions if answers.cluster else ())}
    records = {record.name: record for record in answers.partitions or ()}
    return [(name, seen.get(name), records.get(name)) for name in dict.fromkeys([*seen, *records])]


def _view(answers: Answers) -> _View:
    kinds: dict[str, dict[str, int]] = {}
    for name, part, _ in _pairs(answers):
        kinds[name] = _nameable(dict(part.gpu_types)) if part is not None else {}
    if not answers.nodes:
        return _View((), None, kinds)
    nodes: dict[str, tuple[NodeRecord, ...]] = dict.fromkeys(kinds, ())
    every = tuple(replace(one, gpus=_nameable(one.gpus)) for one in answers.nodes)
    for node in every:
        for name in node.partitions:
            nodes[name] = (*nodes.get(name, ()), node)
            most = kinds.setdefault(name, {})
            for kind, count in node.gpus.items():
                most[kind] = max(count, most.get(kind, 0))
    return _View(every, nodes, kinds)


def _nameable(gpus: Mapping[str, int]) -> dict[str, int]:
    """GPUs by type; a type that no site file can name is none, and asked for by number."""
    found: dict[str, int] = {}
    for kind, count in gpus.items():
        key = kind if is_type_name(kind) else UNTYPED
        found[key] = found.get(key, 0) + count
    return found


def _gpu_types(view: _View) -> dict[str, GpuFacts]:
    """Every type: by Slurm's name, or by the feature that picks it."""
    typed = list(dict.fromkeys(k for kinds in view.kinds.values() for k in kinds if k != UNTYPED))
    features = [f for node in view.every if (f := view.features(node)) is not None]
    names = site_names([*typed, *features])
    found: dict[str, GpuFacts] = {}
    for word in [*typed, *dict.fromkeys(features)]:
        by_feature = word not in typed
        told = read_name(word)
        with_it = [
            node
            for node in view.every
            if (view.features(node) == word if by_feature else word in node.gpus)
        ]
        found[word] = GpuFacts(
            name=names[word],
            slurm_name=None if by_feature else word,
            hardware=told.hardware,
            memory=told.memory,
            constraint=word if by_feature else None,
            hint=size_feature(node.features for node in with_it) if told.memory is None else None,
            nodes=len(with_it) if view.nodes is not None else None,
        )
    return found


def _partition(
    pair: _Pair, view: _View, types: dict[str, GpuFacts], answers: Answers
) -> PartitionFacts:
    name, seen, record = pair
    nodes = view.nodes.get(name, ()) if view.nodes is not None else ()
    with_gpus = [node for node in nodes if node.gpus]
    gpus, untyped = _gpus(view.kinds.get(name, {}), with_gpus, view, types)
    here = PartitionRecord(name) if record is None else record
    rows = _here(answers)
    account = _only(allowed_accounts(here, rows), answers.default_account)
    cpus, memory = _shares(here, with_gpus, answers.config)
    return PartitionFacts(
        name=name,
        default=seen.default if seen is not None else here.default,
        left_out=_left_out(pair, nodes, with_gpus, gpus or untyped, answers),
        gpus=gpus,
        untyped=untyped,
        nodes=len(nodes) or (seen.nodes if seen is not None else here.node_count),
        down=sum(not node.usable for node in nodes),
        cpus=min((n.cpus for n in with_gpus), default=seen.cpus if seen else 0),
        memory=min((n.memory for n in with_gpus), default=seen.memory if seen else 0),
        time_limit_s=here.time_limit_s if record or seen is None else seen.time_limit_s,
        cpus_per_gpu=cpus,
        memory_per_gpu=memory,
        account=account,
        qos=_only(allowed_qos(here, rows, account), _default_qos(answers, account)),
        notes=partition_notes(here, nodes, rows, answers.config),
    )


def _gpus(
    kinds: dict[str, int], nodes: Sequence[NodeRecord], view: _View, types: dict[str, GpuFacts]
) -> tuple[tuple[tuple[str, int], ...], int]:
    """The most on one node by the site's names; and of those that nothing names."""
    most: dict[str, int] = {}
    for kind, count in kinds.items():
        if kind != UNTYPED:
            most[types[kind].name] = count
    untyped = kinds.get(UNTYPED, 0)
    for node in nodes:
        feature = view.features(node)
        if feature is not None:
            name = types[feature].name
            most[name] = max(node.gpus[UNTYPED], most.get(name, 0))
    if nodes:
        bare = [n.gpus[UNTYPED] for n in nodes if UNTYPED in n.gpus and view.features(n) is None]
        untyped = max(bare, default=0)
    return tuple(most.items()), untyped


def _left_out(
    pair: _Pair,
    nodes: Sequence[NodeRecord],
    with_gpus: Sequence[NodeRecord],
    gpus: object,
    answers: Answers,
) -> str:
    _, seen, record = pair
    if not gpus:
        some = record.gpus if record is not None and not nodes else 0
        told = f"has {some} GPUs, but its nodes were not shown: add it by hand"
        return told if some else "has no GPUs"
    reason = _closed(seen, record) or (
        no_access(record, _here(answers), answers.user) if record is not None else ""
    )
    if not reason and seen is None and answers.cluster is not None:
        reason = "is not shown to you by sinfo"
    if not reason and with_gpus and not any(node.usable for node in with_gpus):
        reason = f"has GPUs, but all {len(with_gpus)} nodes with them are out of service"
    return reason


def _closed(seen: Partition | None, record: PartitionRecord | None) -> str:
    if record is not None:
        return "" if record.state == "UP" else f"is {record.state}"
    return "is not up" if seen is not None and not seen.available else ""


def _shares(
    record: PartitionRecord, nodes: Sequence[NodeRecord], config: SlurmConfig | None
) -> tuple[int | None, int | None]:
    """CPUs and MB of memory for each GPU, on the node that has least; None where Slurm gives them.

    Slurm gives a job one CPU for each task and DefMemPerCPU for that, whatever its GPUs, unless
    the partition has DefCpuPerGPU and DefMemPerGPU (slurm.conf(5)).
    """
    usable = [node for node in nodes if node.usable] or list(nodes)
    if not usable:
        return None, None
    most_cpus = record.max_cpus_per_node
    cpus = min(
        (min(n.cpus, most_cpus) if most_cpus else n.cpus) // sum(n.gpus.values()) for n in usable
    )
    most_memory = record.max_mem_per_node
    memory = min(
        (min(n.memory, most_memory) if most_memory else n.memory) // sum(n.gpus.values())
        for n in usable
    )
    if record.max_mem_per_cpu:
        memory = min(memory, max(cpus, 1) * record.max_mem_per_cpu)
    # --mem-per-gpu is for cons_tres alone, as --gpus-per-node is.
    by_gpu = config is None or config.gpus_per_node
    return (
        None if record.def_cpu_per_gpu or cpus < 1 else cpus,
        None if record.def_mem_per_gpu or memory < _KIB or not by_gpu else memory,
    )


def _here(answers: Answers) -> tuple[Association, ...]:
    """The user's rows of this cluster; sacctmgr shows those of every cluster."""
    rows = answers.associations or ()
    name = answers.config.get("ClusterName") if answers.config else ""
    return tuple(row for row in rows if not name or row.cluster.lower() == name.lower())


def _only(allowed: Sequence[str] | None, default: str | None) -> str | None:
    """The one to name: when just one is allowed, and it is not what Slurm takes by itself."""
    if allowed is None or len(allowed) != 1 or allowed[0] == default:
        return None
    return allowed[0]


def _default_qos(answers: Answers, account: str | None) -> str | None:
    """The QOS that Slurm takes by itself for an account; the user's default one when None."""
    wanted = account or answers.default_account
    rows = [row for row in _here(answers) if wanted is None or row.account == wanted]
    return rows[0].default_qos or None if rows else None


def _gpu_request(config: SlurmConfig, types: dict[str, GpuFacts]) -> tuple[str, str]:
    if not config.gpus_per_node:
        plugin = config.get("SelectType")
        return "gres", f"SelectType={plugin}: --gpus-per-node needs select/cons_tres"
    by_feature = [kind for kind in types.values() if kind.slurm_name is None]
    if by_feature and len(by_feature) == len(types):
        return "constraint", "Slurm has no GPU types here; node features pick them"
    return "gpus-per-node", ""


def _default_partition(partitions: Sequence[PartitionFacts]) -> tuple[str | None, str]:
    default = next((part for part in partitions if part.default), None)
    if default is not None and not default.left_out:
        # Named all the same: what the file says of a partition holds for jobs that name it.
        return default.name, "Slurm's own default, which has GPUs"
    usable = [part for part in partitions if not part.left_out]
    if not usable:
        return None, "no partition with GPUs was found that you can use"
    said = "Slurm has no default partition"
    if default is not None:
        said = f"Slurm's default, {default.name}, {default.left_out}"
    if len(usable) == 1:
        return usable[0].name, f"{said}; this is the only one with GPUs for you"
    calm = [part for part in usable if not any("preempt" in note for note in part.notes)] or usable
    best = max(calm, key=lambda part: (part.nodes - part.down) * part.most_gpus)
    return best.name, f"{said}; of those with GPUs this one has most of them"
