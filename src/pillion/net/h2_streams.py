"""HTTP requests on the streams of an HTTP/2 server connection, and the body that both roles read.

Knows: how a stream becomes a `Request` and a `Response` becomes frames. Never knows: sockets, gRPC, what is served.
"""

from __future__ import annotations

import asyncio
import logging
from time import time
from typing import TYPE_CHECKING

from pillion.net.body import IncomingBody
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response
from pillion.wire.h2_frames import ErrorCode
from pillion.wire.h2_headers import Fields, RequestHead, Trailers, encode
from pillion.wire.h2_stream import Stream
from pillion.wire.http1 import date

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import Headers, HttpService
    from pillion.net.h2_server import H2ServerConnection

log = logging.getLogger("pillion.net.h2")

NOT_IN_HTTP2 = frozenset((
    b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings", b"te",
))  # fmt: skip


def plain(headers: Headers) -> Fields:
    """Return headers as HTTP/2 may carry them (RFC 9113 8.2.2): lower case, nothing that speaks of a connection."""
    return [(name.lower(), value.strip(b" \t")) for name, value in headers if name.lower() not in NOT_IN_HTTP2]


class Body(IncomingBody):
    """The `BodyStream` of one HTTP/2 stream: what is taken from it opens the peer's window."""

    __slots__ = ("_stream",)

    def __init__(
        self, stream: Stream, length: int | None, *, limit: int = 0, dropped: Callable[[], None] | None = None
    ) -> None:
        super().__init__(length, limit=limit, wanted=_nothing, dropped=dropped)
        self._stream = stream

    def arrived(self, data: bytes, ended: bool) -> None:
        """Take a DATA frame; behind an error nobody will read it."""
        if data:
            self.feed(data)
        if self.failed:
            self._stream.connection.consume(self._stream, len(data))
        if ended:
            self.finish()

    def take(self) -> bytes:
        data = super().take()
        self._stream.connection.consume(self._stream, len(data))
        return data


def _nothing() -> None:
    """The window alone says when the peer may send."""


class Sender(Stream):
    """A stream whose users wait while the peer's window is closed."""

    _flushed: asyncio.Future[None] | None = None

    async def flushed(self) -> None:
        """Wait until everything has been sent, or the stream is gone. Several may wait."""
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._flushed)

    async def write(self, data: bytes, *, end: bool = False) -> None:
        if not self.connection.send_data(self, data, end=end):
            await self.flushed()

    def drained(self) -> None:
        if self._flushed is not None:
            self._flushed.set_result(None)
            self._flushed = None


class Timed(Sender):
    """A stream that has to be over by a time: `deadline` on the loop's clock, None without one.

    All of a connection are watched by one timer (`Driver.watch`): most calls end long before, and a timer each costs
    more than reading them.
    """

    deadline: float | None = None

    def expired(self) -> None:
        """The deadline has passed, and the stream is still open."""
        raise NotImplementedError


class HttpSide:
    """What all requests of a server share."""

    def __init__(self, service: HttpService, max_body: int) -> None:
        self.service = service
        self.max_body = max_body
        self.calls: set[asyncio.Task[None]] = set()

    def plan(self, head: RequestHead) -> Callable[[H2ServerConnection, int], HttpExchange]:
        def make(connection: H2ServerConnection, stream_id: int) -> HttpExchange:
            return HttpExchange(connection, stream_id, self)

        return make

    async def calls_ended(self) -> None:
        """Wait for the handlers that are still unwinding after their cancellation."""
        if self.calls:
            await asyncio.wait(self.calls)


def refuse(status: int) -> Callable[[H2ServerConnection, int], Refusal]:
    """Return the maker of streams that answer with a bare status."""
    return lambda connection, stream_id: Refusal(connection, stream_id, status)


class Refusal(Stream):
    """A request that nobody serves."""

    def __init__(self, server: H2ServerConnection, stream_id: int, status: int) -> None:
        super().__init__(server.h2, stream_id)
        self._status = status

    def received_head(self, head: RequestHead, ended: bool) -> None:
        refuse_stream(self, self._status, ended)


def refuse_stream(stream: Stream, status: int, ended: bool) -> None:
    """Answer with a bare status, and ask a client that still sends to stop."""
    block = encode([(b":status", b"%d" % status), (b"content-length", b"0")])
    stream.connection.send_head(stream, block, end=True)
    if not ended:
        stream.connection.reset(stream, ErrorCode.NO_ERROR)


class HttpExchange(Sender):
    """One request and its response."""

    _body: Body | None = None
    _parts: list[bytes] | None = None
    _size = 0
    _task: asyncio.Task[None] | None = None

    def __init__(self, server: H2ServerConnection, stream_id: int, side: HttpSide) -> None:
        super().__init__(server.h2, stream_id)
        self.server = server
        self.side = side

    def received_head(self, head: RequestHead, ended: bool) -> None:
        self._head = head
        if ended:
            self._start(b"")
            return
        most = self.side.max_body
        if (b"expect", b"100-continue") in head.headers:
            self.connection.send_head(self, _CONTINUE)
        try:
            streams = self.side.service.streams(head.method, head.path, head.all_headers())
        except Exception:
            log.exception("choosing how to read %s failed", head.path)
            refuse_stream(self, 500, ended)
            return
        if streams:
            self._body = Body(self, head.content_length, limit=max(most, 0))
            self._start(self._body)
        elif head.content_length is not None and head.content_length > most > 0:
            self._start(b"", BodyTooLarge())
        else:
            self._parts = []

    def received_data(self, data: bytes, ended: bool) -> None:
        if self._body is not None:
            self._body.arrived(data, ended)
            return
        self.connection.consume(self, len(data))
        if self._parts is None:
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > self.side.max_body > 0:
            self._parts = None
            self._start(b"", BodyTooLarge())
        elif ended:
            self._collected()

    def _collected(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            self._start(parts[0] if len(parts) == 1 else b"".join(parts))

    def received_trailers(self, trailers: Trailers) -> None:
        if self._body is not None:
            self._body.trailers.extend(trailers.headers)
            self._body.finish()
        else:
            self._collected()

    def was_reset(self, code: int, text: str) -> None:
        self.drained()
        if self._body is not None:
            self._body.fail(BodyIncomplete())
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _start(self, body: bytes | Body, failure: BodyTooLarge | None = None) -> None:
        head = self._head
        request = Request(
            head.method, head.path, head.all_headers(), body, peer=self.server.peer, version="2", failure=failure
        )
        self._task = self.server.loop.create_task(self._serve(request))
        self.side.calls.add(self._task)
        self._task.add_done_callback(self.side.calls.discard)

    async def _serve(self, request: Request) -> None:
        try:
            response = await self.side.service.serve(request)
        except Exception:
            log.exception("%r failed", request)
            response = Response(500)
        if self.closed:
            await _abandon(response)
            return
        try:
            await self._answer(response)
        except Exception:
            log.exception("the answer to %r broke off", request)
            self.connection.reset(self, ErrorCode.INTERNAL_ERROR)
        finally:
            await _abandon(response)
        if self.local_ended and not self.remote_ended:
            self.connection.reset(self, ErrorCode.NO_ERROR)

    async def _answer(self, response: Response) -> None:
        fields = [(b":status", b"%d" % response.status), *plain(response.headers)]
        if not any(name == b"date" for name, _ in fields):
            fields.append((b"date", date(int(time()))))  # RFC 9110 6.6.1
        body, trailers = response.body, plain(response.trailers or [])
        bare = self._head.method == "HEAD" or response.status in (204, 304)
        if isinstance(body, bytes):
            if response.status not in (204, 304) and not any(name == b"content-length" for name, _ in fields):
                fields.append((b"content-length", b"%d" % len(body)))
            bare = bare or not body
        self.connection.send_head(self, encode(fields), end=bare and not trailers)
        if not bare:
            if isinstance(body, bytes):
                await self.write(body, end=not trailers)
            else:
                async for piece in body:
                    if piece:
                        await self.write(piece)
                if not trailers:
                    await self.write(b"", end=True)
        if trailers:
            self.connection.send_head(self, encode(trailers), end=True)


async def _abandon(response: Response) -> None:
    """Close the body's iterator; one that has ended does not mind."""
    close = getattr(response.body, "aclose", None)
    if close is not None:
        await close()


_CONTINUE = encode([(b":status", b"100")])
