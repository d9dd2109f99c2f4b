"""Client connections to one HTTP/2 server: dialled when wanted, shared by calls, given up when silent or idle.

Knows: addresses, dialling, back-off, how many streams a connection takes. Never knows: what the streams carry.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, cast

from pillion.net.h2_driver import Driver, Keepalive
from pillion.records import record
from pillion.wire.h2_frames import ErrorCode, H2Error, error_name
from pillion.wire.h2_limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pillion.net.h2")

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0
_DRAIN_S = 300.0
"""How long a connection that takes no more calls may take to finish those it has."""


@record
class PoolOptions:
    """How connections are made and kept.

    `streams`: the most one connection carries, whatever the server allows; `connections`: then calls wait.
    """

    streams: int = 100
    connections: int = 64
    connect_timeout_s: float = 20.0
    keepalive: Keepalive = field(default_factory=lambda: Keepalive(ping_after_s=None, idle_s=None, always=False))
    limits: Limits = field(default_factory=Limits)


class CannotConnect(Exception):
    """No connection to the server: nothing was sent. `reason` is what the system says, in lower case."""

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"cannot connect to {address}: {reason}")


class PoolClosed(Exception):
    """The client is closed."""


class Pool:
    """The connections to one server.

    `address` is `host:port`, `[v6]:port` or `unix:path`. `tls` makes them TLS with ALPN "h2", `server_name` is the name
    then asked for and verified (default: the host). `check` is called with each new TLS connection's `SSLObject` and
    raises `ssl.SSLError` for a peer that is not the wanted one.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        check: Callable[[ssl.SSLObject], None] | None = None,
        options: PoolOptions | None = None,
    ) -> None:
        self.address = address
        self.options = options or PoolOptions()
        self.closed = False
        self.connections: list[ClientConnection] = []
        """Those that may take more streams."""
        self.open: set[ClientConnection] = set()
        """All, those included that only finish what they have."""
        self._current: ClientConnection | None = None
        self._unix = address.removeprefix("unix:").removeprefix("//") if address.startswith("unix:") else None
        self._host, self._port = ("localhost", 0) if self._unix is not None else split_address(address)
        self._tls, self._server_name, self._check = tls, server_name, check
        self._dialling: asyncio.Task[ClientConnection] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wait_s = _FIRST_WAIT_S
        self._retry_at = 0.0
        self._refusal: CannotConnect | None = None
        self.changed = asyncio.Event()

    def ready(self) -> ClientConnection | None:
        """Return a connection that takes one more stream now, or None: then `connection` makes one."""
        current = self._current
        if current is not None and len(current.h2.streams) < current.room:
            return current
        for connection in self.connections:
            if len(connection.h2.streams) < connection.room:
                self._current = connection
                return connection
        return None

    async def connection(self) -> ClientConnection:
        """Return a connection that takes one more stream. Raises `CannotConnect` or `PoolClosed`.

        For a while after a failed dial the failure is repeated at once: the server is not hammered, nobody waits.
        """
        while True:
            if self.closed:
                raise PoolClosed
            if (found := self.ready()) is not None:
                return found
            if self._dialling is None:
                if len(self.connections) >= self.options.connections:
                    await self._free()
                    continue
                if self._refusal is not None and asyncio.get_running_loop().time() < self._retry_at:
                    raise CannotConnect(self._refusal.address, self._refusal.reason)
                self._dialling = asyncio.get_running_loop().create_task(self._dial())
                self._dialling.add_done_callback(self._dialled)
            # One dial serves all who wait; that one of them gives up does not end it.
            await asyncio.wait((dialling := self._dialling,))
            if dialling.cancelled():
                raise PoolClosed
            if (error := dialling.exception()) is not None:
                raise (
                    error.with_traceback(None)
                    if not isinstance(error, CannotConnect)
                    else CannotConnect(error.address, error.reason)
                )

    async def _free(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self._waiting = deque(other for other in self._waiting if other is not waiter)
            if waiter.done() and not waiter.cancelled():
                self.freed()
            raise

    @property
    def crowded(self) -> bool:
        """Whether calls wait for a stream to end; who ends one then calls `freed`."""
        return bool(self._waiting)

    def freed(self) -> None:
        """A stream has ended: let the next call look."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _dial(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(self.options.connect_timeout_s):
                if self._unix is not None:
                    name = (self._server_name or "localhost") if self._tls else None
                    _, connection = await loop.create_unix_connection(
                        self._make, self._unix, ssl=self._tls, server_hostname=name
                    )
                else:
                    name = (self._server_name or self._host) if self._tls else None
                    _, connection = await loop.create_connection(
                        self._make, self._host, self._port, ssl=self._tls, server_hostname=name
                    )
                if self._tls is not None:
                    self._verify(connection)
                await connection.hello
        except TimeoutError:
            raise self._refused(connection, "i/o timeout") from None
        except H2Error as error:
            raise self._refused(connection, str(error)) from error
        except ssl.SSLError as error:
            raise self._refused(connection, f"tls: {error.reason or error}") from error
        except OSError as error:
            reason = error.strerror if error.strerror and not error.strerror.startswith("Connect call") else str(error)
            raise self._refused(connection, _plain_reason(error, reason)) from error
        except asyncio.CancelledError:
            if connection is not None:
                connection.transport.abort()
            raise
        self._wait_s = _FIRST_WAIT_S
        self._refusal = None
        return connection

    def _make(self) -> ClientConnection:
        return ClientConnection(self)

    def _verify(self, connection: ClientConnection) -> None:
        tls = cast("ssl.SSLObject", connection.transport.get_extra_info("ssl_object"))
        if tls.selected_alpn_protocol() not in (None, "h2"):
            raise ssl.SSLError("the server does not speak h2")
        if self._check is not None:
            self._check(tls)

    def _refused(self, connection: ClientConnection | None, reason: str) -> CannotConnect:
        if connection is not None and not connection.is_lost:
            connection.transport.abort()
        self._refusal = CannotConnect(self.address, reason)
        jitter = 0.8 + 0.4 * random.random()
        self._retry_at = asyncio.get_running_loop().time() + self._wait_s * jitter
        self._wait_s = min(self._wait_s * 2, _LONGEST_WAIT_S)
        return self._refusal

    def _dialled(self, task: asyncio.Task[ClientConnection]) -> None:
        self._dialling = None
        if task.cancelled() or task.exception() is not None:
            return
        connection = task.result()
        if self.closed:
            connection.finish()
        elif connection.is_lost:
            self._refused(None, "the server closed the connection")
        else:
            self.connections.append(connection)
            self._current = connection

    def gone(self, connection: ClientConnection) -> None:
        """A connection takes no more streams."""
        if connection in self.connections:
            self.connections.remove(connection)
        if self._current is connection:
            self._current = None
        self.freed()

    async def close(self) -> None:
        """End every call and connection."""
        self.closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        for connection in list(self.open):
            connection.finish()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        if self._dialling is not None:
            await asyncio.wait((self._dialling,))
        while self.open:
            self.changed.clear()
            await self.changed.wait()

    def __repr__(self) -> str:
        return f"<Pool to {self.address}: {len(self.connections)} connections>"


class ClientConnection(Driver):
    """One connection of a `Pool`. `room` is how many streams it carries at most; 0 once it takes no more."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(client=True, limits=pool.options.limits, keepalive=pool.options.keepalive)
        self.pool = pool
        self.room = 0
        self.hello: asyncio.Future[None] = self.loop.create_future()
        """Done when the server's settings have come."""
        self._most = pool.options.streams
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pool.open.add(self)
        super().connection_made(transport)

    def settled(self) -> None:
        super().settled()
        if not self._leaving:
            self.room = min(self._most, self.h2.peer_streams)
        if not self.hello.done():
            self.hello.set_result(None)

    def going_away(self, last_id: int, code: int, text: bytes) -> None:
        if code:
            detail = text[:200].decode("utf-8", "replace")
            log.info("server %s: GOAWAY %s %s", self.pool.address, error_name(code), detail)
        self._leave()

    def _leave(self) -> None:
        """Take no more streams; close when those that are open have ended."""
        if self._leaving:
            return
        self._leaving = True
        self.room = 0
        self.pool.gone(self)
        if self.h2.streams:
            self.loop.call_later(_DRAIN_S, self._close)
        else:
            self.loop.call_soon(self._close)

    def quiet(self) -> None:
        super().quiet()
        if self._leaving:
            self.loop.call_soon(self._close)

    def idled(self) -> None:
        self.finish()

    def finish(self) -> None:
        """End now."""
        self.room = 0
        if not self.is_lost:
            self.h2.refuse_new(ErrorCode.NO_ERROR)
            self.flush()
            self.h2.lost("the client connection is closing")
            self._close()

    def failed(self, error: H2Error) -> None:
        self.room = 0
        super().failed(error)
        if not self.hello.done():
            self.hello.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.room = 0
        super().connection_lost(exc)
        if not self.hello.done():
            self.hello.set_exception(ConnectionResetError("the server closed the connection"))
            self.hello.exception()  # nobody may be there to hear it
        self.pool.gone(self)
        self.pool.open.discard(self)
        self.pool.changed.set()

    def __repr__(self) -> str:
        return f"<ClientConnection to {self.pool.address}: {self.h2!r}>"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _plain_reason(error: OSError, text: str) -> str:
    """What the system says; asyncio wraps it in words of its own."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else text).lower()
