"""The HTTP/1.1 client over real sockets: against our server, against aiohttp's, and against misbehaving ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
import uvloop
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from http1_support import Routes, serving, until
from pillion.net import listen
from pillion.net.exchange import BodyIncomplete, BodyStream, Request, Response
from pillion.net.http_client import ConnectFailed, HttpClient, MalformedResponse, ServerDisconnected
from pillion.net.http_server import HttpServer
from pillion.net.tls import client_context, server_context, unverified_client_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from pillion.net.exchange import Headers

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MEBI = 1 << 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(target: bytes = b"/", headers: Headers | None = None) -> Request:
    return Request("GET", target, headers or [])


def post(body: bytes | BodyStream, target: bytes = b"/", headers: Headers | None = None) -> Request:
    return Request("POST", target, headers or [], body)


class Pieces:
    """A request body of `count` pieces."""

    def __init__(self, count: int, piece: bytes, *, length: int | None = None, trailers: Headers | None = None) -> None:
        self.length = length
        self.trailers: Headers = trailers or []
        self.given = 0
        self._count = count
        self._piece = piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while self.given < self._count:
            self.given += 1
            yield self._piece

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])


async def whole(response: Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b"".join([piece async for piece in response.body])


@contextlib.asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[tuple[HttpClient, list[bytes]]]:
    """A server that treats its first connection by the first script, and so on; yield a client of it and heads read."""
    left = list(scripts)
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = left.pop(0)
        original = reader.readuntil

        async def noting(separator: bytes = b"\r\n\r\n") -> bytes:
            heads.append(await original(separator))
            return heads[-1]

        reader.readuntil = noting  # type: ignore[method-assign,assignment]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = HttpClient("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield client, heads
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


def says(*answers: bytes) -> Script:
    """Answer each request with the next bytes, then close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return script


def test_connections_are_kept_and_counted() -> None:
    """One after the other uses one connection; at most `max_connections` at once, of which `max_idle` stay."""

    async def main() -> None:
        most = 0

        async def slow(request: Request) -> Response:
            nonlocal most
            most = max(most, len(server.connections))
            await asyncio.sleep(0.001)
            return Response(200, body=b"ok")

        async with serving(Routes({b"/": slow})) as (server, port):
            client = HttpClient("127.0.0.1", port, max_connections=8, max_idle=3)
            for _ in range(3):
                assert (await client.request(get())).body == b"ok"
            assert most == 1
            answers = await asyncio.gather(*[client.request(get()) for _ in range(50)])
            assert [answer.body for answer in answers] == [b"ok"] * 50
            assert most == 8
            await until(lambda: len(server.connections) == 3)
            assert repr(client).endswith("0 busy, 3 idle, 0 waiting>")
            await client.close()

    asyncio.run(main())


def test_heads_on_the_wire() -> None:
    """Canonical names out, Host and framing ours, lower-case names in, blanks around values gone."""

    async def main() -> None:
        answer = b"HTTP/1.1 299 Odd\r\nX-Reply:  a b \t\r\nContent-Length: 2\r\n\r\nok"
        async with scripted(says(answer, answer, answer)) as (client, heads):
            response = await client.request(get(b"/a?b", [(b"traceparent", b"00"), (b"connection", b"close")]))
            assert response.status == 299
            assert response.headers == [(b"x-reply", b"a b"), (b"content-length", b"2")]
            await client.request(post(b"", headers=[(b"host", b"other")]))
            await client.request(Request("DELETE", b"/d", []))
            assert heads == [
                b"GET /a?b HTTP/1.1\r\nHost: %b\r\nTraceparent: 00\r\n\r\n" % client.host_header,
                b"POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\n",
                b"DELETE /d HTTP/1.1\r\nHost: %b\r\n\r\n" % client.host_header,
            ]

    asyncio.run(main())


def test_interim_answers_are_skipped_and_trailers_kept() -> None:
    async def main() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        async with scripted(says(hints + chunked, OK)) as (client, _):
            response = await client.request(get())
            assert (response.body, response.trailers) == (b"ok", [(b"x-t", b"1")])
            assert response.headers == [(b"transfer-encoding", b"chunked")]
            assert (await client.request(get())).body == b"ok"

    asyncio.run(main())


def test_answers_to_head_have_no_body_and_keep_the_connection() -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
        async with scripted(says(head, OK)) as (client, _):
            response = await client.request(Request("HEAD", b"/", []))
            assert (response.body, response.headers) == (b"", [(b"content-length", b"5000")])
            assert (await client.request(get())).body == b"ok"

    asyncio.run(main())


def test_body_until_the_end_of_the_connection() -> None:
    async def main() -> None:
        async with scripted(says(b"HTTP/1.1 200 OK\r\n\r\nall of it"), says(b"HTTP/1.0 200 OK\r\n\r\n")) as (client, _):
            assert await whole(await client.request(get())) == b"all of it"
            assert await whole(await client.request(get())) == b""

    asyncio.run(main())


def test_stale_connection_is_replaced_once() -> None:
    """A server that closed while our request was under way: sent again, because it is idempotent."""

    async def main() -> None:
        async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.readuntil(b"\r\n\r\n")

        async with scripted(closes, says(OK), closes, closes) as (client, heads):
            for _ in range(2):
                assert (await client.request(get())).body == b"ok"
            assert len(heads) == 3
        async with scripted(closes, says(OK)) as (client, heads):
            assert (await client.request(get())).body == b"ok"
            with pytest.raises(ServerDisconnected):  # not idempotent, and the connection was in use a moment ago
                await client.request(post(b""))
            assert len(heads) == 2
        async with scripted(closes, says(OK)) as (client, heads):
            assert (await client.request(get())).body == b"ok"
            for connection in client._open:
                connection._idle_since -= 2  # idle for long: this is what servers close
            assert (await client.request(post(b""))).body == b"ok"

    asyncio.run(main())


def test_fresh_connection_is_not_tried_twice() -> None:
    async def main() -> None:
        async with scripted(says(b"")) as (client, heads):
            with pytest.raises(ServerDisconnected, match="closed the connection without an answer"):
                await client.request(get())
            assert len(heads) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", BodyIncomplete),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf", BodyIncomplete),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", BodyIncomplete),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\nzz\r\n", MalformedResponse),
        (b"SMTP ready\r\n", MalformedResponse),
        (b"HTTP/1.1 20 OK\r\n\r\n", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", MalformedResponse),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", MalformedResponse),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 700_000, MalformedResponse),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, MalformedResponse),
    ],
)
def test_broken_answers(answer: bytes, error: type[Exception]) -> None:
    """Each is an error of its own kind, at the latest when the body is read, and the connection is gone."""

    async def main() -> None:
        async with scripted(says(answer)) as (client, _):
            with pytest.raises(error):
                await whole(await client.request(get()))
            await until(lambda: not client._open)

    asyncio.run(main())


def test_unasked_data_ends_a_connection() -> None:
    """A second answer nobody asked for must not become the answer to the next request."""

    async def main() -> None:
        evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        async with scripted(says(OK + evil), says(OK)) as (client, _):
            assert (await client.request(get())).body == b"ok"
            assert (await client.request(get())).body == b"ok"

    asyncio.run(main())


def test_nobody_there() -> None:
    async def main() -> None:
        async with serving(Routes()) as (_, port):
            pass
        client = HttpClient("127.0.0.1", port)
        with pytest.raises(
            ConnectFailed, match=rf"cannot connect to 127\.0\.0\.1:{port}: connection refused"
        ) as caught:
            await client.request(get())
        assert caught.value.address == f"127.0.0.1:{port}"
        with pytest.raises(ConnectFailed):
            await HttpClient("", unix="/nowhere/at/all").request(get())
        await client.close()

    asyncio.run(main())


def test_timeout_and_cancellation_close_the_connection() -> None:
    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with scripted(silent, silent) as (client, _):
            with pytest.raises(TimeoutError):
                await client.request(get(), timeout_s=0.01)
            task = asyncio.create_task(client.request(get()))
            await until(lambda: bool(client._open))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not client._open)

    asyncio.run(main())


def test_waiting_for_a_place_survives_cancellation() -> None:
    """A place that was given to somebody who left goes to the next."""

    async def main() -> None:
        release = asyncio.Event()

        async def slow(request: Request) -> Response:
            await release.wait()
            return Response(200, body=b"ok")

        async with serving(Routes({b"/": slow})) as (_, port):
            client = HttpClient("127.0.0.1", port, max_connections=1)
            tasks = [asyncio.create_task(client.request(get())) for _ in range(4)]
            await until(lambda: len(client._waiting) == 3)
            tasks[1].cancel()
            release.set()
            tasks[2].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[0], Response)
            assert isinstance(answers[3], Response)
            await client.close()
            with pytest.raises(ConnectFailed, match="closed"):
                await client.request(get())

    asyncio.run(main())


def test_long_answers_stream_and_give_the_connection_back() -> None:
    """50 MB arrive piece by piece; while nobody reads, the server is stopped; early `aclose` closes the connection."""
    made = 0

    async def main() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(800):
                made += 1
                yield b"x" * 65536

        async def big(request: Request) -> Response:
            return Response(200, body=pieces())

        async with serving(Routes({b"/": big})) as (server, port):
            client = HttpClient("127.0.0.1", port)
            response = await client.request(get())
            await until(lambda: any(not connection._writable for connection in server.connections))
            assert made < 400
            assert not isinstance(response.body, bytes)
            size = 0
            async for piece in response.body:
                assert len(piece) < MEBI
                size += len(piece)
            assert size == 800 * 65536
            assert repr(client).endswith("0 busy, 1 idle, 0 waiting>")
            response = await client.request(get())
            assert repr(client).endswith("1 busy, 0 idle, 0 waiting>")
            await response.body.aclose()  # type: ignore[union-attr]
            await until(lambda: not client._open and not server.connections)
            await client.close()

    asyncio.run(main())


def test_streamed_requests() -> None:
    """With a length and chunked with trailers; the sender waits while the server does not read."""

    async def main() -> None:
        proceed = asyncio.Event()

        async def count(request: Request) -> Response:
            await proceed.wait()
            if isinstance(request.body, bytes):
                return Response(200, body=b"%d" % len(request.body))
            size = 0
            async for piece in request.body:
                size += len(piece)
            return Response(200, request.body.trailers, b"%d" % size)

        service = Routes({b"/": count}, streaming=(b"/",))
        async with serving(service, max_body=0) as (_, port):
            client = HttpClient("127.0.0.1", port)
            pieces = Pieces(800, b"x" * 65536, trailers=[(b"x-sum", b"1")])
            running = asyncio.create_task(client.request(post(pieces)))
            await until(lambda: any(not connection._writable for connection in client._open))
            assert pieces.given < 400
            proceed.set()
            response = await running
            assert response.body == b"%d" % (800 * 65536)
            assert (b"x-sum", b"1") in response.headers
            response = await client.request(post(Pieces(3, b"abc", length=9)))
            assert response.body == b"9"
            assert (b"content-length", b"9") in service.seen[1].headers
            assert len(client._open) == 1
            await client.close()

    asyncio.run(main())


def test_request_body_that_fails_fails_the_request() -> None:
    """The error of the source is what the caller sees; the server sees a broken body."""

    class Broken(Pieces):
        async def _pieces(self) -> AsyncIterator[bytes]:
            yield b"abc"
            raise BodyIncomplete

    async def main() -> None:
        async with serving(Routes(streaming=(b"/",))) as (server, port):
            client = HttpClient("127.0.0.1", port)
            with pytest.raises(BodyIncomplete):
                await client.request(post(Broken(1, b"")))
            with pytest.raises(BodyIncomplete):
                await client.request(post(Pieces(2, b"abc", length=7)))
            with pytest.raises(ValueError, match="longer"):
                await client.request(post(Pieces(2, b"abc", length=5)))
            await until(lambda: not server.connections and not client._open)
            await client.close()

    asyncio.run(main())


def test_answer_before_the_request_was_sent() -> None:
    """A server that refuses early is heard; the rest is not sent and the connection not used again."""

    async def main() -> None:
        class Endless(Pieces):
            async def _pieces(self) -> AsyncIterator[bytes]:
                yield b"abc"
                await asyncio.Event().wait()

        async with scripted(says(OK), says(OK)) as (client, _):
            assert (await client.request(post(Endless(1, b"")))).body == b"ok"
            await until(lambda: not client._open)

    asyncio.run(main())


def test_hostile_values_are_refused_before_anything_is_sent() -> None:
    async def main() -> None:
        client = HttpClient("127.0.0.1", 1)
        for request in (get(b"/a b"), get(headers=[(b"a", b"b\r\nc: d")]), get(headers=[(b"a b", b"c")])):
            with pytest.raises(ValueError, match=r"target|line breaks|header name"):
                await client.request(request)

    asyncio.run(main())


def test_tls_and_socket_files(tmp_path: Path) -> None:
    """Unverified for applications, verified with a CA and a client certificate for endpoints; unix sockets."""

    async def main() -> None:
        authority, other = trustme.CA(), trustme.CA()
        issued, mine = authority.issue_cert("localhost"), authority.issue_cert("me@example.com")

        def chain(leaf: trustme.LeafCert) -> tuple[str, str]:
            return "".join(
                blob.bytes().decode() for blob in leaf.cert_chain_pems
            ), leaf.private_key_pem.bytes().decode()

        ca = authority.cert_pem.bytes().decode()
        async with serving(Routes(), tls=server_context(*chain(issued))) as (_, port):
            client = HttpClient("127.0.0.1", port, tls=unverified_client_context())
            assert (await client.request(get())).body == b"GET / "
            assert len(client._open) == 1
            await client.close()
            for context, trusted in (
                (client_context(ca_pem=ca), True),
                (client_context(ca_pem=other.cert_pem.bytes().decode()), False),
                (client_context(), False),
            ):
                client = HttpClient("127.0.0.1", port, tls=context, server_name="localhost")
                if trusted:
                    assert (await client.request(get())).body == b"GET / "
                else:
                    with pytest.raises(ConnectFailed, match="certificate verify failed"):
                        await client.request(get())
                await client.close()
        async with serving(Routes(), tls=server_context(*chain(issued), client_ca_pem=ca)) as (_, port):
            certificate, key = chain(mine)
            context = client_context(ca_pem=ca, certificate_pem=certificate, key_pem=key)
            client = HttpClient("localhost", port, tls=context)
            assert (await client.request(get())).body == b"GET / "
            await client.close()
        with pytest.raises(ssl.SSLError):
            server_context("no", "key")
        with pytest.raises(ValueError, match="come together"):
            client_context(certificate_pem=certificate)

        server = HttpServer(service := Routes(), max_body=0, max_head=4096)
        listeners = await listen.unix(server, tmp_path / "s")
        client = HttpClient("localhost", unix=str(tmp_path / "s"))
        assert (await client.request(get())).body == b"GET / "
        assert service.seen[0].header(b"host") == b"localhost"
        await client.close()
        listeners.close()
        await server.close(1)

    asyncio.run(main())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("tls", [False, True])
def test_both_ends_on_both_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop], tls: bool) -> None:
    """asyncio's loop and uvloop differ in reading, writing and closing; nothing of that may be seen."""

    async def mirror(request: Request) -> Response:
        return Response(200, body=request.body if isinstance(request.body, bytes) else aiter(request.body))

    async def main() -> None:
        issued = trustme.CA().issue_cert("localhost")
        chain = "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)
        context = server_context(chain, issued.private_key_pem.bytes().decode()) if tls else None
        service = Routes({b"/": mirror, b"/s": mirror}, streaming=(b"/s",))
        async with serving(service, max_body=0, tls=context) as (_, port):
            client = HttpClient("127.0.0.1", port, tls=unverified_client_context() if tls else None)
            for _ in range(3):
                assert await whole(await client.request(post(b"hello"))) == b"hello"
            assert len(await whole(await client.request(post(b"x" * 5 * MEBI)))) == 5 * MEBI
            assert len(await whole(await client.request(post(Pieces(100, b"y" * 50_000), b"/s")))) == 5_000_000
            response = await client.request(post(Pieces(1000, b"y" * 50_000), b"/s"))
            await response.body.aclose()  # type: ignore[union-attr]
            await until(lambda: not client._open)
            await client.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_aiohttp_as_server() -> None:
    """Another's server: keep-alive, chunked up and down, HEAD, 204, a redirect that is not followed."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/gone":
            raise web.HTTPFound("/elsewhere")
        if request.path == "/none":
            return web.Response(status=204)
        if request.path == "/chunked":
            response = web.StreamResponse()
            await response.prepare(request)
            async for piece in request.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response
        return web.Response(body=request.method.encode() + b" " + await request.read())

    async def main() -> None:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = HttpClient("127.0.0.1", runner.addresses[0][1])
        for _ in range(3):
            assert (await client.request(post(b"hello"))).body == b"POST hello"
        assert (await client.request(Request("HEAD", b"/", []))).body == b""
        assert (await client.request(get(b"/none"))).status == 204
        assert (await client.request(get(b"/gone"))).status == 302
        assert (await client.request(post(Pieces(3, b"abc")))).body == b"POST abcabcabc"
        response = await client.request(post(Pieces(100, b"y" * 50_000), b"/chunked"))
        assert len(await whole(response)) == 5_000_000
        assert len(client._open) == 1
        await client.close()
        await runner.cleanup()

    asyncio.run(main())


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_split_of_answers_reads_the_same(data: st.DataObject) -> None:
    """How the network cuts the bytes means nothing."""
    answer = data.draw(
        st.sampled_from(
            [
                OK,
                b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x\r\nk\r\n0\r\nX-T: 1\r\n\r\n",
            ]
        )
    )
    cuts = sorted(data.draw(st.lists(st.integers(1, len(answer) - 1), max_size=6)))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
        await reader.read()

    async def main() -> None:
        async with scripted(script) as (client, heads):
            for _ in range(2):
                response = await client.request(get())
                assert (response.status, await whole(response)) == (200, b"ok")
            assert len(heads) == 2

    asyncio.run(main())
