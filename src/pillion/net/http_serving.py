"""One connection of the HTTP/1.1 server: requests are read, served and answered, or it is handed over to HTTP/2.

Knows: the order of requests and answers on a connection, writing with back-pressure, timeouts, graceful end. Never
knows: how a request is parsed (`http_intake`), how an answer is framed (`http_answer`), what the service does.

Requests of one connection are served one after the other. While one is in service nothing further is parsed; what the
client sends meanwhile waits unparsed, and beyond `_HELD_LIMIT` the socket is not read any more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from pillion.net import http_answer
from pillion.net.exchange import BodyIncomplete, Response
from pillion.net.http_answer import write_whole
from pillion.net.http_intake import SLICE, Exchange, Intake
from pillion.tasks import start_now
from pillion.wire import http1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.net.http_server import HttpServer

log = logging.getLogger("pillion.net.http")

_HELD_LIMIT = 65536
_DRAIN_LIMIT = 262144
"""Bytes of an unread body that are thrown away to keep a connection; more of it ends the connection."""
LINGER_S = 1.0
_LINGER_LIMIT = 64 << 20
"""Seconds and bytes that are still read, and thrown away, behind a final answer: a connection closed before its client
has stopped writing is reset, and the answer lost with it."""


class HttpConnection(Intake, asyncio.Protocol):
    """One connection. States: sniffing the first bytes, exchanging, lingering (only waiting for the client's end)."""

    __slots__ = (
        "__weakref__",
        "_advancing",
        "_current",
        "_drained",
        "_due",
        "_head_since",
        "_held",
        "_held_size",
        "_idle_since",
        "_lingering",
        "_loop",
        "_lost",
        "_reading",
        "_server",
        "_sniffed",
        "_task",
        "_timer",
        "_transport",
        "_writable",
    )

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server.service, max_body=server.max_body, max_head=server.max_head, takes_h2c=server.h2 is not None
        )
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._current: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._advancing = False
        self._held: list[bytes | memoryview] = []
        self._held_size = 0
        self._reading = True
        self._writable = True
        self._drained: asyncio.Future[None] | None = None
        self._sniffed: bytes | None = b"" if server.h2 is not None else None
        self._lingering = False
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._head_since: float | None = None
        self._idle_since = 0.0

    # The transport's reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):  # a socket for both IP versions shows IPv4 clients as ::ffff:192.0.2.1
            self._peer = (peer[0].removeprefix("::ffff:") if "." in peer[0] else peer[0], peer[1])
        self._server.connections.add(self)
        if self._server.closing and not self._server.hospitable:
            self._transport.abort()
            return
        self._head_since = self._loop.time()
        self._arm(self._head_since + self._server.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._sniffed is not None:
            data = self._sniff(data)
            if not data:
                return
        if self._current is None and not self._held and len(data) <= SLICE and not self.deaf:
            self._parse_or_hand_over(data)
        else:
            self._hold(data)
        self._advance()

    def eof_received(self) -> bool | None:
        return None  # a client that ends its side is gone: the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._held.clear()
        self.queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for exchange in (self._current, self.incoming):
            if exchange is not None and exchange.stream is not None:
                exchange.stream.fail(BodyIncomplete())
        if self._task is not None:
            self._task.cancel()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._server.left(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._advance()

    # From bytes to exchanges.

    def _sniff(self, data: bytes) -> bytes:
        """Return the bytes to parse as HTTP/1.1; none while it is undecided, or when the connection speaks HTTP/2."""
        data = (self._sniffed or b"") + data
        if data.startswith(http1.H2_PREFACE):
            self._hand_over(data)
            return b""
        if http1.H2_PREFACE.startswith(data):
            self._sniffed = data
            return b""
        self._sniffed = None
        return data

    def _hand_over(self, data: bytes, exchange: Exchange | None = None) -> None:
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._server.left(self)
        assert self._server.h2 is not None
        if exchange is None:
            self._server.h2(self._transport, data)
        else:
            self._server.h2(self._transport, data, upgrade=exchange.request, settings=exchange.settings or b"")

    def _parse_or_hand_over(self, data: bytes | memoryview) -> None:
        """Parse a slice, and answer a request for h2c when nothing stands before it."""
        rest = self.parse(data)
        if self.takes_h2c and self.queue and self.queue[-1].settings is not None:
            if self._current is None and len(self.queue) == 1 and not self._held:
                self._transport.write(http1.SWITCH_TO_H2C)
                self._hand_over(rest, self.queue.popleft())
                return
            self.queue[-1].keep_alive = False  # behind other requests: answered in HTTP/1.1, as a server may
        if self._in_head and self._head_since is None:
            self._head_since = self._loop.time()
            self._arm(self._head_since + self._server.head_timeout_s)

    def _head_arrived(self) -> None:
        self._head_since = None

    def _body_wanted(self) -> None:
        self._say_continue(self._current)
        self._advance()

    def _say_continue(self, exchange: Exchange | None) -> None:
        if exchange is not None and exchange.expects and not exchange.discarding:
            exchange.expects = False
            if not exchange.complete and not exchange.received:
                self._transport.write(http1.CONTINUE)

    def _hold(self, data: bytes) -> None:
        """Keep bytes that cannot be parsed yet; stop reading when they become many."""
        if self.deaf and not self._lingering:
            return
        if self._lingering:
            self._held_size += len(data)
            if self._held_size > _LINGER_LIMIT:
                self._transport.abort()
            return
        self._held.append(data)
        self._held_size += len(data)

    def _may_parse(self) -> bool:
        """Whether parsing serves the request at the front: none is in service, or its body is being read."""
        if self.deaf:
            return False
        current = self._current
        if current is None:
            return not self.queue
        return current is self.incoming and current.stream is not None and not current.stream.full

    def _next_slice(self) -> bytes | memoryview:
        """Take the next bytes to parse: as much as surely is body, else no more than `SLICE`."""
        data = self._held[0]
        size = SLICE
        incoming = self.incoming
        if incoming is not None and incoming.length is not None:
            size = max(SLICE, incoming.length - incoming.received)
        if len(data) <= size:
            del self._held[0]
            self._held_size -= len(data)
            return data
        view = memoryview(data)
        self._held[0] = view[size:]
        self._held_size -= size
        return view[:size]

    def _advance(self) -> None:
        """Do all that can be done now: parse what is held, start the next request, pause or resume reading."""
        if self._advancing or self._lost:
            return
        self._advancing = True
        try:
            while self._writable:
                if self._current is None and self.queue:
                    self._begin(self.queue.popleft())
                elif self._held and self._may_parse():
                    self._parse_or_hand_over(self._next_slice())
                else:
                    break
        finally:
            self._advancing = False
        if self.incoming is not None or self._held_size or self.deaf or not (self._reading and self._writable):
            self._settle()

    def _settle(self) -> None:
        """Invite a body that is waited for, set whether the socket is read, and close when nothing more can come."""
        if self._lost or self._transport.is_closing():
            return
        incoming = self.incoming
        if self._current is None and incoming is not None and incoming.expects:
            self._say_continue(incoming)
        stalled = not self._writable or (incoming is not None and incoming.stream is not None and incoming.stream.full)
        if self._held_size > _HELD_LIMIT or stalled:
            if self._reading and not self._lingering:
                self._reading = False
                self._transport.pause_reading()
        elif not self._reading:
            self._reading = True
            self._transport.resume_reading()
        if self._current is None and self.deaf and not self.queue and incoming is None and not self._lingering:
            self._linger()

    # From exchanges to answers.

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        if exchange.refusal:
            write_whole(self._transport.write, exchange.request, Response(exchange.refusal), b"", keep=False)
            self._finish(exchange, keep=False)
            return
        stream = exchange.stream
        if stream is not None:
            if stream.ended and not stream.failed:
                exchange.request.body = stream.take()
            else:
                exchange.request.body = stream
        task = start_now(self._serve(exchange), loop=self._loop)
        if self._current is exchange:  # not done yet, as an eager task may be
            self._task = task

    async def _serve(self, exchange: Exchange) -> None:
        keep = False
        try:
            try:
                response = await self._server.service.serve(exchange.request)
            except Exception:
                log.exception("request failed: %r", exchange.request)
                response = Response(500)
            body = response.body
            if not isinstance(body, bytes):
                self._say_continue(exchange)  # the answer may be made from the request's body
            keep = self._may_keep(exchange)
            if isinstance(body, bytes):
                try:
                    write_whole(self._transport.write, exchange.request, response, body, keep=keep)
                except Exception:
                    log.exception("response cannot be written: %r to %r", response, exchange.request)
                    write_whole(self._transport.write, exchange.request, Response(500), b"", keep=keep)
            else:
                keep = await self._write_stream(exchange, response, body, keep=keep)
        except asyncio.CancelledError:
            if not self._lost:
                self._transport.abort()
            raise
        finally:
            self._finish(exchange, keep=keep)

    def _may_keep(self, exchange: Exchange) -> bool:
        """Whether the connection can serve another request after this one."""
        if not exchange.keep_alive or self._server.closing:
            return False
        if exchange.complete:
            return True
        if exchange.expects or exchange.length is None:
            return False
        return exchange.length - exchange.received <= _DRAIN_LIMIT

    async def _write_stream(
        self, exchange: Exchange, response: Response, body: AsyncIterator[bytes], *, keep: bool
    ) -> bool:
        """Write a streamed answer; return whether the connection can be kept."""
        request, transport = exchange.request, self._transport
        try:
            begun = http_answer.begin(request, response, body, keep=keep)
            transport.write(begun.head)
            if not begun.has_body:
                return begun.keep
            left = begun.length
            async for piece in body:
                if not piece:
                    continue
                if left is not None:
                    left -= len(piece)
                    if left < 0:
                        raise ValueError("body is longer than its Content-Length")
                if begun.chunked:
                    http1.write_chunk(transport.write, piece)
                else:
                    transport.write(piece)
                if not self._writable:
                    await self._drain()
            if left:
                raise ValueError(f"body is {left} bytes shorter than its Content-Length")
            if begun.chunked:
                transport.write(http1.last_chunk(response.trailers))
        except Exception as error:
            # The head is out: cutting the connection is the only way left to say that the body is not whole.
            log.warning("response to %r broke off: %s: %s", request, type(error).__name__, error)
            transport.abort()
            return False
        finally:
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()
        return begun.keep

    async def _drain(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def _finish(self, exchange: Exchange, *, keep: bool) -> None:
        """Take leave of an exchange and go on with the connection, or end it."""
        self._current = self._task = None
        stream = exchange.stream
        if not exchange.complete:
            exchange.discarding = True
            if stream is not None:
                stream.fail(BodyIncomplete())
                stream.take()
                exchange.stream = None
        if self._lost:
            return
        if not keep or not exchange.keep_alive or self._server.closing:
            self.deaf = True
            self.queue.clear()
            self._linger()
            return
        if (idle_timeout_s := self._server.idle_timeout_s) is not None:
            self._idle_since = self._loop.time()
            self._arm(self._idle_since + idle_timeout_s)
        if self.queue or self._held_size or self.incoming is not None or not self._reading:
            self._advance()

    # The end, and time.

    def _linger(self) -> None:
        """Close; but when the client is still sending, read on a little so that the answer is not lost to a reset.

        A socket closed with unread data is reset, and the client may never see the answer (RFC 9112 9.6).
        """
        unread = self.incoming is not None or bool(self._held)
        self.incoming = None
        self._held.clear()
        self._held_size = 0
        if not unread or self._transport.is_closing():
            self._transport.close()
            return
        self._lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        self._arm(self._loop.time() + LINGER_S)

    @property
    def fresh(self) -> bool:
        """Whether the client is expected to ask: it has connected just now, or has begun to."""
        return self._head_since is not None

    def close_when_idle(self) -> None:
        """Close now if no request is being received or served, else after the answer."""
        if self._current is None and not self.queue and self.incoming is None and not self._in_head:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _arm(self, due: float) -> None:
        """See to it that `_tick` runs at `due` or earlier. Timers are left standing: a request costs none."""
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._lingering:
            self._transport.close()
            return
        due = None
        if self._head_since is not None:
            due = self._head_since + self._server.head_timeout_s
        elif self._current is None and self.incoming is None and self._server.idle_timeout_s is not None:
            due = self._idle_since + self._server.idle_timeout_s
        if due is None:
            return
        if self._loop.time() < due:
            self._arm(due)
            return
        if self._in_head and self._current is None:
            head = http1.response_head(408, [], http_answer.dated([], http1.CLOSE + http1.content_length(0)))
            self._transport.write(head)
        if self._current is None:
            self._transport.close()

    def __repr__(self) -> str:
        state = "lingering" if self._lingering else "busy" if self._current is not None else "idle"
        return f"<HttpConnection of {self._peer}, {state}>"
