"""The HTTP/1.1 client: requests to one server over pooled connections.

Knows: pooling, what may be sent again, back-pressure of bodies both ways. Never knows: who the server is to the house,
redirects, proxies, cookies. Nothing is retried, except what provably or very likely never reached a server
(`_may_repeat`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from pillion.net.body import IncomingBody
from pillion.net.exchange import BodyIncomplete, Response
from pillion.wire import http1

if TYPE_CHECKING:
    from pillion.net.exchange import BodyStream, Headers, Request

_WHOLE_LIMIT = 65536
"""A body announced to be no longer than this many bytes is collected and returned as `bytes`."""
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_WITH_LENGTH = frozenset(("POST", "PUT", "PATCH"))
_STALE_S = 1.0
_WATCHED = frozenset((b"content-length", b"transfer-encoding"))


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


class HttpClient:
    """A client of one server. At most `max_connections` are open, of which `max_idle` are kept while unused.

    `max_head` limits response heads in bytes. `tls` makes the connections TLS, `server_name` is then the name that is
    asked for and verified. `unix` is the path of a socket file to use instead of `host` and `port`.
    """

    def __init__(
        self,
        host: str,
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        unix: str | None = None,
        max_connections: int = 1024,
        max_idle: int = 64,
        max_head: int = 65536,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self.address = unix if unix is not None else _authority(host, port)
        self.host_header = _host_header(host, port, tls=tls is not None).encode()
        self.max_head = max_head
        self._host, self._port, self._unix = host, port, unix
        self._tls, self._server_name = tls, server_name
        self._max_connections, self._max_idle = max_connections, max_idle
        self._connect_timeout_s = connect_timeout_s
        self._open: set[ClientConnection] = set()
        self._opening = 0
        self._idle: deque[ClientConnection] = deque()
        self._waiting: deque[asyncio.Future[ClientConnection | None]] = deque()
        self._closed = False

    async def request(self, request: Request, *, timeout_s: float | None = None) -> Response:
        """Send `request` and return the answer once its head - of a short answer: all of it - has arrived.

        A longer or unending body is an `IncomingBody`: iterate it to its end or `aclose` it, else its connection stays
        occupied. `timeout_s` covers the time to the return of this call (`TimeoutError`). Raises `ConnectFailed`,
        `ServerDisconnected`, `BodyIncomplete` when a short body breaks off, `MalformedResponse`, `ValueError` for a
        request that cannot be written, and whatever reading a streamed request body raises.
        """
        if timeout_s is not None:
            async with asyncio.timeout(timeout_s):
                return await self.request(request)
        body = request.body
        whole = isinstance(body, bytes)
        if isinstance(body, bytes):
            tail = http1.content_length(len(body)) if body or request.method in _WITH_LENGTH else http1.END
        else:
            tail = http1.CHUNKED if body.length is None else http1.content_length(body.length)
        head = http1.request_head(request.method, request.target, self.host_header, request.headers, tail)
        connection = self._idle.pop() if self._idle else await self._connection()
        try:
            return await connection.exchange(request, head)
        except ServerDisconnected:
            if not whole or not connection.may_repeat(request.method):
                raise
        connection = await self._connection(fresh=True)
        return await connection.exchange(request, head)

    async def _connection(self, *, fresh: bool = False) -> ClientConnection:
        """Return an idle connection, or a new one when there is none or `fresh` is wanted; wait while all are busy."""
        while True:
            if self._closed:
                raise ConnectFailed(self.address, ConnectionAbortedError("the client is closed"))
            if self._idle and not fresh:
                return self._idle.pop()
            if len(self._open) + self._opening < self._max_connections:
                return await self._connect()
            if self._idle:
                self._idle.popleft().drop()  # makes room for a fresh one
            waiter: asyncio.Future[ClientConnection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._pass_on(waiter.result())
                else:
                    self._waiting.remove(waiter)
                raise
            if connection is not None and not connection.lost:
                return connection

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        self._opening += 1
        connection = ClientConnection(self, loop)
        name = (self._server_name or self._host) if self._tls is not None else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._unix is not None:
                    await loop.create_unix_connection(
                        lambda: connection, self._unix, ssl=self._tls, server_hostname=name
                    )
                else:
                    await loop.create_connection(
                        lambda: connection, self._host, self._port, ssl=self._tls, server_hostname=name
                    )
        except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            self._pass_on(None)
            raise ConnectFailed(self.address, error) from error
        except BaseException:
            self._pass_on(None)
            raise
        finally:
            self._opening -= 1
        if self._closed:
            connection.drop()
        return connection

    def joined(self, connection: ClientConnection) -> None:
        """Take note of a connection that was established."""
        self._open.add(connection)

    def release(self, connection: ClientConnection) -> None:
        """Take back a connection after a whole exchange: for the next in the queue, the pool, or the dustbin."""
        if self._closed:
            connection.drop()
        elif self._waiting:
            self._pass_on(connection)
        elif len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            connection.drop()

    def left(self, connection: ClientConnection) -> None:
        """Forget a connection that was lost; its place is free."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._pass_on(None)

    def _pass_on(self, connection: ClientConnection | None) -> None:
        """Give a connection, or the right to open one, to the first that still waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is not None and not connection.lost:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close all connections, the busy ones too, and wait until they are gone."""
        self._closed = True
        while self._waiting:
            self._pass_on(None)
        gone = [connection.drop() for connection in list(self._open)]
        self._idle.clear()
        if gone:
            await asyncio.wait(gone)

    def __repr__(self) -> str:
        busy = len(self._open) - len(self._idle)
        return f"<HttpClient of {self.address}: {busy} busy, {len(self._idle)} idle, {len(self._waiting)} waiting>"


class ClientConnection(asyncio.Protocol):
    """One connection: one exchange at a time, any number one after the other."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_client",
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

    def __init__(self, client: HttpClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
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
            raise ServerDisconnected(self._client.address, None)
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
        self._client.release(self)

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
        self._client.joined(self)

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
            if self._fed > self._client.max_head:
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
                self._fail(ServerDisconnected(self._client.address, error))
            elif until_end and error is None:
                self._end()  # RFC 9112 6.3, rule 8
            elif self._body is not None:
                self._body.fail(BodyIncomplete())
                self._body = None
            else:
                self._fail(BodyIncomplete())
        elif self._reply is not None and not self._reply.done():
            self._reply.set_exception(ServerDisconnected(self._client.address, error))
        if self._body is not None:
            self._body.fail(BodyIncomplete())
            self._body = None
        self._ended = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._client.left(self)
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
        name = name.lower()
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
        if self._fed > self._client.max_head and _size(self._fields) > self._client.max_head:
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
        return f"<ClientConnection to {self._client.address}, {state}>"


def _authority(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_header(host: str, port: int, *, tls: bool) -> str:
    """Return the value of `Host`: without the port where it is the scheme's own, or a socket file is used."""
    if port in (0, 443 if tls else 80):
        return f"[{host}]" if ":" in host else host
    return _authority(host, port)


def _size(fields: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)


def _head_too_large() -> MalformedResponse:
    return MalformedResponse("response head is too large")
