"""The streaming calls of a gRPC client: one that its user holds, and the attempts behind it.

Knows: messages that wait on either side, when a call may still be sent to another connection. Never knows: how heads
and ends are read (`grpc_calls`), how connections are made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_calls import CANCELLED, Call, Ending
from pillion.wire import grpc as g
from pillion.wire.grpc import PREFIX, StatusError

if TYPE_CHECKING:
    from pillion.net.exchange import Metadata
    from pillion.net.grpc_client import Channel
    from pillion.net.h2_pool import ClientConnection


class StreamCall:
    """A `ClientStream`. It may be sent again to another connection as long as nothing but the head went out."""

    def __init__(self, channel: Channel, block: bytes, timeout_s: float | None) -> None:
        self._channel = channel
        self._block = block
        self._deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        self._stream: Streamed | None = None
        self._opening: asyncio.Lock | None = None
        self._failure: RpcError | None = None
        self._retried = False

    async def _opened(self) -> Streamed:
        stream = self._stream
        if stream is not None:
            return stream
        if self._opening is None:
            if self._failure is None and (ready := self._channel.pool.ready()) is not None:
                return self._open(ready)
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._failure is not None:
                raise self._failure
            if self._stream is None:
                channel = self._channel
                connection = channel.pool.ready() or await channel.connection(self._deadline)
                if self._failure is not None:  # cancelled meanwhile
                    raise self._failure
                return self._open(connection)
            return self._stream

    def _open(self, connection: ClientConnection) -> Streamed:
        stream = self._stream = Streamed(connection, self._channel.max_receive, connection.loop)
        stream.open(self._block, self._deadline)
        return stream

    def _again(self, stream: Streamed) -> bool:
        """Whether the call may start over: the server never looked at it, and no message is lost with it."""
        if not stream.unprocessed or stream.sent or self._retried or self._stream is not stream:
            return False
        self._retried = True
        self._stream = None
        return True

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the peer's window is closed.

        Raises `RpcError` when the call has ended, with its status; an end with OK makes that EOF of UNAVAILABLE.
        """
        self._channel.check_size(message)
        stream = await self._opened()
        if stream.over and self._again(stream):
            stream = await self._opened()
        await stream.send(message)

    async def send_last(self, message: bytes) -> None:
        """Send the last message: `send` and `half_close` in one frame, with the head where that is still to be sent."""
        channel = self._channel
        channel.check_size(message)
        if self._stream is None and self._opening is None and self._failure is None:
            connection = channel.pool.ready()
            if connection is not None:
                stream = self._stream = Streamed(connection, channel.max_receive, connection.loop)
                await stream.send_whole(self._block, message, self._deadline)
                return
        stream = self._stream or await self._opened()
        if stream.over and self._again(stream):
            stream = await self._opened()
        await stream.send(message, end=True)

    async def half_close(self) -> None:
        """Say that no message follows."""
        (await self._opened()).half_close()

    @property
    def exhausted(self) -> bool:
        stream = self._stream
        return stream is not None and stream.over and stream.failure is None and not stream.messages

    async def receive(self) -> bytes | None:
        stream = self._stream or await self._opened()
        message = await stream.next()
        if message is None and stream.failure is not None:
            if self._again(stream):
                return await self.receive()
            raise stream.failure
        return message

    async def initial_metadata(self) -> Metadata:
        """Return the metadata of the response's head, as soon as that is there; raises `RpcError`."""
        stream = await self._opened()
        await stream.begun()
        if stream.opening is None and stream.failure is not None:
            if self._again(stream):
                return await self.initial_metadata()
            raise stream.failure
        return [] if stream.opening is None else stream.opening.metadata.copy()

    def trailing_metadata(self) -> Metadata:
        """Return the metadata that came with the end; empty before it."""
        stream = self._stream
        return [] if stream is None else stream.trailing.copy()

    def cancel(self) -> None:
        """End the call now; whoever waits on it gets CANCELLED."""
        status = RpcError(Code.CANCELLED, CANCELLED)
        if self._stream is None:
            self._failure = self._failure or status
        elif not self._stream.over:
            self._stream.fail(status)

    def __repr__(self) -> str:
        return f"<StreamCall on {self._stream!r}>"


class Streamed(Call):
    """One attempt of a streaming call."""

    unprocessed = False
    sent = False

    def __init__(self, connection: ClientConnection, max_receive: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, max_receive, loop)
        self._readers: list[asyncio.Future[None]] = []  # several may wait: for the head, for a message
        self.failure: RpcError | None = None
        self.trailing: Metadata = []
        self.messages: deque[tuple[bytes, int]] = deque()

    def received_data(self, data: bytes, ended: bool) -> None:
        if self.over:
            self.connection.consume(self, len(data))
            return
        message = g.only_message(data, self.max_receive) if self._deframer is None else None
        if message is not None:
            self.messages.append((message, len(data)))
        elif not self._received_pieces(data):
            return
        self._wake()
        if ended:
            self.fail(RpcError(Code.INTERNAL, "server closed the stream without sending trailers"))

    def _received_pieces(self, data: bytes) -> bool:
        """Take what is not exactly one message."""
        if self._deframer is None:
            self._deframer = g.Deframer(self.max_receive, b"" if self.opening is None else self.opening.encoding)
        try:
            messages = self._deframer.feed(data)
        except StatusError as error:
            self.connection.consume(self, len(data))
            self.fail(RpcError(error.code, error.message))
            return False
        share = len(data) // len(messages) if messages else 0
        self.messages.extend([(message, share) for message in messages])
        self.connection.consume(self, len(data) - share * len(messages))
        return True

    def has_begun(self) -> None:
        self._wake()

    def fail(self, status: RpcError, *, unprocessed: bool = False) -> None:
        self.failure, self.unprocessed = status, unprocessed
        self.trailing = status.trailers
        self._over()

    def succeed(self, ending: Ending) -> None:
        self.trailing = ending.metadata.copy()
        self._over()

    def _over(self) -> None:
        self.finished()
        self._wake()
        self.drained()

    def _wake(self) -> None:
        if self._readers:
            for reader in self._readers:
                if not reader.done():
                    reader.set_result(None)
            self._readers.clear()

    def _news(self) -> asyncio.Future[None]:
        reader: asyncio.Future[None] = self.loop.create_future()
        self._readers.append(reader)
        return reader

    async def next(self) -> bytes | None:
        """Return the next message; None at the end, of which `failure` tells."""
        while not self.messages:
            if self.over:
                return None
            await self._news()
        message, size = self.messages.popleft()
        if size:
            self.connection.consume(self, size)
        return message

    async def begun(self) -> None:
        """Wait for the head of the response, or the end."""
        while self.opening is None and not self.over:
            await self._news()

    async def send_whole(self, block: bytes, message: bytes, deadline: float | None) -> None:
        """Open the call with its only message."""
        self.sent = True
        if not self.begin(block, message, deadline):
            await self.flushed()
            if self.failure is not None:
                raise self.failure

    async def send(self, message: bytes, *, end: bool = False) -> None:
        if self.over:
            raise self.failure or RpcError(Code.UNAVAILABLE, "EOF")
        self.sent = True
        if not self.connection.send_data(self, PREFIX.pack(0, len(message)) + message, end=end):
            await self.flushed()
            if self.failure is not None:
                raise self.failure

    def half_close(self) -> None:
        if not self.over:
            self.connection.send_data(self, b"", end=True)
