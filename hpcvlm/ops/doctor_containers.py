"""Looks at the container runtime, what the kernel allows it, and every engine of the site."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from hpcvlm.doctor import commands, containers
from hpcvlm.doctor import site as judge_site
from hpcvlm.doctor.model import Answer, Check, Question
from hpcvlm.ops.doctor_look import FOLDER_TIMEOUT_S, Look, ask, within
from hpcvlm.site.schema import EngineInstall
from hpcvlm.system.files import read_text

_RUNTIME = Question("runtime", containers.PART, "runtime")
_NAMESPACES = Question("userns", containers.PART, "user namespaces")
_FUSE = Question("fuse", containers.PART, "FUSE")
_START_TIMEOUT_S = 90.0
_IMAGE_PREFIX, _IMAGE_SUFFIX = "vllm-", ".sif"


def installs_of(look: Look) -> list[EngineInstall]:
    """The engines of the site file, then the images in its image folder."""
    listed = list(look.site.engines)
    known = {install.image for install in listed}
    folder = Path(look.site.image_folder or look.ctx.settings.state / "containers").expanduser()
    for image in within(FOLDER_TIMEOUT_S, lambda: _images(folder)) or []:
        if str(image) not in known:
            version = image.name.removeprefix(_IMAGE_PREFIX).removesuffix(_IMAGE_SUFFIX)
            listed.append(EngineInstall(version=version, image=str(image)))
    return listed


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"{_IMAGE_PREFIX}*{_IMAGE_SUFFIX}"))
    except OSError:
        return []


def look_at_engines(look: Look) -> Check:
    """Whether there is any engine."""
    return judge_site.judge_engines([f"{i.name} {i.version}" for i in installs_of(look)])


def look_at_containers(look: Look) -> list[Check]:
    """The runtime, user namespaces, FUSE, and each image."""
    runtime, installs = look.site.runtime, installs_of(look)
    checks, buildcfg = [], Answer(127)
    if runtime != "none" and look.wants("runtime", "userns", "fuse"):
        look.on_step(f"asking {runtime}")
        buildcfg = ask(look.ctx, commands.runtime_build(runtime))
    if look.wants("runtime"):
        version = Answer(0)
        if runtime != "none":
            version = ask(look.ctx, commands.runtime_version(runtime))
        modules = " ".join(look.site.modules)
        checks.append(containers.judge_runtime(_RUNTIME, runtime, version, modules))
    setuid = containers.is_setuid(buildcfg)
    checks.append(containers.judge_namespaces(_NAMESPACES, runtime, _namespaces(), setuid))
    checks.append(
        containers.judge_fuse(
            _FUSE,
            runtime,
            device=os.access("/dev/fuse", os.R_OK | os.W_OK),
            helper=_squashfuse(look, buildcfg),
            setuid=setuid,
        )
    )
    wanted = [i for i in installs if look.request.wants(containers.image_question(i).id)]
    return checks + [_image(look, install) for install in wanted]


def _namespaces() -> containers.Namespaces:
    return containers.Namespaces(
        most=_switch("/proc/sys/user/max_user_namespaces"),
        clone=_switch("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor=_switch("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    )


def _switch(path: str) -> int | None:
    text = (read_text(Path(path)) or "").strip()
    return int(text) if text.isdigit() else None


def _squashfuse(look: Look, buildcfg: Answer) -> str:
    """The helper on PATH, or the one that Apptainer's packages bring."""
    settings = dict(
        line.split("=", 1) for line in buildcfg.stdout.splitlines() if line.count("=") == 1
    )
    own = Path(settings.get("LIBEXECDIR", "/usr/libexec")) / "apptainer" / "bin"
    path = os.pathsep.join([look.ctx.environment.get("PATH", ""), str(own)])
    for name in ("squashfuse_ll", "squashfuse"):
        if found := shutil.which(name, path=path):
            return found
    return ""


def _image(look: Look, install: EngineInstall) -> Check:
    runtime, image = look.site.runtime, install.image
    if image is None:
        return _bare(look, install)
    look.on_step(f"looking at {image}")
    if runtime in {"docker", "podman"}:
        # They keep their images themselves, by name.
        labels = ask(look.ctx, commands.image_labels(runtime, image))
        problem = labels.said if labels.code != 0 else ""
        seen = containers.ImageSeen(problem=problem, missing=bool(problem), labels=labels)
        return containers.judge_image(install, runtime, seen)
    file = within(FOLDER_TIMEOUT_S, lambda: _read_image(Path(image)))
    seen = file or containers.ImageSeen(problem="its file system does not answer")
    if not seen.problem:
        labels = ask(look.ctx, commands.image_labels(runtime, image))
        version = _ask_version(look, install) if look.request.deep else None
        seen = replace(seen, labels=labels, version=version)
    return containers.judge_image(install, runtime, seen)


def _bare(look: Look, install: EngineInstall) -> Check:
    """An engine that needs no image."""
    if not look.request.deep:
        return containers.judge_image(install, look.site.runtime, containers.ImageSeen())
    answer = ask(look.ctx, commands.engine_version(install), timeout_s=_START_TIMEOUT_S)
    return containers.judge_version(containers.image_question(install), install, answer)


def _ask_version(look: Look, install: EngineInstall) -> Answer:
    look.on_step(f"starting {install.image}")
    prefix = commands.container(look.site, install, gpus=False)
    argv = (*prefix, *commands.engine_version(install))
    return ask(look.ctx, argv, timeout_s=_START_TIMEOUT_S)


def _read_image(path: Path) -> containers.ImageSeen:
    try:
        if path.is_dir():
            return containers.ImageSeen(is_folder=True)
        with path.open("rb") as stream:
            stream.seek(containers.SIF_MAGIC_AT)
            magic = stream.read(len(containers.SIF_MAGIC))
        return containers.ImageSeen(size=path.stat().st_size, is_sif=magic == containers.SIF_MAGIC)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return containers.ImageSeen(problem=error.strerror or str(error), missing=missing)
