"""A real HTTP server with handlers by path, and a raw client, for the tests of HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from pillion.net import listen
from pillion.net.exchange import Response
from pillion.net.http_server import HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.net.exchange import Headers, Request

    Handler = Callable[[Request], Awaitable[Response]]

DATE = re.compile(rb"\r\nDate: (\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT)(?=\r\n)")
"""The header that differs from one run of a test to the next."""


class Routes:
    """A service of handlers by target. Targets in `streaming` want their body as a stream. `seen` are the requests."""

    def __init__(self, handlers: dict[bytes, Handler] | None = None, streaming: tuple[bytes, ...] = ()) -> None:
        self.handlers = handlers or {}
        self.streaming = streaming
        self.seen: list[Request] = []

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return target in self.streaming

    async def serve(self, request: Request) -> Response:
        self.seen.append(request)
        handler = self.handlers.get(request.target)
        return await handler(request) if handler is not None else await echo(request)


async def echo(request: Request) -> Response:
    """Answer with method, target and body in one line, or with what was wrong with the body."""
    if request.failure is not None:
        return Response(400, body=str(request.failure).encode())
    body = request.body if isinstance(request.body, bytes) else await request.body.read()
    return Response(
        200, [(b"content-type", b"text/plain")], b"%b %b " % (request.method.encode(), request.target) + body
    )


@contextlib.asynccontextmanager
async def serving(service: Any, **options: Any) -> AsyncIterator[tuple[HttpServer, int]]:
    """Run a server on a free port of 127.0.0.1; yield it and the port."""
    tls = options.pop("tls", None)
    server = HttpServer(service, **{"max_body": 1 << 20, "max_head": 4096} | options)
    listeners = await listen.tcp(server, ["127.0.0.1"], 0, tls=tls)
    try:
        yield server, listeners.port
    finally:
        listeners.close()
        await server.close(1.0)
        assert not server.connections


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces over one connection and return all that comes back until the server closes it, but for `Date`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return DATE.sub(b"", await asyncio.wait_for(reader.read(), 60))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """Read one head, its empty line included."""
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never came true")
