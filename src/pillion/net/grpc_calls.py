"""The streams of a gRPC client: what one attempt of a call hears, and the streaming call that its user holds.

Knows: heads, trailers and resets, and the status that each amounts to. Never knows: how connections are made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.exchange import RpcError, UnaryReply
from pillion.net.h2_streams import Sender
from pillion.wire import grpc as g
from pillion.wire.grpc import PREFIX, StatusError
from pillion.wire.h2_frames import ErrorCode, error_name

if TYPE_CHECKING:
    from pillion.net.exchange import Metadata
    from pillion.net.grpc_client import Channel
    from pillion.net.h2_pool import ClientConnection
    from pillion.wire.h2_headers import ResponseHead, Trailers

DEADLINE = "context deadline exceeded"
_CANCELLED = "context canceled"


class Unprocessed(Exception):
    """The server did not look at the call (RFC 9113 8.7): it may be sent again. `status` is how it ends otherwise."""

    def __init__(self, status: RpcError) -> None:
        self.status = status
        super().__init__(status.message)


class _Ending:
    """What a block of trailers, or a head without body, says of the end of a call."""

    __slots__ = ("code", "details", "message", "metadata")

    def __init__(self, code: int, message: str, details: bytes, metadata: Metadata) -> None:
        self.code, self.message, self.details, self.metadata = code, message, details, metadata


def _ending(headers: list[tuple[bytes, bytes]]) -> _Ending:
    status = None
    message = details = b""
    for name, value in headers:
        if name == b"grpc-status":
            status = value
        elif name == b"grpc-message":
            message = value
        elif name == b"grpc-status-details-bin":
            details = value
    if status is None:
        return _Ending(Code.INTERNAL, "server closed the stream without sending trailers", b"", [])
    if not status.isdigit() or len(status) > 9:
        return _Ending(Code.UNKNOWN, f"malformed grpc-status {status[:16]!r}", b"", [])
    try:
        return _Ending(int(status), g.percent_decode(message), g.read_binary(details), g.read_metadata(headers))
    except StatusError as error:
        return _Ending(error.code, error.message, b"", [])


class _Opening:
    """What the head of a response says: `failure` when it is not gRPC or cannot be read."""

    __slots__ = ("encoding", "failure", "metadata")

    def __init__(self, head: ResponseHead) -> None:
        self.encoding = b""
        self.failure: RpcError | None = None
        self.metadata: Metadata = []
        content_type = b""
        for name, value in head.headers:
            if name == b"content-type":
                content_type = value
            elif name == b"grpc-encoding":
                self.encoding = b"" if value == b"identity" else value
            elif name == b"grpc-status" and head.status == 200:
                return  # a call that ended at once; `_ending` reads it
        if head.status != 200 or not content_type.startswith(b"application/grpc"):
            code = Code.UNKNOWN if head.status == 200 else g.code_for_http(head.status)
            status = f"unexpected HTTP status code received from server: {head.status}"
            kind = content_type[:64].decode("latin-1")
            self.failure = RpcError(code, f'{status}; transport: received unexpected content-type "{kind}"')
            return
        if self.encoding not in (b"", b"gzip"):
            text = self.encoding[:64].decode("latin-1")
            self.failure = RpcError(
                Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{text}"'
            )
        try:
            self.metadata = g.read_metadata(head.headers)
        except StatusError as error:
            self.failure = RpcError(error.code, error.message)


class _Call(Sender):
    """What unary and streaming calls share: reading heads and ends, the deadline."""

    opening: _Opening | None = None
    over = False
    _timer: asyncio.TimerHandle | None = None
    _deframer: g.Deframer | None = None

    def __init__(self, connection: ClientConnection, max_receive: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection.h2, connection.h2.next_id)
        self.pool = connection.pool
        self.max_receive = max_receive
        self.loop = loop

    def open(self, block: bytes, deadline: float | None) -> None:
        """Send the head."""
        self.connection.open(self, block, end=False)
        if deadline is not None:
            self._timer = self.loop.call_at(deadline, self._expired)

    def begin(self, block: bytes, request: bytes, deadline: float | None) -> bool:
        """Send the head and the only message, which ends the request. False: some of it waits."""
        if deadline is not None:
            self._timer = self.loop.call_at(deadline, self._expired)
        return self.connection.open_whole(self, block, PREFIX.pack(0, len(request)), request)

    def received_head(self, head: ResponseHead, ended: bool) -> None:
        if self.over or head.status < 200:
            return
        opening = head.plan
        if opening is None:
            opening = head.plan = _Opening(head)
        if opening.failure is not None:
            self.fail(opening.failure)
            return
        self.opening = opening
        if ended:
            self._end(_ending(head.headers))
        else:
            self.has_begun()

    def received_trailers(self, trailers: Trailers) -> None:
        if not self.over:
            ending = trailers.plan
            if ending is None:
                ending = trailers.plan = _ending(trailers.headers)
            self._end(ending)

    def _end(self, ending: _Ending) -> None:
        if ending.code:
            self.fail(RpcError(ending.code, ending.message, ending.details, ending.metadata.copy()))
        elif self._deframer is not None and self._deframer.incomplete:
            self.fail(RpcError(Code.INTERNAL, "unexpected EOF"))
        else:
            self.succeed(ending)

    def was_reset(self, code: int, text: str) -> None:
        if self.over:
            return
        if self.connection.closed:
            if self.pool.closed:
                self.fail(RpcError(Code.CANCELLED, "grpc: the client connection is closing"))
            else:
                self.fail(RpcError(Code.UNAVAILABLE, f"error reading from server: {text}"))
            return
        status = RpcError(
            g.code_for_reset(code), f"stream terminated by RST_STREAM with error code: {error_name(code)}"
        )
        self.fail(status, unprocessed=code == ErrorCode.REFUSED_STREAM)

    def finished(self) -> None:
        """The call is over: leave nothing behind."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed:
            self.connection.reset(self, ErrorCode.CANCEL)
        if self.pool.crowded:
            self.pool.freed()

    def _expired(self) -> None:
        if not self.over:
            self.fail(RpcError(Code.DEADLINE_EXCEEDED, DEADLINE))

    def has_begun(self) -> None:
        """The head is there."""

    def fail(self, status: RpcError, *, unprocessed: bool = False) -> None:
        raise NotImplementedError

    def succeed(self, ending: _Ending) -> None:
        raise NotImplementedError


class UnaryCall(_Call):
    """One attempt of a unary call; `answer` is what the caller awaits."""

    _message: bytes | None = None

    def __init__(self, connection: ClientConnection, max_receive: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, max_receive, loop)
        self.answer: asyncio.Future[UnaryReply] = loop.create_future()

    def received_data(self, data: bytes, ended: bool) -> None:
        self.connection.consume(self, len(data))
        if self.over:
            return
        if self._deframer is None and self._message is None and not ended:
            self._message = g.only_message(data, self.max_receive)
            if self._message is not None:
                return
        if self._deframer is None:
            self._deframer = g.Deframer(self.max_receive, b"" if self.opening is None else self.opening.encoding)
        try:
            for message in self._deframer.feed(data):
                if self._message is not None:
                    raise StatusError(Code.INTERNAL, "cardinality violation: received more than one reply message")
                self._message = message
        except StatusError as error:
            self.fail(RpcError(error.code, error.message))
            return
        if ended:
            self.fail(RpcError(Code.INTERNAL, "server closed the stream without sending trailers"))

    def fail(self, status: RpcError, *, unprocessed: bool = False) -> None:
        self.finished()
        if not self.answer.done():
            self.answer.set_exception(Unprocessed(status) if unprocessed else status)

    def succeed(self, ending: _Ending) -> None:
        if self._message is None:
            self.fail(RpcError(Code.INTERNAL, "cardinality violation: received no reply message before the end"))
            return
        self.finished()
        if not self.answer.done():
            opening = self.opening
            initial = opening.metadata.copy() if opening is not None else []
            self.answer.set_result(UnaryReply(self._message, initial, ending.metadata.copy()))

    def abandon(self) -> None:
        """Nobody waits any more."""
        if not self.over:
            self.finished()
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()


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
        status = RpcError(Code.CANCELLED, _CANCELLED)
        if self._stream is None:
            self._failure = self._failure or status
        elif not self._stream.over:
            self._stream.fail(status)

    def __repr__(self) -> str:
        return f"<StreamCall on {self._stream!r}>"


class Streamed(_Call):
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

    def succeed(self, ending: _Ending) -> None:
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
