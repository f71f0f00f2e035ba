"""Looking at endpoints, waiting for them, stopping them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpcvlm.endpoints.endpoint import Endpoint, make_endpoint
from hpcvlm.endpoints.registry import all_records, find_record
from hpcvlm.engines.vllm_failures import Diagnosis, diagnose
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.slurm import commands
from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import read_tail
from hpcvlm.system.processes import is_alive, kill_session, send_signal
from hpcvlm.watch.loop import Glance, watch
from hpcvlm.watch.scheduler import LiveSource, views
from hpcvlm.watch.state import read_state
from hpcvlm.watch.verdict import (
    Ended,
    Failed,
    Observation,
    Ready,
    SchedulerView,
    Unknown,
    Verdict,
    decide,
)

_STOP_POLL_S = 0.2
_OVER = SchedulerView(True, None)
# The script stops its engine within 20 s; Slurm kills what is left 30 s after a plain scancel.
_GRACE_S = 25.0
_GONE_S = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint as `ls` and `status` show it."""

    record: JobRecord
    glance: Glance

    @property
    def verdict(self) -> Verdict:
        """What is true of it."""
        return self.glance.verdict

    @property
    def endpoint(self) -> Endpoint | None:
        """How to reach it; None unless it is ready."""
        verdict = self.verdict
        if not isinstance(verdict, Ready):
            return None
        return make_endpoint(self.record, verdict.host, verdict.port, verdict.ends)


def look(records: Sequence[JobRecord], ctx: Context) -> list[Row]:
    """One look at each job, with at most two Slurm calls in all."""
    states = {record.name: read_state(Path(record.folder)) for record in records}
    # A job that has said its last word needs no scheduler; on a long list most have.
    open_jobs = [r for r in records if (s := states[r.name]) is None or s.phase != "ended"]
    seen = views(open_jobs, ctx.runner)
    rows, now = [], ctx.clock.now()
    for record in records:
        state = states[record.name]
        view = seen.get(record.name, _OVER)
        # 0.0: nobody watched, so a job that the scheduler has forgotten is long gone.
        verdict = decide(Observation(now, record.submitted, state, view, 0.0))
        rows.append(Row(record, Glance(verdict, state, view)))
    return rows


def listing(ctx: Context) -> list[Row]:
    """Every endpoint that was ever launched and not cleaned up, oldest first."""
    return look(all_records(ctx.settings.jobs), ctx)


def status(name: str, ctx: Context) -> Row:
    """One endpoint by name, unique prefix or job id."""
    return look([find_record(ctx.settings.jobs, name)], ctx)[0]


def ready_endpoint(name: str, ctx: Context) -> tuple[JobRecord, Endpoint]:
    """An endpoint that is ready.

    Raises:
        HpcvlmError: ``endpoint-not-ready`` with what it is instead.
    """
    row = status(name, ctx)
    endpoint = row.endpoint
    if endpoint is None:
        raise HpcvlmError(
            "endpoint-not-ready",
            f"{row.record.name} is not ready: {describe(row.verdict)}",
            f"hpcvlm wait {row.record.name}",
        )
    return row.record, endpoint


def wait(
    record: JobRecord,
    ctx: Context,
    *,
    on_glance: Callable[[Glance], None] = lambda _glance: None,
    queue_timeout_s: float | None = None,
) -> Row:
    """Watch one job until it is ready, failed or ended (or the queue took too long)."""
    glance = watch(
        record,
        source=LiveSource(ctx.runner),
        clock=ctx.clock,
        on_glance=on_glance,
        queue_timeout_s=queue_timeout_s,
    )
    return Row(record, glance)


def explain(row: Row) -> Diagnosis:
    """Why a failed job failed, from its verdict and its logs."""
    folder = Path(row.record.folder)
    out = read_tail(folder / "engine.out", 1 << 20)
    err = read_tail(folder / "engine.err", 1 << 20) + read_tail(folder / "job.err")
    found = diagnose(out, err)
    if not row.record.repo:
        return found
    return replace(found, remedy=found.remedy.replace("OWNER/NAME", row.record.repo))


def stop(
    record: JobRecord, ctx: Context, *, on_wait: Callable[[float], None] = lambda _s: None
) -> str:
    """Stop one job and wait until it is gone.

    Returns:
        What happened: ``stopped``, or ``was over`` when there was nothing to stop.

    Raises:
        HpcvlmError: ``stop-failed`` when it is still there; says what still runs.
    """
    view = LiveSource(ctx.runner).view(record)
    if not view.answered:
        raise HpcvlmError(
            "slurm-unavailable",
            f"cannot stop {record.name}: {view.reason}; job {record.job_id} may still run",
            f"scancel {record.job_id}, once Slurm answers",
        )
    if view.phase in _OVER_PHASES:
        return "was over"
    if record.executor == "local":
        return _stop_local(record, ctx, on_wait)
    return _stop_slurm(record, ctx, view.phase, on_wait)


def _stop_local(record: JobRecord, ctx: Context, on_wait: Callable[[float], None]) -> str:
    pid = int(record.job_id)
    send_signal(pid, signal.SIGTERM)
    if not _until(lambda: not is_alive(pid, record.process_started), _GRACE_S, ctx, on_wait):
        kill_session(pid)
        _until(lambda: not is_alive(pid, record.process_started), 5.0, ctx, on_wait)
    return "stopped"


def _stop_slurm(
    record: JobRecord, ctx: Context, phase: JobPhase | None, on_wait: Callable[[float], None]
) -> str:
    """First the script is asked, so that the engine ends in order; then Slurm is."""
    environment = commands.clean_environment(ctx.environment)

    def over() -> bool:
        view = LiveSource(ctx.runner).view(record)
        return view.answered and view.phase in _OVER_PHASES

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


def _until(
    done: Callable[[], bool], timeout_s: float, ctx: Context, on_wait: Callable[[float], None]
) -> bool:
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


def describe(verdict: Verdict) -> str:
    """A verdict in a few words."""
    if isinstance(verdict, Ready):
        return "ready"
    if isinstance(verdict, Failed):
        return f"failed ({FAILURES.get(verdict.reason, verdict.reason)})"
    if isinstance(verdict, Ended):
        return f"ended ({verdict.how})"
    if isinstance(verdict, Unknown):
        return f"unknown ({verdict.why})"
    return verdict.phase


FAILURES = {
    "engine-exited": "the engine ended",
    "start-timeout": "not ready within its start time",
    "not-locked": "it answered without the key",
    "model-not-listed": "/v1/models does not list the model",
    "text-not-answered": "it did not answer a text prompt",
    "image-not-answered": "it did not answer an image prompt",
    "image-not-taken-in": "the image did not reach the model",
    "snapshot-missing": "the snapshot cannot be read on the node",
    "image-missing": "the container image cannot be read on the node",
    "runtime-missing": "the container runtime is not on the node",
    "curl-missing": "there is no curl on the node",
    "module-missing": "an environment module could not be loaded",
    "media-root-missing": "the media root is no folder on the node",
    "cache-unwritable": "the cache folder cannot be written on the node",
    "time-limit": "the time limit came before it was ready",
    "out-of-memory": "the node's memory for the job was used up",
    "node-failed": "the node failed",
    "preempted": "preempted",
    "vanished": "the scheduler forgot the job",
    "job-failed": "the job failed",
    "job-ended": "the job ended without a word",
}

_OVER_PHASES = (
    None,
    JobPhase.DONE,
    JobPhase.FAILED,
    JobPhase.CANCELLED,
    JobPhase.TIMED_OUT,
    JobPhase.OUT_OF_MEMORY,
    JobPhase.NODE_FAILED,
    JobPhase.PREEMPTED,
)
