"""The schema of a site file: everything hpcvlm must know about one cluster.

Site names, paths and partitions stand in such files only, never in code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from hpcvlm.yamlfile.schema import Rule, Section, about

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
VariableName = Annotated[
    str, Rule("the name of an environment variable", pattern=r"[A-Za-z_][A-Za-z0-9_]*")
]
SbatchOption = Annotated[
    str,
    Rule("a long sbatch option without its dashes, such as mail-type", pattern=r"[a-z][a-z0-9-]+"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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
    gpu_request: Literal["gpus-per-node", "gres"] = field(
        default="gpus-per-node", metadata=about("the sbatch option that asks for GPUs here")
    )
    cpus_per_gpu: Count | None = field(default=None, metadata=about("CPU cores for each GPU"))
    memory_per_gpu: Memory | None = field(default=None, metadata=about("main memory for each GPU"))
    sbatch: dict[SbatchOption, str] = field(
        default_factory=dict, metadata=about("further sbatch options, without the leading dashes")
    )
    modules: tuple[str, ...] = field(default=(), metadata=about("environment modules to load"))
    runtime: Literal["apptainer", "singularity", "none"] = field(
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
    cache_root: str | None = field(
        default=None, metadata=about("private folder for the engine's compile caches")
    )
    binds: tuple[Bind, ...] = field(default=(), metadata=about("folders every container needs"))
    listen: Literal["node", "loopback"] = field(
        default="node",
        metadata=about("whether other hosts reach the engine, or only its own node"),
    )
    environment: dict[VariableName, str] = field(
        default_factory=dict, metadata=about("environment of every engine")
    )
