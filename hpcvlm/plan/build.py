"""From what was asked and what there is to one frozen plan, with every issue found on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from hpcvlm import __version__
from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.engines import vllm
from hpcvlm.plan.engine import choose_engine
from hpcvlm.plan.gpus import cluster_issues, default_count, gpu_issues, parse_gpus
from hpcvlm.plan.model import (
    Bind,
    GpuRequest,
    Issue,
    LaunchPlan,
    LaunchRequest,
    PlannedEngine,
    PlannedSnapshot,
    PlanResult,
    SbatchOption,
)
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.time import format_time_limit, parse_duration

# Seconds before the time limit at which Slurm warns the script; sbatch(1) says that the signal
# may come up to 60 s early.
WARN_BEFORE_END_S = 60
# Slurm's own KillWait is 30 s by default (slurm.conf(5)): the script must be done before that.
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found outside: all that a plan needs besides files and the request.

    Attributes:
        executor: ``slurm`` or ``local``, decided.
        name: name of the endpoint.
        folder: job folder, absolute.
        cluster: None when there is no Slurm, or when nobody asked it.
        snapshot: where the files are, or would be.
        snapshot_problems: why they cannot be served; empty when they can.
        attention_heads: from the snapshot's config.json, None when that is not on disk.
        images_on_disk: container images that exist, of those that the site names.
        cache_root: private folder for compile caches.
        sources: where each value came from, by dotted key.
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


def check_request(request: LaunchRequest, spec: ModelSpec) -> None:
    """Refuse values of the command line that cannot be read.

    Raises:
        HpcvlmError: ``gpus-invalid`` or ``time-invalid``.
    """
    if request.gpus is not None:
        parse_gpus(request.gpus, spec)
    if request.time is not None:
        parse_duration(request.time, "--time")


def build_plan(
    request: LaunchRequest, spec: ModelSpec, site: SiteSpec, found: Surroundings
) -> PlanResult:
    """Decide everything.

    Raises:
        HpcvlmError: a value that cannot be read at all (``gpus-invalid``, ``time-invalid``) or
            no engine that could serve the model (``engine-version``).
    """
    gpus = _gpus(request, spec)
    engine, engine_issues = choose_engine(spec, site, found.images_on_disk)
    time_limit_s, time_issues = _time_limit(request, spec, site, found.cluster)
    # What the user typed comes first, then what the cluster has, then what is on disk.
    issues = gpu_issues(gpus, found.attention_heads or _heads(spec), found.executor)
    if (request.nodes or 1) > 1:
        issues.append(_one_node_only(request))
    if found.cluster is not None:
        issues += cluster_issues(gpus, found.cluster, request.partition or site.partition)
    issues += [*time_issues, *engine_issues, *_snapshot_issues(spec, found)]
    plan = _assemble(request, spec, site, found, gpus, engine, time_limit_s)
    issues += _path_issues(plan)
    return PlanResult(plan, tuple(issues))


def _assemble(
    request: LaunchRequest,
    spec: ModelSpec,
    site: SiteSpec,
    found: Surroundings,
    gpus: GpuRequest,
    engine: PlannedEngine,
    time_limit_s: int,
) -> LaunchPlan:
    tensor_parallel = max(1, gpus.count)
    asked_root = request.media_root or site.media_root
    media_root = asked_root or f"{found.folder}/media"
    cache = f"{found.cache_root}/{_cache_name(engine)}"
    start_timeout_s = parse_duration(spec.start_timeout, "start_timeout")
    payloads = f"{found.folder}/payloads"
    arguments = vllm.serve_arguments(
        snapshot=found.snapshot.path,
        served_name=spec.served_name or spec.snapshot.repo,
        tensor_parallel_size=tensor_parallel,
        media_root=media_root,
        limit_per_prompt=spec.multimodal.limit_per_prompt,
        processor=spec.multimodal.processor,
        options=spec.options,
        extra=request.engine_arguments,
    )
    environment = {
        **vllm.environment(
            cache=cache,
            payloads=payloads,
            key_file=f"{found.folder}/key",
            start_timeout_s=start_timeout_s,
        ),
        **site.environment,
        **_engine_environment(site, engine),
        **spec.environment,
    }
    partition = request.partition or site.partition
    return LaunchPlan(
        hpcvlm_version=__version__,
        name=found.name,
        model=spec.name,
        served_name=spec.served_name or spec.snapshot.repo,
        vision=spec.vision,
        image_limit=spec.multimodal.limit_per_prompt.get("image"),
        executor=found.executor,
        folder=found.folder,
        sbatch=_sbatch(request, site, found, gpus, time_limit_s),
        partition=partition,
        nodes=request.nodes or 1,
        gpus=gpus,
        time_limit_s=time_limit_s,
        start_timeout_s=start_timeout_s,
        stop_timeout_s=STOP_TIMEOUT_S,
        tensor_parallel_size=tensor_parallel,
        engine=engine,
        runtime=site.runtime if engine.image else "none",
        gpu_flag=site.gpu_flag if engine.image and gpus.count else "",
        modules=site.modules,
        binds=_binds(site, engine, found, media_root, cache),
        snapshot=found.snapshot,
        engine_arguments=arguments,
        environment=tuple(environment.items()),
        listen_host="127.0.0.1" if _loopback(site, found) else "0.0.0.0",  # noqa: S104 - keyed
        media_root=media_root,
        media_root_is_private=asked_root is None,
        cache=cache,
        phases=vllm.PHASES,
        log_markers=vllm.LOG_MARKERS,
        port_taken_text=vllm.PORT_TAKEN,
        sources=dict(found.sources),
    )


def _gpus(request: LaunchRequest, spec: ModelSpec) -> GpuRequest:
    if request.gpus is not None:
        return parse_gpus(request.gpus, spec)
    return GpuRequest(default_count(spec, None))


def _heads(spec: ModelSpec) -> int | None:
    return spec.parallelism.attention_heads


def _loopback(site: SiteSpec, found: Surroundings) -> bool:
    return found.executor == "local" or site.listen == "loopback"


def _time_limit(
    request: LaunchRequest, spec: ModelSpec, site: SiteSpec, cluster: Cluster | None
) -> tuple[int, list[Issue]]:
    """The job's time in seconds; the model's own default gives way to the partition's limit."""
    asked = parse_duration(request.time or spec.time, "--time" if request.time else "time")
    name = request.partition or site.partition
    partition = cluster.partition(name) if cluster is not None else None
    limit = partition.time_limit_s if partition is not None else None
    if partition is None or limit is None or asked <= limit:
        return asked, []
    if request.time is None:
        return limit, []
    longest = format_time_limit(limit)
    issue = Issue(
        "time-limit",
        "--time",
        f"--time {request.time} is longer than partition {partition.name} allows ({longest})",
        f"--time {longest}, or another partition",
    )
    return asked, [issue]


def _snapshot_issues(spec: ModelSpec, found: Surroundings) -> list[Issue]:
    return [
        Issue(
            "snapshot-missing",
            "snapshot",
            problem,
            f"hf download {spec.snapshot.repo} --revision {spec.snapshot.revision}",
        )
        for problem in found.snapshot_problems
    ]


def _path_issues(plan: LaunchPlan) -> list[Issue]:
    """Paths that a --bind cannot name: Apptainer splits it at colons and commas."""
    if plan.engine.image is None:
        return []
    paths = {path for bind in plan.binds for path in (bind.source, bind.target)}
    return [
        Issue(
            "path-unsafe",
            "binds",
            f"{path} cannot be mounted into a container: its name holds a colon or a comma",
            "use a folder without them; HPCVLM_STATE moves hpcvlm's own",
        )
        for path in sorted(paths)
        if ":" in path or "," in path
    ]


def _one_node_only(request: LaunchRequest) -> Issue:
    return Issue(
        "nodes-unsupported",
        "--nodes",
        f"--nodes {request.nodes}: one endpoint runs on one node",
        "leave --nodes out, and ask for more GPUs per node",
    )


def _cache_name(engine: PlannedEngine) -> str:
    """One cache per engine build: another image never reads what this one compiled."""
    identity = engine.image or "\0".join(engine.command)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{engine.name}-{engine.version}-{digest}"


def _engine_environment(site: SiteSpec, engine: PlannedEngine) -> Mapping[str, str]:
    for install in site.engines:
        if install.version == engine.version and install.image == engine.image:
            return install.environment
    return {}


def _binds(
    site: SiteSpec, engine: PlannedEngine, found: Surroundings, media_root: str, cache: str
) -> tuple[Bind, ...]:
    """What the container sees of the host: only what this plan needs."""
    binds = [
        Bind(f"{found.folder}/payloads", f"{found.folder}/payloads"),
        Bind(f"{found.folder}/key", f"{found.folder}/key"),
        Bind(found.snapshot.repository_folder, found.snapshot.repository_folder),
        Bind(media_root, media_root),
        Bind(cache, cache, read_only=False),
    ]
    texts = list(site.binds)
    for install in site.engines:
        if install.version == engine.version and install.image == engine.image:
            texts += install.binds
    binds += [_bind(text) for text in texts]
    return tuple(dict.fromkeys(binds))


def _bind(text: str) -> Bind:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return Bind(source, target or source, mode != "rw")


def _sbatch(
    request: LaunchRequest,
    site: SiteSpec,
    found: Surroundings,
    gpus: GpuRequest,
    time_limit_s: int,
) -> tuple[SbatchOption, ...]:
    folder = str(PurePosixPath(found.folder)).replace("%", "%%")
    options = {
        "job-name": found.name,
        "output": f"{folder}/job.out",
        "error": f"{folder}/job.err",
        "open-mode": "append",
        "time": format_time_limit(time_limit_s),
        "signal": f"B:TERM@{WARN_BEFORE_END_S}",
        "nodes": str(request.nodes or 1),
    }
    if gpus.count:
        as_gres = site.gpu_request == "gres"
        options["gres" if as_gres else "gpus-per-node"] = (
            f"gpu:{gpus.text}" if as_gres else gpus.text
        )
        if site.cpus_per_gpu:
            options["cpus-per-task"] = str(site.cpus_per_gpu * gpus.count)
        if site.memory_per_gpu:
            options["mem-per-gpu"] = site.memory_per_gpu
    asked = {
        "partition": request.partition or site.partition,
        "account": request.account or site.account,
        "qos": request.qos or site.qos,
        "constraint": request.constraint or site.constraint,
    }
    options |= {key: value for key, value in asked.items() if value}
    options |= {key: value for key, value in site.sbatch.items() if key not in options}
    return tuple(SbatchOption(key, value) for key, value in options.items())
