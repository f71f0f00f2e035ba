"""What a plan is made from and what it is: frozen values, no effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.engines.model import NO_METRICS, ActivityMetrics, LogMarker

if TYPE_CHECKING:
    from hpcvlm.memory.advice import Advice
    from hpcvlm.memory.estimate import MemoryEstimate

# Small enough that many processes share one shard, large enough that starting them costs nothing.
PART_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LaunchRequest:
    """What the user typed; None and empty mean that nothing was said."""

    model: str
    name: str | None = None
    gpus: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int | None = None
    executor: str | None = None
    media_root: str | None = None
    engine_version: str | None = None
    settings: tuple[str, ...] = ()
    engine_arguments: tuple[str, ...] = ()
    listen: str | None = None
    keep: str | None = None
    idle: str | None = None
    restarts: int | None = None
    lease_s: int | None = None


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """GPUs per node, of one type or of any."""

    count: int
    type: str | None = None

    @property
    def text(self) -> str:
        """As sbatch takes it: ``A100:4`` or ``4``."""
        return f"{self.type}:{self.count}" if self.type else str(self.count)


class Issue(NamedTuple):
    """One reason why a launch would be wrong.

    Attributes:
        code: stable identifier; `hpcvlm.cli.errors` maps it to an exit code.
        field: the flag, key or file that is to blame.
        sentence: what is wrong.
        remedy: what to type or change.
        arguable: whether a user may know better; ``--force CODE`` then lets the launch go on.
    """

    code: str
    field: str
    sentence: str
    remedy: str = ""
    arguable: bool = False


@dataclass(frozen=True, slots=True)
class SbatchOption:
    """One ``#SBATCH --name=value`` line; an empty value leaves the name alone."""

    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host that the container sees at `target`.

    Attributes:
        in_image: whether `source` is a SquashFS image, whose content is seen.
    """

    source: str
    target: str
    read_only: bool = True
    in_image: bool = False

    @property
    def text(self) -> str:
        """As Apptainer's --bind takes it."""
        mode = "ro,image-src=/" if self.in_image else "ro" if self.read_only else "rw"
        return f"{self.source}:{self.target}:{mode}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlannedEngine:
    """The engine that will serve: its version, where it comes from, how it is started."""

    name: str
    version: str
    command: tuple[str, ...]
    image: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlannedSnapshot:
    """The files that will be served.

    Attributes:
        path: the snapshot folder.
        repository_folder: the hub cache's folder of the repository, which also holds the blobs
            that the snapshot's links point to.
        commit: 40 hexadecimal digits, or the revision as asked for when nothing is on disk.
        image: the SquashFS image that holds them; `path` is then where the container sees them.
        link_targets: what links lead to outside `repository_folder`: pairs of a path of the host
            and the path where a container must see it.
    """

    repo: str
    commit: str
    path: str
    repository_folder: str
    image: str | None = None
    link_targets: tuple[tuple[str, str], ...] = ()


class StagedFile(NamedTuple):
    """One file of a snapshot that can be copied to the node.

    Attributes:
        path: relative to the snapshot folder, with ``/``.
        size: bytes.
        sha256: of its content; empty where no manifest tells it, or nobody asked for hashes.
    """

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlannedStaging:
    """A copy of the snapshot on the node, made by the job.

    Attributes:
        folder: where copies lie; may name variables, such as ``$TMPDIR``.
        name: of this copy, one path component.
        files: what is copied.
        bytes: of all of them.
        digest: tells this list of files from any other.
        streams: processes that copy.
        keep: whether the copy stays for later jobs of the same user.
        part_bytes: what one process copies of a large file at a time.
    """

    folder: str
    name: str
    files: tuple[StagedFile, ...]
    bytes: int
    digest: str
    streams: int
    keep: bool
    part_bytes: int = PART_BYTES


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlannedPrefetch:
    """Weights read into the page cache while the engine starts.

    Attributes:
        streams: processes that read.
        file_systems: patterns for the types of file system on which it is done, as coreutils'
            ``stat -f -c %T`` names them; every one when empty.
        part_bytes: what one process reads of a large file at a time.
    """

    streams: int
    file_systems: tuple[str, ...]
    part_bytes: int = PART_BYTES


class PlannedNotify(NamedTuple):
    """Who is told what becomes of the endpoint; done by the job itself.

    Attributes:
        events: which of ``ready``, ``failed``, ``expiring``, ``ended``.
        command: argument list of a program of the node; what happened is in its environment.
        webhook_file: a file, readable by its owner alone, that holds the address that JSON is
            posted to.
        mail_to: an address for the node's ``mail`` command.
    """

    events: tuple[str, ...]
    command: tuple[str, ...] = ()
    webhook_file: str | None = None
    mail_to: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LaunchPlan:
    """Everything that one job will do, decided; rendering adds nothing to it.

    Attributes:
        name: of this job; also of its folder.
        endpoint: what the user calls the endpoint: `name`, but for a successor.
        generation: 1 for the first job of an endpoint, 2 for its successor, and so on.
        predecessor: job folder of the job that this one takes over from.
        keep_s: seconds from the first submission until which successors are queued; None for one
            job without a successor.
        overlap_s: seconds before the end of a job at which its successor may begin.
        listen: ``node`` (every interface), ``loopback`` or ``socket`` (a Unix socket in a private
            folder of the node).
        idle_s: the job ends when no request ran for so long; None for never.
        restarts: how often the engine is started again after it was ready, and how often Slurm
            may requeue the job.
        lease_s: the job ends when the file ``lease`` in its folder was not touched for so long;
            None where nobody has to.
        drain_grace_s: seconds for which a job that was taken over from still takes new requests.
        drain_timeout_s: seconds after which requests that still run are given up.
        hang_timeout_s: seconds without an answer after which an engine counts as hung.
        warn_before_s: seconds before the end at which the job warns.
        activity: names of the engine's metrics.
    """

    hpcvlm_version: str
    name: str
    model: str
    served_name: str
    vision: bool
    image_limit: int | None
    executor: str
    folder: str
    sbatch: tuple[SbatchOption, ...]
    partition: str | None
    nodes: int
    gpus: GpuRequest
    time_limit_s: int
    start_timeout_s: int
    stop_timeout_s: int
    tensor_parallel_size: int
    engine: PlannedEngine
    runtime: str
    gpu_flag: str
    modules: tuple[str, ...]
    binds: tuple[Bind, ...]
    snapshot: PlannedSnapshot
    engine_arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    listen_host: str
    media_root: str
    media_root_is_private: bool
    scratch_root: str | None
    cache: str
    phases: tuple[str, ...]
    log_markers: tuple[LogMarker, ...]
    port_taken_text: str
    sources: dict[str, str] = field(default_factory=dict)
    staging: PlannedStaging | None = None
    prefetch: PlannedPrefetch | None = None
    endpoint: str = ""
    generation: int = 1
    predecessor: str | None = None
    keep_s: int | None = None
    overlap_s: int = 0
    listen: str = "node"
    idle_s: int | None = None
    restarts: int = 0
    lease_s: int | None = None
    drain_grace_s: int = 30
    drain_timeout_s: int = 600
    hang_timeout_s: int = 300
    warn_before_s: tuple[int, ...] = (1800, 600)
    notify: PlannedNotify | None = None
    activity: ActivityMetrics = NO_METRICS


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MemoryFit:
    """The memory arithmetic for every GPU that a request can mean.

    Attributes:
        estimates: smallest GPU first; several where a name such as A100 has several sizes; none
            where the GPU or the model's shape is unknown.
        advice: single changes that make it fit on the largest of these.
        unknown: why there is no verdict; empty when there is one.
    """

    estimates: tuple[MemoryEstimate, ...] = ()
    advice: tuple[Advice, ...] = ()
    unknown: str = ""

    @property
    def fits(self) -> bool | None:
        """False when it fits on none of the GPUs, True when on any; None when nobody can say."""
        verdicts = {found.fits for found in self.estimates}
        return True if True in verdicts else False if verdicts == {False} else None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlanResult:
    """A plan with every issue found; a launch needs that there are none.

    Attributes:
        memory: whether the model fits.
        notes: what was changed for the engine's version, in sentences.
    """

    plan: LaunchPlan
    issues: tuple[Issue, ...]
    memory: MemoryFit = MemoryFit()
    notes: tuple[str, ...] = ()
