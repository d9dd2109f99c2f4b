"""The scheduler in one process over storage in memory: what is fired, when, and to whom."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pillion.jobs.engine import Engine
from pillion.kinds.jobs import (
    Constant,
    Drop,
    Interest,
    Job,
    JobExists,
    JobFilter,
    JobInvalid,
    JobKey,
    JobMissing,
    Limit,
    Member,
    Outcome,
    SchedulerUnavailable,
    Trigger,
)
from pillion.testing.memory_jobs import Jobs, MemoryJobStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PATIENCE_S = 90.0
APP = Interest("a", "ns")


def key(name: str, app_id: str = "a") -> JobKey:
    return JobKey("ns", name, app_id=app_id)


def reminder(name: str, kind: str = "T", id: str = "1") -> JobKey:
    return JobKey("ns", name, app_id="a", actor_type=kind, actor_id=id)


class Taker:
    """A consumer that notes what it is given and answers as it is told; awaited for a number of triggers."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.triggers: list[Trigger] = []
        self.at: list[float] = []
        self._outcomes = list(outcomes)
        self._more = asyncio.Event()

    async def __call__(self, trigger: Trigger) -> Outcome:
        self.triggers.append(trigger)
        self.at.append(time.time())
        self._more.set()
        return self._outcomes.pop(0) if self._outcomes else Outcome.SUCCESS

    async def have(self, number: int) -> list[Trigger]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.triggers) < number:
                self._more.clear()
                await self._more.wait()
        return self.triggers


@asynccontextmanager
async def engine_over(
    jobs: Jobs, id: str = "one", *, most_near: int = 1000, most_staged: int = 1000
) -> AsyncIterator[Engine]:
    member = Member(id, 1, f"{id}:1")
    engine = Engine(MemoryJobStore(jobs), member, most_near=most_near, most_staged=most_staged)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


def run(test: Callable[[Engine, Jobs], Awaitable[None]], *, most_near: int = 1000, most_staged: int = 1000) -> None:
    async def main() -> None:
        jobs = Jobs()
        async with (
            asyncio.timeout(PATIENCE_S * 2),
            engine_over(jobs, most_near=most_near, most_staged=most_staged) as engine,
        ):
            await test(engine, jobs)

    asyncio.run(main())


async def gone(jobs: Jobs, engine: Engine, *keys: JobKey) -> None:
    """Wait until the jobs have ended: every answer is written by then."""
    async with asyncio.timeout(PATIENCE_S):
        while any([await engine.get(one) for one in keys]):  # noqa: ASYNC110 - storage tells nobody
            await asyncio.sleep(0.005)


def test_ticks_in_time() -> None:
    """A job of three ticks is fired three times, never early, and is gone afterwards (invariants 11 and 13)."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        taker = Taker()
        engine.watch(APP, taker)
        begin = time.time()
        await engine.schedule(key("j"), Job("@every 30ms", repeats=3, payload=b"x"))
        triggers = await taker.have(3)
        await gone(jobs, engine, key("j"))
        assert [one.payload for one in triggers] == [b"x"] * 3
        assert all(at >= one.tick for at, one in zip(taker.at, triggers, strict=True))
        assert triggers[0].tick >= begin + 0.0299
        steps = [b.tick - a.tick for a, b in itertools.pairwise(triggers)]
        assert steps == pytest.approx([0.03, 0.03], abs=1e-5)

    run(test)


def test_waits_for_a_consumer() -> None:
    """Without a consumer a tick stays pending, without costing an attempt, and comes the moment there is one."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        await engine.schedule(key("j"), Job(due_time="0s"))
        await engine.schedule(reminder("r"), Job(due_time="0s"))
        await engine.schedule(key("other", "b"), Job(due_time="0s"))
        await asyncio.sleep(0.02)
        taker = Taker()
        engine.watch(Interest("a", "ns", actor_types=frozenset({"T"})), taker)
        assert {one.key for one in await taker.have(2)} == {key("j"), reminder("r")}
        await gone(jobs, engine, key("j"), reminder("r"))
        assert await engine.get(key("other", "b")) is not None

    run(test)


def test_more_wait_than_memory_holds() -> None:
    """What waits beyond the bounds of memory goes back to storage, and comes all the same; others are not held up."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        names = [key(f"j{number}") for number in range(60)]
        for name in names:
            await engine.schedule(name, Job(due_time="0s"))
        other = Taker()
        engine.watch(Interest("b", "ns"), other)
        await engine.schedule(key("other", "b"), Job(due_time="20ms"))
        await other.have(1)
        taker = Taker()
        engine.watch(APP, taker)
        triggers = await taker.have(60)
        await gone(jobs, engine, *names)
        assert {one.key for one in triggers} == set(names)

    run(test, most_near=16, most_staged=8)


def test_retries() -> None:
    """A failed tick is tried again by its policy, spaced by its interval; it consumes one repeat (2.4)."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        taker = Taker(*[Outcome.FAILED] * 3)
        engine.watch(APP, taker)
        begin = time.time()
        await engine.schedule(key("j"), Job(due_time="0s", failure_policy=Constant(0.02, 2)))
        triggers = await taker.have(3)
        await gone(jobs, engine, key("j"))
        assert len({one.tick for one in triggers}) == 1
        assert taker.at[2] - begin >= 0.0399
        dropped = Taker(Outcome.FAILED)
        engine.watch(Interest("b", "ns"), dropped)
        await engine.schedule(key("d", "b"), Job(due_time="0s", failure_policy=Drop()))
        await gone(jobs, engine, key("d", "b"))
        assert len(dropped.triggers) == 1

    run(test)


def test_overwrite_discards_the_answer() -> None:
    """The answer to a tick of an overwritten job changes nothing; without `overwrite` nothing is changed at all."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        arrived = asyncio.Event()

        def deliver(trigger: Trigger) -> asyncio.Future[Outcome]:
            arrived.set()
            return answer

        engine.watch(APP, deliver)
        await engine.schedule(key("j"), Job(due_time="0s", payload=b"old"))
        await arrived.wait()
        with pytest.raises(JobExists):
            await engine.schedule(key("j"), Job(due_time="1h"))
        await engine.schedule(key("j"), Job(due_time="1h", payload=b"new"), overwrite=True)
        answer.set_result(Outcome.SUCCESS)
        await asyncio.sleep(0.02)
        found = await engine.get(key("j"))
        assert found is not None
        assert found.payload == b"new"

    run(test)


def test_delete_before_it_is_due() -> None:
    async def test(engine: Engine, jobs: Jobs) -> None:
        taker = Taker()
        engine.watch(APP, taker)
        await engine.schedule(key("j"), Job(due_time="2s"))
        await engine.schedule(key("k"), Job(due_time="2100ms"))
        await engine.delete(key("j"))
        await engine.delete(key("j"))
        assert [one.key for one in await taker.have(1)] == [key("k")]

    run(test)


def test_a_consumer_that_goes_hands_back() -> None:
    """What a consumer has not answered when it goes is given to another, as the same tick."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        arrived = asyncio.Event()

        async def never(trigger: Trigger) -> Outcome:
            arrived.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        watch = engine.watch(APP, never)
        await engine.schedule(key("j"), Job(due_time="0s", failure_policy=Drop()))
        await arrived.wait()
        taker = Taker(Outcome.UNDELIVERABLE)
        engine.watch(APP, taker)
        watch.close()
        watch.close()
        await taker.have(2)
        await gone(jobs, engine, key("j"))

    run(test)


def test_turns_of_consumers() -> None:
    """The consumers of an application take triggers in turn."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        takers = [Taker(), Taker(), Taker()]
        for taker in takers:
            engine.watch(APP, taker)
        for number in range(9):
            await engine.schedule(key(f"j{number}"), Job(due_time="0s"))
        for taker in takers:
            await taker.have(3)

    run(test)


def test_a_consumer_that_raises() -> None:
    """Its exception counts as a failed try, whether it is raised at once or later."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        tries: list[Trigger] = []

        def deliver(trigger: Trigger) -> Awaitable[Outcome]:
            tries.append(trigger)
            if len(tries) == 1:
                raise ValueError("at once")
            return later(trigger)

        async def later(trigger: Trigger) -> Outcome:
            if len(tries) == 2:
                raise ValueError("later")
            return Outcome.SUCCESS

        engine.watch(APP, deliver)
        await engine.schedule(key("j"), Job(due_time="0s", failure_policy=Constant(0.0, 5)))
        await gone(jobs, engine, key("j"))
        assert len(tries) == 3

    run(test)


def test_gates() -> None:
    """No more triggers with a concurrency key are under way than its limit says, and all get through."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        inside = most = done = 0

        async def deliver(trigger: Trigger) -> Outcome:
            nonlocal inside, most, done
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1
            done += 1
            return Outcome.SUCCESS

        engine.watch(Interest("a", "ns", limits=(Limit("k", 3),)), deliver)
        names = [key(f"j{number}") for number in range(30)]
        for name in names:
            await engine.schedule(name, Job(due_time="0s", concurrency_key="k"))
        await gone(jobs, engine, *names)
        assert most == 3
        assert done == 30

    run(test)


def test_lists_and_deletes_exactly() -> None:
    """A type or an actor is exactly that one, whatever others are named (invariant 17)."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        job = Job(due_time="1h")
        keys = [reminder("r", "T", "1"), reminder("r", "T", "12"), reminder("r", "T2", "1"), reminder("r", "T||x", "1")]
        for one in [*keys, key("ab"), key("abc"), key("x"), key("ab", "a2")]:
            await engine.schedule(one, job)
        assert {one for one, _ in await engine.list_reminders("ns", "T")} == {keys[0], keys[1]}
        assert [one for one, _ in await engine.list_reminders("ns", "T", "1")] == [keys[0]]
        assert [one.name for one, _ in await engine.list_jobs("ns", "a", "ab")] == ["ab", "abc"]
        await engine.delete_reminders("ns", "T", "1")
        await engine.delete_reminders("ns", "T")
        await engine.delete_jobs("ns", "a", "ab")
        assert sorted(jobs.rows) == sorted(one.text for one in [keys[2], keys[3], key("x"), key("ab", "a2")])

    run(test)


def test_operators() -> None:
    """Jobs can be found, held, passed over, fired at once and removed."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        name = key("j").text
        await engine.schedule(key("j"), Job("@every 50ms"))
        held = await engine.pause(name)
        assert [one.revision for one in await engine.find(JobFilter("app||ns", paused=True))] == [held.revision]
        with pytest.raises(SchedulerUnavailable):
            await engine.run_now(name)
        taker = Taker()
        engine.watch(APP, taker)
        await engine.run_now(name)
        skipped = await engine.skip(name, 2)
        assert skipped.count == 2
        assert skipped.tick == pytest.approx(held.anchor + 0.15, abs=1e-5)
        assert await engine.backfill(name, held.anchor - 0.1001, held.anchor + 0.0001) == 3
        assert len(taker.triggers) == 4
        await engine.resume(name)
        assert (await taker.have(5))[4].tick == skipped.tick
        await engine.remove(name)
        for act in (engine.inspect, engine.pause, engine.resume, engine.skip, engine.run_now, engine.remove):
            with pytest.raises(JobMissing):
                await act(name)

    run(test)


def test_backfill_waits_at_gates_and_tries_again() -> None:
    """Ticks beside the schedule are under the limits of others, and failed ones under the job's policy."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        open_gate, most, inside = asyncio.Event(), 0, 0
        failing = 2

        async def deliver(trigger: Trigger) -> Outcome:
            nonlocal most, inside, failing
            inside += 1
            most = max(most, inside)
            await open_gate.wait()
            inside -= 1
            if trigger.key.name != "j":
                return Outcome.SUCCESS
            fired.append(trigger.tick)
            failing -= 1
            return Outcome.FAILED if failing >= 0 else Outcome.SUCCESS

        fired: list[float] = []
        watch = engine.watch(Interest("a", "ns", limits=(Limit("k", 1),)), deliver)
        await engine.schedule(key("busy"), Job(due_time="0s", concurrency_key="k"))
        job = Job("@every 1h", concurrency_key="k", failure_policy=Constant(0.01, 2))
        await engine.schedule(key("j"), job)
        since = (await engine.inspect(key("j").text)).anchor
        filling = asyncio.ensure_future(engine.backfill(key("j").text, since + 1, since + 7201))
        async with asyncio.timeout(PATIENCE_S):
            while engine.gates() != {"k": (1, 1)}:  # noqa: ASYNC110 - gates tell nobody
                await asyncio.sleep(0.001)
        open_gate.set()
        assert await filling == 2
        assert (most, len(fired), len(set(fired))) == (1, 4, 2)
        assert fired[0] == fired[2]
        failing = 5
        assert await engine.backfill(key("j").text, since + 1, since + 3601) == 1
        assert failing == 2, "given up after two more tries, as the policy says"
        open_gate.clear()
        waiting = [asyncio.ensure_future(engine.run_now(key("j").text)) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            while engine.gates() != {"k": (1, 1)}:  # noqa: ASYNC110 - gates tell nobody
                await asyncio.sleep(0.001)
        waiting[0].cancel()
        watch.close()
        with pytest.raises(SchedulerUnavailable):
            await waiting[1]

    run(test)


def test_a_pause_in_the_middle_of_a_tick() -> None:
    """The tick counts, and is not fired again when the job goes on; one that failed is tried again then."""

    async def test(engine: Engine, jobs: Jobs) -> None:
        answers: asyncio.Queue[asyncio.Future[Outcome]] = asyncio.Queue()
        ticks: list[float] = []

        def deliver(trigger: Trigger) -> asyncio.Future[Outcome]:
            ticks.append(trigger.tick)
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            answers.put_nowait(answer)
            return answer

        watch = engine.watch(APP, deliver)
        name = key("j").text
        await engine.schedule(key("j"), Job("@every 100ms", failure_policy=Constant(0.0, 3)))
        for pauser in (engine, Engine(MemoryJobStore(jobs), Member("other", 1, "other:1"))):
            if pauser is not engine:  # another process, which tells, and which does not take a share
                await pauser.store.open()
            answer = await answers.get()
            count = (await engine.inspect(name)).count
            await pauser.pause(name)
            answer.set_result(Outcome.SUCCESS)
            await counted(engine, name, count + 1)
            assert (await engine.inspect(name)).paused
            await pauser.resume(name)
        answer = await answers.get()
        assert len(ticks) == len(set(ticks)) == 3
        await engine.pause(name)
        answer.set_result(Outcome.FAILED)
        async with asyncio.timeout(PATIENCE_S):
            while not (await engine.inspect(name)).attempts:  # noqa: ASYNC110 - storage tells nobody
                await asyncio.sleep(0.001)
        assert answers.empty()
        await engine.resume(name)
        answer = await answers.get()
        assert ticks[2] == ticks[3]
        await engine.pause(name)
        watch.close()  # undeliverable: nothing is fired of a job that is held
        again = engine.watch(APP, deliver)
        await asyncio.sleep(0.02)
        assert answers.empty()
        await engine.resume(name)
        await answers.get()
        assert ticks[4] == ticks[3]
        again.close()

    run(test)


async def counted(engine: Engine, name: str, count: int) -> None:
    """Wait until so many ticks are done."""
    async with asyncio.timeout(PATIENCE_S):
        while (await engine.inspect(name)).count < count:  # noqa: ASYNC110 - storage tells nobody
            await asyncio.sleep(0.001)


def test_refused() -> None:
    async def test(engine: Engine, jobs: Jobs) -> None:
        for job in (Job(), Job("* * * * *"), Job(due_time="1h", ttl="2h"), Job("@daily", repeats=0), Job("@every 0s")):
            with pytest.raises(JobInvalid):
                await engine.schedule(key("j"), job)
        with pytest.raises(JobInvalid):
            await engine.schedule(key("a/b"), Job("@daily"))
        await engine.schedule(key("j"), Job("0 0 0 30 2 *"))  # 30 February: it has ended already
        assert await engine.get(key("j")) is None

    run(test)


def test_two_share() -> None:
    """Two schedulers fire every job once between them; when one leaves the other takes over (invariant 16)."""

    async def main() -> None:
        jobs = Jobs()
        async with asyncio.timeout(PATIENCE_S), engine_over(jobs, "one") as one:
            first, second = Taker(), Taker()
            one.watch(APP, first)
            async with engine_over(jobs, "two") as two:
                two.watch(APP, second)
                while len(two.leases.partitions) != 32 or len(one.leases.partitions) != 32:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                names = [key(f"j{number}") for number in range(64)]
                for name in names:
                    await one.schedule(name, Job(due_time="10ms"))
                await gone(jobs, one, *names)
                assert sorted(each.key.name for each in first.triggers + second.triggers) == sorted(
                    name.name for name in names
                )
                assert first.triggers
                assert second.triggers
                await one.schedule(key("late"), Job("@every 10ms"))
            count = len(first.triggers)
            await first.have(count + 3)
            assert one.leases.share.members == (Member("one", 1, "one:1"),)
            assert len(one.leases.partitions) == 64

    asyncio.run(main())
