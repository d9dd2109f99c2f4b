"""A call of one application by another, as values between those who receive, carry and answer it.

Knows: what a call consists of, whichever protocol it came with. Never knows: HTTP connections, frames, sidecars.
Headers are (lower-case name, value) pairs in HTTP's sense; names that end in `-bin` carry base64 text. Hop-by-hop
headers, `content-type`, `content-length` and the trace context are not among them: they have fields of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.wire.http1 import HOP_BY_HOP
from pillion.wire.methods import named_in_connection
from pillion.wire.trace import MAX_STATE, NONE, valid_parent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")
Header = tuple[bytes, bytes]
Headers = list[Header]
MOST_GATHERED = 64 << 20
"""Bytes of a body that has to become one message: what gRPC applications and clients get of a stream."""
EVENT_STREAM = b"text/event-stream"
_USUAL = (b"keep-alive", b"close", b"Keep-Alive", b"TE", b"")


_PASS, _DROP, _ODD, _TYPE, _LENGTH, _PARENT, _STATE, _BAGGAGE, _ACCEPT, _CONNECTION, _RELAY, _ROUTE, _LOGIN = range(13)
_RULES: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP, _DROP) | {
    b"host": _DROP,
    b"dapr-app-id": _ROUTE,
    b"authorization": _LOGIN,
    b"destination-app-id": _DROP,
    b"grpc-trace-bin": _DROP,
    b"content-type": _TYPE,
    b"content-length": _LENGTH,
    b"traceparent": _PARENT,
    b"tracestate": _STATE,
    b"baggage": _BAGGAGE,
    b"accept": _ACCEPT,
    b"connection": _CONNECTION,
    b"x-forwarded-for": _RELAY,
    b"x-forwarded-host": _RELAY,
    b"forwarded": _RELAY,
    b"dapr-caller-app-id": _RELAY,
    b"dapr-caller-namespace": _RELAY,
    b"dapr-callee-app-id": _RELAY,
}
"""What becomes of a header of a request; names met later are added, within a bound."""
_MOST_RULES = 2048
_NO_PARENT = NONE.encode()


def _rule(name: bytes) -> int:
    rule = _ODD if name.endswith(b"-bin") or name.startswith((b":", b"grpc-")) else _PASS
    if len(_RULES) < _MOST_RULES:
        _RULES[name] = rule
    return rule


class Incoming(Protocol):
    """A body that is still arriving; reading it makes room for more."""

    length: int | None

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read(self) -> bytes: ...


async def gather(body: bytes | AsyncIterator[bytes] | Incoming, most: int = MOST_GATHERED) -> bytes:
    """Return a body as one piece; raises `ValueError` when it has more than `most` bytes."""
    if isinstance(body, bytes):
        return body
    pieces: list[bytes] = []
    size = 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise ValueError(f"the body is longer than the {most} bytes that can be collected")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Invocation:
    """One call. `app_id` and `namespace` name the target, `method` is normalised, `query` is raw and without its `?`.

    `verb` "NONE": a gRPC caller gave no HTTP verb. `length` is the body's announced size, None when it is chunked:
    such a call is never buffered and never repeated. `sse`: the caller reads server-sent events. `type_url` is that of
    a gRPC caller's `Any`. `odd`: some header needs care in HTTP (`-bin`, `:authority`, `grpc-*`).
    `relayed`: some header is one that a calling sidecar adds itself. `route` and `login` are the first values of
    `dapr-app-id` and `authorization`, which may name the target.
    """

    __slots__ = (
        "app_id", "baggage", "body", "content_type", "headers", "length", "login", "method", "namespace", "odd",
        "query", "relayed", "route", "sse", "traceparent", "tracestate", "type_url", "verb",
    )  # fmt: skip

    def __init__(
        self,
        app_id: str,
        namespace: str,
        method: str,
        verb: str,
        query: bytes = b"",
        headers: Headers | None = None,
        content_type: bytes = b"",
        body: bytes | Incoming = b"",
        length: int | None = 0,
    ) -> None:
        self.app_id = app_id
        self.namespace = namespace
        self.method = method
        self.verb = verb
        self.query = query
        self.headers: Headers = [] if headers is None else headers
        self.content_type = content_type
        self.body = body
        self.length = length
        self.sse = False
        self.odd = False
        self.relayed = False
        self.route = b""
        self.login = b""
        self.type_url = ""
        self.traceparent = _NO_PARENT
        self.tracestate = b""
        self.baggage = b""

    def take(self, headers: Headers) -> None:
        """Sort the headers of a request into the fields of this call (spec `http-api.md` 4.1).

        Of trace context and baggage the first value counts. `length` is set when one is announced.
        """
        kept = self.headers
        rules = _RULES
        named: frozenset[bytes] = frozenset()
        for pair in headers:
            name, value = pair
            rule = rules.get(name, -1)
            if rule < 0:
                rule = _rule(name)
            if rule == _PASS:
                kept.append(pair)
            elif rule == _ACCEPT:
                kept.append(pair)
                if value.strip().lower() == EVENT_STREAM:
                    self.sse = True
            elif rule == _ODD:
                kept.append(pair)
                self.odd = True
            elif rule == _RELAY:
                kept.append(pair)
                self.relayed = True
            elif rule == _TYPE:
                self.content_type = value
            elif rule == _LENGTH:
                self.length = int(value) if value.isdigit() else None
            elif rule == _LOGIN:
                kept.append(pair)
                self.login = self.login or value
            elif rule == _ROUTE:
                self.route = self.route or value
            elif rule == _PARENT:
                if self.traceparent is _NO_PARENT and valid_parent(value.decode("latin-1")):
                    self.traceparent = value
            elif rule == _STATE:
                if not self.tracestate and len(value) <= MAX_STATE:
                    self.tracestate = value
            elif rule == _BAGGAGE:
                self.baggage = self.baggage or value
            elif rule == _CONNECTION and value not in _USUAL:
                named |= named_in_connection(value)
        if named:
            self.headers = [pair for pair in kept if pair[0] not in named]

    @property
    def traced(self) -> bool:
        """Whether the call belongs to a trace; otherwise `traceparent` is all zeros, as the reference sends it."""
        return self.traceparent is not _NO_PARENT

    def copy(self) -> Invocation:
        """Return another call with the same head and no body; the headers are shared and must not be changed."""
        twin = Invocation.__new__(Invocation)
        twin.app_id = self.app_id
        twin.namespace = self.namespace
        twin.method = self.method
        twin.verb = self.verb
        twin.query = self.query
        twin.headers = self.headers
        twin.content_type = self.content_type
        twin.body = b""
        twin.length = self.length
        twin.sse = self.sse
        twin.odd = self.odd
        twin.relayed = self.relayed
        twin.route = self.route
        twin.login = self.login
        twin.type_url = self.type_url
        twin.traceparent = self.traceparent
        twin.tracestate = self.tracestate
        twin.baggage = self.baggage
        return twin

    @property
    def fixed(self) -> bool:
        """Whether the body has a known length, so that the call may be repeated."""
        return self.length is not None

    async def settle(self) -> bytes:
        """Read the whole body and keep it; with a length the call can be repeated from here on. Raises `ValueError`."""
        if not isinstance(self.body, bytes):
            self.body = await gather(self.body)
        return self.body

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "stream"
        return f"<Invocation {self.verb} {self.app_id}.{self.namespace}/{self.method}, {size}>"


class Reply:
    """What the application answered. `code` is an HTTP status from 100 on, a gRPC code below (spec `grpc-api.md` 5).

    `length` is the size of a streamed body where the application announced it.
    `message` and `details` (serialized `google.protobuf.Any` each) belong to a gRPC status. A streamed body is closed
    with `aclose` by whoever stops reading it early.
    """

    __slots__ = ("body", "code", "content_type", "details", "headers", "length", "message", "trailers", "type_url")

    def __init__(
        self,
        code: int,
        headers: Headers,
        content_type: bytes = b"",
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        message: str = "",
        details: tuple[bytes, ...] = (),
        trailers: Headers | None = None,
        type_url: str = "",
    ) -> None:
        self.code = code
        self.headers = headers
        self.content_type = content_type
        self.body = body
        self.message = message
        self.details = details
        self.length = len(body) if isinstance(body, bytes) else None
        self.trailers: Headers = [] if trailers is None else trailers
        self.type_url = type_url

    def copy(self) -> Reply:
        """Return another reply with the same head and no body."""
        twin = Reply(self.code, self.headers.copy(), self.content_type, b"")
        twin.length = self.length
        if self.code < 100:
            twin.message, twin.details, twin.trailers = self.message, self.details, self.trailers.copy()
            twin.type_url = self.type_url
        return twin

    @property
    def http(self) -> bool:
        return self.code >= 100

    @property
    def succeeded(self) -> bool:
        """Whether policies count the call as a success: HTTP 200-399, gRPC OK."""
        return 200 <= self.code < 400 or self.code == 0

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "stream"
        return f"<Reply {self.code}, {size}>"


class Unsuccessful(Exception):
    """What a policy sees of an answer that is no success; `code` as in `Reply`. The caller still gets `reply`."""

    def __init__(self, reply: Reply) -> None:
        self.code = reply.code
        self.reply = reply
        super().__init__(f"received non-successful status code in response: {reply.code}")


class InvokePolicy(Protocol):
    """Timeout, retry and breaker of one target and method. `replayable` False: `attempt` must be made only once.

    Raises what the last attempt raised, or a `ComponentError` for a timeout and for a breaker that is open.
    """

    def __call__(self, attempt: Callable[[], Awaitable[T]], /, *, replayable: bool) -> Awaitable[T]: ...


class InvokePolicies(Protocol):
    """The policies of `spec.targets.apps`. `built_in` tells whether the built-in retry still applies inside."""

    def find(self, app_id: str, method: str) -> tuple[InvokePolicy | None, bool]: ...
