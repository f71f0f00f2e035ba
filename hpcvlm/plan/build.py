"""From what was asked and what there is to one frozen plan, with every issue found on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hpcvlm import __version__
from hpcvlm.catalog.schema import ModelSpec, is_version
from hpcvlm.engines import vllm
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.approved import Approvals, approval_issues
from hpcvlm.plan.binds import binds_of, path_issues
from hpcvlm.plan.engine import choose_engine
from hpcvlm.plan.engine_fit import fit_to_engine, gpu_age_issues
from hpcvlm.plan.environment import engine_variables, start_timeout_s
from hpcvlm.plan.gpus import (
    ChosenGpus,
    choose_gpus,
    cluster_issues,
    gpu_candidates,
    gpu_issues,
    only_gpu_type,
    parse_gpus,
    site_type,
)
from hpcvlm.plan.life import (
    Kept,
    check_life,
    choose_idle,
    choose_kept,
    choose_listen,
    choose_notify,
    choose_restarts,
    keep_issues,
    keep_notes,
    listen_issues,
)
from hpcvlm.plan.model import (
    Issue,
    LaunchPlan,
    LaunchRequest,
    MemoryFit,
    PlannedEngine,
    PlannedSnapshot,
    PlanResult,
    StagedFile,
)
from hpcvlm.plan.options import option_source, serve_options
from hpcvlm.plan.refusals import one_node_only, snapshot_issues, unsupported
from hpcvlm.plan.safety import (
    DOMAINS,
    media_notes,
    media_options,
    media_root_issues,
    media_root_of,
    safety_issues,
)
from hpcvlm.plan.sbatch import partition_of, required_issues, sbatch_options
from hpcvlm.plan.sources import COMMAND_LINE, DEFAULT, Sources
from hpcvlm.plan.staging import prefetch_of, staging_of
from hpcvlm.plan.time_limit import choose_time, longest_time, place_of
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.time import parse_duration

if TYPE_CHECKING:
    from hpcvlm.memory.gpus import GpuSpec

# Slurm's own KillWait is 30 s by default (slurm.conf(5)): the script must be done before that.
STOP_TIMEOUT_S = 20
_MADE_UP = "made up"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Surroundings:
    """What was found outside: all that a plan needs besides files and the request.

    Attributes:
        executor: ``slurm`` or ``local``, decided.
        name: name of the endpoint.
        folder: job folder, absolute.
        cluster: None when there is no Slurm, or when nobody asked it.
        snapshot: where the files are, or would be.
        snapshot_problems: why they cannot be served; empty when they can.
        snapshot_on_disk: whether any of them are there.
        attention_heads: from the snapshot's config.json, None when that is not on disk.
        images_on_disk: container images that exist, of those that the site names.
        cache_root: private folder for compile caches.
        sources: where each value came from, by dotted key.
        model: ``name`` or ``name:variant``; the model's own name when empty.
        config: the snapshot's config.json; None when it is not on disk.
        weight_bytes: of the snapshot's weights on disk; None when they are not all there.
        preprocessor: the snapshot's preprocessor_config.json; None when it has none.
        approvals: what the site lets launches serve; None where it lets them serve everything.
        files: of the snapshot, for a copy on the node; empty when they are not all there.
        endpoint: what the user calls it, where that is not `name`: of a successor.
        generation: 1 for the first job of an endpoint.
        predecessor: job folder of the job that this one takes over from.
    """

    executor: str
    name: str
    folder: str
    cluster: Cluster | None
    snapshot: PlannedSnapshot
    snapshot_problems: tuple[str, ...]
    attention_heads: int | None
    images_on_disk: frozenset[str]
    cache_root: str
    sources: Mapping[str, str]
    model: str = ""
    config: Mapping[str, object] | None = None
    weight_bytes: int | None = None
    preprocessor: Mapping[str, object] | None = None
    snapshot_on_disk: bool = True
    approvals: Approvals | None = None
    files: tuple[StagedFile, ...] = ()
    endpoint: str = ""
    generation: int = 1
    predecessor: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Inputs:
    """What every part of the planning looks at."""

    request: LaunchRequest
    spec: ModelSpec
    site: SiteSpec
    found: Surroundings
    sources: Sources
    partition: str | None
    gpus: ChosenGpus
    issues: list[Issue] = field(default_factory=list)


def check_request(request: LaunchRequest, spec: ModelSpec) -> None:
    """Refuse values of the command line that cannot be read.

    Raises:
        HpcvlmError: ``gpus-invalid``, ``time-invalid`` or ``option-invalid``.
    """
    if request.gpus is not None:
        parse_gpus(request.gpus, spec)
    if request.engine_version is not None and not is_version(request.engine_version):
        raise HpcvlmError(
            "option-invalid",
            f"--engine-version {request.engine_version!r} is not a version",
            "for example --engine-version 0.10.2",
        )
    if request.time is not None:
        parse_duration(request.time, "--time")
    check_life(request)


def build_plan(
    request: LaunchRequest, spec: ModelSpec, site: SiteSpec, found: Surroundings
) -> PlanResult:
    """Decide everything.

    Raises:
        HpcvlmError: a value that cannot be read at all (``gpus-invalid``, ``time-invalid``).
    """
    sources = Sources(found.sources)
    partition = partition_of(request, site, sources)
    gpus = choose_gpus(request.gpus, spec, site)
    sources.say("gpus", COMMAND_LINE if request.gpus else "model.parallelism.gpus")
    asked = _Inputs(request, spec, site, found, sources, partition, gpus)
    engine, engine_issues = choose_engine(spec, site, found.images_on_disk, request.engine_version)
    place = place_of(found.cluster, partition)
    time_limit_s, time_issues = choose_time(request, spec, site, found.cluster, place, sources)
    # What the user typed comes first, then what the cluster has, then what is on disk.
    issues = unsupported(spec)
    heads = found.attention_heads or spec.parallelism.attention_heads
    issues += gpu_issues(gpus.asked, heads, found.executor, spec.parallelism.sizes)
    if (request.nodes or 1) > 1:
        issues.append(one_node_only(request))
    if found.cluster is not None:
        issues += cluster_issues(gpus, found.cluster, partition)
    issues += [*time_issues, *engine_issues, *_snapshot_issues(asked)]
    media_root = media_root_of(request, site, sources) or _private_media(found)
    options = serve_options(
        spec,
        snapshot=found.snapshot.path,
        media_root=media_root,
        tensor_parallel_size=max(1, gpus.asked.count),
        media=media_options(spec, site, engine.version),
    )
    cache = f"{found.cache_root}/{_cache_name(engine)}"
    environment = engine_variables(
        spec, site, engine, folder=found.folder, cache=cache, sources=sources
    )
    fit = fit_to_engine(
        spec, engine.version, options, request.engine_arguments, environment, found.config
    )
    memory = _memory(asked, engine, fit.options)
    environment = {
        name: value
        for name, value in {**environment, **fit.environment}.items()
        if name not in fit.unset
    }
    kept = choose_kept(
        request,
        site,
        time_limit_s=time_limit_s,
        longest_s=longest_time(site, found.cluster, place),
        start_timeout_s=start_timeout_s(spec),
        sources=sources,
    )
    plan = _assemble(asked, engine, kept, media_root, cache, dict(fit.options), environment)
    issues += fit.issues
    issues += safety_issues(spec, plan, fit.options, request.engine_arguments)
    issues += listen_issues(plan.listen, engine.version)
    issues += keep_issues(request, site, found.executor, kept)
    issues += gpu_age_issues(_gpu_specs(asked), engine.version)
    if found.executor == "slurm":
        issues += required_issues(request, site, plan.sbatch)
    issues += media_root_issues(request, site)
    if memory.fits is False and not any(issue.code == "tensor-parallel" for issue in issues):
        from hpcvlm.plan.memory import memory_issues

        issues += memory_issues(memory, gpus.asked.text)
    issues += path_issues(plan)
    notes = (*fit.notes, *keep_notes(kept), *media_notes(spec, site, engine.version))
    return PlanResult(plan, tuple(issues), memory, notes)


def _gpu_specs(asked: _Inputs) -> tuple[GpuSpec, ...]:
    """The GPUs that the request can mean, smallest first; none where that is unknown."""
    gpus = asked.gpus
    name = gpus.asked.type or only_gpu_type(asked.found.cluster, asked.partition)
    if name is None:
        return ()
    return gpu_candidates(name, gpus.type or site_type(name, asked.site)[1])


def _memory(asked: _Inputs, engine: PlannedEngine, options: Mapping[str, object]) -> MemoryFit:
    """Whether the model fits on what was asked for; unknown without a GPU or its type."""
    found, gpus = asked.found, asked.gpus
    if gpus.asked.count < 1 or engine.version.endswith("+cpu"):
        return MemoryFit(unknown="the engine runs on CPUs")
    from hpcvlm.plan.memory import estimate_options, memory_fit, model_shape

    return memory_fit(
        asked.spec,
        model_shape(asked.spec, found.config, found.weight_bytes, found.preprocessor),
        _gpu_specs(asked),
        gpus.asked.count,
        engine.version,
        estimate_options(options, asked.request.engine_arguments),
    )


def _assemble(
    asked: _Inputs,
    engine: PlannedEngine,
    kept: Kept,
    media_root: str,
    cache: str,
    options: Mapping[str, object],
    environment: Mapping[str, str],
) -> LaunchPlan:
    request, spec, site, found = asked.request, asked.spec, asked.site, asked.found
    sources, gpus = asked.sources, asked.gpus
    _say_where_from(asked, options, engine)
    listen, listen_host = choose_listen(request, site, found.executor, sources)
    restarts = choose_restarts(request, site, sources)
    sbatch = sbatch_options(
        request,
        site,
        name=found.name,
        folder=found.folder,
        snapshot=found.snapshot,
        partition=asked.partition,
        place=place_of(found.cluster, asked.partition),
        gpus=gpus,
        time_limit_s=kept.time_limit_s,
        requeue=restarts > 0,
        sources=sources,
    )
    idle_s, notify = choose_idle(request, site, sources), choose_notify(site, sources)
    return LaunchPlan(
        hpcvlm_version=__version__,
        name=found.name,
        model=found.model or spec.name,
        served_name=str(options["served-model-name"]),
        vision=spec.vision,
        image_limit=spec.multimodal.limit_per_prompt.get("image"),
        executor=found.executor,
        folder=found.folder,
        sbatch=sbatch,
        partition=asked.partition,
        nodes=request.nodes or 1,
        gpus=gpus.asked,
        time_limit_s=kept.time_limit_s,
        start_timeout_s=start_timeout_s(spec),
        stop_timeout_s=STOP_TIMEOUT_S,
        tensor_parallel_size=max(1, gpus.asked.count),
        engine=engine,
        runtime=site.runtime if engine.image else "none",
        gpu_flag=site.gpu_flag if engine.image and gpus.asked.count else "",
        modules=site.modules,
        binds=binds_of(
            site,
            engine,
            folder=found.folder,
            snapshot=found.snapshot,
            media_root=media_root,
            cache=cache,
        ),
        snapshot=found.snapshot,
        engine_arguments=vllm.serve_arguments(
            found.snapshot.path, options, request.engine_arguments
        ),
        environment=tuple(environment.items()),
        listen_host=listen_host,
        media_root=media_root,
        media_root_is_private=media_root == _private_media(found),
        scratch_root=site.scratch_root,
        cache=cache,
        phases=vllm.PHASES,
        log_markers=vllm.LOG_MARKERS,
        port_taken_text=vllm.PORT_TAKEN,
        sources=dict(sources.taken),
        staging=staging_of(
            spec.stage, site.staging, found.snapshot, found.files, options, request.engine_arguments
        ),
        prefetch=prefetch_of(
            site.staging,
            found.snapshot,
            found.weight_bytes,
            engine.version,
            options,
            request.engine_arguments,
        ),
        endpoint=found.endpoint or found.name,
        generation=found.generation,
        predecessor=found.predecessor,
        keep_s=kept.keep_s,
        overlap_s=kept.overlap_s,
        listen=listen,
        idle_s=idle_s,
        restarts=restarts,
        lease_s=request.lease_s,
        notify=notify,
        activity=vllm.activity_metrics(engine.version),
    )


def _private_media(found: Surroundings) -> str:
    """The folder of the endpoint's first job, so that pictures stay where they are."""
    first = PurePosixPath(found.folder).with_name(found.endpoint or found.name)
    return str(first / "media")


def _say_where_from(asked: _Inputs, options: Mapping[str, object], engine: PlannedEngine) -> None:
    sources, known = asked.sources, asked.sources.known
    sources.say("model", COMMAND_LINE)
    sources.say("endpoint", COMMAND_LINE if asked.request.name else _MADE_UP)
    sources.say("snapshot", "model.snapshot.repo")
    sources.say("revision", "model.snapshot.revision")
    if asked.spec.snapshot.path is not None:
        sources.say("snapshot path", "model.snapshot.path")
    asked_version = asked.request.engine_version
    sources.say("engine", COMMAND_LINE if asked_version else "site.engines")
    if engine.image:
        sources.say("container", "site.engines" if asked.site.engines else "site.image_folder")
    for name in options:
        places = [f"model.{key}" for key in option_source(name)]
        said = next((p for p in places if known.get(p, DEFAULT) != DEFAULT or _has(known, p)), None)
        sources.say(f"option {name}", said or "hpcvlm")
    sources.say("option tensor-parallel-size", "from the GPUs")
    if sources.taken.get(f"option {DOMAINS}") == "hpcvlm" and asked.site.media_domains:
        sources.say(f"option {DOMAINS}", "site.media_domains")
    if "option allowed-local-media-path" in sources.taken:
        sources.say("option allowed-local-media-path", "from the media root")


def _has(known: Mapping[str, str], place: str) -> bool:
    """Whether a file says something below a key, as for a mapping."""
    return any(key.startswith(f"{place}.") for key in known)


def _snapshot_issues(asked: _Inputs) -> list[Issue]:
    found, spec = asked.found, asked.spec
    if spec.unsupported is not None:
        return []
    name = found.model or spec.name
    on_disk, approvals = found.snapshot_on_disk, found.approvals
    issues = snapshot_issues(spec, name, found.snapshot, found.snapshot_problems, on_disk)
    if approvals is not None and on_disk:
        issues += approval_issues(found.snapshot, approvals)
    return issues


def _cache_name(engine: PlannedEngine) -> str:
    """One cache per engine build: another image never reads what this one compiled."""
    identity = engine.image or "\0".join(engine.command)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{engine.name}-{engine.version}-{digest}"
