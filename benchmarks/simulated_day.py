"""A day of a busy user, simulated: launches, hand-overs, crashes, preemptions, lost controllers.

Every few simulated minutes `hpcvlm ls` looks at real job folders and asks a simulated Slurm; what
it concludes is compared with what really happened. Counted are wrong verdicts and leaks: jobs that
are alive and that no row shows as such.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from simulated_cluster import MIN_JOB_AGE_S, Fate, Life, Slurm, live
from timing import Check, finish, table

from hpcvlm.ops import endpoints
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import Overview, Row, overview
from hpcvlm.submit.record import JobRecord, write_record
from hpcvlm.system.settings import Settings
from hpcvlm.watch.verdict import ANSWER_S, FINAL, STALE_S, Ended, Failed, Ready

DAY_S = 86_400.0
START = 1_700_000_000.0
# How long after something happened the next look must know it: what is written down here arrives
# at once, and the job looks at its engine every 15 s.
SOON_S = 60.0
KEPT_S = 1200.0
_LOST = 0.02


@dataclass
class Sim:
    """The clock, the Slurm and the folders of one simulated day."""

    root: Path
    draw: random.Random
    slurm: Slurm = field(default_factory=Slurm)
    lives: dict[str, Life] = field(default_factory=dict)
    never_taken: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    skew: float = 0.0
    count: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    final: dict[str, Failed | Ended] = field(default_factory=dict)
    _written: dict[str, tuple[float, float]] = field(default_factory=dict)
    _next_id: int = 1000

    @property
    def jobs(self) -> Path:
        """The job folders."""
        return self.root / "jobs"

    def now(self) -> float:
        """This machine's clock, which may be off."""
        return self.slurm.now + self.skew

    def sleep(self, seconds: float) -> None:
        """Nobody waits here."""
        raise AssertionError(seconds)

    def context(self) -> Context:
        """The outside, simulated."""
        settings = Settings(self.root, self.root / "config", self.root / "site.yaml")
        return Context(settings=settings, environment={}, runner=self.slurm, clock=self)

    # -- launches -------------------------------------------------------------------------------

    def submit(self, at: float) -> None:
        """One launch: one job, or a chain of jobs that hand over."""
        number = self._next_id
        name = f"e{number}"
        if self.draw.random() < 0.08:
            self._chain(name, at)
            return
        record = self._record(name, at)
        if self.draw.random() < _LOST / 4:
            self.never_taken.add(name)
            self._folder(replace(record, job_id=""))
            return
        ahead = self.draw.choice((0.0,) * 8 + (3.0, -3.0, 250.0, -250.0))
        self._take(live(record, self.draw, ahead))

    def _record(self, name: str, at: float, **over: object) -> JobRecord:
        self._next_id += 1
        values: dict[str, object] = {
            "schema": 1,
            "name": name,
            "model": "m",
            "served_name": "m",
            "executor": "slurm",
            "job_id": str(self._next_id),
            "submitted": at,
            "folder": str(self.jobs / name),
            "time_limit_s": self.draw.choice((1800, 2400, 3600)),
            "start_timeout_s": 600,
            "gpus": "A100:1",
            "partition": None,
            "vision": True,
            "image_limit": 1,
            "media_root": "/m",
            "engine": "vllm 0.32.0",
            "loopback": False,
            "requeue": self.draw.random() < 0.4,
        }
        return JobRecord(**{**values, **over})  # type: ignore[arg-type]

    def _take(self, life: Life) -> None:
        record = life.record
        self.lives[record.name] = life
        self.slurm.lives[record.job_id] = life
        lost = self.draw.random() < _LOST
        if lost:
            # sbatch was killed after Slurm took the job: its number stands nowhere.
            self.lost.add(record.name)
        self._folder(replace(record, job_id="") if lost else record)
        self.count["jobs"] += 1

    def _folder(self, record: JobRecord) -> None:
        self.kept.add(record.name)
        Path(record.folder).mkdir(mode=0o700)
        write_record(record)

    def _chain(self, name: str, at: float) -> None:
        """Jobs that hand over, each beginning so long before its predecessor's end."""
        begins = at + self.draw.expovariate(1 / 200)
        before: Fate | None = None
        for generation in range(1, self.draw.randint(2, 4) + 1):
            own = name if generation == 1 else f"{name}~{generation}"
            record = self._record(
                own, at, endpoint=name, generation=generation, time_limit_s=1800, requeue=False
            )
            fate = Fate(record, self.draw)
            fate.queue(begins - at)
            fate.begin()
            fate.start()
            ready = fate.now + 10
            if before is not None:
                self._hand_over(before, ready)
            before, begins = fate, begins + 1800 - 600 + self.draw.uniform(0, 300)
        fate.serve(600)
        fate.write("draining", "idle")
        fate.last_word("idle")
        self._take(fate.over("COMPLETED", frozenset((("ended", "idle"), ("ended", "completed")))))

    def _hand_over(self, fate: Fate, ready: float) -> None:
        until = min(ready, fate.now + fate.left - 150)
        fate.serve(max(30.0, until - fate.now))
        fate.write("draining", "handed-over")
        fate.now += self.draw.uniform(30, 80)
        fate.last_word("handed-over")
        ends = frozenset((("ended", "handed-over"), ("ended", "completed")))
        self._take(fate.over("COMPLETED", ends))
        self.count["hand-overs"] += 1

    # -- files ----------------------------------------------------------------------------------

    def write_files(self) -> None:
        """Bring the folders of all jobs up to this moment."""
        now = self.slurm.now
        for name, life in self.lives.items():
            if name in self.final:
                continue
            word, looked = life.word(now), life.look(now)
            stamp = (word.at if word else 0.0, looked[0] if looked else 0.0)
            before = self._written.get(name, (0.0, 0.0))
            folder = self.jobs / name
            if word is not None and stamp[0] != before[0]:
                _write(folder / "state.json", json.dumps(word.state), word.at)
            if looked is not None and stamp[1] != before[1]:
                _write(folder / "activity.json", looked[1], looked[0])
            self._written[name] = stamp

    def clean_up(self) -> None:
        """Remove the folders of jobs that have been over for a while, as their user would."""
        for name in list(self.kept):
            life = self.lives.get(name)
            if name in self.final and (life is None or self.slurm.now - life.over_at > KEPT_S):
                shutil.rmtree(self.jobs / name)
                self.kept.remove(name)
                if life is not None:
                    del self.lives[name], self.slurm.lives[life.record.job_id]

    # -- judging --------------------------------------------------------------------------------

    def judge(self, seen: Overview) -> None:
        """Compare every row with the truth."""
        self.count["looks"] += 1
        rows = {job.record.name: job for row in seen.rows for job in row.generations}
        if seen.unreadable or seen.problem:
            self._say(f"folders not read: {seen.unreadable} {seen.problem}")
        for name, row in rows.items():
            self.count["verdicts"] += 1
            self._judge_job(name, row)
        for name, life in self.lives.items():
            shown = rows.get(name)
            if not life.has_ended(self.slurm.now) and (shown is None or shown.is_over):
                self.count["leaks"] += 1
                self._say(f"{name} is alive and no row shows it")
        if not self.slurm.away:
            for row in seen.rows:
                self._judge_name(row)

    def _judge_job(self, name: str, row: Row) -> None:
        now, verdict = self.slurm.now, row.verdict
        life = self.lives.get(name)
        if life is None:
            if isinstance(verdict, FINAL) and verdict.reason != "not-submitted":
                self._say(f"{name} was never taken and is {verdict}")
            if isinstance(verdict, FINAL):
                self.final[name] = verdict
            return
        before = self.final.get(name)
        if before is not None and verdict != before:
            self._say(f"{name} was {before} and is {verdict}")
        if isinstance(verdict, FINAL):
            self._judge_end(life, verdict)
            self.final[name] = verdict
        elif isinstance(verdict, Ready) and not life.served(now - ANSWER_S - STALE_S, now):
            self._say(f"{name} is called ready and does not answer")
        elif self._must_be_known and life.is_over(now - SOON_S):
            self._say(f"{name} is over for long and is {verdict}")
        elif self._must_be_known and self._serves(life) and not isinstance(verdict, Ready):
            self._say(f"{name} serves and is {verdict}")

    @property
    def _must_be_known(self) -> bool:
        return not (self.slurm.away or self.slurm.books_away or self.skew)

    def _serves(self, life: Life) -> bool:
        now = self.slurm.now
        told = life.at(now)
        word = life.word(now)
        return (
            told is not None
            and told.state == "RUNNING"
            and word is not None
            and word.state["phase"] == "ready"
            and any(begun < now - 20 and now < ended for begun, ended in life.serving)
        )

    def _judge_end(self, life: Life, verdict: Failed | Ended) -> None:
        kind = type(verdict).__name__.lower()
        # A site without accounts forgets; then only the job's own word is left, if it had one.
        old = self.slurm.no_books and self.slurm.now > life.over_at + MIN_JOB_AGE_S
        forgotten = old and verdict.reason in ("vanished", "stopped")
        if not life.has_ended(self.slurm.now):
            self._say(f"{life.name} is alive and is called {verdict}")
        elif not forgotten and (kind, verdict.reason) not in life.ends:
            self._say(f"{life.name} is called {verdict}; right were {sorted(life.ends)}")

    def _judge_name(self, row: Row) -> None:
        """The name means the newest job that serves."""
        serving = [
            job.record
            for job in row.generations
            if (life := self.lives.get(job.record.name)) is not None and self._serves(life)
        ]
        newest = max(serving, key=lambda record: record.generation, default=None)
        if newest is not None and not self.skew and row.record.generation < newest.generation:
            self._say(f"{row.record.shown_name} means {row.record.name}, not {newest.name}")

    def _say(self, text: str) -> None:
        self.count["wrong"] += 1
        self.wrong.append(f"{self.slurm.now - START:.0f} s: {text}")


def _memory() -> str | None:
    """A file system in memory, where there is one: disks are not what is measured."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _write(path: Path, text: str, at: float) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at, at))


def _outages(
    draw: random.Random, every_s: float, length_s: float, day_s: float
) -> Iterator[tuple[float, float]]:
    at = START
    while at < START + day_s:
        at += draw.expovariate(1 / every_s)
        yield at, at + draw.expovariate(1 / length_s)


def simulate(jobs: int, *, seed: int, day_s: float = DAY_S, look_every_s: float = 900.0) -> Sim:
    """One day.

    Args:
        jobs: how many are launched at least.
        seed: of all that is drawn.
        day_s: its length in simulated seconds.
        look_every_s: simulated seconds between two looks.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory(prefix="hpcvlm-day-", dir=_memory()) as root:
        sim = Sim(Path(root), draw)
        sim.jobs.mkdir()
        real, endpoints.file_system_ahead = (
            endpoints.file_system_ahead,
            lambda _folder, _now: -sim.skew,
        )
        try:
            _run(sim, jobs, day_s, look_every_s)
        finally:
            endpoints.file_system_ahead = real
    return sim


def _run(sim: Sim, jobs: int, day_s: float, look_every_s: float) -> None:
    draw = sim.draw
    launches = sorted(draw.uniform(START, START + day_s) for _ in range(jobs))
    away = list(_outages(draw, 3 * 3600, 900, day_s))
    books = list(_outages(draw, 3 * 3600, 1800, day_s))
    ctx, due = sim.context(), 0
    sim.slurm.now = START
    while sim.slurm.now < START + day_s + 4 * 3600:
        sim.slurm.now += look_every_s * draw.uniform(0.5, 1.5)
        now = sim.slurm.now
        while due < len(launches) and launches[due] <= now:
            sim.submit(launches[due])
            due += 1
        sim.slurm.away = any(begun <= now < ended for begun, ended in away)
        sim.slurm.books_away = any(begun <= now < ended for begun, ended in books)
        sim.skew = draw.choice((0.0,) * 6 + (40.0, -40.0, DAY_S, -DAY_S))
        sim.write_files()
        sim.slurm.calls = 0
        seen = overview(ctx)
        sim.count["most calls"] = max(sim.count["most calls"], sim.slurm.calls)
        sim.judge(seen)
        sim.clean_up()
    left = [name for name in sim.lives if name not in sim.final]
    for name in left:
        sim._say(f"{name} is never known to be over")  # noqa: SLF001


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--jobs", type=int, default=10_000, help="default 10,000")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    arguments = parser.parse_args()
    began = time.process_time()
    sim = simulate(arguments.jobs, seed=arguments.seed)
    took = time.process_time() - began
    for line in sim.wrong[:20]:
        print(line)
    names = ("jobs", "hand-overs", "looks", "verdicts", "wrong", "leaks", "most calls")
    rows = [(name, str(sim.count[name])) for name in names]
    checks = [
        Check("jobs missing of those asked for", max(0, arguments.jobs - sim.count["jobs"]), 0),
        Check("wrong verdicts", sim.count["wrong"], 0),
        Check("leaks", sim.count["leaks"], 0),
        Check("Slurm commands of one look", sim.count["most calls"], 4),
        Check("CPU time", took, 60, "s"),
    ]
    finish(checks, table(("COUNTED", ""), rows), dict(sim.count), as_json=arguments.json)


if __name__ == "__main__":
    main()
