"""What scontrol shows: the configuration, partitions and nodes, as values.

A record is ``Key=value`` pairs, on one line or on several. A value may hold spaces (``OS=``,
``Reason=``), so a pair ends where the next key begins; of a key that stands twice the first one
counts, since free texts come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.gres import Gres, gpus_of, parse_gres
from hpcvlm.slurm.parse import refuse_failed
from hpcvlm.slurm.time import parse_time_limit

_KEY = r"[A-Za-z][A-Za-z0-9_:]*="
_PAIR = re.compile(rf"(?:^|\s)(?P<key>{_KEY})(?P<value>.*?)(?=\s+{_KEY}|\s*$)")
_CONFIG_LINE = re.compile(r"(?P<key>[A-Za-z][\w\[\]]*)\s*=(?:\s(?P<value>.*))?")
_NOTHING = {"", "(null)", "N/A", "NONE", "None"}
_ALL = {"", "ALL", "(null)"}
_UNLIMITED = {"", "UNLIMITED", "INFINITE", "(null)", "N/A", "NONE"}
_BAD_STATES = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "ERROR", "INVAL", "FUTURE"}


@dataclass(frozen=True, slots=True)
class SlurmConfig:
    """The controller's configuration.

    Attributes:
        values: every parameter by its name, as scontrol shows it.
    """

    values: Mapping[str, str]

    def get(self, name: str) -> str:
        """A parameter; empty when it is not set or this version does not have it."""
        value = self.values.get(name, "")
        return "" if value in _NOTHING else value

    def seconds(self, name: str) -> int | None:
        """A parameter such as ``30 sec`` or ``0 min``; None when it is no such thing."""
        match = re.fullmatch(r"(\d+)\s*(sec|min)?(?:onds?|utes?)?", self.get(name))
        if match is None:
            return None
        return int(match[1]) * (60 if match[2] == "min" else 1)

    @property
    def accounting(self) -> bool:
        """Whether jobs are recorded in a database."""
        return self.get("AccountingStorageType").rpartition("/")[2] not in {"", "none"}

    @property
    def enforces(self) -> tuple[str, ...]:
        """What of the accounts a job must match: ``associations``, ``limits``, ``qos``."""
        return tuple(part for part in self.get("AccountingStorageEnforce").split(",") if part)

    @property
    def gpus_per_node(self) -> bool:
        """Whether sbatch takes --gpus-per-node and --mem-per-gpu: with cons_tres only.

        sbatch(1) does not say so; https://slurm.schedmd.com/gres.html does, of all --gpus options.
        A Cray's plugin has it below itself, as OTHER_CONS_TRES.
        """
        plugin = self.get("SelectType").rpartition("/")[2]
        parameters = self.get("SelectTypeParameters").upper()
        return plugin in {"", "cons_tres"} or "OTHER_CONS_TRES" in parameters


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """One partition as scontrol shows it.

    Attributes:
        state: ``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``.
        exclusive: whether a job gets whole nodes.
        time_limit_s: None when it has no limit.
        default_time_s: of a job that names none; None when it gets the limit.
        allow_accounts: empty when every account may use it; so with QOS and groups.
        deny_accounts: empty when none is shut out.
        qos: the partition's own, whose limits hold for its jobs.
        def_cpu_per_gpu: CPUs that a job gets for each GPU when it does not say; None without.
        def_mem_per_gpu: MB, likewise.
        max_mem_per_node: MB; None when it has no limit.
        max_mem_per_cpu: MB; None when it has no limit.
        preempt_mode: ``OFF``, ``CANCEL``, ``REQUEUE``, ``SUSPEND``, ``GANG,SUSPEND``.
        nodes: as Slurm writes it: ``gpu[01-02]``.
        gpus: all of its GPUs together, from TRES; None when TRES does not tell.
    """

    name: str
    default: bool = False
    state: str = "UP"
    hidden: bool = False
    root_only: bool = False
    needs_reservation: bool = False
    exclusive: bool = False
    time_limit_s: int | None = None
    default_time_s: int | None = None
    allow_accounts: tuple[str, ...] = ()
    deny_accounts: tuple[str, ...] = ()
    allow_qos: tuple[str, ...] = ()
    deny_qos: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    qos: str = ""
    def_cpu_per_gpu: int | None = None
    def_mem_per_gpu: int | None = None
    max_cpus_per_node: int | None = None
    max_mem_per_node: int | None = None
    max_mem_per_cpu: int | None = None
    over_time_limit: str = ""
    preempt_mode: str = ""
    nodes: str = ""
    node_count: int = 0
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node as scontrol shows it.

    Attributes:
        cpus: those that jobs can have.
        memory: MB that jobs can have.
        gres_used: empty when it was shown without --details.
    """

    name: str
    state: str = ""
    cpus: int = 0
    memory: int = 0
    gres: tuple[Gres, ...] = ()
    gres_used: tuple[Gres, ...] = ()
    features: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    gpus: Mapping[str, int] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether it is up, or at least not known to be broken or taken out of service."""
        words = re.split(r"[+*~#!%$@^-]+", self.state)
        return not _BAD_STATES.intersection(words)


def parse_scontrol_config(code: int, stdout: str, stderr: str) -> SlurmConfig:
    """The answer to `hpcvlm.slurm.commands.scontrol_config`.

    Raises:
        HpcvlmError: ``slurm-unavailable``.
    """
    refuse_failed("scontrol", code, stderr)
    values: dict[str, str] = {}
    for line in stdout.splitlines():
        match = _CONFIG_LINE.fullmatch(line.strip())
        if match is not None:
            values.setdefault(match["key"], (match["value"] or "").strip())
    return SlurmConfig(values)


def parse_scontrol_partitions(code: int, stdout: str, stderr: str) -> tuple[PartitionRecord, ...]:
    """The answer to `hpcvlm.slurm.commands.scontrol_partitions`.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    refuse_failed("scontrol", code, stderr)
    return tuple(_partition(record) for record in _records("PartitionName", stdout))


def parse_scontrol_nodes(code: int, stdout: str, stderr: str) -> tuple[NodeRecord, ...]:
    """The answer to `hpcvlm.slurm.commands.scontrol_nodes`.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    refuse_failed("scontrol", code, stderr)
    return tuple(_node(record) for record in _records("NodeName", stdout))


def _records(head: str, stdout: str) -> Iterator[dict[str, str]]:
    """Records that begin with one key; what stands before the first one is no record."""
    starts = [match.start() for match in re.finditer(rf"^\s*{head}=", stdout, re.MULTILINE)]
    if not starts and re.match(r"\s*[A-Z]\w+=", stdout):
        line = stdout.strip().splitlines()[0]
        raise HpcvlmError("slurm-output", f"scontrol gave a line that cannot be read: {line!r}")
    for start, end in pairwise([*starts, len(stdout)]):
        yield _pairs(" ".join(line.strip() for line in stdout[start:end].splitlines()))


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _PAIR.finditer(text):
        found.setdefault(match["key"].removesuffix("="), match["value"].strip())
    return found


def _partition(record: dict[str, str]) -> PartitionRecord:
    defaults = _defaults(record.get("JobDefaults", ""))
    tres = _tres(record.get("TRES", ""))
    return PartitionRecord(
        name=record["PartitionName"],
        default=record.get("Default") == "YES",
        state=record.get("State", "UP"),
        hidden=record.get("Hidden") == "YES",
        root_only=record.get("RootOnly") == "YES",
        needs_reservation=record.get("ReqResv") == "YES",
        # Exclusive=NODE since Slurm 26.05, Shared= before 16.05.
        exclusive=record.get("OverSubscribe", record.get("Shared", "")) == "EXCLUSIVE"
        or record.get("Exclusive") == "NODE",
        time_limit_s=_time(record.get("MaxTime", "")),
        default_time_s=_time(record.get("DefaultTime", "")),
        allow_accounts=_names(record.get("AllowAccounts", "")),
        deny_accounts=_names(record.get("DenyAccounts", "")),
        allow_qos=_names(record.get("AllowQos", "")),
        deny_qos=_names(record.get("DenyQos", "")),
        allow_groups=_names(record.get("AllowGroups", "")),
        qos=_set(record.get("QoS", "")),
        def_cpu_per_gpu=_number(defaults.get("DefCpuPerGPU", record.get("DefCpuPerGPU", ""))),
        def_mem_per_gpu=_number(defaults.get("DefMemPerGPU", record.get("DefMemPerGPU", ""))),
        max_cpus_per_node=_number(record.get("MaxCPUsPerNode", "")),
        max_mem_per_node=_number(record.get("MaxMemPerNode", "")),
        max_mem_per_cpu=_number(record.get("MaxMemPerCPU", "")),
        over_time_limit=_set(record.get("OverTimeLimit", "")),
        preempt_mode=_set(record.get("PreemptMode", "")),
        nodes=_set(record.get("Nodes", "")),
        node_count=_number(record.get("TotalNodes", "")) or 0,
        gpus=_number(tres.get("gres/gpu", "")) if tres else None,
    )


def _node(record: dict[str, str]) -> NodeRecord:
    total = _number(record.get("CPUTot", "")) or 0
    reserved = _number(record.get("MemSpecLimit", "")) or 0
    gres = parse_gres(_set(record.get("Gres", "")))
    return NodeRecord(
        name=record["NodeName"],
        state=record.get("State", ""),
        cpus=_number(record.get("CPUEfctv", "")) or total,
        memory=max(0, (_number(record.get("RealMemory", "")) or 0) - reserved),
        gres=gres,
        gres_used=parse_gres(_set(record.get("GresUsed", ""))),
        features=_names(record.get("AvailableFeatures", record.get("Features", ""))),
        partitions=_names(record.get("Partitions", "")),
        gpus=gpus_of(gres),
    )


def _defaults(text: str) -> dict[str, str]:
    """``DefCpuPerGPU=8,DefMemPerGPU=60000``."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _tres(text: str) -> dict[str, str]:
    """``cpu=16,mem=32000M,gres/gpu=8,gres/gpu:a100=8``."""
    return _defaults("" if text in _NOTHING else text)


def _set(text: str) -> str:
    return "" if text in _NOTHING else text


def _names(text: str) -> tuple[str, ...]:
    return () if text in _ALL | _NOTHING else tuple(part for part in text.split(",") if part)


def _number(text: str) -> int | None:
    match = re.match(r"\d+", "" if text in _UNLIMITED else text)
    return int(match[0]) if match else None


def _time(text: str) -> int | None:
    """A record is shown whatever its times look like."""
    try:
        return None if text in _UNLIMITED else parse_time_limit(text)
    except HpcvlmError:
        return None
