"""A connection to a Redis server that only listens: published messages by channel (redis.io/docs/interact/pubsub).

It heals itself: when the connection is lost, another is made, every channel is subscribed again, and `resumed` is
called before anybody is told that it listens - so that whoever listens can look at what may have been missed.

Knows: SUBSCRIBE, silence and reconnection. Never knows: what messages mean, or commands (`redis_link`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import hiredis

from pillion.components.redis_link import Denied, Unreachable, pack
from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.components.redis_settings import Dialing

log = logging.getLogger("pillion.components.redis")

QUIET_S = 10.0
"""After so long without a message the server is asked whether it is still there."""
CHUNK = 65536
Channel = tuple[bytes, bytes]
"""The verb to listen with - SUBSCRIBE, or PSUBSCRIBE for a pattern - and the name."""
CHANNEL, PATTERN = b"SUBSCRIBE", b"PSUBSCRIBE"


class Ear:
    """Listens for one component. `heard` gets channel and message, on the loop."""

    def __init__(
        self,
        locate: Callable[[], Awaitable[tuple[str, int]]],
        dialing: Dialing,
        *,
        heard: Callable[[bytes, bytes], None],
        resumed: Callable[[], Awaitable[None]],
        must_be_master: bool = False,
        quiet_s: float = QUIET_S,
    ) -> None:
        """`resumed` is called once for each connection, when all channels are subscribed; it raises
        `ComponentError` when the connection is of no use. `must_be_master`: a replica is not listened to.
        """
        self._locate = locate
        self._dialing = dialing
        self._heard = heard
        self._resumed = resumed
        self._must_be_master = must_be_master
        self._quiet_s = quiet_s
        self._wanted: dict[Channel, asyncio.Future[None]] = {}
        """Each with a future that is done while it is listened to."""
        self._asked: Counter[Channel] = Counter()
        """Requests about a channel that the server has not confirmed: the last confirmation counts."""
        self._confirmed: set[Channel] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._serving = False
        self._trouble = "not connected"
        self._tasks = Tasks("redis ear")
        self._started = False

    async def listen(self, channel: Channel) -> None:
        """Return when messages of `channel` arrive. Raises `ComponentError` after the time that a connection may take;
        the channel stays wanted until `forget`.
        """
        future = self._wanted.get(channel)
        if future is None:
            future = self._wanted[channel] = asyncio.get_running_loop().create_future()
            self._ask(channel, b"")
        if not self._started:
            self._started = True
            self._tasks.keep(self._live, "listening")
        done, _ = await asyncio.wait([future], timeout=self._dialing.dial_s)
        if not done or future.cancelled():
            raise Unreachable(f"redis: changes cannot be listened to: {self._trouble}")
        future.result()

    def forget(self, channel: Channel) -> None:
        """Listen to a channel no more."""
        future = self._wanted.pop(channel, None)
        if future is None:
            return
        future.cancel()
        self._ask(channel, b"UN")

    def _ask(self, channel: Channel, negation: bytes) -> None:
        if self._writer is None:
            return  # the next connection asks for what is wanted then
        verb, name = channel
        self._asked[channel] += 1
        self._confirmed.discard(channel)
        self._writer.write(pack((verb.replace(CHANNEL, negation + CHANNEL), name)))

    async def close(self) -> None:
        await self._tasks.close()
        for future in self._wanted.values():
            future.cancel()
        self._wanted.clear()

    async def _live(self) -> None:
        """Connect and listen, for ever."""
        pause_s = self._dialing.first_pause_s
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._once()
            except (OSError, ValueError, ComponentError, hiredis.HiredisError, asyncio.IncompleteReadError) as error:
                trouble = str(error) or type(error).__name__
                if self._serving:
                    log.warning("redis: listening was interrupted (%s); connecting again", trouble)
                self._trouble = trouble
            finally:
                self._serving = False
                self._writer = None
                for channel, future in self._wanted.items():
                    if future.done():
                        self._wanted[channel] = loop.create_future()
            if loop.time() - began > self._dialing.longest_pause_s:
                pause_s = self._dialing.first_pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._dialing.longest_pause_s)

    async def _once(self) -> None:
        """One connection, from its making to its end; raises what ended it."""
        how = self._dialing
        async with asyncio.timeout(how.dial_s):
            host, port = await self._locate()
            reader, writer = await asyncio.open_connection(host, port, ssl=how.tls)
        try:
            replies = _Replies(reader)
            async with asyncio.timeout(how.dial_s):
                await self._introduce(replies, writer, f"{host}:{port}")
            self._writer = writer
            self._asked.clear()
            self._confirmed.clear()
            for channel in self._wanted:
                self._ask(channel, b"")
            await self._hear(replies, writer)
        finally:
            writer.transport.abort()

    async def _introduce(self, replies: _Replies, writer: asyncio.StreamWriter, address: str) -> None:
        how = self._dialing
        if how.password:
            login = (how.username, how.password) if how.username else (how.password,)
            writer.write(pack(("AUTH", *login)))
            answer = await replies.next()
            if isinstance(answer, hiredis.ReplyError):
                raise Denied(f"redis: {answer}")
        if self._must_be_master:
            writer.write(pack(("ROLE",)))
            role = await replies.next()
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise Unreachable(f"redis: {address} is not the master any more")

    async def _hear(self, replies: _Replies, writer: asyncio.StreamWriter) -> None:
        asked = False
        while True:
            try:
                async with asyncio.timeout(self._quiet_s):
                    reply = await replies.next()
            except TimeoutError:
                if asked:
                    raise Unreachable("redis: the server does not answer any more") from None
                asked = True
                writer.write(pack(("PING",)))
                continue
            asked = False
            if isinstance(reply, hiredis.ReplyError):
                raise ComponentError(f"redis: {reply}")
            if not isinstance(reply, list):
                continue
            match reply:
                case [b"message", bytes(channel), bytes(data)]:
                    self._heard(channel, data)
                case [b"pmessage", _, bytes(channel), bytes(data)]:
                    self._heard(channel, data)
                case [b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe" as verb, bytes(name), _]:
                    self._confirm(verb.upper(), name)
                case _:
                    pass
            if not self._serving and self._confirmed.issuperset(self._wanted):
                await self._resumed()
                self._serving = True
                self._trouble = ""
            if self._serving:
                self._settle()

    def _confirm(self, verb: bytes, name: bytes) -> None:
        channel = (verb.replace(b"UN", b""), name)
        self._asked[channel] -= 1
        if self._asked[channel] <= 0:
            del self._asked[channel]
            if channel[0] == verb:
                self._confirmed.add(channel)

    def _settle(self) -> None:
        for channel in self._confirmed:
            future = self._wanted.get(channel)
            if future is not None and not future.done():
                future.set_result(None)

    def __repr__(self) -> str:
        return f"<Ear on {len(self._wanted)} channels, {'listening' if self._serving else self._trouble}>"


class _Replies:
    """The answers of a server, one after the other."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._stream = reader
        self._parser: Any = hiredis.Reader(notEnoughData=self)

    async def next(self) -> Any:
        while (reply := self._next()) is self:
            data = await self._stream.read(CHUNK)
            if not data:
                raise Unreachable("redis: the server closed the connection")
            self._parser.feed(data)
        return reply

    def _next(self) -> Any:
        try:
            return self._parser.gets()
        except TypeError as error:  # a map whose key is a list
            raise ComponentError(f"redis: the server broke the protocol: {error}") from error
