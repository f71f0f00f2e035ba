"""Runs a build as a Slurm job and follows it to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_order import RESULT, SCRIPT
from hpcvlm.ops.context import Context
from hpcvlm.slurm import commands
from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.interrupts import deferred_interrupts
from hpcvlm.watch.scheduler import LiveSource
from hpcvlm.watch.verdict import SchedulerView

_POLL_S = 0.5
_ASK_EVERY_S = 3.0
# After the job's end, files of another machine may take a while to be seen.
_FILES_LAG_S = 30.0
_CANCEL_S = 60.0
_TELL_S = 20.0


def run_build_job(folder: Path, name: str, ctx: Context, on_tick: Callable[[str], None]) -> str:
    """Submit the script and wait for its result.

    Args:
        folder: where the script lies and the result will.
        name: of the job, as its script says.
        ctx: the outside.
        on_tick: told what is going on.

    Returns:
        How the job ended, in words.

    Raises:
        HpcvlmError: ``sbatch-refused``, ``slurm-unavailable``.
        KeyboardInterrupt: the job was cancelled, and is over.
    """
    record: JobRecord | None = None
    try:
        with deferred_interrupts():
            record = _submit(folder, name, ctx)
        return _follow(record, folder, ctx, on_tick)
    except BaseException:
        if record is not None:
            _cancel(record, ctx)
        raise


def _submit(folder: Path, name: str, ctx: Context) -> JobRecord:
    from hpcvlm.submit.job import load_executors

    load_executors()
    from hpcvlm.submit.executors import ScriptSlurmExecutor

    executor = ScriptSlurmExecutor(folder, folder / SCRIPT, ctx.runner)
    job_id = str(executor._submit_command("").job_id)  # noqa: SLF001 - see submit/executors.py
    return JobRecord(
        schema=1,
        name=name,
        model="",
        served_name="",
        executor="slurm",
        job_id=job_id,
        submitted=ctx.clock.now(),
        folder=str(folder),
        time_limit_s=0,
        start_timeout_s=0,
        gpus="",
        partition=None,
        vision=False,
        image_limit=None,
        media_root="",
        engine="",
        loopback=False,
    )


def _follow(record: JobRecord, folder: Path, ctx: Context, on_tick: Callable[[str], None]) -> str:
    source, view = LiveSource(ctx.runner), None
    asked, over_since = float("-inf"), None
    while True:
        now = ctx.clock.now()
        if now - asked > _ASK_EVERY_S:
            view, asked = source.view(record), now
        if (folder / RESULT).exists():
            return f"job {record.job_id} has ended"
        over_since = (over_since or now) if _over(view) else None
        if over_since is not None and now - over_since > _FILES_LAG_S:
            state = view.raw if view is not None and view.raw else "gone"
            return f"job {record.job_id} is {state} and has left no result"
        on_tick(_words(record, view))
        ctx.clock.sleep(_POLL_S)


def _words(record: JobRecord, view: SchedulerView | None) -> str:
    if view is None or not view.answered:
        return f"job {record.job_id}"
    if view.phase is JobPhase.PENDING:
        return f"job {record.job_id} waits in the queue" + (
            f": {view.reason}" if view.reason else ""
        )
    return f"job {record.job_id} on {view.nodes}" if view.nodes else f"job {record.job_id}"


def _over(view: SchedulerView | None) -> bool:
    return view is not None and view.answered and (view.phase is None or view.phase.over)


def _cancel(record: JobRecord, ctx: Context) -> None:
    """End the job; it removes what it has unpacked.

    Raises:
        HpcvlmError: ``scancel-refused`` when it is still there afterwards.
    """
    environment = commands.clean_environment(ctx.environment)
    source = LiveSource(ctx.runner)

    def tell(argv: commands.Argv) -> None:
        ctx.runner(argv, env=environment, timeout_s=_TELL_S)

    with deferred_interrupts():
        # A job that waits in the queue has no script that could be told, and scancel waits for it.
        hard = source.view(record).phase is JobPhase.PENDING
        tell((commands.scancel if hard else commands.scancel_term)(record.job_id))
        began = ctx.clock.now()
        while not _over(source.view(record)):
            waited = ctx.clock.now() - began
            if not hard and waited > _CANCEL_S / 2:
                tell(commands.scancel(record.job_id))
                hard = True
            if waited > _CANCEL_S:
                raise HpcvlmError(
                    "scancel-refused",
                    f"interrupted; the build's job {record.job_id} was told to stop and is there",
                    f"scancel {record.job_id}",
                )
            ctx.clock.sleep(_POLL_S)
