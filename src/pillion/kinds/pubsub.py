"""Brokers: publishing and subscribing (spec `components.md` 3, `http-api.md` 4.3 and 5.4)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pillion.kinds.component import Component

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence


class Feature(StrEnum):
    """What a broker declares; the text is the capability name of `/metadata`."""

    MESSAGE_TTL = "MESSAGE_TTL"
    SUBSCRIBE_WILDCARDS = "SUBSCRIBE_WILDCARDS"
    BULK_PUBLISH = "BULK_PUBSUB"
    DELAY = "DELAY"
    """The broker itself can hold a message back until a time (`pillion.delay`)."""


@dataclass(slots=True)
class Publish:
    """One message for a topic; `data` goes to the broker byte for byte."""

    topic: str
    data: bytes
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class BulkEntry:
    """One message of a bulk publish; `entry_id` is unique within its bulk."""

    entry_id: str
    data: bytes
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Delivery:
    """One message from the broker. `metadata` is what the broker handed back, `attempt` counts from 1 where it is
    known (0: unknown).
    """

    __slots__ = ("attempt", "content_type", "data", "metadata", "topic")

    def __init__(
        self, topic: str, data: bytes, metadata: Mapping[str, str], content_type: str = "", attempt: int = 0
    ) -> None:
        self.topic = topic
        self.data = data
        self.metadata = metadata
        self.content_type = content_type
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"<Delivery on {self.topic}, {len(self.data)} bytes>"


class Rejected(Exception):
    """A handler could not process the message: the broker shall do with it what it does with a negative
    acknowledgement.
    """


class Withheld(asyncio.CancelledError):
    """A handler was cut short because its subscription is ending: nothing is known of the message, which stays the
    broker's as if this sidecar had stopped. Neither an acknowledgement nor a rejection; it counts against nobody.
    """


class Subscription(Protocol):
    """One running subscription."""

    async def pause(self) -> None:
        """Take no further messages; those in flight go on."""
        ...

    async def close(self) -> None:
        """Take no further messages, wait for the acknowledgements of those in flight, and end. What is not
        acknowledged stays the broker's. May be called twice."""
        ...


@runtime_checkable
class PubSub(Component, Protocol):
    """A broker. A returned `publish` is as durable as the broker makes it; raises `ComponentError`."""

    features: frozenset[Feature]

    async def publish(self, message: Publish) -> None: ...

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> Subscription:
        """Start delivering `topic`, reconnecting by itself for as long as it lives. Returns when the broker has the
        subscription; raises `ComponentError` when that fails at first.
        """
        ...


@runtime_checkable
class Impatient(Protocol):
    """A broker that ends handlers which take too long. In ordered subscriptions it leaves that to their owner, because
    there a message may wait for others before it is handled."""

    @property
    def patience_s(self) -> float:
        """How long a handler may take, 0 for any time."""
        ...


@runtime_checkable
class BulkPubSub(PubSub, Protocol):
    """A broker that publishes many messages in one go."""

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Publish all entries; return (entry id, error text) of those that failed."""
        ...


@runtime_checkable
class SubmittingPubSub(PubSub, Protocol):
    """A broker whose messages are on their way when `submit` returns: many of them need no task each."""

    def submit(self, topic: str, entries: Sequence[BulkEntry]) -> list[asyncio.Future[None]]:
        """Begin to publish all entries, in their order; each has a future that ends as its `publish` would."""
        ...


@runtime_checkable
class BulkSubscribePubSub(PubSub, Protocol):
    """A broker that hands over many messages at once (spec: only some brokers; elsewhere the block collects them)."""

    async def bulk_subscribe(
        self,
        topic: str,
        metadata: Mapping[str, str],
        handler: Callable[[Sequence[Delivery]], Awaitable[Sequence[bool]]],
        *,
        max_messages: int,
        max_wait_s: float,
    ) -> Subscription:
        """The handler answers, for each message, whether it is acknowledged."""
        ...
