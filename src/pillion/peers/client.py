"""Invocation of an application through the sidecar beside it: which instance is called, what is tried again.

Knows: instances, channels, the built-in retry (spec `runtime.md` 4.3). Never knows: policies, messages.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Protocol

from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.peers.call import PeerCall
from pillion.peers.heads import Heads
from pillion.resiliency.builtin import BUILT_IN, BuiltIn
from pillion.resiliency.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.kinds.invocation import Invocation, Reply
    from pillion.peers.pool import Pool
    from pillion.peers.resolve import Directory, Target
    from pillion.resiliency.machine import Retry

log = logging.getLogger("pillion.peers")

RETRIED = (Code.UNAVAILABLE, Code.UNAUTHENTICATED)
REPEATABLE = 4 << 20
"""A body of fixed length is kept for repetition up to this many bytes; a longer one streams and is sent once."""
MOST_INSTANCES = 16
"""Instances tried in a row before there is a pause."""


class Meter(Protocol):
    """What is counted of calls to other sidecars (spec `runtime.md` 6.1)."""

    def callee(self, name: str) -> CalleeMeter: ...


class CalleeMeter(Protocol):
    """What is counted of calls to one application; every attempt is a call, as in the reference."""

    def sent(self) -> None: ...

    def answered(self, status: int, elapsed_ms: float) -> None: ...


class PeerClient:
    """Calls to other sidecars in the name of this one. `host_address` and `host_name` go into forwarding headers.

    `retry` returns the built-in policy, which a Resiliency resource may change at any time.
    """

    def __init__(
        self,
        app_id: str,
        namespace: str,
        directory: Directory,
        pool: Pool,
        *,
        host_address: str = "",
        host_name: str = "",
        retry: Callable[[], Retry] = lambda: BUILT_IN[BuiltIn.SERVICE],
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self.directory = directory
        self.pool = pool
        self._heads = Heads(app_id, namespace, host_address, host_name)
        self._retry = retry

    async def invoke(self, target: Target, invocation: Invocation, *, built_in: bool = True) -> Reply:
        """Call the application of `target`; with `built_in` a peer that cannot be reached is tried again.

        An instance that failed is left alone: another one is tried at once, the same ones after a second. Raises
        `RpcError` with the peer's status, `ComponentError` when no instance is known or the peer breaks the protocol.
        """
        if not isinstance(invocation.body, bytes) and invocation.fixed and (invocation.length or 0) <= REPEATABLE:
            await invocation.settle()
        repeatable = built_in and invocation.fixed and isinstance(invocation.body, bytes)
        directory = self.directory
        meter = None if self._meter is None else self._meter.callee(target.name)
        tried: set[str] = set()
        retries, began = 0, 0.0
        while True:
            address = directory.known(target.name, target.namespace)
            if address is None:
                address = await directory.pick(target.name, target.namespace)
            lease = self.pool.take(address, target)
            call = PeerCall(self._heads, self.pool, lease, target, invocation)
            started = time.perf_counter()
            if meter is not None:
                meter.sent()
            try:
                reply = await call.run()
            except RpcError as error:
                if meter is not None:
                    meter.answered(error.code, (time.perf_counter() - started) * 1000)
                if error.code not in RETRIED:
                    raise
                self.pool.retire(lease)
                directory.failed(target.name, target.namespace, address)
                if not repeatable and call.sent:
                    raise
                tried.add(address)
                if directory.others(target.name, target.namespace) and len(tried) <= MOST_INSTANCES:
                    continue
                now = asyncio.get_running_loop().time()
                began = began or now
                retry = self._retry()
                if not repeatable or not retry.repeats(Failure(error.code)):
                    raise
                wait_s = retry.wait(retries, now - began, random.random)
                if wait_s is None:
                    raise
                retries += 1
                tried.clear()
                log.debug("trying %s again: %s", target.text, error)
                await asyncio.sleep(wait_s)
            else:
                if meter is not None:
                    meter.answered(reply.code, (time.perf_counter() - started) * 1000)
                directory.alive(address)
                return reply

    async def close(self) -> None:
        """Close all channels and end all lookups."""
        await self.directory.close()
        await self.pool.close()
