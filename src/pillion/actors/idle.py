"""Looks for instances that were idle for too long: one timer for all of a type. Never knows what becomes of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.actors.instances import Kind
    from pillion.tasks import Tasks


class Idle:
    """`sweep` is awaited for a type whose first instance may have been idle for long enough."""

    def __init__(self, sweep: Callable[[Kind], Awaitable[None]], tasks: Tasks) -> None:
        self._sweep, self._tasks = sweep, tasks
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def begin(self, kind: Kind) -> None:
        """The type has an instance, perhaps its first."""
        if kind.actor_type not in self._timers:
            self.watch(kind)

    def watch(self, kind: Kind) -> None:
        """Look at the type again when its first instance may be idle, by the settings of now."""
        due = kind.next_check()
        timer = self._timers.pop(kind.actor_type, None)
        if timer is not None:
            timer.cancel()
        if due is not None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timers[kind.actor_type] = loop.call_at(due, self._look, kind)

    def _look(self, kind: Kind) -> None:
        # A look that fails is made again: until then nothing else watches over the type.
        self._tasks.keep(partial(self._looked, kind), f"idle {kind.actor_type}")

    async def _looked(self, kind: Kind) -> None:
        await self._sweep(kind)
        self.watch(kind)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def __repr__(self) -> str:
        return f"<Idle: {len(self._timers)} types>"
