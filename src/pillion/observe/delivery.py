"""Spans around messages on their way to the application (spec `runtime.md` 6.2): `pubsub/<topic>`.

Each attempt to deliver is a span of its own below the message's context, and the application gets that span's. Knows:
events. Never knows: brokers, protocols, what an answer means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.observe.spans import topic_span
from pillion.observe.tracing import SpanKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.topics import BulkItem, Deliver, DeliverBulk, Event, TopicsOfApp, TopicSubscription, Verdict
    from pillion.observe.tracing import Span, Tracer


class TracedTopics:
    """A `TopicsOfApp` whose deliveries are spans."""

    def __init__(self, topics: TopicsOfApp, tracer: Tracer) -> None:
        self._topics = topics
        self._tracer = tracer
        self.needs_fields = topics.needs_fields

    async def subscriptions(self) -> list[TopicSubscription]:
        return await self._topics.subscriptions()

    def delivery(self, subscription: TopicSubscription) -> Deliver:
        return traced_delivery(self._topics.delivery(subscription), self._tracer, subscription.topic)

    def bulk_delivery(self, subscription: TopicSubscription) -> DeliverBulk:
        return _traced_bulk(self._topics.bulk_delivery(subscription), self._tracer, subscription.topic)

    def __repr__(self) -> str:
        return f"<traced {self._topics!r}>"


def traced_delivery(deliver: Deliver, tracer: Tracer, topic: str) -> Deliver:
    """Return a delivery of single events with a span around each attempt."""

    async def traced(event: Event, path: str) -> Verdict:
        came = event.parent, event.state
        span = _begin(tracer, event)
        try:
            return await deliver(event, path)
        except BaseException as error:
            span.error = str(error) or type(error).__name__
            raise
        finally:
            event.parent, event.state = came  # the next attempt is a child of the message, not of this one
            _end(tracer, span, topic)

    return traced


def _traced_bulk(deliver: DeliverBulk, tracer: Tracer, topic: str) -> DeliverBulk:
    async def traced(items: Sequence[BulkItem], path: str, bulk_id: str) -> Mapping[str, Verdict | None]:
        came = [(item.event.parent, item.event.state) for item in items]
        begun = [_begin(tracer, item.event) for item in items]
        try:
            said = await deliver(items, path, bulk_id)
            for span, item in zip(begun, items, strict=True):
                if said.get(item.entry_id) is None:
                    span.error = "the application did not process the event"
            return said
        except BaseException as error:
            for span in begun:
                span.error = str(error) or type(error).__name__
            raise
        finally:
            for span, item, (parent, state) in zip(begun, items, came, strict=True):
                item.event.parent, item.event.state = parent, state
                _end(tracer, span, topic)

    return traced


def _begin(tracer: Tracer, event: Event) -> Span:
    span = tracer.start(SpanKind.CLIENT, event.parent, event.state)
    event.parent, event.state = span.traceparent, span.tracestate
    return span


def _end(tracer: Tracer, span: Span, topic: str) -> None:
    if span.sampled:
        span.name, span.attributes = topic_span(topic)
        tracer.end(span)
