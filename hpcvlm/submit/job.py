"""Submits the jobs of an endpoint; either all of them stand afterwards, or none."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.chain import delay_minutes
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.render.model import RenderedJob
from hpcvlm.render.script import SCRIPT_NAME
from hpcvlm.slurm.commands import after
from hpcvlm.submit.attempt import UNCONFIRMED, submit_to_slurm
from hpcvlm.submit.cluster import AskedMeanwhile
from hpcvlm.submit.folders import Draft, make_folders, remove_folders
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.submit.undo import cancel_all
from hpcvlm.system.clock import Clock
from hpcvlm.system.imports import import_at_first_use
from hpcvlm.system.interrupts import deferred_interrupts
from hpcvlm.system.process import Runner
from hpcvlm.system.processes import start_ticks

_NO_PROCESS = {errno.EAGAIN, errno.ENOMEM}


class InterruptedAfterSubmit(KeyboardInterrupt):
    """Ctrl-C came while the job was being submitted; it was, and is the caller's to care for.

    Attributes:
        record: the job; the first one of a chain.
    """

    def __init__(self, record: JobRecord) -> None:
        super().__init__()
        self.record = record


def submit_jobs(
    jobs: Sequence[tuple[LaunchPlan, RenderedJob]],
    *,
    runner: Runner,
    clock: Clock,
    predecessor: JobRecord | None = None,
    key: str | None = None,
) -> tuple[JobRecord, ...]:
    """Submit the jobs of one endpoint, each after the one before it.

    Each folder with its record stands before its job is submitted, so that a job whose submission
    nobody saw to its end can be found again (`hpcvlm.submit.adopt`).

    Args:
        jobs: plan and script of each generation, the first one first.
        runner: runs Slurm's commands.
        clock: tells the time, and waits.
        predecessor: a job that was submitted before, which the first of these takes over from as
            soon as it can.
        key: of the endpoint, where it has one already.

    Raises:
        HpcvlmError: ``name-taken``, ``state-unwritable``, ``sbatch-refused``,
            ``slurm-unavailable``, ``slurm-output``, ``processes-exhausted``: the folders are gone,
            and so are the jobs but for those that its details name; ``submission-unconfirmed``:
            nobody can say yet whether there is a job, and its folder stays.
        InterruptedAfterSubmit: the jobs stand.
    """
    load_executors()
    records: tuple[JobRecord, ...] = ()
    try:
        with deferred_interrupts() as held:
            now = clock.now()
            drafts = [Draft(plan, job, _record(plan, now)) for plan, job in jobs]
            make_folders(drafts, key)
            records = _submit_all(drafts, predecessor, runner, clock, held)
    except KeyboardInterrupt:
        if not records:
            raise
        raise InterruptedAfterSubmit(records[0]) from None
    return records


def load_executors() -> None:
    """Load submitit, and what we make of it; that takes longer than sbatch does."""
    # submitit needs it to look for plug-ins, which neither of our executors does.
    import_at_first_use("importlib.metadata")
    importlib.import_module("hpcvlm.submit.executors")


def _submit_all(
    drafts: Sequence[Draft],
    predecessor: JobRecord | None,
    runner: Runner,
    clock: Clock,
    held: Sequence[int],
) -> tuple[JobRecord, ...]:
    done: list[JobRecord] = []
    before, minutes = predecessor, 0
    slurm = any(draft.plan.executor != "local" for draft in drafts)
    cluster = AskedMeanwhile(runner) if slurm else None
    for draft in drafts:
        try:
            if draft.plan.executor == "local":
                record = _start_here(draft)
            else:
                dependency = after(before.job_id, minutes) if before is not None else None
                record = submit_to_slurm(draft.record, runner, clock, dependency, held)
                record = replace(record, cluster=cluster.name() if cluster else "")
        except (HpcvlmError, OSError) as error:
            raise _undone(error, drafts, done, runner, clock) from None
        done.append(_written(record))
        before = record
        minutes = delay_minutes(draft.plan.time_limit_s, draft.plan.overlap_s)
    return tuple(done)


def _start_here(draft: Draft) -> JobRecord:
    from hpcvlm.submit.executors import ScriptLocalExecutor

    plan, folder = draft.plan, Path(draft.plan.folder)
    local = ScriptLocalExecutor(folder, folder / SCRIPT_NAME)
    local.update_parameters(
        timeout_min=plan.time_limit_s / 60,
        signal_delay_s=plan.stop_timeout_s,
        gpus_per_node=plan.gpus.count,
    )
    job_id = str(local._submit_command("").job_id)  # noqa: SLF001 - see executors.py
    return replace(draft.record, job_id=job_id, process_started=start_ticks(int(job_id)))


def _written(record: JobRecord) -> JobRecord:
    """The record, in its folder where that can be written.

    Where it cannot, the folder keeps the record without a number, from which `adopt` finds it.
    """
    try:
        write_record(record)
    except OSError as error:
        told = f"its number cannot be written to {record.folder}: {error.strerror}"
        return replace(record, warnings=(*record.warnings, told))
    return record


def _undone(
    error: HpcvlmError | OSError,
    drafts: Sequence[Draft],
    done: Sequence[JobRecord],
    runner: Runner,
    clock: Clock,
) -> HpcvlmError:
    """What to raise once everything that can be taken back is taken back."""
    folders = [Path(draft.plan.folder) for draft in drafts]
    if isinstance(error, HpcvlmError) and error.code == UNCONFIRMED:
        remove_folders(folders[len(done) + 1 :])
        stay = tuple(f"job {job.job_id} of {job.name} was accepted, and stays" for job in done)
        return HpcvlmError(error.code, error.sentence, error.remedy, (*error.details, *stay))
    left = cancel_all(done, runner, clock)
    kept = {job.folder for job in left}
    remove_folders([folder for folder in folders if str(folder) not in kept])
    if isinstance(error, OSError):
        error = _not_started(error)
    if not done:
        return error
    gone = [job.job_id for job in done if job.folder not in kept]
    notes = [f"of {len(drafts)} jobs {len(done)} had been accepted: none is kept"]
    notes += [f"cancelled: {', '.join(gone)}"] if gone else []
    notes += [
        f"job {job.job_id} of {job.name} is still there: hpcvlm stop {job.name}" for job in left
    ]
    return HpcvlmError(error.code, error.sentence, error.remedy, (*error.details, *notes))


def _not_started(error: OSError) -> HpcvlmError:
    if error.errno in _NO_PROCESS:
        return HpcvlmError(
            "processes-exhausted",
            f"this machine can start no further process ({error.strerror}); nothing was submitted",
            "end some of yours (ps -u $USER); ulimit -u shows how many you may have",
        )
    place = f" {error.filename}" if error.filename else ""
    return HpcvlmError(
        "state-unwritable",
        f"the job could not be started:{place} {error.strerror}; nothing was submitted",
        "set HPCVLM_STATE to a folder that login and compute nodes share",
    )


def _record(plan: LaunchPlan, submitted: float) -> JobRecord:
    return JobRecord(
        schema=1,
        name=plan.name,
        model=plan.model,
        served_name=plan.served_name,
        executor=plan.executor,
        job_id="",
        submitted=submitted,
        folder=plan.folder,
        time_limit_s=plan.time_limit_s,
        start_timeout_s=plan.start_timeout_s,
        gpus=plan.gpus.text,
        partition=plan.partition,
        vision=plan.vision,
        image_limit=plan.image_limit,
        media_root=plan.media_root,
        engine=f"{plan.engine.name} {plan.engine.version}",
        loopback=plan.listen != "node",
        repo=plan.snapshot.repo,
        commit=plan.snapshot.commit,
        endpoint=plan.endpoint or plan.name,
        generation=plan.generation,
        requeue=plan.restarts > 0,
        restarts=plan.restarts,
        idle_s=plan.idle_s,
        keep_until=None if plan.keep_s is None else submitted + plan.keep_s,
        listen=plan.listen,
    )
