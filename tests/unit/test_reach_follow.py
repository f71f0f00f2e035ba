"""Following a name: with engines of this process, ways that break on request, and no ssh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach import follow
from hpcvlm.reach.follow import Follower
from hpcvlm.reach.model import Sighting
from hpcvlm.reach.relay import Relay
from tests.reach_fixtures import Engine, Scene, Told, run, until, where

NOT_READY = Sighting(None, "queued")
OVER = Sighting(None, "ended (stopped)", over=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test does not want to wait for."""
    monkeypatch.setattr(follow, "_LEAST_PAUSE_S", 0.01)
    monkeypatch.setattr(follow, "_RETIRE_POLL_S", 0.01)
    monkeypatch.setattr(follow, "HOLD_S", 0.2)


def ready(engine: Engine, job_id: str = "1", **over: object) -> Sighting:
    return Sighting(where(job_id, port=engine.port, **over), "ready")


@asynccontextmanager
async def followed(scene: Scene) -> AsyncIterator[Follower]:
    """A follower that has found its first way; it is gone when the block is left."""
    follower = scene.follower()
    following = asyncio.create_task(follower.run())
    await until(follower.first_up.is_set)
    yield follower
    following.cancel()
    await follower.close()


def test_a_way_is_up_only_after_the_engine_has_answered_with_the_key() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene) as follower:
            assert engine.asked[:2] == ["/health", "/v1/models"]
            assert scene.keys == ["k3y"]
            assert scene.kinds() == ["up"]
            assert await follower.pick() is scene.ways[0]
        assert scene.ways[0].closed
        await engine.stop()

    run(work)


@pytest.mark.parametrize(
    ("engine", "code"),
    [
        (Engine("a", key="other"), "key-refused"),
        (Engine("a", model="another"), "endpoint-another"),
        (Engine("a", health=503), "endpoint-unreachable"),
    ],
)
def test_what_is_not_the_endpoint_is_never_connected(engine: Engine, code: str) -> None:
    async def work() -> None:
        await engine.start()
        scene = Scene(Told(ready(engine)))
        follower = scene.follower()
        with pytest.raises(HpcvlmError) as error:
            await follower.run()
        assert error.value.code == code
        assert follower.current is None
        assert scene.ways[0].closed
        await engine.stop()

    run(work)


def test_it_waits_for_an_endpoint_that_is_not_ready_and_says_so_once() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(NOT_READY))
        follower = scene.follower()
        following = asyncio.create_task(follower.run())
        await until(lambda: scene.cluster.looks > 3)
        assert scene.kinds() == ["waiting"]
        assert await follower.pick() is None
        assert "queued" in follower.why()
        scene.cluster.seen = ready(engine)
        await until(follower.first_up.is_set)
        following.cancel()
        await follower.close()
        await engine.stop()

    run(work)


def test_new_connections_move_and_old_ones_finish() -> None:
    async def work() -> None:
        release = asyncio.Event()
        old = await Engine("old", answer_after=release).start()
        new = await Engine("new").start()
        scene = Scene(Told(ready(old)))
        follower = scene.follower()
        relay = Relay(follower.pick, follower.poke, follower.why)
        port = await relay.listen(0)
        following = asyncio.create_task(follower.run())
        await until(follower.first_up.is_set)
        headers = {"Authorization": "Bearer k3y"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            slow = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow", timeout=30))
            await until(lambda: "/slow" in old.asked)
            scene.cluster.seen = ready(new, "2", name="mine~2")
            await until(lambda: "moved" in scene.kinds())
            moved = await client.get(f"http://127.0.0.1:{port}/quick")
            assert moved.json()["by"] == "new"
            assert not scene.ways[0].closed
            release.set()
            assert (await slow).json()["by"] == "old"
        await until(lambda: scene.ways[0].closed)
        assert scene.events[-1].text == "mine~2 is job 2 on node07"
        following.cancel()
        await relay.close()
        await follower.close()
        await old.stop()
        await new.stop()

    run(work)


def test_a_successor_that_does_not_answer_yet_gets_no_connection() -> None:
    async def work() -> None:
        old = await Engine("old").start()
        new = await Engine("new", health=503).start()
        scene = Scene(Told(ready(old)))
        async with followed(scene) as follower:
            scene.cluster.seen = ready(new, "2")
            await until(lambda: "unsure" in scene.kinds())
            assert follower.current is scene.ways[0]
            new.health = 200
            await until(lambda: "moved" in scene.kinds())
            assert follower.current is scene.ways[-1]
            # Each try that failed has ended its way.
            await until(lambda: all(way.closed for way in scene.ways[:-1]))
        await old.stop()
        await new.stop()

    run(work)


def test_a_lost_way_is_taken_again_with_what_is_wrong_told_once() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene) as follower:
            way = scene.ways[0]
            way.refuses = [HpcvlmError("ssh-failed", "login does not answer", "look")] * 9999
            way.broken.put_nowait("cut")
            await until(lambda: not way.up.is_set())
            assert await follower.pick() is None
            assert "login does not answer" in follower.why()
            way.refuses.clear()
            await until(way.up.is_set)
            assert await follower.pick() is way
            assert way.opened > 2
            assert scene.kinds() == ["up", "down", "unsure", "back"]
            assert scene.events[2].details == ("look",)
        await engine.stop()

    run(work)


def test_a_cluster_that_cannot_be_asked_changes_nothing() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene) as follower:
            for seen in (HpcvlmError("remote-failed", "slurm is away"), Sighting(None, "unknown")):
                scene.cluster.seen, looks = seen, scene.cluster.looks
                await until(lambda: scene.cluster.looks > looks + 2)  # noqa: B023
                assert follower.current is scene.ways[0]
                assert scene.ways[0].up.is_set()
            assert scene.kinds() == ["up", "unsure"]
            assert len(scene.ways) == 1
        await engine.stop()

    run(work)


def test_the_first_trouble_is_raised() -> None:
    async def work() -> None:
        scene = Scene(Told(HpcvlmError("endpoint-unknown", "no such")))
        with pytest.raises(HpcvlmError, match="no such"):
            await scene.follower().run()

    run(work)


def test_an_engine_that_restarts_is_left_and_found_again_on_its_new_port() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene) as follower:
            await engine.stop()
            scene.cluster.seen = Sighting(None, "restarting")
            await until(lambda: follower.current is None)
            again = await Engine("b").start()
            scene.cluster.seen = ready(again)
            await until(lambda: follower.current is not None)
            assert scene.kinds()[-1] == "up"
        await again.stop()

    run(work)


def test_a_changed_key_is_fetched_and_handed_out() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene):
            engine.key = scene.cluster.the_key = "new"
            await until(lambda: scene.keys == ["k3y", "new"])
        await engine.stop()

    run(work)


def test_one_look_that_says_over_is_not_believed() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        follower = scene.follower()
        following = asyncio.create_task(follower.run())
        await until(follower.first_up.is_set)
        # A job that Slurm has put back looks over for a moment on a file system that is behind.
        for _ in range(3):
            scene.cluster.once, looks = OVER, scene.cluster.looks
            await until(lambda: scene.cluster.looks > looks + 2)  # noqa: B023
            assert not following.done()
            assert follower.current is scene.ways[0]
        scene.cluster.seen = OVER
        assert await following == OVER
        await follower.close()
        await engine.stop()

    run(work)


def test_the_end_is_told_at_thirty_and_at_ten_minutes_once_each() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        now = time.time()
        scene = Scene(Told(ready(engine, ends=now + 3600)))
        async with followed(scene):

            async def looked() -> list[str]:
                looks = scene.cluster.looks
                await until(lambda: scene.cluster.looks > looks + 3)
                return [e.text for e in scene.events if e.kind == "expiring"]

            assert await looked() == []
            scene.cluster.seen = ready(engine, ends=now + 1750)
            assert await looked() == ["mine ends in 29 min"]
            # One that was extended, and one with a successor.
            scene.cluster.seen = ready(engine, ends=now + 7200)
            assert len(await looked()) == 1
            scene.cluster.seen = ready(engine, ends=now + 590, kept_until=now + 9999)
            told = await looked()
            assert told[1:] == ["mine ends in 10 min; its successor takes over once it is ready"]
        await engine.stop()

    run(work)


@pytest.mark.parametrize(("left", "told"), [(1700, []), (500, ["mine ends in 8 min"])])
def test_who_is_connected_late_is_told_only_of_a_near_end(left: int, told: list[str]) -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine, ends=time.time() + left)))
        async with followed(scene):
            looks = scene.cluster.looks
            await until(lambda: scene.cluster.looks > looks + 3)
            assert [e.text for e in scene.events if e.kind == "expiring"] == told
        await engine.stop()

    run(work)


def test_an_engine_that_stops_answering_is_told_and_so_is_its_return() -> None:
    async def work() -> None:
        engine = await Engine("a").start()
        scene = Scene(Told(ready(engine)))
        async with followed(scene):
            engine.health = 500
            await until(lambda: "down" in scene.kinds())
            engine.health = 200
            await until(lambda: "back" in scene.kinds())
            assert scene.kinds() == ["up", "down", "back"]
            assert len(scene.ways) == 1
        await engine.stop()

    run(work)
