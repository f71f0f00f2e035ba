"""Asks Slurm: versions, one-GPU test jobs, accounting; and whether the site file agrees."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hpcvlm.doctor import commands, job, slurm
from hpcvlm.doctor import site as judge_site
from hpcvlm.doctor.model import Answer, Check
from hpcvlm.ops.doctor_look import FOLDER_TIMEOUT_S, Look, ask, within
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import Notify, SiteSpec
from hpcvlm.slurm.commands import clean_environment, sbatch_test, scontrol_config

_TEST_TIMEOUT_S = 30.0
_TEST_MINUTES = 1
_FINE = "fine"


def look_at_slurm(look: Look) -> list[Check]:
    """Programs, controller, a test job for every partition, accounting."""
    if look.executor == "local":
        return [slurm.CONTROLLER.skipped("there is no Slurm here, or the site runs jobs locally")]
    checks = []
    if look.wants("slurm-programs"):
        path = look.ctx.environment.get("PATH")
        missing = [
            name for name in commands.SLURM_PROGRAMS if shutil.which(name, path=path) is None
        ]
        checks.append(slurm.judge_programs(missing, commands.SLURM_PROGRAMS))
    config = Answer(0)
    if look.wants("slurm", "accounting"):
        look.on_step("asking Slurm's controller")
        config = ask(look.ctx, scontrol_config(), slurm=True)
    if look.wants("slurm"):
        ping = ask(look.ctx, commands.scontrol_ping(), slurm=True)
        checks.append(slurm.judge_controller(ping, config))
    if look.wants("gpu-job"):
        checks += _gpu_jobs(look)
    if look.wants("accounting"):
        look.on_step("asking Slurm's accounts")
        sacct = ask(look.ctx, commands.sacct_now(), slurm=True)
        checks.append(slurm.judge_accounting(config, sacct))
    return checks


def _gpu_jobs(look: Look) -> list[Check]:
    cluster, site = look.cluster, look.site
    if cluster is None or not cluster.partitions:
        return [slurm.no_partitions(look.sinfo or Answer(0))]
    wanted = [
        part
        for part in cluster.partitions
        if look.request.wants(slurm.gpu_job_question(part.name).id)
    ]
    trials, silent = [], False
    for part in wanted:
        gpus = job.gpus_of(job.first_gpu(cluster, part.name), site)
        options = job.job_options(
            site,
            part.name,
            gpus,
            _TEST_MINUTES,
            folder=str(look.ctx.settings.state),
            account=look.request.account,
        )
        answer = None
        if gpus.slurm.count and part.available:
            look.on_step(f"asking Slurm about a job in partition {part.name}")
            answer = Answer(124) if silent else _test(look, options)
            silent = silent or answer.timed_out
        known = part.default or part.name == site.partition or part.name in site.partitions
        words = job.asked_words(options, gpus)
        trials.append(slurm.PartitionTrial(part.name, words, known, part.available, answer))
    return slurm.judge_gpu_jobs(trials)


def _test(look: Look, options: dict[str, str]) -> Answer:
    """What ``sbatch --test-only`` says; nothing is submitted."""
    try:
        with tempfile.TemporaryDirectory(prefix="hpcvlm-doctor.") as folder:
            script = Path(folder) / "test.sbatch"
            script.write_text(job.trial_script(options), encoding="utf-8")
            done = look.ctx.runner(
                sbatch_test(str(script)),
                env=clean_environment(look.ctx.environment),
                timeout_s=_TEST_TIMEOUT_S,
            )
    except OSError as error:
        return Answer(1, "", f"no script could be written for sbatch: {error.strerror}")
    return Answer(done.code, done.stdout, done.stderr)


def look_at_site_in_slurm(look: Look) -> list[Check]:
    """Whether what the site file names is known to Slurm and to this machine."""
    checks: list[Check] = []
    judges: list[tuple[str, Callable[[SiteSpec, Cluster | None], Check]]] = [
        ("site-partitions", judge_site.judge_partitions),
        ("site-gpus", judge_site.judge_gpu_types),
    ]
    if look.executor == "slurm":
        checks += [judge(look.site, look.cluster) for kind, judge in judges if look.wants(kind)]
    if look.wants("site-folders"):
        look.on_step("looking for the site's folders")
        named = _named_folders(look.site)
        missing = [
            f"{key} {path}"
            for key, path in named
            if not within(FOLDER_TIMEOUT_S, partial(os.access, path, os.R_OK))
        ]
        checks.append(judge_site.judge_folders(missing, {path for _, path in named}))
    if look.wants("site-notify"):
        notify = look.site.notify
        problems = _untold(notify, look.ctx.environment.get("PATH"))
        checks.append(judge_site.judge_notify(notify, problems))
    return checks


def _untold(notify: Notify, path: str | None) -> list[str]:
    """What keeps a job on this machine from telling anybody."""
    programs = [*notify.command[:1], *(["mail"] if notify.mail_to else [])]
    found = [f"no program {name} here" for name in programs if not shutil.which(name, path=path)]
    if notify.webhook_file is not None:
        file = Path(notify.webhook_file)
        what = within(FOLDER_TIMEOUT_S, partial(_why_no_webhook, file)) or "no answer of its disk"
        found += [] if what == _FINE else [f"notify.webhook_file {file}: {what}"]
    return found


def _why_no_webhook(file: Path) -> str:
    """Why no job takes an address from a file, or `_FINE`."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return str(error.strerror)
    open_to_others = mode & (stat.S_IRWXG | stat.S_IRWXO)
    return "others may read it, so no job uses it (chmod 600)" if open_to_others else _FINE


def _named_folders(site: SiteSpec) -> list[tuple[str, str]]:
    """Folders of the site file that must be there; (key, path). hub_caches have a check apart."""
    binds = [*site.binds, *(bind for install in site.engines for bind in install.binds)]
    named = [("binds", bind.partition(":")[0]) for bind in binds]
    named += [("media_roots", root) for root in site.media_roots]
    named += [("media_root", site.media_root)] if site.media_root else []
    named += [("image_folder", site.image_folder)] if site.image_folder else []
    return list(dict.fromkeys((key, str(Path(path).expanduser())) for key, path in named))
