"""One submission to Slurm, whatever sbatch says of it: accepted, refused, or in doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hpcvlm.errors import HpcvlmError
from hpcvlm.render.script import SCRIPT_NAME
from hpcvlm.slurm.parse import COMMAND_NOT_FOUND, Outcome, sbatch_outcome
from hpcvlm.submit.adopt import Found, look_up
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.clock import Clock
from hpcvlm.system.process import Runner

UNCONFIRMED = "submission-unconfirmed"
# A controller that restarts is back within this; one that is away for longer is told to the user.
PATIENCE_S = 60.0
# A request that its sbatch no longer waits for may still be on its way through the controller.
SECOND_LOOK_S = 2.0
_LONGEST_PAUSE_S = 15.0

T = TypeVar("T")


class TakenLaterError(HpcvlmError):
    """Nothing was submitted, and the same request may be taken in a minute."""


def submit_to_slurm(
    record: JobRecord,
    runner: Runner,
    clock: Clock,
    dependency: str | None = None,
    held: Sequence[int] = (),
) -> JobRecord:
    """Submit the script in a job folder; the record with the job's number.

    Args:
        record: of the submission, without a number; it is in the folder already.
        runner: runs sbatch, squeue and sacct.
        clock: waits.
        dependency: as sbatch's --dependency takes it.
        held: interrupts that have come; nothing is repeated once there is one.

    Raises:
        HpcvlmError: ``sbatch-refused``, ``slurm-unavailable`` or ``slurm-output``: there is no
            job; ``submission-unconfirmed``: nobody can say whether there is one.
    """

    def attempt() -> JobRecord:
        return _attempt(record, runner, clock, dependency)

    try:
        return attempt()
    except TakenLaterError as error:
        if held:
            raise
        return _patiently(attempt, clock, held, error)


def _attempt(record: JobRecord, runner: Runner, clock: Clock, dependency: str | None) -> JobRecord:
    from hpcvlm.submit.executors import ScriptSlurmExecutor

    folder = Path(record.folder)
    try:
        slurm = ScriptSlurmExecutor(folder, folder / SCRIPT_NAME, runner, dependency)
    except RuntimeError as error:  # submitit looks for srun before anything else
        raise HpcvlmError(
            "slurm-unavailable",
            f"Slurm cannot be used here: {error}",
            "run hpcvlm on a login node of the cluster, or load the site's slurm module",
        ) from None
    try:
        job_id = str(slurm._submit_command("").job_id)  # noqa: SLF001 - see executors.py
    except HpcvlmError as error:
        if slurm.answer is None or slurm.answer.code == COMMAND_NOT_FOUND:
            raise
        return _in_spite_of(error, sbatch_outcome(*slurm.answer), record, runner, clock)
    warnings = slurm.submission.warnings if slurm.submission is not None else ()
    return replace(record, job_id=job_id, warnings=warnings)


def _in_spite_of(
    error: HpcvlmError, outcome: Outcome, record: JobRecord, runner: Runner, clock: Clock
) -> JobRecord:
    """The job that sbatch submitted although it gave no number, or what became of it instead."""
    found = look_up(record, runner)
    if outcome is Outcome.IN_DOUBT:
        found = _sure(found, record, runner, clock)
    if found.job_id:
        told = f"{error.sentence}; but Slurm has the job"
        return replace(record, job_id=found.job_id, warnings=(told, *error.details))
    if outcome is Outcome.LATER:
        raise TakenLaterError(error.code, error.sentence, error.remedy, error.details)
    if outcome is Outcome.REFUSED:
        raise error
    if not found.answered:
        raise _unconfirmed(error, record)
    raise HpcvlmError(
        error.code,
        f"{error.sentence}; Slurm has no such job, so nothing was submitted",
        "launch it again; scontrol ping shows the controller's state",
        error.details,
    )


def _sure(found: Found, record: JobRecord, runner: Runner, clock: Clock) -> Found:
    """Look until Slurm answers, and once more before it is believed that there is no job."""
    if found.answered and not found.job_id:
        clock.sleep(SECOND_LOOK_S)
        found = look_up(record, runner)
    if found.answered or found.never:
        return found

    def look() -> Found:
        again = look_up(record, runner)
        if not again.answered:
            raise TakenLaterError("slurm-unavailable", again.why)
        return again

    try:
        return _patiently(look, clock, (), TakenLaterError("slurm-unavailable", found.why))
    except TakenLaterError:
        return found


def _patiently(do: Callable[[], T], clock: Clock, held: Sequence[int], first: TakenLaterError) -> T:
    """Try again with growing pauses while Slurm is away, for `PATIENCE_S` at most."""
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

    until = clock.now() + PATIENCE_S

    def enough(state: RetryCallState) -> bool:
        return bool(held) or clock.now() + state.upcoming_sleep > until

    def pause_first() -> T:
        raise first

    steps = [pause_first]

    def step() -> T:
        return (steps.pop() if steps else do)()

    return Retrying(
        retry=retry_if_exception_type(TakenLaterError),
        stop=enough,
        wait=wait_exponential(multiplier=1, min=1, max=_LONGEST_PAUSE_S),
        sleep=clock.sleep,
        reraise=True,
    )(step)


def _unconfirmed(error: HpcvlmError, record: JobRecord) -> HpcvlmError:
    name = record.shown_name
    return HpcvlmError(
        UNCONFIRMED,
        f"{error.sentence}; whether the job of {record.name} was accepted is not known",
        f"hpcvlm status {name} tells once Slurm answers; hpcvlm stop {name} then stops it",
        error.details,
    )
