"""The schema of a site file: everything hpcvlm must know about one cluster.

Site names, paths and partitions stand in such files only, never in code.
"""

# Without `from __future__ import annotations`: the types are read at run time, and as texts each
# of them would have to be compiled a second time.
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
Restarts = Annotated[int, Rule("a whole number, 0 or more", at_least=0)]
Memory = Annotated[str, Rule("a size such as 60G", pattern=r"[0-9]+[KMGT]?")]
Duration = Annotated[str, Rule(f"a duration {EXPECTED}", accepts=_is_duration)]
AbsolutePath = Annotated[
    str, Rule("a path from the root, such as /etc/hpcvlm/webhook", pattern=r"/.+")
]
Folder = Annotated[
    str,
    Rule(
        "a folder from the root or from home, such as /data/pictures or ~/pictures",
        pattern=r"(?:/|~).*",
    ),
]
# As sbatch(1) has them for --mail-type.
MailType = Literal[
    "NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT",
    "TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS",
]  # fmt: skip
HostName = Annotated[
    str,
    Rule(
        "the name or address of a host as it stands in URLs, such as images.example.org, or '*'",
        pattern=r"\*|[A-Za-z0-9_.:-]+",
    ),
]
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


class EngineInstall(Section):
    """One installed engine: a container image, or a command on the nodes themselves."""

    name: Literal["vllm"] = about("the engine", default="vllm")
    version: EngineVersion = about("its version")
    image: str | None = about(
        ".sif file; left out where the engine needs no container", default=None
    )
    command: Command = about("command that starts the engine's CLI", default=("vllm",))
    binds: tuple[Bind, ...] = about("folders this image needs", default=())
    environment: dict[VariableName, str] = about("environment of this engine", default_factory=dict)


class GpuType(Section):
    """One type of GPU of this site: what users call it, and how Slurm is asked for it."""

    slurm_name: GpuTypeName | None = about(
        "what Slurm calls it; the type's own name when left out", default=None
    )
    hardware: str | None = about(
        "the product, such as 'NVIDIA A100-SXM4-80GB', where names do not say it", default=None
    )
    memory: Memory | None = about(
        "memory of one GPU, as its maker says it, such as 80G", default=None
    )
    request: GpuRequest | None = about("as gpu_request, for this type only", default=None)
    constraint: str | None = about(
        "node feature that picks this type, such as a100-80", default=None
    )
    aliases: tuple[GpuTypeName, ...] = about("further names that users may type", default=())


class PartitionSpec(Section):
    """What is known of one partition beyond what sinfo says, or where no one can ask sinfo."""

    gpus: dict[GpuTypeName, Count] = about("most GPUs on one node, by type", default_factory=dict)
    cpus: Count | None = about("CPU cores of one node", default=None)
    memory: Memory | None = about("main memory of one node", default=None)
    time_limit: Duration | None = about("longest time of a job", default=None)
    account: str | None = about("account for jobs of this partition", default=None)
    qos: str | None = about("QOS for jobs of this partition", default=None)
    constraint: str | None = about("node features for jobs of this partition", default=None)
    cpus_per_gpu: Count | None = about(
        "as the site's cpus_per_gpu, for this partition", default=None
    )
    memory_per_gpu: Memory | None = about(
        "as the site's memory_per_gpu, for this partition", default=None
    )


class Proxy(Section):
    """How compute nodes reach the outside, where they need help for that."""

    http: str | None = about("http_proxy of the engine", default=None)
    https: str | None = about("https_proxy of the engine", default=None)
    no_proxy: tuple[str, ...] = about(
        "hosts and domains that need no proxy, besides the node itself", default=()
    )


class Notify(Section):
    """Who is told what becomes of an endpoint: by Slurm's mails, and by the job itself."""

    mail_type: tuple[MailType, ...] = about(
        "when Slurm sends a mail, as sbatch's --mail-type takes it", default=()
    )
    mail_user: str | None = about("to whom Slurm does; the job's owner when left out", default=None)
    events: tuple[Literal["ready", "failed", "expiring", "ended"], ...] = about(
        "when the job itself runs the command, posts to the webhook and sends the mail below",
        default=("expiring", "failed"),
    )
    command: tuple[str, ...] = about(
        "program of the nodes and its arguments; what happened is in its environment", default=()
    )
    webhook_file: AbsolutePath | None = about(
        "file that holds an address which JSON is posted to, as Slack's webhooks take it; only its "
        "owner may read it",
        default=None,
    )
    mail_to: str | None = about("address for the mail command of the nodes", default=None)


class Keep(Section):
    """Endpoints that outlast a job (`launch --keep`): jobs that take over from each other."""

    overlap: Duration | None = about(
        "how long before the end of a job its successor may begin; the model's start_timeout and "
        "ten minutes when left out, at most half of the job's time",
        default=None,
    )
    most_jobs: Count = about("most jobs that one launch may queue", default=50)


class Store(Section):
    """The store of model snapshots that an admin answers for."""

    folder: str | None = about(
        "hub cache that snapshots are pulled into; the first of hub_caches when left out",
        default=None,
    )
    access: Literal["group", "world", "private"] = about(
        "who may read what is pulled: the store's group, everybody, or only its owner",
        default="group",
    )
    group: str | None = about(
        "group that owns what is pulled; the store folder's own when left out", default=None
    )
    lock_file: str | None = about(
        "list of approved snapshots; snapshots.lock.yaml in the user's configuration when left out",
        default=None,
    )
    approved_only: bool = about(
        "whether launches may serve only snapshots of the lock file", default=False
    )
    user_caches: tuple[str, ...] = about(
        "where users keep caches of their own, such as /home/*/.cache/huggingface/hub, for audits",
        default=(),
    )


class Staging(Section):
    """Copying weights to the node before the engine reads them."""

    folder: ScratchFolder | None = about(
        "folder on the node, such as $TMPDIR or /dev/shm; nothing is copied when left out",
        default=None,
    )
    always: bool = about("also for models whose file does not ask for it", default=False)
    streams: Count = about("files, or parts of large ones, copied at once", default=8)
    check: Literal["sizes", "hashes"] = about(
        "how a copy is compared with the snapshot's manifest", default="sizes"
    )
    keep: bool = about("leave the copy for later jobs of the same user", default=False)
    prefetch: Literal["auto", "always", "never"] = about(
        "read the weights into the page cache while the engine starts, where they are not copied; "
        "auto: on network file systems that the engine does not prefetch from by itself",
        default="auto",
    )


class Images(Section):
    """Making and checking container images."""

    build_as: Literal["here", "job"] = about(
        "where images are built: on this machine, or as a Slurm job", default="here"
    )
    partition: str | None = about("partition of a build job", default=None)
    time: Duration = about("time limit of a build job", default="2h")
    temporary: ScratchFolder | None = about(
        "folder with space for a build's temporary files", default=None
    )
    cache: str | None = about("the runtime's own cache of layers", default=None)
    registry: str | None = about(
        "where official images come from, instead of docker.io", default=None
    )
    signed_by: tuple[str, ...] = about(
        "fingerprints of keys; a launch then needs an image that one of them has signed",
        default=(),
    )


class SiteSpec(Section):
    """What is particular to one cluster."""

    schema_version: Literal[1] = about("version of this schema", default=1, written="schema")
    name: str = about("the cluster's name, for messages", default="this site")
    executor: Literal["auto", "slurm", "local"] = about(
        "where jobs run; auto takes Slurm where there is an sbatch command", default="auto"
    )
    partition: str | None = about(
        "partition when none is asked for; Slurm's own otherwise", default=None
    )
    account: str | None = about("account when none is asked for", default=None)
    qos: str | None = about("QOS when none is asked for", default=None)
    constraint: str | None = about("node features when none are asked for", default=None)
    required: tuple[Literal["partition", "account", "qos", "time"], ...] = about(
        "what every job must say here", default=()
    )
    gpu_request: GpuRequest = about(
        "how GPUs are asked for here: --gpus-per-node=TYPE:N, --gres=gpu:TYPE:N, or "
        "--gpus-per-node=N with the type as --constraint",
        default="gpus-per-node",
    )
    gpu_types: dict[GpuTypeName, GpuType] = about(
        "GPU types by the name that users type", default_factory=dict
    )
    partitions: dict[str, PartitionSpec] = about("partitions by name", default_factory=dict)
    cpus_per_gpu: Count | None = about("CPU cores for each GPU", default=None)
    memory_per_gpu: Memory | None = about("main memory for each GPU", default=None)
    sbatch: dict[SbatchOption, str] = about(
        "further sbatch options, without the leading dashes", default_factory=dict
    )
    modules: tuple[str, ...] = about("environment modules to load", default=())
    runtime: Literal["apptainer", "singularity", "docker", "podman", "none"] = about(
        "what runs container images", default="apptainer"
    )
    gpu_flag: Literal["--nv", "--rocm", ""] = about(
        "the runtime's flag that lets a container see the GPUs", default="--nv"
    )
    engines: tuple[EngineInstall, ...] = about("the engines installed here", default=())
    image_folder: str | None = about(
        "where vllm-VERSION.sif lies for versions not listed", default=None
    )
    hub_caches: tuple[str, ...] = about(
        "Hugging Face hub caches, searched in this order", default=()
    )
    store: Store = about("the store of snapshots that an admin answers for", default=Store())
    staging: Staging = about("copying weights to the node", default=Staging())
    images: Images = about("making and checking container images", default=Images())
    media_root: str | None = about("folder below which file:// images are allowed", default=None)
    media_roots: tuple[Folder, ...] = about(
        "the only folders that --media-root may name or lie below; all when empty", default=()
    )
    cache_root: str | None = about("private folder for the engine's compile caches", default=None)
    scratch_root: ScratchFolder | None = about(
        "folder for temporary files on the nodes; may name variables such as $TMPDIR", default=None
    )
    binds: tuple[Bind, ...] = about("folders every container needs", default=())
    proxy: Proxy = about("how compute nodes reach the outside", default=Proxy())
    media_domains: tuple[HostName, ...] = about(
        "the only hosts that engines may fetch images from; none when empty, any with '*'",
        default=(),
    )
    notify: Notify = about("who is told what becomes of an endpoint", default=Notify())
    listen: Literal["node", "loopback", "socket"] = about(
        "who reaches the engine: other hosts, every user of its own node, or through a Unix socket "
        "its own user only; hpcvlm connect makes a way from elsewhere",
        default="node",
    )
    keep: Keep = about("endpoints that outlast a job", default=Keep())
    idle: Duration | None = about(
        "a job ends when no request has run for so long; never when left out", default=None
    )
    restarts: Restarts = about(
        "how often an engine that was ready is started again when it dies, and how often Slurm may "
        "requeue its job",
        default=0,
    )
    environment: dict[VariableName, str] = about(
        "environment of every engine", default_factory=dict
    )
