"""The HTTP/1.1 client: requests to one server over pooled connections.

Knows: pooling and bounds. Never knows: who the server is to the house, redirects, proxies, cookies. Nothing is retried,
except what provably or very likely never reached a server (`ClientConnection.may_repeat`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING

from pillion.net.http_connection import (
    ClientConnection,
    ConnectFailed,
    HttpError,
    MalformedResponse,
    ServerDisconnected,
)
from pillion.wire import http1

if TYPE_CHECKING:
    from pillion.net.exchange import Request, Response

__all__ = ["ConnectFailed", "HttpClient", "HttpError", "MalformedResponse", "ServerDisconnected"]

_WITH_LENGTH = frozenset(("POST", "PUT", "PATCH"))


class HttpClient:
    """A client of one server. At most `max_connections` are open, of which `max_idle` are kept while unused.

    `max_head` limits response heads in bytes. `tls` makes the connections TLS, `server_name` is then the name that is
    asked for and verified. `unix` is the path of a socket file to use instead of `host` and `port`.
    """

    def __init__(
        self,
        host: str,
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        unix: str | None = None,
        max_connections: int = 1024,
        max_idle: int = 64,
        max_head: int = 65536,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self.address = unix if unix is not None else _authority(host, port)
        self.host_header = _host_header(host, port, tls=tls is not None).encode()
        self.max_head = max_head
        self._host, self._port, self._unix = host, port, unix
        self._tls, self._server_name = tls, server_name
        self._max_connections, self._max_idle = max_connections, max_idle
        self._connect_timeout_s = connect_timeout_s
        self._open: set[ClientConnection] = set()
        self._opening = 0
        self._idle: deque[ClientConnection] = deque()
        self._waiting: deque[asyncio.Future[ClientConnection | None]] = deque()
        self._closed = False

    async def request(self, request: Request, *, timeout_s: float | None = None) -> Response:
        """Send `request` and return the answer once its head - of a short answer: all of it - has arrived.

        A longer or unending body is an `IncomingBody`: iterate it to its end or `aclose` it, else its connection stays
        occupied. `timeout_s` covers the time to the return of this call (`TimeoutError`). Raises `ConnectFailed`,
        `ServerDisconnected`, `BodyIncomplete` when a short body breaks off, `MalformedResponse`, `ValueError` for a
        request that cannot be written, and whatever reading a streamed request body raises.
        """
        if timeout_s is not None:
            async with asyncio.timeout(timeout_s):
                return await self.request(request)
        body = request.body
        whole = isinstance(body, bytes)
        if isinstance(body, bytes):
            tail = http1.content_length(len(body)) if body or request.method in _WITH_LENGTH else http1.END
        else:
            tail = http1.CHUNKED if body.length is None else http1.content_length(body.length)
        head = http1.request_head(request.method, request.target, self.host_header, request.headers, tail)
        connection = self._idle.pop() if self._idle else await self._connection()
        try:
            return await connection.exchange(request, head)
        except ServerDisconnected:
            if not whole or not connection.may_repeat(request.method):
                raise
        connection = await self._connection(fresh=True)
        return await connection.exchange(request, head)

    async def _connection(self, *, fresh: bool = False) -> ClientConnection:
        """Return an idle connection, or a new one when there is none or `fresh` is wanted; wait while all are busy."""
        while True:
            if self._closed:
                raise ConnectFailed(self.address, ConnectionAbortedError("the client is closed"))
            if self._idle and not fresh:
                return self._idle.pop()
            if len(self._open) + self._opening < self._max_connections:
                return await self._connect()
            if self._idle:
                self._idle.popleft().drop()  # makes room for a fresh one
            waiter: asyncio.Future[ClientConnection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._pass_on(waiter.result())
                else:
                    self._waiting.remove(waiter)
                raise
            if connection is not None and not connection.lost:
                return connection

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        self._opening += 1
        connection = ClientConnection(self, loop)
        name = (self._server_name or self._host) if self._tls is not None else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._unix is not None:
                    await loop.create_unix_connection(
                        lambda: connection, self._unix, ssl=self._tls, server_hostname=name
                    )
                else:
                    await loop.create_connection(
                        lambda: connection, self._host, self._port, ssl=self._tls, server_hostname=name
                    )
        except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            self._pass_on(None)
            raise ConnectFailed(self.address, error) from error
        except BaseException:
            self._pass_on(None)
            raise
        finally:
            self._opening -= 1
        if self._closed:
            connection.drop()
        return connection

    def joined(self, connection: ClientConnection) -> None:
        """Take note of a connection that was established."""
        self._open.add(connection)

    def release(self, connection: ClientConnection) -> None:
        """Take back a connection after a whole exchange: for the next in the queue, the pool, or the dustbin."""
        if self._closed:
            connection.drop()
        elif self._waiting:
            self._pass_on(connection)
        elif len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            connection.drop()

    def left(self, connection: ClientConnection) -> None:
        """Forget a connection that was lost; its place is free."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._pass_on(None)

    def _pass_on(self, connection: ClientConnection | None) -> None:
        """Give a connection, or the right to open one, to the first that still waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is not None and not connection.lost:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close all connections, the busy ones too, and wait until they are gone."""
        self._closed = True
        while self._waiting:
            self._pass_on(None)
        gone = [connection.drop() for connection in list(self._open)]
        self._idle.clear()
        if gone:
            await asyncio.wait(gone)

    def __repr__(self) -> str:
        busy = len(self._open) - len(self._idle)
        return f"<HttpClient of {self.address}: {busy} busy, {len(self._idle)} idle, {len(self._waiting)} waiting>"


def _authority(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_header(host: str, port: int, *, tls: bool) -> str:
    """Return the value of `Host`: without the port where it is the scheme's own, or a socket file is used."""
    if port in (0, 443 if tls else 80):
        return f"[{host}]" if ":" in host else host
    return _authority(host, port)
