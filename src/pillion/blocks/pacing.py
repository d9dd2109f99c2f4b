"""Between a broker and a carrier: no more messages at a time than a subscription wants, related ones in order.

In an ordered subscription each key has a lane: the next message begins when the one before it is settled. A message
that the broker would have to deliver again is tried again here, in its lane, because by way of the broker it would come
after its successors. Knows: lanes and slots. Never knows: what handling is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from pillion.kinds.pubsub import Rejected, Withheld
from pillion.wire.cloudevents import NotAnEvent, binary_event, parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.pacing import Pacing
    from pillion.kinds.pubsub import Delivery

    Handle = Callable[[Delivery], Awaitable[None]]

log = logging.getLogger("pillion.blocks.pacing")

MOST_WAITING = 10_000
"""Messages of one ordered subscription in their lanes, and so the most keys there can be; further ones wait outside."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""The pauses before a message is tried again in its lane, each twice the one before."""
_OCTETS = "application/octet-stream"


class Limited:
    """At most so many messages at the same time."""

    def __init__(self, handle: Handle, slots: int) -> None:
        self._handle = handle
        self._slots = asyncio.Semaphore(slots)

    async def handle(self, delivery: Delivery) -> None:
        async with self._slots:
            await self._handle(delivery)

    def begin_close(self) -> None:
        """The carrier withholds what waits here when its turn comes."""


class Ordered:
    """Messages of equal key one after the other, different keys side by side; those without a key in no order.

    `patience_s` is how long one attempt may take, 0 for any time: the broker's own limit would count the wait too.
    """

    def __init__(self, handle: Handle, pacing: Pacing, *, slots: int, patience_s: float) -> None:
        """`slots` 0: any number of messages at the same time."""
        self._handle = handle
        self._pacing = pacing
        self._slots = asyncio.Semaphore(slots or MOST_WAITING)
        self._patience_s = patience_s or None
        self._room = asyncio.Semaphore(MOST_WAITING)
        self._lanes: dict[str, deque[asyncio.Future[None]]] = {}
        self._closing = asyncio.Event()

    def begin_close(self) -> None:
        """From now on nobody waits for another attempt."""
        self._closing.set()

    async def handle(self, delivery: Delivery) -> None:
        """The broker's handler; must be called in the broker's order."""
        async with self._room:
            key = key_of(self._pacing, delivery)
            if key is None:
                await self._attempt(delivery)
                return
            await self._turn(key)
            try:
                await self._settle(delivery, key)
            finally:
                self._next(key)

    async def _attempt(self, delivery: Delivery) -> None:
        async with self._slots:
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._handle(delivery)
            except TimeoutError as error:
                raise Rejected(f"the handler took longer than {self._patience_s} s") from error

    async def _turn(self, key: str) -> None:
        """Wait until every earlier message of the key is settled. Nothing is awaited before the place is taken."""
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                lane.remove(turn)
            else:  # the turn came at the moment of the cancellation
                self._next(key)
            raise

    def _next(self, key: str) -> None:
        lane = self._lanes[key]
        for turn in lane:
            if not turn.done():
                lane.remove(turn)
                turn.set_result(None)
                return
        del self._lanes[key]

    async def _settle(self, delivery: Delivery, key: str) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._attempt(delivery)
                return
            except Rejected as error:
                if self._closing.is_set():
                    raise Withheld from error
                log.info("a message of key %.64r is tried again in %g s: %s", key, pause_s, error)
            try:
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()
            except TimeoutError:
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def __repr__(self) -> str:
        return f"<Ordered by {self._pacing.key or self._pacing.attribute}: {len(self._lanes)} keys>"


def paced(handle: Handle, pacing: Pacing, *, bulks: bool, patience_s: float) -> Limited | Ordered | None:
    """Return what stands before `handle`, None when the subscription asks for nothing.

    `bulks`: the carrier counts bulks by itself.
    """
    if pacing.ordered:
        return Ordered(handle, pacing, slots=0 if bulks else pacing.slots, patience_s=patience_s)
    return Limited(handle, pacing.slots) if pacing.slots and not bulks else None


def key_of(pacing: Pacing, delivery: Delivery) -> str | None:
    """Return what orders a message, None when it has no such key or is no event."""
    if pacing.key:
        return delivery.metadata.get(pacing.key) or None
    data, content_type = delivery.data, delivery.content_type
    try:
        fields = binary_event(data, delivery.metadata, content_type) if content_type.startswith(_OCTETS) else None
        value = (parse(data) if fields is None else fields).get(pacing.attribute)
    except NotAnEvent:
        return None
    return None if value is None or value == "" else str(value)
