"""The receiving half of an HTTP/1.1 server connection: bytes in, exchanges out.

Knows: what `httptools` reports, which requests are refused (RFC 9112 and request smuggling), limits of head and body.
Never knows: the socket, the service's answers, time.

`httptools` in its strict mode already refuses: Content-Length twice or beside Transfer-Encoding, a transfer coding that
does not end in chunked, bad chunk sizes, obs-fold, bare CR or LF, NUL and controls, blanks before a colon. What it
lets through and this module refuses: codings besides chunked, chunked in HTTP/1.0, several or no Host, CONNECT,
versions other than 1.0 and 1.1, targets that are neither a path nor absolute.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import httptools

from pillion.net.body import IncomingBody
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.wire import http1

if TYPE_CHECKING:
    from pillion.net.exchange import Headers, HttpService, Peer

log = logging.getLogger("pillion.net.http")

HEAD_SLACK = 4096
"""Bytes by which a head may exceed the configured limit (spec `http-api.md` 1)."""

SLICE = 8192
"""Bytes given to the parser at once while it may find new requests in them: bounds how many can be queued."""

_WATCHED = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"host", b"http2-settings"))
_UPGRADE_FIELDS = frozenset((b"upgrade", b"http2-settings", b"connection"))
_lower = http1.lower_name
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}


class Refused(Exception):
    """A request that gets no further: `status` answers it and the connection ends."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(http1.status_line(status).decode())


class Exchange:
    """One request on its way through a connection.

    `stream` is set when the service wants to read the body itself, `pieces` collects it otherwise. `complete` tells
    that the request has arrived whole; `refusal` is a status to answer instead of asking the service. `expects` is true
    while the client waits for `100 Continue`. `settings` is the HTTP2-Settings of a request that asks for h2c.
    """

    __slots__ = (
        "complete",
        "discarding",
        "expects",
        "keep_alive",
        "length",
        "pieces",
        "received",
        "refusal",
        "request",
        "settings",
        "stream",
    )

    def __init__(self, request: Request, *, keep_alive: bool) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.complete = False
        self.discarding = False
        self.expects = False
        self.refusal = 0
        self.received = 0
        self.length: int | None = None
        self.pieces: list[bytes] | None = None
        self.stream: IncomingBody | None = None
        self.settings: bytes | None = None


class Intake:
    """Feeds the parser and turns its reports into a queue of exchanges, first come first served.

    `queue` holds exchanges that are ready to be served; `incoming` is the one whose body is still arriving, which may
    be in the queue or in service already when its body is streamed. `deaf` is set when no further request is accepted.
    """

    __slots__ = (
        "_fed",
        "_fields",
        "_h2c_settings",
        "_head_limit",
        "_in_head",
        "_max_body",
        "_parser",
        "_peer",
        "_quiet",
        "_seen",
        "_service",
        "_target",
        "_upgrading",
        "deaf",
        "incoming",
        "queue",
        "takes_h2c",
    )

    def __init__(self, service: HttpService, *, max_body: int, max_head: int, takes_h2c: bool) -> None:
        self._service = service
        self._max_body = max(max_body, 0)
        self._head_limit = max_head + HEAD_SLACK
        self._peer: Peer = None
        self._parser = httptools.HttpRequestParser(self)
        self._fields: Headers = []
        self._seen: dict[bytes, bytes] = {}
        self._target = b""
        self._in_head = False
        self._fed = 0
        self._quiet = 0
        self._upgrading = False
        self._h2c_settings: bytes | None = None
        self.takes_h2c = takes_h2c
        self.queue: deque[Exchange] = deque()
        self.incoming: Exchange | None = None
        self.deaf = False

    # What the connection implements.

    def _head_arrived(self) -> None:
        raise NotImplementedError

    def _body_wanted(self) -> None:
        raise NotImplementedError

    # Feeding.

    def parse(self, data: bytes | memoryview) -> bytes:
        """Parse one slice. Return bytes that belong to another protocol (behind a request for h2c), mostly none."""
        size = len(data)
        self._fed = self._fed + size if self._in_head else size  # an upper bound of the size of any head seen
        self._quiet += size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            self._broken(error)
        if self._in_head:
            if self._fed > self._head_limit + SLICE:  # the count may include what stood before the head in its slice
                self._refuse(431)
        elif self._quiet > self._head_limit and self.incoming is not None and self.incoming.length is None:
            self._refuse(400)  # chunk extensions or trailers without end
        return b""

    def _broken(self, error: httptools.HttpParserError) -> None:
        if self.deaf:
            return  # data behind the last request of the connection
        cause = error.__context__
        if isinstance(cause, Refused):
            self._refuse(cause.status)
        elif isinstance(error, httptools.HttpParserCallbackError):
            log.error("request not accepted", exc_info=cause or error)
            self._refuse(500)
        else:
            log.debug("malformed request from %s: %s", self._peer, error)
            self._refuse(400)

    def _refuse(self, status: int) -> None:
        """End the intake. A request in the middle of its body fails; otherwise `status` is answered in turn."""
        self.deaf = True
        incoming, self.incoming = self.incoming, None
        if incoming is not None and incoming.stream is not None:
            incoming.keep_alive = False
            incoming.stream.fail(BodyIncomplete())
            return
        if incoming is not None and incoming.discarding:
            incoming.keep_alive = False
            return
        exchange = Exchange(Request("GET", b"/", []), keep_alive=False)
        exchange.refusal = status
        self.queue.append(exchange)

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Parse the request again as if it had not asked for an upgrade, which a server may ignore (RFC 9110 7.8).

        The parser cannot be told so, and leaves out the body of such a request. Only h2c is ever agreed to, and only
        for a request without a body, because what follows it must not reach the HTTP/1.1 parser.
        """
        self._upgrading = False
        self._quiet = 0
        seen, fields = self._seen, self._fields
        if (
            self.takes_h2c
            and b"h2c" in [name.strip() for name in seen.get(b"upgrade", b"").lower().split(b",")]
            and seen.get(b"content-length", b"0") == b"0"
            and b"transfer-encoding" not in seen
        ):
            self._h2c_settings = seen.get(b"http2-settings")
        head = self._plain_head(fields)
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = False
        before = self.queue[-1] if self.queue else None
        self.parse(head)
        self._h2c_settings = None
        if self.queue and self.queue[-1] is not before and self.queue[-1].settings is not None:
            self.deaf = True
            return rest
        return self.parse(rest) if rest and not self.deaf else b""

    def _plain_head(self, fields: Headers) -> bytes:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        options = http1.connection_options(fields) - {b"upgrade", b"http2-settings"}
        lines = [b"%b: %b\r\n" % field for field in fields if field[0] not in _UPGRADE_FIELDS]
        lines.append(b"connection: %b\r\n\r\n" % (b", ".join(sorted(options)) or b"keep-alive"))
        return b"%b %b HTTP/%b\r\n%b" % (method, self._target, version, b"".join(lines))

    # Reports of the parser, in this order.

    def on_message_begin(self) -> None:
        self._in_head = True
        self._fields = []
        self._seen = {}
        self._target = b""

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        name = _lower(name)
        value = value.strip()
        if name in _WATCHED:
            if name == b"host" and name in self._seen:
                raise Refused(400)
            self._seen[name] = value
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        seen = self._seen
        self._in_head = False
        if b"upgrade" in seen and parser.should_upgrade():
            self._upgrading = True
            return
        version = parser.get_http_version()
        if version != "1.1" or b"host" not in seen:
            self._check_version(version)
        if self._fed > self._head_limit and self._head_size() > self._head_limit:
            raise Refused(431)
        target = self._target
        if target[0] != 47:  # "/"
            target = self._check_target(target)
        verb = parser.get_method()
        method = _METHODS.get(verb) or verb.decode()
        if method == "CONNECT":
            raise Refused(400)
        request = Request(method, target, self._fields, b"", peer=self._peer, version=version)
        exchange = self.incoming = Exchange(request, keep_alive=parser.should_keep_alive())
        exchange.settings = self._h2c_settings
        if b"transfer-encoding" in seen or b"content-length" in seen or b"expect" in seen:
            self._expect_body(exchange, seen)
        self._head_arrived()

    def on_body(self, data: bytes) -> None:
        exchange = self.incoming
        self._quiet = 0
        if exchange is None:
            return
        exchange.received += len(data)
        if exchange.stream is not None:
            exchange.stream.feed(data)
        elif not exchange.discarding and exchange.pieces is not None:
            exchange.pieces.append(data)
            if self._max_body and exchange.received > self._max_body:
                self._too_large(exchange)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        exchange = self.incoming
        if exchange is None:
            return
        self.incoming = None
        self._quiet = 0
        exchange.complete = True
        if not exchange.keep_alive:
            self.deaf = True
        if exchange.stream is not None:
            if exchange.length is None:
                exchange.stream.trailers = [field for field in self._fields if field[0] not in _WATCHED]
            exchange.stream.finish()
        elif not exchange.discarding:
            if exchange.pieces is not None:
                exchange.request.body = b"".join(exchange.pieces)
                exchange.pieces = None
            self.queue.append(exchange)

    # Decisions.

    def _check_version(self, version: str) -> None:
        if version not in ("1.0", "1.1"):
            raise Refused(505)
        if version == "1.1" or b"transfer-encoding" in self._seen:
            raise Refused(400)  # no Host (RFC 9112 3.2), or a coding that HTTP/1.0 does not have (6.1)

    def _check_target(self, target: bytes) -> bytes:
        path = http1.origin_form(target)
        if path is None:
            raise Refused(400)
        return path

    def _head_size(self) -> int:
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)

    def _expect_body(self, exchange: Exchange, seen: dict[bytes, bytes]) -> None:
        """Decide how the body of `exchange` will be taken: streamed, collected or thrown away."""
        request = exchange.request
        coding = seen.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked":
                raise Refused(501)  # RFC 9112 6.1
            self._fields = []  # further fields are trailers
        else:
            exchange.length = int(seen.get(b"content-length", b"0"))
            if exchange.length == 0:
                return
        if (expects := seen.get(b"expect")) is not None and request.version == "1.1":
            if expects.lower() != b"100-continue":
                raise Refused(417)
            exchange.expects = True
        if self._service.streams(request.method, request.target, request.headers):
            exchange.stream = IncomingBody(exchange.length, limit=self._max_body, wanted=self._body_wanted)
            self.queue.append(exchange)
        elif self._max_body and exchange.length is not None and exchange.length > self._max_body:
            self._too_large(exchange)
        else:
            exchange.pieces = []

    def _too_large(self, exchange: Exchange) -> None:
        """Let the service answer without the body; whatever else arrives of it is thrown away."""
        exchange.request.failure = BodyTooLarge()
        exchange.pieces = None
        exchange.discarding = True
        self.queue.append(exchange)
