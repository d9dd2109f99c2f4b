"""Invocation with gRPC on one side or both, and proxying (spec `grpc-api.md` 5 and 6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from yarl import URL

from invoke_apps import GrpcApp, HttpApp
from mini_sidecar import MiniSidecar, Names
from pillion.net.exchange import RpcError
from pillion.wire.messages import common, rpc, wellknown
from pillion.wire.messages import runtime as m
from pillion.wire.trace import NONE, to_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.kinds.invocation import InvokePolicy

INVOKE = "/dapr.proto.runtime.v1.Dapr/InvokeService"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Code = grpc.StatusCode
both = pytest.mark.parametrize("remote", [False, True], ids=["one sidecar", "two sidecars"])


class Setup:
    def __init__(self, app: Any, sidecar: MiniSidecar, callee: MiniSidecar, channel: Any, client: Any) -> None:
        self.app, self.sidecar, self.callee, self.channel, self.client = app, sidecar, callee, channel, client

    @property
    def remote(self) -> bool:
        return self.sidecar is not self.callee

    def unary(self, method: str, data: bytes, metadata: dict[str, str | bytes], **options: Any) -> Any:
        return self.channel.unary_unary(method)(data, metadata=tuple(metadata.items()), **options)

    def invoke(self, message: common.InvokeRequest, app_id: str = "back", **metadata: str | bytes) -> Any:
        request = m.InvokeServiceRequest(id=app_id, message=message)
        call = self.channel.unary_unary(INVOKE, None, common.InvokeResponse.FromString)
        return call(request.SerializeToString(), metadata=tuple(metadata.items()))


@contextlib.asynccontextmanager
async def setup(protocol: str, remote: bool, front: dict[str, Any], back: dict[str, Any]) -> AsyncIterator[Setup]:
    names = Names()
    async with contextlib.AsyncExitStack() as stack:
        app: Any = await stack.enter_async_context((HttpApp() if protocol == "http" else GrpcApp()).running())
        callee = await stack.enter_async_context(MiniSidecar(names, "back", app.port, protocol=protocol, **back))
        sidecar = await stack.enter_async_context(MiniSidecar(names, "front", **front)) if remote else callee
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(sidecar.grpc_address))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Setup(app, sidecar, callee, channel, client)


def run(
    protocol: str, remote: bool, test: Callable[[Setup], Awaitable[None]], *, front: Any = None, back: Any = None
) -> None:
    async def whole() -> None:
        async with setup(protocol, remote, front or {}, back or {}) as parts:
            await test(parts)

    asyncio.run(whole())


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def message(method: str, data: bytes = b"", verb: int | None = 3, query: str = "", **more: Any) -> common.InvokeRequest:
    extension = None if verb is None else common.HTTPExtension(verb=verb, querystring=query)
    return common.InvokeRequest(method=method, data=wellknown.Any(value=data), http_extension=extension, **more)


# --- gRPC clients, HTTP applications -------------------------------------------------------------------------------


@both
def test_an_http_application_from_grpc(remote: bool) -> None:
    """Metadata become headers, the answer's headers metadata with the prefix for HTTP's own, the status a header."""

    async def test(s: Setup) -> None:
        sent = message("a/../m", b"body", verb=4, query="x=1", content_type="text/plain")
        metadata: dict[str, Any] = {"x-mine": "1", "x-data-bin": b"\1", "traceparent": PARENT}
        call = s.invoke(sent, **metadata)
        answer = await call
        shown = json.loads(answer.data.value)
        headers = dict(shown["headers"])
        assert (shown["verb"], shown["target"], shown["body"]) == ("PUT", "/m?x=1", "body")
        assert headers["x-mine"] == "1"
        assert headers["content-type"] == "text/plain"
        assert headers["traceparent"] == PARENT
        assert "x-data-bin" not in headers
        assert answer.content_type.startswith("application/json")
        metadata = dict(await call.initial_metadata())
        assert metadata["dapr-http-status"] == "200"
        assert metadata["dapr-content-type"].startswith("application/json")
        assert "dapr-date" in metadata
        assert ("dapr-caller-app-id" in headers) == s.remote

    run("http", remote, test)


@both
def test_typed_data_from_grpc(remote: bool) -> None:
    """A type_url makes the body protobuf for an HTTP application."""

    async def test(s: Setup) -> None:
        sent = message("m", content_type="text/plain")
        sent.data.type_url = "type.example/T"
        shown = json.loads((await s.invoke(sent)).data.value)
        assert dict(shown["headers"])["content-type"] == "application/x-protobuf"
        plain = json.loads((await s.invoke(message("m", b"x"))).data.value)
        assert dict(plain["headers"]).get("content-type", "application/octet-stream") == "application/octet-stream"

    run("http", remote, test)


@both
def test_http_failures_as_statuses(remote: bool) -> None:
    """Form D: the code of the table, the phrase as message, the body's first 63 bytes in ErrorInfo."""

    async def test(s: Setup) -> None:
        call = s.invoke(message("status/404"))
        error = await failure(call)
        assert (error.code(), error.details()) == (Code.NOT_FOUND, "Not Found")
        assert dict(await call.initial_metadata())["dapr-http-status"] == "404"
        packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        status = rpc.Status.FromString(packed)
        info = rpc.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain) == ("Not Found", "dapr.io")
        assert dict(info.metadata) == {"http.code": "404", "http.error_message": "boom"}

    run("http", remote, test)


@both
def test_failures_before_the_application(remote: bool) -> None:
    async def test(s: Setup) -> None:
        for sent, app_id, code, text in (
            (message("a?b"), "back", Code.INVALID_ARGUMENT, "invalid method"),
            (message("m"), "", Code.INTERNAL, "failed to invoke, id: , err: app id is empty"),
            (message("m"), "a.b.c", Code.INTERNAL, "failed to invoke, id: a.b.c, err: invalid app id a.b.c"),
            (message("m"), "nobody", Code.INTERNAL, "couldn't find service: nobody"),
            (message("m", verb=None), "back", Code.INTERNAL, "missing HTTP extension field"),
            (message("m", verb=6), "back", Code.INTERNAL, "invalid HTTP verb"),
        ):
            error = await failure(s.invoke(sent, app_id))
            assert error.code() is code
            assert text in (error.details() or "")
        assert s.app.calls == 0

    run("http", False, test)
    if remote:

        async def across(s: Setup) -> None:
            error = await failure(s.invoke(message("m", verb=6)))
            assert error.code() is Code.INTERNAL
            assert "invalid HTTP verb" in (error.details() or "")

        run("http", True, across)


# --- gRPC applications ---------------------------------------------------------------------------------------------


@both
def test_a_grpc_application_from_grpc(remote: bool) -> None:
    """Method, verb, query, data and metadata and trace as they were; its metadata come back."""

    async def test(s: Setup) -> None:
        sent = message("m", b"data", verb=4, query="q=1", content_type="a/b")
        given: dict[str, Any] = {"x-mine": "1", "x-data-bin": b"\1\2", "grpc-trace-bin": to_binary(PARENT)}
        call = s.invoke(sent, **given)
        answer = await call
        assert answer.data.value == b"m|4|q=1|data"
        assert answer.content_type == "text/x-app"
        assert s.app.first("x-mine") == "1"
        assert s.app.first("x-data-bin") == b"\1\2"
        assert s.app.first("traceparent") == PARENT
        assert s.app.first("dapr-caller-app-id") == ("front" if s.remote else None)
        assert s.app.first("destination-app-id") is None
        metadata = dict(await call.initial_metadata())
        assert metadata["x-app"] == "grpc"
        assert metadata["x-bytes-bin"] == b"\0\1"
        assert (await s.invoke(message("typed"))).data.type_url == "type.example/T"

    run("grpc", remote, test)


@both
def test_statuses_of_a_grpc_application(remote: bool) -> None:
    """Code and message are returned as they were, with the trailing metadata."""

    async def test(s: Setup) -> None:
        error = await failure(s.invoke(message("fail")))
        assert (error.code(), error.details()) == (Code.NOT_FOUND, "no such thing")
        assert dict(error.trailing_metadata() or ())["x-trailer"] == "t"

    run("grpc", remote, test)


@both
def test_a_grpc_application_from_http(remote: bool) -> None:
    """OnInvoke gets the headers as metadata, HTTP's own with a prefix; a status becomes JSON with its HTTP code."""

    async def test(s: Setup) -> None:
        url = s.sidecar.url + "/v1.0/invoke/back/method/"
        sent = {"X-Mine": "1", "Content-Type": "a/b", "Cache-Control": "no-store"}
        async with s.client.put(url + "m?q=1", data=b"data", headers=sent) as answer:
            assert (answer.status, await answer.read()) == (200, b"m|4|q=1|data")
            assert answer.headers["Content-Type"] == "text/x-app"
            assert answer.headers["X-App"] == "grpc"
            assert "x-bytes-bin" not in answer.headers
        assert s.app.first("x-mine") == "1"
        assert s.app.first("dapr-cache-control") == "no-store"
        assert s.app.first("traceparent") == NONE
        async with s.client.put(url + "fail") as answer:
            assert answer.status == 404
            assert await answer.json() == {"code": 5, "message": "no such thing"}
            assert "x-trailer" not in answer.headers
        async with s.client.put(url + "typed") as answer:
            assert answer.headers["Content-Type"] == "application/x-protobuf"

    run("grpc", remote, test)


# --- proxying ------------------------------------------------------------------------------------------------------


@both
def test_proxied_unary_calls(remote: bool) -> None:
    """Messages, headers, trailers and metadata pass; the app id and the API token do not; callers are named."""

    async def test(s: Setup) -> None:
        metadata: dict[str, Any] = {
            "dapr-app-id": "back",
            "x-mine": "1",
            "x-data-bin": b"\1",
            "dapr-caller-app-id": "evil",
        }
        call = s.unary("/app.Echo/Unary", b"hello", metadata, timeout=60)
        assert await call == b"got hello"
        assert dict(await call.initial_metadata())["x-head"] == "h"
        trailers = dict(await call.trailing_metadata())
        assert (trailers["x-trailer"], trailers["x-trailer-bin"]) == ("t", b"\xff")
        assert s.app.first("x-mine") == "1"
        assert s.app.first("x-data-bin") == b"\1"
        assert s.app.first("dapr-app-id") is None
        assert s.app.first("dapr-api-token") == "secret"
        assert s.app.deadline is not None
        assert s.app.deadline <= 61  # clients round up
        if s.remote:
            named = [value for name, value in s.app.metadata if name == "dapr-caller-app-id"]
            assert named == ["front"]
            assert s.app.first("dapr-callee-app-id") == "back"

    run("grpc", remote, test, back={"app_token": "secret"})


@both
def test_proxied_statuses(remote: bool) -> None:
    async def test(s: Setup) -> None:
        error = await failure(s.unary("/app.Echo/Unary", b"fail", {"dapr-callee-app-id": "back"}))
        assert (error.code(), error.details()) == (Code.ALREADY_EXISTS, "it is there: ü")
        assert dict(error.trailing_metadata() or ())["x-trailer"] == "t"
        error = await failure(s.unary("/app.Echo/Nothing", b"", {"dapr-app-id": "back"}))
        assert error.code() is Code.UNIMPLEMENTED

    run("grpc", remote, test)


def test_what_cannot_be_proxied() -> None:
    """No target: UNKNOWN with the text clients know, also for methods of known services; no app: UNAVAILABLE."""

    async def test(s: Setup) -> None:
        for method in ("/app.Echo/Unary", "/dapr.proto.runtime.v1.Dapr/Nothing"):
            error = await failure(s.unary(method, b"", {}))
            assert error.code() is Code.UNKNOWN
            wanted = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
            assert error.details() == wanted
        error = await failure(s.unary("/app.Echo/Unary", b"", {"dapr-app-id": "nobody"}))
        assert (error.code(), error.details()) == (Code.UNKNOWN, "couldn't find service: nobody")
        error = await failure(s.unary("/app.Echo/Unary", b"", {"dapr-app-id": "front"}))
        assert error.code() is Code.UNAVAILABLE

    run("grpc", True, test)


@both
def test_proxied_streams(remote: bool) -> None:
    """Both directions at once, one answer to each message before the next is sent."""

    async def test(s: Setup) -> None:
        call = s.channel.stream_stream("/app.Echo/Chat")(metadata=(("dapr-app-id", "back"),))
        for text in (b"a", b"b", b"x" * 300_000):
            await call.write(text)
            assert await call.read() == b"got " + text
        await call.done_writing()
        assert await call.read() == b"bye"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is Code.OK

    run("grpc", remote, test)


@both
def test_cancelling_a_proxied_call_reaches_the_application(remote: bool) -> None:
    async def test(s: Setup) -> None:
        call = s.channel.stream_stream("/app.Echo/Hang")(metadata=(("dapr-app-id", "back"),))
        await call.write(b"go")
        assert await call.read() == b"started"
        call.cancel()
        await asyncio.wait_for(s.app.cancelled.wait(), 90)

    run("grpc", remote, test)


class Retrying:
    """A stand-in for resiliency: up to three attempts at everything."""

    def find(self, app_id: str, method: str) -> tuple[InvokePolicy | None, bool]:
        return self._retry, False

    async def _retry(self, attempt: Any, *, replayable: bool) -> Any:
        for left in (2, 1, 0):
            try:
                return await attempt()
            except RpcError:
                if not left:
                    raise
        return None


def test_policies_around_proxied_calls() -> None:
    """A unary call is repeated as a whole; a second message is refused unless the client says that it streams."""

    async def test(s: Setup) -> None:
        s.app.failures = 2
        assert await s.unary("/app.Echo/Unary", b"flaky", {"dapr-app-id": "back"}) == b"got flaky"
        assert s.app.calls == 3
        call = s.channel.stream_stream("/app.Echo/Chat")(metadata=(("dapr-app-id", "back"),))
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call.code() is Code.FAILED_PRECONDITION
        call = s.channel.stream_stream("/app.Echo/Chat")(metadata=(("dapr-app-id", "back"), ("dapr-stream", "Yes")))
        await call.write(b"a")
        assert await call.read() == b"got a"
        await call.write(b"b")
        assert await call.read() == b"got b"
        await call.done_writing()
        assert await call.read() == b"bye"
        assert await call.code() is Code.OK

    run("grpc", True, test, front={"policies": Retrying()})


def test_access_rules_of_the_callee() -> None:
    """Rules see the decoded method; a refusal is 403 for HTTP clients and INTERNAL or PERMISSION_DENIED for gRPC."""
    asked: list[tuple[str | None, str, str]] = []

    def authorize(caller: str | None, method: str, verb: str) -> None:
        asked.append((caller, method, verb))
        if "admin" in method or method == "/app.Echo/Unary":
            raise RpcError(7, "access control policy has denied access")

    async def test(s: Setup) -> None:
        url = s.sidecar.url + "/v1.0/invoke/back/method/"
        for path in ("admin/x", "a/%252e%252e/admin", "a%252Fadmin"):
            async with s.client.put(URL(url + path, encoded=True)) as answer:
                assert answer.status == 403, path
                assert (await answer.json())["errorCode"] == "ERR_DIRECT_INVOKE"
        async with s.client.put(url + "open") as answer:
            assert answer.status == 200
        assert asked[-1] == (None, "open", "PUT")
        error = await failure(s.invoke(message("admin")))
        assert error.code() is Code.INTERNAL
        assert "code = PermissionDenied" in (error.details() or "")
        error = await failure(s.unary("/app.Echo/Unary", b"", {"dapr-app-id": "back"}))
        assert error.code() is Code.PERMISSION_DENIED
        assert asked[-1] == (None, "/app.Echo/Unary", "NONE")

    run("grpc", True, test, back={"authorize": authorize})
