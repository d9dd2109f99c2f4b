"""The HTTP/2 client for plain requests: h2c with prior knowledge, or TLS with ALPN.

Knows: how a `Request` becomes a stream and a stream a `Response`, bodies streaming both ways. Never knows: sockets,
pooling (`h2_pool`), what is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.net.exchange import BodyIncomplete, Response
from pillion.net.h2_pool import CannotConnect, ClientConnection, Pool, PoolClosed, PoolOptions
from pillion.net.h2_streams import Body, Sender, plain
from pillion.net.http_client import ConnectFailed, HttpError, MalformedResponse, ServerDisconnected
from pillion.wire.h2_frames import ErrorCode
from pillion.wire.h2_headers import ResponseHead, Trailers, encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pillion.net.exchange import BodyStream, Request

log = logging.getLogger("pillion.net.h2")

_WHOLE_LIMIT = 65536
"""A body announced to be no longer than this many bytes is collected and returned as `bytes`."""


class H2Client:
    """A client of one server; the address is that of `Pool`. Many requests share a connection."""

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        check: Callable[[ssl.SSLObject], None] | None = None,
        options: PoolOptions | None = None,
    ) -> None:
        self.pool = Pool(address, tls=tls, server_name=server_name, check=check, options=options)
        authority = server_name or ("localhost" if address.startswith("unix:") else address)
        self._authority = authority.encode("latin-1", "replace")
        self._scheme = b"http" if tls is None else b"https"

    async def request(self, request: Request, *, timeout_s: float | None = None) -> Response:
        """Send `request` and return the answer once its head - of a short answer: all of it - has arrived.

        A longer or unending body is a `BodyStream`: iterate it to its end or `aclose` it, else its stream stays
        occupied. `timeout_s` covers the time to the return of this call (`TimeoutError`). Raises `ConnectFailed`,
        `ServerDisconnected`, `BodyIncomplete` when a short body breaks off, `MalformedResponse`, and whatever reading
        a streamed request body raises.
        """
        async with asyncio.timeout(timeout_s):
            try:
                return await self._attempt(request)
            except _Unprocessed as error:
                if not isinstance(request.body, bytes):
                    raise ServerDisconnected(self.pool.address, error) from error
            try:
                return await self._attempt(request)
            except _Unprocessed as error:
                raise ServerDisconnected(self.pool.address, error) from error

    async def _attempt(self, request: Request) -> Response:
        try:
            connection = self.pool.ready() or await self.pool.connection()
        except CannotConnect as error:
            raise ConnectFailed(error.address, OSError(0, error.reason)) from error
        except PoolClosed:
            raise HttpError("the client is closed") from None
        exchange = ClientExchange(connection, request.method)
        body = request.body
        exchange.connection.open(exchange, self._head(request), end=body == b"")
        if not isinstance(body, bytes):
            exchange.uploading = asyncio.get_running_loop().create_task(exchange.pump(body))
        elif body:
            connection.h2.send_data(exchange, body, end=True)
        try:
            return await exchange.answer
        except BaseException:
            exchange.cancel()
            raise

    def _head(self, request: Request) -> bytes:
        authority = request.header(b"host") or self._authority
        fields = [
            (b":method", request.method.encode("latin-1")),
            (b":scheme", self._scheme),
            (b":path", request.target),
            (b":authority", authority),
            *((name, value) for name, value in plain(request.headers) if name != b"host"),
        ]
        if not request.header(b"content-length"):
            length = len(request.body) if isinstance(request.body, bytes) else request.body.length
            if length or (length == 0 and request.method in ("POST", "PUT", "PATCH")):
                fields.append((b"content-length", b"%d" % length))
        return encode(fields)

    async def close(self) -> None:
        """End every request and connection."""
        await self.pool.close()

    def __repr__(self) -> str:
        return f"<H2Client to {self.pool.address}>"


class _Unprocessed(Exception):
    """The server did not look at the request (RFC 9113 8.7)."""


class ClientExchange(Sender):
    """One request and its response."""

    uploading: asyncio.Task[None] | None = None
    _body: Body | None = None
    _whole: list[bytes] | None = None

    def __init__(self, connection: ClientConnection, method: str) -> None:
        super().__init__(connection.h2, connection.h2.next_id)
        self.pool = connection.pool
        self.answer: asyncio.Future[Response] = connection.loop.create_future()
        if method == "HEAD":
            self.expected = 0

    async def pump(self, body: BodyStream) -> None:
        """Send a body that is still arriving."""
        try:
            async for piece in body:
                if self.closed or self.ending:
                    return
                await self.write(piece)
            if body.trailers:
                self.connection.send_head(self, encode(plain(body.trailers)), end=True)
            else:
                await self.write(b"", end=True)
        except Exception as error:
            if not self.answer.done():
                self.answer.set_exception(error)
            else:
                log.info("the body of %r broke off: %s", self, error)
            self.cancel()

    def received_head(self, head: ResponseHead, ended: bool) -> None:
        if head.status < 200:
            return
        self._response = Response(head.status, list(head.headers))
        if ended:
            self._done(b"")
        elif head.content_length is not None and head.content_length <= _WHOLE_LIMIT and self.expected != 0:
            self._whole = []
        else:
            self._body = Body(self, head.content_length, dropped=self.cancel)
            self._response.body = self._body
            self._answer()

    def received_data(self, data: bytes, ended: bool) -> None:
        if self._body is not None:
            self._body.arrived(data, ended)
        else:
            self.connection.consume(self, len(data))
            if self._whole is not None:
                self._whole.append(data)
        if ended:
            self._end()

    def received_trailers(self, trailers: Trailers) -> None:
        if self._body is not None:
            self._body.trailers.extend(trailers.headers)
            self._body.finish()
        else:
            self._response.trailers = list(trailers.headers)
        self._end()

    def _end(self) -> None:
        if self._whole is not None:
            self._done(b"".join(self._whole))
        elif self._body is None:
            self._done(b"")
        self._ended()

    def _done(self, body: bytes) -> None:
        self._response.body = body
        self._answer()
        self._ended()

    def _answer(self) -> None:
        if not self.answer.done():
            self.answer.set_result(self._response)

    def _ended(self) -> None:
        if self.pool.crowded:
            self.pool.freed()

    def was_reset(self, code: int, text: str) -> None:
        self._stop()
        if self._body is not None:
            self._body.fail(BodyIncomplete())
        if self.answer.done():
            return
        error: Exception
        if code == ErrorCode.REFUSED_STREAM:
            error = _Unprocessed(text)
        elif self._whole is not None:
            error = BodyIncomplete()
        elif code == ErrorCode.PROTOCOL_ERROR:
            error = MalformedResponse(f"{self.pool.address}: {text}")
        else:
            error = ServerDisconnected(self.pool.address, ConnectionError(text))
        self.answer.set_exception(error)

    def _stop(self) -> None:
        """The stream is gone, and the upload with it."""
        self.drained()
        self._ended()
        if self.uploading is not None and self.uploading is not asyncio.current_task():
            self.uploading.cancel()

    def cancel(self) -> None:
        """Nobody waits for the rest."""
        self.connection.reset(self, ErrorCode.CANCEL)
        self._stop()
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()
