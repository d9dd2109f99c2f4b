"""Applications for the tests of service invocation: an HTTP one on aiohttp, a gRPC one on grpcio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from aiohttp import web

from pillion.wire.messages import common, wellknown
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOCALHOST = "127.0.0.1"


class HttpApp:
    """Answers with what it was asked, and remembers it. `gate` lets a test decide when a stream goes on."""

    def __init__(self) -> None:
        self.calls = 0
        self.received = 0
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.gone = asyncio.Event()
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[HttpApp]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/status/{code}", self._status)
        app.router.add_route("*", "/stream", self._stream)
        app.router.add_route("*", "/upload", self._upload)
        app.router.add_route("*", "/events", self._events)
        app.router.add_route("*", "/big/{size}", self._big)
        app.router.add_route("*", "/headers", self._headers)
        app.router.add_route("*", "/redirect/{code}", self._redirect)
        app.router.add_route("*", "/endless", self._endless)
        app.router.add_route("*", "/{rest:.*}", self._echo)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, LOCALHOST, port or free_port())
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.gate.set()
            await runner.cleanup()

    async def _echo(self, request: web.Request) -> web.Response:
        self.calls += 1
        body = await request.read()
        shown = {
            "verb": request.method,
            "target": request.raw_path,
            "headers": [[name.lower(), value] for name, value in request.headers.items()],
            "body": body.decode(),
        }
        return web.json_response(shown)

    async def _status(self, request: web.Request) -> web.Response:
        self.calls += 1
        return web.Response(status=int(request.match_info["code"]), body=b"boom", headers={"Content-Type": ""})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await self.gate.wait()
        await response.write(b"two")
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        async for piece in request.content.iter_any():
            self.received += len(piece)
            self.reached.set()
            await self.gate.wait()
        return web.json_response({"size": self.received, "framing": request.headers.get("Transfer-Encoding", "length")})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Kind": "live"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await self.gate.wait()
        await response.write(b"data: 2\n\n")
        return response

    async def _big(self, request: web.Request) -> web.Response:
        return web.Response(body=b"x" * int(request.match_info["size"]))

    async def _headers(self, request: web.Request) -> web.Response:
        response = web.Response(text="ok", headers={"Keep-Alive": "timeout=5", "X-Mine": "yes"})
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        return response

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]), headers={"Location": "/landed?from=redirect"})

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
                self.received += 65536
                self.reached.set()
        finally:
            self.gone.set()


def _bytes(data: bytes) -> bytes:
    return data


class GrpcApp(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC application: OnInvoke, and a service `app.Echo` that the sidecar knows nothing of."""

    def __init__(self) -> None:
        self.metadata: list[tuple[str, Any]] = []
        self.calls = 0
        self.port = 0
        self.failures = 0
        self.deadline: float | None = None
        self.cancelled = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[GrpcApp]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        self.port = server.add_insecure_port(f"{LOCALHOST}:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def service(self, details: Any) -> Any:
        name = details.method
        if name == "/dapr.proto.runtime.v1.AppCallback/OnInvoke":
            return grpc.unary_unary_rpc_method_handler(self._on_invoke, _bytes, _bytes)
        if name == "/app.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(self._unary, _bytes, _bytes)
        if name == "/app.Echo/Chat":
            return grpc.stream_stream_rpc_method_handler(self._chat, _bytes, _bytes)
        if name == "/app.Echo/Hang":
            return grpc.stream_stream_rpc_method_handler(self._hang, _bytes, _bytes)
        return None

    def _note(self, context: Any) -> None:
        self.calls += 1
        self.metadata = [(name, value) for name, value in context.invocation_metadata()]
        self.deadline = context.time_remaining()

    def first(self, name: str) -> Any:
        return next((value for key, value in self.metadata if key == name), None)

    async def _on_invoke(self, request: bytes, context: Any) -> bytes:
        self._note(context)
        message = common.InvokeRequest.FromString(request)
        await context.send_initial_metadata((("x-app", "grpc"), ("x-bytes-bin", b"\0\1")))
        if message.method == "fail":
            context.set_trailing_metadata((("x-trailer", "t"),))
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        shown = f"{message.method}|{message.http_extension.verb}|{message.http_extension.querystring}|"
        data = shown.encode() + message.data.value
        type_url = "type.example/T" if message.method == "typed" else ""
        answer = common.InvokeResponse(data=wellknown.Any(type_url=type_url, value=data), content_type="text/x-app")
        return answer.SerializeToString()

    async def _unary(self, request: bytes, context: Any) -> bytes:
        self._note(context)
        if request == b"flaky" and self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.ABORTED, "not yet")
        context.set_trailing_metadata((("x-trailer", "t"), ("x-trailer-bin", b"\xff")))
        await context.send_initial_metadata((("x-head", "h"),))
        if request == b"fail":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "it is there: ü")
        return b"got " + request

    async def _chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self._note(context)
        async for request in requests:
            yield b"got " + request
        yield b"bye"

    async def _hang(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self._note(context)
        try:
            yield b"started"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
