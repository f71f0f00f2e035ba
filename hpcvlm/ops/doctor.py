"""Looks at a cluster as hpcvlm will use it; the judging is in hpcvlm.doctor."""

from __future__ import annotations

import shutil
from difflib import get_close_matches
from pathlib import Path

from hpcvlm.doctor import site as judge_site
from hpcvlm.doctor.job import gpus_of
from hpcvlm.doctor.model import Answer, Check, Status
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.doctor_containers import look_at_containers, look_at_engines
from hpcvlm.ops.doctor_look import DoctorRequest, Look, OnStep, ask
from hpcvlm.ops.doctor_node import look_on_node
from hpcvlm.ops.doctor_slurm import look_at_site_in_slurm, look_at_slurm
from hpcvlm.ops.doctor_storage import look_at_storage
from hpcvlm.ops.local_engine import find_local_engine
from hpcvlm.ops.site_files import site_of
from hpcvlm.site.cluster import Cluster, parse_sinfo
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm import commands

__all__ = ["KINDS", "DoctorRequest", "examine"]

# Every kind of check; an id is KIND or KIND:SUBJECT.
LOGIN_KINDS = (
    *("slurm-programs", "slurm", "gpu-job", "accounting"),
    *("site-file", "site-partitions", "site-gpus", "site-folders", "site-notify", "engines"),
    *("runtime", "userns", "fuse", "image"),
    *("state-writable", "state-space", "state-mode", "cache-writable", "cache-space"),
    *("home-quota", "hub", "filesystem", "shm", "tmpdir", "clock"),
)
NODE_KINDS = (
    *("node-job", "node-shared", "node-clock", "node-file-clock", "node-tools", "node-modules"),
    *("node-gpus", "node-driver", "node-runtime", "node-userns", "node-fuse", "node-image"),
    *("node-shm", "node-scratch", "node-folder", "node-filesystem", "node-writable"),
    *("node-memory", "node-memlock", "node-network", "node-reach"),
)
KINDS = (*LOGIN_KINDS, *NODE_KINDS)
# What sinfo says where Slurm's commands are installed and no cluster is configured.
_NO_SLURM = ("Could not establish a configuration source", "Unable to process configuration file")


def examine(
    request: DoctorRequest, ctx: Context, on_step: OnStep = lambda _words: None
) -> list[Check]:
    """Every check that was asked for, in the order in which they are best read.

    Args:
        request: what to look at.
        ctx: the outside.
        on_step: told what is being done, in words, before each step.

    Raises:
        HpcvlmError: ``option-invalid`` for an id that no check has, ``gpus-invalid``, and
            ``interrupted`` after Ctrl-C, when the job of the node part has been cancelled.
    """
    _refuse_unknown(request)
    if request.gpus is not None:
        gpus_of(request.gpus, SiteSpec())
    look, file_check = _look(request, ctx, on_step)
    checks = look_at_slurm(look)
    checks += [file_check, *look_at_site_in_slurm(look), look_at_engines(look)]
    checks += look_at_containers(look)
    checks += look_at_storage(look)
    if request.on_node:
        checks += look_on_node(look)
    return [check for check in checks if request.wants(check.id)]


def any_failed(checks: list[Check]) -> bool:
    """Whether a launch would fail for one of them."""
    return any(check.status is Status.FAILED for check in checks)


def _refuse_unknown(request: DoctorRequest) -> None:
    for flag, ids in (("--only", request.only), ("--skip", request.skip)):
        for asked in ids:
            kind = asked.partition(":")[0]
            if kind not in KINDS:
                near = get_close_matches(kind, KINDS, n=3)
                raise HpcvlmError(
                    "option-invalid",
                    f"{flag} {asked!r}: no check has this id",
                    (f"{' or '.join(near)}; " if near else "")
                    + "hpcvlm doctor --json shows the id of every check",
                )
            if flag == "--only" and kind in NODE_KINDS and not request.on_node:
                raise HpcvlmError(
                    "option-invalid",
                    f"--only {asked} is a check of the node part",
                    f"hpcvlm doctor --on-node --only {asked}",
                )


def _look(request: DoctorRequest, ctx: Context, on_step: OnStep) -> tuple[Look, Check]:
    """The site and the cluster; a site file that is refused does not stop the rest."""
    paths = [str(ctx.settings.site_file), str(ctx.settings.user_config / "site.yaml")]
    error: HpcvlmError | None = None
    try:
        site, _ = site_of(ctx)
    except HpcvlmError as refused:
        site, error = SiteSpec(), refused
    there = [path for path in paths if _exists(path)]
    file_check = judge_site.judge_files(there, error, paths)
    on_step("asking Slurm for its partitions")
    executor, cluster, sinfo = _executor(site, ctx)
    if executor == "local" and not site.engines and not site.image_folder:
        site = _with_local_engine(site, ctx)
    return Look(request, ctx, on_step, site, executor, cluster, sinfo), file_check


def _with_local_engine(site: SiteSpec, ctx: Context) -> SiteSpec:
    """As a launch does: this machine's own vllm where the site names none."""
    try:
        install = find_local_engine("vllm", ctx)
    except HpcvlmError:
        return site  # a launch says what is wrong with HPCVLM_VLLM
    if install is None:
        return site
    return site.model_copy(update={"runtime": "none", "engines": (install,)})


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


def _executor(site: SiteSpec, ctx: Context) -> tuple[str, Cluster | None, Answer | None]:
    """Where a launch would run its jobs, and what sinfo said."""
    if site.executor == "local":
        return "local", None, None
    path = ctx.environment.get("PATH")
    if site.executor == "auto" and shutil.which("sbatch", path=path) is None:
        return "local", None, None
    answer = ask(ctx, commands.sinfo(), slurm=True)
    try:
        return "slurm", parse_sinfo(answer.code, answer.stdout, answer.stderr), answer
    except HpcvlmError:
        if site.executor == "auto" and any(words in answer.stderr for words in _NO_SLURM):
            return "local", None, answer
        return "slurm", None, answer
