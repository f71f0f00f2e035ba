"""Makes the job folder and submits the job; either all of it stands afterwards, or nothing."""

from __future__ import annotations

import importlib
import secrets
import shutil
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.render.model import RenderedJob
from hpcvlm.render.script import SCRIPT_NAME
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.system.clock import Clock
from hpcvlm.system.files import PRIVATE_FILE, make_private_folder, write_atomically
from hpcvlm.system.imports import import_at_first_use
from hpcvlm.system.interrupts import deferred_interrupts
from hpcvlm.system.process import Runner
from hpcvlm.system.processes import start_ticks

KEY_BYTES = 32


class InterruptedAfterSubmit(KeyboardInterrupt):
    """Ctrl-C came while the job was being submitted; it was, and is the caller's to care for.

    Attributes:
        record: the job.
    """

    def __init__(self, record: JobRecord) -> None:
        super().__init__()
        self.record = record


def submit_job(plan: LaunchPlan, job: RenderedJob, *, runner: Runner, clock: Clock) -> JobRecord:
    """Write the job folder, submit the script, and record what came of it.

    Raises:
        HpcvlmError: ``name-taken``, ``state-unwritable``, ``sbatch-refused``,
            ``slurm-unavailable``; the folder is gone then, and no job was left.
        InterruptedAfterSubmit: the job stands.
    """
    folder = Path(plan.folder)
    try:
        make_private_folder(folder)
    except FileExistsError:
        raise HpcvlmError(
            "name-taken",
            f"there is an endpoint called {plan.name!r} already",
            f"hpcvlm status {plan.name}, or choose another --name",
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    record: JobRecord | None = None
    try:
        with deferred_interrupts():
            record = _all_or_nothing(plan, folder, job, runner, clock)
            write_record(record)
    except KeyboardInterrupt:
        if record is None:
            raise
        raise InterruptedAfterSubmit(record) from None
    return record


def _all_or_nothing(
    plan: LaunchPlan, folder: Path, job: RenderedJob, runner: Runner, clock: Clock
) -> JobRecord:
    try:
        _fill(folder, plan, job)
        return _submit(plan, folder, runner, clock)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _unwritable(folder, error) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def load_executors() -> None:
    """Load submitit, and what we make of it; that takes longer than sbatch does."""
    # submitit needs it to look for plug-ins, which neither of our executors does.
    import_at_first_use("importlib.metadata")
    importlib.import_module("hpcvlm.submit.executors")


def _fill(folder: Path, plan: LaunchPlan, job: RenderedJob) -> None:
    for file in job.files:
        write_atomically(folder / file.name, file.text, file.mode)
    write_atomically(folder / "key", secrets.token_urlsafe(KEY_BYTES) + "\n", PRIVATE_FILE)
    if plan.media_root_is_private:
        make_private_folder(Path(plan.media_root), exist_ok=True)


def _submit(plan: LaunchPlan, folder: Path, runner: Runner, clock: Clock) -> JobRecord:
    load_executors()
    from hpcvlm.submit.executors import ScriptLocalExecutor, ScriptSlurmExecutor

    script = folder / SCRIPT_NAME
    submitted = clock.now()
    if plan.executor == "local":
        local = ScriptLocalExecutor(folder, script)
        local.update_parameters(
            timeout_min=plan.time_limit_s / 60,
            signal_delay_s=plan.stop_timeout_s,
            gpus_per_node=plan.gpus.count,
        )
        job_id = str(local._submit_command("").job_id)  # noqa: SLF001 - see executors.py
        return _record(plan, job_id, submitted, (), start_ticks(int(job_id)))
    slurm = ScriptSlurmExecutor(folder, script, runner)
    job_id = str(slurm._submit_command("").job_id)  # noqa: SLF001
    warnings = slurm.submission.warnings if slurm.submission is not None else ()
    return _record(plan, job_id, submitted, warnings, None)


def _record(
    plan: LaunchPlan,
    job_id: str,
    submitted: float,
    warnings: tuple[str, ...],
    process_started: int | None,
) -> JobRecord:
    return JobRecord(
        schema=1,
        name=plan.name,
        model=plan.model,
        served_name=plan.served_name,
        executor=plan.executor,
        job_id=job_id,
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
        loopback=plan.listen_host == "127.0.0.1",
        process_started=process_started,
        warnings=warnings,
        repo=plan.snapshot.repo,
        commit=plan.snapshot.commit,
    )


def _unwritable(folder: Path, error: OSError) -> HpcvlmError:
    return HpcvlmError(
        "state-unwritable",
        f"cannot write the job folder {folder}: {error.strerror}",
        "set HPCVLM_STATE to a folder that login and compute nodes share",
    )
