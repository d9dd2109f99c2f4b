"""The calls of a gRPC client: what one attempt of a call hears, and the unary call.

Knows: heads, trailers and resets, and the status that each amounts to. Never knows: how connections are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.exchange import RpcError, UnaryReply
from pillion.net.h2_streams import Timed
from pillion.wire import grpc as g
from pillion.wire.grpc import PREFIX, StatusError
from pillion.wire.h2_frames import ErrorCode, error_name

if TYPE_CHECKING:
    import asyncio

    from pillion.net.exchange import Metadata
    from pillion.net.h2_pool import ClientConnection
    from pillion.wire.h2_headers import ResponseHead, Trailers

DEADLINE = "context deadline exceeded"
CANCELLED = "context canceled"


class Unprocessed(Exception):
    """The server did not look at the call (RFC 9113 8.7): it may be sent again. `status` is how it ends otherwise."""

    def __init__(self, status: RpcError) -> None:
        self.status = status
        super().__init__(status.message)


class Ending:
    """What a block of trailers, or a head without body, says of the end of a call."""

    __slots__ = ("code", "details", "message", "metadata")

    def __init__(self, code: int, message: str, details: bytes, metadata: Metadata) -> None:
        self.code, self.message, self.details, self.metadata = code, message, details, metadata


def _ending(headers: list[tuple[bytes, bytes]]) -> Ending:
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
        return Ending(Code.INTERNAL, "server closed the stream without sending trailers", b"", [])
    if not status.isdigit() or len(status) > 9:
        return Ending(Code.UNKNOWN, f"malformed grpc-status {status[:16]!r}", b"", [])
    try:
        return Ending(int(status), g.percent_decode(message), g.read_binary(details), g.read_metadata(headers))
    except StatusError as error:
        return Ending(error.code, error.message, b"", [])


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


class Call(Timed):
    """What unary and streaming calls share: reading heads and ends, the deadline."""

    opening: _Opening | None = None
    over = False
    _deframer: g.Deframer | None = None

    def __init__(self, connection: ClientConnection, max_receive: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection.h2, connection.h2.next_id)
        self.driver = connection
        self.pool = connection.pool
        self.max_receive = max_receive
        self.loop = loop

    def open(self, block: bytes, deadline: float | None) -> None:
        """Send the head."""
        self.connection.open(self, block, end=False)
        self._watch(deadline)

    def begin(self, block: bytes, request: bytes, deadline: float | None) -> bool:
        """Send the head and the only message, which ends the request. False: some of it waits."""
        self._watch(deadline)
        return self.connection.open_whole(self, block, PREFIX.pack(0, len(request)), request)

    def _watch(self, deadline: float | None) -> None:
        if deadline is not None:
            self.deadline = deadline
            self.driver.watch(deadline)

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

    def _end(self, ending: Ending) -> None:
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
        if not self.closed:
            self.connection.reset(self, ErrorCode.CANCEL)
        if self.pool.crowded:
            self.pool.freed()

    def expired(self) -> None:
        if not self.over:
            self.fail(RpcError(Code.DEADLINE_EXCEEDED, DEADLINE))

    def has_begun(self) -> None:
        """The head is there."""

    def fail(self, status: RpcError, *, unprocessed: bool = False) -> None:
        raise NotImplementedError

    def succeed(self, ending: Ending) -> None:
        raise NotImplementedError


class UnaryCall(Call):
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

    def succeed(self, ending: Ending) -> None:
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
