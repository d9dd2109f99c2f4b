"""A scheduler in this process: the driver of jobs over their storage (spec `actors-workflows-jobs.md` 2).

    engine = Engine(store, Member("scheduler-0", 1, "127.0.0.1:50006"))
    await engine.open()                                  # fires from now on what is due, and was due meanwhile
    await engine.schedule(JobKey("default", "backup", app_id="a"), Job(schedule="@daily"))
    watch = engine.watch(Interest("a", "default"), deliver)

Storage has all jobs and decides by leases who fires which. This process keeps those in memory that are due soon and
belong to its partitions; one timer of the loop waits for the earliest. A tick is fired, then written down: who is
killed in between fires it again (at least once), and nobody before its time.

Every answer is written with the revision and the epoch it was given under, many in one transaction. What was
overwritten, deleted or taken over meanwhile therefore refuses the answer, and memory is put right by reading again.

Knows: when to do what. Never knows: databases, streams, what a tick means.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from pillion.clock import Clock, SystemClock
from pillion.errors import ComponentError
from pillion.jobs import machine
from pillion.jobs.flights import Flights
from pillion.jobs.leases import Leases
from pillion.jobs.memory import Memory
from pillion.jobs.partition import partition_of
from pillion.jobs.steering import Steering
from pillion.kinds.jobs import (
    Interest,
    Job,
    JobExists,
    JobKey,
    JobStore,
    Member,
    Outcome,
    Share,
    Stored,
    Trigger,
    Watch,
)
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.jobs.consumers import Entry
    from pillion.jobs.flights import Meter

log = logging.getLogger("pillion.jobs")

LEASE_S = 10.0
"""How long partitions stay ours without renewal: the longest time that a dead scheduler's jobs wait."""
WINDOW_S = 30.0
"""How far ahead jobs are kept in memory."""
MOST_NEAR = 50_000
MOST_STAGED = 20_000
MOST_REMOVED = 2000
"""Rows that are removed in one transaction."""
TURN = 256
"""Ticks fired before other things of the loop have their turn."""


class Engine(Steering):
    """Satisfies `Scheduler` and `SchedulerAdmin`."""

    def __init__(
        self,
        store: JobStore,
        member: Member,
        *,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        meter: Meter | None = None,
        members: Callable[[tuple[Member, ...]], None] | None = None,
        lease_s: float = LEASE_S,
        window_s: float = WINDOW_S,
        most_near: int = MOST_NEAR,
        most_staged: int = MOST_STAGED,
    ) -> None:
        """`members` is called with all schedulers that are there, whenever that changes."""
        self.store = store
        self.member = member
        self.clock = clock or SystemClock()
        self.leases = Leases(store, member, self.clock, lease_s, self._shared, self._renewed)
        self._chance = chance or random.Random()
        self._tell_members = members
        self._lease_s = lease_s
        self.memory = Memory(store, self.leases, self.clock, window_s, most_near, self.arm)
        self.flights = self.memory.flights = Flights(self, self.memory.near, self.clock, meter, most_staged)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closing = False
        self._tasks = Tasks(f"scheduler {member.id}")

    async def open(self) -> None:
        """Open storage, take a share of the partitions and begin to fire. Raises `ComponentError`."""
        await self.store.open()
        self.store.changed(self._heard)
        try:
            await self.leases.renew()
        except ComponentError as error:
            log.warning("no share of the jobs yet: %s", error)
        self._tasks.keep(self.leases.keep, "leases")
        self._tasks.keep(self.memory.reading.keep, "reading")
        self._tasks.keep(self.memory.saving.keep, "saving")

    async def close(self) -> None:
        """Fire no more, write down what was answered, give the partitions up. Works after half an `open`."""
        if self._closing:
            return
        self._closing = True
        self.flights.leave()
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(self._lease_s):
                await self.memory.saving.finish()
        except (ComponentError, TimeoutError) as error:
            log.warning("answers of ticks were not written down, they will be fired again: %s", error)
        await self.flights.close()
        await self._tasks.close()
        try:
            await self.leases.leave()
        finally:
            await self.store.close()

    # -- Scheduler

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        """Register `job`; when this returns it is durable. Raises `JobInvalid`, `JobExists`, `ComponentError`."""
        stored = machine.register(key, job, self._chance.getrandbits(60), self.clock.now())
        text = key.text
        if stored is None:
            await self._never(key, overwrite=overwrite)
            return
        self.memory.begin(text)
        taken: bool | None = None
        try:
            taken = await self.store.put(partition_of(text), stored, overwrite=overwrite)
        finally:
            self.memory.end(text, stored if taken else None, certain=taken is True)
        if not taken:
            raise JobExists(f"there is a job {key.name!r} already")

    async def _never(self, key: JobKey, *, overwrite: bool) -> None:
        """Take a job of which no tick will ever be due: it has ended already."""
        if await self.store.get(key.text) is None:
            return
        if not overwrite:
            raise JobExists(f"there is a job {key.name!r} already")
        await self.delete(key)

    async def get(self, key: JobKey) -> Job | None:
        stored = await self.store.get(key.text)
        return None if stored is None else stored.job

    async def delete(self, key: JobKey) -> None:
        await self._remove([key.text])

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        await self._remove([key.text for key in keys])

    async def list_jobs(self, namespace: str, app_id: str, prefix: str = "") -> list[tuple[JobKey, Job]]:
        start = JobKey(namespace, prefix, app_id=app_id).text
        return [(row.key, row.job) async for row in self._rows(start) if row.key.app_id == app_id]

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        return [(row.key, row.job) async for row in self._reminders(namespace, actor_type, actor_id)]

    async def delete_jobs(self, namespace: str, app_id: str, prefix: str = "") -> None:
        start = JobKey(namespace, prefix, app_id=app_id).text
        await self._remove([row.key.text async for row in self._rows(start) if row.key.app_id == app_id])

    async def delete_reminders(self, namespace: str, actor_type: str, actor_id: str | None = None) -> None:
        await self._remove([row.key.text async for row in self._reminders(namespace, actor_type, actor_id)])

    async def _remove(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), MOST_REMOVED):
            some = keys[at : at + MOST_REMOVED]
            for key in some:
                self.memory.begin(key)
            certain = False
            try:
                await self.store.remove(some)
                certain = True
            finally:
                for key in some:
                    self.memory.end(key, None, certain=certain)

    def watch(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> Watch:
        """Take triggers from now on, what waits for such a consumer first.

        `deliver` may return a `Future`, also one that is done: that saves a task a trigger.
        """
        return self.flights.add(interest, deliver)

    def gates(self) -> dict[str, tuple[int, int]]:
        """How many triggers are inside each concurrency gate, and how many wait, by its key."""
        return self.flights.standing()

    def _heard(self, keys: Sequence[str]) -> None:
        """Another process has changed something."""
        if self._closing:
            return
        if keys:
            self.memory.read_again(keys)
        else:
            self.leases.look()
            self.memory.doubt_all()

    # -- firing

    def arm(self) -> None:
        """See to it that `_turn` is called when the earliest job is due, or more has to be read."""
        if self._closing or not self.leases.certain:
            return
        now = self.clock.now()
        first = self.memory.near.first()
        wait = self._lease_s if first is None else min(max(first - now, 0.0), self._lease_s)
        if self.flights.passed:
            wait = 0.0
        elif (ahead := self.memory.reading.wait_s(now)) is not None:
            wait = min(wait, ahead)
        loop = asyncio.get_running_loop()
        at = loop.time() + wait
        timer = self._timer
        if timer is not None:
            if self._timer_at <= at:  # not `timer.when()`: a time that has come makes uvloop a handle without one
                return
            timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self._turn), at

    def _turn(self) -> None:
        """Fire what is due, a bounded number at a time, while it is certain that it is ours."""
        self._timer = None
        now = self.clock.now()
        passed = self.flights.passed
        for _ in range(TURN):
            if not self.leases.hold():
                break
            if passed:
                self.flights.go_on()
                continue
            entry = self.memory.near.pop(now)
            if entry is None:
                break
            self._fire(entry, now)
        self.arm()

    def _fire(self, entry: Entry, now: float) -> None:
        self.flights.fired(entry)
        try:
            firing = machine.fire(entry.stored, now)
        except ComponentError as error:
            log.error("%s is not fired: %s", entry.key, error)
            return
        entry.fired = now
        if firing is None:
            self.memory.settle(entry, None)
        elif not firing.deliver:
            self.memory.settle(entry, firing.stored)
        else:
            entry.stored = firing.stored
            self.flights.offer(entry)

    async def _beside(self, stored: Stored, tick: float) -> Outcome:
        return await self.flights.beside(stored, tick)

    # -- what flights ask

    def conclude(self, entry: Entry, outcome: Outcome) -> None:
        """A try has ended: have its consequence written down."""
        try:
            after = machine.settle(entry.stored, outcome, entry.fired)
        except ComponentError as error:
            log.error("the answer of %s is not written down: %s", entry.key, error)
            return
        self.memory.settle(entry, after)

    def drop(self, entry: Entry) -> None:
        """Forget a job that fires no more."""
        self.memory.drop(entry)

    def read_anew(self) -> None:
        """Read all that is due soon once more, from the beginning."""
        self.memory.reading.anew()

    # -- whose partitions

    def _shared(self, old: Share, share: Share) -> None:
        """Our share has become another one."""
        kept = {one for one in old.partitions & share.partitions if old.epochs.get(one) == share.epochs.get(one)}
        if kept != old.partitions:
            self.memory.keep_only(kept)
        if kept != share.partitions:
            self.memory.reading.anew()
        if old.members != share.members:
            members = sorted(share.members, key=lambda one: one.address)
            index = next((at for at, one in enumerate(members) if one.id == self.member.id), 0)
            self.flights.share(index, max(len(members), 1))
            if self._tell_members is not None:
                self._tell_members(share.members)

    def _renewed(self) -> None:
        """Now and then: go on where it is certain again, end what has outlived its ttl, look for what was missed."""
        self.flights.look_for_expired()
        self.memory.reading.look_for_overdue()
        self.arm()

    def __repr__(self) -> str:
        return f"<Engine {self.member.id}, {len(self.leases.partitions)} partitions, {self.memory.near!r}>"
