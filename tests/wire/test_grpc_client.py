"""Our gRPC channel and the official server, in all four kinds of calls, and what happens when servers misbehave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import trustme

from h2_support import Calls, serving
from pillion.errors import Code
from pillion.net import tls
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_pool import PoolOptions
from pillion.net.h2_server import ServerOptions
from pillion.wire import h2_frames as f
from pillion.wire.h2_headers import encode
from pillion.wire.h2_limits import Limits
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pillion.net.exchange import GrpcChannel

MIB = 1 << 20


class Official:
    """The same service as `Calls`, for the official server."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2].lower()
        if name in ("echo", "fail", "hang"):
            return grpc.unary_unary_rpc_method_handler(getattr(self, name))
        if name == "collect":
            return grpc.stream_unary_rpc_method_handler(self.collect)
        if name == "count":
            return grpc.unary_stream_rpc_method_handler(self.count)
        return grpc.stream_stream_rpc_method_handler(self.chat) if name == "chat" else None

    async def echo(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("first", "1"), ("seen", str(len(context.invocation_metadata())))))
        context.set_trailing_metadata((("last-bin", b"\1\2\3"),))
        return request

    async def fail(self, request: bytes, context: Any) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x09"), ("why", "so")))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100% – sorry")

    async def hang(self, request: bytes, context: Any) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return b""

    async def collect(self, requests: Any, context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def count(self, request: bytes, context: Any) -> Any:
        for number in range(int(request)):
            yield b"%d" % number

    async def chat(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request


class _Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, official: Official) -> None:
        self._official = official

    def service(self, handler_call_details: Any) -> Any:
        return self._official.service(handler_call_details)


def run(test: Callable[[Channel, Official], Awaitable[None]], **options: Any) -> None:
    """Run an official server and give the test our channel to it."""

    async def main() -> None:
        official = Official()
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
            compression=options.pop("compression", None),
        )
        server.add_generic_rpc_handlers((_Generic(official),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        channel = Channel(f"127.0.0.1:{port}", **options)
        try:
            await test(channel, official)
        finally:
            await channel.close()
            await server.stop(None)

    asyncio.run(main())


async def status_of(call: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value.code, caught.value.message


def test_four_kinds() -> None:
    async def test(channel: Channel, official: Official) -> None:
        reply = await channel.unary("/s.S/Echo", b"hello", timeout_s=60)
        assert reply.message == b"hello"
        assert (await channel.unary("/s.S/Echo", b"")).message == b""
        collect = channel.stream("/s.S/Collect")
        for message in (b"a", b"b" * 300_000, b""):
            await collect.send(message)
        await collect.half_close()
        assert await collect.receive() == b"a" + b"b" * 300_000
        assert await collect.receive() is None
        count = channel.stream("/s.S/Count")
        await count.send(b"3")
        await count.half_close()
        assert [await count.receive() for _ in range(4)] == [b"0", b"1", b"2", None]
        once = channel.stream("/s.S/Chat", timeout_s=60)
        await once.send_last(b"z" * 200_000)
        assert await once.receive() == b"z" * 200_000
        assert await once.receive() is None
        assert once.exhausted
        chat = channel.stream("/s.S/Chat", timeout_s=60)
        for message in (b"x", b"y" * 300_000, b""):
            await chat.send(message)
            assert await chat.receive() == message
        await chat.half_close()
        assert await chat.receive() is None

    run(test)


def test_metadata_both_ways() -> None:
    async def test(channel: Channel, official: Official) -> None:
        reply = await channel.unary("/s.S/Echo", b"", metadata=[("one", "1"), ("two-bin", b"\0\1")])
        assert ("first", "1") in reply.initial_metadata
        assert ("last-bin", b"\1\2\3") in reply.trailing_metadata
        text = "metadata name 'bad name' cannot be sent"
        assert await status_of(channel.unary("/s.S/Echo", b"", metadata=[("bad name", "1")])) == (13, text)

    run(test)


def test_statuses() -> None:
    async def test(channel: Channel, official: Official) -> None:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/s.S/Fail", b"")
        error = caught.value
        assert (error.code, error.message, error.details) == (9, "not now: 100% – sorry", b"\x08\x09")
        assert ("why", "so") in error.trailers
        assert (await status_of(channel.unary("/s.S/Nothing", b"")))[0] == Code.UNIMPLEMENTED
        stream = channel.stream("/s.S/Nothing")
        assert (await status_of(stream.receive()))[0] == Code.UNIMPLEMENTED

    run(test)


def test_deadline_and_cancellation() -> None:
    async def test(channel: Channel, official: Official) -> None:
        code, text = await status_of(channel.unary("/s.S/Hang", b"", timeout_s=2))
        assert code == Code.DEADLINE_EXCEEDED
        assert text in ("context deadline exceeded", "Deadline Exceeded")  # ours, or that of a server which was quicker
        await official.cancelled.wait()
        official.started.clear()
        official.cancelled.clear()
        waiting = asyncio.ensure_future(channel.unary("/s.S/Hang", b""))
        await official.started.wait()
        waiting.cancel()
        await official.cancelled.wait()
        chat = channel.stream("/s.S/Chat")
        await chat.send(b"x")
        assert await chat.receive() == b"x"
        reading = asyncio.ensure_future(chat.receive())
        await asyncio.sleep(0)
        chat.cancel()
        assert await status_of(reading) == (Code.CANCELLED, "context canceled")
        assert (await status_of(chat.send(b"y")))[0] == Code.CANCELLED
        late = channel.stream("/s.S/Chat", timeout_s=2)
        await late.send(b"x")
        await late.receive()
        assert (await status_of(late.receive()))[0] == Code.DEADLINE_EXCEEDED

    run(test)


def test_deadline_of_a_server_that_says_nothing() -> None:
    """Nobody but the channel can tell that it passed, in the words that clients of Go know."""

    async def main() -> None:
        server, port = await odd_server(lambda _: f.ping_frame(bytes(8)), f.settings_frame({}))
        async with server:
            channel = Channel(f"127.0.0.1:{port}")
            wanted = (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
            assert await status_of(channel.unary("/s.S/Hang", b"", timeout_s=0.2)) == wanted
            await channel.close()

    asyncio.run(main())


def test_deadlines_of_one_connection_pass_in_their_order() -> None:
    async def main() -> list[float]:
        server, port = await odd_server(lambda _: f.ping_frame(bytes(8)), f.settings_frame({}))
        ended: list[float] = []

        async def call(channel: Channel, timeout_s: float) -> None:
            assert (await status_of(channel.unary("/s.S/Hang", b"", timeout_s=timeout_s)))[0] == Code.DEADLINE_EXCEEDED
            ended.append(timeout_s)

        async with server:
            channel = Channel(f"127.0.0.1:{port}")
            await asyncio.gather(*(call(channel, timeout_s) for timeout_s in (0.5, 0.4, 0.6)))
            await channel.close()
        return ended

    assert asyncio.run(main()) == [0.4, 0.5, 0.6]


def test_largest_message_and_one_more_byte() -> None:
    async def test(channel: Channel, official: Official) -> None:
        whole = bytes(4 * MIB)
        assert (await channel.unary("/s.S/Echo", whole)).message == whole
        text = f"grpc: received message larger than max ({4 * MIB + 1} vs. {4 * MIB})"
        assert await status_of(channel.unary("/s.S/Echo", whole + b"x")) == (Code.RESOURCE_EXHAUSTED, text)
        channel.max_send = 10
        text = "grpc: trying to send message larger than max (11 vs. 10)"
        assert await status_of(channel.unary("/s.S/Echo", b"x" * 11)) == (Code.RESOURCE_EXHAUSTED, text)

    run(test)


def test_gzip_replies() -> None:
    async def test(channel: Channel, official: Official) -> None:
        message = b"squeeze me " * 10_000
        assert (await channel.unary("/s.S/Echo", message)).message == message

    run(test, compression=grpc.Compression.Gzip)


def test_many_calls_at_once_over_several_connections() -> None:
    """Spec `grpc-api.md` 1: at most 100 streams on a connection, then another one."""

    async def test(channel: Channel, official: Official) -> None:
        messages = [b"%d" % number * (number % 7 * 1000 + 1) for number in range(350)]
        replies = await asyncio.gather(*(channel.unary("/s.S/Echo", message) for message in messages))
        assert [reply.message for reply in replies] == messages
        assert 1 < len(channel.pool.connections) <= 4

    run(test)


def test_calls_wait_when_every_connection_is_full() -> None:
    async def test(channel: Channel, official: Official) -> None:
        replies = await asyncio.gather(*(channel.unary("/s.S/Echo", b"%d" % number) for number in range(100)))
        assert [reply.message for reply in replies] == [b"%d" % number for number in range(100)]
        assert len(channel.pool.connections) == 2

    run(test, options=PoolOptions(streams=3, connections=2))


def test_nobody_there_is_unavailable_at_once_and_later_a_connection() -> None:
    async def main() -> None:
        port = free_port()
        channel = Channel(f"127.0.0.1:{port}")
        for _ in range(3):
            code, text = await status_of(channel.unary("/s.S/Echo", b"", timeout_s=60))
            assert code == Code.UNAVAILABLE
            assert text.startswith('connection error: desc = "transport: Error while dialing: dial tcp')
            assert "connection refused" in text
        await channel.close()
        assert await status_of(channel.unary("/s.S/Echo", b"")) == (1, "grpc: the client connection is closing")

    asyncio.run(main())


def test_channel_finds_a_restarted_server() -> None:
    async def main() -> None:
        async with serving(grpc=Calls()) as (address, server):
            channel = Channel(address)
            await channel.unary("/s.S/Echo", b"1")
            await server.close()
            server._closing = False
            assert (await channel.unary("/s.S/Echo", b"2")).message == b"2"
            await channel.close()

    asyncio.run(main())


def test_drained_server_loses_no_call() -> None:
    """While a server goes away in two steps, every call ends well: on the old connection or on a new one."""

    async def main() -> None:
        async with serving(grpc=Calls()) as (address, server):
            channel = Channel(address)

            async def caller() -> int:
                for number in range(100):
                    assert (await channel.unary("/s.S/Echo", b"%d" % number)).message == b"%d" % number
                return 100

            callers = [asyncio.ensure_future(caller()) for _ in range(10)]
            for _ in range(5):
                await channel.unary("/s.S/Echo", b"x")
                for connection in list(server.connections):
                    connection.drain()
            assert await asyncio.gather(*callers) == [100] * 10
            await channel.close()

    asyncio.run(main())


async def odd_server(answer: Callable[[int], bytes], greeting: bytes) -> tuple[asyncio.Server, int]:
    """Serve connections that greet, then answer the first request with prepared bytes; count them."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(greeting)
        received = b""
        while b"/s.S/" not in received and (part := await reader.read(1 << 16)):
            received += part
        writer.write(answer(count))
        if not answer(count):
            writer.close()
            return
        while await reader.read(1 << 16):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def headers(fields: list[tuple[bytes, bytes]], *, end: bool) -> bytes:
    return f.head_frames(1, encode(fields), end=end, frame_size=16384)


GRPC = [(b":status", b"200"), (b"content-type", b"application/grpc")]
ODD, KIND = "unexpected HTTP status code received from server", "transport: received unexpected content-type"
MESSAGE = f.frame(f.DATA, 0, 1, b"\0\0\0\0\1x")
DONE = headers([(b"grpc-status", b"0")], end=True)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b"", Code.UNAVAILABLE, "error reading from server: EOF"),
        (f.reset_frame(1, 8), Code.CANCELLED, "stream terminated by RST_STREAM with error code: CANCEL"),
        (f.reset_frame(1, 2), Code.INTERNAL, "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"),
        (headers([(b":status", b"503"), (b"content-type", b"text/html")], end=True), Code.UNAVAILABLE,
         f'{ODD}: 503; {KIND} "text/html"'),
        (headers([(b":status", b"200"), (b"content-type", b"text/html")], end=False), Code.UNKNOWN,
         f'{ODD}: 200; {KIND} "text/html"'),
        (headers([*GRPC, (b"grpc-status", b"5"), (b"grpc-message", b"no%20one")], end=True), Code.NOT_FOUND, "no one"),
        (headers([*GRPC, (b"grpc-status", b"0")], end=True), Code.INTERNAL,
         "cardinality violation: received no reply message before the end"),
        (headers(GRPC, end=False) + MESSAGE + headers([(b"x", b"1")], end=True), Code.INTERNAL,
         "server closed the stream without sending trailers"),
        (headers(GRPC, end=False) + MESSAGE + MESSAGE + DONE, Code.INTERNAL,
         "cardinality violation: received more than one reply message"),
        (headers(GRPC, end=False) + MESSAGE[:-1] + b"x" + f.frame(f.DATA, 0, 1, b"\0\0") + DONE, Code.INTERNAL,
         "unexpected EOF"),
        (headers([*GRPC, (b"grpc-encoding", b"br")], end=False), Code.UNIMPLEMENTED,
         'grpc: Decompressor is not installed for grpc-encoding "br"'),
        (f.window_frame(0, 0), Code.UNAVAILABLE,
         "error reading from server: PROTOCOL_ERROR: window increment of 0"),
    ],
)  # fmt: skip
def test_odd_answers(answer: bytes, code: Code, text: str) -> None:
    """Each is a status of its own, the ones grpc-go gives."""

    async def main() -> None:
        server, port = await odd_server(lambda _: answer, f.settings_frame({}))
        channel = Channel(f"127.0.0.1:{port}")
        assert await status_of(channel.unary("/s.S/Echo", b"")) == (code, text)
        await channel.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("refusal", [f.reset_frame(1, 7), f.goaway_frame(0, 0)], ids=["REFUSED_STREAM", "GOAWAY"])
def test_a_call_nobody_looked_at_is_sent_again_once(refusal: bytes) -> None:
    """RFC 9113 8.7, gRPC A6: transparent retry. The frames are meant for stream 1 of a first connection."""

    async def main() -> None:
        seen = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            writer.write(f.settings_frame({f.MAX_CONCURRENT_STREAMS: 1}))
            stream_id = 1
            while part := await reader.read(1 << 16):
                if b"/s.S/" not in part:
                    continue
                seen += 1
                if seen % 2:
                    writer.write(refusal)
                else:
                    for raw in (headers(GRPC, end=False), MESSAGE, DONE):
                        writer.write(raw[:5] + stream_id.to_bytes(4, "big") + raw[9:])
                stream_id += 2
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        channel = Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await channel.unary("/s.S/Echo", b"")).message == b"x"
        assert seen == 2
        await channel.close()
        server.close()

    asyncio.run(main())


def test_a_call_is_not_sent_a_third_time() -> None:
    async def main() -> None:
        seen = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            writer.write(f.settings_frame({}))
            while part := await reader.read(1 << 16):
                if b"/s.S/" in part:
                    writer.write(f.reset_frame(2 * seen + 1, 7))
                    seen += 1
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        channel = Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        text = "stream terminated by RST_STREAM with error code: REFUSED_STREAM"
        assert await status_of(channel.unary("/s.S/Echo", b"")) == (Code.UNAVAILABLE, text)
        assert seen == 2
        assert await status_of(channel.stream("/s.S/Echo").receive()) == (Code.UNAVAILABLE, text)
        assert seen == 4
        await channel.close()
        server.close()

    asyncio.run(main())


def test_server_that_speaks_something_else() -> None:
    async def main() -> None:
        server, port = await odd_server(lambda _: b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
        channel = Channel(f"127.0.0.1:{port}")
        code, text = await status_of(channel.unary("/s.S/Echo", b""))
        assert code == Code.UNAVAILABLE
        assert "FRAME_SIZE_ERROR" in text or "PROTOCOL_ERROR" in text
        await channel.close()
        server.close()

    asyncio.run(main())


def test_back_pressure_of_a_streaming_call() -> None:
    """A server that does not read makes `send` wait."""

    async def main() -> None:
        calls = Calls()
        async with serving(grpc=calls, options=ServerOptions(limits=Limits(window=100_000))) as (address, _):
            channel = Channel(address)
            call = channel.stream("/s.S/Linger")
            sent = 0

            async def pour() -> None:
                nonlocal sent
                while True:
                    await call.send(bytes(50_000))
                    sent += 1

            pouring = asyncio.ensure_future(pour())
            await call.initial_metadata()
            for _ in range(50):
                await channel.unary("/s.S/Echo", b"")
            assert 1 <= sent <= 3
            call.cancel()
            assert (await status_of(pouring))[0] == Code.CANCELLED
            await calls.cancelled.wait()
            await channel.close()

    asyncio.run(main())


def test_tls_and_unix_sockets(tmp_path: Path) -> None:
    """TLS with ALPN "h2"; a socket file with an authority of its own."""

    async def main() -> None:
        authority = trustme.CA()
        made = authority.issue_cert("localhost")
        context = tls.server_context(
            made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode(), alpn=tls.HTTP2
        )
        ours = tls.client_context(ca_pem=authority.cert_pem.bytes().decode(), alpn=tls.HTTP2)
        calls = Calls()
        async with serving(grpc=calls, tls=context) as (address, server):
            channel = Channel(address, tls=ours, server_name="localhost")
            message = bytes(1_000_000)
            assert (await channel.unary("/s.S/Echo", message)).message == message
            await channel.close()
            stranger = Channel(address, tls=tls.client_context(alpn=tls.HTTP2), server_name="localhost")
            code, text = await status_of(stranger.unary("/s.S/Echo", b""))
            assert code == Code.UNAVAILABLE
            assert "CERTIFICATE_VERIFY_FAILED" in text
            await stranger.close()
            path = str(tmp_path / "s.socket")
            listener = await asyncio.get_running_loop().create_unix_server(server, path)
            channel = Channel(f"unix:{path}")
            assert (await channel.unary("/s.S/Echo", b"x")).message == b"x"
            assert (":authority", "localhost") in calls.metadata
            await channel.close()
            listener.close()

    asyncio.run(main())


def test_under_uvloop() -> None:
    """The loop that programs run on: all kinds of calls, a graceful end, nothing left behind."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with serving(grpc=Calls()) as (address, server):
            channel = Channel(address)
            replies = await asyncio.gather(*(channel.unary("/s.S/Echo", bytes(n * 1000)) for n in range(200)))
            assert [len(reply.message) for reply in replies] == [n * 1000 for n in range(200)]
            pour = channel.stream("/s.S/Pour")
            await pour.send(b"50")
            await pour.half_close()
            assert [await pour.receive() for _ in range(51)] == [bytes(65_536)] * 50 + [None]
            await server.close(5)
            assert not server.connections
            await channel.close()

    uvloop.run(main())


def test_idle_and_silent_connections_are_given_up() -> None:
    async def main() -> None:
        async with serving(grpc=Calls()) as (address, _):
            channel = Channel(address, options=PoolOptions(keepalive=Keepalive(ping_after_s=None, idle_s=0.05)))
            await channel.unary("/s.S/Echo", b"")
            while channel.pool.connections:
                channel.pool.changed.clear()
                await channel.pool.changed.wait()
            assert (await channel.unary("/s.S/Echo", b"again")).message == b"again"
            await channel.close()
        dead, port = await odd_server(lambda _: f.reset_frame(3, 0)[:3], f.settings_frame({}))
        keepalive = Keepalive(ping_after_s=0.05, ping_timeout_s=0.05, idle_s=None)
        channel = Channel(f"127.0.0.1:{port}", options=PoolOptions(keepalive=keepalive))
        text = "error reading from server: keepalive ping not acknowledged"
        assert await status_of(channel.unary("/s.S/Echo", b"")) == (Code.UNAVAILABLE, text)
        await channel.close()
        dead.close()

    asyncio.run(main())


def test_addresses_are_checked() -> None:
    for address in ("nohost", "host:", ":80", "host:99999", "host:x"):
        with pytest.raises(ValueError, match="is not host:port"):
            Channel(address)
    channel: GrpcChannel = Channel("[::1]:80")  # the type is the point
    assert channel is not None
