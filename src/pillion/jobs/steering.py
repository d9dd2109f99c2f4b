"""What operators do to jobs beyond the reference: look at them, hold them, pass over ticks, fire some again.

A change is made to the row that was read, and only if it is still that row; else it is read again. Knows: rows. Never
knows: timers, memory: the engine below follows what was written.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.jobs import machine
from pillion.kinds.jobs import Change, JobKey, JobMissing, Outcome, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pillion.clock import Clock
    from pillion.jobs.memory import Memory
    from pillion.kinds.jobs import JobFilter, JobStore

PAGE = 1000
"""Rows of one read."""
TRIES = 16
"""How often a change is made anew because its row has changed meanwhile."""


class Steering:
    """The part of the engine that satisfies `SchedulerAdmin`, and the walks over rows."""

    store: JobStore
    clock: Clock
    memory: Memory

    async def _beside(self, stored: Stored, tick: float) -> Outcome:
        """Fire a tick beside the schedule, in its turn at the gates. Raises `SchedulerUnavailable`: nobody took it."""
        raise NotImplementedError

    async def find(self, wanted: JobFilter, *, after: str = "", limit: int = 100) -> list[Stored]:
        found: list[Stored] = []
        async for row in self._rows(wanted.prefix, after=after):
            if wanted.paused is None or row.paused == wanted.paused:
                found.append(row)
            if len(found) >= limit:
                break
        return found

    async def inspect(self, key: str) -> Stored:
        stored = await self.store.get(key)
        if stored is None:
            raise JobMissing(f"there is no job {key!r}")
        return stored

    async def pause(self, key: str) -> Stored:
        return await self._must(key, machine.pause)

    async def resume(self, key: str) -> Stored:
        return await self._must(key, machine.resume)

    async def skip(self, key: str, ticks: int = 1) -> Stored:
        """Pass over the next ticks. When those were the last ones the job has ended: its row as it was is returned."""
        return await self._must(key, lambda stored: machine.skip(stored, ticks))

    async def run_now(self, key: str) -> None:
        stored = await self.inspect(key)
        assert stored.tick is not None
        if await self._beside(stored, stored.tick) is Outcome.FAILED:
            raise ComponentError(f"the application failed {key!r}")

    async def backfill(self, key: str, since: float, until: float) -> int:
        """Fire every tick of that time, one after the other, each tried again as the job's failure policy says. One
        without an end ends with the caller.
        """
        stored = await self.inspect(key)
        ticks = machine.ticks_between(stored, since, until)
        for tick in ticks:
            await self._until_done(replace(stored, tick=tick, attempts=0))
        return len(ticks)

    async def _until_done(self, row: Stored) -> None:
        """Fire the tick of `row` beside the schedule until it succeeds, or its failure policy gives it up."""
        again: Stored | None = row
        while again is not None:
            assert again.tick is not None
            fired = self.clock.now()
            if await self._beside(again, again.tick) is not Outcome.FAILED:
                return
            again = machine.retry(again, fired)
            if again is not None:
                assert again.next is not None
                await asyncio.sleep(max(again.next - self.clock.now(), 0.0))

    async def remove(self, key: str) -> None:
        self.memory.begin(key)
        removed: int | None = None
        try:
            removed = await self.store.remove([key])
        finally:
            self.memory.end(key, None, certain=removed is not None)
        if not removed:
            raise JobMissing(f"there is no job {key!r}")

    async def _must(self, key: str, change: Callable[[Stored], Stored | None]) -> Stored:
        for _ in range(TRIES):
            stored = await self.inspect(key)
            after = change(stored)
            self.memory.begin(key)
            done = False
            try:
                [done] = await self.store.apply([Change(key, stored.revision, after)], {})
            finally:
                self.memory.end(key, after, certain=done)
            if done:
                return after or stored
        raise ComponentError(f"the job {key!r} changes all the time: nothing was done")

    async def _rows(self, prefix: str, *, after: str = "") -> AsyncIterator[Stored]:
        while True:
            page = await self.store.page(prefix, after=after, limit=PAGE)
            for row in page:
                yield row
            if len(page) < PAGE:
                return
            after = page[-1].key.text

    async def _reminders(self, namespace: str, actor_type: str, actor_id: str | None) -> AsyncIterator[Stored]:
        """Yield the reminders of exactly this type, and actor: what separates the parts may also be within one."""
        if actor_id is None:
            prefix = JobKey(namespace, "", actor_type=actor_type).text.removesuffix("||")
        else:
            prefix = JobKey(namespace, "", actor_type=actor_type, actor_id=actor_id).text
        async for row in self._rows(prefix):
            if row.key.actor_type == actor_type and (actor_id is None or row.key.actor_id == actor_id):
                yield row
