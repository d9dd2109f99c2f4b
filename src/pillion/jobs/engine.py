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
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pillion.clock import Clock, SystemClock
from pillion.errors import ComponentError
from pillion.jobs import machine
from pillion.jobs.consumers import MOST_UNDER_WAY, Consumer, Entry, Rings, Staged, target_of
from pillion.jobs.gates import Entry as AtGate
from pillion.jobs.gates import Gates
from pillion.jobs.leases import Leases
from pillion.jobs.near import LAST_KEY, NOTHING, Near
from pillion.jobs.partition import partition_of
from pillion.jobs.saving import Saving, longer
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
    from collections.abc import Awaitable, Callable, Iterable, Sequence

log = logging.getLogger("pillion.jobs")

LEASE_S = 10.0
"""How long partitions stay ours without renewal: the longest time that a dead scheduler's jobs wait."""
WINDOW_S = 30.0
"""How far ahead jobs are kept in memory."""
OVERDUE_S = 1.0
"""What is later than this should be known to us."""
MOST_NEAR = 50_000
MOST_STAGED = 20_000
PAGE = 2000
"""Rows of one read."""
TURN = 256
"""Ticks fired before other things of the loop have their turn."""
REFUSED_S = (0.5, 15.0)
"""First and longest pause before a tick that a consumer in place has handed back is offered again."""


class Meter(Protocol):
    """What is counted of triggers. `kind` is "job" or "actor"."""

    def triggered(self, kind: str) -> None: ...

    def answered(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """`seconds` passed between the trigger and its end."""

    def throttled(self, concurrency_key: str) -> None:
        """A trigger had to wait at its gates."""


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
        self._meter = meter
        self._tell_members = members
        self._lease_s, self._window_s = lease_s, window_s
        self._near = Near(most_near)
        self._staged = Staged(most_staged)
        self._rings = Rings()
        self._gates: Gates[Entry] = Gates()
        self._passed: deque[Entry] = deque()
        self._handed_back: dict[Entry, None] = {}
        self._stale: dict[str, None] = {}
        self._readers: list[dict[str, Stored | None]] = []
        self._writing: dict[str, int] = {}
        self._overlapping: set[str] = set()
        self._reading = 0
        self._overdue = False
        self._looked_to = NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closing = False
        self._tasks = Tasks(f"scheduler {member.id}")
        self._load = asyncio.Event()
        self.saving = Saving(store, self._writable, self._saved, self._arm)

    async def open(self) -> None:
        """Open storage, take a share of the partitions and begin to fire. Raises `ComponentError`."""
        await self.store.open()
        self.store.changed(self._heard)
        try:
            await self.leases.renew()
        except ComponentError as error:
            log.warning("no share of the jobs yet: %s", error)
        self._tasks.start(self.leases.keep(), "leases")
        self._tasks.start(self._loading(), "loading")
        self._tasks.start(self.saving.keep(), "saving")

    async def close(self) -> None:
        """Fire no more, write down what was answered, give the partitions up. Works after half an `open`."""
        if self._closing:
            return
        self._closing = True
        for consumer in list(self._rings.consumers):
            consumer.close()
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(self._lease_s):
                await self.saving.finish()
        except (ComponentError, TimeoutError) as error:
            log.warning("answers of ticks were not written down, they will be fired again: %s", error)
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
        self._begin(text)
        taken: bool | None = None
        try:
            taken = await self.store.put(partition_of(text), stored, overwrite=overwrite)
        finally:
            self._end(text, stored if taken else None, certain=taken is True)
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

    def watch(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> Watch:
        """Take triggers from now on, what waits for such a consumer first.

        `deliver` may return a `Future`, also one that is done: that saves a task a trigger.
        """
        consumer = Consumer(interest, deliver, self._gone)
        self._rings.add(consumer)
        if interest.limits:
            self._passed.extend(self._gates.limit(consumer, interest.limits))
        wanted = set(consumer.targets)
        for entry in [one for one in self._handed_back if one.target in wanted]:
            self._ready(entry)
        for target in consumer.targets:
            for entry in self._staged.take(target):
                self._ready(entry)
        if not self._staged.parked.isdisjoint(wanted):
            self._staged.parked -= wanted
            self._read_anew()
        self._arm()
        return consumer

    def _gone(self, consumer: Consumer) -> None:
        if not self._rings.remove(consumer):
            return
        if consumer.interest.limits:
            self._passed.extend(self._gates.drop(consumer))
        flights, consumer.flights = consumer.flights, {}
        for entry in flights:
            task, entry.task = entry.task, None
            if task is not None:
                task.cancel()
            self._answered(entry, Outcome.UNDELIVERABLE)
        self._arm()

    def gates(self) -> dict[str, tuple[int, int]]:
        """How many triggers are inside each concurrency gate, and how many wait, by its key."""
        return self._gates.standing()

    # -- what changes rows; memory follows what is durable

    def _begin(self, key: str) -> None:
        self._writing[key] = self._writing.get(key, 0) + 1

    def _end(self, key: str, stored: Stored | None, *, certain: bool) -> None:
        """A write of our own has come back. What it left is only certain when no other write was under way."""
        under_way = self._writing[key] - 1
        if under_way:
            self._writing[key] = under_way
            self._overlapping.add(key)
            certain = False
        else:
            del self._writing[key]
            if self._overlapping and key in self._overlapping:
                self._overlapping.remove(key)
                certain = False
        if certain:
            self._written(key, stored)
        elif not under_way:
            self._read_again((key,))

    def _written(self, key: str, stored: Stored | None) -> None:
        """The row of `key` is now `stored`."""
        for reader in self._readers:
            reader[key] = stored
        old = self._near.get(key)
        if old is not None:
            if stored is not None and old.stored.revision == stored.revision:
                return
            self._drop(old)
        if stored is not None and self._near.within_reach(stored, key):
            self._admit(key, stored)
            self._arm()

    async def _remove(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), PAGE):
            some = keys[at : at + PAGE]
            for key in some:
                self._begin(key)
            certain = False
            try:
                await self.store.remove(some)
                certain = True
            finally:
                for key in some:
                    self._end(key, None, certain=certain)

    def _admit(self, key: str, stored: Stored) -> None:
        """Take a job that is due soon into memory, if it is ours."""
        partition = partition_of(key)
        if partition not in self.leases.partitions or stored.next is None:
            return
        entry = Entry(key, partition, stored)
        self._near.add(entry)
        self._near.place(entry, stored.next)
        if len(self._near) > self._near.most * 5 // 4:
            self._reading += 1
            for one in self._near.shrink(self._near.most // 4):
                self._drop(one)

    def _drop(self, entry: Entry) -> None:
        """Forget a job. If it is under way its answer will find nothing."""
        self._near.forget(entry)
        self._staged.remove(entry)
        self._handed_back.pop(entry, None)
        if entry.watch is None and self._gates:
            self._passed.extend(self._gates.leave(entry))

    # -- firing

    def _arm(self) -> None:
        """See to it that `_turn` is called when the earliest job is due, or more has to be read."""
        if self._closing or not self.leases.certain:
            return
        now = self.clock.now()
        first = self._near.first()
        wait = self._lease_s if first is None else min(max(first - now, 0.0), self._lease_s)
        if self._passed:
            wait = 0.0
        elif self.leases.partitions and self._near.room:
            ahead = self._near.reach[0] - self._window_s / 2 - now
            if ahead <= 0:
                self._load.set()
            else:
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
        for _ in range(TURN):
            if not self.leases.hold():
                break
            if self._passed:
                self._through_gates(self._passed.popleft())
                continue
            entry = self._near.pop(now)
            if entry is None:
                break
            self._fire(entry, now)
        self._arm()

    def _fire(self, entry: Entry, now: float) -> None:
        if self._handed_back:
            self._handed_back.pop(entry, None)
        try:
            firing = machine.fire(entry.stored, now)
        except ComponentError as error:
            log.error("%s is not fired: %s", entry.key, error)
            return
        entry.fired = now
        if firing is None:
            self._settle(entry, None)
        elif not firing.deliver:
            self._settle(entry, firing.stored)
        else:
            entry.stored = firing.stored
            self._offer(entry)

    def _offer(self, entry: Entry) -> None:
        consumer = self._rings.pick(entry.target)
        if consumer is None:
            self._stage(entry)
            return
        if self._gates:
            passage = self._gates.enter(entry, (entry.stored.key.actor_type, entry.stored.job.concurrency_key))
            if passage is not AtGate.PASSED:
                if self._meter is not None:
                    self._meter.throttled(entry.stored.job.concurrency_key or entry.stored.key.actor_type)
                if passage is AtGate.REFUSED:
                    self._conclude(entry, Outcome.FAILED)
                return
        self._deliver(entry, consumer)

    def _through_gates(self, entry: Entry) -> None:
        """Go on with a trigger that has waited at a gate and is inside now."""
        consumer = self._rings.pick(entry.target)
        if consumer is None or not self._near.holds(entry):
            self._passed.extend(self._gates.leave(entry))
            if self._near.holds(entry):
                self._stage(entry)
            return
        entry.fired = self.clock.now()
        self._deliver(entry, consumer)

    def _stage(self, entry: Entry) -> None:
        """Keep a tick for which there is no consumer until there is one."""
        if not self._staged.add(entry):
            self._near.forget(entry)

    def _ready(self, entry: Entry) -> None:
        """Let a tick that was set aside be fired in its turn."""
        self._handed_back.pop(entry, None)
        self._near.place(entry, entry.stored.next or 0.0)

    def _deliver(self, entry: Entry, consumer: Consumer) -> None:
        stored = entry.stored
        assert stored.tick is not None
        entry.watch = consumer
        consumer.flights[entry] = None
        if self._meter is not None:
            self._meter.triggered("actor" if stored.key.actor_type else "job")
        trigger = Trigger(stored.key, stored.job.payload, stored.tick, stored.job.concurrency_key)
        try:
            answer = consumer.deliver(trigger)
        except Exception:
            log.exception("a consumer of %s failed", entry.key)
            del consumer.flights[entry]
            self._answered(entry, Outcome.FAILED)
            return
        if not isinstance(answer, asyncio.Future):
            answer = entry.task = self._tasks.start(
                answer if asyncio.iscoroutine(answer) else _awaited(answer), "trigger"
            )
        elif answer.done():
            self._done(entry, consumer, answer)
            return
        answer.add_done_callback(partial(self._done, entry, consumer))

    def _done(self, entry: Entry, consumer: Consumer, answer: asyncio.Future[Outcome]) -> None:
        failed = None if answer.cancelled() else answer.exception()
        if entry not in consumer.flights:
            return  # the consumer had gone: the tick is undeliverable already
        del consumer.flights[entry]
        entry.task = None
        if failed is not None:
            log.error("a consumer of %s failed", entry.key, exc_info=failed)
        outcome = Outcome.UNDELIVERABLE if answer.cancelled() else Outcome.FAILED if failed else answer.result()
        self._answered(entry, outcome)
        if self._staged.count or self._staged.parked:
            self._room(consumer)

    def _room(self, consumer: Consumer) -> None:
        """A consumer has room for one more: offer it what has waited for that."""
        for target in consumer.targets:
            for entry in self._staged.take(target, 1):
                self._ready(entry)
                self._arm()
            more = target in self._staged.parked and not self._staged.has(target)
            if more and len(consumer.flights) < MOST_UNDER_WAY // 2:
                self._staged.parked.discard(target)
                self._read_anew()

    def _answered(self, entry: Entry, outcome: Outcome) -> None:
        consumer, entry.watch = entry.watch, None
        if self._gates:
            self._passed.extend(self._gates.leave(entry))
            if self._passed:
                self._arm()
        if self._meter is not None:
            kind = "actor" if entry.stored.key.actor_type else "job"
            self._meter.answered(kind, outcome, self.clock.now() - entry.fired)
        if not self._near.holds(entry):
            return
        if outcome is not Outcome.UNDELIVERABLE:
            self._conclude(entry, outcome)
        elif consumer in self._rings.consumers:
            entry.refusals += 1
            self._handed_back[entry] = None
            first, longest = REFUSED_S
            self._near.place(entry, self.clock.now() + min(first * 2 ** min(entry.refusals - 1, 10), longest))
            self._arm()
        else:
            self._ready(entry)

    def _conclude(self, entry: Entry, outcome: Outcome) -> None:
        """A try has ended: have its consequence written down."""
        entry.refusals = 0
        try:
            after = machine.settle(entry.stored, outcome, entry.fired)
        except ComponentError as error:
            log.error("the answer of %s is not written down: %s", entry.key, error)
            return
        self._settle(entry, after)

    # -- writing down what became of ticks

    def _settle(self, entry: Entry, after: Stored | None) -> None:
        entry.settling, entry.saved = True, after
        self.saving.add(entry)

    def _writable(self, entry: Entry) -> int | None:
        """Return the epoch to write an entry under; None when its job was overwritten or taken over."""
        return self.leases.epochs.get(entry.partition) if self._near.holds(entry) else None

    def _saved(self, entry: Entry, done: bool) -> None:
        after, entry.saved, entry.settling = entry.saved, None, False
        if done:
            for reader in self._readers:
                reader[entry.key] = after
        if not self._near.holds(entry):
            return
        if not done:  # it was overwritten, deleted or taken over
            self._drop(entry)
            self._read_again((entry.key,))
        elif after is None or after.next is None or not self._near.within_reach(after, entry.key):
            self._near.forget(entry)
        else:
            entry.stored = after
            self._near.place(entry, after.next)

    # -- reading what is due soon

    def _read_anew(self) -> None:
        """Read all that is due soon once more, from the beginning."""
        self._near.reach = NOTHING
        self._reading += 1
        self._load.set()

    def _read_again(self, keys: Iterable[str]) -> None:
        """Read these rows once more: memory does not know what they are now."""
        for key in keys:
            if partition_of(key) not in self.leases.partitions:
                continue
            entry = self._near.get(key)
            if entry is not None and not entry.settling and entry.watch is None:
                self._drop(entry)
            self._stale[key] = None
        if len(self._stale) > self._near.most:
            self._stale.clear()
            self._doubt_all()
        if self._stale:
            self._load.set()

    def _doubt_all(self) -> None:
        """Trust nothing that is in memory; what is under way is checked when it is written down."""
        for entry in self._near:
            if not entry.settling and entry.watch is None:
                self._drop(entry)
        self._read_anew()

    async def _loading(self) -> None:
        pause = 0.0
        while True:
            await self._load.wait()
            self._load.clear()
            try:
                while self._stale:
                    await self._reread()
                if self._overdue:
                    await self._look_for_overdue()
                while await self._read_page():  # noqa: ASYNC110 - others have their turn between two pages
                    await asyncio.sleep(0)
                pause = 0.0
            except ComponentError as error:
                pause = longer(pause)
                log.warning("jobs cannot be read, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                self._load.set()
            self._arm()

    async def _reread(self) -> None:
        keys = list(self._stale)[:PAGE]
        with _Reader(self._readers) as written:
            rows = await asyncio.gather(*(self.store.get(key) for key in keys), return_exceptions=True)
        for key, row in zip(keys, rows, strict=True):
            if isinstance(row, ComponentError):
                raise row
            if isinstance(row, BaseException):
                raise row
            self._stale.pop(key, None)
            if key not in written:
                self._found(key, row)

    async def _read_page(self) -> bool:
        """Read on; return whether there is more to be read at once."""
        near, owned, now = self._near, self.leases.partitions, self.clock.now()
        until, limit = now + self._window_s, min(PAGE, near.room)
        if not owned or not limit or near.reach[0] > now + self._window_s / 2:
            return False
        reading = self._reading
        after = None if near.reach == NOTHING else near.reach
        with _Reader(self._readers) as written:
            rows = await self.store.due(owned, until, limit, after=after)
        if reading != self._reading or owned != self.leases.partitions:
            return True
        last = rows[-1] if len(rows) >= limit else None
        near.reach = (until, LAST_KEY) if last is None else (last.next or 0.0, last.key.text)
        for row in rows:
            key = row.key.text
            if key not in written:
                self._found(key, row)
        for key, stored in written.items():
            if stored is not None and near.get(key) is None and near.within_reach(stored, key):
                self._admit(key, stored)
        self._arm()
        return last is not None

    async def _look_for_overdue(self) -> None:
        """Look through a page of what should have been fired by now: what others put and nobody told us of is there."""
        self._overdue, owned = False, self.leases.partitions
        after = None if self._looked_to == NOTHING else self._looked_to
        with _Reader(self._readers) as written:
            rows = await self.store.due(owned, self.clock.now() - OVERDUE_S, PAGE, after=after) if owned else []
        last = rows[-1] if len(rows) == PAGE else None
        self._looked_to = NOTHING if last is None else (last.next or 0.0, last.key.text)
        for row in rows:
            key = row.key.text
            if key not in written:
                self._found(key, row)
        self._arm()

    def _found(self, key: str, row: Stored | None) -> None:
        """Storage has this row (None: none) for `key`."""
        entry = self._near.get(key)
        if entry is not None:
            if entry.settling or (row is not None and row.revision == entry.stored.revision):
                return
            self._drop(entry)
        if row is None or not self._near.within_reach(row, key):
            return
        if not self._staged.parked or target_of(row.key) not in self._staged.parked:
            self._admit(key, row)

    def _heard(self, keys: Sequence[str]) -> None:
        """Another process has changed something."""
        if self._closing:
            return
        if keys:
            self._read_again(keys)
        else:
            self.leases.look()
            self._doubt_all()

    # -- whose partitions

    def _shared(self, old: Share, share: Share) -> None:
        """Our share has become another one."""
        kept = {one for one in old.partitions & share.partitions if old.epochs.get(one) == share.epochs.get(one)}
        if kept != old.partitions:
            for entry in self._near:
                if entry.partition not in kept:
                    self._drop(entry)
        if kept != share.partitions:
            self._read_anew()
        if old.members != share.members:
            members = sorted(share.members, key=lambda one: one.address)
            index = next((at for at, one in enumerate(members) if one.id == self.member.id), 0)
            self._passed.extend(self._gates.share(index, max(len(members), 1)))
            if self._tell_members is not None:
                self._tell_members(share.members)

    def _renewed(self) -> None:
        """Now and then: go on where it is certain again, end what has outlived its ttl, look for what was missed."""
        now = self.clock.now()
        for entry in self._staged:
            if entry.stored.expires is not None and entry.stored.expires + machine.GRACE_S < now:
                self._staged.remove(entry)
                self._ready(entry)
        self._overdue = True
        self._load.set()
        self._arm()

    def __repr__(self) -> str:
        return f"<Engine {self.member.id}, {len(self.leases.partitions)} partitions, {self._near!r}>"


async def _awaited(answer: Awaitable[Outcome]) -> Outcome:
    return await answer


class _Reader:
    """Notes what is written while something is read: the reader may have seen the rows before."""

    def __init__(self, readers: list[dict[str, Stored | None]]) -> None:
        self._readers = readers
        self._written: dict[str, Stored | None] = {}

    def __enter__(self) -> dict[str, Stored | None]:
        self._readers.append(self._written)
        return self._written

    def __exit__(self, *error: object) -> None:
        self._readers[:] = [one for one in self._readers if one is not self._written]
