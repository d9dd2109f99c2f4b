"""`pubsub.in-memory`: a broker inside one sidecar, for tests and single-process trials (spec `components.md` 3).

Knows: topics, prefix subscriptions, one serial queue for each subscription. Keeps nothing: a message without a
subscriber is gone, a message whose handler fails is logged and not delivered again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.component import setting
from pillion.kinds.pubsub import Delivery, Feature, Rejected
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.kinds.component import Context
    from pillion.kinds.pubsub import Publish

log = logging.getLogger("pillion.components.memory_broker")


class MemoryPubSub:
    """Topics of one process. `*` at the end of a subscribed topic stands for one or more further characters."""

    features = frozenset({Feature.SUBSCRIBE_WILDCARDS})

    @dataclass(frozen=True)
    class Settings:
        queue_depth: int = setting(
            100_000, help="messages that may wait for one subscription; a publish beyond that fails"
        )

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._tasks = Tasks(f"pubsub {context.name}")
        self._exact: dict[str, list[_Subscription]] = {}
        self._prefixes: list[tuple[str, _Subscription]] = []
        self._closed = False

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def ping(self) -> None:
        """A map in memory always answers."""

    async def close(self) -> None:
        self._closed = True
        running = [*(each for group in self._exact.values() for each in group), *(each for _, each in self._prefixes)]
        for subscription in running:
            await subscription.close()
        await self._tasks.close()

    async def publish(self, message: Publish) -> None:
        """Hand the message to every matching subscription, or to none when the queue of one is full."""
        if self._closed:
            raise ComponentError("the in-memory broker is closed")
        topic = message.topic
        receivers = list(self._exact.get(topic, ()))
        receivers += [each for prefix, each in self._prefixes if len(topic) > len(prefix) and topic.startswith(prefix)]
        for receiver in receivers:
            if len(receiver.waiting) >= self._settings.queue_depth:
                raise ComponentError(
                    f"a subscriber of topic {topic!r} is {len(receiver.waiting)} messages behind (queueDepth)"
                )
        for receiver in receivers:
            receiver.put(Delivery(topic, message.data, message.metadata, message.content_type, 1))

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> _Subscription:
        subscription = _Subscription(self, topic, handler)
        if topic.endswith("*"):
            self._prefixes.append((topic[:-1], subscription))
        else:
            self._exact.setdefault(topic, []).append(subscription)
        subscription.worker = self._tasks.start(subscription.run(), f"subscription {topic}")
        return subscription

    def forget(self, subscription: _Subscription) -> None:
        """Route nothing more to `subscription`."""
        self._prefixes = [pair for pair in self._prefixes if pair[1] is not subscription]
        if subscription in (same_topic := self._exact.get(subscription.topic, [])):
            same_topic.remove(subscription)
            if not same_topic:
                del self._exact[subscription.topic]

    def __repr__(self) -> str:
        return f"<MemoryPubSub: {len(self._exact)} topics, {len(self._prefixes)} prefixes>"


class _Subscription:
    """One handler and the messages that wait for it; it sees them one at a time, in order."""

    def __init__(self, broker: MemoryPubSub, topic: str, handler: Callable[[Delivery], Awaitable[None]]) -> None:
        self.topic = topic
        self.waiting: deque[Delivery] = deque()
        self.worker: asyncio.Task[None] | None = None
        self._broker = broker
        self._handler = handler
        self._arrived = asyncio.Event()
        self._stopping = False

    def put(self, delivery: Delivery) -> None:
        self.waiting.append(delivery)
        self._arrived.set()

    async def run(self) -> None:
        while not self._stopping:
            await self._arrived.wait()
            self._arrived.clear()
            while self.waiting and not self._stopping:
                await self._deliver(self.waiting.popleft())

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._handler(delivery)
        except Rejected as error:
            log.warning("message on topic %s was rejected and is dropped: %s", delivery.topic, error)
        except Exception:
            log.exception("handler of topic %s failed; the message is dropped", delivery.topic)

    async def pause(self) -> None:
        self._broker.forget(self)
        self._stopping = True
        self._arrived.set()
        if self.waiting:
            log.warning("subscription of topic %s ends with %d messages unread", self.topic, len(self.waiting))
            self.waiting.clear()

    async def close(self) -> None:
        await self.pause()
        if self.worker is not None and self.worker is not asyncio.current_task():
            await asyncio.wait([self.worker])

    def __repr__(self) -> str:
        return f"<subscription of {self.topic}, {len(self.waiting)} waiting>"
