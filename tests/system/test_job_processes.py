"""Two scheduler processes over one database: one is killed or hangs, and no tick is lost or fired early."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillion.components.jobs_postgresql import PostgresJobs
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.jobs import machine
from pillion.jobs.partition import partition_of
from pillion.kinds.jobs import Job, JobKey, JobStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from servers import PostgresServer

PROGRAM = Path(__file__).parent.parent / "job_process.py"
PATIENCE_S = 200.0
LEASE_S = 1.5
JOBS, TICKS, EVERY_S = 24, 25, 0.1


class Scheduler:
    """A process of `job_process.py`, and what it has told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.members = 0
        self.losses = 0
        """How often it has seen another one go."""
        self.fired: list[tuple[str, str, float]] = []
        self.heard = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def run(cls, kind: str, where: str, id: str) -> AsyncIterator[Scheduler]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), kind, where, id, str(LEASE_S), stdout=asyncio.subprocess.PIPE
        )
        scheduler = cls(process)
        ear = asyncio.create_task(scheduler.listen())
        try:
            yield scheduler
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            await process.wait()
            await ear

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            what, *words = line.decode().split()
            if what == "members":
                self.losses += int(words[0]) < self.members
                self.members = int(words[0])
            else:
                self.fired.append((words[0], words[1], float(words[2])))
            self.heard.set()

    async def until(self, *, members: int = 0, fired: int = 0) -> None:
        while self.members < members or len(self.fired) < fired:
            self.heard.clear()
            await self.heard.wait()


async def put_jobs(store: JobStore, now: float) -> None:
    for number in range(JOBS):
        key = JobKey("ns", f"job{number}", app_id="a")
        stored = machine.register(key, Job(f"@every {EVERY_S}s", repeats=TICKS), number + 1, now)
        assert stored is not None
        await store.put(partition_of(key.text), stored, overwrite=False)


async def all_gone(store: JobStore) -> None:
    while await store.page("app||ns||", limit=1):  # noqa: ASYNC110 - storage tells nobody
        await asyncio.sleep(0.05)


def check(one: Scheduler, two: Scheduler, handovers: int) -> None:
    """Every tick was fired, none early, and none twice but where a job changed hands."""
    fired: dict[str, Counter[str]] = defaultdict(Counter)
    for name, tick, at in one.fired + two.fired:
        assert at >= float(tick), "fired early"
        fired[name][tick] += 1
    assert len(fired) == JOBS
    for ticks in fired.values():
        assert len(ticks) == TICKS
        assert sum(ticks.values()) - TICKS <= handovers
    assert one.fired
    assert two.fired


async def story(kind: str, where: str, store: JobStore, blow: signal.Signals) -> None:
    async with asyncio.timeout(PATIENCE_S), Scheduler.run(kind, where, "one") as one:
        await one.until(members=1)
        async with Scheduler.run(kind, where, "two") as two:
            await one.until(members=2)
            await two.until(members=2)
            await store.open()
            try:
                await put_jobs(store, time.time())
                await two.until(fired=JOBS)
                one.process.send_signal(blow)
                if blow is signal.SIGSTOP:  # it may have stopped within a transaction, which in SQLite stops all
                    later = asyncio.get_running_loop().call_later(2 * LEASE_S, one.process.send_signal, signal.SIGCONT)
                    await all_gone(store)
                    later.cancel()
                await all_gone(store)
                handovers = 2 if blow is signal.SIGSTOP else 1
                handovers += max(one.losses + two.losses - 1, 0)  # a machine that stood still for longer than a lease
            finally:
                await store.close()
    check(one, two, handovers)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_sqlite(tmp_path: Path, blow: signal.Signals) -> None:
    where = str(tmp_path / "jobs.db")
    asyncio.run(story("sqlite", where, SqliteJobs(where), blow))


@pytest.mark.postgresql
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_postgresql(private_postgres: PostgresServer, blow: signal.Signals) -> None:
    where = private_postgres.dsn
    asyncio.run(story("postgres", where, PostgresJobs(where), blow))
