"""The HTTP/1.1 server over real sockets: order, framing, keep-alive, limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from http1_support import Routes, head_of, serving, talk
from pillion.net import listen
from pillion.net.exchange import Request, Response
from pillion.net.http_server import HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = b"Host: h\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def test_one_request() -> None:
    """Content-Length comes from the body; `Connection: close` is answered with the same and a close."""

    async def main() -> None:
        async with serving(service := Routes()) as (_, port):
            answer = await talk(port, LAST)
        assert answer == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 10\r\n\r\nGET /last "
        )
        (request,) = service.seen
        assert request.headers == [(b"host", b"h"), (b"connection", b"close")]
        assert request.peer is not None
        assert request.version == "1.1"

    asyncio.run(main())


def test_clients_have_their_ipv4_address_on_a_socket_for_both() -> None:
    """`""` listens with one socket for IPv4 and IPv6; that is nobody's business above."""

    async def main() -> None:
        server = HttpServer(service := Routes(), max_body=0, max_head=4096)
        listeners = await listen.tcp(server, [""], 0)
        await talk(listeners.port, LAST)
        listeners.close()
        await server.close(1)
        peer = service.seen[0].peer
        assert peer is not None
        assert peer[0] == "127.0.0.1"

    asyncio.run(main())


def test_header_values_lose_blanks_around_them() -> None:
    """RFC 9110 5.5: white space around a value is no part of it."""

    async def main() -> None:
        async with serving(service := Routes()) as (_, port):
            await talk(port, b"GET / HTTP/1.1\r\nHost: h\r\nX-A: \t a b \t\r\nConnection: close\r\n\r\n")
        assert (b"x-a", b"a b") in service.seen[0].headers

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order() -> None:
    """However long each takes, answers come in the order of the requests (RFC 9112 9.3.2), one at a time."""
    running = 0

    async def slow(request: Request) -> Response:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        return Response(200, body=request.target)

    async def main() -> None:
        service = Routes({b"/%d" % number: slow for number in range(300)})
        requests = b"".join(b"GET /%d HTTP/1.1\r\n%b\r\n" % (number, HOST) for number in range(300))
        async with serving(service) as (_, port):
            answer = await talk(port, requests + LAST)
        bodies = [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [b"/%d" % number for number in range(300)] + [b"GET /last "]

    asyncio.run(main())


def test_chunked_request_is_collected() -> None:
    async def main() -> None:
        async with serving(Routes()) as (_, port):
            body = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
            answer = await talk(port, b"POST /p HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + body + LAST)
        assert b"\r\n\r\nPOST /p abcdeHTTP/1.1 200 OK" in answer

    asyncio.run(main())


def test_head_gets_the_length_but_no_body() -> None:
    async def main() -> None:
        async with serving(Routes()) as (_, port):
            answer = await talk(port, b"HEAD /a HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: 8" in first
        assert rest.startswith(b"HTTP/1.1 200 OK")

    asyncio.run(main())


@pytest.mark.parametrize(("status", "length"), [(204, False), (304, False), (200, True)])
def test_204_and_304_have_no_body(status: int, length: bool) -> None:
    """RFC 9110 8.6: no Content-Length with 204; with 304 only one that the service gave."""

    async def answer_it(request: Request) -> Response:
        return Response(status)

    async def main() -> None:
        async with serving(Routes({b"/s": answer_it})) as (_, port):
            answer = await talk(port, b"GET /s HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status)
        assert (b"Content-Length" in first) == length
        assert rest.startswith(b"HTTP/1.1 200 OK")

    asyncio.run(main())


def test_http_1_0_closes_unless_asked_to_stay() -> None:
    async def main() -> None:
        async with serving(Routes()) as (_, port):
            once = await talk(port, b"GET /a HTTP/1.0\r\n\r\n")
            assert once.count(b"HTTP/1.1 200 OK") == 1
            assert b"Connection: close" in once
            twice = await talk(port, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"GET /b HTTP/1.0\r\n\r\n")
            assert twice.count(b"HTTP/1.1 200 OK") == 2
            assert twice.count(b"Connection: keep-alive") == 1

    asyncio.run(main())


async def _three_pieces() -> AsyncIterator[bytes]:
    for piece in (b"one", b"", b"two", b"three"):
        yield piece


def test_streamed_answers() -> None:
    """Chunked with trailers, with a given length, and to HTTP/1.0 until the end of the connection."""

    async def chunked(request: Request) -> Response:
        return Response(200, body=_three_pieces(), trailers=[(b"x-sum", b"7")])

    async def measured(request: Request) -> Response:
        return Response(200, [(b"content-length", b"11")], body=_three_pieces())

    async def main() -> None:
        async with serving(Routes({b"/c": chunked, b"/m": measured})) as (_, port):
            answer = await talk(port, b"GET /c HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
            assert (
                b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\nX-Sum: 7\r\n\r\nH"
                in answer
            )
            answer = await talk(port, b"GET /m HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
            assert b"Content-Length: 11\r\n\r\nonetwothreeHTTP/1.1" in answer
            answer = await talk(port, b"GET /c HTTP/1.0\r\n\r\n")
            assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwothree"
            answer = await talk(port, b"HEAD /c HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK")

    asyncio.run(main())


@pytest.mark.parametrize("length", [b"10", b"12"])
def test_streamed_answer_of_another_length_than_announced_is_cut(length: bytes) -> None:
    """The client must not take a wrong body for a whole one, nor the rest of it for the next answer."""

    async def wrong(request: Request) -> Response:
        return Response(200, [(b"content-length", length)], body=_three_pieces())

    async def main() -> None:
        async with serving(Routes({b"/w": wrong})) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /w HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
            await head_of(reader)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(int(length) + 1)
            writer.close()

    asyncio.run(main())


def test_exceptions_of_the_service_are_bare_500s(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(request: Request) -> Response:
        raise RuntimeError("kaput")

    async def unwritable(request: Request) -> Response:
        return Response(99)

    async def main() -> None:
        async with serving(Routes({b"/f": fails, b"/u": unwritable})) as (_, port):
            for target in (b"/f", b"/u"):
                answer = await talk(port, b"GET %b HTTP/1.1\r\n" % target + HOST + b"\r\n" + LAST)
                assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200")
        assert "kaput" in caplog.text

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limit", "body", "answer"),
    [(4, b"abcd", b"200"), (4, b"abcde", b"400"), (0, b"a" * 100_000, b"200"), (-1, b"a" * 100_000, b"200")],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit_of_collected_requests(limit: int, body: bytes, answer: bytes, chunked: bool) -> None:
    """Spec `http-api.md` 1: never 413; the service is told, and answers as its route does. 0 or less is no limit."""

    async def main() -> None:
        async with serving(Routes(), max_body=limit) as (_, port):
            if chunked:
                framed = CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body[:100]) + b"0\r\n\r\n"
            else:
                framed = b"Content-Length: %d\r\n\r\n" % len(body) + body
            got = await talk(port, b"POST /p HTTP/1.1\r\nConnection: close\r\n" + HOST + framed)
        assert got.startswith(b"HTTP/1.1 " + answer)
        if answer == b"400":
            assert got.endswith(b"stream too large")

    asyncio.run(main())


def test_small_rest_of_a_refused_body_is_read_over() -> None:
    """After a body beyond the limit the connection serves on, when no more than 256 KiB are to be thrown away."""

    async def main() -> None:
        async with serving(Routes(), max_body=10) as (_, port):
            post = b"POST /p HTTP/1.1\r\n" + HOST + b"Content-Length: 50000\r\n\r\n" + b"x" * 50000
            answer = await talk(port, post + post + LAST)
        assert answer.count(b"stream too large") == 2
        assert answer.endswith(b"GET /last ")

    asyncio.run(main())


def test_large_rest_of_a_refused_body_ends_the_connection_without_losing_the_answer() -> None:
    """The answer reaches a client that is still sending (RFC 9112 9.6)."""

    async def main() -> None:
        async with serving(Routes(), max_body=10) as (_, port):
            post = b"POST /p HTTP/1.1\r\n" + HOST + b"Content-Length: 5000000\r\n\r\n" + b"x" * 100_000
            answer = await talk(port, post)
        assert b"Connection: close" in answer
        assert answer.endswith(b"stream too large")

    asyncio.run(main())


def test_expect_continue() -> None:
    """`100 Continue` is sent when the body is wanted, and not when the answer is known without it (RFC 9110 10.1.1)."""

    async def never_reads(request: Request) -> Response:
        return Response(403)

    async def main() -> None:
        service = Routes({b"/no": never_reads}, streaming=(b"/no", b"/stream"))
        async with serving(service, max_body=100) as (_, port):
            for target in (b"/collected", b"/stream"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(
                    b"POST %b HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n%b\r\n"
                    % (target, HOST)
                )
                assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"abc")
                assert (await reader.read()).endswith(b"POST %b abc" % target)
                writer.close()
            answer = await talk(
                port, b"POST /no HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n" + HOST + b"\r\n"
            )
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\nConnection: close")
            answer = await talk(
                port, b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 101\r\n" + HOST + b"\r\n"
            )
            assert answer.startswith(b"HTTP/1.1 400")
            answer = await talk(port, b"POST /x HTTP/1.1\r\nExpect: cake\r\nContent-Length: 3\r\n" + HOST + b"\r\nabc")
            assert answer.startswith(b"HTTP/1.1 417")

    asyncio.run(main())


MALFORMED = {
    "length beside coding": (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "coding beside length": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n" + HOST + b"\r\nabc", 400),
    "list of lengths": (b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n" + HOST + b"\r\nabc", 400),
    "signed length": (b"POST / HTTP/1.1\r\nContent-Length: +3\r\n" + HOST + b"\r\nabc", 400),
    "hexadecimal length": (b"POST / HTTP/1.1\r\nContent-Length: 0x3\r\n" + HOST + b"\r\nabc", 400),
    "empty length": (b"POST / HTTP/1.1\r\nContent-Length: \r\n" + HOST + b"\r\nabc", 400),
    "huge length": (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n" + HOST + b"\r\nabc", 400),
    "bad chunk size": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\nxyz\r\n", 400),
    "chunk size with 0x": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size too big": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\nfffffffffffffffff\r\n", 400),
    "chunk longer than told": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    "chunk ended by LF": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\nabc\n0\n\n", 400),
    "coding in 1.0": (b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "other coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" + HOST + b"\r\n0\r\n\r\n", 501),
    "coding not last": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n" + HOST + b"\r\n0\r\n\r\n", 400),
    "coding in disguise": (b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n" + HOST + b"\r\n0\r\n\r\n", 400),
    "two codings": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", 400),
    "blank before colon": (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
    "blank before name": (b"GET / HTTP/1.1\r\n A: b\r\n" + HOST + b"\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n: b\r\n" + HOST + b"\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nAb\r\n" + HOST + b"\r\n", 400),
    "NUL in value": (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\0\r\n\r\n", 400),
    "NUL in name": (b"GET / HTTP/1.1\r\n" + HOST + b"A\0: b\r\n\r\n", 400),
    "CR in value": (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n\r\n", 400),
    "LF alone": (b"GET / HTTP/1.1\n" + b"Host: h\n\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "unknown method": (b"SNARK / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT h:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "target without slash": (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "target of another scheme": (b"GET ftp://h/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "target with control": (b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no target": (b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "version 1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "version 0.9": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "preface while HTTP/2 is off": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "head too long": (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n" + HOST + b"\r\n", 431),
    "head without end": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000, 431),
    "target too long": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "value without end": (b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000, 431),
    "long head before a body": (
        b"POST / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n" + HOST + b"Content-Length: 20000\r\n\r\n" + b"x" * 20000,
        431,
    ),
    "trailers without end": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0\r\nA: " + b"b" * 100_000, 400),
    "chunk extension without end": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n1;" + b"b" * 100_000, 400),
}


@pytest.mark.parametrize(("request_bytes", "status"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_are_refused_and_end_the_connection(request_bytes: bytes, status: int) -> None:
    """One refusal, behind the answers to whole requests before it; nothing after it is taken for a request."""

    async def main() -> None:
        async with serving(service := Routes()) as (_, port):
            alone = await talk(port, request_bytes)
            assert alone.startswith(b"HTTP/1.1 %d " % status)
            assert b"Connection: close" in alone
            assert not service.seen
            answer = await talk(port, b"GET /first HTTP/1.1\r\n" + HOST + b"\r\n" + request_bytes + LAST)
        assert answer.count(b"HTTP/1.1 ") == 2
        assert b"GET /first HTTP/1.1 %d " % status in answer
        assert [request.target for request in service.seen] == [b"/first"]

    asyncio.run(main())


def test_head_up_to_the_limit_is_accepted() -> None:
    """The limit has 4 KiB of slack (spec `http-api.md` 1)."""

    async def main() -> None:
        async with serving(Routes(), max_head=1000) as (_, port):
            fits = b"GET /a HTTP/1.1\r\nA: " + b"a" * 4900 + b"\r\n" + HOST + b"Connection: close\r\n\r\n"
            assert (await talk(port, fits)).startswith(b"HTTP/1.1 200")
            assert (await talk(port, fits.replace(b"aaaa", b"a" * 5), fits)).startswith(b"HTTP/1.1 431")

    asyncio.run(main())


def test_data_after_connection_close_is_ignored() -> None:
    async def main() -> None:
        async with serving(service := Routes()) as (_, port):
            answer = await talk(port, LAST + LAST + b"garbage")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert len(service.seen) == 1

    asyncio.run(main())


def test_upgrades_we_do_not_know_are_ignored() -> None:
    """RFC 9110 7.8: a request for WebSocket is served as what else it is, its body included."""
    upgrade = b"Connection: Upgrade, X-Own\r\nUpgrade: websocket\r\n"

    async def main() -> None:
        async with serving(service := Routes()) as (_, port):
            get = b"GET /a HTTP/1.1\r\n" + HOST + upgrade + b"\r\n"
            post = b"POST /b HTTP/1.1\r\n" + HOST + upgrade + b"Content-Length: 3\r\n\r\nabc"
            chunked = b"POST /c HTTP/1.1\r\n" + HOST + upgrade + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n"
            answer = await talk(port, get + post + chunked + LAST)
        for expected in (b"GET /a ", b"POST /b abc", b"POST /c abc", b"GET /last "):
            assert expected in answer
        assert service.seen[0].headers == [(b"host", b"h"), (b"connection", b"x-own")]

    asyncio.run(main())


REQUESTS = (
    b"GET /a?x=%2F HTTP/1.1\r\nHost: h\r\nX-One: two three\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world",
    (
        b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: u\r\n\r\n"
    ),
    b"POST /stream HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    b"POST /stream HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world",
    b"GET /d HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
)
ANSWERS = (
    b"GET /a?x=%2F ",
    b"POST /b hello world",
    b"POST /c hello world",
    b"POST /stream hello world",
    b"POST /stream hello world",
    b"GET /d ",
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_of_pipelined_requests_gives_the_same_answers(data: st.DataObject) -> None:
    """How the network cuts the bytes means nothing."""
    order = data.draw(st.lists(st.integers(0, len(REQUESTS) - 1), min_size=1, max_size=6))
    stream = b"".join(REQUESTS[index] for index in order) + LAST
    cuts = sorted(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    async def main() -> None:
        async with serving(Routes(streaming=(b"/stream",))) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            answer = await asyncio.wait_for(reader.read(), 90)
            writer.close()
            assert server.connections == set()
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [ANSWERS[index] for index in order] + [b"GET /last "]

    asyncio.run(main())
