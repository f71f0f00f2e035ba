"""What the login node itself shows: container runtimes, modules, images, caches, proxies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hpcvlm.ops.context import Context
from hpcvlm.site.facts import Machine, Runtime

_RUNTIMES = ("apptainer", "singularity", "podman", "docker")
_ASKING_S = 10.0
_IMAGE = re.compile(r"vllm-\d[\w.+-]*\.sif")
_SCRATCH = ("TMPDIR", "SLURM_TMPDIR", "LOCAL_SCRATCH", "SCRATCH", "PSCRATCH", "SNIC_TMP")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_MOST_IMAGES = 12


def look_around(ctx: Context) -> Machine:
    """The facts of this machine. Runs version commands, reads folder names; changes nothing."""
    environment = ctx.environment
    runtimes = tuple(_runtimes(ctx))
    system = _module_system(environment)
    modules: tuple[str, ...] = ()
    if system and not runtimes:
        modules = tuple(_runtime_modules(ctx))
    return Machine(
        runtimes=runtimes,
        module_system=system,
        runtime_modules=modules,
        images=tuple(_images(_image_folders(ctx))),
        hub_caches=tuple(_hub_caches(environment)),
        proxies=tuple(
            (name, _without_password(environment[name]))
            for name in _PROXIES
            if environment.get(name)
        ),
        scratch=tuple(name for name in _SCRATCH if environment.get(name)),
    )


def _runtimes(ctx: Context) -> Iterator[Runtime]:
    for name in _RUNTIMES:
        if shutil.which(name, path=ctx.environment.get("PATH")) is None:
            continue
        done = ctx.runner((name, "--version"), env=ctx.environment, timeout_s=_ASKING_S)
        lines = done.stdout.strip().splitlines() if done.code == 0 else []
        version = re.search(r"\d+(?:\.\d+)+[\w.+-]*", lines[0]) if lines else None
        yield Runtime(name, version[0] if version else "")


def _module_system(environment: Mapping[str, str]) -> str:
    if environment.get("LMOD_CMD"):
        return "Lmod"
    return "Environment Modules" if environment.get("MODULES_CMD") else ""


def _runtime_modules(ctx: Context) -> Iterator[str]:
    """Modules named after a runtime; both systems write a terse list to stderr.

    https://lmod.readthedocs.io/en/latest/010_user.html and
    https://modules.readthedocs.io/en/latest/module.html: ``module -t avail NAME``.
    """
    command = ctx.environment.get("LMOD_CMD") or ctx.environment.get("MODULES_CMD") or ""
    for name in ("apptainer", "singularity"):
        argv = (command, "bash", "-t", "avail", name)
        done = ctx.runner(argv, env=ctx.environment, timeout_s=_ASKING_S)
        for line in done.stderr.splitlines():
            word = line.strip().split("(")[0].strip()
            if re.fullmatch(rf"(?:[\w.+-]+/)*{name}[\w.+-]*(?:/[\w.+-]+)*", word, re.IGNORECASE):
                yield word


def _image_folders(ctx: Context) -> Iterator[Path]:
    yield ctx.settings.state / "containers"
    yield Path.cwd()
    yield ctx.settings.site_file.parent / "containers"


def _images(folders: Iterable[Path]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for folder in dict.fromkeys(folders):
        try:
            names = sorted(entry.name for entry in folder.iterdir() if _IMAGE.fullmatch(entry.name))
        except OSError:
            continue
        if names:
            yield str(folder), tuple(names[:_MOST_IMAGES])


def _hub_caches(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Folders that the hub's variables name.

    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    seen: set[Path] = set()
    for variable, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
    ):
        value = environment.get(variable)
        if not value:
            continue
        folder = Path(value).expanduser() / below
        if folder.is_absolute() and folder.is_dir() and folder not in seen:
            seen.add(folder)
            yield f"from {variable}", str(folder)


def _without_password(value: str) -> str:
    return re.sub(r"(?<=//)[^/@\s]*@", "", value)
