"""Stopping jobs: at once, or once the requests that run are answered."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.slurm import commands
from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import write_atomically
from hpcvlm.system.processes import is_alive, kill_session, send_signal
from hpcvlm.watch.activity import read_activity
from hpcvlm.watch.latch import keep_verdict
from hpcvlm.watch.model import Ended, Failed, SchedulerView, Unknown
from hpcvlm.watch.scheduler import LiveSource
from hpcvlm.watch.sentences import ENDS
from hpcvlm.watch.state import read_state

DRAIN_NAME = "drain"
_STOP_POLL_S = 0.2
# slurmctld serves everybody; a stop that takes long asks it seldom.
_ASK_EVERY_S = 1.0
_ASK_EVERY_MOST_S = 5.0
# The script stops its engine within 20 s; Slurm kills what is left 30 s after a plain scancel.
_GRACE_S = 25.0
_GONE_S = 60.0
# Phases in which there may be requests to wait for.
_SERVING = frozenset({"ready", "draining", "restarting"})
# The job gives up requests that still run after its own limit, ten minutes unless its site says
# otherwise; then it stops its engine.
_DRAIN_S = 3900.0

_NOT_KNOWN = "Slurm here knows no such job; nothing to stop"

OnWait = Callable[[float], None]


def stop(record: JobRecord, ctx: Context, *, on_wait: OnWait = lambda _s: None) -> str:
    """Stop one job and wait until it is gone.

    Returns:
        What happened: ``stopped``, ``was over`` when there was nothing to stop, or that Slurm here
        knows no such job, which is all that is known of one that said no last word.

    Raises:
        HpcvlmError: ``stop-failed`` when it is still there; says what still runs.
            ``slurm-unavailable`` when nobody can say.
    """
    record, view = _view(record, ctx)
    if not view.answered:
        which = f"job {record.job_id}" if record.job_id else "a job of it"
        when = f"on a login node of {view.cluster}" if view.cluster else "once Slurm answers"
        raise HpcvlmError(
            "slurm-unavailable",
            f"cannot stop {record.name}: {view.reason}; {which} may still run",
            f"hpcvlm stop {record.name}, {when}",
        )
    if view.over:
        return _was_over(record, view, ctx)
    if record.executor == "local":
        return _stop_local(record, ctx, on_wait)
    said = _stop_slurm(record, ctx, view.phase, on_wait)
    _keep_end(record, ctx)
    return said


def _was_over(record: JobRecord, view: SchedulerView, ctx: Context) -> str:
    """What to say of a job that the scheduler calls over, or does not know.

    Raises:
        HpcvlmError: ``stop-failed`` when it is unknown to Slurm here, but at work.
    """
    if view.phase is not None or not record.job_id:
        return "was over"
    from hpcvlm.ops.endpoints import look

    (row,) = look([record], ctx)
    if isinstance(row.verdict, Unknown) and not view.accounts_away:
        raise HpcvlmError(
            "stop-failed",
            f"cannot stop {record.name}: {row.verdict.why}",
            f"hpcvlm stop {record.name} on a login node of the cluster that runs job "
            f"{record.job_id}, or scancel {record.job_id} there",
        )
    if isinstance(row.verdict, Failed) and row.verdict.reason == "vanished":
        return _NOT_KNOWN
    return "was over"


def _keep_end(record: JobRecord, ctx: Context) -> None:
    """The job only knows that it was told to end; that it was by us nobody can tell later on.

    Slurm may have forgotten it by then, while its accounts are away.
    """
    folder = Path(record.folder)
    state = read_state(folder)
    if state is not None and (state.phase, state.reason) == ("ended", "stopped"):
        ended = Ended(ENDS["stopped"], "stopped", state.since)
        keep_verdict(folder, record.job_id, ended, ctx.clock.now())


def stop_endpoint(
    jobs: Sequence[JobRecord],
    ctx: Context,
    *,
    on_wait: OnWait = lambda _s: None,
) -> list[tuple[JobRecord, str]]:
    """Stop all generations of an endpoint, the newest first, so that none starts meanwhile.

    Args:
        jobs: the generations, oldest first.
        ctx: the outside.
        on_wait: is told the seconds waited for one of them.

    Returns:
        What `stop` says of each.

    Raises:
        HpcvlmError: of the first one that could not be stopped, after all were tried.
    """
    said, failures = [], []
    for record in reversed(jobs):
        try:
            said.append((record, stop(record, ctx, on_wait=on_wait)))
        except HpcvlmError as error:
            failures.append(error)
    if failures:
        first, *others = failures
        details = (*first.details, *(error.sentence for error in others))
        raise HpcvlmError(first.code, first.sentence, first.remedy, details)
    return said


def drain_endpoint(
    jobs: Sequence[JobRecord],
    ctx: Context,
    *,
    on_wait: Callable[[JobRecord, float, int | None], None] = lambda _r, _s, _n: None,
) -> list[tuple[JobRecord, str]]:
    """Let the requests that run be answered, then end: successors that wait first.

    Args:
        jobs: the generations, oldest first.
        ctx: the outside.
        on_wait: is told the job, the seconds waited for it, and the requests that it still
            answers; None when that is not known.

    Returns:
        Of each job ``drained``, ``stopped`` where it was not serving, or ``was over``.

    Raises:
        HpcvlmError: as `stop_endpoint`; ``state-unwritable`` when a job cannot be told.
    """
    said = []
    for record in reversed(jobs):
        state = read_state(Path(record.folder))
        if state is None or state.phase not in _SERVING:
            said.append((record, stop(record, ctx)))
            continue
        _tell(record)
        said.append((record, _until_drained(record, ctx, on_wait)))
    return said


def _tell(record: JobRecord) -> None:
    path = Path(record.folder) / DRAIN_NAME
    try:
        if not path.exists():
            write_atomically(path, "drained\n")
    except OSError as error:
        raise HpcvlmError(
            "state-unwritable",
            f"cannot tell {record.name} to drain: cannot write {path}: {error.strerror}",
            f"hpcvlm stop {record.name} stops it at once",
        ) from None


def _until_drained(
    record: JobRecord, ctx: Context, on_wait: Callable[[JobRecord, float, int | None], None]
) -> str:
    folder = Path(record.folder)
    source = LiveSource(ctx.runner)
    started = asked = ctx.clock.now()
    every = _ASK_EVERY_S
    while (waited := ctx.clock.now() - started) < _DRAIN_S:
        state = read_state(folder)
        if state is not None and state.phase == "ended":
            _until(lambda: source.view(record).over, _GONE_S, ctx, lambda _s: None)
            return state.reason if state.reason != "stopped" else "stopped"
        if ctx.clock.now() - asked > every:
            # A job that died says nothing.
            if source.view(record).over:
                return "was over"
            asked, every = ctx.clock.now(), min(every * 1.5, 4 * _ASK_EVERY_MOST_S)
        activity = read_activity(folder)
        known = activity.running + activity.waiting if activity is not None else None
        on_wait(record, waited, known)
        ctx.clock.sleep(_STOP_POLL_S)
    raise HpcvlmError(
        "stop-failed",
        f"{record.name} was told to drain {_DRAIN_S / 60:.0f} min ago and is still there",
        f"hpcvlm stop {record.name} stops it at once",
    )


def _view(record: JobRecord, ctx: Context) -> tuple[JobRecord, SchedulerView]:
    source = LiveSource(ctx.runner)
    if record.job_id:
        return record, source.view(record)
    known, view = source.confirm(record)
    return known, view or source.view(known)


def _stop_local(record: JobRecord, ctx: Context, on_wait: OnWait) -> str:
    pid = int(record.job_id)
    send_signal(pid, signal.SIGTERM)
    if not _until(lambda: not is_alive(pid, record.process_started), _GRACE_S, ctx, on_wait):
        kill_session(pid)
        _until(lambda: not is_alive(pid, record.process_started), 5.0, ctx, on_wait)
    return "stopped"


def _stop_slurm(record: JobRecord, ctx: Context, phase: JobPhase | None, on_wait: OnWait) -> str:
    """First the script is asked, so that the engine ends in order; then Slurm is."""
    environment = commands.clean_environment(ctx.environment)
    over = _Over(record, ctx)
    if phase is not JobPhase.PENDING:
        ctx.runner(commands.scancel_term(record.job_id), env=environment)
        if _until(over, _GRACE_S, ctx, on_wait):
            return "stopped"
    ctx.runner(commands.scancel(record.job_id), env=environment)
    if _until(over, _GONE_S, ctx, on_wait):
        return "stopped"
    raise HpcvlmError(
        "stop-failed",
        f"job {record.job_id} of {record.name} is still there after scancel",
        f"squeue -j {record.job_id}; ask your admin if it stays in state COMPLETING",
    )


class _Over:
    """Whether Slurm says that a job is over; asked at once when the job says so, else seldom."""

    def __init__(self, record: JobRecord, ctx: Context) -> None:
        self._record, self._ctx = record, ctx
        self._every, self._pause, self._not_before = _STOP_POLL_S, 0.0, float("-inf")
        self._said_end = False

    def __call__(self) -> bool:
        if not self._said_end:
            with suppress(OSError):
                state = read_state(Path(self._record.folder))
                self._said_end = state is not None and state.phase == "ended"
            if self._said_end:
                self._every, self._not_before = _STOP_POLL_S, float("-inf")
        now = self._ctx.clock.now()
        # Not yet, but for a clock that has been set back meanwhile.
        if self._not_before - self._pause <= now < self._not_before:
            return False
        view = LiveSource(self._ctx.runner).view(self._record)
        after = self._ctx.clock.now()
        self._every = min(self._every * 1.5, _ASK_EVERY_MOST_S)
        self._pause = max(self._every, 2 * (after - now))
        self._not_before = after + self._pause
        return view.over


def _until(done: Callable[[], bool], timeout_s: float, ctx: Context, on_wait: OnWait) -> bool:
    from tenacity import RetryCallState, Retrying, retry_if_result, wait_fixed

    started = ctx.clock.now()

    def too_long(_state: RetryCallState) -> bool:
        return ctx.clock.now() - started > timeout_s

    retrying = Retrying(
        retry=retry_if_result(lambda result: not result),
        stop=too_long,
        wait=wait_fixed(_STOP_POLL_S),
        sleep=ctx.clock.sleep,
        before_sleep=lambda _state: on_wait(ctx.clock.now() - started),
        retry_error_callback=lambda _state: False,
    )
    return bool(retrying(done))
