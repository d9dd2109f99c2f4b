"""Feeds mutated requests and answers to the server's and the client's connection, without sockets.

`python tests/wire/fuzz_http1.py [seconds]` runs on; `run(seed, rounds)` is the short deterministic form. What must hold
for any bytes: no exception leaves a protocol method, buffers stay bounded, the server never writes anything but whole
answers, every request in service ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import sys
import time
from typing import Any

from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response
from pillion.net.http_client import HttpClient, HttpError
from pillion.net.http_connection import ClientConnection
from pillion.net.http_server import HttpServer

_REQUESTS = (
    b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /stream HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /d HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nab",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HEAD http://h/f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
)
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
)
_SPICE = (b"\r\n", b"\n", b"\0", b" ", b":", b"0\r\n\r\n", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n")
_WRITTEN = re.compile(rb"(?:HTTP/1\.1 [1-5]\d\d [A-Za-z ]+\r\n(?:[^\r\n]+\r\n)*\r\n(?:ok)?)*")
_MOST_BUFFERED = 1 << 20


class Wire(asyncio.Transport):
    """A transport that only takes note. After `close` or `abort` the protocol hears `connection_lost`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True
        self.protocol: Any = None
        self._loop = loop

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class _Taken(asyncio.Protocol):
    """Stands for the HTTP/2 side."""


class _Service:
    busy = 0

    def streams(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        return target == b"/stream"

    async def serve(self, request: Request) -> Response:
        self.busy += 1
        try:
            if not isinstance(request.body, bytes):
                with contextlib.suppress(BodyIncomplete, BodyTooLarge):
                    await request.body.read()
            return Response(200, body=b"" if request.method == "HEAD" else b"ok")
        finally:
            self.busy -= 1


def mutate(source: random.Random, parts: tuple[bytes, ...]) -> list[bytes]:
    """Return some of `parts`, mostly damaged, cut at random places."""
    data = bytearray(b"".join(source.choices(parts, k=source.randint(1, 5))))
    for _ in range(source.choice((0, 1, 1, 2, 6))):
        at = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0:
                data[at:at] = source.choice(_SPICE)
            case 1:
                data[at : at + source.randint(1, 9)] = b""
            case 2:
                data[at : at + 1] = bytes((source.randrange(256),))
            case 3:
                data[at:at] = data[at : at + source.randint(1, 60)]
            case _:
                data[at:at] = bytes((source.choice(b"aA0:/ \t"),)) * source.choice((10, 5000, 50_000))
    cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(5)))
    return [bytes(data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


async def _settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def serve_once(source: random.Random) -> None:
    """Let one server connection hear a mutated request stream."""
    loop = asyncio.get_running_loop()
    service = _Service()

    def take_over(transport: asyncio.Transport, first_bytes: bytes, **_: Any) -> object:
        transport.set_protocol(taken := _Taken())
        return taken

    server = HttpServer(service, max_body=40_000, max_head=4096, h2=take_over)
    wire = Wire(loop)
    connection = wire.protocol = server()
    connection.connection_made(wire)
    for piece in mutate(source, _REQUESTS):
        if wire.closed or wire.protocol is not connection:
            break
        connection.data_received(piece)
        if source.random() < 0.7:
            await _settle()
        assert connection._held_size <= _MOST_BUFFERED
        assert len(connection.queue) < 1000
    for _ in range(40):
        await _settle()
    if wire.protocol is connection:
        assert _WRITTEN.fullmatch(bytes(wire.written)), bytes(wire.written)
    wire.close()
    await _settle()
    assert not service.busy
    assert not server.connections


async def call_once(source: random.Random) -> None:
    """Let one client connection hear a mutated answer to its request."""
    loop = asyncio.get_running_loop()
    client = HttpClient("h", 1)
    wire = Wire(loop)
    connection = wire.protocol = ClientConnection(client, loop)
    connection.connection_made(wire)
    client._idle.append(connection)

    async def ask() -> None:
        with contextlib.suppress(HttpError, BodyIncomplete):
            response = await client.request(Request(source.choice(("GET", "HEAD", "PATCH")), b"/", []))
            if not isinstance(response.body, bytes):
                async for _ in response.body:
                    pass

    asking = asyncio.create_task(ask())
    await _settle()
    for piece in mutate(source, _ANSWERS):
        if wire.closed:
            break
        connection.data_received(piece)
        if source.random() < 0.7:
            await _settle()
    wire.close()
    await asyncio.wait_for(asking, 10)
    await _settle()
    assert not client._open
    assert not client._idle


def run(seed: int, rounds: int) -> None:
    """Do `rounds` of both, the same ones for the same `seed`."""

    async def main() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        for number in range(rounds):
            source = random.Random(f"{seed} {number}")
            await serve_once(source)
            await call_once(source)
            assert not problems, (number, problems)

    asyncio.run(main())


if __name__ == "__main__":
    logging.disable()
    until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 60)
    start = random.randrange(1 << 32)
    done = 0
    while time.monotonic() < until:
        run(start + done, 100)
        done += 1
    sys.stdout.write(f"{done * 100} rounds from seed {start}\n")
