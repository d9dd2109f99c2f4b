"""What is counted of gRPC: calls served, calls of the application and of other sidecars (spec `runtime.md` 6.1).

Unary calls are counted by their method; streams only where they are proxied for an application, as in the reference.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from pillion.errors import Code, code_name
from pillion.net.exchange import Method, RpcError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.net.exchange import GrpcChannel, Metadata, ServerCall, Streaming, UnaryReply
    from pillion.observe.metrics import Family, Histogram, Registry

    CallUnary = Callable[[str, bytes, Metadata | None, float | None], Awaitable[UnaryReply]]


class _Calls:
    """The series of one method: latencies by the code of the end, sizes of messages. Found when it is first called."""

    __slots__ = ("_family", "_method", "_seen", "received", "sent")

    def __init__(
        self, family: Family[Histogram], sizes: tuple[Family[Histogram], Family[Histogram]], method: str
    ) -> None:
        self._family = family
        self._method = method
        self._seen: dict[int, Histogram] = {}
        self.received, self.sent = sizes[0].child(method), sizes[1].child(method)

    def ended(self, code: int, elapsed_ms: float) -> None:
        series = self._seen.get(code)
        if series is None:
            series = self._family.child(self._method, code_name(code))
            if len(self._seen) < len(Code):
                self._seen[code] = series
        series.observe(elapsed_ms)


class ServerMeter:
    """Calls of the gRPC servers. `method` and `proxied` wrap a handler once, when the server is built."""

    def __init__(self, registry: Registry) -> None:
        self._latency = registry.histogram("grpc_io_server_server_latency")
        self._sizes = (
            registry.histogram("grpc_io_server_received_bytes_per_rpc"),
            registry.histogram("grpc_io_server_sent_bytes_per_rpc"),
        )

    def method(self, name: str, method: Method) -> Method:
        """Return a method that counts itself, if it is unary. Latencies are whole milliseconds."""
        inner = method.unary
        if inner is None:
            return method
        known: _Calls | None = None

        async def unary(call: ServerCall, request: bytes) -> bytes:
            nonlocal known
            calls = known
            if calls is None:
                calls = known = _Calls(self._latency, self._sizes, name)
            calls.received.observe(len(request))
            started = perf_counter()
            code = int(Code.CANCELLED)
            try:
                reply = await inner(call, request)
                code = 0
            except RpcError as error:
                code = error.code
                raise
            finally:
                calls.ended(code, int((perf_counter() - started) * 1000))
            calls.sent.observe(len(reply))
            return reply

        at_once = method.at_once
        if at_once is None:
            return Method(unary=unary, oversized=method.oversized)

        def now(call: ServerCall, request: bytes) -> bytes | None:
            started = perf_counter()
            try:
                reply = at_once(call, request)
            except RpcError as error:
                counted(request, error.code, started)
                raise
            if reply is not None:
                counted(request, 0, started).sent.observe(len(reply))
            return reply

        def counted(request: bytes, code: int, started: float) -> _Calls:
            nonlocal known
            if known is None:
                known = _Calls(self._latency, self._sizes, name)
            known.received.observe(len(request))
            known.ended(code, int((perf_counter() - started) * 1000))
            return known

        return Method(unary=unary, at_once=now, oversized=method.oversized)

    def proxied(self, serve: Streaming) -> Streaming:
        """Return a proxy that counts the calls whose client names an application."""
        family = self._latency

        async def streaming(call: ServerCall) -> None:
            if call.first("dapr-app-id") is None:
                await serve(call)
                return
            started = perf_counter()
            code = int(Code.CANCELLED)
            try:
                await serve(call)
                code = 0
            except RpcError as error:
                code = error.code
                raise
            finally:
                family.child(call.method, code_name(code)).observe(int((perf_counter() - started) * 1000))

        return streaming


class CountedChannel:
    """A channel to another sidecar whose unary calls are counted; streams there carry invocations, which are not."""

    def __init__(self, channel: GrpcChannel, wrap: Callable[[CallUnary], CallUnary]) -> None:
        def call(
            method: str, message: bytes, metadata: Metadata | None, timeout_s: float | None
        ) -> Awaitable[UnaryReply]:
            return channel.unary(method, message, metadata=metadata, timeout_s=timeout_s)

        self._unary = wrap(call)
        self.stream = channel.stream
        self.close = channel.close

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata | None = None, timeout_s: float | None = None
    ) -> UnaryReply:
        """As of the channel."""
        return await self._unary(method, request, metadata, timeout_s)


def client(registry: Registry) -> Callable[[CallUnary], CallUnary]:
    """Return what wraps unary calls: of an application, of other sidecars."""
    latency = registry.histogram("grpc_io_client_roundtrip_latency")
    sizes = (
        registry.histogram("grpc_io_client_received_bytes_per_rpc"),
        registry.histogram("grpc_io_client_sent_bytes_per_rpc"),
    )
    known: dict[str, _Calls] = {}

    def series_of(method: str) -> _Calls:
        found = _Calls(latency, sizes, method)
        if len(known) < 256:  # callbacks are a handful
            known[method] = found
        return found

    def wrap(unary: CallUnary) -> CallUnary:
        async def metered(
            method: str, message: bytes, metadata: Metadata | None, timeout_s: float | None
        ) -> UnaryReply:
            calls = known.get(method) or series_of(method)
            calls.sent.observe(len(message))
            started = perf_counter()
            code = int(Code.CANCELLED)
            try:
                reply = await unary(method, message, metadata, timeout_s)
                code = 0
            except RpcError as error:
                code = error.code
                raise
            finally:
                calls.ended(code, (perf_counter() - started) * 1000)
            calls.received.observe(len(reply.message))
            return reply

        return metered

    return wrap
