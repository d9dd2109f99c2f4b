"""From the broker to the application: one message (spec `http-api.md` 5.4, `grpc-api.md` 7).

`decide` is the pure part: a message, the subscription and the time in, a fate out. `Courier` performs it: calls the
application, dead-letters, and answers the broker. Never knows: which broker, or what protocol the application speaks.
A courier that is closing withholds what it cannot finish: nothing healthy is rejected or dead-lettered because
this sidecar stops.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from pillion.blocks.broker import described
from pillion.errors import ComponentError
from pillion.kinds.message_timing import undelayed
from pillion.kinds.pubsub import Rejected, Withheld
from pillion.kinds.rules import RuleError, choose
from pillion.kinds.topics import Event, Unprocessed, Verdict
from pillion.repeats import Repeats
from pillion.resiliency.failures import Refused
from pillion.wire import trace
from pillion.wire.cloudevents import CHEAP_PARSE, NotAnEvent, binary_event, expired, parse, recognise, wrap_raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.blocks.broker import Broker, Identifiers, Meter, Policy
    from pillion.clock import Clock
    from pillion.kinds.pubsub import Delivery
    from pillion.kinds.topics import Deliver, TopicSubscription

log = logging.getLogger("pillion.blocks.delivery")
T = TypeVar("T")
DEAD_LETTER_BUDGET_S = 30.0
STOPPING = "the sidecar is stopping"
_OCTETS = "application/octet-stream"


class Fate(Enum):
    """What is to become of a message before the application has seen it."""

    DELIVER = "deliver"
    EXPIRED = "expired"
    """Dead-letter topic if there is one, else acknowledged."""
    UNWANTED = "unwanted"
    """No rule matches: as `EXPIRED`, but no warning: rules without a default are there to leave the rest out."""
    BROKEN = "broken"
    """Not an event, or a rule cannot be decided: dead-letter topic if there is one, else rejected."""


class Expired(Exception):
    """The event was to be delivered before now."""


class Plan:
    """How messages of one subscription are read. `needs_fields`: the application's protocol needs every attribute."""

    __slots__ = ("only_path", "prefix", "raw", "reads", "subscription")

    def __init__(self, subscription: TopicSubscription, *, prefix: str = "", needs_fields: bool = False) -> None:
        rules = subscription.rules
        self.subscription = subscription
        self.raw = subscription.raw
        self.prefix = prefix
        self.only_path = rules[0].path if rules and rules[0].test is None else None
        self.reads = needs_fields or self.only_path is None

    def topic_of(self, delivery: Delivery) -> str:
        return delivery.topic.removeprefix(self.prefix) if self.prefix else delivery.topic

    def event(self, delivery: Delivery, new_id: Identifiers) -> Event:
        """Read a message; raises `NotAnEvent`."""
        data, metadata = delivery.data, delivery.metadata
        content_type, topic = delivery.content_type, self.topic_of(delivery)
        payload: bytes | None = None
        fields: dict[str, Any] | None = None
        parent: object
        state: object
        if self.raw:
            payload = data
            parent, state = metadata.get("traceparent", ""), metadata.get("tracestate", "")
            data = wrap_raw(data, self.subscription.pubsub, topic, event_id=new_id(), parent=parent, state=state)
            if self.reads:
                fields = parse(data)
        elif not self.reads and len(data) > CHEAP_PARSE and (known := recognise(data)) is not None:
            parent, state = known
        else:
            if content_type.startswith(_OCTETS):
                fields = binary_event(data, metadata, content_type)
            if fields is None:
                fields = parse(data)
            else:
                payload = data
            parent, state = fields.get("traceid"), fields.get("tracestate")
        if not parent or not isinstance(parent, str) or not trace.valid_parent(parent):
            parent = state = ""
        return Event(
            data, fields, metadata, parent, state if isinstance(state, str) else "", payload, content_type, topic
        )

    def route(self, event: Event, now: float) -> str | None:
        """Return the path for an event, None when no rule wants it. Raises `Expired`, and `RuleError`."""
        fields = event.fields
        if fields is not None and "expiration" in fields and expired(fields, now):
            raise Expired
        if self.only_path is not None:
            return self.only_path
        assert fields is not None
        return choose(self.subscription.rules, fields)


def decide(plan: Plan, delivery: Delivery, now: float, new_id: Identifiers) -> tuple[Fate, Event | None, str]:
    """Return the fate of a message, its event where it is one, and its path or the reason for its fate."""
    try:
        event = plan.event(delivery, new_id)
    except NotAnEvent as error:
        return Fate.BROKEN, None, str(error)
    try:
        path = plan.route(event, now)
    except Expired:
        return Fate.EXPIRED, event, "it has expired"
    except RuleError as error:
        return Fate.BROKEN, event, str(error)
    if path is None:
        return Fate.UNWANTED, event, "it matches no rule"
    return Fate.DELIVER, event, path


class DeadLetters:
    """The last resort of one subscription: another topic, or none."""

    __slots__ = ("_broker", "_repeats", "topic")

    def __init__(self, broker: Broker, topic: str, repeats: Repeats) -> None:
        self._broker = broker
        self.topic = topic
        self._repeats = repeats

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Publish a message as it came to the dead-letter topic; raises `Rejected` when that fails too."""
        topic = self.topic
        if not self._broker.may_publish(topic):
            log.error("dead-letter topic %s is not among the topics this application may publish to", topic)
            raise Rejected(f"not allowed to publish to dead-letter topic {topic}")
        try:
            async with asyncio.timeout(DEAD_LETTER_BUDGET_S):
                await self._broker.publish(topic, delivery.data, delivery.content_type, undelayed(delivery.metadata))
        except (ComponentError, TimeoutError) as error:
            log.error("a message of topic %s could not go to dead-letter topic %s: %s", delivery.topic, topic, error)
            raise Rejected(f"dead-letter topic {topic}: {described(error)}") from error
        self._repeats.warning("a message of topic %s went to dead-letter topic %s: %s", delivery.topic, topic, reason)


class Carrier:
    """What carriers of single messages and of bulks have in common: one subscription, its end, its last resorts."""

    def __init__(
        self, broker: Broker, plan: Plan, *, clock: Clock, new_id: Identifiers, meter: Meter | None = None
    ) -> None:
        self.plan = plan
        self._repeats = Repeats(log)
        self.dead = DeadLetters(broker, plan.subscription.dead_letter, self._repeats)
        self.broker = broker
        self._closing = False
        self._clock = clock
        self._new_id = new_id
        self._meter = meter
        self._running: set[asyncio.Task[Any]] = set()
        self._resting: set[asyncio.Task[Any]] = set()
        self._woken: set[asyncio.Task[Any]] = set()

    def closing(self) -> bool:
        """Whether `begin_close` was called; a method, because the answer changes while a handler waits."""
        return self._closing

    def begin_close(self) -> None:
        """From now on new messages, and those that fail, are withheld; nobody waits for another attempt."""
        self._closing = True
        self._repeats.flush()
        for task in self._resting:
            self._woken.add(task)
            task.cancel()

    def abandon(self) -> None:
        """Cut short what is still with the application: the broker keeps it."""
        for task in self._running:
            task.cancel()

    @property
    def busy(self) -> int:
        """How many handlers are at work."""
        return len(self._running)

    async def guided(self, policy: Policy, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run `attempt` under the inbound policy, whose wait for the next attempt ends when this carrier closes."""
        task = asyncio.current_task()
        assert task is not None

        async def once() -> T:
            self._resting.discard(task)
            if self._closing:
                raise Unprocessed(STOPPING, held=True)
            try:
                return await attempt()
            except BaseException:
                self._resting.add(task)
                raise

        try:
            return await policy(once)
        except asyncio.CancelledError:
            if task not in self._woken:
                raise
            task.uncancel()
            raise Unprocessed(STOPPING, held=True) from None
        finally:
            self._resting.discard(task)
            self._woken.discard(task)

    def decide(self, delivery: Delivery) -> tuple[Fate, Event | None, str]:
        return decide(self.plan, delivery, self._clock.now(), self._new_id)

    async def undeliverable(self, delivery: Delivery, fate: Fate, reason: str) -> str:
        """A message that the application will not see."""
        if self.dead.topic:
            await self.dead.bury(delivery, reason)
        elif fate is Fate.BROKEN:
            log.error("a message of topic %s cannot be delivered and is refused: %s", delivery.topic, reason)
            raise Rejected(reason)
        elif fate is Fate.UNWANTED:
            log.debug("a message of topic %s is left out: %s", delivery.topic, reason)
        else:
            self._repeats.warning("a message of topic %s is dropped: %s", delivery.topic, reason)
        return "drop"

    async def dropped(self, delivery: Delivery) -> str:
        """The application wants to see a message no more."""
        if self.dead.topic:
            await self.dead.bury(delivery, "the application dropped it")
        else:
            self._repeats.warning("a message of topic %s was dropped by the application", delivery.topic)
        return "drop"

    async def refused(self, delivery: Delivery, error: Exception) -> str:
        """The application did not process a message, as often as the policy tried."""
        if self.closing():
            raise Withheld from error
        # What a breaker kept from the application is healthy: the broker keeps it, no dead-letter topic gets it.
        held = (isinstance(error, Unprocessed) and error.held) or (isinstance(error, Refused) and not error.attempted)
        if self.dead.topic and not held:
            await self.dead.bury(delivery, described(error))
            return "drop"
        if held:
            log.info("a message of topic %s is refused: %s", delivery.topic, error)
        else:
            self._repeats.warning("a message of topic %s is refused: %s", delivery.topic, error)
        raise Rejected(described(error)) from error

    def count(self, status: str, started: float) -> None:
        if self._meter is not None:
            elapsed_ms = (self._clock.monotonic() - started) * 1000
            self._meter.ingress(self.broker.name, self.plan.subscription.topic, status, elapsed_ms)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.plan.subscription}: {len(self._running)} on their way>"


class Courier(Carrier):
    """Carries the messages of one subscription one by one. `handle` is the broker's handler."""

    def __init__(
        self,
        broker: Broker,
        plan: Plan,
        deliver: Deliver,
        *,
        clock: Clock,
        new_id: Identifiers,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(broker, plan, clock=clock, new_id=new_id, meter=meter)
        self._deliver = deliver

    async def handle(self, delivery: Delivery) -> None:
        """Carry one message: return to acknowledge it, raise `Rejected` to refuse it, `Withheld` to leave it."""
        if self.closing():
            raise Withheld
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        started = self._clock.monotonic() if self._meter is not None else 0.0
        status = "retry"
        try:
            status = await self._carry(delivery)
        except Rejected as error:
            if self.closing():
                raise Withheld from error
            raise
        finally:
            self._running.discard(task)
            self.count(status, started)

    async def _carry(self, delivery: Delivery) -> str:
        fate, event, what = self.decide(delivery)
        if fate is not Fate.DELIVER or event is None:
            return await self.undeliverable(delivery, fate, what)
        inbound = self.broker.inbound
        try:
            if inbound is None:
                verdict = await self._deliver(event, what)
            else:
                verdict = await self.guided(inbound, lambda: self._deliver(event, what))
        except (Unprocessed, ComponentError, TimeoutError) as error:
            return await self.refused(delivery, error)
        return "success" if verdict is Verdict.DONE else await self.dropped(delivery)
