"""The protocol between sidecars and its failures (spec `grpc-api.md` 8, `runtime.md` 4.3)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from invoke_apps import HttpApp
from mini_sidecar import LOCALHOST, MiniSidecar, Names
from pillion.app.channel import AppChannel
from pillion.net.grpc_client import Channel
from pillion.net.http_client import HttpClient
from pillion.wire.messages import common, internals, wellknown
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

CALL_LOCAL = "/dapr.proto.internals.v1.ServiceInvocation/CallLocal"
CALL_LOCAL_STREAM = "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream"
Code = grpc.StatusCode


def values(*texts: str) -> internals.ListStringValue:
    return internals.ListStringValue(values=list(texts))


def lead(method: str = "m", verb: int = 3, payload: bytes | None = None, **metadata: str) -> Any:
    """The first message as another sidecar writes it."""
    request = internals.InternalInvokeRequest(
        ver=1,
        metadata={"User-Agent": values("other"), **{name.replace("_", "-"): values(v) for name, v in metadata.items()}},
        message=common.InvokeRequest(method=method, http_extension=common.HTTPExtension(verb=verb)),
    )
    found = internals.InternalInvokeRequestStream(request=request)
    if payload is not None:
        found.payload.data = payload
        found.payload.seq = 0
    return found


def piece(data: bytes, sequence: int) -> Any:
    return internals.InternalInvokeRequestStream(payload=common.StreamPayload(data=data, seq=sequence))


async def exchange(channel: Any, messages: Iterable[Any]) -> list[Any]:
    """Call `CallLocalStream` as a foreign sidecar would, with grpcio and protobuf."""

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message.SerializeToString()

    call = channel.stream_stream(CALL_LOCAL_STREAM, None, internals.InternalInvokeResponseStream.FromString)
    return [message async for message in call(requests())]


def with_callee(test: Callable[[Any, HttpApp, MiniSidecar], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            HttpApp().running() as app,
            MiniSidecar(Names(), "back", app.port) as back,
            grpc.aio.insecure_channel(back.internal_address) as channel,
        ):
            app.gate.set()
            await test(channel, app, back)

    asyncio.run(run())


def test_a_foreign_sidecar_calls_ours() -> None:
    """Small chunks, several messages, names in their canonical case; the reply comes in the same form."""

    async def test(channel: Any, app: HttpApp, back: MiniSidecar) -> None:
        whole = b"x" * 10_000
        messages = [lead("upload", payload=whole[:2048], Content_Length="10000", Content_Type="text/plain")]
        messages += [piece(whole[at : at + 2048], n) for n, at in enumerate(range(2048, 10_000, 2048), 1)]
        answers = await exchange(channel, messages)
        first = answers[0].response
        assert first.status.code == 200
        assert list(first.headers["Content-Type"].values) == ["application/json; charset=utf-8"]
        assert first.message.content_type == "application/json; charset=utf-8"
        assert not first.message.data.value
        body = b"".join(answer.payload.data for answer in answers)
        assert body == b'{"size": 10000, "framing": "length"}'
        assert [answer.payload.seq for answer in answers] == list(range(len(answers)))

    with_callee(test)


def test_bodies_without_a_length_and_large_replies() -> None:
    async def test(channel: Any, app: HttpApp, back: MiniSidecar) -> None:
        answers = await exchange(channel, [lead("upload"), piece(b"abc", 0), piece(b"", 1), piece(b"def", 2)])
        assert b'"size": 6, "framing": "chunked"' in answers[0].payload.data
        answers = await exchange(channel, [lead("big/300000", verb=1)])
        assert b"".join(answer.payload.data for answer in answers) == b"x" * 300_000
        assert [answer.payload.seq for answer in answers if answer.HasField("payload")] == list(
            range(sum(answer.HasField("payload") for answer in answers))
        )
        assert not any(answer.HasField("response") for answer in answers[1:])

    with_callee(test)


def test_what_a_callee_refuses() -> None:
    """Heads that lack parts, chunks out of order, heads in the middle, headers that smuggle lines."""

    async def test(channel: Any, app: HttpApp, back: MiniSidecar) -> None:
        bare = internals.InternalInvokeRequestStream
        no_metadata = bare(request=internals.InternalInvokeRequest(message=common.InvokeRequest(method="m")))
        no_message = bare(request=internals.InternalInvokeRequest(metadata={"A": values("b")}))
        for messages, code, text in (
            ([], Code.INVALID_ARGUMENT, "required fields"),
            ([piece(b"x", 0)], Code.INVALID_ARGUMENT, "required fields"),
            ([no_metadata], Code.INVALID_ARGUMENT, "required fields"),
            ([no_message], Code.INVALID_ARGUMENT, "required fields"),
            ([lead("a#b")], Code.INVALID_ARGUMENT, "invalid method"),
            ([lead(verb=0)], Code.INTERNAL, "error invoking app channel"),
            ([lead("upload"), piece(b"x", 1)], Code.INTERNAL, "invalid sequence number received: 1 (expected: 0)"),
            (
                [lead("upload", payload=b"a"), piece(b"x", 0)],
                Code.INTERNAL,
                "invalid sequence number received: 0 (expected: 1)",
            ),
            ([lead("upload"), lead()], Code.INTERNAL, "request metadata found in non-leading chunk"),
            ([lead(X_A="a\r\nHost: b")], Code.INVALID_ARGUMENT, "cannot be passed on"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await exchange(channel, messages)
            assert caught.value.code() is code
            assert text in (caught.value.details() or "")
        back.app, app_channel = None, back.app
        with pytest.raises(grpc.aio.AioRpcError, match="app channel is not initialized"):
            await exchange(channel, [])
        back.app = app_channel

    with_callee(test)


def test_an_application_that_does_not_listen_yet() -> None:
    """UNAVAILABLE, for the caller to take another instance or to try again; later it is a failure like any other."""

    async def test(channel: Any, app: HttpApp, back: MiniSidecar) -> None:
        listening = back.app
        nobody = AppChannel("http", http=HttpClient(LOCALHOST, 1)), AppChannel("grpc", grpc=Channel(f"{LOCALHOST}:1"))
        for absent in nobody:
            absent.starting, back.app = True, absent
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await exchange(channel, [lead()])
            assert caught.value.code() is Code.UNAVAILABLE
            absent.starting = False
        back.app = nobody[0]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(channel, [lead()])
        assert caught.value.code() is Code.INTERNAL
        back.app = nobody[1]
        [answer] = await exchange(channel, [lead()])
        assert answer.response.status.code == 14
        for absent in nobody:
            await absent.close()
        assert listening is not None
        listening.starting, back.app = True, listening
        [answer] = await exchange(channel, [lead()])
        assert answer.response.status.code == 200  # it listens, although nobody has noticed yet

    with_callee(test)


def test_the_unary_form() -> None:
    """`CallLocal`, for old peers: data in the message both ways."""

    async def test(channel: Any, app: HttpApp, back: MiniSidecar) -> None:
        request = lead("upload").request
        request.message.data.value = b"hello"
        call = channel.unary_unary(CALL_LOCAL, None, internals.InternalInvokeResponse.FromString)
        answer = await call(request.SerializeToString())
        assert answer.status.code == 200
        assert answer.message.data.value == b'{"size": 5, "framing": "length"}'
        with pytest.raises(grpc.aio.AioRpcError, match="field Message is nil"):
            await call(internals.InternalInvokeRequest(metadata={"A": values("b")}).SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/dapr.proto.internals.v1.ServiceInvocation/CallActor")(b"")
        assert caught.value.code() is Code.UNIMPLEMENTED

    with_callee(test)


# --- our sidecar as the caller of a foreign one --------------------------------------------------------------------


class Foreign(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A peer written with grpcio and protobuf. `script` says what it does with each call."""

    def __init__(self, script: Callable[[Any, Any], AsyncIterator[Any]], *, streaming: bool = True) -> None:
        self.script = script
        self.streaming = streaming
        self.calls = 0
        self.leads: list[Any] = []
        self.bodies: list[bytes] = []
        self.address = ""

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Foreign]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        self.address = f"{LOCALHOST}:{server.add_insecure_port(f'{LOCALHOST}:{port or free_port()}')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def service(self, details: Any) -> Any:
        write = internals.InternalInvokeResponseStream.SerializeToString
        if details.method == CALL_LOCAL_STREAM and self.streaming:
            read = internals.InternalInvokeRequestStream.FromString
            return grpc.stream_stream_rpc_method_handler(self._stream, read, write)
        if details.method == CALL_LOCAL:
            return grpc.unary_unary_rpc_method_handler(
                self._unary,
                internals.InternalInvokeRequest.FromString,
                internals.InternalInvokeResponse.SerializeToString,
            )
        return None

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.calls += 1
        body, sequence = b"", 0
        async for message in requests:
            if message.HasField("request"):
                self.leads.append(message.request)
            if message.HasField("payload"):
                assert message.payload.seq == sequence
                sequence += 1
                body += message.payload.data
        self.bodies.append(body)
        async for answer in self.script(self, context):
            yield answer

    async def _unary(self, request: Any, context: Any) -> Any:
        self.leads.append(request)
        return internals.InternalInvokeResponse(
            status=internals.Status(code=201), message=common.InvokeResponse(data=wellknown.Any(value=b"unary"))
        )


def answer(code: int | None = 200, payload: bytes | None = None, sequence: int = 0, **headers: str) -> Any:
    found = internals.InternalInvokeResponseStream()
    if code is not None:
        found.response.status.code = code
        found.response.message.content_type = "text/foreign"
        for name, value in headers.items():
            found.response.headers[name].values.append(value)
    if payload is not None:
        found.payload.data = payload
        found.payload.seq = sequence
    return found


@contextlib.asynccontextmanager
async def calling(*peers: Foreign) -> AsyncIterator[tuple[MiniSidecar, aiohttp.ClientSession]]:
    names = Names()
    async with contextlib.AsyncExitStack() as stack:
        for peer in peers:
            await stack.enter_async_context(peer.running())
        names.addresses["back.default"] = [peer.address for peer in peers]
        front = await stack.enter_async_context(MiniSidecar(names, "front"))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield front, client


def test_ours_calls_a_foreign_sidecar() -> None:
    """What goes out: version, marks, names in canonical case, body in order; small chunks of the reply are joined."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        yield answer(202, b"one ", XOne="1")
        yield answer(None, b"two", 1)

    async def run() -> None:
        peer = Foreign(script)
        async with calling(peer) as (front, client):
            url = front.url + "/v1.0/invoke/back/method/a/b?q=1"
            async with client.put(url, data=b"x" * 200_000, headers={"x-mine": "1"}) as got:
                assert (got.status, await got.read()) == (202, b"one two")
                assert got.headers["Content-Type"] == "text/foreign"
                assert got.headers["Xone"] == "1"
        [sent] = peer.leads
        assert peer.bodies == [b"x" * 200_000]
        assert sent.ver == 1
        assert (sent.message.method, sent.message.http_extension.verb) == ("a/b", 4)
        assert sent.message.http_extension.querystring == "q=1"
        assert not sent.message.data.value
        seen = {name: list(entry.values) for name, entry in sent.metadata.items()}
        assert seen["X-Mine"] == ["1"]
        assert seen["Content-Length"] == ["200000"]
        assert seen["Dapr-Caller-App-Id"] == ["front"]
        assert seen["Dapr-Callee-App-Id"] == seen["Destination-App-Id"] == ["back"]
        assert "Host" not in seen

    asyncio.run(run())


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "required fields in the leading chunk"),
        ([answer(None, b"x")], "required fields in the leading chunk"),
        ([answer(200, b"x", 7)], "invalid sequence number received: 7 (expected: 0)"),
    ],
)
def test_a_peer_that_breaks_the_protocol(messages: list[Any], text: str) -> None:
    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message

    async def run() -> None:
        async with calling(Foreign(script)) as (front, client):
            got = await client.get(front.url + "/v1.0/invoke/back/method/m")
            shown = await got.json()
            assert got.status == 500
            assert shown["message"].startswith("failed to invoke, id: back, err: ")
            assert text in shown["message"]

    asyncio.run(run())


def test_a_reply_that_breaks_off() -> None:
    """Once bytes were sent nothing can be told but that the answer is not whole."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        yield answer(200, b"one")
        await context.abort(Code.INTERNAL, "broken")

    async def run() -> None:
        async with calling(Foreign(script)) as (front, client):
            got = await client.get(front.url + "/v1.0/invoke/back/method/m")
            assert got.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await got.read()

    asyncio.run(run())


def test_a_peer_without_streaming() -> None:
    """UNIMPLEMENTED: sent again in the unary form while the body is at hand, else the caller learns why."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        yield answer()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0)
        yield b"b" * 100_000

    async def run() -> None:
        peer = Foreign(script, streaming=False)
        async with calling(peer) as (front, client):
            url = front.url + "/v1.0/invoke/back/method/m"
            async with client.post(url, data=b"hello") as got:
                assert (got.status, await got.read()) == (201, b"unary")
            assert peer.leads[0].message.data.value == b"hello"
            assert list(peer.leads[0].metadata["Dapr-Caller-App-Id"].values) == ["front"]
            async with client.post(url, data=chunks()) as got:
                assert got.status == 500
                assert "does not support streaming-based service invocation" in (await got.json())["message"]

    asyncio.run(run())


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.INTERNAL])
def test_the_built_in_retry(code: Any) -> None:
    """Three more attempts, whatever the verb, on UNAVAILABLE and UNAUTHENTICATED alone; the resolver is told."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        if peer.calls < 4:
            await context.abort(code, "not now")
        yield answer(200, b"done")

    async def run() -> None:
        peer = Foreign(script)
        async with calling(peer) as (front, client):
            async with client.post(front.url + "/v1.0/invoke/back/method/m", data=b"hello") as got:
                retried = code is not Code.INTERNAL
                assert got.status == (200 if retried else 500)
            assert peer.calls == (4 if retried else 1)
            assert set(peer.bodies) == {b"hello"}
            assert len(front.names.told) == peer.calls - 1

    asyncio.run(run())


def test_a_chunked_request_is_never_repeated() -> None:
    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        await context.abort(Code.UNAVAILABLE, "not now")
        yield answer()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0)
        yield b"b" * 100_000

    async def run() -> None:
        peer = Foreign(script)
        async with calling(peer) as (front, client):
            got = await client.post(front.url + "/v1.0/invoke/back/method/m", data=chunks())
            assert got.status == 500
        assert peer.calls == 1

    asyncio.run(run())


def test_a_dead_instance_is_left_alone() -> None:
    """The other one is tried at once: no pause, no error, and the dead one is not asked again for a while."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        yield answer(200, b"alive")

    async def run() -> None:
        peer = Foreign(script)
        async with calling(peer) as (front, client):
            front.names.addresses["back.default"].append(f"{LOCALHOST}:1")
            for _ in range(6):
                async with client.post(front.url + "/v1.0/invoke/back/method/m", data=b"x") as got:
                    assert (got.status, await got.read()) == (200, b"alive")
            assert front.names.told == [f"{LOCALHOST}:1"]
        assert peer.calls == 6

    asyncio.run(run())


def test_a_peer_that_comes_back() -> None:
    """A new process at the same address is found again without help."""

    async def script(peer: Foreign, context: Any) -> AsyncIterator[Any]:
        yield answer(200, b"alive")

    async def run() -> None:
        names = Names()
        peer = Foreign(script)
        async with MiniSidecar(names, "front") as front, aiohttp.ClientSession() as client:
            url = front.url + "/v1.0/invoke/back/method/m"
            for _ in range(2):
                port = int(peer.address.rpartition(":")[2] or 0)
                async with peer.running(port):
                    names.addresses["back.default"] = [peer.address]
                    async with client.get(url) as got:
                        assert (got.status, await got.read()) == (200, b"alive")

    asyncio.run(run())
