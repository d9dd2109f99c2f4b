"""The way to the application beside this sidecar: one object, whichever protocol it speaks.

Holds what every call shares (spec `http-api.md` 5.1, `runtime.md` 7.5): the application's token, the limit on
concurrent calls, the health gate. Knows: that an application speaks HTTP or gRPC. Never knows: what is asked of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.net.exchange import ClientStream, GrpcChannel, Metadata, Request, Response, UnaryReply
    from pillion.net.middleware import Pipeline

    Send = Callable[[Request], Awaitable[Response]]
    CallUnary = Callable[[str, bytes, Metadata | None, float | None], Awaitable[UnaryReply]]


class AppUnhealthy(ComponentError):
    """The application failed its health probes; calls fail at once (spec `runtime.md` 7.6)."""

    def __init__(self) -> None:
        super().__init__("app is not in a healthy state")


class HttpTransport(Protocol):
    """An HTTP client bound to the application's address."""

    async def request(self, request: Request) -> Response: ...

    async def close(self) -> None: ...


def _plain(grpc: GrpcChannel) -> CallUnary:
    def unary(method: str, message: bytes, metadata: Metadata | None, timeout_s: float | None) -> Awaitable[UnaryReply]:
        return grpc.unary(method, message, metadata=metadata, timeout_s=timeout_s)

    return unary


class AppChannel:
    """Calls to the application.

    `http` is set for the protocols http, https and h2c, `grpc` for grpc and grpcs; exactly one of them.
    `pipeline` is the middleware on the way to an HTTP application; `meter_http` and `meter_grpc` wrap the way there
    with what counts calls. Health probes take another way.
    `token` is APP_API_TOKEN. `limit` 0 means unlimited. `healthy` is switched by the health prober; `starting` is true
    while an application that somebody waits for has not opened its port.
    """

    def __init__(
        self,
        protocol: str,
        *,
        http: HttpTransport | None = None,
        grpc: GrpcChannel | None = None,
        token: str = "",
        limit: int = 0,
        address: str = "127.0.0.1",
        port: int = 0,
        pipeline: Pipeline | None = None,
        meter_http: Callable[[Send], Send] | None = None,
        meter_grpc: Callable[[CallUnary], CallUnary] | None = None,
    ) -> None:
        self.protocol = protocol
        self.http = http
        self.grpc = grpc
        self.token = token
        self.limit = max(limit, 0)
        self.address = address
        self.port = port
        self.healthy = True
        self.starting = False
        self._send: Send | None = http.request if http is not None else None
        if pipeline is not None and self._send is not None:
            self._send = pipeline.over(self._send)
        self._unary = _plain(grpc) if grpc is not None else None
        if meter_http is not None and self._send is not None:
            self._send = meter_http(self._send)
        if meter_grpc is not None and self._unary is not None:
            self._unary = meter_grpc(self._unary)
        self._slots = asyncio.Semaphore(limit) if limit > 0 else None
        self._token_header = (b"dapr-api-token", token.encode()) if token else None

    def request(self, request: Request, *, gated: bool = True) -> Awaitable[Response]:
        """Call an HTTP application. The slot of a limited channel is held until the body has been consumed.

        Raises `AppUnhealthy` at once, and what the client raises. `gated` False: probes and external invocation.
        """
        assert self._send is not None
        if gated and not self.healthy:
            raise AppUnhealthy
        if self._token_header is not None:
            request.headers = [pair for pair in request.headers if pair[0] != b"dapr-api-token"]
            request.headers.append(self._token_header)
        if self._slots is None:
            return self._send(request)
        return _in_turn(self._send, request, self._slots)

    async def unary(
        self,
        method: str,
        message: bytes,
        *,
        metadata: Metadata | None = None,
        timeout_s: float | None = None,
        limited: bool = False,
        gated: bool = True,
        with_token: bool = True,
    ) -> UnaryReply:
        """Call a gRPC application. `limited` counts against the concurrency limit: invoke and jobs alone do."""
        assert self._unary is not None
        if gated and not self.healthy:
            raise AppUnhealthy
        metadata = [] if metadata is None else metadata
        if with_token and self.token:
            metadata = [pair for pair in metadata if pair[0] != "dapr-api-token"]
            metadata.append(("dapr-api-token", self.token))
        if self._slots is None or not limited:
            return await self._unary(method, message, metadata, timeout_s)
        async with self._slots:
            return await self._unary(method, message, metadata, timeout_s)

    def stream(self, method: str, *, metadata: Metadata, timeout_s: float | None = None) -> ClientStream:
        """Open any gRPC call to the application, for proxying; adds the token."""
        assert self.grpc is not None
        if self.token:
            metadata = [pair for pair in metadata if pair[0] != "dapr-api-token"]
            metadata.append(("dapr-api-token", self.token))
        return self.grpc.stream(method, metadata=metadata, timeout_s=timeout_s)

    async def close(self) -> None:
        if self.http is not None:
            await self.http.close()
        if self.grpc is not None:
            await self.grpc.close()

    def __repr__(self) -> str:
        health = "healthy" if self.healthy else "unhealthy"
        return f"<AppChannel {self.protocol} to {self.address}:{self.port}, {health}>"


async def _in_turn(send: Send, request: Request, slots: asyncio.Semaphore) -> Response:
    await slots.acquire()
    try:
        response = await send(request)
    except BaseException:
        slots.release()
        raise
    if isinstance(response.body, bytes):
        slots.release()
    else:
        response.body = _Releasing(response.body, slots)
    return response


class _Releasing:
    """A response body that gives its slot back when it ends, fails or is closed."""

    def __init__(self, body: object, slots: asyncio.Semaphore) -> None:
        self._body = body
        self._slots: asyncio.Semaphore | None = slots

    def __aiter__(self) -> _Releasing:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._body.__anext__()  # type: ignore[attr-defined, no-any-return]
        except BaseException:
            self._release()
            raise

    async def aclose(self) -> None:
        self._release()
        closing = getattr(self._body, "aclose", None)
        if closing is not None:
            await closing()

    def _release(self) -> None:
        if self._slots is not None:
            self._slots.release()
            self._slots = None
