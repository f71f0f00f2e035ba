"""Which snapshots are in use now: asked from Slurm for everybody's jobs, and from the records."""

from __future__ import annotations

import getpass
import os
import shutil

from hpcvlm.endpoints.registry import all_records
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.slurm import commands
from hpcvlm.slurm.comments import parse_comments
from hpcvlm.slurm.records import parse_scontrol_config
from hpcvlm.snapshots.model import Use, Uses
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.processes import is_alive

_TIMEOUT_S = 30.0
_ROOT = 0


def find_uses(ctx: Context) -> Uses:
    """Every job that serves a snapshot now, waits to, or is about to end.

    Jobs of Slurm are known by their comments, those on this machine by their records. Where Slurm
    is installed but does not answer, or hides the jobs of others, `Uses.unknown` says so.
    """
    local = [_local(record) for record in all_records(ctx.settings.jobs) if _runs_here(record)]
    if shutil.which("squeue", path=ctx.environment.get("PATH")) is None:
        return Uses(tuple(local))
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(commands.squeue_comments(), env=environment, timeout_s=_TIMEOUT_S)
    try:
        jobs = parse_comments(done.code, done.stdout, done.stderr)
    except HpcvlmError as error:
        if commands.is_not_configured(done.stderr):
            return Uses(tuple(local))
        return Uses(tuple(local), (f"Slurm did not say what runs: {error.sentence}",))
    uses = [Use(job.repo, job.commit, job.job_id, job.user, job.name) for job in jobs]
    return Uses((*local, *uses), _hidden(ctx))


def _runs_here(record: JobRecord) -> bool:
    if record.executor != "local" or not record.repo:
        return False
    return is_alive(int(record.job_id), record.process_started)


def _local(record: JobRecord) -> Use:
    job = f"process {record.job_id}"
    return Use(record.repo, record.commit, job, getpass.getuser(), record.name)


def _hidden(ctx: Context) -> tuple[str, ...]:
    """Why squeue may not show everybody's jobs; nothing where it does.

    Slurm's own administrators see all jobs (slurm.conf(5), PrivateData); of them only root can be
    told without another question.
    """
    if os.geteuid() == _ROOT:
        return ()
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(commands.scontrol_config(), env=environment, timeout_s=_TIMEOUT_S)
    try:
        private = parse_scontrol_config(done.code, done.stdout, done.stderr).get("PrivateData")
    except HpcvlmError as error:
        return (f"Slurm did not say whether it hides jobs: {error.sentence}",)
    if "jobs" in private.lower().split(","):
        return ("Slurm hides the jobs of other users here (PrivateData=jobs); ask as root",)
    return ()
