"""Verdicts against the truth: lives of jobs, seen by observers who see little and late."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcvlm.watch.activity import parse_activity
from hpcvlm.watch.observe import observe
from hpcvlm.watch.reading import FolderView
from hpcvlm.watch.scheduler import views
from hpcvlm.watch.state import parse_state
from hpcvlm.watch.verdict import ANSWER_S, FINAL, STALE_S, Ready, Verdict, follow
from tests.command import ROOT
from tests.unit.test_watch import job

if TYPE_CHECKING:
    from simulated_cluster import Life, Slurm

DAY_S = 86_400.0
# An NFS client may show a file as it was up to this long ago (acdirmax in nfs(5)).
NFS_LAG_S = 60.0
START = 1_000_000.0


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


class Observer:
    """Looks at one life again and again, through whatever stands between."""

    def __init__(self, life: Life, slurm: Slurm, draw: random.Random) -> None:
        self.life, self.slurm, self.draw = life, slurm, draw
        self.skew = draw.choice((0.0, 0.0, 20.0, -20.0, DAY_S, -DAY_S))
        self.lag_most = draw.choice((0.0, NFS_LAG_S))
        self.no_books = draw.random() < 0.3
        self.gone_since: float | None = None
        self.verdict: Verdict | None = None
        self.seen_until = 0.0
        self.broken = False

    def folder(self, now: float) -> FolderView:
        # What was seen once is not unseen.
        then = max(self.seen_until, now - self.draw.uniform(0, self.lag_most))
        self.seen_until = then
        word, looked = self.life.word(then), self.life.look(then)
        text = None if word is None else json.dumps(word.state)
        if text is not None and self.draw.random() < 0.1:
            text = text[: self.draw.randrange(len(text))]
        state = None if text is None else parse_state(text)
        if not isinstance(self.verdict, FINAL):
            self.broken = text is not None and state is None
        return FolderView(
            state,
            None if looked is None else parse_activity(looked[1]),
            state_at=None if word is None else word.at,
            activity_at=None if looked is None else looked[0],
            state_broken=text is not None and state is None,
        )

    def look(self, now: float) -> Verdict:
        self.slurm.now = now
        self.slurm.away = self.draw.random() < 0.2
        self.slurm.books_away = self.draw.random() < 0.3
        self.slurm.no_books = self.no_books
        mine = now + self.skew
        view = views([self.life.record], self.slurm)[self.life.name]
        if not view.over:
            self.gone_since = None
        elif self.gone_since is None:
            self.gone_since = mine
        # A watcher knows since when; who looks once does not.
        since = self.gone_since if self.draw.random() < 0.5 else None
        seen = observe(
            self.life.record,
            self.folder(now),
            view,
            mine,
            gone_since=since,
            ahead_s=-self.skew if abs(self.skew) > 30 else None,
        )
        self.verdict = follow(self.verdict, seen)
        return self.verdict


def moments(life: Life, draw: random.Random) -> list[float]:
    """Many of them right after something happened."""
    end = life.over_at + 2_000
    events = [told.at for told in life.told] + [word.at for word in life.written]
    near = [at + draw.choice((0.0, 0.5, 5.0, 30.0, 100.0)) for at in draw.choices(events, k=25)]
    anywhere = [draw.uniform(life.record.submitted, end) for _ in range(15)]
    return sorted([*near, *anywhere, end])


def right(life: Life, verdict: Verdict, now: float, *, broken: bool, no_books: bool) -> bool:
    """Whether a final verdict is one of the truths."""
    kind = type(verdict).__name__.lower()
    reason = getattr(verdict, "reason", "")
    # Without accounts Slurm forgets, and an end that nobody could read is known to be an end, but
    # not why; of one that was told to stop not by whom.
    forgotten = no_books and reason in ("vanished", "stopped") and now > life.over_at + 300
    # Slurm's word is true of it, and whether it ever was ready stands in what cannot be read.
    timed_out = broken and reason == "time-limit" and life.told[-1].state == "TIMEOUT"
    return life.has_ended(now) and (forgotten or timed_out or (kind, reason) in life.ends)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans())
def test_no_observer_ever_calls_an_end_what_it_is_not(seed: int, requeue: bool) -> None:
    from simulated_cluster import Slurm, live

    draw = random.Random(seed)
    ahead = draw.choice((0.0, 0.0, 3.0, -3.0, DAY_S, -DAY_S))
    record = job(Path("/nowhere"), name="t", submitted=START, requeue=requeue, time_limit_s=3600)
    life = live(record, draw, ahead)
    observer = Observer(life, Slurm({"7": life}), draw)
    for now in moments(life, draw):
        verdict = observer.look(now)
        if isinstance(verdict, FINAL):
            told = right(life, verdict, now, broken=observer.broken, no_books=observer.no_books)
            assert told, (
                verdict,
                life.ends,
                now - life.over_at,
            )
        if isinstance(verdict, Ready):
            assert life.served(now - ANSWER_S - STALE_S - NFS_LAG_S, now), (verdict, now)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans())
def test_who_sees_everything_knows_everything(seed: int, requeue: bool) -> None:
    """With a Slurm that answers and files that arrive, the truth is told and told soon."""
    from simulated_cluster import Slurm, live

    draw = random.Random(seed)
    record = job(Path("/nowhere"), name="t", submitted=START, requeue=requeue, time_limit_s=3600)
    life = live(record, draw)
    slurm = Slurm({"7": life})
    observer = Observer(life, slurm, random.Random(0))
    observer.skew, observer.lag_most = 0.0, 0.0
    observer.draw.random = lambda: 1.0  # type: ignore[method-assign]
    for begun, ended in life.serving:
        if ended - begun > 40:
            assert isinstance(observer.look(ended - 2), Ready)
    observer.look(life.over_at + 1)
    assert isinstance(observer.look(life.over_at + 100), FINAL)
