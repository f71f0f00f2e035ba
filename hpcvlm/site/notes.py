"""What of a cluster's configuration matters to whoever serves from it, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.site.facts import Answers
from hpcvlm.slurm.accounts import Association
from hpcvlm.slurm.records import NodeRecord, PartitionRecord, SlurmConfig
from hpcvlm.slurm.time import format_time_limit

# Seconds: an engine that is asked to stop needs some of them to let go of its GPUs.
_SHORT_KILL_WAIT_S = 30


def site_notes(answers: Answers, config: SlurmConfig) -> tuple[str, ...]:
    """Notes on the whole cluster."""
    return (*_limits(config), *_plugins(config), *_accounts(answers, config), *_shards(answers))


def partition_notes(
    record: PartitionRecord,
    nodes: Sequence[NodeRecord],
    rows: Sequence[Association],
    config: SlurmConfig | None,
) -> tuple[str, ...]:
    """Notes on one partition."""
    notes = [*_defaults(record)]
    if record.exclusive:
        notes.append("exclusive: a job gets whole nodes, with all of their GPUs")
    if record.needs_reservation:
        notes.append("ReqResv=YES: jobs must name a reservation (sbatch: {reservation: NAME})")
    mode = record.preempt_mode.upper()
    kind = (config.get("PreemptType") if config else "").rpartition("/")[2]
    if mode not in {"", "OFF"} and kind not in {"", "none"}:
        notes.append(
            f"PreemptMode={mode}: jobs of a higher priority may preempt an endpoint ({kind})"
        )
    if record.over_time_limit and record.over_time_limit != "0":
        notes.append(f"OverTimeLimit={record.over_time_limit}: minutes past a job's time limit")
    if record.qos:
        notes.append(f"its own QOS, {record.qos}, limits its jobs")
    notes += _lists(record, rows)
    notes += _memory_limits(record)
    features = sorted({feature for node in nodes if node.gpus for feature in node.features})
    if features:
        notes.append(f"node features: {_some(features, 12)}")
    return tuple(notes)


def _defaults(record: PartitionRecord) -> list[str]:
    notes = []
    if record.default_time_s is not None:
        time = format_time_limit(record.default_time_s)
        notes.append(f"a job that names no time gets {time} (DefaultTime)")
    if record.def_cpu_per_gpu:
        notes.append(f"Slurm gives {record.def_cpu_per_gpu} CPUs for each GPU (DefCpuPerGPU)")
    if record.def_mem_per_gpu:
        notes.append(f"Slurm gives {record.def_mem_per_gpu} MB for each GPU (DefMemPerGPU)")
    return notes


def _memory_limits(record: PartitionRecord) -> list[str]:
    notes = []
    if record.max_mem_per_node:
        notes.append(f"a job may have {record.max_mem_per_node} MB on a node (MaxMemPerNode)")
    if record.max_mem_per_cpu:
        notes.append(f"more than {record.max_mem_per_cpu} MB for a CPU is counted as further CPUs")
    return notes


def _lists(record: PartitionRecord, rows: Sequence[Association]) -> list[str]:
    """Lists of who may use it; the reader must compare where the accounts are not known."""
    notes = []
    for word, names in (
        ("AllowAccounts", record.allow_accounts),
        ("DenyAccounts", record.deny_accounts),
        ("AllowQos", record.allow_qos),
        ("DenyQos", record.deny_qos),
        ("AllowGroups", record.allow_groups),
    ):
        if names:
            mine = {row.account for row in rows} | {qos for row in rows for qos in row.qos}
            yours = [name for name in names if name in mine]
            told = f"; of these you have {_some(yours)}" if yours else ""
            notes.append(f"{word}={_some(names)}{told}")
    return notes


def _limits(config: SlurmConfig) -> list[str]:
    notes = []
    wait = config.seconds("KillWait")
    if wait is not None and wait < _SHORT_KILL_WAIT_S:
        notes.append(
            f"KillWait={wait} s: Slurm kills what still runs so soon after a cancelled job's "
            "SIGTERM"
        )
    over = config.get("OverTimeLimit")
    if over and not over.startswith("0"):
        notes.append(f"OverTimeLimit={over}: jobs may run so long past their time limit")
    if (kind := config.get("PreemptType").rpartition("/")[2]) not in {"", "none"}:
        mode = config.get("PreemptMode")
        notes.append(f"PreemptType={kind}, PreemptMode={mode}: jobs may be preempted here")
    hidden = [word for word in ("nodes", "partitions") if word in config.get("PrivateData")]
    if hidden:
        told = " and ".join(hidden)
        notes.append(f"PrivateData hides {told} of others, so that some may be missing here")
    return notes


def _plugins(config: SlurmConfig) -> list[str]:
    notes = [
        f"{name}={config.get(name)}: rules of the site's own may change or refuse a job; "
        "hpcvlm plan MODEL shows what sbatch says to it"
        for name in ("JobSubmitPlugins", "CliFilterPlugins")
        if config.get(name)
    ]
    # Where it is none, Slurm shows task/none or (null), by its version.
    task = config.values.get("TaskPlugin", "cgroup")
    task = "none" if task in {"", "(null)"} else task
    if "cgroup" not in task:
        notes.append(
            f"TaskPlugin={task}: without task/cgroup nothing keeps a job off the GPUs of others"
        )
    track = config.get("ProctrackType").rpartition("/")[2]
    if track and track != "cgroup":
        notes.append(
            f"ProctrackType={track}: Slurm may not find processes that have left their parent"
        )
    return notes


def _accounts(answers: Answers, config: SlurmConfig) -> list[str]:
    if answers.config is not None and not config.accounting:
        return ["no accounts are kept here (AccountingStorageType); account and qos have no effect"]
    notes = []
    if "qos" in config.enforces and answers.qos:
        limited = [qos for qos in answers.qos if "gres/gpu" in qos.max_tres_per_user]
        notes += [f"QOS {qos.name} limits a user to {qos.max_tres_per_user}" for qos in limited[:8]]
    return notes


def _shards(answers: Answers) -> list[str]:
    names = {one.name for node in answers.nodes or () for one in node.gres}
    shared = sorted(names & {"shard", "mps"})
    if not shared:
        return []
    told = " and ".join(f"gres/{name}" for name in shared)
    return [f"GPUs are shared as {told} too; hpcvlm asks for whole GPUs only"]


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
