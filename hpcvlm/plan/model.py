"""What a plan is made from and what it is: frozen values, no effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.engines.model import LogMarker

if TYPE_CHECKING:
    from hpcvlm.memory.advice import Advice
    from hpcvlm.memory.estimate import MemoryEstimate


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
    """A folder or file of the host that the container sees at `target`."""

    source: str
    target: str
    read_only: bool = True

    @property
    def text(self) -> str:
        """As Apptainer's --bind takes it."""
        return f"{self.source}:{self.target}:{'ro' if self.read_only else 'rw'}"


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
    """

    repo: str
    commit: str
    path: str
    repository_folder: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LaunchPlan:
    """Everything that one job will do, decided; rendering adds nothing to it."""

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
