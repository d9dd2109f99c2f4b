"""Bodies in both directions, disconnects, timeouts, the graceful end, HTTP/2 on the same port, other clients."""

from __future__ import annotations

import asyncio
import resource
import shutil
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from http1_support import Routes, echo, head_of, serving, talk, until
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response
from pillion.net.h2_server import H2Server
from pillion.net.tls import server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = b"Host: h\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
MEBI = 1 << 20


def test_a_body_that_is_already_there_is_bytes_even_for_streaming_routes() -> None:
    async def main() -> None:
        async with serving(service := Routes(streaming=(b"/s",))) as (_, port):
            await talk(port, b"POST /s HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc" + LAST)
        assert service.seen[0].body == b"abc"

    asyncio.run(main())


def test_trailers_of_a_streamed_request() -> None:
    async def read(request: Request) -> Response:
        assert not isinstance(request.body, bytes)
        body = await request.body.read()
        return Response(200, request.body.trailers, body)

    async def main() -> None:
        async with serving(Routes({b"/s": read}, streaming=(b"/s",))) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /s HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
            await head_of(reader)
            writer.write(b"1\r\na\r\n0\r\nX-Sum: 9\r\n\r\n")
            assert b"\r\nX-Sum: 9\r\n" in await head_of(reader)
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_streamed_body_beyond_the_limit_raises_for_its_reader(chunked: bool) -> None:
    """What arrived before the limit can be read; an announced length tells at once."""
    got = 0

    async def read(request: Request) -> Response:
        nonlocal got
        assert not isinstance(request.body, bytes)
        try:
            async for piece in request.body:
                got += len(piece)
        except BodyTooLarge as error:
            return Response(500, body=str(error).encode())
        return Response(200)

    async def main() -> None:
        async with serving(Routes({b"/s": read}, streaming=(b"/s",)), max_body=MEBI) as (_, port):
            if chunked:
                body = b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 17
            else:
                body = b"Content-Length: 2000000\r\n\r\n" + b"x" * 1000
            answer = await talk(port, b"POST /s HTTP/1.1\r\n" + HOST + body)
        assert answer.startswith(b"HTTP/1.1 500")
        assert answer.endswith(b"stream too large")
        assert got == (MEBI if chunked else 0)

    asyncio.run(main())


@pytest.mark.parametrize("broken", [b"zz\r\n", None])
def test_reader_learns_that_a_body_broke_off(broken: bytes | None) -> None:
    """A framing error in the middle, or a client that goes away."""
    outcome: asyncio.Future[str]

    async def read(request: Request) -> Response:
        assert not isinstance(request.body, bytes)
        try:
            await request.body.read()
        except BodyIncomplete as error:
            outcome.set_result(str(error))
            raise
        except asyncio.CancelledError:
            outcome.set_result("cancelled")
            raise
        return Response(200)

    async def main() -> None:
        nonlocal outcome
        outcome = asyncio.get_running_loop().create_future()
        async with serving(service := Routes({b"/s": read}, streaming=(b"/s",))) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /s HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await until(lambda: bool(service.seen))
            if broken is None:
                writer.close()
                assert await outcome == "cancelled"
            else:
                writer.write(broken)
                assert await outcome == "unexpected EOF"
                assert (await reader.read()).startswith(b"HTTP/1.1 500")
                writer.close()

    asyncio.run(main())


def test_client_that_goes_away_cancels_the_service_and_closes_the_iterator() -> None:
    events: list[str] = []

    async def main() -> None:
        closed = asyncio.Event()

        async def ticks() -> AsyncIterator[bytes]:
            try:
                yield b"tick"
                await asyncio.Event().wait()
            finally:
                events.append("iterator closed")
                closed.set()

        async def stream(request: Request) -> Response:
            return Response(200, body=ticks())

        async def forever(request: Request) -> Response:
            try:
                return await asyncio.Event().wait() and Response(200)
            finally:
                events.append("service cancelled")
                closed.set()

        async with serving(Routes({b"/t": stream, b"/f": forever})) as (_, port):
            for target in (b"/t", b"/f"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
                if target == b"/t":
                    await head_of(reader)
                    assert await reader.readexactly(9) == b"4\r\ntick\r\n"
                else:
                    await asyncio.sleep(0)
                writer.close()
                await asyncio.wait_for(closed.wait(), 90)
                closed.clear()
        assert events in (["iterator closed", "service cancelled"], ["iterator closed"])

    asyncio.run(main())


def test_each_piece_of_a_stream_is_sent_at_once() -> None:
    """Server-sent events: the client sees an event before the next one exists."""

    async def main() -> None:
        go = asyncio.Semaphore(0)

        async def events() -> AsyncIterator[bytes]:
            for number in range(3):
                await go.acquire()
                yield b"data: %d\n\n" % number

        async def sse(request: Request) -> Response:
            return Response(200, [(b"content-type", b"text/event-stream")], events())

        async with serving(Routes({b"/e": sse})) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /e HTTP/1.1\r\nHost: h\r\n\r\n")
            await head_of(reader)
            for number in range(3):
                go.release()
                assert await reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
            assert await reader.readexactly(5) == b"0\r\n\r\n"
            writer.close()

    asyncio.run(main())


def test_slow_client_holds_a_streamed_answer_back() -> None:
    """No more is taken from the iterator than the socket and the transport's buffer hold."""
    made = 0

    async def main() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(800):
                made += 1
                yield b"x" * 65536

        async def big(request: Request) -> Response:
            return Response(200, [(b"content-length", b"%d" % (800 * 65536))], pieces())

        async with serving(Routes({b"/b": big})) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
            writer.write(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
            await head_of(reader)
            await until(lambda: not any(connection._writable for connection in server.connections))
            before = made
            for _ in range(100):
                await asyncio.sleep(0)
            assert made == before < 400
            left = 800 * 65536
            while left:
                left -= len(await reader.read(MEBI))
            writer.close()

    asyncio.run(main())


def test_slow_service_holds_a_streamed_request_back() -> None:
    """The client is stopped while the service does not read; later all arrives: 50 MB, flat memory."""
    total = 50 * MEBI

    async def main() -> None:
        stuck = asyncio.Event()

        async def count(request: Request) -> Response:
            assert not isinstance(request.body, bytes)
            await stuck.wait()
            size = 0
            async for piece in request.body:
                assert len(piece) < MEBI
                size += len(piece)
            return Response(200, body=b"%d" % size)

        async with serving(Routes({b"/s": count}, streaming=(b"/s",)), max_body=0) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
            piece = b"x" * MEBI
            sent = 0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            while sent < total:
                writer.write(piece)
                sent += MEBI
                try:
                    await asyncio.wait_for(writer.drain(), None if stuck.is_set() else 0.2)
                except TimeoutError:
                    assert sent < 20 * MEBI
                    stuck.set()
            await head_of(reader)
            assert await reader.read(8) == b"%d" % total
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
            writer.close()

    asyncio.run(main())


def test_client_that_does_not_read_is_not_served_on() -> None:
    """Pipelined requests wait while answers to earlier ones are stuck in the transport."""

    async def big(request: Request) -> Response:
        return Response(200, body=b"x" * MEBI)

    async def main() -> None:
        async with serving(service := Routes({b"/b": big})) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
            writer.write(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n" * 60 + LAST)
            await until(lambda: any(not connection._writable for connection in server.connections))
            assert len(service.seen) < 30
            answer = await reader.read()
            assert answer.endswith(b"GET /last ")
            assert len(service.seen) == 61
            writer.close()

    asyncio.run(main())


def test_head_that_does_not_come_ends_the_connection() -> None:
    """Slow loris: on a new connection silence, and always half a head, end after the head timeout."""

    async def main() -> None:
        async with serving(Routes(), head_timeout_s=1) as (_, port):
            assert await talk(port) == b""
            assert (await talk(port, b"GET / HT")).startswith(b"HTTP/1.1 408 ")
            answer = await talk(port, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /b HT")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1 408 " in answer

    asyncio.run(main())


def test_idle_connections_end_when_asked_for() -> None:
    async def main() -> None:
        async with serving(Routes(), idle_timeout_s=1) as (_, port):
            answer = await talk(port, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.endswith(b"GET /a ")

    asyncio.run(main())


def test_graceful_end() -> None:
    """Idle connections close at once, busy ones after their answer with `Connection: close`."""

    async def main() -> None:
        proceed = asyncio.Event()
        begun = asyncio.Event()

        async def slow(request: Request) -> Response:
            begun.set()
            await proceed.wait()
            return Response(200)

        async with serving(Routes({b"/slow": slow})) as (server, port):
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            idle_writer.write(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            await head_of(idle)
            busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            busy_writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            await begun.wait()
            closing = asyncio.create_task(server.close(10))
            assert await idle.read() == b"GET /a "
            assert not closing.done()
            proceed.set()
            assert b"\r\nConnection: close\r\n" in await busy.read()
            assert await closing
            for writer in (idle_writer, busy_writer):
                writer.close()

    asyncio.run(main())


def test_end_of_grace_aborts() -> None:
    async def main() -> None:
        begun = asyncio.Event()
        cancelled = asyncio.Event()

        async def stuck(request: Request) -> Response:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Response(200)

        async with serving(Routes({b"/slow": stuck})) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            await begun.wait()
            assert not await server.close(0.01)
            await asyncio.wait_for(cancelled.wait(), 90)
            writer.close()

    asyncio.run(main())


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_both_versions_on_one_port() -> None:
    """HTTP/1.1, HTTP/2 by prior knowledge and by `Upgrade: h2c` reach the same service."""

    async def main() -> None:
        service = Routes()
        h2 = H2Server(http=service)
        async with serving(service, h2=h2.take_over) as (_, port):
            url = f"http://127.0.0.1:{port}/x"
            curl = ("curl", "-sS", "--max-time", "10", "-w", " %{http_version}")
            assert await _run(*curl, url) == "GET /x  1.1"
            assert await _run(*curl, "-d", "hello", url) == "POST /x hello 1.1"
            assert await _run(*curl, "-T", "-", url) == "PUT /x  1.1"
            assert await _run(*curl, "--http2-prior-knowledge", url) == "GET /x  2"
            assert await _run(*curl, "--http2", url) == "GET /x  2"
            assert (await _run(*curl, "--http2", "-d", "hello", url)).startswith("POST /x hello ")
            assert (await _run(*curl, "--http1.0", url)).startswith("GET /x ")
            await h2.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, 2, 23])
def test_preface_in_pieces(size: int) -> None:
    """However the first bytes are cut, HTTP/2 is recognized, and POST is not mistaken for it."""
    taken: list[bytes] = []

    class Taken(asyncio.Protocol):
        def __init__(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            taken.append(data)
            if b"".join(taken).endswith(b"rest"):
                self.transport.close()

    def take_over(transport: asyncio.Transport, first_bytes: bytes, **_: Any) -> object:
        transport.set_protocol(protocol := Taken(transport))
        protocol.data_received(first_bytes)
        return protocol

    async def main() -> None:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        async with serving(Routes(), h2=take_over) as (server, port):
            for whole in (preface + b"rest", b"POST /p HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for start in range(0, len(whole), size):
                    writer.write(whole[start : start + size])
                    await asyncio.sleep(0.001)
                answer = await reader.read()
                writer.close()
            assert answer.endswith(b"POST /p ")
            assert b"".join(taken) == preface + b"rest"
            assert not server.connections

    asyncio.run(main())


def test_aiohttp_as_client() -> None:
    """Another's client: keep-alive, chunked up and down, Expect, TLS."""

    async def stream(request: Request) -> Response:
        async def back() -> AsyncIterator[bytes]:
            assert not isinstance(request.body, bytes)
            async for piece in request.body:
                yield piece

        return Response(200, body=back()) if not isinstance(request.body, bytes) else await echo(request)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"y" * 50_000

    async def main() -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        chain = "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)
        tls = server_context(chain, issued.private_key_pem.bytes().decode())
        trusting = aiohttp.ClientSession()
        for scheme, context in (("http", None), ("https", tls)):
            async with serving(Routes({b"/s": stream}, streaming=(b"/s",)), tls=context, max_body=0) as (_, port):
                base = f"{scheme}://localhost:{port}"
                for number in range(3):
                    async with trusting.post(f"{base}/{number}", data=b"hello", ssl=False) as answer:
                        assert await answer.read() == b"POST /%d hello" % number
                async with trusting.post(f"{base}/s", data=pieces(), expect100=True, ssl=False) as answer:
                    assert len(await answer.read()) == 64 * 50_000
        await trusting.close()

    asyncio.run(main())
