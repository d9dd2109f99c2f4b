"""Plain requests over HTTP/2: our server and our client, curl, the port shared with HTTP/1.1."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from h2_support import GET, POST, Calls, client, data, frames, headers, serving
from http1_support import Routes
from pillion.net import listen
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response
from pillion.net.grpc_client import Channel
from pillion.net.h2_client import H2Client
from pillion.net.h2_pool import PoolOptions
from pillion.net.h2_server import H2Server, ServerOptions
from pillion.net.http_client import ConnectFailed, ServerDisconnected
from pillion.net.http_server import HttpServer
from pillion.wire import h2_frames as f
from pillion.wire.h2_limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.net.exchange import Body, Headers


class Pieces:
    """A body for a request that is still being made; `length` unknown."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.length: int | None = None
        self.pieces = pieces
        self.trailers: Headers = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield piece

    async def read(self) -> bytes:
        return b"".join(self.pieces)


def run(
    test: Callable[[H2Client, Routes], Awaitable[None]], routes: Routes, options: ServerOptions | None = None
) -> None:
    async def main() -> None:
        async with serving(http=routes, options=options) as (address, _):
            client = H2Client(address)
            await test(client, routes)
            await client.close()

    asyncio.run(main())


async def stream_back(request: Request) -> Response:
    """Answer with the body as it comes."""

    async def pieces() -> AsyncIterator[bytes]:
        body = request.body
        if isinstance(body, bytes):
            yield body
        else:
            async for piece in body:
                yield piece

    return Response(200, [(b"content-type", b"x/y")], pieces(), trailers=[(b"x-sum", b"1")])


async def measure(request: Request) -> Response:
    """Answer with what was in the request, or wrong with it."""
    if request.failure is not None:
        return Response(413, [], str(request.failure).encode())
    try:
        size = len(request.body if isinstance(request.body, bytes) else await request.body.read())
    except (BodyTooLarge, BodyIncomplete) as error:
        return Response(413, [], str(error).encode())
    return Response(200, [(b"Content-Type", b"text/plain"), (b"Connection", b"close")], b"%d" % size)


async def read(response: Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([piece async for piece in response.body])


def test_requests_and_answers() -> None:
    async def test(client: H2Client, routes: Routes) -> None:
        request = Request("POST", b"/m?a=1", [(b"X-Up", b"1"), (b"connection", b"close")], b"hello")
        response = await client.request(request)
        assert (response.status, response.body) == (200, b"5")
        assert (b"content-type", b"text/plain") in response.headers
        assert (b"connection", b"close") not in response.headers
        seen = routes.seen[0]
        assert (seen.method, seen.target, seen.version) == ("POST", b"/m?a=1", "2")
        assert seen.header(b"x-up") == b"1"
        assert seen.header(b"host") == client.pool.address.encode()
        assert seen.header(b"content-length") == b"5"
        assert seen.peer is not None
        head = await client.request(Request("HEAD", b"/m?a=1", []))
        assert (head.body, head.headers[-1]) == (b"", (b"content-length", b"1"))

    run(test, Routes({b"/m?a=1": measure}))


def test_bodies_stream_both_ways() -> None:
    async def test(client: H2Client, routes: Routes) -> None:
        pieces = [b"x" * size for size in (1, 70_000, 300_000, 5)]
        response = await client.request(Request("POST", b"/back", [], Pieces(pieces)))
        assert await read(response) == b"".join(pieces)
        assert response.body.trailers == [(b"x-sum", b"1")]  # type: ignore[union-attr]
        whole = bytes(3_000_000)
        assert await read(await client.request(Request("POST", b"/back", [], whole))) == whole

    run(test, Routes({b"/back": stream_back}, streaming=(b"/back",)), ServerOptions(max_body=0))


@pytest.mark.parametrize("streaming", [(), (b"/m",)])
def test_bodies_beyond_the_limit(streaming: tuple[bytes, ...]) -> None:
    """Announced or not, collected or streamed: the service is told, and the connection goes on."""

    async def test(client: H2Client, routes: Routes) -> None:
        bodies: list[Body] = [bytes(2000), Pieces([bytes(900), bytes(900)])]
        for body in bodies:
            response = await client.request(Request("POST", b"/m", [], body))
            assert (response.status, response.body) == (413, b"stream too large")
        response = await client.request(Request("POST", b"/m", [], bytes(1000)))
        assert response.body == b"1000"
        assert len(client.pool.connections) == 1

    run(test, Routes({b"/m": measure}, streaming=streaming), ServerOptions(max_body=1000))


def test_early_answers_stop_the_upload() -> None:
    async def no(request: Request) -> Response:
        return Response(403, [], b"no")

    async def test(client: H2Client, routes: Routes) -> None:
        response = await client.request(Request("POST", b"/no", [], Pieces([bytes(50_000)] * 100)))
        assert (response.status, response.body) == (403, b"no")
        assert (await client.request(Request("GET", b"/no", []))).status == 403

    run(test, Routes({b"/no": no}, streaming=(b"/no",)), ServerOptions(limits=Limits(window=20_000)))


def test_a_client_that_goes_away_cancels_the_service() -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def hang(request: Request) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response(200)

    async def test(client: H2Client, routes: Routes) -> None:
        waiting = asyncio.ensure_future(client.request(Request("GET", b"/hang", [])))
        await started.wait()
        waiting.cancel()
        await cancelled.wait()
        with pytest.raises(TimeoutError):
            await client.request(Request("GET", b"/hang", []), timeout_s=0.05)

    run(test, Routes({b"/hang": hang}))


def test_broken_services(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is a bare 500; an answer that breaks off is a reset, never a short body that looks whole."""

    async def bug(request: Request) -> Response:
        raise ValueError("a bug")

    async def short(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x"
            raise ValueError("half way")

        return Response(200, [(b"content-length", b"10")], pieces())

    async def test(client: H2Client, routes: Routes) -> None:
        assert (await client.request(Request("GET", b"/bug", []))).status == 500
        with pytest.raises(BodyIncomplete):
            await client.request(Request("GET", b"/short", []))

    run(test, Routes({b"/bug": bug, b"/short": short}))
    assert "a bug" in caplog.text
    assert "half way" in caplog.text


def test_dropped_answers_free_their_stream() -> None:
    closed = asyncio.Event()

    async def endless(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(10_000)
            finally:
                closed.set()

        return Response(200, [], pieces())

    async def test(client: H2Client, routes: Routes) -> None:
        response = await client.request(Request("GET", b"/endless", []))
        body: Any = response.body
        assert await anext(aiter(body))
        await body.aclose()
        await closed.wait()
        assert not client.pool.connections[0].h2.streams

    run(test, Routes({b"/endless": endless}))


def test_nobody_there() -> None:
    async def main() -> None:
        client = H2Client("127.0.0.1:1", options=PoolOptions(connect_timeout_s=5))
        with pytest.raises(ConnectFailed, match="connection refused"):
            await client.request(Request("GET", b"/", []))
        await client.close()
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        client = H2Client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises((ConnectFailed, ServerDisconnected)):
            await client.request(Request("GET", b"/", []))
        await client.close()
        server.close()

    asyncio.run(main())


async def shared(routes: Routes) -> tuple[listen.Listeners, HttpServer, H2Server]:
    """Serve HTTP/1.1 and HTTP/2, gRPC included, on one port."""
    h2 = H2Server(grpc=Calls(), http=routes)
    http = HttpServer(routes, max_body=10_000, max_head=65_536, h2=h2.take_over)
    return await listen.tcp(http, ["127.0.0.1"], 0), http, h2


def test_one_port_for_everything() -> None:
    """The preface hands the connection over; gRPC and plain requests find their services."""

    async def main() -> None:
        routes = Routes({b"/m": measure})
        listeners, http, h2 = await shared(routes)
        address = f"127.0.0.1:{listeners.port}"
        client, channel = H2Client(address), Channel(address)
        assert (await client.request(Request("POST", b"/m", [], b"abc"))).body == b"3"
        assert (await channel.unary("/s.S/Echo", b"x")).message == b"x"
        await client.close()
        await channel.close()
        listeners.close()
        await h2.close()
        await http.close(0)

    asyncio.run(main())


async def conversation(port: int, first: bytes, then: bytes) -> bytes:
    """Send `first`, wait for an answer, send `then` and return all up to the end of stream 1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    received = await reader.readuntil(b"\r\n\r\n")
    writer.write(then)
    while b"\1\0\0\0\1" not in received and (part := await reader.read(1 << 16)):
        received += part
    writer.close()
    await writer.wait_closed()
    return received


def test_upgrade_from_http1() -> None:
    """RFC 7540 3.2: the upgraded request is stream 1 and its settings count."""

    async def main() -> None:
        listeners, http, h2 = await shared(Routes({b"/m": measure}))
        first = (
            b"GET /m HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
            b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        received = await conversation(listeners.port, first, f.PREFACE + f.settings_frame({}))
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        peer = client()
        stream = peer.open(GET, end=True)
        peer.feed(*(f.frame(*frame) for frame in frames(rest) if frame[2] == 1))
        assert (stream.head.status, stream.body) == (200, b"0")
        listeners.close()
        await h2.close()
        await http.close(0)

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("flag", ["--http2-prior-knowledge", "--http2"])
def test_curl(flag: str) -> None:
    async def main() -> None:
        listeners, http, h2 = await shared(Routes({b"/m": measure}))
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", flag, "-w", "|%{http_version}", f"http://127.0.0.1:{listeners.port}/m",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert out == b"0|2"
        listeners.close()
        await h2.close()
        await http.close(0)

    asyncio.run(main())


def test_requests_without_a_service() -> None:
    """415 where gRPC alone is spoken, 404 where nothing is, 405 for CONNECT."""

    async def status(grpc: Any, sent: bytes) -> int:
        async with serving(grpc=grpc) as (address, _):
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f.PREFACE + f.settings_frame({}) + sent)
            peer = client()
            stream = peer.open(GET, end=True)
            while stream.head is None:
                peer.feed(await reader.read(1 << 16))
            writer.close()
            return int(stream.head.status)

    async def main() -> None:
        assert await status(Calls(), headers(1, POST, end=False) + data(1, b"x")) == 415
        assert await status(None, headers(1, GET)) == 404
        assert await status(None, headers(1, [(b":method", b"CONNECT"), (b":authority", b"a")], end=False)) == 405

    asyncio.run(main())
