"""Applications of every protocol behind a real sidecar (spec `http-api.md` 5.1, `runtime.md` 1.1)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from pillion.net import listen, tls
from pillion.net.exchange import Headers, Request, Response
from pillion.net.h2_server import H2Server
from pillion.net.http_server import HttpServer
from sidecars import SidecarProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Certificates


class Echo:
    """Answers with what it got: method, path and body."""

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        if request.target.startswith(b"/dapr/"):
            return Response(404)
        assert isinstance(request.body, bytes)
        text = b" ".join((request.method.encode(), request.target, request.version.encode(), request.body))
        return Response(200, [(b"content-type", b"text/plain"), (b"x-from", b"app")], text)


@contextlib.contextmanager
def application(certificates: Certificates | None, *, http2: bool) -> Iterator[int]:
    """An application on a thread with a loop of its own; gives its port."""
    started, port, loop = threading.Event(), [0], asyncio.new_event_loop()

    async def main() -> None:
        context = None
        if certificates is not None:
            context = tls.server_context(certificates.server.read_text(), certificates.server_key.read_text())
        factory = H2Server(http=Echo()) if http2 else HttpServer(Echo(), max_body=1 << 20, max_head=8192)
        listeners = await listen.tcp(factory, ("127.0.0.1",), 0, tls=context)
        port[0] = listeners.port
        stop = asyncio.Event()
        loop.stop_it = lambda: loop.call_soon_threadsafe(stop.set)  # type: ignore[attr-defined]
        started.set()
        await stop.wait()
        listeners.close()
        await factory.close(0.1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    started.wait()
    try:
        yield port[0]
    finally:
        loop.stop_it()  # type: ignore[attr-defined]
        thread.join()
        loop.close()


@pytest.mark.parametrize("protocol", ["http", "https", "h2c"])
def test_http_applications(tmp_path: Path, certificates: Certificates, protocol: str) -> None:
    with application(certificates if protocol == "https" else None, http2=protocol == "h2c") as port:
        arguments = ["--app-protocol", protocol]
        with SidecarProcess(tmp_path, app_port=port, arguments=arguments) as sidecar:
            sidecar.wait("/v1.0/healthz")
            reply = sidecar.request("POST", "/v1.0/invoke/app/method/a/b?c=1", b"hello")
            version = b"2" if protocol == "h2c" else b"1.1"
            assert (reply.status, reply.headers["x-from"]) == (200, "app")
            assert reply.body == b"POST /a/b?c=1 %b hello" % version


def test_grpc_application(tmp_path: Path) -> None:
    """OnInvoke of a real grpcio application, called over HTTP and over gRPC, and a service of its own by proxy."""
    from concurrent import futures

    from dapr.proto import appcallback_service_v1, common_v1

    class App(appcallback_service_v1.AppCallbackServicer):
        def OnInvoke(self, request: Any, context: Any) -> Any:
            return common_v1.InvokeResponse(data=request.data, content_type="text/plain")

        def ListTopicSubscriptions(self, request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "none")

        ListInputBindings = ListTopicSubscriptions

    handlers = {
        "Shout": grpc.unary_unary_rpc_method_handler(lambda request, context: request.upper()),
        "Count": grpc.unary_stream_rpc_method_handler(lambda request, context: (b"%d" % n for n in range(5))),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    appcallback_service_v1.add_AppCallbackServicer_to_server(App(), server)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Voice", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with SidecarProcess(tmp_path, app_port=port, arguments=["--app-protocol", "grpc"]) as sidecar:
            sidecar.wait("/v1.0/healthz")
            assert sidecar.request("POST", "/v1.0/invoke/app/method/m", b"hello").body == b"hello"
            with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
                to_app = [("dapr-app-id", "app")]
                assert channel.unary_unary("/demo.Voice/Shout")(b"hey", metadata=to_app, timeout=60) == b"HEY"
                counted = channel.unary_stream("/demo.Voice/Count")(b"", metadata=to_app, timeout=60)
                assert list(counted) == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        server.stop(0).wait()


def test_unix_sockets_instead_of_ports(tmp_path: Path) -> None:
    import http.client
    import socket

    folder = tmp_path / "s"
    folder.mkdir()
    sidecar = SidecarProcess(tmp_path, arguments=["--unix-domain-socket", str(folder)])
    sidecar.start(ready=False)
    path = folder / "dapr-app-http.socket"
    try:
        eventually(path.exists)
        with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            connection.request("GET", "/v1.0/healthz/outbound")
            assert connection.getresponse().status in (204, 500)
        with grpc.insecure_channel(f"unix:{folder}/dapr-app-grpc.socket") as channel:
            assert channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetMetadata")(b"", timeout=60)
    finally:
        assert sidecar.stop() == 0
    assert not path.exists()


def test_reflection_and_health(tmp_path: Path) -> None:
    """Tools can ask the API port what it offers (spec `grpc-api.md` 1) and, beyond the reference, if it is well."""
    with SidecarProcess(tmp_path) as sidecar, grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"", timeout=60) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as proxied:
            health(b"", timeout=60, metadata=[("dapr-app-id", "somebody")])
        assert proxied.value.code() != grpc.StatusCode.OK
        listing = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        (reply,) = listing(iter([b"\x3a\x00"]), timeout=60)
        assert b"dapr.proto.runtime.v1.Dapr" in reply
        assert b"grpc.health.v1.Health" in reply
