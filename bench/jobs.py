"""How fast jobs are registered, overwritten, deleted and fired: one engine over storage in a SQLite file.

    python bench/jobs.py [--jobs 20000] [--callers 256] [--profile] [--memory] [--postgres DSN]

The consumer answers at once. "Fired" counts from the moment at which all jobs are due to the last answer written down.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.components.jobs_sqlite import SqliteJobs
from pillion.jobs.engine import Engine
from pillion.kinds.jobs import Interest, Job, JobKey, JobStore, Member, Outcome, Trigger
from pillion.testing.memory_jobs import Jobs, MemoryJobStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LATER = Job(due_time="1h", payload=b"x" * 100)


async def many(number: int, callers: int, act: Callable[[int], Awaitable[object]]) -> float:
    """Return calls per second of `callers` that call one after the other."""
    left = iter(range(number))

    async def caller() -> None:
        for one in left:
            await act(one)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return number / (time.perf_counter() - begin)


def key(number: int) -> JobKey:
    return JobKey("bench", f"job-{number}", app_id="a", actor_type="T", actor_id=str(number))


async def fired(engine: Engine, number: int, job: Job, ticks: int = 1) -> float:
    """Return ticks per second of jobs that are all due at one time, and were registered before."""
    done = 0
    end = asyncio.Event()
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    answer.set_result(Outcome.SUCCESS)

    def deliver(trigger: Trigger) -> asyncio.Future[Outcome]:
        nonlocal done
        done += 1
        if done == number * ticks:
            end.set()
        return answer

    await many(number, 256, lambda one: engine.schedule(key(one), job))
    begin = time.perf_counter()
    watch = engine.watch(Interest("a", "bench", actor_types=frozenset({"T"})), deliver)
    await end.wait()
    while await engine.list_reminders("bench", "T", str(number - 1)) or not engine.memory.saving.idle:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    taken = time.perf_counter() - begin
    watch.close()
    return number * ticks / taken


async def measure(store: JobStore, number: int, callers: int) -> None:
    engine = Engine(store, Member("bench", 1, "127.0.0.1:1"))
    await engine.open()
    try:
        rate = await many(number, callers, lambda one: engine.schedule(key(one), LATER))
        show("register", rate)
        rate = await many(number, callers, lambda one: engine.schedule(key(one), LATER, overwrite=True))
        show("overwrite", rate)
        show("delete", await many(number, callers, lambda one: engine.delete(key(one))))

        async def pair(one: int) -> None:
            await engine.schedule(key(one), LATER, overwrite=True)
            await engine.delete(key(one))

        show("register and delete, pairs", await many(number, callers, pair))
        show("fire, once each", await fired(engine, number, Job(due_time="0s", payload=b"x" * 100)))
        show("fire, ten ticks each", await fired(engine, number // 10, Job("@every 1ms", repeats=10), 10))
    finally:
        await engine.close()


def show(what: str, rate: float) -> None:
    sys.stdout.write(f"{what:30} {rate:10,.0f} /s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", action="store_true", help="storage in memory: the engine alone")
    parser.add_argument("--postgres", default="", help="a connection string")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store: JobStore = SqliteJobs(str(Path(folder) / "jobs.db"))
        if given.memory:
            store = MemoryJobStore(Jobs())
        elif given.postgres:
            from pillion.components.jobs_postgresql import PostgresJobs

            store = PostgresJobs(given.postgres)
        profile = cProfile.Profile()
        if given.profile:
            profile.enable()
        asyncio.run(measure(store, given.jobs, given.callers))
        if given.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
