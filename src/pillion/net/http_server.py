"""The HTTP/1.1 server: the connections of its listeners, and their graceful end.

Knows: the limits that its connections share, who is still open. Never knows: what happens on a connection
(`http_serving`), which addresses are listened on (`listen`), what the service does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pillion.net.http_serving import LINGER_S, HttpConnection

if TYPE_CHECKING:
    from pillion.net.exchange import HttpService, Request


class H2Factory(Protocol):
    """Takes a connection over for HTTP/2, sets the transport's protocol and feeds it `first_bytes`.

    `first_bytes` starts with the client's preface, or holds what already came behind an `Upgrade: h2c` request: then
    `upgrade` is that request, to be answered as stream 1, and `settings` its HTTP2-Settings (base64url).
    """

    def __call__(
        self,
        transport: asyncio.Transport,
        first_bytes: bytes,
        *,
        upgrade: Request | None = None,
        settings: bytes = b"",
    ) -> object: ...


class HttpServer:
    """A factory of connections for listeners: `await listen.tcp(server, ...)`.

    `max_body` limits request bodies in bytes (0 or less: no limit), `max_head` request heads (4 KiB more are allowed).
    A head must arrive within `head_timeout_s`; a connection without a request is closed after `idle_timeout_s`, if
    given.
    """

    def __init__(
        self,
        service: HttpService,
        *,
        max_body: int,
        max_head: int,
        head_timeout_s: float = 10.0,
        idle_timeout_s: float | None = None,
        h2: H2Factory | None = None,
    ) -> None:
        self.service = service
        self.max_body = max_body
        self.max_head = max_head
        self.head_timeout_s = head_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.h2 = h2
        self.closing = False
        self.hospitable = False
        """Whether connections that were accepted just before the end are served once."""
        self.connections: set[HttpConnection] = set()
        self._empty: asyncio.Future[None] | None = None

    def __call__(self) -> HttpConnection:
        return HttpConnection(self, asyncio.get_running_loop())

    async def close(self, grace_s: float, *, farewell_s: float = 0.0) -> bool:
        """End all connections: idle ones now, busy ones after their answer, and after `grace_s` seconds all of them.

        With `farewell_s` idle ones have so long to ask once more and hear that the connection ends with the answer:
        a client at work never finds its connection closed under its request. Those that have not asked yet stay open
        for it.
        Listeners must have stopped accepting before. Return False when the grace period was not enough.
        """
        self.closing = True
        self.hospitable = farewell_s > 0
        if farewell_s:
            await self._wait_empty(farewell_s)
            for _ in range(2):  # a request that has arrived by now is read before anything is closed
                await asyncio.sleep(0)
        for connection in list(self.connections):
            if not (farewell_s and connection.fresh):
                connection.close_when_idle()
        in_time = await self._wait_empty(grace_s)
        for connection in list(self.connections):
            connection.abort()
        await self._wait_empty(LINGER_S)
        return in_time

    async def _wait_empty(self, timeout_s: float) -> bool:
        if not self.connections:
            return True
        self._empty = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait((self._empty,), timeout=timeout_s)
        self._empty = None
        return bool(done)

    def left(self, connection: HttpConnection) -> None:
        """Forget a connection that has ended or was handed over."""
        self.connections.discard(connection)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def __repr__(self) -> str:
        return f"<HttpServer, {len(self.connections)} connections{', closing' if self.closing else ''}>"
