"""`pubsub.redis`: topics as Redis streams, on the wire as the reference has them (spec `components.md` 3).

Stream = topic, group = consumer = `consumerID`, fields `data` and `metadata`. Knows: settings, and how a message is
published. Reading is `redis_reading`'s, connections are `redis_client`'s.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from pillion.components.redis_client import RedisClient
from pillion.components.redis_link import pack
from pillion.components.redis_reading import Subscription
from pillion.components.redis_settings import RedisSettings
from pillion.kinds.component import milliseconds, setting
from pillion.kinds.pacing import Pacing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.components.redis_link import Part
    from pillion.kinds.component import Context
    from pillion.kinds.pubsub import BulkEntry, Delivery, Feature, Publish

log = logging.getLogger("pillion.components.redis_streams")

_NO_DATA = b"$0\r\n\r\n"
"""How the empty last word of a packed command looks."""


class RedisPubSub:
    """One component: one shared connection for publishing and acknowledging, one for each subscription's reads."""

    features: frozenset[Feature] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Settings(RedisSettings):
        consumer_id: str = setting("", key="consumerID", help="the consumer group; by default the app id")
        processing_timeout: float = setting(
            60.0,
            parse=milliseconds,
            help="how long a handler may take, and how long a message stays with a member; 0: no redelivery",
        )
        redeliver_interval: float = setting(
            15.0, parse=milliseconds, help="the pause between two looks for messages to redeliver; 0: no redelivery"
        )
        queue_depth: int = setting(100, help="messages that a subscription holds at most")
        concurrency: int = setting(10, help="messages of one subscription in their handlers at the same time")
        max_len_approx: int = setting(0, help="about how many messages a stream keeps; 0: all")
        stream_ttl: float = setting(
            0.0, key="streamTTL", parse=milliseconds, help="about how long a stream keeps messages; 0: for ever"
        )

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._name = context.name
        self._group = settings.consumer_id or context.app_id or context.name
        self._client = RedisClient(settings, where=f"component {context.name}")
        self._subscriptions: set[Subscription] = set()
        self._trim = _trim(settings)

    @property
    def patience_s(self) -> float:
        return self._settings.processing_timeout

    async def open(self) -> None:
        await self._client.open()

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        await self._client.close()

    async def publish(self, message: Publish) -> None:
        """Append to the stream. Publishes of one loop turn leave in one write."""
        topic = message.topic
        await self._client.link_for(topic).send(self._packed(topic, message.data, message.metadata))

    def submit(self, topic: str, entries: Sequence[BulkEntry]) -> list[asyncio.Future[None]]:
        """Append to the stream; each future is done when the server said so."""
        head = pack((b"XADD", topic, *self._trim(), b"*", b"data", b"")).removesuffix(_NO_DATA)
        packed = [
            self._packed(topic, entry.data, entry.metadata)
            if entry.metadata
            else b"%b$%d\r\n%b\r\n" % (head, len(entry.data), entry.data)
            for entry in entries
        ]
        return self._client.link_for(topic).send_all(packed)

    def _packed(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> bytes:
        parts: tuple[Part, ...] = (b"XADD", topic, *self._trim(), b"*", b"data", data)
        if metadata:
            plain = metadata if isinstance(metadata, dict) else dict(metadata)
            parts += (b"metadata", orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))
        return pack(parts)

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> Subscription:
        subscription = Subscription(
            self._client,
            self._settings,
            topic,
            self._group,
            handler,
            self._subscriptions.discard,
            pacing=Pacing.of(metadata),
        )
        await subscription.start()
        self._subscriptions.add(subscription)
        return subscription

    def __repr__(self) -> str:
        return f"<RedisPubSub {self._name}, group {self._group}: {self._client!r}>"


def _trim(settings: RedisPubSub.Settings) -> Callable[[], tuple[Part, ...]]:
    """Return what gives the trimming arguments of XADD (redis.io/docs/latest/commands/xadd)."""
    if settings.max_len_approx > 0:
        fixed = (b"MAXLEN", b"~", settings.max_len_approx)
        return lambda: fixed
    if settings.stream_ttl > 0:
        return lambda: (b"MINID", b"~", f"{int((time.time() - settings.stream_ttl) * 1000)}-1")
    return tuple
