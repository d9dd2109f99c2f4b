"""One gRPC call that is served, on its stream of an HTTP/2 server connection.

Knows: how a stream becomes a `ServerCall`, deadlines, cancellation, statuses. Never knows: sockets, services' contents.
A unary call that has arrived whole costs one task; nothing here runs between the calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.h2_streams import Timed
from pillion.tasks import start_now
from pillion.wire import grpc as g
from pillion.wire.grpc import PREFIX, StatusError
from pillion.wire.h2_frames import ErrorCode
from pillion.wire.h2_headers import Trailers, encode

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pillion.net.exchange import AtOnce, Metadata, Method, Oversized, Peer, Streaming, Unary
    from pillion.net.grpc_server import Plan
    from pillion.net.h2_server import H2ServerConnection
    from pillion.wire.h2_headers import Fields, RequestHead

log = logging.getLogger("pillion.net.grpc")

_HEAD_FIELDS = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", g.ACCEPT_ENCODING),
]
_HEAD = encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
_OK_TRAILERS = encode([(b"grpc-status", b"0")])


class GrpcCall(Timed):
    """One call: the stream of the machine and the `ServerCall` of its handler in one object."""

    _task: asyncio.Task[None] | None = None
    _unary: Unary | None = None
    _at_once: AtOnce | None = None
    _oversized: Oversized | None = None
    _deframer: g.Deframer | None = None
    _messages: deque[tuple[bytes, int]] | None = None
    _receiver: asyncio.Future[None] | None = None
    _failure: StatusError | None = None
    _headers_sent = False
    _finished = False
    _half_closed = False
    broken = False
    """Whether the connection was lost under the call, rather than that the client ended it."""

    def __init__(self, server: H2ServerConnection, stream_id: int, plan: Plan) -> None:
        super().__init__(server.h2, stream_id)
        self.server = server
        self.plan = plan
        self.side = plan.side
        self.method = plan.method
        self.peer: Peer = server.peer
        self.metadata: Metadata = plan.metadata.copy()
        self.initial_metadata: Metadata = []
        self.trailing_metadata: Metadata = []

    def first(self, name: str) -> str | bytes | None:
        for key, value in self.metadata:
            if key == name:
                return value
        return None

    # -- from the machine ---------------------------------------------------------------------------------------------

    def received_head(self, head: RequestHead, ended: bool) -> None:
        plan = self.plan
        if plan.http_status != 200:
            self._refuse_http(plan.http_status)
            return
        if plan.failure is not None:
            self._finish(plan.failure.code, plan.failure.message)
            return
        if self.server.unfinished >= 2 * self.connection.limits.streams:
            # Cancelled handlers that do not end hold memory although their streams are gone.
            self._finish(Code.RESOURCE_EXHAUSTED, "too many cancelled calls have not ended yet")
            return
        if head.extra and not self._read_extra(head.extra):
            return
        method = self._find()
        if method is None:
            return
        if self.deadline is not None:
            self.server.watch(self.deadline)
        if method.unary is not None:
            self._unary = method.unary
            self._at_once = method.at_once
            if method.oversized is not None:
                self._oversized = method.oversized
            if ended:
                self._unary_ended()
        elif method.streaming is not None:
            self._messages = deque()
            self._half_closed = ended
            self._start(self._serve_streaming(method.streaming))

    def _read_extra(self, extra: Fields) -> bool:
        """Take in the headers that are not the same for the whole family."""
        try:
            for name, value in extra:
                if name == b"grpc-timeout":
                    self.deadline = self.server.read_at + g.parse_timeout(value)
            if len(extra) > 1 or self.deadline is None:  # a time-out alone, as is usual, is no metadata
                self.metadata += g.read_metadata(extra)
        except StatusError as error:
            self._finish(error.code, error.message)
            return False
        return True

    def _find(self) -> Method | None:
        try:
            method = self.side.find(self.method, self.metadata)
        except RpcError as error:
            self._finish(error.code, error.message, error.details, error.trailers)
            return None
        except Exception as error:
            log.exception("looking up %s failed", self.method)
            self._finish(Code.UNKNOWN, str(error))
            return None
        if method is None:
            service, _, name = self.method[1:].rpartition("/")
            self._finish(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        return method

    def received_data(self, data: bytes, ended: bool) -> None:
        if self._finished:
            self.connection.consume(self, len(data))
        elif self._unary is not None:
            size = len(data)
            self.connection.consume(self, size)
            if ended and self._deframer is None:
                message = g.only_message(data, self.side.max_receive)
                if message is not None:
                    self._serve(self._unary, message)
                    return
            self._unary_data(data, ended)
        else:
            self._streaming_data(data, ended)

    def _unary_data(self, data: bytes, ended: bool) -> None:
        if self._deframer is None:
            self._deframer = g.Deframer(self.side.max_receive, self.plan.encoding)
            self._messages = deque()
        messages = self._messages
        assert messages is not None
        try:
            for message in self._deframer.feed(data):
                if messages:
                    raise StatusError(Code.INTERNAL, "cardinality violation: received more than one request message")
                messages.append((message, 0))
        except StatusError as error:
            self._finish(error.code, error.message)
            if self._oversized is not None and error.code == Code.RESOURCE_EXHAUSTED:
                self._oversized(g.beginning(data), error.message)
            return
        if ended:
            self._unary_ended()

    def _unary_ended(self) -> None:
        if not self._messages:
            text = "unexpected EOF" if self._deframer is not None and self._deframer.incomplete else "EOF"
            self._finish(Code.INTERNAL, f"cardinality violation: no request message ({text})")
        elif self._deframer is not None and self._deframer.incomplete:
            self._finish(Code.INTERNAL, "unexpected EOF")
        elif self._unary is not None:
            self._serve(self._unary, self._messages.popleft()[0])

    def _streaming_data(self, data: bytes, ended: bool) -> None:
        """Bytes of a message count as consumed when the handler takes it, those of an unfinished one at once: the
        deframer's bound holds them."""
        deframer, queue = self._deframer, self._messages
        assert queue is not None
        if deframer is None:
            message = g.only_message(data, self.side.max_receive)
            if message is not None:
                queue.append((message, len(data)))
                self._half_closed = ended
                self._wake_receiver()
                return
            deframer = self._deframer = g.Deframer(self.side.max_receive, self.plan.encoding)
        try:
            messages = deframer.feed(data)
            if ended and deframer.incomplete:
                raise StatusError(Code.INTERNAL, "unexpected EOF")
        except StatusError as error:
            self._failure = error
            messages = []
        if messages:
            share = len(data) // len(messages)
            queue.extend((message, share) for message in messages)
            self.connection.consume(self, len(data) - share * len(messages))
        else:
            self.connection.consume(self, len(data))
        self._half_closed = ended
        self._wake_receiver()

    def received_trailers(self, trailers: Trailers) -> None:
        if self._finished:
            return
        if self._unary is not None:
            self._unary_ended()
        else:
            if self._deframer is not None and self._deframer.incomplete:
                self._failure = StatusError(Code.INTERNAL, "unexpected EOF")
            self._half_closed = True
            self._wake_receiver()

    def was_reset(self, code: int, text: str) -> None:
        self._finished = True
        self.broken = self.connection.closed
        super().drained()
        self._wake_receiver()
        self._cancel()

    def drained(self) -> None:
        super().drained()
        if self._finished and not self.remote_ended:
            self._ended()

    @property
    def ready(self) -> bool:
        return bool(self._messages) or self._half_closed or self._finished or self._failure is not None

    @property
    def exhausted(self) -> bool:
        return self._half_closed and not self._messages and self._failure is None

    # -- for the handler ----------------------------------------------------------------------------------------------

    async def receive(self) -> bytes | None:
        queue = self._messages
        if queue is None:
            return None
        while not queue:
            if self._failure is not None:
                raise RpcError(self._failure.code, self._failure.message)
            if self._half_closed or self._finished:
                return None
            self._receiver = self.server.loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        message, size = queue.popleft()
        if size:
            self.connection.consume(self, size)
        return message

    async def send(self, message: bytes) -> None:
        if not self.send_now(message):
            await self.flushed()

    def send_now(self, message: bytes) -> bool:
        if self._finished:
            return True
        self._check_size(message)
        if not self._headers_sent:
            self._send_head()
        return self.connection.send_data(self, PREFIX.pack(0, len(message)) + message)

    async def send_last(self, message: bytes) -> None:
        if not self._finished:
            self._reply(message)

    async def send_headers(self) -> None:
        if not self._headers_sent and not self._finished:
            self._send_head()

    # -- the call's life ----------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.side.calls.add(self)
        self.server.unfinished += 1
        self._task = start_now(work, loop=self.server.loop)

    def _serve(self, unary: Unary, request: bytes) -> None:
        """Serve a unary call whose message is there: at once where that can be, else in a task."""
        if self._at_once is not None:
            try:
                reply = self._at_once(self, request)
                if reply is not None:
                    self._reply(reply)
                    return
            except Exception as error:
                self._failed(error)
                return
        self._start(self._serve_unary(unary, request))

    async def _serve_unary(self, unary: Unary, request: bytes) -> None:
        try:
            reply = await unary(self, request)
            if not self._finished:
                self._reply(reply)
        except BaseException as error:
            self._failed(error)
        finally:
            self.side.ended(self)

    def _reply(self, reply: bytes) -> None:
        """Send a message and the end with status OK, in one go."""
        self._check_size(reply)
        if self.initial_metadata or self.trailing_metadata or self._headers_sent or not self.remote_ended:
            self._reply_slowly(reply)
            return
        self._finished = True
        self.connection.send_whole(self, _HEAD, PREFIX.pack(0, len(reply)), reply, _OK_TRAILERS)

    def _reply_slowly(self, reply: bytes) -> None:
        trailers = (
            encode(g.trailer_fields(0, "", b"", self.trailing_metadata)) if self.trailing_metadata else _OK_TRAILERS
        )
        if self._headers_sent:
            self.connection.send_data(self, PREFIX.pack(0, len(reply)) + reply)
            self.connection.send_head(self, trailers, end=True)
        else:
            head = self._head_block()
            self.connection.send_whole(self, head, PREFIX.pack(0, len(reply)), reply, trailers)
        self._ended()

    async def _serve_streaming(self, streaming: Streaming) -> None:
        try:
            await streaming(self)
            if not self._finished:
                self._end_well()
        except BaseException as error:
            self._failed(error)
        finally:
            self.side.ended(self)

    def _end_well(self) -> None:
        """End with status OK what was answered message by message."""
        if not self._headers_sent:
            self._send_head()
        if self.trailing_metadata:
            self._finish(Code.OK, "")
        else:
            self.connection.send_head(self, _OK_TRAILERS, end=True)
            self._ended()

    def _failed(self, error: BaseException) -> None:
        """End the call with what its handler raised. Cancellation from outside the call is passed on."""
        if isinstance(error, asyncio.CancelledError):
            if self._finished:
                return
            self._finish(Code.CANCELLED, "the call was cancelled")
            raise error
        if self._finished:
            if isinstance(error, Exception) and not isinstance(error, RpcError):
                log.error("%s failed after its end", self.method, exc_info=error)
        elif isinstance(error, RpcError):
            self._finish(error.code, error.message, error.details, error.trailers)
        elif isinstance(error, StatusError):
            self._finish(error.code, error.message)
        else:
            log.error("%s failed", self.method, exc_info=error)
            self._finish(Code.UNKNOWN, str(error))
        if not isinstance(error, Exception):
            raise error

    def _finish(self, code: int, message: str, details: bytes = b"", trailers: Metadata | None = None) -> None:
        """Send the status; it is the last thing the client hears."""
        if self._finished:
            return
        metadata = [*self.trailing_metadata, *(trailers or ())]
        try:
            fields = g.trailer_fields(code, message, details, metadata)
            if not self._headers_sent:
                fields = [*_HEAD_FIELDS, *g.metadata_fields(self.initial_metadata), *fields]
        except StatusError as error:
            log.error("%s: %s", self.method, error.message)
            fields = g.trailer_fields(error.code, error.message, b"", [])
            if not self._headers_sent:
                fields = [*_HEAD_FIELDS, *fields]
        self.connection.send_head(self, encode(fields), end=True)
        self._ended()

    def _refuse_http(self, status: int) -> None:
        self.connection.send_head(self, encode([(b":status", b"%d" % status)]), end=True)
        self._ended()

    def _ended(self) -> None:
        """The status is out or queued. A client that still sends is told that nobody listens (RFC 9113 8.1)."""
        self._finished = True
        if not self.remote_ended:
            if self.pending:
                return
            self.connection.reset(self, ErrorCode.NO_ERROR)

    def expired(self) -> None:
        if not self._finished:
            self._finish(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
            self._cancel()

    def _cancel(self) -> None:
        task = self._task
        if task is not None and not task.done() and task is not asyncio.current_task():
            # A task that is cancelled before its first step never reaches its own `finally`.
            task.add_done_callback(lambda _: self.side.ended(self))
            task.cancel()

    def _send_head(self) -> None:
        self._headers_sent = True
        self.connection.send_head(self, self._head_block())

    def _head_block(self) -> bytes:
        if not self.initial_metadata:
            return _HEAD
        return encode([*_HEAD_FIELDS, *g.metadata_fields(self.initial_metadata)])

    def _check_size(self, message: bytes) -> None:
        most = self.side.max_send
        if most is not None and len(message) > most:
            raise g.too_large_to_send(len(message), most)

    def _wake_receiver(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def __repr__(self) -> str:
        return f"<GrpcCall {self.method} on stream {self.id}{', finished' if self._finished else ''}>"
