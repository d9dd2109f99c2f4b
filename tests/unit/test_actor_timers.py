"""Timers of actors: spec `actors-workflows-jobs.md` 1.10 and invariant 10."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from actor_cluster import Cluster, Tales, hosted
from pillion.actors.host import ActorHost, Uncounted
from pillion.actors.timers import TimerInvalid, Timers, read
from pillion.kinds.actors import ActorCall, AppRefused, NotHosted, RuntimeClosed, Tick
from pillion.testing.simulation import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EPOCH = 1_767_225_600.0


class Clock:
    """The wall clock of the loop's own time."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Counted(Uncounted):
    def __init__(self) -> None:
        self.set = 0
        self.fired: list[bool] = []

    def timers(self, actor_type: str, change: int) -> None:
        self.set += change

    def timer_fired(self, actor_type: str, *, success: bool) -> None:
        self.fired.append(success)


class Bench:
    def __init__(self) -> None:
        self.cluster = Cluster()
        self.host: ActorHost = self.cluster.add("a")
        self.app = Tales()
        self.host.host("app", [hosted(self.app)])
        self.meter = Counted()
        self.timers = Timers(self.host, Clock(), self.meter)
        self.at: list[float] = []
        """When ticks of `t` began, seconds from the beginning."""
        self.app.acts["t"] = self.note
        self.lasts_s = 0.0

    async def note(self, _: ActorCall) -> None:
        self.at.append(round(asyncio.get_running_loop().time(), 3))
        await asyncio.sleep(self.lasts_s)

    async def set(self, name: str = "t", **fields: Any) -> None:
        await self.timers.create("T", "1", name, **fields)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    done: list[bool] = []

    async def main() -> None:
        bench = Bench()
        try:
            await story(bench)
        finally:
            await bench.timers.close()
            await bench.cluster.close()
            done.append(True)

    world = World(seed=1)
    task = world.host("one").start(main())
    world.run(until=lambda: bool(done) and task.done(), seconds=100_000)
    task.result()


def test_due_now_once() -> None:
    async def story(bench: Bench) -> None:
        await bench.set()
        assert bench.meter.set == 1
        await asyncio.sleep(10)
        assert bench.at == [0]
        assert (bench.meter.set, bench.meter.fired, len(bench.timers)) == (0, [True], 0)

    play(story)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"due_time": "3s"}, [3]),
        ({"due_time": "PT2S", "period": "PT3S"}, [2, 5, 8, 11, 14, 17]),
        ({"due_time": "2026-01-01T00:00:05Z"}, [5]),
        ({"due_time": "2025-01-01T00:00:00Z", "period": "8s"}, [0, 8, 16]),
        ({"due_time": "1s", "period": "R3/PT2S"}, [1, 3, 5]),
        ({"period": "R3"}, [0, 0, 0]),
        ({"period": "R-1/PT8S"}, [0, 8, 16]),
        ({"period": "5s", "ttl": "11s"}, [0, 5, 10]),
        ({"due_time": "4s", "period": "5s", "ttl": "PT10S"}, [4, 9]),
        ({"period": "0s"}, [0]),
        ({"due_time": "1s", "period": "P1D"}, [1]),
    ],
)  # fmt: skip
def test_schedules(fields: dict[str, str], expected: list[float]) -> None:
    """Which ticks there are in the first 18 seconds. A ttl counts from the first of them."""

    async def story(bench: Bench) -> None:
        await bench.set(**fields)
        await asyncio.sleep(18)
        assert bench.at == expected

    play(story)


def test_days_are_those_of_the_calendar() -> None:
    timer = read(Tick("T", "1", "t", due_time="2026-01-31T10:00:00Z", period="R3/P1M"), "", EPOCH)
    assert timer.advance()
    assert timer.due == 1772532000  # 3 March: what is beyond the end of February runs over, as in Go


@pytest.mark.parametrize(
    "fields",
    [
        {"due_time": "soon"}, {"period": "@every 1s"}, {"period": "R0/PT1S"}, {"period": "-1s"}, {"ttl": "-5s"},
        {"due_time": "R2/PT1S"}, {"ttl": "2020-01-01T00:00:00Z"}, {"due_time": "1s", "ttl": "0s"}, {"period": "P"},
    ],
)  # fmt: skip
def test_mistakes(fields: dict[str, str]) -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(TimerInvalid):
            await bench.set(**fields)
        assert len(bench.timers) == 0

    play(story)


def test_the_registered_words_come_back() -> None:
    async def story(bench: Bench) -> None:
        seen: list[Tick] = []

        class App(Tales):
            async def tick(self, tick: Tick) -> bool:
                seen.append(tick)
                return False

        bench.host.host("app", [hosted(App())])
        await bench.set(due_time="1s", period="R2/PT1S", callback="ring", data=b'{"a":1}')
        await asyncio.sleep(5)
        assert [(one.data, one.due_time, one.period, one.callback, one.is_timer) for one in seen] == [
            (b'{"a":1}', "1s", "R2/PT1S", "ring", True)
        ] * 2

    play(story)


def test_a_timer_never_overlaps_itself_and_does_not_drift() -> None:
    """Late ticks follow each other at once, the schedule stays where it was."""

    async def story(bench: Bench) -> None:
        bench.lasts_s = 5.0
        await bench.set(due_time="1s", period="2s")
        await asyncio.sleep(12)
        bench.lasts_s = 0.0
        await asyncio.sleep(10)
        assert bench.at[:6] == [1, 6, 11, 16, 16, 16]
        assert bench.at[6:] == [16, 16, 17, 19, 21]
        assert not bench.app.overlaps

    play(story)


def test_deleting_and_replacing_stop_what_has_not_begun() -> None:
    """Also a tick that waits for its turn behind another call (invariant 10)."""

    async def story(bench: Bench) -> None:
        go = asyncio.Event()

        async def long(_: ActorCall) -> None:
            await go.wait()

        bench.app.acts["long"] = long
        call = asyncio.ensure_future(bench.host.invoke(ActorCall("T", "1", "long")))
        await bench.set()
        await bench.set("other", due_time="1s")
        await asyncio.sleep(2)
        await bench.timers.delete("T", "1", "t")
        await bench.set("other", due_time="10s")
        await bench.timers.delete("T", "1", "unknown")
        go.set()
        await call
        await asyncio.sleep(20)
        assert bench.app.told == ["long 1", "timer 1 other"]
        assert round(asyncio.get_running_loop().time()) == 22

    play(story)


def test_failures_are_ticks_and_a_stream_may_cancel() -> None:
    async def story(bench: Bench) -> None:
        async def fails(_: ActorCall) -> None:
            raise AppRefused("no")

        bench.app.acts["t"] = fails
        await bench.set(period="R3/PT1S")
        await asyncio.sleep(10)
        assert bench.meter.fired == [False] * 3
        bench.app.wants_no_more = True
        bench.app.acts["t"] = bench.note
        await bench.set(period="1s")
        await asyncio.sleep(10)
        assert bench.meter.fired[3:] == [True]
        assert bench.meter.set == 0

    play(story)


def test_a_timer_outlives_its_instance_and_follows_its_actor() -> None:
    async def story(bench: Bench) -> None:
        other = Tales()
        bench.cluster.add("b").host("app", [hosted(other)])
        await bench.set(period="2s")
        await asyncio.sleep(1)
        await bench.host.halt("T", "1")
        await asyncio.sleep(2)
        assert bench.app.told == ["timer 1 t", "gone 1", "timer 1 t"]
        await bench.cluster.rebalance(lambda _type, _id: "b")
        await asyncio.sleep(2)
        assert other.told == ["timer 1 t"]

    play(story)


def test_where_timers_may_be_set() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(NotHosted):
            await bench.timers.create("U", "1", "t")
        await bench.timers.close()
        with pytest.raises(RuntimeClosed):
            await bench.set()

    play(story)


def test_timers_that_are_replaced_again_and_again_take_no_room() -> None:
    async def story(bench: Bench) -> None:
        for _ in range(2000):
            await bench.set(due_time="1h")
        assert len(bench.timers._queue) < 200
        assert bench.meter.set == 1

    play(story)


def test_a_tick_that_fails_in_an_unexpected_way_is_not_the_last() -> None:
    async def story(bench: Bench) -> None:
        tick, ticks = bench.host.tick, 0

        async def surprising(*arguments: Any, **more: Any) -> bool:
            nonlocal ticks
            ticks += 1
            if ticks == 2:
                raise RuntimeError("nobody expects this")
            return await tick(*arguments, **more)

        bench.host.tick = surprising  # type: ignore[method-assign]
        await bench.set(due_time="1s", period="1s")
        await asyncio.sleep(4.5)
        assert bench.at == [1, 3, 4]
        assert bench.meter.fired == [True, False, True, True]

    play(story)
