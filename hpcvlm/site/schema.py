"""The schema of a site file: everything hpcvlm must know about one cluster.

Site names, paths and partitions stand in such files only, never in code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.time import EXPECTED, parse_duration
from hpcvlm.yamlfile.schema import Rule, Section, about


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except HpcvlmError:
        return False
    return True


Bind = Annotated[
    str,
    Rule(
        "a folder as /source, /source:/target or /source:/target:ro (or rw)",
        pattern=r"/[^:]*(?::/[^:]*(?::(?:ro|rw))?)?",
    ),
]
EngineVersion = Annotated[
    str, Rule("a version such as '0.10.2'", pattern=r"[0-9]+(?:\.[0-9]+)+[A-Za-z0-9.+_-]*")
]
Command = Annotated[tuple[str, ...], Rule("a list with a command and its arguments", at_least=1)]
Count = Annotated[int, Rule("a whole number, 1 or more", at_least=1)]
Memory = Annotated[str, Rule("a size such as 60G", pattern=r"[0-9]+[KMGT]?")]
Duration = Annotated[str, Rule(f"a duration {EXPECTED}", accepts=_is_duration)]
ScratchFolder = Annotated[
    str,
    Rule(
        "a folder such as /scratch/$USER or $TMPDIR (letters, digits, / . _ - and $NAME)",
        pattern=r"(?:/|\$[A-Za-z_])(?:[A-Za-z0-9_./-]|\$[A-Za-z_])*",
    ),
]
GpuTypeName = Annotated[
    str,
    Rule(
        "a GPU type such as A100 (letters, digits, dots, underscores and hyphens)",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    ),
]
GpuRequest = Literal["gpus-per-node", "gres", "constraint"]
VariableName = Annotated[
    str, Rule("the name of an environment variable", pattern=r"[A-Za-z_][A-Za-z0-9_]*")
]
SbatchOption = Annotated[
    str,
    Rule("a long sbatch option without its dashes, such as mail-type", pattern=r"[a-z][a-z0-9-]+"),
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EngineInstall(Section):
    """One installed engine: a container image, or a command on the nodes themselves."""

    name: Literal["vllm"] = field(default="vllm", metadata=about("the engine"))
    version: EngineVersion = field(metadata=about("its version"))
    image: str | None = field(
        default=None, metadata=about(".sif file; left out where the engine needs no container")
    )
    command: Command = field(
        default=("vllm",), metadata=about("command that starts the engine's CLI")
    )
    binds: tuple[Bind, ...] = field(default=(), metadata=about("folders this image needs"))
    environment: dict[VariableName, str] = field(
        default_factory=dict, metadata=about("environment of this engine")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GpuType(Section):
    """One type of GPU of this site: what users call it, and how Slurm is asked for it."""

    slurm_name: GpuTypeName | None = field(
        default=None, metadata=about("what Slurm calls it; the type's own name when left out")
    )
    hardware: str | None = field(
        default=None,
        metadata=about("the product, such as 'NVIDIA A100-SXM4-80GB', where names do not say it"),
    )
    memory: Memory | None = field(
        default=None, metadata=about("memory of one GPU, as its maker says it, such as 80G")
    )
    request: GpuRequest | None = field(
        default=None, metadata=about("as gpu_request, for this type only")
    )
    constraint: str | None = field(
        default=None, metadata=about("node feature that picks this type, such as a100-80")
    )
    aliases: tuple[GpuTypeName, ...] = field(
        default=(), metadata=about("further names that users may type")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PartitionSpec(Section):
    """What is known of one partition beyond what sinfo says, or where no one can ask sinfo."""

    gpus: dict[GpuTypeName, Count] = field(
        default_factory=dict, metadata=about("most GPUs on one node, by type")
    )
    cpus: Count | None = field(default=None, metadata=about("CPU cores of one node"))
    memory: Memory | None = field(default=None, metadata=about("main memory of one node"))
    time_limit: Duration | None = field(default=None, metadata=about("longest time of a job"))
    account: str | None = field(default=None, metadata=about("account for jobs of this partition"))
    qos: str | None = field(default=None, metadata=about("QOS for jobs of this partition"))
    constraint: str | None = field(
        default=None, metadata=about("node features for jobs of this partition")
    )
    cpus_per_gpu: Count | None = field(
        default=None, metadata=about("as the site's cpus_per_gpu, for this partition")
    )
    memory_per_gpu: Memory | None = field(
        default=None, metadata=about("as the site's memory_per_gpu, for this partition")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Proxy(Section):
    """How compute nodes reach the outside, where they need help for that."""

    http: str | None = field(default=None, metadata=about("http_proxy of the engine"))
    https: str | None = field(default=None, metadata=about("https_proxy of the engine"))
    no_proxy: tuple[str, ...] = field(
        default=(), metadata=about("hosts and domains that need no proxy, besides the node itself")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Notify(Section):
    """Mails that Slurm sends about a job."""

    mail_type: tuple[str, ...] = field(
        default=(),
        metadata=about("when, as sbatch's --mail-type takes it: END, FAIL, TIME_LIMIT_80"),
    )
    mail_user: str | None = field(
        default=None, metadata=about("to whom; the job's owner when left out")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SiteSpec(Section):
    """What is particular to one cluster."""

    schema_version: Literal[1] = field(
        default=1, metadata=about("version of this schema", key="schema")
    )
    name: str = field(default="this site", metadata=about("the cluster's name, for messages"))
    executor: Literal["auto", "slurm", "local"] = field(
        default="auto",
        metadata=about("where jobs run; auto takes Slurm where there is an sbatch command"),
    )
    partition: str | None = field(
        default=None, metadata=about("partition when none is asked for; Slurm's own otherwise")
    )
    account: str | None = field(default=None, metadata=about("account when none is asked for"))
    qos: str | None = field(default=None, metadata=about("QOS when none is asked for"))
    constraint: str | None = field(
        default=None, metadata=about("node features when none are asked for")
    )
    required: tuple[Literal["partition", "account", "qos", "time"], ...] = field(
        default=(), metadata=about("what every job must say here")
    )
    gpu_request: GpuRequest = field(
        default="gpus-per-node",
        metadata=about(
            "how GPUs are asked for here: --gpus-per-node=TYPE:N, --gres=gpu:TYPE:N, or "
            "--gpus-per-node=N with the type as --constraint"
        ),
    )
    gpu_types: dict[GpuTypeName, GpuType] = field(
        default_factory=dict, metadata=about("GPU types by the name that users type")
    )
    partitions: dict[str, PartitionSpec] = field(
        default_factory=dict, metadata=about("partitions by name")
    )
    cpus_per_gpu: Count | None = field(default=None, metadata=about("CPU cores for each GPU"))
    memory_per_gpu: Memory | None = field(default=None, metadata=about("main memory for each GPU"))
    sbatch: dict[SbatchOption, str] = field(
        default_factory=dict, metadata=about("further sbatch options, without the leading dashes")
    )
    modules: tuple[str, ...] = field(default=(), metadata=about("environment modules to load"))
    runtime: Literal["apptainer", "singularity", "docker", "podman", "none"] = field(
        default="apptainer", metadata=about("what runs container images")
    )
    gpu_flag: Literal["--nv", "--rocm", ""] = field(
        default="--nv", metadata=about("the runtime's flag that lets a container see the GPUs")
    )
    engines: tuple[EngineInstall, ...] = field(
        default=(), metadata=about("the engines installed here")
    )
    image_folder: str | None = field(
        default=None, metadata=about("where vllm-VERSION.sif lies for versions not listed")
    )
    hub_caches: tuple[str, ...] = field(
        default=(), metadata=about("Hugging Face hub caches, searched in this order")
    )
    media_root: str | None = field(
        default=None, metadata=about("folder below which file:// images are allowed")
    )
    media_roots: tuple[str, ...] = field(
        default=(),
        metadata=about("the only folders that --media-root may name or lie below; all when empty"),
    )
    cache_root: str | None = field(
        default=None, metadata=about("private folder for the engine's compile caches")
    )
    scratch_root: ScratchFolder | None = field(
        default=None,
        metadata=about(
            "folder for temporary files on the nodes; may name variables such as $TMPDIR"
        ),
    )
    binds: tuple[Bind, ...] = field(default=(), metadata=about("folders every container needs"))
    proxy: Proxy = field(default=Proxy(), metadata=about("how compute nodes reach the outside"))
    notify: Notify = field(default=Notify(), metadata=about("mails that Slurm sends about a job"))
    listen: Literal["node", "loopback"] = field(
        default="node",
        metadata=about("whether other hosts reach the engine, or only its own node"),
    )
    environment: dict[VariableName, str] = field(
        default_factory=dict, metadata=about("environment of every engine")
    )
