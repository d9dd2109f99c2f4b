"""Middleware: components that HTTP exchanges pass through, in both directions (spec `runtime.md` 5).

Knows: the interface, how members are composed around a destination, how bodies are gathered where a member has to see
them whole. Never knows: which members there are, or what lies at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response
from pillion.wire.http1 import phrase

if TYPE_CHECKING:
    from collections.abc import Sequence

Next = Callable[[Request], Awaitable[Response]]
MOST_GATHERED = 64 << 20
"""Bytes of an answer that a member may hold to look at it whole."""


class Middleware(Protocol):
    """A component of the type `middleware.http.<name>`.

    Calling it handles one request: change it, pass it on by `await next(request)` - at most once -, change and return
    the answer, or answer without passing it on. Bodies may still be arriving on both sides; a member that does not look
    at them leaves them alone, and they stream. An exception is answered with 500 and logged.
    """

    async def __call__(self, request: Request, next: Next) -> Response: ...

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class Pipeline:
    """Members in order, around any number of destinations. Composed when the members change, not for each request."""

    def __init__(self, members: Sequence[Middleware] = ()) -> None:
        self._members = tuple(members)
        self._entries: list[_Entry] = []

    @property
    def members(self) -> tuple[Middleware, ...]:
        return self._members

    def replace(self, members: Sequence[Middleware]) -> None:
        """Let requests from now on pass through `members`; those on their way finish as they began."""
        self._members = tuple(members)
        for entry in self._entries:
            entry.serve = compose(self._members, entry.destination)

    def over(self, destination: Next) -> Next:
        """Return what reaches `destination` through whoever is a member at that time."""
        entry = _Entry(destination, compose(self._members, destination))
        self._entries.append(entry)
        return entry

    def run(self, request: Request, destination: Next) -> Awaitable[Response]:
        """Pass one request through to a destination of its own."""
        return compose(self._members, destination)(request)

    def __repr__(self) -> str:
        return f"<Pipeline of {len(self._members)} around {len(self._entries)}>"


class _Entry:
    __slots__ = ("destination", "serve")

    def __init__(self, destination: Next, serve: Next) -> None:
        self.destination, self.serve = destination, serve

    def __call__(self, request: Request) -> Awaitable[Response]:
        return self.serve(request)


def compose(members: Sequence[Middleware], destination: Next) -> Next:
    """Return the members as one function: the first of them sees a request first and its answer last."""
    for member in reversed(members):
        destination = partial(member, next=destination)
    return destination


# --- bodies and answers --------------------------------------------------------------------------------------------


async def request_body(request: Request) -> bytes:
    """Return the whole body of a request, which keeps it. Raises `BodyTooLarge` and `BodyIncomplete`."""
    if request.failure is not None:
        raise request.failure
    body = request.body
    if not isinstance(body, bytes):
        body = request.body = await body.read()
    return body


async def response_body(response: Response, limit: int = MOST_GATHERED) -> bytes:
    """Return the whole body of an answer, which keeps it. Raises `BodyTooLarge` beyond `limit` bytes."""
    body = response.body
    if isinstance(body, bytes):
        return body
    pieces, size = [], 0
    async for piece in body:
        size += len(piece)
        if size > limit:
            await discard(response)
            raise BodyTooLarge
        pieces.append(piece)
    response.body = whole = b"".join(pieces)
    return whole


async def discard(response: Response) -> None:
    """Let go of an answer that will not be passed on."""
    closing = getattr(response.body, "aclose", None)
    if closing is not None:
        await closing()


def set_request_body(request: Request, body: bytes) -> None:
    """Replace the body; its length is told anew by whoever writes the request."""
    request.body = body
    request.headers = [pair for pair in request.headers if pair[0] not in (b"content-length", b"transfer-encoding")]


def set_response_body(response: Response, body: bytes) -> None:
    """Replace the body; its length is told anew by whoever writes the answer."""
    response.body = body
    response.headers = [pair for pair in response.headers if pair[0] not in (b"content-length", b"transfer-encoding")]


def set_header(request: Request, name: bytes, value: bytes) -> None:
    """Give a header one value, whatever it had; `name` in lower case."""
    request.headers = [pair for pair in request.headers if pair[0] != name]
    request.headers.append((name, value))


def plain(status: int, text: str = "") -> Response:
    """Return an answer as members give it: plain text, the status's own unless another is given."""
    text = text or phrase(status)
    return Response(status, [(b"content-type", b"text/plain; charset=utf-8")], text.encode())


def failed_body(error: Exception) -> Response | None:
    """Return the answer where a body could not be had whole, which is the client's fault; None for other errors."""
    return plain(400, str(error)) if isinstance(error, (BodyTooLarge, BodyIncomplete)) else None
