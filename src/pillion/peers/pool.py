"""The channels to other sidecars: one for each address, made when needed, closed when idle.

Knows: who uses which channel, when one has been idle too long, that a broken one must not take its other calls along.
Never knows: what is said over a channel.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import GrpcChannel
    from pillion.peers.resolve import Target

    Dial = Callable[[str, Target], GrpcChannel]
    """Makes the channel to an address; the target says which identity its certificate must have."""

IDLE_S = 180.0
SWEEP_S = 45.0
"""Unused channels are closed after three minutes, looked for every 45 s (spec `grpc-api.md` 1)."""


class Lease:
    """A channel and the number of calls that run over it. `retired`: close it when the last of them ends."""

    __slots__ = ("address", "calls", "channel", "idle_since", "retired")

    def __init__(self, address: str, channel: GrpcChannel) -> None:
        self.address = address
        self.channel = channel
        self.calls = 0
        self.idle_since = 0.0
        self.retired = False

    def __repr__(self) -> str:
        return f"<Lease of {self.address}: {self.calls} calls{', retired' if self.retired else ''}>"


class Pool:
    """The channels in use. A call takes a lease with `take` and gives it back with `give_back`, whatever happens."""

    def __init__(self, dial: Dial, *, by_identity: bool = False) -> None:
        self._dial = dial
        self._by_identity = by_identity
        self._leases: dict[str | tuple[str, str, str], Lease] = {}
        self._tasks = Tasks("channels to peers")
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, address: str, target: Target) -> Lease:
        """Return the channel to `address`. With TLS, two applications at one address have two channels."""
        key = (address, target.namespace, target.name) if self._by_identity else address
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease(address, self._dial(address, target))
            if self._sweeper is None:
                self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        lease.calls += 1
        return lease

    def give_back(self, lease: Lease) -> None:
        """The call is over."""
        lease.calls -= 1
        if lease.calls == 0:
            if lease.retired:
                self._close(lease)
            else:
                lease.idle_since = asyncio.get_running_loop().time()

    def retire(self, lease: Lease) -> None:
        """Use the channel for no further call: it failed. Calls that still run over it are left in peace."""
        if lease.retired:
            return
        lease.retired = True
        for key, kept in list(self._leases.items()):
            if kept is lease:
                del self._leases[key]
        if lease.calls == 0:
            self._close(lease)

    def _close(self, lease: Lease) -> None:
        self._tasks.start(lease.channel.close(), f"close {lease.address}")

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for lease in list(self._leases.values()):
            if lease.calls == 0 and loop.time() - lease.idle_since >= IDLE_S:
                self.retire(lease)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if self._leases else None

    async def close(self) -> None:
        """Close every channel, with the calls that run over it."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        leases = list(self._leases.values())
        self._leases.clear()
        for lease in leases:
            lease.retired = True
            await lease.channel.close()
        await self._tasks.drain(5.0)
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<Pool of {len(self._leases)} channels>"
