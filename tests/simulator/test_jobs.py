"""Schedulers in a world of faults: hosts are killed, paused, have wrong clocks; storage is slow and loses answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, cast

import pytest

from pillion.errors import ComponentError
from pillion.jobs.engine import Engine
from pillion.jobs.partition import partition_of
from pillion.kinds.jobs import Interest, Job, JobKey, JobStore, Member, Outcome, Trigger
from pillion.testing.memory_jobs import Jobs
from pillion.testing.simulation import Disk, World, tell
from simulator.stores import SimulatedJobs, WorldClock

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pillion.testing.simulation import Host

JOBS, TICKS = 40, 6
LEASE_S = 10.0
SLOWEST, FASTEST = 0.97, 1.03


class Story:
    """Three schedulers over one database; what they fire is kept and judged."""

    def __init__(self, seed: int, most_near: int) -> None:
        self.most_near = most_near
        self.world = World(seed)
        self.chance = random.Random(seed)
        self.jobs = Jobs(WorldClock(self.world))
        self.disk = Disk(self.world, failing=0.02)
        self.fired: dict[str, dict[float, int]] = defaultdict(lambda: defaultdict(int))
        self.deleted: set[str] = set()
        self.engines: dict[str, Engine] = {}
        self.afterwards: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.world.checks.append(self.check)
        self.starts = 0

    def start(self, name: str) -> Host:
        """Start a host with a scheduler, its clocks a little wrong, for the first time or after its end."""
        self.starts += 1
        host = self.world.host(
            name, offset_s=self.chance.uniform(-0.2, 0.2), rate=self.chance.uniform(SLOWEST, FASTEST)
        )
        host.start(self.schedule(host, Member(name, self.starts, f"{name}:1")))
        return host

    async def schedule(self, host: Host, member: Member) -> None:
        store = cast(JobStore, SimulatedJobs(self.jobs, self.disk, host))
        engine = Engine(
            store, member, clock=host.clock, chance=host.random, lease_s=LEASE_S, window_s=3.0, most_near=self.most_near
        )
        while True:
            try:
                await engine.open()
                break
            except ComponentError:
                await asyncio.sleep(0.1)
        self.engines[member.id] = engine

        def deliver(trigger: Trigger) -> Awaitable[Outcome]:
            self.judge(host, member, trigger)
            return answer()

        async def answer() -> Outcome:
            await asyncio.sleep(host.random.uniform(0, 0.05))
            return Outcome.FAILED if host.random.random() < 0.05 else Outcome.SUCCESS

        engine.watch(Interest("a", "ns"), deliver)

    def judge(self, host: Host, member: Member, trigger: Trigger) -> None:
        """No tick is early, and who fires it has its partition at this moment."""
        key = trigger.key.text
        lease = self.jobs.leases[partition_of(key)]
        if host.clock.now() < trigger.tick:
            self.wrong.append(f"{key} is early")
        if lease.owner != (member.id, member.incarnation) or lease.until <= self.jobs.clock.now():
            self.wrong.append(f"{member.id} fires {key}, which is {lease.owner}'s until {lease.until}")
        if key in self.deleted:  # by another host, which could not stop a trigger on its way
            self.afterwards[key] += 1
            if self.afterwards[key] > 1:
                self.wrong.append(f"{key} was deleted")
        self.fired[key][trigger.tick] += 1

    def check(self) -> None:
        assert not self.wrong, self.world.told(str(self.wrong))

    async def client(self, host: Host) -> None:
        """Put jobs, and some that are deleted, through whichever scheduler answers."""
        for number in range(JOBS):
            job = Job(f"@every {host.random.choice((0.3, 1, 2.5))}s", repeats=TICKS)
            await self.until_done("schedule", JobKey("ns", f"j{number}", app_id="a"), job, overwrite=True)
            if number % 8 == 0:
                doomed = JobKey("ns", f"doomed{number}", app_id="a")
                await self.until_done("schedule", doomed, Job("@every 300ms"), overwrite=True)
                await asyncio.sleep(1.0)
                await self.until_done("delete", doomed)
                self.deleted.add(doomed.text)
            await asyncio.sleep(host.random.uniform(0, 4))

    async def until_done(self, act: str, *arguments: Any, **named: Any) -> None:
        while True:
            engine = self.chance.choice([self.engines[name] for name in sorted(self.engines)])
            host = self.world.hosts[engine.member.id]
            # A call of a client in the same world: it runs on the scheduler's host, and may be cut off with it.
            if host.alive and not host.paused:
                done = asyncio.get_running_loop().create_future()
                host.start(self.call(getattr(engine, act), arguments, named, done))
                try:
                    async with asyncio.timeout(5.0):
                        if await done:
                            return
                except TimeoutError:
                    pass
            await asyncio.sleep(0.2)

    async def call(self, act: Any, arguments: Any, named: Any, done: asyncio.Future[bool]) -> None:
        try:
            await act(*arguments, **named)
            result = True
        except ComponentError:
            result = False
        done.get_loop().call_soon(settle, done, result)

    def wait(self, least: float, most: float) -> None:
        """Let some time of the world pass."""
        end = self.world.now + self.chance.uniform(least, most)
        self.world.run(lambda: self.world.now >= end, seconds=most + 10)


def settle(done: asyncio.Future[bool], result: bool) -> None:
    if not done.done():
        done.set_result(result)


@pytest.mark.parametrize("most_near", [16, 50_000])
@pytest.mark.parametrize("seed", range(8))
def test_faults(seed: int, most_near: int) -> None:
    """Every tick is fired, none early, each by the owner of its partition within its lease; what was deleted rests."""
    tell(lambda: faults(seed, most_near))


def faults(seed: int, most_near: int) -> None:
    story = Story(seed, most_near)
    world = story.world
    hosts = {name: story.start(name) for name in ("one", "two", "three")}
    world.run(lambda: len(story.engines) == 3, seconds=60)
    client = world.host("client")
    putting = client.start(story.client(client))
    for _ in range(4):
        name = story.chance.choice(sorted(hosts))
        story.wait(3, 12)
        if story.chance.random() < 0.5:
            hosts[name].kill()
            del story.engines[name]
            story.wait(0, 20)
            hosts[name] = story.start(name)
        else:
            hosts[name].pause()
            story.wait(1, 25)
            hosts[name].resume()
    story.disk.failing = 0.0
    story.wait(1, 1)
    world.run(lambda: putting.done() and not story.jobs.rows, seconds=600, events=4_000_000)
    for number in range(JOBS):
        ticks = story.fired[JobKey("ns", f"j{number}", app_id="a").text]
        assert len(ticks) >= TICKS, f"j{number}: {sorted(ticks)}"
