"""Lives of jobs as they really go, and a Slurm that tells of them; prints nothing.

A life is drawn once: what the controller knows at each moment, what the job writes, and what may
be called its end. Observers of it may be as blind as they like; what they conclude is compared
with the life.
"""

from __future__ import annotations

import bisect
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed

LOOK_EVERY_S = 15.0
_LIMIT_IS_NEAR_S = 200.0
MIN_JOB_AGE_S = 300.0  # slurm.conf(5): how long the controller remembers a job that is over
_STARTING = ("container", "engine", "weights", "probing")
_OVER = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "TIMEOUT"),
    )
)
# What may be said of an end, besides what the job said itself.
Ends = frozenset[tuple[str, str]]
_STOPPED: Ends = frozenset((("ended", "stopped"), ("ended", "cancelled"), ("ended", "completed")))
_LIMIT: Ends = frozenset((("ended", "time-limit"), ("ended", "completed")))


@dataclass(frozen=True)
class Told:
    """What the controller says from a moment on."""

    at: float
    state: str
    start: float | None = None
    end: float | None = None
    reason: str = "None"


@dataclass(frozen=True)
class Written:
    """What state.json holds from a moment on (true time), by the node's clock."""

    at: float
    state: Mapping[str, object]


@dataclass
class Life:
    """One job from its submission to its end.

    Attributes:
        told: by the controller, in order of time.
        written: by the job, in order of time.
        serving: when its engine answered, as pairs of moments.
        looking: when it looked at its engine, as pairs of moments.
        ends: which verdicts are right, as kind and reason.
        over_at: when it was over.
        node_ahead_s: how far its node's clock is ahead.
    """

    record: JobRecord
    told: list[Told] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    serving: list[tuple[float, float]] = field(default_factory=list)
    looking: list[tuple[float, float]] = field(default_factory=list)
    ends: Ends = frozenset()
    over_at: float = 0.0
    node_ahead_s: float = 0.0

    @property
    def name(self) -> str:
        """Of the job."""
        return self.record.name

    def at(self, now: float) -> Told | None:
        """What the controller says; None when it does not know the job (any more)."""
        known = bisect.bisect_right([told.at for told in self.told], now)
        if known == 0 or now > self.over_at + MIN_JOB_AGE_S:
            return None
        return self.told[known - 1]

    def word(self, now: float) -> Written | None:
        """What state.json holds; None while there is none."""
        known = bisect.bisect_right([written.at for written in self.written], now)
        return self.written[known - 1] if known else None

    def look(self, now: float) -> tuple[float, str] | None:
        """When activity.json was written last, and what it holds; None while there is none."""
        spans = [span for span in self.looking if span[0] <= now]
        if not spans:
            return None
        begun, ended = spans[-1]
        checked = begun + LOOK_EVERY_S * ((min(now, ended) - begun) // LOOK_EVERY_S)
        answered = max(
            (min(checked, to) for since, to in self.serving if since <= checked), default=begun
        )
        ahead = self.node_ahead_s
        return checked, json.dumps(
            {
                "checked": checked + ahead,
                "answered": answered + ahead,
                "active": begun + ahead,
                "running": 0,
                "waiting": 0,
                "requests": 0,
                "prompt_tokens": 0,
                "generation_tokens": 0,
            }
        )

    def served(self, since: float, until: float) -> bool:
        """Whether its engine answered at any moment between the two."""
        return any(begun <= until and ended >= since for begun, ended in self.serving)

    def is_over(self, now: float) -> bool:
        """Whether Slurm will never run it (again)."""
        return now >= self.over_at

    def has_ended(self, now: float) -> bool:
        """Whether it has done all that it will ever do."""
        word = self.word(now)
        spoke = word is not None and word.state["phase"] == "ended"
        return self.is_over(now) or (spoke and not self.record.requeue)


class Fate:
    """Draws one life; each method appends what happens next and moves the time on."""

    def __init__(self, record: JobRecord, draw: random.Random, ahead_s: float = 0.0) -> None:
        self.life = Life(record, node_ahead_s=ahead_s)
        self.draw, self.now = draw, record.submitted
        self.runs = 0
        self._phases: dict[str, float] = {}
        self._started = self._ends = 0.0

    def tell(self, state: str, **more: float | None) -> None:
        """The controller knows something new."""
        self.life.told.append(Told(self.now, state, **more))  # type: ignore[arg-type]

    def queue(self, seconds: float) -> None:
        """Wait in the queue."""
        self.tell("PENDING")
        self.now += seconds

    def begin(self) -> None:
        """Get an allocation, and begin."""
        self.runs += 1
        self._started = self.now
        self._ends = self.now + self.life.record.time_limit_s
        if self.draw.random() < 0.2:
            self.tell("CONFIGURING", start=self.now, end=self._ends)
            self.now += self.draw.uniform(1, 60)
        self.tell("RUNNING", start=self._started, end=self._ends)
        self._phases = {}
        self.now += self.draw.uniform(0.1, 3)
        self.write("allocated")

    def write(self, phase: str, reason: str = "") -> None:
        """The job replaces state.json."""
        clock = self.now + self.life.node_ahead_s
        self._phases = {**self._phases, phase: clock}
        started = self._started + self.life.node_ahead_s + 0.1
        state = {
            "phase": phase,
            "reason": reason,
            "since": clock,
            "started": started,
            "job_id": self.life.record.job_id,
            "host": "gpu01",
            "port": 23456,
            "engine_exit": None,
            "ends": self._ends,
            "restarts": self.runs - 1,
            "phases": self._phases,
            "proof": "image" if phase == "ready" else "",
        }
        self.life.written.append(Written(self.now, state))

    def start(self, most_phases: int = len(_STARTING)) -> None:
        """The engine starts, as far as it comes."""
        for phase in _STARTING[:most_phases]:
            self.now += self.draw.uniform(1, 40)
            self.write(phase)

    def serve(self, seconds: float) -> None:
        """Become ready and answer for so long."""
        self.now += self.draw.uniform(1, 20)
        self.write("ready")
        self.life.serving.append((self.now, self.now + seconds))
        self.life.looking.append((self.now, self.now + seconds))
        self.now += seconds

    def freeze(self, seconds: float) -> None:
        """Slurm suspends the job; nothing of it runs."""
        self.tell("SUSPENDED", start=self._started, end=self._ends)
        self.now += seconds
        self.tell("RUNNING", start=self._started, end=self._ends)

    def last_word(self, reason: str) -> None:
        """The job says why it ends."""
        self.now += self.draw.uniform(0.1, 5)
        self.write("ended", reason)

    def over(self, state: str, ends: Ends) -> Life:
        """Slurm is done with it."""
        self.now += self.draw.uniform(0, 1)
        self.tell("COMPLETING", start=self._started, end=self.now)
        self.now += self.draw.uniform(0.1, 20)
        began = self._started or None
        self.tell(state, start=began, end=self.now)
        if ("ended", "stopped") in ends and self.now > self._ends - _LIMIT_IS_NEAR_S:
            # Who told it to stop nobody can say then.
            ends |= _LIMIT | {("failed", "time-limit")}
        self.life.over_at, self.life.ends = self.now, ends
        return self.life

    def put_back(self) -> None:
        """Slurm puts it back into its queue."""
        self.tell("COMPLETING", start=self._started, end=self.now)
        self.now += self.draw.uniform(1, 30)
        self.queue(self.draw.choice((1.0, 20.0, 150.0, 900.0)))

    @property
    def left(self) -> float:
        """Seconds to the time limit."""
        return self._ends - self.now


FAILURES = ("engine-exited", "start-timeout", "image-not-answered", "restarts-used-up")
ORDERLY = ("idle", "drained", "lease-lost", "handed-over")


def live(record: JobRecord, draw: random.Random, ahead_s: float = 0.0) -> Life:
    """Draw one life."""
    fate = Fate(record, draw, ahead_s)
    fate.queue(draw.expovariate(1 / 200))
    if draw.random() < 0.06:
        fate.tell("CANCELLED", end=fate.now)
        fate.life.over_at, fate.life.ends = fate.now, frozenset((("ended", "cancelled"),))
        return fate.life
    while True:
        fate.begin()
        life = _run(fate, draw)
        if life is not None:
            return life


def _run(fate: Fate, draw: random.Random) -> Life | None:
    """One run of the job; None when Slurm puts it back into its queue."""
    ready = draw.random() < 0.85
    fate.start(4 if ready else draw.randint(0, 4))
    if ready:
        share = draw.choice((0.05, 0.3, 0.3, 0.6))
        fate.serve(share * max(fate.left - 400, 60.0))
    if draw.random() < 0.1:
        fate.freeze(draw.uniform(5, 600))
    endings = [_fails, _stops, _cancelled, _runs_out, _node_dies, _preempted, _memory, _killed]
    if ready:
        endings += [_orderly, _orderly, _hangs, _restarts]
    return draw.choice(endings)(fate, draw, ready)


def _fails(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    reason = draw.choice(FAILURES)
    fate.last_word(reason)
    return fate.over("FAILED", frozenset((("failed", reason), ("failed", "job-failed"))))


def _stops(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    fate.write("draining", "stop-asked")
    fate.now += draw.uniform(0.1, 20)
    fate.last_word("stopped")
    return fate.over("COMPLETED", _STOPPED)


def _cancelled(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    if draw.random() < 0.6:
        fate.last_word("stopped")
    return fate.over("CANCELLED", _STOPPED)


def _runs_out(fate: Fate, draw: random.Random, ready: bool) -> Life:
    """Slurm warns the script 60 to 120 s early; a script that is stuck is killed at the limit."""
    if fate.draw.random() < 0.7:
        if ready:
            fate.serve(max(0.0, fate.left - draw.uniform(62, 118)))
        fate.now += max(0.0, fate.left - draw.uniform(62, 118))
        fate.last_word("stopped")
        kind = _LIMIT if ready else frozenset((("failed", "time-limit"), ("ended", "completed")))
        return fate.over("COMPLETED", kind)
    fate.now += max(0.0, fate.left)
    return fate.over("TIMEOUT", _LIMIT if ready else frozenset((("failed", "time-limit"),)))


def _node_dies(fate: Fate, draw: random.Random, _ready: bool) -> Life | None:
    fate.now += draw.uniform(60, 300)  # SlurmdTimeout
    if fate.life.record.requeue and fate.runs < 4:
        fate.put_back()
        return None
    return fate.over("NODE_FAIL", frozenset((("failed", "node-failed"),)))


def _preempted(fate: Fate, draw: random.Random, _ready: bool) -> Life | None:
    spoke = draw.random() < 0.7
    if spoke:
        fate.last_word("stopped")
    if fate.life.record.requeue and fate.runs < 4:
        fate.put_back()
        return None
    return fate.over("PREEMPTED", frozenset((("failed", "preempted"),)))


def _memory(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    ends = {("failed", "out-of-memory")}
    if draw.random() < 0.5:
        fate.last_word("engine-exited")
        ends.add(("failed", "engine-exited"))
    return fate.over("OUT_OF_MEMORY", frozenset(ends))


def _killed(fate: Fate, _draw: random.Random, _ready: bool) -> Life:
    return fate.over("FAILED", frozenset((("failed", "job-failed"),)))


def _orderly(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    reason = draw.choice(ORDERLY)
    fate.write("draining", reason)
    fate.now += draw.uniform(0.1, 90)
    fate.last_word(reason)
    return fate.over("COMPLETED", frozenset((("ended", reason), ("ended", "completed"))))


def _hangs(fate: Fate, _draw: random.Random, _ready: bool) -> Life:
    """The engine answers no more; the job goes on looking, and gives it up."""
    begun, ended = fate.life.looking[-1]
    fate.life.looking[-1] = (begun, ended + 300)
    fate.now += 300
    fate.last_word("engine-hung")
    return fate.over("FAILED", frozenset((("failed", "engine-hung"), ("failed", "job-failed"))))


def _restarts(fate: Fate, draw: random.Random, _ready: bool) -> Life:
    fate.write("restarting")
    fate.now += draw.uniform(5, 60)
    fate.start()
    fate.serve(max(60.0, 0.3 * fate.left))
    return draw.choice((_fails, _stops, _orderly, _killed))(fate, draw, True)


def _limit(record: JobRecord) -> str:
    minutes, seconds = divmod(record.time_limit_s, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


@dataclass
class Slurm:
    """Answers squeue and sacct as the lives have it, when it answers.

    Attributes:
        now: true time.
        away: whether the controller does not answer.
        books_away: whether the accounts do not answer.
        no_books: whether the site keeps none.
    """

    lives: dict[str, Life] = field(default_factory=dict)
    now: float = 0.0
    away: bool = False
    books_away: bool = False
    no_books: bool = False
    calls: int = 0

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        timeout_s: float | None = 60.0,  # noqa: ARG002
        cwd: str | None = None,  # noqa: ARG002
    ) -> Completed:
        """Run squeue or sacct."""
        self.calls += 1
        asked = dict(word.split("=", 1) for word in argv[1:] if "=" in word)
        if argv[0] == "squeue":
            return self._squeue(asked)
        return self._sacct(asked)

    def _squeue(self, asked: Mapping[str, str]) -> Completed:
        if self.away:
            return Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
        if asked["--format"] == "%i|%Z":
            known = [life for life in self.lives.values() if life.at(self.now) is not None]
            lines = [f"{life.record.job_id}|{life.record.folder}\n" for life in known]
            return Completed(0, "".join(lines), "")
        found = [
            self.lives[number] for number in asked["--jobs"].split(",") if number in self.lives
        ]
        lines = [line for life in found if (line := self._line(life))]
        if not lines and len(asked["--jobs"].split(",")) == 1:
            return Completed(1, "", "slurm_load_jobs error: Invalid job id specified")
        return Completed(0, "".join(lines), "")

    def _line(self, life: Life) -> str:
        told = life.at(self.now)
        if told is None:
            return ""
        record = life.record
        start, end = (f"{at:.0f}" if at is not None else "N/A" for at in (told.start, told.end))
        head = f"{record.job_id}|{told.state}|{told.reason}|gpu01"
        return f"{head}|{start}|{end}|{_limit(record)}|gpu|{record.name}\n"

    def _sacct(self, asked: Mapping[str, str]) -> Completed:
        if self.no_books:
            return Completed(1, "", "Slurm accounting storage is disabled")
        if self.books_away:
            return Completed(1, "", "sacct: error: Problem talking to the database: refused")
        if asked["--format"] == "JobID,WorkDir":
            lines = [f"{i}|{life.record.folder}\n" for i, life in self.lives.items()]
            return Completed(0, "".join(lines), "")
        found = [
            self.lives[number] for number in asked["--jobs"].split(",") if number in self.lives
        ]
        lines = []
        for life in found:
            told = life.told[-1] if life.is_over(self.now) else None
            state = told.state if told is not None else "RUNNING"
            start = f"{told.start:.0f}" if told is not None and told.start else "Unknown"
            end = f"{told.end:.0f}" if told is not None and told.end else "Unknown"
            head = f"{life.record.job_id}|{state}|0:0|gpu01|{start}|{end}"
            lines.append(f"{head}|{_limit(life.record)}|gpu|{life.record.name}\n")
        return Completed(0, "".join(lines), "")
