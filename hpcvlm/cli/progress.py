"""Shows a job's phases: a moving line on a terminal, one line a phase elsewhere."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from hpcvlm.cli.moving_line import MovingLine
from hpcvlm.cli.output import duration, note, paint
from hpcvlm.engines.vllm_log import shard_progress
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import read_tail
from hpcvlm.watch.expiry import Expiry
from hpcvlm.watch.loop import NOT_ASKED_YET, Glance
from hpcvlm.watch.observe import clocks, overdue
from hpcvlm.watch.sentences import late_start
from hpcvlm.watch.state import StagingState
from hpcvlm.watch.verdict import Ready, Unknown, Waiting

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TAIL_BYTES = 16384
_MEANING = {
    "queued": "waiting for Slurm",
    "allocated": "the job has begun",
    "staging": "copying weights to the node",
    "container": "starting the container or the process",
    "engine": "the engine imports and reads the configuration",
    "weights": "loading weights",
    "compile": "compiling",
    "warm-up": "profiling memory, making the KV cache",
    "graphs": "capturing CUDA graphs",
    "probing": "asking about a picture",
    "restarting": "the engine ended and is started again",
    "draining": "answering the last requests, or stopping",
    "suspended": "frozen by Slurm",
    "unresponsive": "the engine does not answer",
}
# A scheduler that takes longer is spoken of.
_SLOW_ANSWER_S = 3.0


class PhaseProgress(MovingLine):
    """Prints each phase once it is over, and the present one while it lasts."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__()
        self._record = record
        self._printed: dict[str, float] = {}
        self._started: float | None = None
        self._began = 0.0
        self._current = ""
        self._said, self._said_late = "", False
        self._frame = 0
        self._expiry = Expiry(record.time_limit_s)

    def __call__(self, glance: Glance) -> None:
        """Show one look at the job."""
        self._warn(glance)
        self._finished_phases(glance)
        verdict = glance.verdict
        if isinstance(verdict, Waiting):
            self._say_if_late(glance)
            self._present(verdict.phase, verdict.since, self._detail(verdict, glance))
            if verdict.remedy:
                self._say_once(f"{verdict.detail}: {verdict.remedy}")
        elif isinstance(verdict, Unknown):
            trouble = _trouble(glance)
            if verdict.why == NOT_ASKED_YET and not trouble:
                return
            if trouble and not self.live:
                self._say_once(glance.problem or "Slurm does not answer; asking goes on")
            since = verdict.known_at or self._record.submitted
            self._present(verdict.last_seen, since, trouble or verdict.why)
        elif isinstance(verdict, Ready):
            self.clear()

    def _warn(self, glance: Glance) -> None:
        """The end is never a surprise, also to who still waits for the beginning."""
        state = glance.state
        ends = glance.scheduler.ends or (state.ends if state is not None else None)
        left = self._expiry.due(ends, time.time())
        if left is not None:
            self.clear()
            note(f"{paint('note:', 'yellow')} {self._record.name} ends in {duration(left)}")

    def _finished_phases(self, glance: Glance) -> None:
        state = glance.state
        if state is None:
            return
        if self._started is not None and state.started != self._started:
            # Slurm has put the job back into its queue, and it has begun again.
            self._printed.clear()
            self.clear()
            note(f"{paint('note:', 'yellow')} Slurm started the job again")
        if state.started != self._started:
            # What it had done before it was first looked at; the rest is by the clock here.
            self._began = time.monotonic() - (state.since - state.started)
        self._started = state.started
        phases = list(state.phases.items())
        if "queued" not in self._printed and phases:
            times = clocks(self._record.submitted, state, glance.scheduler, time.time())
            self._finish("queued", times.queued_s)
        for (phase, begun), (_, over) in pairwise(phases):
            if phase not in self._printed:
                self._finish(phase, over - begun)
                if phase == "staging":
                    self._staged(state.staging)

    def _staged(self, staging: StagingState | None) -> None:
        """Why there is no copy, although somebody asked for one."""
        if staging is not None and staging.how == "skipped":
            from hpcvlm.cli.rows import weights_text

            note(f"{paint('note:', 'yellow')} weights are {weights_text(staging)}")

    def _finish(self, phase: str, seconds: float) -> None:
        self._printed[phase] = seconds
        self.clear()
        note(f"{paint('✓', 'green')} {phase:<10} {duration(seconds):>7}")

    def _present(self, phase: str, since: float, detail: str) -> None:
        if not self.live:
            if phase != self._current and phase not in self._printed:
                note(f"… {phase:<10} {detail}".rstrip())
            self._current = phase
            return
        self._frame += 1
        spinner = _SPINNER[self._frame % len(_SPINNER)]
        elapsed = duration(time.time() - since)
        self.show(f"{spinner} {phase:<10} {elapsed:>7}  {detail}")

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self.clear()
            note(f"{paint('note:', 'yellow')} {text}")
        self._said = text

    def _say_if_late(self, glance: Glance) -> None:
        starting_s = time.monotonic() - self._began
        if not self._said_late and overdue(self._record, glance.verdict, glance.state, starting_s):
            self._said_late = True
            self.clear()
            text = late_start(self._record.start_timeout_s, self._record.name)
            note(f"{paint('note:', 'yellow')} {text}")

    def _detail(self, verdict: Waiting, glance: Glance) -> str:
        if trouble := _trouble(glance):
            return trouble
        if verdict.phase == "queued":
            start = verdict.expected_start
            expected = f"; expected to start {clock_time(start)}" if start else ""
            return (verdict.detail or _MEANING["queued"]) + expected
        text = _MEANING.get(verdict.phase, "")
        if verdict.phase == "weights":
            log = read_tail(Path(self._record.folder) / "engine.err", _TAIL_BYTES)
            shards = shard_progress(log)
            return f"{text}: {shards[0]} of {shards[1]} shards" if shards else text
        return text


def _trouble(glance: Glance) -> str:
    """What does not answer, and for how long; empty when all do."""
    if glance.problem:
        return glance.problem
    if glance.asked_for_s > _SLOW_ANSWER_S:
        return f"Slurm has not answered for {glance.asked_for_s:.0f} s"
    return ""


def clock_time(seconds: float) -> str:
    """A moment as people read it: the time today, else with its date."""
    moment, today = time.localtime(seconds), time.localtime()
    same_day = (moment.tm_year, moment.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same_day else "%a %d %b %H:%M", moment)
