"""From what a user typed to the script that makes an image."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.containers import commands
from hpcvlm.containers.order import (
    IMAGE_BYTES,
    LAYERS_BYTES,
    UNPACKED_BYTES,
    BuildOrder,
    Directive,
    image_name,
    is_address,
    is_fetched_whole,
    pinned,
    version_in,
)
from hpcvlm.doctor.commands import container, engine_version
from hpcvlm.engines.vllm_versions import known_versions, release
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_find import ENGINE, expanded, image_folder, look_at
from hpcvlm.ops.context import Context
from hpcvlm.render.safe_values import refuse_unsafe
from hpcvlm.render.script import sbatch_value, shell_word
from hpcvlm.resources import data_root
from hpcvlm.site.schema import EngineInstall, PartitionSpec, SiteSpec
from hpcvlm.slurm.time import format_time_limit, parse_duration
from hpcvlm.snapshots.squashfs import is_image
from hpcvlm.system.files import read_text

if TYPE_CHECKING:
    from jinja2 import Template

SCRIPT, LOG, RESULT, DEFINITION = "build.sbatch", "build.log", "result", "image.def"
_TAKES_VERSION = re.compile(r"\{\{\s*VERSION\s*\}\}")
_NEEDS_ROOT = ("%post", "%test")
_NO_PARTITION = PartitionSpec()
_JOB_CPUS = 4


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user typed; None and empty mean that nothing was said.

    Attributes:
        version: of the engine.
        definition: file instead of the shipped one.
        source: address or file that is pulled; nothing is built from a definition then.
        output: file to make, instead of the one that launches look for.
        rocm: for AMD's GPUs; as the site's gpu_flag says when None.
        where: ``here`` or ``job``; as the site file says when None.
        force: whether an image of that name is replaced.
        check_space: whether the build refuses to begin on a disk that is too small.
    """

    version: str = ""
    definition: str | None = None
    source: str | None = None
    output: str | None = None
    rocm: bool | None = None
    where: str | None = None
    force: bool = False
    cpus: int = _JOB_CPUS
    partition: str | None = None
    account: str | None = None
    check_space: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """An order with what lies beside it.

    Attributes:
        script: the whole job, or what runs here.
        definition: text that is written beside the script; empty for a file of the user's own.
        source: where the image comes from, for its memory.
        notes: what a user should know.
    """

    order: BuildOrder
    script: str
    definition: str
    source: str
    where: str
    notes: tuple[str, ...]


def make_order(request: BuildRequest, site: SiteSpec, ctx: Context) -> Order:
    """Decide everything about a build; nothing is changed.

    Raises:
        HpcvlmError: ``container-unsupported``, ``container-exists``, ``option-invalid``,
            ``option-required``, ``file-unreadable``, ``vllm-version``.
    """
    if site.runtime not in commands.APPTAINER_LIKE:
        raise _keeps_images_itself(request, site)
    if request.source is not None:
        _source(request.source, plain_http=False)  # a mistake in it explains all others
    version, notes = _version(request)
    token = secrets.token_hex(4)
    image = _output(request, version, site, ctx)
    _refuse_existing(image, request)
    folder = ctx.settings.state / "images" / "builds" / f"{image.stem}-{token}"
    partial = f"{image}.partial-{token}"
    build, definition, source, work = _command(request, version, partial, folder, site)
    install = EngineInstall(version=version or "0", image=partial)
    official = request.definition is None and (request.source is None or "vllm" in source)
    space = request.check_space and official and not source.startswith(("/", "oci"))
    where = request.where or site.images.build_as
    if where not in {"here", "job"}:
        raise HpcvlmError("option-invalid", f"--as {where!r} is neither here nor job", "--as job")
    order = BuildOrder(
        image=str(image),
        partial=partial,
        folder=str(folder),
        source=source,
        runtime=site.runtime,
        engine=ENGINE,
        build=build,
        version=version if request.definition is None or request.version else "",
        ask=(*container(site, install, gpus=False), *engine_version(install)),
        replace=request.force,
        temporary=site.images.temporary or "",
        cache=str(_cache_folder(site, ctx)),
        work=str(work),
        need_temporary=UNPACKED_BYTES + IMAGE_BYTES if space else 0,
        need_cache=LAYERS_BYTES if space else 0,
        need_image=IMAGE_BYTES if space else 0,
        modules=site.modules,
        proxies=_proxies(site),
        sbatch=_directives(request, site, folder, image) if where == "job" else (),
    )
    return Order(order, render(order), definition, source, where, notes)


def render(order: BuildOrder) -> str:
    """The script of a build.

    Raises:
        HpcvlmError: ``value-unsafe`` for a value that cannot stand in a script.
    """
    refuse_unsafe(dataclasses.asdict(order))
    return _template().render(order=order)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the product is a shell script, not HTML
    )
    environment.filters["sh"] = shell_word
    environment.filters["sbatch"] = sbatch_value
    environment.filters["comment"] = lambda value: " ".join(str(value).split())
    file = data_root() / "templates" / "sbatch" / "build_image.sbatch.j2"
    return environment.from_string(file.read_text(encoding="utf-8"))


def _version(request: BuildRequest) -> tuple[str, tuple[str, ...]]:
    version = request.version.removeprefix("v")
    if not version and request.source is not None:
        version = version_in(request.source)
    if not version:
        if request.output is not None and (request.source or request.definition):
            return "", ()
        raise HpcvlmError(
            "option-required",
            "which version of the engine is it? nothing that you typed tells",
            "hpcvlm containers pull SOURCE --version 0.10.2, or build 0.10.2",
        )
    taken = release(version)
    if taken.version == version or request.source or request.definition:
        return version, ()
    newest = known_versions()[-1]
    return version, (f"vLLM {version} is not among the releases known here, up to {newest}",)


def _output(request: BuildRequest, version: str, site: SiteSpec, ctx: Context) -> Path:
    if request.output is not None:
        return Path(request.output).expanduser().absolute()
    here = site.gpu_flag == "--rocm"
    rocm = here if request.rocm is None else request.rocm
    name = image_name(ENGINE, version, rocm=rocm, other=rocm != here)
    return image_folder(site, ctx) / name


def _refuse_existing(image: Path, request: BuildRequest) -> None:
    if image.is_dir():
        raise HpcvlmError("container-exists", f"{image} is a folder", "--output FILE")
    if image.exists() and not request.force:
        raise HpcvlmError(
            "container-exists",
            f"{image} exists already",
            "hpcvlm containers inspect, or --force: jobs that run from it keep the old file",
        )


def _command(
    request: BuildRequest, version: str, partial: str, folder: Path, site: SiteSpec
) -> tuple[tuple[str, ...], str, str, Path]:
    """The command, the definition to write, where the image comes from, the folder to run in."""
    runtime, registry = site.runtime, site.images.registry
    plain_http = bool(registry and registry.startswith("http://"))
    if request.source is not None:
        source, plain_http = _source(request.source, plain_http)
        if source.startswith("/") and look_at(Path(source))[0].is_sif:
            # Apptainer would pack it anew, and drop its signatures.
            return ("cp", "--reflink=auto", "--", source, partial), "", source, folder
        make = commands.pull if is_fetched_whole(source) else commands.build
        return make(runtime, partial, source, plain_http=plain_http), "", source, folder
    arguments: dict[str, str] = {}
    if request.definition is not None:
        file = Path(request.definition).expanduser().absolute()
        text = _read(file)
        if request.version and _TAKES_VERSION.search(text):
            arguments = {"VERSION": version}
        fakeroot = _by_flag(text)
        build = commands.build(runtime, partial, str(file), arguments=arguments, fakeroot=fakeroot)
        return build, "", str(file), file.parent
    rocm = site.gpu_flag == "--rocm" if request.rocm is None else request.rocm
    text = _read(data_root() / "containers" / ("rocm.def" if rocm else "apptainer.def"))
    arguments = {"VERSION": version.partition("+")[0]}
    if registry:
        arguments["REGISTRY"] = registry.partition("://")[2] or registry
    build = commands.build(
        runtime,
        partial,
        str(folder / DEFINITION),
        arguments=arguments,
        fakeroot=_by_flag(text),
        plain_http=plain_http,
    )
    name = "vllm/vllm-openai-rocm" if rocm else "vllm/vllm-openai"
    host = arguments.get("REGISTRY", "docker.io")
    return build, text, f"docker://{host}/{name}:v{arguments['VERSION']}", folder


def _source(typed: str, plain_http: bool) -> tuple[str, bool]:
    """An address as the runtime takes it; a file's path absolute."""
    if is_address(typed):
        scheme, colon, rest = typed.partition(":")
        if colon and scheme in {"oci", "oci-archive", "docker-archive"}:
            path, mark, tag = rest.partition(":")
            found = Path(path).expanduser().absolute()
            _there(found, typed)
            return f"{scheme}:{found}{mark}{tag}", False
        if "@sha256:" in typed and not pinned(typed):
            raise HpcvlmError(
                "option-invalid",
                f"{typed} names a digest that is none",
                "a digest is sha256: and 64 hexadecimal digits",
            )
        return typed, plain_http
    file = Path(typed).expanduser().absolute()
    _there(file, typed)
    if file.is_file() and not (look_at(file)[0].is_sif or is_image(file)):
        why = "is no SIF file" if os.access(file, os.R_OK) else "is not readable for you"
        raise HpcvlmError(
            "option-invalid",
            f"{file} {why}",
            "hpcvlm containers build VERSION --def FILE takes a definition, "
            "docker-archive:FILE what docker save wrote",
        )
    return str(file), False


def _there(path: Path, typed: str) -> None:
    if not path.exists():
        raise HpcvlmError(
            "container-missing",
            f"{typed}: there is no {path}",
            "a file, oci:FOLDER, or an address such as docker://vllm/vllm-openai:v0.10.2",
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HpcvlmError("file-unreadable", f"cannot read {file}: {error}", "--def FILE") from None


def _by_flag(definition: str) -> bool:
    """Whether a build needs --fakeroot by name.

    Ordinary users get it without asking. Root has no need of it, unless it lacks capabilities, as
    in a container: what runs inside the image is then refused (Apptainer 1.4.5, "Requesting
    capability set … while permitted …").
    """
    runs = any(line.startswith(_NEEDS_ROOT) for line in definition.splitlines())
    if not runs or os.geteuid() != 0:
        return False
    status = read_text(Path("/proc/self/status")) or ""
    held = next((line.split()[1] for line in status.splitlines() if line.startswith("CapPrm")), "")
    last = (read_text(Path("/proc/sys/kernel/cap_last_cap")) or "").strip()
    if not held or not last.isdigit():
        return False
    return int(held, 16) != (1 << (int(last) + 1)) - 1


def _cache_folder(site: SiteSpec, ctx: Context) -> Path:
    if site.images.cache:
        return expanded(site.images.cache, ctx.environment)
    named = ctx.environment.get(commands.variable(site.runtime, "CACHEDIR"))
    home = ctx.environment.get("HOME") or str(Path.home())
    return Path(named or f"{home}/.{site.runtime}/cache").absolute()


def _proxies(site: SiteSpec) -> tuple[tuple[str, str], ...]:
    proxy = site.proxy
    values: Mapping[str, str | None] = {
        "http_proxy": proxy.http,
        "https_proxy": proxy.https,
        "no_proxy": ",".join(proxy.no_proxy) if proxy.no_proxy else None,
    }
    return tuple((name, value) for name, value in values.items() if value)


def job_name(image: Path) -> str:
    """What the job that builds an image is called in Slurm."""
    return f"hpcvlm-build-{image.stem}"[:60]


def _directives(
    request: BuildRequest, site: SiteSpec, folder: Path, image: Path
) -> tuple[Directive, ...]:
    """What sbatch is asked for: one node, no GPU."""
    partition = request.partition or site.images.partition or site.partition
    place = site.partitions.get(partition or "", _NO_PARTITION)
    escaped = str(folder).replace("%", "%%")
    options: dict[str, str | None] = {
        "job-name": job_name(image),
        "output": f"{escaped}/{LOG}",
        "open-mode": "append",
        "time": format_time_limit(parse_duration(site.images.time)),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(request.cpus),
        "partition": partition,
        "account": request.account or place.account or site.account,
        "qos": place.qos or site.qos,
        # The site's own features may be those of its GPU nodes.
        "constraint": place.constraint
        or (site.constraint if partition == site.partition else None),
    }
    further = {key: value for key, value in site.sbatch.items() if key not in options}
    given = {key: value for key, value in options.items() if value} | further
    return tuple(Directive(key, value or "") for key, value in given.items())


def _keeps_images_itself(request: BuildRequest, site: SiteSpec) -> HpcvlmError:
    version = request.version.removeprefix("v") or "VERSION"
    if site.runtime == "none":
        return HpcvlmError(
            "container-unsupported",
            "the site file says 'runtime: none': its engines need no image",
            "runtime: apptainer, in the site file",
        )
    source = (request.source or f"docker.io/vllm/vllm-openai:v{version}").removeprefix("docker://")
    return HpcvlmError(
        "container-unsupported",
        f"{site.runtime} fetches and keeps its images itself",
        f"{site.runtime} pull {source}",
    )
