"""`pubsub.sqlite`: a durable broker in one SQLite file, for any number of processes of one machine
(`docs/decisions/sqlite-broker.md`).

A publish returns after the commit that holds the message. Each consumer group gets every message at least once, its
members share them (`sqlite_member`). Knows: settings, publishing. The tables are `sqlite_queue`'s, waking and watching
over other processes `sqlite_hub`'s.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import orjson

from pillion.components import sqlite_hub
from pillion.components import sqlite_queue as queue
from pillion.components.sqlite_engine import Location
from pillion.components.sqlite_member import Member
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.kinds.message_timing import due_time_of, ttl_of
from pillion.kinds.pacing import Pacing
from pillion.kinds.pubsub import Delivery, Feature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.components.sqlite_hub import Hub
    from pillion.kinds.component import Context
    from pillion.kinds.pubsub import BulkEntry, Publish

log = logging.getLogger("pillion.components.sqlite_broker")


class SqlitePubSub:
    """One component; those of one file in one process share its hub."""

    features = frozenset({Feature.MESSAGE_TTL, Feature.BULK_PUBLISH, Feature.DELAY})

    @dataclass(frozen=True)
    class Settings:
        connection_string: str = setting(
            "", aliases=("url",), help="path of the file; by default messages.db in the data folder of `pillion run`"
        )
        consumer_id: str = setting("", key="consumerID", help="the consumer group; by default the app id")
        processing_timeout: float = setting(
            60.0, parse=seconds, help="how long a handler may take; then it is cancelled and its message redelivered"
        )
        redeliver_interval: float = setting(15.0, parse=seconds, help="the pause before a rejected message comes again")
        max_deliveries: int = setting(0, help="how often a message may be rejected before it is given up; 0: for ever")
        dead_letter_topic: str = setting("", help="where given-up messages go; without it they are logged and dropped")
        concurrency: int = setting(10, help="messages of one subscription in their handlers at the same time")
        queue_depth: int = setting(100, help="messages that one subscription takes from the file ahead of its handlers")
        retention: float = setting(
            86_400.0, parse=seconds, help="how long messages of a topic without any consumer group are kept"
        )
        group_retention: float = setting(
            604_800.0, parse=seconds, help="how long a consumer group without any member is remembered; 0: for ever"
        )

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._group = settings.consumer_id or context.app_id or context.name
        self._hub: Hub | None = None
        self._subscriptions: set[Member] = set()

    async def open(self) -> None:
        settings = self._settings
        path = settings.connection_string
        if not path:
            if not self._context.data_dir:
                raise ConfigError(
                    "connectionString is missing", where=self._context.name, mend="give the path of the broker's file"
                )
            path = os.path.join(self._context.data_dir, "messages.db")
        self._hub = await sqlite_hub.enter(
            Location.parse(path),
            lease_s=settings.processing_timeout or 60.0,
            retention_s=settings.retention,
            group_retention_s=settings.group_retention,
        )

    @property
    def patience_s(self) -> float:
        return self._settings.processing_timeout

    async def ping(self) -> None:
        await self._opened().engine.read(lambda db: db.execute("SELECT layout FROM broker_about").fetchone())

    async def close(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        hub, self._hub = self._hub, None
        if hub is not None:
            await sqlite_hub.leave(hub)

    def _opened(self) -> Hub:
        if self._hub is None:
            raise ComponentError("the SQLite broker is closed")
        return self._hub

    async def publish(self, message: Publish) -> None:
        hub = self._opened()
        row, due = _row(message.topic, message, time.time())
        if due is None:
            await hub.engine.write_row(queue.publish, row)
        else:
            await hub.engine.write(partial(queue.publish_all, rows=(), delayed=((row, due),)))
        hub.ring(message.topic)

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Publish in one transaction; entries whose metadata cannot be read are refused before."""
        hub = self._opened()
        now = time.time()
        failed: list[tuple[str, str]] = []
        rows: list[queue.Row] = []
        delayed: list[tuple[queue.Row, float]] = []
        for entry in entries:
            try:
                row, due = _row(topic, entry, now, metadata)
            except ComponentError as error:
                failed.append((entry.entry_id, str(error)))
                continue
            if due is None:
                rows.append(row)
            else:
                delayed.append((row, due))
        await hub.engine.write(partial(queue.publish_all, rows=rows, delayed=delayed))
        hub.ring(topic)
        return failed

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> Member:
        hub = self._opened()
        subscription = Member(
            hub,
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
        return f"<SqlitePubSub {self._context.name}, group {self._group}: {self._hub!r}>"


def _row(
    topic: str, message: Publish | BulkEntry, now: float, shared: Mapping[str, str] | None = None
) -> tuple[queue.Row, float | None]:
    """Return the row of a message and when it is due (None: at once). Its life counts from that time."""
    metadata = {**shared, **message.metadata} if shared else message.metadata
    if not metadata:
        return (topic, now, None, message.content_type or None, None, message.data), None
    due = due_time_of(metadata, now)
    life = ttl_of(metadata)
    expires = None if life is None else (due or now) + life
    text = orjson.dumps(metadata if isinstance(metadata, dict) else dict(metadata)).decode()
    return (topic, now, expires, message.content_type or None, text, message.data), due
