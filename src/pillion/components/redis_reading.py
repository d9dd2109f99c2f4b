"""One subscription of `pubsub.redis`: a reader on its own connection, a reclaim loop, acknowledgements that leave
together (spec `components.md` 3).

Knows: when a message is acknowledged, left pending or claimed. Never knows: publishing. Handlers run in `workers`.
A message whose handler failed is not acknowledged, unlike in the reference: it stays pending and the reclaim loop
delivers it again; dead-lettering is the runtime's, which then reports success.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.redis_client import RedisClient, RedisError
from pillion.components.workers import Outcome, Workers
from pillion.errors import ComponentError
from pillion.kinds.pubsub import Delivery
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pillion.components.redis_link import Link, Part
    from pillion.components.redis_streams import RedisPubSub
    from pillion.kinds.pacing import Pacing

log = logging.getLogger("pillion.components.redis_streams")

BLOCK_S = 30.0
"""How long one read waits for messages when `readTimeout` is not set: then a connection that has died is noticed."""
GRACE_S = 5.0
"""How much longer than the blocking time the server may be silent."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
"""The pauses after reads that failed, each twice the one before, until one succeeds."""


class _Entry(Delivery):
    """A delivery with the id of its stream entry and when it came (loop time)."""

    __slots__ = ("came", "id")
    id: bytes
    came: float


def entry(topic: str, identity: bytes, fields: list[bytes], *, attempt: int, came: float) -> _Entry:
    """Make a delivery of a stream entry; what is not in it is empty."""
    data, metadata = b"", {}
    for at in range(0, len(fields) - 1, 2):
        name = fields[at]
        if name == b"data":
            data = fields[at + 1]
        elif name == b"metadata":
            metadata = _metadata(topic, identity, fields[at + 1])
    made = _Entry(topic, data, metadata, "", attempt)
    made.id = identity
    made.came = came
    return made


def _metadata(topic: str, identity: bytes, text: bytes) -> dict[str, str]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = text
    if isinstance(found, dict):
        return {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in found.items()}
    if found is not None:
        log.warning("entry %s of stream %s: the metadata is no JSON object", identity.decode("latin-1"), topic)
    return {}


@contextmanager
def _understood(command: str) -> Iterator[None]:
    """Raise `ComponentError` for an answer of another shape than the server's manual has for the command."""
    try:
        yield
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise ComponentError(f"redis: an answer that is none of {command}: {error!r}") from error


class Subscription:
    """One stream. A reader on its own connection, a reclaim loop, and acknowledgements that leave together."""

    def __init__(
        self,
        client: RedisClient,
        settings: RedisPubSub.Settings,
        topic: str,
        group: str,
        handler: Callable[[Delivery], Awaitable[None]],
        ended: Callable[[Subscription], None],
        *,
        pacing: Pacing,
    ) -> None:
        self.topic = topic
        self._client = client
        self._group = group
        self._ended = ended
        handlers = pacing.handlers(settings.concurrency, settings.queue_depth)
        self._depth = max(1, settings.queue_depth, handlers)
        redelivers = settings.processing_timeout > 0 and settings.redeliver_interval > 0
        self._timeout_s = settings.processing_timeout if redelivers else 0.0
        self._interval_s = settings.redeliver_interval
        self._block_s = settings.read_timeout if settings.read_timeout and settings.read_timeout > 0 else BLOCK_S
        self._tasks = Tasks(f"subscription {topic}")
        self._workers: Workers[_Entry] = Workers(
            self._tasks,
            handler,
            self._settle,
            concurrency=handlers,
            timeout_s=0.0 if pacing.ordered else self._timeout_s,
        )
        self._held: dict[bytes, _Entry] = {}
        self._room = asyncio.Event()
        self._done: list[bytes] = []
        self._acks: set[asyncio.Future[int]] = set()
        self._link: Link | None = None
        self._blocked: bytes | int = b""
        self._pause_s = FIRST_PAUSE_S
        self._reader: asyncio.Task[None] | None = None
        self._reclaimer: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        await self._create_group()
        self._link = await self._client.own_link(self.topic, read_s=self._block_s + GRACE_S)
        self._reader = self._tasks.keep(self._read, "reader")
        if self._timeout_s:
            self._reclaimer = self._tasks.keep(self._reclaim_for_ever, "reclaim")

    async def _create_group(self) -> None:
        """Make stream and group, from the stream's beginning; it is fine if they are there."""
        try:
            await self._client.call(self.topic, "XGROUP", "CREATE", self.topic, self._group, "0", "MKSTREAM", safe=True)
        except RedisError as error:
            if error.code != "BUSYGROUP":
                raise

    # --- what comes in ---

    async def _read(self) -> None:
        while not self._stopping:
            while len(self._held) > self._depth - max(1, self._depth // 4) and not self._stopping:
                self._room.clear()
                await self._room.wait()
            try:
                if not self._stopping:
                    await self._read_once()
            except RedisError as error:
                await self._mend(error)
            except ComponentError as error:
                await self._pause(f"reading stream {self.topic} failed: {error}")

    async def _read_once(self) -> None:
        assert self._link is not None
        count, block = self._depth - len(self._held), int(self._block_s * 1000)
        identity = self._link.call("CLIENT", "ID")
        identity.add_done_callback(self._identified)
        try:
            reply = await self._link.call(
                *("XREADGROUP", "GROUP", self._group, self._group, "COUNT"),
                *(count, "BLOCK", block, "STREAMS", self.topic, ">"),
            )
        finally:
            self._blocked = b""
        self._pause_s = FIRST_PAUSE_S
        if reply:
            came = asyncio.get_running_loop().time()
            with _understood("XREADGROUP"):
                entries = [entry(self.topic, e[0], e[1] or [], attempt=1, came=came) for e in reply[0][1]]
            self._take(entries)

    def _identified(self, answer: asyncio.Future[Any]) -> None:
        """Keep the number by which `close` can wake the blocked read; a user without the right has none."""
        if not answer.cancelled() and answer.exception() is None:
            self._blocked = answer.result()

    def _take(self, entries: list[_Entry]) -> None:
        for one in entries:
            self._held[one.id] = one
        self._workers.put(entries)

    async def _mend(self, error: RedisError) -> None:
        """Make the group again after somebody deleted it or the server lost it."""
        if error.code not in ("NOGROUP", "UNBLOCKED"):
            await self._pause(f"reading stream {self.topic} failed: {error}")
            return
        log.warning("the group %s of stream %s is gone and is made again", self._group, self.topic)
        try:
            await self._create_group()
        except ComponentError as again:
            await self._pause(f"making the group of stream {self.topic} failed: {again}")

    async def _pause(self, why: str) -> None:
        if not self._stopping:
            log.warning("%s; trying again", why)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    # --- what handlers have done ---

    def _settle(self, delivery: _Entry, outcome: Outcome) -> None:
        self._held.pop(delivery.id, None)
        self._room.set()
        if outcome is Outcome.DONE:
            if not self._done:
                asyncio.get_running_loop().call_soon(self._acknowledge)
            self._done.append(delivery.id)

    def _acknowledge(self) -> None:
        done, self._done = self._done, []
        if not done:
            return
        try:
            ack = self._client.call(self.topic, "XACK", self.topic, self._group, *done, safe=True)
        except ComponentError as error:
            log.warning("%d messages of stream %s were not acknowledged: %s", len(done), self.topic, error)
            return
        self._acks.add(ack)
        ack.add_done_callback(self._acknowledged)

    def _acknowledged(self, ack: asyncio.Future[int]) -> None:
        self._acks.discard(ack)
        if not ack.cancelled() and (error := ack.exception()) is not None:
            log.warning("messages of stream %s were not acknowledged and come again: %s", self.topic, error)

    # --- what others, or handlers that failed, have left ---

    async def _reclaim_for_ever(self) -> None:
        while True:
            try:
                await self._renew()
                await self._reclaim()
            except ComponentError as error:
                log.warning("reclaiming messages of stream %s failed: %s", self.topic, error)
            await asyncio.sleep(self._interval_s)

    async def _renew(self) -> None:
        """Keep messages that have waited here for long from being claimed by others: they are still ours. One that is
        in its handler is renewed as well; the handler's own deadline ends that.
        """
        old = asyncio.get_running_loop().time() - self._timeout_s / 2
        ours = [identity for identity, held in self._held.items() if held.came < old]
        if ours:
            await self._set_idle(ours, 0)
            now = asyncio.get_running_loop().time()
            for identity in ours:
                if identity in self._held:
                    self._held[identity].came = now

    async def _set_idle(self, identities: list[bytes], idle_s: float) -> None:
        """Say how long ago pending messages were handed out; JUSTID leaves the count of deliveries alone."""
        tail: tuple[Part, ...] = (*identities, "IDLE", int(idle_s * 1000), "JUSTID")
        await self._client.call(self.topic, "XCLAIM", self.topic, self._group, self._group, 0, *tail, safe=True)

    async def _reclaim(self) -> None:
        """Claim what has been pending for `processingTimeout`, as far as there is room."""
        room = min(self._depth - len(self._held), self._depth)
        if room <= 0 or self._stopping:
            return
        timeout = int(self._timeout_s * 1000)
        attempts: dict[bytes, int] = {}
        pending = await self._pending(timeout, room)
        with _understood("XPENDING"):
            for identity, _, idle, deliveries in pending:
                if idle >= timeout and identity not in self._held:
                    attempts[identity] = deliveries + 1
        if not attempts:
            return
        claimed = await self._client.call(
            self.topic, "XCLAIM", self.topic, self._group, self._group, timeout, *attempts, safe=False
        )
        with _understood("XCLAIM"):
            gone = None in claimed or any(found[1] is None for found in claimed)
        if gone:
            await self._forget_deleted(list(attempts))
        came = asyncio.get_running_loop().time()
        with _understood("XCLAIM"):
            fresh = [
                entry(self.topic, found[0], found[1], attempt=attempts.get(found[0], 0), came=came)
                for found in claimed
                if found is not None and found[1] is not None and found[0] not in self._held
            ]
        if fresh:
            self._take(fresh)

    async def _pending(self, idle_ms: int, count: int) -> list[Any]:
        """Return id, consumer, idle milliseconds and deliveries of pending messages, oldest first.

        Redis before 6.2 knows no IDLE: there messages not yet due take room in the answer.
        """
        ask = ("XPENDING", self.topic, self._group)
        try:
            found: list[Any] = await self._client.call(self.topic, *ask, "IDLE", idle_ms, "-", "+", count, safe=True)
        except RedisError as error:
            if error.code != "ERR":
                raise
            found = await self._client.call(self.topic, *ask, "-", "+", count, safe=True)
        return found

    async def _forget_deleted(self, identities: list[bytes]) -> None:
        """Acknowledge pending messages that are in the stream no more (trimmed); Redis 7 does so by itself."""
        for identity in identities:
            if not await self._client.call(self.topic, "XRANGE", self.topic, identity, identity, safe=True):
                self._done.append(identity)
        self._acknowledge()

    # --- the end ---

    async def pause(self) -> None:
        self._stopping = True
        self._room.set()
        await self._unblock()
        await self._hand_back()

    async def _unblock(self) -> None:
        """End a blocked read on the server's side, so that nothing is handed to a connection that closes."""
        reader = self._reader
        if reader is None or reader.done() or reader is asyncio.current_task():
            return
        try:
            if self._blocked:
                await self._client.call(self.topic, "CLIENT", "UNBLOCK", self._blocked, safe=True)
                await asyncio.wait([reader], timeout=1.0)
        except ComponentError as error:
            log.debug("the read of stream %s could not be ended: %s", self.topic, error)
        if not reader.done():
            reader.cancel()
            await asyncio.wait([reader])

    async def _hand_back(self) -> None:
        """Leave what no handler has seen pending, as if its time were up: the next member claims it at once."""
        untouched = self._workers.withdraw()
        for one in untouched:
            self._held.pop(one.id, None)
        if untouched and self._timeout_s:
            try:
                await self._set_idle([one.id for one in untouched], self._timeout_s)
            except ComponentError as error:
                log.warning("messages of stream %s come again after processingTimeout: %s", self.topic, error)

    async def close(self) -> None:
        await self.pause()
        await self._workers.finish()
        if self._reclaimer is not None:
            self._reclaimer.cancel()
            await asyncio.wait([self._reclaimer])
            await self._hand_back()
        self._acknowledge()
        if self._acks:
            await asyncio.wait(list(self._acks))
        self._workers.stop()
        await self._tasks.close()
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._ended(self)

    def __repr__(self) -> str:
        return f"<subscription of {self.topic} as {self._group}: {self._workers!r}>"
