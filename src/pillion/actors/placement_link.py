"""The stream to a placement server over gRPC, and the addresses to try.

Knows: how a stream can end and what that says about the server, names to addresses. Never knows: what is said on it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

from pillion.actors.membership import GRACE_KEY, SILENCE_S, UNTOUCHED_KEY, Promised
from pillion.actors.placement import LinkLost
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_pool import CannotConnect, PoolOptions, split_address
from pillion.wire.messages import placement as m

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.actors.placement import Link
    from pillion.net.exchange import ClientStream, Metadata

log = logging.getLogger("pillion.actors.placement")

METHOD = "/dapr.proto.placement.v1.Placement/ReportDaprStatus"
DIAL_S = 5.0
MAX_TABLE = 64 << 20
"""Bytes of one order: a table of a thousand hosts with a hundred types is some 10 MB."""
MOST_ADDRESSES = 64
BEAT_S, LATE_S = 1.0, 1.5
"""How often a host looks whether it has stood still, and how late the look comes then."""
_PING_S, _ANSWER_S = SILENCE_S - 2, 2.0
"""A server pings every two seconds, so that we need not: we ask only one that has fallen silent."""
_REFUSED = os.strerror(errno.ECONNREFUSED).lower()


def grpc_dial(
    *, tls: ssl.SSLContext | None = None, check: Callable[[ssl.SSLObject], None] | None = None
) -> Callable[[str], Awaitable[Link]]:
    """Return a `dial` for `Placement`. With `tls` the peer is judged by `check` and by no host name."""
    keepalive = Keepalive(ping_after_s=_PING_S, ping_timeout_s=_ANSWER_S, idle_s=None, always=False)
    options = PoolOptions(connections=1, connect_timeout_s=DIAL_S, keepalive=keepalive)

    async def dial(address: str) -> Link:
        channel = Channel(address, tls=tls, check=check, max_receive=MAX_TABLE, options=options)
        try:
            connection = await channel.connection(asyncio.get_running_loop().time() + DIAL_S)
        except BaseException as error:
            await channel.close()
            if not isinstance(error, RpcError):
                raise
            cause = error.__cause__
            refused = isinstance(cause, CannotConnect) and cause.reason == _REFUSED
            raise LinkLost(error.message, gone=refused) from error
        loop = asyncio.get_running_loop()
        return GrpcLink(channel.stream(METHOD), lambda: loop.time() - connection.read_at, channel.close)

    return dial


class Beats:
    """Notices that this host has stood still (SIGSTOP, a paused machine), by a timer that comes late.

    A server that heard nothing meanwhile may have given our actors away, and may be dead itself by the time we hear of
    anything: then the end of its stream, read from a buffer, looks like the end of a leader that counted on us.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._went_on = -SILENCE_S
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        self._look()
        self._at = self._loop.time()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _look(self) -> None:
        if self._loop.time() - self._at > BEAT_S + LATE_S:
            self._went_on = self._loop.time()

    @property
    def missed(self) -> bool:
        """Whether the host has stood still within the time that a server takes to give it up."""
        self._look()
        return self._loop.time() - self._went_on < SILENCE_S

    def close(self) -> None:
        self._timer.cancel()


class GrpcLink:
    """A `Link` with a connection of its own, so that the end of one is the end of the other.

    `silence` tells how many seconds ago the server was last heard; `close` ends the connection.
    """

    def __init__(
        self, stream: ClientStream, silence: Callable[[], float], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._stream, self._silence, self._close = stream, silence, close
        self._beats = Beats()

    async def send(self, host: m.Host) -> None:
        try:
            await self._stream.send(host.SerializeToString())
        except RpcError as error:
            raise self._lost(error) from error

    async def promise(self) -> Promised:
        try:
            return promised(await self._stream.initial_metadata())
        except RpcError as error:
            raise self._lost(error) from error

    async def receive(self) -> m.PlacementOrder:
        try:
            message = await self._stream.receive()
        except RpcError as error:
            raise self._lost(error) from error
        if message is None:
            raise LinkLost("the server ended the stream", gone=False)
        try:
            return m.PlacementOrder.FromString(message)
        except ValueError as error:
            raise LinkLost(f"an order that is none: {error}", gone=False) from error

    def abort(self) -> None:
        self._stream.cancel()

    async def close(self) -> None:
        self._beats.close()
        self._stream.cancel()
        await self._close()

    def _lost(self, error: RpcError) -> LinkLost:
        """Say what the end of the stream tells about the server.

        Not being leader, shutting down and the end of the connection are the server's own end. Silence is not: it may
        live and hear nothing of us. Nor is what a host hears that stood still. Any other status is about this sidecar
        alone.
        """
        silent = self._silence() >= SILENCE_S * 0.9 or self._beats.missed
        gone = error.code in (Code.FAILED_PRECONDITION, Code.UNAVAILABLE) and not silent
        return LinkLost(error.message, gone=gone)

    def __repr__(self) -> str:
        return f"<GrpcLink {self._stream!r}>"


def promised(metadata: Metadata) -> Promised:
    """Read the promise in initial metadata; a server that makes none, or a senseless one, is like the reference's."""
    values = {name: value for name, value in metadata if isinstance(value, str)}
    text = values.get(GRACE_KEY, "")
    grace_s = int(text) / 1000 if text.isascii() and text.isdigit() and len(text) <= 7 else 0.0
    return Promised(grace_s, values.get(UNTOUCHED_KEY) == "1")


async def resolve(addresses: Sequence[str]) -> tuple[list[str], bool]:
    """Return every `ip:port` behind the addresses, in their order, and whether all of them could be looked up."""
    loop = asyncio.get_running_loop()
    found: dict[str, None] = {}
    whole = True
    for address in addresses:
        try:
            host, port = split_address(address.removeprefix("dns:///"))
            entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            log.warning("placement address %s: %s", address, error)
            whole = False
            continue
        for entry in entries:
            ip = str(entry[4][0])
            found[f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"] = None
    return list(found)[:MOST_ADDRESSES], whole
