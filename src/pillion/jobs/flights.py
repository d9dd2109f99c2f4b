"""Ticks under way: through the gates to a consumer, and back with an answer; or set aside until there is a consumer.

    offer(entry) -> gates -> a consumer of its target, in turn -> conclude(entry, outcome)
                      |          `- none: staged until one comes, or given back to storage
                      `- full: `passed` later, first come first served

A tick that nobody could take is placed again among those that are due, without costing an attempt. Knows: consumers,
gates, bounds. Never knows: rows, storage, when the next tick is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pillion.jobs import machine
from pillion.jobs.consumers import MOST_UNDER_WAY, Consumer, Entry, Rings, Staged, target_of
from pillion.jobs.gates import Entry as AtGate
from pillion.jobs.gates import Gates
from pillion.kinds.jobs import Outcome, SchedulerUnavailable, Trigger
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock
    from pillion.jobs.consumers import Target
    from pillion.jobs.near import Near
    from pillion.kinds.jobs import Interest, Stored

log = logging.getLogger("pillion.jobs")

REFUSED_S = (0.5, 15.0)
"""First and longest pause before a tick that a consumer in place has handed back is offered again."""


class Meter(Protocol):
    """What is counted of triggers. `kind` is "job" or "actor"."""

    def triggered(self, kind: str) -> None: ...

    def answered(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """`seconds` passed between the trigger and its end."""

    def throttled(self, concurrency_key: str) -> None:
        """A trigger had to wait at its gates."""


class Keeper(Protocol):
    """Who sends ticks off: the engine."""

    def conclude(self, entry: Entry, outcome: Outcome) -> None:
        """A try has ended, and was no attempt in vain."""

    def drop(self, entry: Entry) -> None:
        """Forget a job that fires no more."""

    def arm(self) -> None:
        """Something was placed, or has passed its gates."""

    def read_anew(self) -> None:
        """What was given back to storage is wanted."""


class Beside:
    """A tick that is fired beside its schedule: no job of memory, but it takes its place at the gates."""

    __slots__ = ("go",)

    def __init__(self) -> None:
        self.go: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Flights:
    """All that is under way or set aside. `passed` waits for its turn of the engine."""

    def __init__(self, keeper: Keeper, near: Near, clock: Clock, meter: Meter | None, most_staged: int) -> None:
        self.passed: deque[Entry | Beside] = deque()
        self._keeper, self._near, self._clock, self._meter = keeper, near, clock, meter
        self._staged = Staged(most_staged)
        self._rings = Rings()
        self._gates: Gates[Entry | Beside] = Gates()
        self._handed_back: dict[Entry, None] = {}
        self._beside: dict[Beside, None] = {}
        self._tasks = Tasks("triggers")

    # -- consumers

    def add(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> Consumer:
        """Take a consumer, for what waits for it first."""
        consumer = Consumer(interest, deliver, self._gone)
        self._rings.add(consumer)
        if interest.limits:
            self.passed.extend(self._gates.limit(consumer, interest.limits))
        wanted = set(consumer.targets)
        for entry in [one for one in self._handed_back if one.target in wanted]:
            self._ready(entry)
        for target in consumer.targets:
            for entry in self._staged.take(target):
                self._ready(entry)
        if not self._staged.parked.isdisjoint(wanted):
            self._staged.parked -= wanted
            self._keeper.read_anew()
        self._keeper.arm()
        return consumer

    def _gone(self, consumer: Consumer) -> None:
        if not self._rings.remove(consumer):
            return
        if consumer.interest.limits:
            self.passed.extend(self._gates.drop(consumer))
        flights, consumer.flights = consumer.flights, {}
        for entry in flights:
            task, entry.task = entry.task, None
            if task is not None:
                task.cancel()
            self._answered(entry, Outcome.UNDELIVERABLE)
        self._keeper.arm()

    def _room(self, consumer: Consumer) -> None:
        """A consumer has room for one more: offer it what has waited for that."""
        for target in consumer.targets:
            for entry in self._staged.take(target, 1):
                self._ready(entry)
                self._keeper.arm()
            more = target in self._staged.parked and not self._staged.has(target)
            if more and len(consumer.flights) < MOST_UNDER_WAY // 2:
                self._staged.parked.discard(target)
                self._keeper.read_anew()

    def parked(self, target: Target) -> bool:
        """Whether jobs of this target are left to storage until there is a consumer for them."""
        return target in self._staged.parked

    # -- the way out

    def offer(self, entry: Entry) -> None:
        """Send a tick off that is due."""
        consumer = self._rings.pick(entry.target)
        if consumer is None:
            self._stage(entry)
            return
        if self._gates:
            passage = self._gates.enter(entry, _keys(entry.stored))
            if passage is not AtGate.PASSED:
                self._throttled(entry.stored)
                if passage is AtGate.REFUSED:
                    self._keeper.conclude(entry, Outcome.FAILED)
                return
        self._deliver(entry, consumer)

    def go_on(self) -> None:
        """Go on with the first of those that have passed their gates."""
        entry = self.passed.popleft()
        if isinstance(entry, Beside):
            if not entry.go.done():
                entry.go.set_result(None)
            return
        consumer = self._rings.pick(entry.target)
        if consumer is None or not self._near.holds(entry):
            self.passed.extend(self._gates.leave(entry))
            if self._near.holds(entry):
                self._stage(entry)
            return
        entry.fired = self._clock.now()
        self._deliver(entry, consumer)

    def _stage(self, entry: Entry) -> None:
        """Keep a tick for which there is no consumer until there is one."""
        if not self._staged.add(entry):
            self._near.forget(entry)

    def _ready(self, entry: Entry) -> None:
        """Let a tick that was set aside be fired in its turn."""
        self._handed_back.pop(entry, None)
        self._near.place(entry, entry.stored.next or 0.0)

    def fired(self, entry: Entry) -> None:
        """The time of a tick has come: it is not set aside any more."""
        if self._handed_back:
            self._handed_back.pop(entry, None)

    def look_for_expired(self) -> None:
        """Let those that have outlived their ttl while nobody took them come to their end."""
        now = self._clock.now()
        for entry in self._staged:
            if entry.stored.expires is not None and entry.stored.expires + machine.GRACE_S < now:
                self._staged.remove(entry)
                self._ready(entry)

    def _deliver(self, entry: Entry, consumer: Consumer) -> None:
        stored = entry.stored
        assert stored.tick is not None
        entry.watch = consumer
        consumer.flights[entry] = None
        if self._meter is not None:
            self._meter.triggered(_kind(stored))
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

    # -- the way back

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

    def _answered(self, entry: Entry, outcome: Outcome) -> None:
        consumer, entry.watch = entry.watch, None
        if self._gates:
            self._leave(entry)
        if self._meter is not None:
            self._meter.answered(_kind(entry.stored), outcome, self._clock.now() - entry.fired)
        if not self._near.holds(entry):
            return
        if outcome is not Outcome.UNDELIVERABLE:
            entry.refusals = 0
            self._keeper.conclude(entry, outcome)
        elif entry.stored.paused:
            self._keeper.drop(entry)
        elif consumer in self._rings.consumers:
            entry.refusals += 1
            self._handed_back[entry] = None
            first, longest = REFUSED_S
            self._near.place(entry, self._clock.now() + min(first * 2 ** min(entry.refusals - 1, 10), longest))
            self._keeper.arm()
        else:
            self._ready(entry)

    def drop(self, entry: Entry) -> None:
        """Forget an entry. If it is under way its answer will find nothing."""
        self._staged.remove(entry)
        self._handed_back.pop(entry, None)
        if entry.watch is None and self._gates:
            self.passed.extend(self._gates.leave(entry))

    # -- gates, and what is fired beside schedules

    def _leave(self, ticket: Entry | Beside) -> None:
        self.passed.extend(self._gates.leave(ticket))
        if self.passed:
            self._keeper.arm()

    def share(self, index: int, count: int) -> None:
        """This scheduler is number `index` of `count`: its share of every limit follows."""
        self.passed.extend(self._gates.share(index, count))

    def standing(self) -> dict[str, tuple[int, int]]:
        """How many triggers are inside each gate, and how many wait, by its key."""
        return self._gates.standing()

    async def beside(self, stored: Stored, tick: float) -> Outcome:
        """Fire a tick beside the schedule, in its turn at the gates. Raises `SchedulerUnavailable`: nobody took it."""
        ticket = Beside()
        self._beside[ticket] = None
        try:
            passage = self._gates.enter(ticket, _keys(stored))
            if passage is not AtGate.PASSED:
                self._throttled(stored)
                if passage is AtGate.REFUSED:
                    raise SchedulerUnavailable(f"too many wait where {stored.key.text!r} would have to")
                await ticket.go
            return await self._once(Trigger(stored.key, stored.job.payload, tick, stored.job.concurrency_key))
        finally:
            del self._beside[ticket]
            self._leave(ticket)

    async def _once(self, trigger: Trigger) -> Outcome:
        consumer = self._rings.pick(target_of(trigger.key))
        outcome = Outcome.UNDELIVERABLE if consumer is None else await consumer.deliver(trigger)
        if outcome is Outcome.UNDELIVERABLE:
            raise SchedulerUnavailable(f"nobody takes {trigger.key.text!r} at present")
        return outcome

    def _throttled(self, stored: Stored) -> None:
        if self._meter is not None:
            self._meter.throttled(stored.job.concurrency_key or stored.key.actor_type)

    # -- the end

    def leave(self) -> None:
        """Close all consumers: what they have not answered is undeliverable."""
        for consumer in list(self._rings.consumers):
            consumer.close()
        for ticket in self._beside:
            if not ticket.go.done():
                ticket.go.set_exception(SchedulerUnavailable("the scheduler is closed"))

    async def close(self) -> None:
        await self._tasks.close()

    def __repr__(self) -> str:
        return (
            f"<Flights: {len(self._rings.consumers)} consumers, {self._staged.count} staged, {len(self.passed)} passed>"
        )


def _keys(stored: Stored) -> tuple[str, str]:
    """The gates of a trigger, by their keys."""
    return stored.key.actor_type, stored.job.concurrency_key


def _kind(stored: Stored) -> str:
    return "actor" if stored.key.actor_type else "job"


async def _awaited(answer: Awaitable[Outcome]) -> Outcome:
    return await answer
