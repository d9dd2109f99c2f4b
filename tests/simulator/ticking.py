"""Schedulers in a world of faults: hosts are killed, paused, have wrong clocks; storage is slow and loses answers;
consumers come and go.

Three engines share one database. What they fire is kept and judged (numbers are those of section 5 of the contract):
no tick is early, and who fires has its partition at this moment (11, 16); every tick is fired, of n repeats n and no
other, then the job is gone (11, 13); a tick that fails is tried as often as its policy says (15); nothing fires after
its ttl, nor under a job that was overwritten or deleted, but for what was on its way (12, 14); a job that may not
overwrite another leaves it as it is (12); a delete deletes no job of a longer name (17).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast

from pillion.clock import rfc3339
from pillion.errors import ComponentError
from pillion.jobs.engine import Engine
from pillion.jobs.partition import partition_of
from pillion.kinds.jobs import (
    Constant,
    Interest,
    Job,
    JobExists,
    JobInvalid,
    JobKey,
    JobStore,
    Member,
    Outcome,
    Trigger,
)
from pillion.testing.memory_jobs import Jobs
from pillion.testing.simulation import EPOCH, Disk, World
from simulator.cluster import listen
from simulator.stores import SimulatedJobs, WorldClock

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pillion.kinds.jobs import Watch
    from pillion.testing.simulation import Host

JOBS, TICKS = 24, 5
LEASE_S = 10.0
SLOWEST, FASTEST = 0.97, 1.03
RETRIES, INTERVAL_S = 2, 0.4
LATE_TTL_S = 2.0
"""What rounding a ttl to seconds and the clocks of schedulers may take from it."""
LATE_S = 1.0
"""A trigger on its way when its job was replaced may still arrive, from each host that fired it."""


class Ticking:
    """Three schedulers over one database, and what they fired."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.chance = random.Random(seed)
        self.jobs = Jobs(WorldClock(self.world))
        self.disk = Disk(self.world, failing=0.02)
        self.fired: dict[tuple[str, bytes], dict[float, int]] = defaultdict(lambda: defaultdict(int))
        """Key and payload to the ticks and how often each was fired."""
        self.once: set[tuple[str, bytes]] = set()
        """Jobs that were put by one call. A put whose answer was lost is repeated and begins the job anew."""
        self.old: dict[str, tuple[float, bytes]] = {}
        """Jobs that were replaced or deleted: when, and the payload of what is there instead."""
        self.expires: dict[str, float] = {}
        self.engines: dict[str, Engine] = {}
        self.watches: dict[str, Watch] = {}
        self.wrong: list[str] = []
        self.peace = False
        self.starts = 0
        self.world.checks.append(self.check)
        listen(self.wrong)

    def start(self, name: str) -> Host:
        """Start a host with a scheduler, its clocks a little wrong, for the first time or after its end."""
        self.starts += 1
        host = self.world.host(
            name, offset_s=self.chance.uniform(-0.2, 0.2), rate=self.chance.uniform(SLOWEST, FASTEST)
        )
        host.start(self._schedule(host, Member(name, self.starts, f"{name}:1")))
        return host

    async def _schedule(self, host: Host, member: Member) -> None:
        store = cast(JobStore, SimulatedJobs(self.jobs, self.disk, host))
        engine = Engine(store, member, clock=host.clock, chance=host.random, lease_s=LEASE_S, window_s=3.0)
        while True:
            try:
                await engine.open()
                break
            except ComponentError:
                await asyncio.sleep(0.1)
        self.engines[member.id] = engine
        while not self.peace:
            watch = self._watch(host, engine)
            await asyncio.sleep(host.random.uniform(1, 15))
            if not self.peace and host.random.random() < 0.5:
                watch.close()
                await asyncio.sleep(host.random.uniform(0, 4))
        self._watch(host, engine)

    def _watch(self, host: Host, engine: Engine) -> Watch:
        def deliver(trigger: Trigger) -> Awaitable[Outcome]:
            self._judge(host, engine.member, trigger)
            return answer(trigger)

        async def answer(trigger: Trigger) -> Outcome:
            await asyncio.sleep(host.random.uniform(0, 0.05))
            return Outcome.FAILED if trigger.key.name.startswith("failing") else Outcome.SUCCESS

        return engine.watch(Interest("a", "ns"), deliver)

    def _judge(self, host: Host, member: Member, trigger: Trigger) -> None:
        key, now = trigger.key.text, self.world.now
        lease = self.jobs.leases[partition_of(key)]
        if host.clock.now() < trigger.tick:
            self.wrong.append(f"{key} is early")
        if lease.owner != (member.id, member.incarnation) or lease.until <= self.jobs.clock.now():
            self.wrong.append(f"{member.id} fires {key}, which is {lease.owner}'s until {lease.until}")
        replaced, payload = self.old.get(key, (now, trigger.payload))
        if payload != trigger.payload and now > max(replaced, host.went_on) + LATE_S:
            self.wrong.append(f"{key} fires what was replaced {now - replaced:.3f} s ago")
        if trigger.tick > self.expires.get(key, trigger.tick):
            self.wrong.append(f"{key} fires after its ttl")
        self.fired[key, trigger.payload or b""][trigger.tick] += 1

    def check(self) -> None:
        assert not self.wrong, self.world.told(str(self.wrong))

    # -- the client

    async def client(self, host: Host) -> None:
        """Put jobs of every kind, through whichever scheduler answers."""
        for number in range(JOBS):
            chance = host.random
            every = f"@every {chance.choice((300, 1000, 2500))}ms"
            await self._put(f"plain{number}", Job(every, repeats=TICKS))
            if number % 6 == 1:
                await self._put(f"failing{number}", Job(every, repeats=2, failure_policy=Constant(INTERVAL_S, RETRIES)))
            if number % 6 == 2:
                doomed = f"doomed{number}"
                await self._put(doomed, Job("@every 300ms"))
                await self._put(f"doomed{number}x", Job(every, repeats=TICKS))
                await asyncio.sleep(1.0)
                await self._done("delete", key_of(doomed))
                self.old[key_of(doomed).text] = (self.world.now, b"nothing")
            if number % 6 == 3:
                twice = f"plain{number}"
                await self._done("schedule", key_of(twice), Job("@every 100ms"), refused=True)
                await self._put(twice, Job(every, repeats=TICKS, payload=b"new"))
                self.old[key_of(twice).text] = (self.world.now, b"new")
            if number % 6 == 4:
                until = EPOCH + self.world.now + 5
                self.expires[key_of(f"brief{number}").text] = until
                await self._put(f"brief{number}", Job("@every 700ms", ttl=rfc3339(until)))
            await asyncio.sleep(chance.uniform(0, 5))

    async def _put(self, name: str, job: Job) -> None:
        if await self._done("schedule", key_of(name), job, overwrite=True) == 1:
            self.once.add((key_of(name).text, job.payload or b""))

    async def _done(self, act: str, *arguments: Any, refused: bool = False, **named: Any) -> int:
        """Ask one scheduler after the other until one has done it, or with `refused` said that it may not be done.
        Return how many were asked."""
        tries = 0
        while True:
            engine = self.chance.choice([self.engines[name] for name in sorted(self.engines)])
            host = self.world.hosts[engine.member.id]
            # A call of a client in the same world: it runs on the scheduler's host, and may be cut off with it.
            if host.alive and not host.paused:
                done = asyncio.get_running_loop().create_future()
                tries += 1
                host.start(_call(getattr(engine, act), arguments, named, done))
                try:
                    async with asyncio.timeout(5.0):
                        heard = await done
                        expected: object = JobExists if refused else None
                        if heard is expected:
                            return tries
                        until = self.expires.get(getattr(arguments[0], "text", ""), math.inf) - EPOCH
                        if heard is JobInvalid and self.world.now > until - LATE_TTL_S:  # asked for too late
                            return tries
                except TimeoutError:
                    pass
            await asyncio.sleep(0.2)

    # -- the end

    def finish(self) -> None:
        """Judge what was fired when nothing is left."""
        for number in range(JOBS):
            self._all(f"plain{number}", TICKS, b"new" if number % 6 == 3 else b"")
            if number % 6 == 1:
                ticks = self._all(f"failing{number}", 2)
                for tick in sorted(ticks)[-2:]:  # those before were of a put that was repeated, and replaced
                    if ticks[tick] < RETRIES + 1:
                        self.wrong.append(f"failing{number}: {ticks[tick]} tries of {tick}")
            if number % 6 == 2:
                self._all(f"doomed{number}x", TICKS)
        self.check()

    def _all(self, name: str, count: int, payload: bytes = b"") -> dict[float, int]:
        """Judge the ticks of one job, and return them."""
        job = (key_of(name).text, payload)
        ticks = self.fired[job]
        if len(ticks) < count or (len(ticks) > count and job in self.once):
            self.wrong.append(f"{name}: {len(ticks)} ticks of {count}: {sorted(ticks)}")
        return ticks


def key_of(name: str) -> JobKey:
    return JobKey("ns", name, app_id="a")


async def _call(act: Any, arguments: Any, named: Any, done: asyncio.Future[type[ComponentError] | None]) -> None:
    result: type[ComponentError] | None = None
    try:
        await act(*arguments, **named)
    except ComponentError as error:
        result = type(error)
    done.get_loop().call_soon(_settle, done, result)


def _settle(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():
        done.set_result(result)


def story(seed: int) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    ticking = Ticking(seed)
    world, chance = ticking.world, ticking.chance
    hosts = {name: ticking.start(name) for name in ("one", "two", "three")}
    world.run(lambda: len(ticking.engines) == 3, seconds=60)
    client = world.host("client")
    putting = client.start(ticking.client(client))
    for _ in range(4):
        name = chance.choice(sorted(hosts))
        world.run_for(chance.uniform(3, 12))
        if chance.random() < 0.5:
            hosts[name].kill()
            del ticking.engines[name]
            world.run_for(chance.uniform(0, 20))
            hosts[name] = ticking.start(name)
        else:
            hosts[name].pause()
            world.run_for(chance.uniform(1, 25))
            hosts[name].resume()
    ticking.disk.failing = 0.0
    ticking.peace = True
    world.run(lambda: putting.done() and not ticking.jobs.rows, seconds=600, events=4_000_000)
    ticking.finish()
    return world.events
