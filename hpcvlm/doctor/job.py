"""The texts that the doctor gives to sbatch: a one-minute test job, and the node part. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hpcvlm.doctor import commands
from hpcvlm.errors import HpcvlmError
from hpcvlm.render.script import sbatch_value
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import EngineInstall, GpuType, SiteSpec

SCRIPT_NAME = "doctor.sbatch"
JOB_NAME = "hpcvlm-doctor"
NODE_MINUTES = 5
_GPU_OPTIONS = ("gpus-per-node", "gres")


@dataclass(frozen=True, slots=True)
class GpuAsk:
    """GPUs of one node, by the name that Slurm knows; no type means any."""

    count: int
    type: str | None = None


def first_gpu(cluster: Cluster, partition: str) -> GpuAsk:
    """One GPU of the first type that a partition has; none where it has none."""
    types = list(cluster.gpu_types(partition))
    return GpuAsk(1, types[0] or None) if types else GpuAsk(0)


def parse_gpus(text: str) -> GpuAsk:
    """``2``, ``A100`` or ``A100:2``.

    Raises:
        HpcvlmError: ``gpus-invalid``.
    """
    kind, _, count = text.rpartition(":")
    if ":" not in text and not count.isdigit():
        kind, count = count, "1" if count else ""
    if not count.isascii() or not count.isdigit():
        raise HpcvlmError(
            "gpus-invalid",
            f"--gpus {text!r} is neither a number nor TYPE:NUMBER",
            "for example --gpus A100:1 or --gpus 1",
        )
    return GpuAsk(int(count), kind or None)


def user_type(site: SiteSpec, kind: str | None) -> tuple[str, GpuType] | None:
    """The site file's entry for a GPU type, by its own name, an alias, or Slurm's name."""
    for name, known in site.gpu_types.items():
        if kind is not None and kind in {name, known.slurm_name, *known.aliases}:
            return name, known
    return None


def job_options(
    site: SiteSpec, partition: str | None, gpus: GpuAsk, minutes: int, account: str | None = None
) -> dict[str, str]:
    """The sbatch options of a job on one node, as a launch at this site would ask.

    Args:
        site: says how GPUs are asked for, and what every job must name.
        partition: None for Slurm's default.
        gpus: of the node.
        minutes: time limit.
        account: instead of the site's.
    """
    options = {"job-name": JOB_NAME, "time": str(minutes), "nodes": "1"}
    spec = site.partitions.get(partition or "")
    constraint = (spec.constraint if spec else None) or site.constraint
    if gpus.count:
        options |= _gpu_options(site, gpus)
        constraint = options.pop("constraint", None) or constraint
        cpus = (spec.cpus_per_gpu if spec else None) or site.cpus_per_gpu
        memory = (spec.memory_per_gpu if spec else None) or site.memory_per_gpu
        if cpus:
            options["cpus-per-task"] = str(cpus * gpus.count)
        if memory:
            options["mem-per-gpu"] = memory
    asked = {
        "partition": partition,
        "account": account or (spec.account if spec else None) or site.account,
        "qos": (spec.qos if spec else None) or site.qos,
        "constraint": constraint,
    }
    options |= {key: value for key, value in asked.items() if value}
    extra = {key: value for key, value in site.sbatch.items() if key not in options}
    if not gpus.count:
        extra = {key: value for key, value in extra.items() if key not in _GPU_OPTIONS}
    return options | extra


def _gpu_options(site: SiteSpec, gpus: GpuAsk) -> dict[str, str]:
    entry = user_type(site, gpus.type)
    known = entry[1] if entry else None
    kind = (known.slurm_name if known else None) or gpus.type
    how = (known.request if known else None) or site.gpu_request
    options = {"constraint": known.constraint} if known is not None and known.constraint else {}
    if how == "constraint":
        if kind and not options:
            options["constraint"] = kind
        return options | {"gpus-per-node": str(gpus.count)}
    text = f"{kind}:{gpus.count}" if kind else str(gpus.count)
    return options | ({"gres": f"gpu:{text}"} if how == "gres" else {"gpus-per-node": text})


def gpu_words(options: Mapping[str, str]) -> str:
    """The options that ask for the GPUs, as on a command line."""
    keys = (*_GPU_OPTIONS, "constraint", "account", "qos")
    return " ".join(f"--{key}={options[key]}" for key in keys if key in options)


def trial_script(options: Mapping[str, str]) -> str:
    """A script for ``sbatch --test-only``; it would do nothing."""
    return f"#!/bin/bash\n{_directives(options)}\nexit 0\n"


def node_script(
    body: str,
    options: Mapping[str, str],
    *,
    folder: str,
    site: SiteSpec,
    installs: Sequence[EngineInstall],
    gpus: int,
    url: str,
    folders: Sequence[str],
    engine_folders: Sequence[str],
) -> str:
    """The node part as a whole: directives, values, then the text that is shipped.

    Args:
        body: templates/sbatch/doctor_node.sh.
        options: of sbatch.
        folder: the job's own, which login and compute nodes share.
        site: the runtime, its modules and binds.
        installs: the engines to start.
        gpus: how many the job has.
        url: what the node tries to fetch.
        folders: to be looked for: hub caches, image folders.
        engine_folders: to be written to: caches, scratch; may begin with a variable of the node.

    Raises:
        HpcvlmError: ``value-unsafe`` for a value that cannot stand in a script.
    """
    escaped = str(PurePosixPath(folder)).replace("%", "%%")
    logs = {"output": f"{escaped}/job.out", "error": f"{escaped}/job.err"}
    values = [
        f"folder={shlex.quote(folder)}",
        f"runtime={shlex.quote(site.runtime)}",
        f"gpus={gpus}",
        f"url={shlex.quote(url)}",
        f"modules=({_words(site.modules)})",
        f"folders=({_words(folders)})",
        f"engine_folders=({' '.join(_expandable(folder) for folder in engine_folders)})",
        "each_engine() {",
        *(f"    {_engine(site, install, gpus)}" for install in installs),
        "    :",
        "}",
    ]
    options = {**options, **logs}
    _refuse_control_characters([*values, *options.values()])
    shebang, _, rest = body.partition("\n")
    return "\n".join([shebang, _directives(options), *values, rest])


def _engine(site: SiteSpec, install: EngineInstall, gpus: int) -> str:
    name, python = install.version, commands.engine_version(install)[0]
    if install.image is None:
        return f"try_engine {_words([name, python])}"
    prefix = commands.container(site, install, gpus=gpus > 0)
    return f"try_image {_words([name, python, *prefix])}"


def _words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _expandable(path: str) -> str:
    """A folder that may begin with a variable of the node: ``$TMPDIR/x``; the rest is literal."""
    name, slash, rest = path.partition("/")
    variable = name.removeprefix("$").strip("{}")
    if name.startswith("$") and variable.isidentifier():
        return f'"${{{variable}-}}"{shlex.quote(slash + rest) if slash else ""}'
    return shlex.quote(path)


def _directives(options: Mapping[str, str]) -> str:
    lines = [f"#SBATCH --{key}={sbatch_value(value)}" for key, value in options.items() if value]
    lines += [f"#SBATCH --{key}" for key, value in options.items() if not value]
    return "\n".join(lines)


def _refuse_control_characters(texts: Sequence[str]) -> None:
    """A line break could end a directive."""
    for text in texts:
        if any(ord(c) < ord(" ") for c in text):
            raise HpcvlmError(
                "value-unsafe",
                f"a value of the site file holds a control character: {text[:80]!r}",
                "write the value on one line, without tabs",
            )
