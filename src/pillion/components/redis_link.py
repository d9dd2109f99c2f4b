"""A connection to one Redis server that heals itself: pipelined, in order, bounded, with deadlines.

Knows: RESP through the C parser `hiredis`, writing in one piece per turn of the event loop, and what to do with
commands when the connection goes away. Never knows: clusters, sentinels, or what the commands mean; `redis_client`
does.

A command that was sent and not answered before its connection ended has an unknown outcome: it fails with
`Interrupted`, unless it was declared `safe` (a read), then it is sent again. A command that was not sent yet waits for
the next connection, at most `dial_s` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, cast

import hiredis

from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.components.redis_settings import Dialing

log = logging.getLogger("pillion.components.redis")

MAX_WAITING = 16384
"""Commands that may wait for answers, or for a connection."""
MAX_UNSENT = 64 << 20
"""Bytes that may wait while the server does not read."""

Command = tuple["asyncio.Future[Any]", bytes, bool, int]
"""Who waits, the packed command, whether it may be sent twice, how often it was sent before."""

Part = bytes | str | int | float

pack = cast("Callable[[tuple[Part, ...]], bytes]", hiredis.pack_command)
"""Return a command as RESP, from its words."""

_NOTHING = object()


class RedisError(ComponentError):
    """The server refused a command; `code` is the first word of its answer: `ERR`, `WRONGTYPE`, `BUSYGROUP`."""

    def __init__(self, text: str) -> None:
        self.code = text.partition(" ")[0]
        super().__init__(f"redis: {text}")


class Interrupted(ComponentError):
    """The connection ended before the answer came: nobody can tell whether the command was executed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"redis: {why}; it is unknown whether the command was executed")


class Unreachable(ComponentError):
    """There is no connection: the command was not sent."""


class Denied(ComponentError):
    """The server does not want us: wrong password, wrong database, not the master."""


class Refusals(Protocol):
    """Who decides about error answers. Return True to keep the future open: the command goes elsewhere."""

    def __call__(self, link: Link, command: Command, text: str) -> bool: ...


class _Connection(asyncio.Protocol):
    """One TCP connection. Answers come in the order of the commands (redis.io/docs/reference/protocol-spec)."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._reader: Any = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport
        self._pending: deque[Command] = deque()
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushing = False
        self._paused = False
        self._progress = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._why = ""
        self.established = False
        self.gone: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    @property
    def lost(self) -> bool:
        return self.gone.done()

    @property
    def waiting(self) -> int:
        return len(self._pending)

    def overloaded(self, size: int, count: int = 1) -> bool:
        """Tell whether `count` more commands of `size` bytes together are too many."""
        if len(self._pending) + count > MAX_WAITING:
            return True
        return self._out_size + size > MAX_UNSENT

    def send(self, command: Command) -> None:
        self._pending.append(command)
        self._out.append(command[1])
        self._out_size += len(command[1])
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def send_all(self, commands: list[Command], packed: Sequence[bytes], size: int) -> None:
        """`send` for many; `packed` are their bytes, `size` the sum of them."""
        self._pending.extend(commands)
        self._out.extend(packed)
        self._out_size += size
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._paused or self.lost:
            return
        out, self._out, self._out_size = self._out, [], 0
        if not out:
            return
        if len(out) == len(self._pending):  # nothing was awaited before: the server's time runs from now
            self._progress = self._loop.time()
        if self._watch is None:
            self._look_again(self._link.read_s)
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._progress = self._loop.time()
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                command = pending.popleft()
                if type(reply) is hiredis.ReplyError:
                    self._link.refused(self, command, str(reply))
                elif not (future := command[0]).done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError, TypeError) as error:  # the last: a map whose key is a list
            self.end(f"the server broke the protocol: {error!r}")

    def _look_again(self, limit_s: float | None) -> None:
        if limit_s is not None:
            self._watch = self._loop.call_later(limit_s / 4, self._look)

    def _look(self) -> None:
        """Give the connection up when commands wait and nothing has come for too long."""
        self._watch = None
        if not self._pending or self.lost:
            return
        limit = self._link.write_s if self._paused else self._link.read_s
        if limit is not None and self._loop.time() - self._progress >= limit:
            self.end(f"the server did not answer for {limit:g} s")
            return
        self._look_again(limit)

    def end(self, why: str) -> None:
        """Close now; `connection_lost` follows."""
        self._why = self._why or why
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)
        if self._watch is not None:
            self._watch.cancel()
        why = self._why or (f"the connection was lost ({error})" if error else "the server closed the connection")
        sent = len(self._pending) - len(self._out)
        self._link.disconnected(self, why, list(self._pending)[:sent], list(self._pending)[sent:])


class Link:
    """The commands of many callers on one connection at a time. `locate` gives the address for each attempt.

    `read_s` is how long the server may be silent while commands wait; a link for blocking commands gets more.
    """

    def __init__(
        self,
        locate: Callable[[], Awaitable[tuple[str, int]]],
        dialing: Dialing,
        *,
        refusals: Refusals | None = None,
        must_be_master: bool = False,
        read_s: float | None = None,
    ) -> None:
        self._locate = locate
        self._dialing = dialing
        self._refusals = refusals
        self._must_be_master = must_be_master
        self.read_s = read_s if read_s is not None else dialing.read_s
        self.write_s = dialing.write_s
        self._connection: _Connection | None = None
        self._held: deque[tuple[float, Command]] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks = Tasks("redis link")
        self._connecting = False
        self._closed = False
        self._address = "?"
        self._trouble = "not connected"

    async def open(self) -> None:
        """Connect; tries again for `dial_s` seconds while the server is not there. Raises `ComponentError`."""
        try:
            self._connecting = True
            async with asyncio.timeout(self._dialing.dial_s):
                await self._connect_at_last(give_up_on=Denied)
        except TimeoutError:
            raise Unreachable(f"redis: cannot connect to {self._address}: {self._trouble}") from None
        except asyncio.CancelledError as error:  # who lost patience with us hears what we were waiting for
            error.add_note(f"redis: cannot connect to {self._address}: {self._trouble}")
            raise

    async def close(self) -> None:
        self._closed = True
        await self._tasks.close()
        if self._expiry is not None:
            self._expiry.cancel()
        for _, command in self._held:
            _fail(command, Unreachable("redis: the client is closed"))
        self._held.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end("the client is closed")
            await connection.gone

    def call(self, *parts: Part, safe: bool = False) -> asyncio.Future[Any]:
        """Send one command; the future gives the reply or raises `RedisError`, `Interrupted` or `Unreachable`."""
        return self.send(pack(parts), safe)

    def send(self, packed: bytes, safe: bool = False) -> asyncio.Future[Any]:
        """`call` for a command that is packed already."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit((future, packed, safe, 0))
        return future

    def send_all(self, packed: Sequence[bytes]) -> list[asyncio.Future[Any]]:
        """`send` for many commands, in their order, at half the price; each has an answer of its own."""
        new = asyncio.get_running_loop().create_future
        commands: list[Command] = [(new(), one, False, 0) for one in packed]
        connection, size = self._connection, sum(map(len, packed))
        if connection is None or connection.overloaded(size, len(commands)):
            for command in commands:
                self.submit(command)
        elif commands:
            connection.send_all(commands, packed, size)
        return [command[0] for command in commands]

    def submit(self, command: Command) -> None:
        connection = self._connection
        if connection is None:
            self.hold(command)
        elif connection.overloaded(len(command[1])):
            _fail(command, Unreachable(f"redis: too many commands wait for {self._address}"))
        else:
            connection.send(command)

    def reset(self, why: str) -> None:
        """Give up the connection and look for the server anew: it is not the one we want any more."""
        if self._connection is not None:
            self._connection.end(why)

    # --- called by the connection ---

    def refused(self, connection: _Connection, command: Command, text: str) -> None:
        """Ask who decides about refusals; during the handshake `_introduce` does, which waits for the answer."""
        if connection.established and self._refusals is not None and self._refusals(self, command, text):
            return
        _fail(command, RedisError(text))

    def disconnected(self, connection: _Connection, why: str, sent: list[Command], unsent: list[Command]) -> None:
        self._trouble = why
        if not connection.established:
            for command in (*sent, *unsent):
                _fail(command, Interrupted(why))
            return
        if connection is self._connection:
            self._connection = None
        again = unsent
        for command in sent:
            future, packed, safe, tries = command
            if safe and tries < self._dialing.retries and not self._closed:
                again.append((future, packed, safe, tries + 1))
            else:
                _fail(command, Interrupted(why))
        if self._closed:
            for command in again:
                _fail(command, Unreachable("redis: the client is closed"))
            return
        for command in again:
            self.hold(command)
        log.warning("redis %s: %s; connecting again", self._address, why)
        self._reconnect()

    # --- while there is no connection ---

    def hold(self, command: Command) -> None:
        """Keep a command that was certainly not executed for the next connection."""
        if self._closed:
            _fail(command, Unreachable("redis: the client is closed"))
            return
        if len(self._held) >= MAX_WAITING:
            _fail(command, Unreachable(f"redis: {self._address} is away ({self._trouble}) and too many commands wait"))
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._dialing.dial_s
        self._held.append((deadline, command))
        if self._expiry is None:
            self._expiry = loop.call_at(deadline, self._expire)
        self._reconnect()

    def _expire(self) -> None:
        self._expiry = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._held and self._held[0][0] <= now:
            _, command = self._held.popleft()
            _fail(command, Unreachable(f"redis: cannot connect to {self._address}: {self._trouble}"))
        if self._held:
            self._expiry = loop.call_at(self._held[0][0], self._expire)

    def _reconnect(self) -> None:
        if not self._connecting and not self._closed and self._connection is None:
            self._connecting = True  # here, not in the task: it starts later than the next call of this
            self._tasks.start(self._connect_at_last(), "connect")

    async def _connect_at_last(self, give_up_on: type[Exception] | tuple[()] = ()) -> None:
        """Try until there is a connection, with growing pauses; then send what was held."""
        pause = self._dialing.first_pause_s
        try:
            while True:
                try:
                    async with asyncio.timeout(self._dialing.dial_s):
                        connection = await self._connect()
                    break
                except give_up_on:
                    raise
                except (OSError, ValueError, ComponentError) as error:  # ValueError: a host name that is none
                    self._trouble = str(error) or "no answer in time"
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._dialing.longest_pause_s)
        finally:
            self._connecting = False
        self._connection = connection
        if connection.lost:  # between the handshake and now
            self._connection = None
            self._reconnect()
            return
        held, self._held = self._held, deque()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for _, command in held:
            if not command[0].done():
                self.submit(command)

    async def _connect(self) -> _Connection:
        host, port = await self._locate()
        self._address = f"{host}:{port}"
        how = self._dialing
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), host, port, ssl=how.tls)
        except ssl.SSLError as error:
            raise Denied(f"redis: TLS with {self._address}: {error}") from error
        try:
            await self._introduce(connection)
        except BaseException:
            connection.end("the handshake failed")
            await connection.gone
            raise
        connection.established = True
        return connection

    async def _introduce(self, connection: _Connection) -> None:
        how = self._dialing
        steps: list[tuple[Part, ...]] = []
        if how.username:
            steps.append(("AUTH", how.username, how.password))
        elif how.password:
            steps.append(("AUTH", how.password))
        if how.database:
            steps.append(("SELECT", how.database))
        steps.append(("ROLE",) if self._must_be_master else ("PING",))
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[Any]] = []
        for step in steps:
            future: asyncio.Future[Any] = loop.create_future()
            connection.send((future, pack(step), False, 0))
            waits.append(future)
        replies: list[Any] = await asyncio.gather(*waits, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, RedisError) and reply.code not in ("LOADING", "MASTERDOWN"):
                raise Denied(str(reply)) from reply
            if isinstance(reply, BaseException):
                raise reply
        if self._must_be_master and replies[-1][0] != b"master":
            raise Unreachable(f"redis: {self._address} is not the master any more")

    def __repr__(self) -> str:
        waiting = self._connection.waiting if self._connection is not None else 0
        state = "connected" if self._connection is not None else self._trouble
        return f"<Link {self._address} {state}, {waiting} waiting, {len(self._held)} held>"


def _fail(command: Command, error: Exception) -> None:
    if not command[0].done():
        command[0].set_exception(error)
