"""What could be found out about a cluster: the values that a site file is written from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcvlm.site.cluster import Cluster
from hpcvlm.slurm.accounts import Association, Qos
from hpcvlm.slurm.records import NodeRecord, PartitionRecord, SlurmConfig


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime on PATH; the version is its own words, or empty."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What the login node itself shows.

    Attributes:
        runtimes: those on PATH.
        module_system: ``Lmod`` or ``Environment Modules``; empty where there is none.
        runtime_modules: modules that offer a runtime, such as ``apptainer/1.3.6``.
        images: (folder, its vllm-VERSION.sif files) for each folder that has some.
        hub_caches: (variable or place it is from, folder), of folders that exist.
        proxies: (variable, value) without passwords.
        scratch: variables that name a scratch folder here.
    """

    runtimes: tuple[Runtime, ...] = ()
    module_system: str = ""
    runtime_modules: tuple[str, ...] = ()
    images: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hub_caches: tuple[tuple[str, str], ...] = ()
    proxies: tuple[tuple[str, str], ...] = ()
    scratch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A command that gave no answer, and what it said instead."""

    command: str
    said: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked, as values; None where there was no answer.

    Attributes:
        user: whose accounts these are.
    """

    cluster: Cluster | None = None
    config: SlurmConfig | None = None
    partitions: tuple[PartitionRecord, ...] | None = None
    nodes: tuple[NodeRecord, ...] | None = None
    associations: tuple[Association, ...] | None = None
    default_account: str | None = None
    qos: tuple[Qos, ...] | None = None
    user: str = ""
    machine: Machine = field(default_factory=Machine)
    unanswered: tuple[Unanswered, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One type of GPU.

    Attributes:
        name: for users to type.
        slurm_name: None where Slurm has no type for it and a node feature picks it.
        memory: such as ``80G``, only where a name says it.
        hint: a node feature such as ``80gb``, which may mean the memory.
        nodes: how many nodes have it; None when nodes were not shown.
    """

    name: str
    slurm_name: str | None
    hardware: str | None = None
    memory: str | None = None
    constraint: str | None = None
    hint: str | None = None
    nodes: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition.

    Attributes:
        gpus: (the type's name in the site file, most on one node); untyped ones are not among them.
        untyped: most GPUs without type or feature on one node.
        left_out: why jobs of this user cannot be served here; empty where they can.
        nodes: all of its nodes; `down` those of them that are out of service.
        cpus: of the smallest node with GPUs.
        memory: MB of the smallest node with GPUs.
        cpus_per_gpu: a fair share; None where it is not known, or Slurm gives one by itself.
        memory_per_gpu: MB, likewise.
        account: the only one of the user's that is allowed here, where another is their default.
        qos: likewise.
        notes: sentences on what differs here.
    """

    name: str
    default: bool
    left_out: str = ""
    gpus: tuple[tuple[str, int], ...] = ()
    untyped: int = 0
    nodes: int = 0
    down: int = 0
    cpus: int = 0
    memory: int = 0
    time_limit_s: int | None = None
    cpus_per_gpu: int | None = None
    memory_per_gpu: int | None = None
    account: str | None = None
    qos: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def most_gpus(self) -> int:
        """The most GPUs of one type on one node."""
        return max([self.untyped, *(count for _, count in self.gpus)])


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """Everything that was found.

    Attributes:
        version: Slurm's; empty when it did not tell.
        gpu_request: how GPUs are asked for here, and why in `gpu_request_why`.
        partition: for launches that name none, with `partition_why`; None where none serves.
        accounts: that the user may submit with.
        accounts_needed: whether a job must have one of them.
        notes: sentences on the whole cluster.
    """

    name: str
    version: str
    gpu_types: tuple[GpuFacts, ...]
    partitions: tuple[PartitionFacts, ...]
    gpu_request: str
    gpu_request_why: str
    partition: str | None
    partition_why: str
    accounts: tuple[str, ...] = ()
    default_account: str | None = None
    accounts_needed: bool = False
    accounting: bool | None = None
    notes: tuple[str, ...] = ()
    machine: Machine = field(default_factory=Machine)
    unanswered: tuple[Unanswered, ...] = ()

    @property
    def usable(self) -> tuple[PartitionFacts, ...]:
        """Partitions that can serve."""
        return tuple(part for part in self.partitions if not part.left_out)
