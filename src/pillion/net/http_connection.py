"""One connection of the HTTP/1.1 client: requests out, answers in, one exchange at a time.

Knows: what `httptools` reports, framing, back-pressure of bodies both ways, what may be sent again. Never knows: which
other connections there are; the pool (`http_client`) decides who gets this one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from pillion.net.body import IncomingBody
from pillion.net.exchange import BodyIncomplete, Response
from pillion.wire import http1

if TYPE_CHECKING:
    from pillion.net.exchange import BodyStream, Headers, Request

_WHOLE_LIMIT = 65536
"""A body announced to be no longer than this many bytes is collected and returned as `bytes`."""
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_STALE_S = 1.0
_WATCHED = frozenset((b"content-length", b"transfer-encoding"))
_lower = http1.lower_name


class HttpError(Exception):
    """A request did not get its answer."""


class ConnectFailed(HttpError):
    """No connection could be made: nothing was sent. `address` is what was tried."""

    def __init__(self, address: str, cause: BaseException) -> None:
        self.address = address
        super().__init__(f"cannot connect to {address}: {_reason(cause)}")


class ServerDisconnected(HttpError):
    """The server closed the connection before its answer had begun, or before the head of it was whole."""

    def __init__(self, address: str, cause: BaseException | None) -> None:
        super().__init__(f"{address} closed the connection without an answer" + (f": {cause}" if cause else ""))


class MalformedResponse(HttpError):
    """The server sent something that is not HTTP/1.1, or a head beyond the limit."""


def _reason(cause: BaseException) -> str:
    """Return what the system says of an error; asyncio puts a text of its own, with the address again, before it."""
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, OSError) and not isinstance(cause, (ssl.SSLError, socket.gaierror)) and cause.errno:
        return os.strerror(cause.errno).lower()
    return str(cause) or type(cause).__name__


class Pool(Protocol):
    """What a connection tells its owner. `max_head` limits response heads in bytes."""

    address: str
    max_head: int

    def joined(self, connection: ClientConnection) -> None: ...

    def release(self, connection: ClientConnection) -> None: ...

    def left(self, connection: ClientConnection) -> None: ...


class ClientConnection(asyncio.Protocol):
    """One connection: one exchange at a time, any number one after the other."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_done",
        "_drained",
        "_ended",
        "_fed",
        "_fields",
        "_gone",
        "_head_only",
        "_headers",
        "_idle_since",
        "_in_head",
        "_keep",
        "_length",
        "_loop",
        "_parser",
        "_pieces",
        "_pool",
        "_reading",
        "_reply",
        "_reused",
        "_seen",
        "_sender",
        "_silent",
        "_status",
        "_transport",
        "_was_idle_s",
        "_writable",
        "lost",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[Response] | None = None
        self._status = 0
        self._headers: Headers = []
        self._fields: Headers = []
        self._seen: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._length: int | None = None
        self._body: IncomingBody | None = None
        self._sender: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._fed = 0
        self._in_head = False
        self._ended = True
        self._head_only = False
        self._keep = True
        self._silent = True
        self._reading = True
        self._writable = True
        self._reused = False
        self._idle_since = 0.0
        self._was_idle_s = 0.0
        self.lost = False

    # One exchange.

    async def exchange(self, request: Request, head: bytes) -> Response:
        """Send a request whose head is rendered, and return the answer. The connection finds its own way back."""
        if self.lost:
            raise ServerDisconnected(self._pool.address, None)
        reply: asyncio.Future[Response] = self._loop.create_future()
        self._reply = reply
        self._silent = True
        self._ended = False
        self._in_head = True
        self._fed = 0
        self._head_only = request.method == "HEAD"
        if self._reused:
            self._was_idle_s = self._loop.time() - self._idle_since
        body = request.body
        if isinstance(body, bytes):
            if len(body) > http1.JOIN_LIMIT:
                self._transport.write(head)
                self._transport.write(body)
            else:
                self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._sender = self._loop.create_task(self._send(body))
        try:
            return await reply
        except BaseException:
            if not self._ended:
                self.drop()
            raise

    def may_repeat(self, method: str) -> bool:
        """Whether a request that ended in `ServerDisconnected` may be sent again on a new connection.

        Only when not one byte of an answer came, on a connection used before: servers close what is idle for long, and
        that can cross with our request. Besides idempotent methods (RFC 9110 9.2.2) this holds for the others too when
        the connection had been idle for a second or more; after less, the server may well have died of the request.
        """
        return self._reused and self._silent and (method in _IDEMPOTENT or self._was_idle_s >= _STALE_S)

    async def _send(self, body: BodyStream) -> None:
        """Write a streamed request body. What goes wrong with it is the answer to the request."""
        try:
            left = body.length
            async for piece in body:
                if not piece:
                    continue
                if left is None:
                    http1.write_chunk(self._transport.write, piece)
                else:
                    left -= len(piece)
                    if left < 0:
                        raise ValueError("request body is longer than its Content-Length")
                    self._transport.write(piece)
                if not self._writable:
                    await self._drain()
            if left:
                raise BodyIncomplete
            if left is None:
                self._transport.write(http1.last_chunk(body.trailers))
        except Exception as error:
            self._fail(error)

    async def _drain(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def _fail(self, error: Exception) -> None:
        """End the exchange in service, if any, with `error` and drop the connection."""
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            self._ended = True
            reply.set_exception(error)
        elif self._body is not None:
            self._body.fail(BodyIncomplete())
            self._body = None
        self.drop()

    def _answer(self, body: bytes | IncomingBody) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            trailers = body.trailers if isinstance(body, IncomingBody) else self._fields or None
            reply.set_result(Response(self._status, self._headers, body, trailers))

    def _complete(self) -> None:
        """Go back to the pool after a whole answer, if another exchange is possible."""
        sender, self._sender = self._sender, None
        if sender is not None and not sender.done():
            sender.cancel()
            self._keep = False
        if not self._keep or self.lost:
            self.drop()
            return
        if not self._reading:
            self._resume()
        self._reused = True
        self._idle_since = self._loop.time()
        self._pool.release(self)

    def drop(self) -> asyncio.Future[None]:
        """Cut the connection; return what becomes done when it is gone."""
        self._ended = True
        self._keep = False
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        if self._transport is not None:
            self._transport.abort()
        return self._gone

    # The transport's reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.joined(self)

    def data_received(self, data: bytes) -> None:
        self._silent = False
        unasked = self._ended
        if unasked:
            self.drop()
            return
        if self._in_head:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(MalformedResponse("unexpected switch of protocols"))
            return
        except httptools.HttpParserError as error:
            if not self._ended:
                cause = error.__context__
                self._fail(cause if isinstance(cause, HttpError) else MalformedResponse(f"malformed response: {error}"))
                return
            self._keep = False  # data behind a whole answer
        if self._ended:
            self._complete()
        elif self._in_head:
            if self._fed > self._pool.max_head:
                self._fail(_head_too_large())
        elif self._body is None:
            if self._length is None or self._length > _WHOLE_LIMIT:
                self._stream()
        elif self._body.full and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self._ended:
            until_end = self._length is None and b"transfer-encoding" not in self._seen
            if self._in_head:
                self._fail(ServerDisconnected(self._pool.address, error))
            elif until_end and error is None:
                self._end()  # RFC 9112 6.3, rule 8
            elif self._body is not None:
                self._body.fail(BodyIncomplete())
                self._body = None
            else:
                self._fail(BodyIncomplete())
        elif self._reply is not None and not self._reply.done():
            self._reply.set_exception(ServerDisconnected(self._pool.address, error))
        if self._body is not None:
            self._body.fail(BodyIncomplete())
            self._body = None
        self._ended = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._pool.left(self)
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Reports of the parser, in this order.

    def on_message_begin(self) -> None:
        if self._ended:
            self._keep = False
            raise MalformedResponse("more than one response")
        self._fields = []
        self._seen = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        name = _lower(name)
        value = value.strip()
        if name in _WATCHED:
            self._seen[name] = value
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise MalformedResponse("unexpected switch of protocols")
            return
        if self._fed > self._pool.max_head and _size(self._fields) > self._pool.max_head:
            raise _head_too_large()
        self._in_head = False
        self._keep = self._parser.should_keep_alive()
        length = self._seen.get(b"content-length")
        self._length = None if length is None else int(length)
        self._pieces = []
        self._headers = self._fields
        self._fields = []  # further fields are trailers
        if self._head_only:
            self._ended = True
            self._keep = self._parser.get_http_version() == "1.1" and b"close" not in http1.connection_options(
                self._headers
            )
            self._answer(b"")
            # The parser would wait for the announced body, which an answer to HEAD does not have.
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        if self._body is not None:
            self._body.feed(data)
        elif not self._ended:
            self._pieces.append(data)
        else:
            self._keep = False  # a body behind an answer to HEAD

    def on_message_complete(self) -> None:
        if not self._in_head and not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        body = self._body
        if body is None:
            pieces = self._pieces
            self._answer(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        else:
            self._body = None
            body.trailers += self._fields
            body.finish()

    def _stream(self) -> None:
        """The head is here and the body is long, or of unknown length and not whole yet: hand over what there is."""
        body = self._body = IncomingBody(self._length, wanted=self._resume, dropped=self._dropped)
        for piece in self._pieces:
            body.feed(piece)
        self._pieces = []
        self._answer(body)

    def _resume(self) -> None:
        if not self._reading and not self.lost:
            self._reading = True
            self._transport.resume_reading()

    def _dropped(self) -> None:
        self._body = None
        self.drop()

    def __repr__(self) -> str:
        state = "lost" if self.lost else "idle" if self._ended else "busy"
        return f"<ClientConnection to {self._pool.address}, {state}>"


def _size(fields: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)


def _head_too_large() -> MalformedResponse:
    return MalformedResponse("response head is too large")
