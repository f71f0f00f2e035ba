"""Runs the doctor's job: submits it, answers it while it runs, and leaves no job behind."""

from __future__ import annotations

import shutil
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from hpcvlm.doctor import job
from hpcvlm.doctor.model import without_credentials
from hpcvlm.doctor.seen import Seen, finished, host, last_step, parse_seen
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.doctor_look import Look
from hpcvlm.ops.endpoints import stop
from hpcvlm.slurm import commands
from hpcvlm.slurm.states import JobPhase
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import make_private_folder, read_text, write_atomically
from hpcvlm.system.interrupts import deferred_interrupts
from hpcvlm.system.processes import start_ticks
from hpcvlm.watch.scheduler import LiveSource
from hpcvlm.watch.verdict import SchedulerView

_POLL_S = 0.1
_ASK_EVERY_S = 2.0
# After the job's end, files of another machine may take a while to be seen.
_FILES_LAG_S = 10.0
_CANCEL_S = 30.0
_SETTLE_S = 5.0
_RUN_S = job.NODE_MINUTES * 60 + 60.0


@dataclass(slots=True)
class Watched:
    """What is known of the job so far.

    Attributes:
        text: the observations that have arrived.
        view: the scheduler's, None before it was asked.
        token_back: whether the node's hello has been seen here.
        gave_up: whether it waited longer in the queue than it may.
        left: whether it was told to stop and is still there.
    """

    text: str = ""
    view: SchedulerView | None = None
    token_back: bool = False
    gave_up: bool = False
    left: bool = False


def run_job(
    look: Look, folder: Path, script: str, token: str, gpus: int
) -> tuple[JobRecord, Watched]:
    """Submit the script and follow it; afterwards the job is over, whatever happened.

    Args:
        look: the examination.
        folder: the job's own; it is made here.
        script: the node part.
        token: what the node is to read.
        gpus: how many the job has.

    Raises:
        HpcvlmError: ``interrupted`` when Ctrl-C, SIGTERM or a closed terminal came and the job was
            cancelled; ``sbatch-refused``, ``slurm-unavailable``.
        OSError: the folder cannot be written.
    """
    record: JobRecord | None = None
    try:
        with _Interrupts() as interrupts:
            _make_folder(folder, look.ctx.settings.state)
            write_atomically(folder / job.SCRIPT_NAME, script, 0o700)
            write_atomically(folder / "token", token)
            write_atomically(folder / "answer", "")
            record = _submit(look, folder, gpus)
            interrupts.release()
            watched = _watch(look, record)
            watched.left = not _ends_by_itself(look, record, watched) and not cancel(look, record)
    except KeyboardInterrupt:
        raise _interrupted(look, folder, record) from None
    except BaseException:
        if record is not None:
            cancel(look, record)
        remove(folder)
        raise
    return record, watched


def _ends_by_itself(look: Look, record: JobRecord, watched: Watched) -> bool:
    """A job that has said its last word needs a moment, no scancel."""
    source = LiveSource(look.ctx.runner)
    until = look.ctx.clock.now() + (_SETTLE_S if finished(parse_seen(watched.text)) else 0.0)
    while not over(watched.view):
        if look.ctx.clock.now() >= until:
            return False
        look.ctx.clock.sleep(_POLL_S * 2)
        watched.view = source.view(record)
    return True


def _make_folder(folder: Path, state: Path) -> None:
    """Make the job's folder; the state folder, too, is private if it is made here."""
    if not state.exists():
        make_private_folder(state, exist_ok=True)
    make_private_folder(folder)


def remove(folder: Path) -> None:
    """Remove a job's folder, and the one around it when it was the last."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # those of other runs stay
        folder.parent.rmdir()


class _Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal: held back until released, then KeyboardInterrupt.

    Between sbatch's acceptance and the record there must be no way out that leaves a job behind.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._holding, self._held = True, False
        self._in_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._in_main:
            self._before = {n: signal.signal(n, self._handle) for n in self._NUMBERS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._in_main:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def release(self) -> None:
        """From here on they interrupt; one that came before does so now."""
        self._holding = False
        if self._held:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._held = True


def _interrupted(look: Look, folder: Path, record: JobRecord | None) -> HpcvlmError:
    if record is None:
        remove(folder)
        return HpcvlmError("interrupted", "interrupted; no job was submitted")
    name = f"job {record.job_id}" if record.executor == "slurm" else f"process {record.job_id}"
    if cancel(look, record):
        remove(folder)
        return HpcvlmError("interrupted", f"interrupted; the doctor's {name} was cancelled")
    return HpcvlmError(
        "interrupted",
        f"interrupted; the doctor's {name} was told to stop and is still there",
        f"squeue -j {record.job_id}; it ends by itself after {job.NODE_MINUTES} minutes",
    )


def _submit(look: Look, folder: Path, gpus: int) -> JobRecord:
    """Through the same executors as a launch."""
    from hpcvlm.submit.job import load_executors

    load_executors()
    from hpcvlm.submit.executors import ScriptLocalExecutor, ScriptSlurmExecutor

    script, submitted = folder / job.SCRIPT_NAME, look.ctx.clock.now()
    if look.executor == "local":
        local = ScriptLocalExecutor(folder, script)
        local.update_parameters(timeout_min=job.NODE_MINUTES, signal_delay_s=5, gpus_per_node=gpus)
        job_id = str(local._submit_command("").job_id)  # noqa: SLF001 - see submit/executors.py
        return _record(look, folder, job_id, submitted, start_ticks(int(job_id)))
    slurm = ScriptSlurmExecutor(folder, script, look.ctx.runner)
    job_id = str(slurm._submit_command("").job_id)  # noqa: SLF001
    return _record(look, folder, job_id, submitted, None)


def _record(
    look: Look, folder: Path, job_id: str, submitted: float, process_started: int | None
) -> JobRecord:
    """What the rooms that watch and stop jobs want to know; it is never written."""
    seconds = job.NODE_MINUTES * 60
    return JobRecord(
        schema=1,
        name=job.JOB_NAME,
        model="",
        served_name="",
        executor=look.executor,
        job_id=job_id,
        submitted=submitted,
        folder=str(folder),
        time_limit_s=seconds,
        start_timeout_s=seconds,
        gpus="",
        partition=None,
        vision=False,
        image_limit=None,
        media_root="",
        engine="",
        loopback=False,
        process_started=process_started,
    )


def _watch(look: Look, record: JobRecord) -> Watched:
    folder, clock = Path(record.folder), look.ctx.clock
    source, watched, said = LiveSource(look.ctx.runner), Watched(), ""
    asked = float("-inf")
    begun: float | None = None
    over_since: float | None = None
    while True:
        now = clock.now()
        watched.token_back = watched.token_back or _reply(folder, now)
        watched.text = read_text(folder / "seen.tsv") or ""
        seen = parse_seen(watched.text)
        begun = begun or (now if seen else None)
        if now - asked > _ASK_EVERY_S:
            watched.view, asked = source.view(record), now
        over_since = (over_since or now) if over(watched.view) else None
        words = _words(record, watched.view, seen)
        if words != said:
            look.on_step(words)
            said = words
        if finished(seen) or (over_since is not None and now - over_since > _FILES_LAG_S):
            return watched
        watched.gave_up = begun is None and now - record.submitted > look.request.queue_timeout_s
        if watched.gave_up or (begun is not None and now - begun > _RUN_S):
            return watched
        clock.sleep(_POLL_S)


def _reply(folder: Path, now: float) -> bool:
    """Answer the node's hello with this machine's time; whether there was one."""
    if not read_text(folder / "hello"):
        return False
    write_atomically(folder / "answer", f"{now:.3f}\n")
    return True


def _words(record: JobRecord, view: SchedulerView | None, seen: Seen) -> str:
    """What is going on, for the person who waits."""
    where = f"job {record.job_id}" if record.executor == "slurm" else "this machine"
    if seen:
        return f"{where} on {host(seen)}: {without_credentials(last_step(seen))}"
    if view is not None and view.phase is JobPhase.PENDING:
        return f"{where} waits in the queue" + (f": {view.reason}" if view.reason else "")
    return f"{where} is starting"


def over(view: SchedulerView | None) -> bool:
    """Whether the scheduler says that the job is gone."""
    return view is not None and view.answered and (view.phase is None or view.phase.over)


def cancel(look: Look, record: JobRecord) -> bool:
    """End the job; whether it is certainly gone."""
    with deferred_interrupts():
        if record.executor == "local":
            stop(record, look.ctx)
            return True
        environment = commands.clean_environment(look.ctx.environment)
        look.ctx.runner(commands.scancel(record.job_id), env=environment, timeout_s=_CANCEL_S)
        until = look.ctx.clock.now() + _CANCEL_S
        source = LiveSource(look.ctx.runner)
        while not (gone := over(source.view(record))) and look.ctx.clock.now() < until:
            look.ctx.clock.sleep(_POLL_S * 2)
        return gone
