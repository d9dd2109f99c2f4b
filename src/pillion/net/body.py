"""A body on its way in, as HTTP/1.1 connections of both sides fill it and their users read it.

Knows: how much is buffered, when to stop and resume the connection, and what ends a body. Never knows: framing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pillion.net.exchange import BodyIncomplete, BodyTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import Headers

HIGH_WATER = 65536
"""Bytes that wait unread before the connection stops reading from its peer."""


class IncomingBody:
    """A `BodyStream` with one reader. The connection calls `feed`, `finish` and `fail`; the reader everything else.

    `wanted` is called when the reader takes the first piece or has emptied a full buffer: time to read on.
    `dropped` is called by `aclose` before the end: nobody will read the rest. More than `limit` bytes (0: no limit)
    raise `BodyTooLarge` once the bytes before the limit are read, or at once when `length` already tells.
    """

    __slots__ = (
        "_dropped",
        "_error",
        "_limit",
        "_pieces",
        "_size",
        "_waiter",
        "_wanted",
        "ended",
        "length",
        "received",
        "started",
        "trailers",
    )

    def __init__(
        self,
        length: int | None,
        *,
        limit: int = 0,
        wanted: Callable[[], None],
        dropped: Callable[[], None] | None = None,
    ) -> None:
        self.length = length
        self.trailers: Headers = []
        self.received = 0
        self.started = False
        self.ended = False
        self._limit = limit
        self._wanted = wanted
        self._dropped = dropped
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        if limit and length is not None and length > limit:
            self._error = BodyTooLarge()

    @property
    def full(self) -> bool:
        """Whether enough waits unread that the connection shall not read more."""
        return self._size > HIGH_WATER

    @property
    def failed(self) -> bool:
        return self._error is not None

    def feed(self, data: bytes) -> None:
        """Take a piece that arrived. Pieces behind an error are dropped."""
        self.received += len(data)
        if self._error is not None:
            return
        if self._limit and self.received > self._limit:
            self.fail(BodyTooLarge())
            return
        self._pieces.append(data)
        self._size += len(data)
        self._wake()

    def finish(self) -> None:
        """Take note that the whole body arrived."""
        self.ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Let the reader meet `error` behind what has arrived. The first error stays; a whole body cannot fail."""
        if self._error is None and not self.ended:
            self._error = error
            self._wake()

    def take(self) -> bytes:
        """Return what is buffered, as one piece."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        return data

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def __aiter__(self) -> IncomingBody:
        return self

    async def __anext__(self) -> bytes:
        if not self.started:
            self.started = True
            if not self.ended and self._error is None:
                self._wanted()
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("a body has one reader")
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        was_full = self.full
        data = self.take()
        if was_full and not self.ended:
            self._wanted()
        return data

    async def read(self) -> bytes:
        """Return all that is left as one piece; raises `BodyTooLarge` or `BodyIncomplete`."""
        return b"".join([piece async for piece in self])

    async def aclose(self) -> None:
        """Stop reading. What has not arrived yet is the connection's to throw away."""
        if self.ended:
            self.take()
            return
        if self._error is None:
            self.fail(BodyIncomplete())
            self.take()
            if self._dropped is not None:
                self._dropped()

    def __repr__(self) -> str:
        state = "failed" if self.failed else "ended" if self.ended else "open"
        return f"<IncomingBody {state}, {self.received} of {self.length if self.length is not None else '?'} bytes>"
