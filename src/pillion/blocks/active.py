"""One running subscription: the broker's end, the application's end, and how both let go.

Knows: the order of an end - take no more, let what is on its way arrive, then cut short. Never knows: why it ends.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.blocks.broker import Identifiers
from pillion.blocks.bulk import BulkCourier
from pillion.blocks.delivery import Courier, Plan
from pillion.blocks.pacing import paced
from pillion.clock import SystemClock
from pillion.errors import ComponentError
from pillion.kinds.pubsub import BulkSubscribePubSub, Impatient

if TYPE_CHECKING:
    from pillion.blocks.broker import Broker, Meter
    from pillion.clock import Clock
    from pillion.kinds.pubsub import Subscription
    from pillion.kinds.topics import Deliver, TopicsOfApp, TopicSubscription

log = logging.getLogger("pillion.blocks.subscriptions")
GRACE_S = 30.0
"""How long messages on their way may take when a subscription ends."""
LAST_WORD_S = 5.0
"""How long a broker may take to end a subscription after everything on its way was cut short."""
_new_id = Identifiers()


class Active:
    """A subscription on a broker, from `open` to `close`. Raises ValueError for metadata that cannot be read."""

    def __init__(self, broker: Broker, subscription: TopicSubscription, carrier: Courier | BulkCourier) -> None:
        pacing, component = subscription.pacing, broker.component
        bulks = isinstance(carrier, BulkCourier)
        if isinstance(carrier, BulkCourier) and pacing.slots:
            carrier.slots = asyncio.Semaphore(pacing.slots)
        patience_s = component.patience_s if isinstance(component, Impatient) else 0.0
        self._paced = paced(carrier.handle, pacing, bulks=bulks, patience_s=patience_s)
        self.broker = broker
        self.subscription = subscription
        self.carrier = carrier
        self._handle: Subscription | None = None
        self._closed = False

    async def open(self) -> None:
        """Subscribe; raises `ComponentError`."""
        component, carrier, wanted = self.broker.component, self.carrier, self.subscription
        topic = self.broker.prefix + wanted.topic
        if self._paced is not None:
            handle = await component.subscribe(topic, wanted.metadata, self._paced.handle)
        elif isinstance(carrier, BulkCourier) and wanted.bulk and isinstance(component, BulkSubscribePubSub):
            handle = await component.bulk_subscribe(
                topic,
                wanted.metadata,
                carrier.handle_many,
                max_messages=wanted.bulk.max_messages,
                max_wait_s=wanted.bulk.max_wait_s,
            )
        else:
            handle = await component.subscribe(topic, wanted.metadata, carrier.handle)
        self._handle = handle
        if self._closed:
            await self._end(handle, 0.0)

    async def close(self, grace_s: float = GRACE_S) -> None:
        """Take no further messages, wait up to `grace_s` for those on their way, then leave them to the broker."""
        self._closed = True
        self.carrier.begin_close()
        if self._paced is not None:
            self._paced.begin_close()
        handle, self._handle = self._handle, None
        if handle is not None:
            await self._end(handle, grace_s)

    async def _end(self, handle: Subscription, grace_s: float) -> None:
        try:
            await handle.pause()
        except ComponentError as error:
            log.warning("%s could not be paused: %s", self.subscription, error)
        ending = asyncio.ensure_future(handle.close())
        try:
            await asyncio.wait([ending], timeout=grace_s)
            if not ending.done():
                if busy := self.carrier.busy:
                    log.warning("%s ends with %d handlers at work; the broker keeps theirs", self.subscription, busy)
                self.carrier.abandon()
                await asyncio.wait([ending], timeout=LAST_WORD_S)
        finally:
            if not ending.done():
                self.carrier.abandon()
                ending.cancel()
            elif not ending.cancelled() and (problem := ending.exception()) is not None:
                log.warning("%s ended with an error: %s", self.subscription, problem)

    def __repr__(self) -> str:
        return f"<Active {self.carrier!r}>"


def activate(
    broker: Broker,
    subscription: TopicSubscription,
    app: TopicsOfApp,
    *,
    clock: Clock | None = None,
    meter: Meter | None = None,
) -> Active:
    """Join a broker and an application. Raises ValueError when the metadata of the subscription cannot be read."""
    plan = Plan(subscription, prefix=broker.prefix, needs_fields=app.needs_fields)
    clock = clock or SystemClock()
    carrier: Courier | BulkCourier
    if subscription.bulk is None:
        carrier = Courier(broker, plan, app.delivery(subscription), clock=clock, new_id=_new_id, meter=meter)
    else:
        deliver = app.bulk_delivery(subscription)
        carrier = BulkCourier(broker, plan, deliver, subscription.bulk, clock=clock, new_id=_new_id, meter=meter)
    return Active(broker, subscription, carrier)


def activate_single(
    broker: Broker, subscription: TopicSubscription, deliver: Deliver, *, clock: Clock | None, meter: Meter | None
) -> Active:
    """Join a broker and any receiver of single events that needs every attribute."""
    plan = Plan(subscription, prefix=broker.prefix, needs_fields=True)
    return Active(
        broker, subscription, Courier(broker, plan, deliver, clock=clock or SystemClock(), new_id=_new_id, meter=meter)
    )
