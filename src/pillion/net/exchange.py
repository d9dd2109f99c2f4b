"""The values that cross between the transports and those who serve or call through them.

Knows: what an HTTP request, a response and a gRPC call are, whichever connection carries them. Never knows: sockets,
frames, operations. Header names are lower-case bytes everywhere inside the house; HTTP/1.1 writers send them in the
canonical case (`Content-Type`) that HTTP applications are used to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

Headers = list[tuple[bytes, bytes]]
Peer = tuple[str, int] | None


class BodyTooLarge(Exception):
    """The body is longer than the server accepts (`--max-body-size`); the text is the one the reference gives."""

    def __init__(self) -> None:
        super().__init__("stream too large")


class BodyIncomplete(Exception):
    """The peer went away, or broke the protocol, before the body was whole."""

    def __init__(self) -> None:
        super().__init__("unexpected EOF")


class BodyStream(Protocol):
    """A body that is still arriving. Reading it opens the window for more: that is the back-pressure.

    `length` is the announced Content-Length, None when the body is chunked or an unfinished HTTP/2 stream.
    Iterating raises `BodyTooLarge` or `BodyIncomplete`. `trailers` is filled once the end was reached.
    """

    length: int | None
    trailers: Headers

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read(self) -> bytes:
        """Return all that is left as one piece."""
        ...


Body = bytes | BodyStream


class Request:
    """One HTTP request, from whichever HTTP version. `target` is path and query exactly as sent.

    `failure` is set instead of a whole `body` when the body of a buffered request could not be had.
    """

    __slots__ = ("body", "failure", "headers", "method", "peer", "target", "version")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: Body = b"",
        *,
        peer: Peer = None,
        version: str = "1.1",
        failure: BodyTooLarge | BodyIncomplete | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.peer = peer
        self.version = version
        self.failure = failure

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header; `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"<{self.method} {self.target.decode('latin-1')} HTTP/{self.version}>"


class Response:
    """One HTTP response. A `bytes` body gets its Content-Length from the writer; an iterator is streamed as it comes,
    chunked in HTTP/1.1 unless `headers` has a content-length; each piece is flushed. `aclose` of an iterator is called
    when the client goes away early.
    """

    __slots__ = ("body", "headers", "status", "trailers")

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes | AsyncIterator[bytes] = b"",
        trailers: Headers | None = None,
    ) -> None:
        self.status = status
        self.headers = [] if headers is None else headers
        self.body = body
        self.trailers = trailers

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "stream"
        return f"<Response {self.status}, {size}>"


class HttpService(Protocol):
    """What an HTTP server is given. `streams` is asked when the head is there: True means that `serve` wants the body
    as a `BodyStream` (bodies that have already arrived whole are still given as bytes), False that the whole body
    shall be collected first. `serve` runs in one task for each request and is cancelled when the client goes away.
    An exception that leaves `serve` is logged and answered with a bare 500.
    """

    def streams(self, method: str, target: bytes, headers: Headers) -> bool: ...

    def serve(self, request: Request) -> Awaitable[Response]: ...


Metadata = list[tuple[str, str | bytes]]
"""gRPC metadata: names in lower case; values of names ending in `-bin` are bytes (decoded base64), all others str."""


class RpcError(Exception):
    """A gRPC status other than OK, received or to be sent.

    `details` is the serialized `google.rpc.Status` of `grpc-status-details-bin` (empty: none);
    `trailers` is the further trailing metadata.
    """

    def __init__(self, code: int, message: str, details: bytes = b"", trailers: Metadata | None = None) -> None:
        self.code = int(code)
        self.message = message
        self.details = details
        self.trailers: Metadata = [] if trailers is None else trailers
        super().__init__(f"rpc error: code = {self.code} desc = {message}")


class ServerCall(Protocol):
    """One gRPC call as its server sees it. Messages are serialized bytes, already decompressed.

    `deadline` is loop time or None. A handler may set `initial_metadata` before the first `send` or its return, and
    `trailing_metadata` any time before its end.
    """

    method: str
    metadata: Metadata
    deadline: float | None
    peer: Peer
    initial_metadata: Metadata
    trailing_metadata: Metadata

    @property
    def ready(self) -> bool:
        """Whether `receive` would return, or raise, without waiting."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether the client has half-closed and every message was taken: `receive` would return None at once."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message, or None when the client has half-closed."""
        ...

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the peer's window is closed."""
        ...

    def send_now(self, message: bytes) -> bool:
        """Send one message without waiting. False: some of it waits for the peer's window, see `flushed`."""
        ...

    async def flushed(self) -> None:
        """Wait until everything has been sent, or the call is over."""
        ...

    async def send_last(self, message: bytes) -> None:
        """Send the last message, and with it the end with status OK: in one go where the peer's window allows."""
        ...

    async def send_headers(self) -> None:
        """Send `initial_metadata` now, before any message."""
        ...

    def first(self, name: str) -> str | bytes | None:
        """Return the first metadata value of `name`."""
        ...


class Unary(Protocol):
    """A unary handler: the request message in, the reply message out; raises `RpcError`."""

    def __call__(self, call: ServerCall, request: bytes) -> Awaitable[bytes]: ...


class AtOnce(Protocol):
    """A unary handler that never waits; None: this call is one for the method's `unary`. Raises `RpcError`."""

    def __call__(self, call: ServerCall, request: bytes) -> bytes | None: ...


class Oversized(Protocol):
    """Hears of a unary request that is refused because it is too large. `beginning` is what of the message came in one
    piece, uncompressed, 2 KiB at the most; `said` is what the client is told.
    """

    def __call__(self, beginning: bytes, said: str) -> None: ...


class Streaming(Protocol):
    """A handler of any streaming kind: it receives and sends through the call; returning means status OK."""

    def __call__(self, call: ServerCall) -> Awaitable[None]: ...


@record
class Method:
    """How one gRPC method is served: exactly one of `unary` and `streaming` is set.

    `at_once` is asked before `unary` where the answer needs no waiting: such a call costs no task. `oversized` is for
    requests whose failure somebody else than their client waits for.
    """

    unary: Unary | None = None
    streaming: Streaming | None = None
    at_once: AtOnce | None = None
    oversized: Oversized | None = None


class GrpcService(Protocol):
    """What a gRPC server is given: `find` is asked once for each call, when its headers are there.

    None means UNIMPLEMENTED. The handler is cancelled when the client cancels or the deadline passes.
    """

    def find(self, method: str, metadata: Metadata) -> Method | None: ...


@dataclass(slots=True)
class UnaryReply:
    """A unary call that ended with status OK."""

    message: bytes
    initial_metadata: Metadata = field(default_factory=list)
    trailing_metadata: Metadata = field(default_factory=list)


class ClientStream(Protocol):
    """One streaming gRPC call as its caller sees it."""

    async def send(self, message: bytes) -> None: ...

    async def send_last(self, message: bytes) -> None:
        """Send the last message: `send` and `half_close` in one."""
        ...

    async def half_close(self) -> None: ...

    @property
    def exhausted(self) -> bool:
        """Whether the call has ended with OK and every message was taken: `receive` would return None at once."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message, None at the end with status OK; raises `RpcError` at any other end."""
        ...

    async def initial_metadata(self) -> Metadata: ...

    def trailing_metadata(self) -> Metadata: ...

    def cancel(self) -> None: ...


class GrpcChannel(Protocol):
    """A client of one gRPC server: pooled connections, reconnecting by itself.

    A server that cannot be reached is `RpcError` UNAVAILABLE; a timeout DEADLINE_EXCEEDED.
    """

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata | None = None, timeout_s: float | None = None
    ) -> UnaryReply: ...

    def stream(
        self, method: str, *, metadata: Metadata | None = None, timeout_s: float | None = None
    ) -> ClientStream: ...

    async def close(self) -> None: ...
