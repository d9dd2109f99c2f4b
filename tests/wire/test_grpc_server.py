"""Our gRPC server and the official client, synchronous and asyncio, in all four kinds of calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from h2_support import Calls, client, data, frames, headers, serving
from pillion.net.grpc_server import GrpcOptions
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_server import ServerOptions
from pillion.wire import h2_frames as f
from pillion.wire.h2_headers import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MIB = 1 << 20


def run(
    test: Callable[[grpc.aio.Channel, Calls], Awaitable[None]],
    options: ServerOptions | None = None,
    channel_options: list[tuple[str, Any]] | None = None,
) -> None:
    """Serve `Calls` and give the test an official channel to it."""

    async def main() -> None:
        calls = Calls()
        async with (
            serving(grpc=calls, options=options) as (address, server),
            grpc.aio.insecure_channel(address, options=channel_options) as channel,
        ):
            await test(channel, calls)
            assert server.grpc is not None
        assert not server.grpc.calls

    asyncio.run(main())


async def code_of(call: Any) -> tuple[Any, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error: Any = caught.value
    return error.code(), error.details()


def test_calls_that_are_answered_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        prompt = channel.unary_unary("/s.S/Prompt")
        call = prompt(b"hello")
        assert await call == b"HELLO"
        assert ("first", "1") in [(key, value) for key, value in await call.initial_metadata()]
        assert await prompt(b"x" * 300_000) == b"X" * 300_000
        assert await prompt(b"later") == b"later"
        assert await code_of(prompt(b"fail")) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
        assert await code_of(prompt(b"crash")) == (grpc.StatusCode.UNKNOWN, "a bug")

    run(test)
    assert "a bug" in caplog.text


def test_four_kinds() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        assert await channel.unary_unary("/s.S/Echo")(b"hello") == b"hello"
        assert await channel.unary_unary("/s.S/Echo")(b"") == b""
        assert await channel.stream_unary("/s.S/Collect")(iter([b"a", b"b" * 100_000, b""])) == b"a" + b"b" * 100_000
        assert [m async for m in channel.unary_stream("/s.S/Count")(b"3")] == [b"0", b"1", b"2"]
        chat = channel.stream_stream("/s.S/Chat")()
        for message in (b"x", b"y" * 300_000, b""):
            await chat.write(message)
            assert await chat.read() == message
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK

    run(test)


def test_synchronous_client() -> None:
    async def test(_: grpc.aio.Channel, calls: Calls) -> None:
        def talk(address: str) -> None:
            with grpc.insecure_channel(address) as channel:
                echo = channel.unary_unary("/s.S/Echo")
                for number in range(50):
                    assert echo(b"%d" % number, timeout=60) == b"%d" % number
                assert list(channel.stream_stream("/s.S/Chat")(iter([b"1", b"2"]), timeout=60)) == [b"1", b"2"]

        async with serving(grpc=calls) as (address, _server):
            await asyncio.to_thread(talk, address)

    run(test)


def test_statuses() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/s.S/Fail")(b"")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "not now: 100% – sorry\n"
        trailing = dict(error.trailing_metadata())
        assert trailing["grpc-status-details-bin"] == b"\x08\x09"
        assert trailing["why-bin"] == b"\0\xff"
        assert trailing["why"] == "so"
        unknown = "unknown method Nothing for service s.S"
        assert await code_of(channel.unary_unary("/s.S/Nothing")(b"")) == (grpc.StatusCode.UNIMPLEMENTED, unknown)

    run(test)


def test_a_bug_in_a_handler_is_unknown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        with caplog.at_level(logging.ERROR, "pillion.net.grpc"):
            assert await code_of(channel.unary_unary("/s.S/Crash")(b"")) == (grpc.StatusCode.UNKNOWN, "a bug")
        assert "/s.S/Crash failed" in caplog.text

    run(test)


def test_metadata_both_ways() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        sent = (("one", "1"), ("two-bin", b"\0\1\2"), ("one", "again"))
        call = channel.unary_unary("/s.S/Decorate")(b"m", metadata=sent)
        assert ("first", "1") in list(await call.initial_metadata())
        assert await call == b"m"
        assert ("last-bin", b"\1\2\3") in list(await call.trailing_metadata())
        for pair in sent:
            assert pair in calls.metadata
        names = [name for name, _ in calls.metadata]
        assert "user-agent" in names
        assert ":authority" in names
        assert not {"te", "grpc-timeout", ":path"} & set(names)

    run(test)


def test_deadline_cancels_the_handler() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        code, _ = await code_of(channel.unary_unary("/s.S/Hang")(b"", timeout=2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await calls.cancelled.wait()

    run(test)


def test_deadlines_of_one_connection_pass_in_their_order() -> None:
    """They share a timer: a nearer one that comes later moves it, and one that was answered is forgotten."""

    async def main() -> list[int]:
        async with serving(grpc=Calls()) as (address, _):
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            asked = b"".join(
                headers(stream_id, [*HEAD[:2], (b":path", path), *HEAD[3:], (b"grpc-timeout", timeout)], end=False)
                + data(stream_id, b"\0\0\0\0\0", end=True)
                for stream_id, path, timeout in (
                    (1, b"/s.S/Hang", b"90m"), (3, b"/s.S/Hang", b"30m"), (5, b"/s.S/Prompt", b"10m"),
                    (7, b"/s.S/Hang", b"1H"), (9, b"/s.S/Hang", b"60m"),
                )
            )  # fmt: skip
            writer.write(f.PREFACE + f.settings_frame({}) + asked)
            received = b""
            ended: list[int] = []
            while len(ended) < 4 and (part := await reader.read(1 << 16)):
                received += part
                ended = [sid for kind, flags, sid, _ in whole(received) if kind == f.HEADERS and flags & f.END_STREAM]
            writer.close()
            await writer.wait_closed()
            return ended

    assert asyncio.run(main()) == [5, 3, 9, 1]


def test_cancellation_reaches_the_handler() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        for kind in (channel.unary_unary("/s.S/Hang"), channel.unary_stream("/s.S/Linger")):
            calls.started.clear()
            calls.cancelled.clear()
            call: Any = kind(b"")
            await calls.started.wait()
            call.cancel()
            await calls.cancelled.wait()

    run(test)


def test_largest_message_and_one_more_byte() -> None:
    """The default limit is 4 MiB; one byte more is RESOURCE_EXHAUSTED with grpc-go's text."""

    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        echo = channel.unary_unary("/s.S/Echo")
        whole = bytes(4 * MIB)
        assert await echo(whole) == whole
        text = f"grpc: received message larger than max ({4 * MIB + 1} vs. {4 * MIB})"
        assert await code_of(echo(whole + b"x")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        assert await code_of(channel.stream_unary("/s.S/Collect")(iter([whole + b"x"]))) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED, text,
        )  # fmt: skip
        assert await echo(b"still there") == b"still there"

    run(test)


def test_largest_reply() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        rich = channel.unary_unary("/s.S/Rich")
        assert len(await rich(b"1000")) == 1000
        text = "grpc: trying to send message larger than max (1001 vs. 1000)"
        assert await code_of(rich(b"1001")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    run(test, ServerOptions(grpc=GrpcOptions(max_send=1000)))


def test_gzip_is_understood_and_others_are_refused() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        message = b"squeeze me " * 10_000
        assert await channel.unary_unary("/s.S/Echo")(message, compression=grpc.Compression.Gzip) == message
        chat = channel.stream_stream("/s.S/Chat")(iter([message, b"small"]), compression=grpc.Compression.Gzip)
        assert [m async for m in chat] == [message, b"small"]
        code, details = await code_of(channel.unary_unary("/s.S/Echo")(message, compression=grpc.Compression.Deflate))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert details == 'grpc: Decompressor is not installed for grpc-encoding "deflate"'

    run(test)


def test_many_calls_at_once() -> None:
    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        echo = channel.unary_unary("/s.S/Echo")
        messages = [b"%d" % number * (number % 7 * 1000 + 1) for number in range(400)]
        assert await asyncio.gather(*(echo(message) for message in messages)) == messages

    run(test)


def test_stream_that_nobody_reads_holds_its_sender_back() -> None:
    """A client that does not read stops the handler, not the memory of the server."""

    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        call = channel.unary_stream("/s.S/Pour")(b"1000")
        messages = aiter(call)
        assert len(await anext(messages)) == 65_536
        for _ in range(200):  # turns of the loop in which the handler could go on if nothing held it
            await channel.unary_unary("/s.S/Echo")(b"")
        assert calls.poured < 1000
        assert len([message async for message in messages]) == 999
        assert calls.poured == 1000

    run(test)


def test_a_handler_may_send_from_several_tasks() -> None:
    """All of them wait while the window is closed, and all go on when it opens."""

    async def test(channel: grpc.aio.Channel, calls: Calls) -> None:
        messages = aiter(channel.unary_stream("/s.S/Burst")(b"30"))
        assert len([len(await anext(messages)) for _ in range(30)]) == 30
        with pytest.raises(StopAsyncIteration):
            await anext(messages)

    run(test)


def test_graceful_close_lets_calls_finish() -> None:
    async def main() -> None:
        calls = Calls()
        release = asyncio.Event()

        async def slow(call: Any, request: bytes) -> bytes:
            calls.started.set()
            await release.wait()
            return request

        calls.echo = slow  # type: ignore[method-assign]
        async with serving(grpc=calls) as (address, server), grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary("/s.S/Echo")(b"last")
            waiting = asyncio.ensure_future(call)
            await calls.started.wait()
            closing = asyncio.create_task(server.close(10))
            await asyncio.sleep(0)
            release.set()
            assert await waiting == b"last"
            await closing
            assert not server.connections

    asyncio.run(main())


def test_close_without_grace_cancels() -> None:
    async def main() -> None:
        calls = Calls()
        async with serving(grpc=calls) as (address, server), grpc.aio.insecure_channel(address) as channel:
            waiting = asyncio.ensure_future(channel.unary_unary("/s.S/Hang")(b""))
            await calls.started.wait()
            await server.close()
            assert calls.cancelled.is_set()
            code, _ = await code_of(waiting)
            assert code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)

    asyncio.run(main())


HEAD = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s.S/Echo"), (b":authority", b"a"),
    (b"content-type", b"application/grpc"), (b"te", b"trailers"),
]  # fmt: skip


async def raw(options: ServerOptions | None, *parts: bytes, until: int = f.HEADERS) -> list[Any]:
    """Send frames and return what comes back, up to a frame of kind `until` that ends its stream, or the end."""
    async with serving(grpc=Calls(), options=options) as (address, _):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f.PREFACE + f.settings_frame({}) + b"".join(parts))
        received = b""
        while part := await reader.read(1 << 16):
            received += part
            if any(kind == until and (until != f.HEADERS or flags & 1) for kind, flags, _, _ in whole(received)):
                break
        writer.close()
        await writer.wait_closed()
        return whole(received)


def whole(received: bytes) -> list[Any]:
    """Return the whole frames in front."""
    stop = 0
    while len(received) - stop >= 9:
        size = 9 + int.from_bytes(received[stop : stop + 3], "big")
        if stop + size > len(received):
            break
        stop += size
    return list(frames(received[:stop]))


def status_of(sent: list[Any]) -> dict[bytes, bytes]:
    """Return the fields of the last head, read by our own client."""
    peer = client()
    stream = peer.open(HEAD, end=True)
    for kind, flags, stream_id, payload in sent:
        if kind in (f.HEADERS, f.DATA):
            peer.feed(f.frame(kind, flags, stream_id, payload))
    return dict(stream.trailers or stream.head.headers) | {b":status": b"%d" % stream.head.status}


@pytest.mark.parametrize(
    ("fields", "body", "wanted"),
    [
        (HEAD, b"", {b"grpc-status": b"13"}),
        (HEAD, b"\0\0\0\0\5abc", {b"grpc-status": b"13"}),
        (HEAD, b"\0\0\0\0\1a\0\0\0\0\1b", {b"grpc-status": b"13"}),
        (HEAD, b"\1\0\0\0\1a", {b"grpc-status": b"13"}),
        ([*HEAD, (b"grpc-timeout", b"soon")], b"\0\0\0\0\0", {b"grpc-status": b"13"}),
        ([*HEAD, (b"x-bin", b"!")], b"\0\0\0\0\0", {b"grpc-status": b"13"}),
        ([*HEAD, (b"grpc-encoding", b"br")], b"\0\0\0\0\0",
         {b"grpc-status": b"12", b"grpc-accept-encoding": b"identity,gzip"}),
        ([(b":method", b"GET"), *HEAD[1:]], b"", {b":status": b"405"}),
        ([*HEAD[:4], (b"content-type", b"application/grpcish")], b"", {b":status": b"415"}),
        ([*HEAD[:4], (b"content-type", b"text/plain")], b"", {b":status": b"415"}),
        ([*HEAD[:4], (b"content-type", b"application/grpc+proto")], b"\0\0\0\0\0", {b"grpc-status": b"0"}),
    ],
)  # fmt: skip
def test_broken_calls_have_proper_statuses(
    fields: list[tuple[bytes, bytes]], body: bytes, wanted: dict[bytes, bytes]
) -> None:
    sent = asyncio.run(raw(None, headers(1, fields, end=False), data(1, body, end=True)))
    found = status_of(sent)
    assert {name: found.get(name) for name in wanted} == wanted


def test_client_that_pings_too_often_is_sent_away() -> None:
    """Spec `grpc-api.md` 1: faster than 8 s; two strikes are forgiven (grpc A8)."""
    sent = asyncio.run(raw(None, f.ping_frame(bytes(8)) * 3, f.PREFACE[:0], f.ping_frame(bytes(8)) * 2, until=f.GOAWAY))
    goaway = next(payload for kind, _, _, payload in sent if kind == f.GOAWAY)
    assert goaway[4:] == b"\0\0\0\x0btoo_many_pings"


def test_calls_between_pings_forgive() -> None:
    one = f.ping_frame(bytes(8)) + headers(1, HEAD, end=False) + data(1, b"\0\0\0\0\0", end=True)
    sent = asyncio.run(raw(None, f.ping_frame(bytes(8)) * 2, one))
    assert not [kind for kind, *_ in sent if kind == f.GOAWAY]


def test_silent_client_is_pinged_and_then_dropped() -> None:
    keepalive = Keepalive(ping_after_s=0.05, ping_timeout_s=0.05)
    sent = asyncio.run(raw(ServerOptions(keepalive=keepalive), until=-1))
    assert [flags for kind, flags, _, _ in sent if kind == f.PING] == [0]


def test_idle_client_is_told_to_go() -> None:
    keepalive = Keepalive(idle_s=0.05)
    sent = asyncio.run(raw(ServerOptions(keepalive=keepalive), until=f.GOAWAY))
    assert sent[-2][0] == f.GOAWAY or sent[-1][0] == f.GOAWAY


def test_client_that_never_greets_is_dropped() -> None:
    async def main() -> None:
        options = ServerOptions(keepalive=Keepalive(hello_s=0.05))
        async with serving(grpc=Calls(), options=options) as (address, _):
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1000):
                    pass
            writer.close()

    asyncio.run(main())


def test_encode_of_the_constant_head() -> None:
    """The reply's fast path relies on blocks below 256 bytes."""
    assert len(encode([(b":status", b"200"), (b"content-type", b"application/grpc")])) < 256
