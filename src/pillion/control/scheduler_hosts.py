"""Which schedulers are there, and who waits to hear of a change. Never knows: leases, streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class Hosts:
    """The addresses of the schedulers that are there, and who waits for another list."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = tuple(addresses)
        self._changed = asyncio.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Each once, in order; empty while it is not agreed who is there."""
        return self._addresses

    def set(self, addresses: Iterable[str]) -> None:
        """Tell a new list; the same one again is nothing new."""
        wanted = tuple(sorted(set(addresses)))
        if wanted != self._addresses:
            self._addresses = wanted
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """Wait until the list is another than `known`, and return it."""
        while self._addresses == known:
            await self._changed.wait()
        return self._addresses

    async def until(self, stop: asyncio.Event) -> AsyncIterator[tuple[str, ...]]:
        """Yield the list, as soon as there is one and whenever it changes, until `stop`."""
        known: tuple[str, ...] = ()
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while True:
                news = asyncio.ensure_future(self.changed(known))
                try:
                    await asyncio.wait((news, stopped), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if stopped.done():
                    return
                known = news.result()
                yield known
        finally:
            stopped.cancel()
