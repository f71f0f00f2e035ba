"""The texts that the doctor gives to sbatch: a one-minute test job, and the node part. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from hpcvlm.catalog.schema import ModelSpec, SnapshotSource
from hpcvlm.doctor import commands
from hpcvlm.plan.gpus import ChosenGpus, choose_gpus
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.plan.sbatch import sbatch_options
from hpcvlm.plan.sources import Sources
from hpcvlm.render.safe_values import refuse_unsafe
from hpcvlm.render.script import sbatch_value
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import EngineInstall, SiteSpec

SCRIPT_NAME = "doctor.sbatch"
JOB_NAME = "hpcvlm-doctor"
NODE_MINUTES = 5
# Planning asks a model how many GPUs it wants where nobody says a number; this one wants one.
_ANY_MODEL = ModelSpec(name="any", snapshot=SnapshotSource(repo="any/any"))
_WHO = ("constraint", "account", "qos")
_NO_MAIL = ("mail-type", "mail-user")


def first_gpu(cluster: Cluster, partition: str) -> str:
    """One GPU of the first type that a partition has, as ``--gpus`` takes it; ``0`` without any."""
    types = list(cluster.gpu_types(partition))
    if not types:
        return "0"
    return f"{types[0]}:1" if types[0] else "1"


def gpus_of(text: str, site: SiteSpec) -> ChosenGpus:
    """``2``, ``A100`` or ``A100:2`` as this site asks for it.

    Raises:
        HpcvlmError: ``gpus-invalid``.
    """
    return choose_gpus(text, _ANY_MODEL, site)


def job_options(
    site: SiteSpec,
    partition: str | None,
    gpus: ChosenGpus,
    minutes: int,
    *,
    folder: str,
    account: str | None = None,
) -> dict[str, str]:
    """The sbatch options of a job on one node, as a launch at this site asks.

    Args:
        site: says how GPUs are asked for, and what every job must name.
        partition: None for Slurm's default.
        gpus: of the node.
        minutes: time limit.
        folder: where its logs go.
        account: instead of the site's.
    """
    found = sbatch_options(
        LaunchRequest(model="", account=account),
        site,
        name=JOB_NAME,
        folder=folder,
        snapshot=None,
        partition=partition,
        place=partition,
        gpus=gpus,
        time_limit_s=minutes * 60,
        sources=Sources({}),
    )
    return {option.name: option.value for option in found if option.name not in _NO_MAIL}


def asked_words(options: Mapping[str, str], gpus: ChosenGpus) -> str:
    """The options that a cluster may refuse, as on a command line."""
    keys = (gpus.option, *_WHO)
    return " ".join(f"--{key}={options[key]}" for key in keys if key in options)


def trial_script(options: Mapping[str, str]) -> str:
    """A script for ``sbatch --test-only``; it would do nothing.

    Raises:
        HpcvlmError: ``value-unsafe``.
    """
    refuse_unsafe({"sbatch": options})
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
    cache: str,
) -> str:
    """The node part as a whole: directives, values, then the text that is shipped.

    Args:
        body: templates/sbatch/doctor_node.sh.
        options: of sbatch.
        folder: the job's own, which login and compute nodes share.
        site: the runtime, its modules, binds and proxy.
        installs: the engines to start.
        gpus: how many the job has.
        url: what the node tries to fetch.
        folders: to be looked for: hub caches, image folders.
        cache: the folder of compile caches, to be written to.

    Raises:
        HpcvlmError: ``value-unsafe`` for a value that cannot stand in a script.
    """
    values = [
        f"folder={shlex.quote(folder)}",
        f"runtime={shlex.quote(site.runtime)}",
        f"gpus={gpus}",
        f"url={shlex.quote(url)}",
        f"modules=({_words(site.modules)})",
        f"folders=({_words(folders)})",
        f"engine_folders=({_words([cache])})",
        *_scratch(site),
        *_proxies(site),
        "each_engine() {",
        *(f"    {_engine(site, install, gpus)}" for install in installs),
        "    :",
        "}",
    ]
    refuse_unsafe({"site": values, "sbatch": options})
    shebang, _, rest = body.partition("\n")
    return "\n".join([shebang, _directives(options), *values, rest])


def _scratch(site: SiteSpec) -> list[str]:
    """The schema lets only names of variables, and no blanks, into it: the node expands it."""
    if not site.scratch_root:
        return []
    root = site.scratch_root
    return [f'scratch_root="{root}" # a variable that the node does not have is empty here']


def _proxies(site: SiteSpec) -> list[str]:
    """The engine's proxies, so that the node fetches as the engine will."""
    values = {"http_proxy": site.proxy.http, "https_proxy": site.proxy.https}
    if site.proxy.no_proxy:
        values["no_proxy"] = ",".join(site.proxy.no_proxy)
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items() if value]


def _engine(site: SiteSpec, install: EngineInstall, gpus: int) -> str:
    name, python = install.version, commands.engine_version(install)[0]
    if install.image is None:
        return f"try_engine {_words([name, python])}"
    prefix = commands.container(site, install, gpus=gpus > 0)
    return f"try_image {_words([name, python, install.image, *prefix])}"


def _words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _directives(options: Mapping[str, str]) -> str:
    lines = [
        f"#SBATCH --{key}={sbatch_value(value)}" if value else f"#SBATCH --{key}"
        for key, value in options.items()
    ]
    return "\n".join(lines)
