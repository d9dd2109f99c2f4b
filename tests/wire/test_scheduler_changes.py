"""A real engine behind a real port, and a sidecar's part that changes its mind: nothing is lost, nothing is early."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.control.scheduler_server import SchedulerServer
from pillion.jobs.remote import RemoteScheduler
from pillion.kinds.jobs import Job, JobFilter, JobKey, Outcome, Trigger
from pillion.net.grpc_client import Channel
from pillion.sidecar.scheduling import Scheduling
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def server(file: Path, port: int = 0) -> AsyncIterator[SchedulerServer]:
    made = SchedulerServer(
        SqliteJobs(str(file)), clock=SystemClock(), member_id="one", addresses=("127.0.0.1",),
        port=port or free_port(),
        advertise="127.0.0.1:{}".format,
    )  # fmt: skip
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[RemoteScheduler]:
    made = RemoteScheduler([f"127.0.0.1:{port}"], Channel, SystemClock(), random.Random(1))
    made.open()
    try:
        yield made
    finally:
        await made.close()


class Carrier:
    """Counts what it carries out, and when."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.early: list[str] = []
        self.due: dict[str, float] = {}
        self.changed = asyncio.Event()

    async def carry_out(self, trigger: Trigger) -> Outcome:
        name = trigger.key.name
        self.times[name] += 1
        if time.time() < self.due[name]:
            self.early.append(name)
        self.changed.set()
        await asyncio.sleep(0)
        return Outcome.SUCCESS

    async def until(self, names: set[str]) -> None:
        while not names <= self.times.keys():
            self.changed.clear()
            await self.changed.wait()


def test_types_and_health_change_while_jobs_fire(tmp_path: Path) -> None:
    """Every job and reminder fires, none early, few twice, whatever is opened and closed meanwhile."""

    async def test() -> None:
        carrier = Carrier()
        async with server(tmp_path / "jobs.db") as one, client(one.port) as scheduler:
            scheduling = Scheduling(scheduler, "app", "ns", jobs=carrier.carry_out, reminders=carrier.carry_out)
            scheduling.app_healthy(True)
            scheduling.types(["T"])
            names = [f"n{number}" for number in range(300)]
            for number, name in enumerate(names):
                key = JobKey("ns", name, "app", "T", "1") if number % 2 else JobKey("ns", name, "app")
                delay = (number % 30) / 20
                carrier.due[name] = time.time() + delay
                await scheduler.schedule(key, Job(due_time=f"{delay}s"))
                if number % 20 == 0:
                    scheduling.types(["T", f"U{number}"] if number % 40 else ["T"])
                    scheduling.app_healthy(number % 60 != 0)
            scheduling.app_healthy(True)
            await carrier.until(set(names))
            assert carrier.early == []
            assert sum(carrier.times.values()) < len(names) * 1.2
            await scheduling.close(1)

    asyncio.run(bounded(test()))


def test_a_scheduler_that_comes_back_on_the_same_port(tmp_path: Path) -> None:
    """Its sidecars find it again by themselves, and jobs that were due meanwhile fire."""

    async def test() -> None:
        carrier = Carrier()
        async with server(tmp_path / "jobs.db") as one:
            port = one.port
            outer = client(port)
            scheduler = await outer.__aenter__()
            scheduling = Scheduling(scheduler, "app", "ns", jobs=carrier.carry_out)
            scheduling.app_healthy(True)
            carrier.due["j"] = time.time() + 0.5
            await scheduler.schedule(JobKey("ns", "j", "app"), Job(due_time="500ms"))
        async with server(tmp_path / "jobs.db", port):
            await carrier.until({"j"})
            assert carrier.early == []
            await scheduling.close(1)
            await outer.__aexit__(None, None, None)

    asyncio.run(bounded(test()))


def test_in_this_process(tmp_path: Path) -> None:
    """`engine` of a server is a scheduler for the same process; who comes by the port sees the same jobs."""

    async def test() -> None:
        carrier = Carrier()
        async with server(tmp_path / "jobs.db") as one, client(one.port) as far:
            near = one.engine
            assert near is not None
            scheduling = Scheduling(near, "app", "ns", jobs=carrier.carry_out)
            scheduling.app_healthy(True)
            carrier.due["j"] = 0.0
            await far.schedule(JobKey("ns", "j", "app"), Job(due_time="0s"))
            await carrier.until({"j"})
            await near.schedule(JobKey("ns", "later", "app"), Job(due_time="1h"))
            assert [key.name for key, _ in await far.list_jobs("ns", "app", "l")] == ["later"]
            assert [stored.key.name for stored in await near.find(JobFilter("app||ns||app||l"))] == ["later"]
            await scheduling.close(1)

    asyncio.run(bounded(test()))


async def bounded(test: object) -> None:
    async with asyncio.timeout(90):
        await test  # type: ignore[misc]
