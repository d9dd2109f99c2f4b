"""The driver of server connections: asyncio's transport on one side, the HTTP/2 machine on the other.

Knows: sockets, timers, keepalive, the graceful end. Never knows: what a request means; `grpc_server` and `h2_streams`
make the stream objects that do. One `H2Server` stands for all connections that share services and limits.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from dataclasses import field
from typing import TYPE_CHECKING, cast

from pillion.net.grpc_server import GrpcOptions, GrpcSide
from pillion.net.h2_driver import Driver, Keepalive
from pillion.net.h2_streams import HttpSide, plain, refuse
from pillion.records import record
from pillion.wire.h2_frames import ErrorCode, H2Error, error_name
from pillion.wire.h2_headers import Malformed, RequestHead
from pillion.wire.h2_limits import Limits
from pillion.wire.h2_stream import Stream

if TYPE_CHECKING:
    from pillion.net.exchange import GrpcService, HttpService, Peer, Request

log = logging.getLogger("pillion.net.h2")

_MAX_STRIKES = 2
_DRAIN_S = 1.0


@record
class ServerOptions:
    """What all connections of a server share. `max_body` bounds HTTP bodies, bytes; 0: no bound."""

    limits: Limits = field(default_factory=Limits)
    keepalive: Keepalive = field(default_factory=Keepalive)
    grpc: GrpcOptions = field(default_factory=GrpcOptions)
    max_body: int = 4 << 20
    min_ping_interval_s: float | None = 8.0
    """Clients that ping faster are sent away; grpc A8 forgives two."""


class H2Server:
    """Serves gRPC, plain HTTP/2 or both; requests of content type application/grpc go to `grpc` when it is given.

    A factory of connections for listeners: `await listen.tcp(server, ...)`. On a port shared with HTTP/1.1 give
    `take_over` to the `HttpServer`.
    """

    def __init__(
        self,
        *,
        grpc: GrpcService | None = None,
        http: HttpService | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self.grpc = None if grpc is None else GrpcSide(grpc, self.options.grpc)
        self.http = None if http is None else HttpSide(http, self.options.max_body)
        self.connections: set[H2ServerConnection] = set()
        self._closing = False
        self._changed = asyncio.Event()

    def __call__(self) -> H2ServerConnection:
        """Return a protocol for a new transport: the factory that listeners ask for."""
        return H2ServerConnection(self)

    def take_over(
        self,
        transport: asyncio.Transport,
        first_bytes: bytes,
        *,
        upgrade: Request | None = None,
        settings: bytes = b"",
    ) -> H2ServerConnection:
        """Serve a connection of another protocol from here on (`http_server.H2Factory`).

        Without `upgrade`, `first_bytes` is all that was read, the HTTP/2 preface included. With it, `Upgrade: h2c`
        was accepted (RFC 7540 3.2): the 101 is written, the body of the request is there as bytes, `settings` is the
        value of its HTTP2-Settings and `first_bytes` what came behind it. The answer goes out on stream 1.
        """
        connection = H2ServerConnection(self)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if upgrade is not None:
            connection.upgraded(upgrade, settings)
        if first_bytes:
            connection.data_received(first_bytes)
        return connection

    async def close(self, grace_s: float = 0.0) -> None:
        """Announce the end to every client, wait up to `grace_s` for open calls, cancel the rest.

        Listeners are their owner's to close, before this.
        """
        self._closing = True
        for connection in list(self.connections):
            connection.drain()
        if grace_s > 0:
            loop = asyncio.get_running_loop()
            until = loop.time() + grace_s
            while self.connections and (left := until - loop.time()) > 0:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), left)
                except TimeoutError:
                    break
        for connection in list(self.connections):
            connection.finish()
        while self.connections:
            self._changed.clear()
            await self._changed.wait()
        if self.grpc is not None:
            await self.grpc.calls_ended()
        if self.http is not None:
            await self.http.calls_ended()

    def opened(self, connection: H2ServerConnection) -> None:
        self.connections.add(connection)
        if self._closing:
            connection.drain()

    def gone(self, connection: H2ServerConnection) -> None:
        self.connections.discard(connection)
        self._changed.set()

    def __repr__(self) -> str:
        return f"<H2Server {len(self.connections)} connections>"


def _upgraded_head(request: Request) -> RequestHead:
    """Return the HTTP/2 head of a request that came by HTTP/1.1. Raises `H2Error`."""
    try:
        return RequestHead(
            [
                (b":method", request.method.encode("latin-1")),
                (b":scheme", b"http"),
                (b":path", request.target),
                *plain(request.headers),
            ]
        )
    except Malformed as error:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, str(error)) from error


def _settings_payload(value: bytes) -> bytes:
    try:
        return urlsafe_b64decode(value + b"=" * (-len(value) % 4))
    except Base64Error as error:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "HTTP2-Settings is not base64url") from error


class H2ServerConnection(Driver):
    """One connection of an `H2Server`."""

    def __init__(self, server: H2Server) -> None:
        options = server.options
        super().__init__(client=False, limits=options.limits, keepalive=options.keepalive)
        self.server = server
        self.peer: Peer = None
        self._grpc = server.grpc
        self._http = server.http
        self._strikes = 0
        self._pinged_at = float("-inf")
        self._frames_at_ping = -1
        self._draining = False
        self.unfinished = 0
        """gRPC handlers that have not ended, those included whose streams are gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and len(peer) >= 2:
            self.peer = (peer[0], peer[1])
        super().connection_made(transport)
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server.gone(self)

    # -- what the machine tells ---------------------------------------------------------------------------------------

    def accept(self, stream_id: int, head: RequestHead) -> Stream:
        family = head.family
        make = family.plan
        if make is None:
            make = family.plan = self._plan(family)
        return cast(Stream, make(self, stream_id))

    def _plan(self, head: RequestHead) -> object:
        """Decide once for all requests of a family who serves them."""
        if head.method == "CONNECT":
            return refuse(405)
        content_type = next((value for name, value in head.headers if name == b"content-type"), b"")
        if content_type.startswith(b"application/grpc") and self._grpc is not None:
            return self._grpc.plan(head, content_type)
        if self._http is not None:
            return self._http.plan(head)
        return refuse(415 if self._grpc is not None else 404)

    def pinged(self) -> None:
        """Hold clients to the least ping interval as grpc A8 has it: what we sent in between forgives all strikes."""
        least = self.server.options.min_ping_interval_s
        if least is None:
            return
        now = self.read_at
        if self.h2.frames_sent != self._frames_at_ping:
            self._strikes = 0
        elif now - self._pinged_at < least:
            self._strikes += 1
            if self._strikes > _MAX_STRIKES:
                raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._frames_at_ping = self.h2.frames_sent
        self._pinged_at = now

    def going_away(self, last_id: int, code: int, text: bytes) -> None:
        """A client that says goodbye gets the answers it still waits for."""
        if code:
            log.info("%r: GOAWAY %s %s", self, error_name(code), text[:200].decode("utf-8", "replace"))
        self.loop.call_later(_DRAIN_S, self._close_drained)  # usually the client closes first

    def quiet(self) -> None:
        self.busy_at = self.read_at
        if self.h2.refusing or self.h2.goaway_received:
            self.loop.call_soon(self._close_drained)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def idled(self) -> None:
        self.drain()

    def _close_drained(self) -> None:
        if not self.h2.streams:
            self._close()

    def drain(self) -> None:
        """Begin the graceful end: two GOAWAYs one round trip apart, then the end of the last stream."""
        if not self._draining and not self.is_lost:
            self._draining = True
            self.h2.drain()
            # A client that does not answer the PING gets the final GOAWAY a little later all the same.
            self.loop.call_later(_DRAIN_S, self.h2.refuse_new)

    def finish(self) -> None:
        """End now: open calls are cancelled."""
        if self.is_lost:
            return
        self.h2.refuse_new()
        for stream in list(self.h2.streams.values()):
            self.h2.reset(stream, ErrorCode.CANCEL)
            stream.was_reset(ErrorCode.CANCEL, "the server is shutting down")
        self._close()

    def upgraded(self, request: Request, settings: bytes) -> None:
        """Begin with stream 1 as `H2Server.take_over` describes it."""
        body = request.body if isinstance(request.body, bytes) else b""
        try:
            head = _upgraded_head(request)
            stream = self.h2.open_upgraded(head, _settings_payload(settings))
        except H2Error as error:
            self.h2.fail(error)
            return
        stream.received_head(head, not body)
        if body:
            stream.received_data(body, True)

    def __repr__(self) -> str:
        return f"<H2ServerConnection from {self.peer}: {self.h2!r}>"
