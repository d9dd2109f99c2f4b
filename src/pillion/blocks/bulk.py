"""From the broker to the application: many messages at once (spec `http-api.md` 5.4 and 6, `grpc-api.md` 7).

Brokers that hand over many messages call `handle_many`; for all others `handle` collects: a message waits until
`max_messages` have come or `max_wait_s` has passed since the first of them. Every message gets its own answer. Knows:
grouping by path, partial failure, what a retry sends again. Never knows: brokers or protocols.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from pillion.blocks.delivery import Carrier, Fate
from pillion.errors import ComponentError
from pillion.kinds.pubsub import Rejected, Withheld
from pillion.kinds.topics import BulkItem, Unprocessed, Verdict
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from pillion.blocks.broker import Broker, Identifiers, Meter
    from pillion.blocks.delivery import Plan
    from pillion.clock import Clock
    from pillion.kinds.pubsub import Delivery
    from pillion.kinds.topics import Bulk, DeliverBulk

log = logging.getLogger("pillion.blocks.bulk")
Answer = BaseException | None
"""None acknowledges; `Rejected` and `Withheld` are raised to the broker."""
_Waiting = tuple["Delivery", "asyncio.Future[Answer]"]


class BulkCourier(Carrier):
    """Carries the messages of one subscription in bulks."""

    def __init__(
        self,
        broker: Broker,
        plan: Plan,
        deliver: DeliverBulk,
        bulk: Bulk,
        *,
        clock: Clock,
        new_id: Identifiers,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(broker, plan, clock=clock, new_id=new_id, meter=meter)
        self._deliver = deliver
        self._bulk = bulk
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Tasks(f"bulks of {plan.subscription}")
        self.slots: asyncio.Semaphore | None = None
        """How many bulks may be with the application at the same time; None: any number."""

    def begin_close(self) -> None:
        """Withhold what is waiting; bulks on their way go on."""
        super().begin_close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, answer in self._waiting:
            if not answer.done():
                answer.set_result(Withheld())
        self._waiting = []

    async def handle(self, delivery: Delivery) -> None:
        """Carry one message together with others; the broker's handler for brokers that deliver singly."""
        if self.closing():
            raise Withheld
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((delivery, answer))
        if len(self._waiting) >= self._bulk.max_messages:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._bulk.max_wait_s, self._flush)
        error = await answer
        if error is not None:
            raise error

    async def handle_many(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        """Carry what the broker hands over as one bulk; tells for each message whether it is acknowledged."""
        if self.closing():
            raise Withheld
        answers = await self._carry(deliveries)
        if self.closing() and all(answers):
            raise Withheld
        return [answer is None for answer in answers]

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = [pair for pair in self._waiting if not pair[1].done()]
        self._waiting = []
        if batch:
            self._tasks.start(self._answer(batch), "bulk")

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        answers: Sequence[Answer] = [Withheld()] * len(batch)
        try:
            answers = await self._carry([delivery for delivery, _ in batch])
        except Exception as error:
            answers = [Rejected(str(error))] * len(batch)
            raise
        finally:
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)

    async def _carry(self, deliveries: Sequence[Delivery]) -> list[Answer]:
        if self.slots is None:
            return await self._carry_now(deliveries)
        async with self.slots:
            if self.closing():
                return [Withheld() for _ in deliveries]
            return await self._carry_now(deliveries)

    async def _carry_now(self, deliveries: Sequence[Delivery]) -> list[Answer]:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        started = self._clock.monotonic()
        tally: Counter[str] = Counter()
        answers: list[Answer] = [None] * len(deliveries)
        groups: dict[str, list[_Entry]] = {}
        try:
            for position, delivery in enumerate(deliveries):
                fate, event, what = self.decide(delivery)
                if fate is Fate.DELIVER and event is not None:
                    entry = _Entry(position, delivery, BulkItem(self._new_id(), event))
                    groups.setdefault(what, []).append(entry)
                else:
                    answers[position] = await self._settle(self.undeliverable(delivery, fate, what), tally)
            for path, entries in groups.items():
                await self._send(path, entries, answers, tally)
        finally:
            self._running.discard(task)
            if self._meter is not None:
                topic, elapsed_ms = self.plan.subscription.topic, (self._clock.monotonic() - started) * 1000
                self._meter.ingress_bulk(self.broker.name, topic, tally, elapsed_ms)
        return answers

    async def _send(self, path: str, entries: list[_Entry], answers: list[Answer], tally: Counter[str]) -> None:
        """Send the entries of one path; every retry of the policy sends only those that failed."""
        left = entries
        dropped: list[_Entry] = []

        async def attempt() -> None:
            nonlocal left
            if not left:  # a duplicate of what was processed
                return
            said = await self._deliver([entry.item for entry in left], path, self._new_id())
            dropped.extend(entry for entry in left if said.get(entry.item.entry_id) is Verdict.DROP)
            sent, left = len(left), [entry for entry in left if said.get(entry.item.entry_id) is None]
            if left:
                raise Unprocessed(f"the application did not process {len(left)} of {sent} events")

        failure: Exception | None = None
        try:
            inbound = self.broker.inbound
            await (attempt() if inbound is None else self.guided(inbound, attempt))
        except (Unprocessed, ComponentError, TimeoutError) as error:
            failure = error
        for entry in dropped:
            answers[entry.position] = await self._settle(self.dropped(entry.delivery), tally)
        for entry in left if failure is not None else ():
            answers[entry.position] = await self._settle(
                self.refused(entry.delivery, failure or Unprocessed("")), tally
            )
        if processed := len(entries) - len(dropped) - (len(left) if failure is not None else 0):
            tally["success"] += processed

    async def _settle(self, ending: Coroutine[Any, Any, str], tally: Counter[str]) -> Answer:
        status = "retry"
        try:
            status = await ending
        except Rejected as error:
            return Withheld() if self.closing() else error
        except Withheld as error:
            return error
        finally:
            tally[status] += 1
        return None


class _Entry:
    """One message of a bulk: its place in the bulk, what the broker gave, what the application gets."""

    __slots__ = ("delivery", "item", "position")

    def __init__(self, position: int, delivery: Delivery, item: BulkItem) -> None:
        self.position = position
        self.delivery = delivery
        self.item = item
