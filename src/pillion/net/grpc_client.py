"""The gRPC client: `GrpcChannel` on pooled HTTP/2 connections.

Knows: heads of requests, deadlines, the one transparent retry. Never knows: sockets, messages' contents, how the end of
a stream becomes a status (`grpc_calls`, `grpc_streams`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.exchange import RpcError, UnaryReply
from pillion.net.grpc_calls import DEADLINE, UnaryCall, Unprocessed
from pillion.net.grpc_streams import StreamCall
from pillion.net.h2_pool import CannotConnect, ClientConnection, Pool, PoolClosed, PoolOptions
from pillion.wire import grpc as g
from pillion.wire.grpc import StatusError
from pillion.wire.h2_headers import encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pillion.net.exchange import Metadata

_USER_AGENT = b"grpc-python-pillion/1.0"
_MOST_HEADS = 256


class Channel:
    """A `GrpcChannel`. The address is that of `Pool`; nothing is dialled before the first call.

    `max_receive` and `max_send` bound one message, bytes (`max_send` None: no bound). `authority` is what calls name
    as their server when it is not the address.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        check: Callable[[ssl.SSLObject], None] | None = None,
        authority: str | None = None,
        user_agent: bytes = _USER_AGENT,
        max_receive: int = g.DEFAULT_MAX_MESSAGE,
        max_send: int | None = None,
        options: PoolOptions | None = None,
    ) -> None:
        self.pool = Pool(address, tls=tls, server_name=server_name, check=check, options=options)
        self.max_receive = max_receive
        self.max_send = max_send
        if authority is None:
            authority = server_name or ("localhost" if address.startswith("unix:") else address)
        self._authority = authority.encode("latin-1", "replace")
        self._scheme = b"http" if tls is None else b"https"
        self._user_agent = user_agent
        self._heads: dict[tuple[str, float | None], bytes] = {}

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata | None = None, timeout_s: float | None = None
    ) -> UnaryReply:
        """Call a unary method and return its reply; raises `RpcError`."""
        block = self.head(method, metadata, timeout_s)
        self.check_size(request)
        connection = self.pool.ready()
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        if connection is None:
            connection = await self.connection(deadline)
        again = True
        while True:
            call = UnaryCall(connection, self.max_receive, loop)
            call.begin(block, request, deadline)
            try:
                return await call.answer
            except Unprocessed as error:
                if not again:
                    raise error.status from None
                again = False
            except asyncio.CancelledError:
                call.abandon()
                raise
            connection = await self.connection(deadline)

    def stream(self, method: str, *, metadata: Metadata | None = None, timeout_s: float | None = None) -> StreamCall:
        """Begin a call of any streaming kind. A connection is looked for at the first `send` or `receive`."""
        return StreamCall(self, self.head(method, metadata, timeout_s), timeout_s)

    async def close(self) -> None:
        """End every call with CANCELLED and close the connections."""
        await self.pool.close()

    def head(self, method: str, metadata: Metadata | None, timeout_s: float | None) -> bytes:
        """Return the header block of a request. Raises `RpcError` for metadata that cannot be sent."""
        block = self._heads.get((method, timeout_s))
        if block is None:
            block = self._head(method, timeout_s)
        if not metadata:
            return block
        try:
            return block + encode(g.metadata_fields(metadata))
        except StatusError as error:
            raise RpcError(error.code, error.message) from None

    def _head(self, method: str, timeout_s: float | None) -> bytes:
        fields = [
            (b":method", b"POST"),
            (b":scheme", self._scheme),
            (b":path", method.encode("utf-8") if method.startswith("/") else b"/" + method.encode("utf-8")),
            (b":authority", self._authority),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", self._user_agent),
            (b"grpc-accept-encoding", g.ACCEPT_ENCODING),
        ]
        if timeout_s is not None:
            fields.append((b"grpc-timeout", g.format_timeout(timeout_s)))
        block = encode(fields)
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        self._heads[method, timeout_s] = block
        return block

    def check_size(self, message: bytes) -> None:
        if self.max_send is not None and len(message) > self.max_send:
            error = g.too_large_to_send(len(message), self.max_send)
            raise RpcError(error.code, error.message)

    async def connection(self, deadline: float | None) -> ClientConnection:
        """Return a connection with room; raises `RpcError`."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self.pool.connection()
        except TimeoutError:
            raise RpcError(Code.DEADLINE_EXCEEDED, DEADLINE) from None
        except CannotConnect as error:
            text = f"transport: Error while dialing: dial tcp {error.address}: connect: {error.reason}"
            raise RpcError(Code.UNAVAILABLE, f'connection error: desc = "{text}"') from error
        except PoolClosed:
            raise RpcError(Code.CANCELLED, "grpc: the client connection is closing") from None

    def __repr__(self) -> str:
        return f"<Channel to {self.pool.address}>"
