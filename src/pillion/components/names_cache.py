"""Addresses looked up a moment ago, and those that did not answer: what the resolvers that ask a table have in common.

Knows: for how long an answer holds, and whom to leave alone. Never knows: where answers come from.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.clock import Clock

MAX_NAMES = 10_000
"""Names whose answers are kept; at one more all are forgotten."""

Name = tuple[str, str]
"""App id and namespace."""


class NamesCache:
    """Answers of `look_up`, each held for `keep_s`; callers that ask for the same name at the same time share one."""

    def __init__(
        self,
        look_up: Callable[[str, str], Awaitable[Sequence[str]]],
        *,
        keep_s: float,
        shun_s: float,
        clock: Clock | None = None,
    ) -> None:
        """`shun_s` is how long an address that failed is left out while there are others."""
        self._look_up = look_up
        self._keep_s = keep_s
        self._clock: Clock = clock or SystemClock()
        self._kept: dict[Name, tuple[float, Sequence[str]]] = {}
        self._asking: dict[Name, asyncio.Future[Sequence[str]]] = {}
        self.shunned = Shunned(shun_s, self._clock)

    async def get(self, app_id: str, namespace: str) -> Sequence[str]:
        """Return the addresses; raises `ComponentError` when there are none."""
        name = (app_id, namespace)
        kept = self._kept.get(name)
        if kept is not None and kept[0] > self._clock.monotonic():
            return kept[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.ensure_future(self._ask(name))
            asking.add_done_callback(partial(self._answered, name))
        return await asyncio.shield(asking)

    def _answered(self, name: Name, asking: asyncio.Future[Sequence[str]]) -> None:
        self._asking.pop(name, None)
        if not asking.cancelled():
            asking.exception()  # looked at, should every caller have gone meanwhile

    async def _ask(self, name: Name) -> Sequence[str]:
        found = await self._look_up(*name)
        if not found:
            raise ComponentError(f"couldn't find service: {name[0]}")
        answer = self.shunned.without(name, found)
        if len(self._kept) >= MAX_NAMES:
            self._kept.clear()
        self._kept[name] = (self._clock.monotonic() + self._keep_s, answer)
        return answer

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self._kept.pop((app_id, namespace), None)
        self.shunned.add((app_id, namespace), address)

    async def close(self) -> None:
        asking = list(self._asking.values())
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        self._kept.clear()


class Shunned:
    """Addresses that could not be reached a moment ago."""

    def __init__(self, shun_s: float, clock: Clock) -> None:
        self._shun_s = shun_s
        self._clock = clock
        self._until: dict[tuple[Name, str], float] = {}

    def add(self, name: Name, address: str) -> None:
        now = self._clock.monotonic()
        if len(self._until) >= MAX_NAMES:
            self._until = {key: until for key, until in self._until.items() if until > now}
        if len(self._until) < MAX_NAMES:
            self._until[name, address] = now + self._shun_s

    def without(self, name: Name, addresses: Sequence[str]) -> Sequence[str]:
        """Leave out those that failed lately, unless that leaves none."""
        if not self._until:
            return addresses
        now = self._clock.monotonic()
        good = [address for address in addresses if self._until.get((name, address), 0.0) <= now]
        return good or addresses
