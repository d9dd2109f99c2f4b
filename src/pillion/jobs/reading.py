"""Reading what is due soon from storage, ahead of time; and again where memory does not know what is there.

Three kinds of reading, all by one task: rows by key that somebody changed, a page of what should have been fired by
now and that nobody told us of, and on from where reading stood (`Near.reach`) to the end of the window. What was
written while a row was read is newer than what was read.

Knows: pages, order. Never knows: what becomes of a row: whoever reads is told of each.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.jobs.near import LAST_KEY, NOTHING
from pillion.jobs.saving import longer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.clock import Clock
    from pillion.jobs.leases import Leases
    from pillion.jobs.near import Near
    from pillion.kinds.jobs import JobStore, Stored

log = logging.getLogger("pillion.jobs")

PAGE = 2000
"""Rows of one read."""
OVERDUE_S = 1.0
"""What is later than this should be known to us."""


class Reading:
    """`found` is told of every row that was read, None where there is none; `done` after each page."""

    def __init__(
        self,
        store: JobStore,
        near: Near,
        leases: Leases,
        clock: Clock,
        window_s: float,
        found: Callable[[str, Stored | None], None],
        done: Callable[[], None],
    ) -> None:
        self._store, self._near, self._leases, self._clock = store, near, leases, clock
        self._window_s, self._found, self._done = window_s, found, done
        self._readers: list[dict[str, Stored | None]] = []
        self._stale: dict[str, None] = {}
        self._round = 0
        self._overdue = False
        self._looked_to = NOTHING
        self._some = asyncio.Event()

    # -- what is to be read

    def wrote(self, key: str, stored: Stored | None) -> None:
        """The row of `key` is `stored` now: whoever reads at this moment may have seen it before."""
        for reader in self._readers:
            reader[key] = stored

    def anew(self) -> None:
        """Read all that is due soon once more, from the beginning."""
        self._near.reach = NOTHING
        self.outdated()
        self._some.set()

    def outdated(self) -> None:
        """What is being read at this moment is not to be used."""
        self._round += 1

    def again(self, key: str) -> bool:
        """Read this row once more. Return False when there are so many that it is better to read `anew`."""
        self._stale[key] = None
        self._some.set()
        if len(self._stale) <= self._near.most:
            return True
        self._stale.clear()
        return False

    def look_for_overdue(self) -> None:
        self._overdue = True
        self._some.set()

    def wait_s(self, now: float) -> float | None:
        """Return how long nothing more has to be read; None: no more can be. When it is time, reading begins."""
        if not self._leases.partitions or not self._near.room:
            return None
        ahead = self._near.reach[0] - self._window_s / 2 - now
        if ahead <= 0:
            self._some.set()
            return None
        return ahead

    # -- reading

    async def keep(self) -> None:
        """Read for ever."""
        pause = 0.0
        self._some.set()  # what a run before this one has left
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                while self._stale:
                    await self._reread()
                if self._overdue:
                    await self._read_overdue()
                while await self._read_page():  # noqa: ASYNC110 - others have their turn between two pages
                    await asyncio.sleep(0)
                pause = 0.0
            except ComponentError as error:
                pause = longer(pause)
                log.warning("jobs cannot be read, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                self._some.set()
            self._done()

    async def _reread(self) -> None:
        keys = list(self._stale)[:PAGE]
        for key in keys:  # what is heard of a row while it is read makes it stale again
            del self._stale[key]
        with _Reader(self._readers) as written:
            rows = await asyncio.gather(*(self._store.get(key) for key in keys), return_exceptions=True)
        failed: BaseException | None = None
        for key, row in zip(keys, rows, strict=True):
            if isinstance(row, BaseException):
                failed, self._stale[key] = row, None
            elif key not in written and key not in self._stale:
                self._found(key, row)
        if failed is not None:
            raise failed

    async def _read_page(self) -> bool:
        """Read on; return whether there is more to be read at once."""
        near, owned, now = self._near, self._leases.partitions, self._clock.now()
        until, limit = now + self._window_s, min(PAGE, near.room)
        if not owned or not limit or near.reach[0] > now + self._window_s / 2:
            return False
        began = self._round
        after = None if near.reach == NOTHING else near.reach
        with _Reader(self._readers) as written:
            rows = await self._store.due(owned, until, limit, after=after)
        if began != self._round or owned != self._leases.partitions:
            return True
        last = rows[-1] if len(rows) >= limit else None
        near.reach = (until, LAST_KEY) if last is None else (last.next or 0.0, last.key.text)
        self._take(rows, written)
        for key, stored in written.items():
            if stored is not None and near.get(key) is None:
                self._found(key, stored)
        self._done()
        return last is not None

    async def _read_overdue(self) -> None:
        """Look through a page of what should have been fired by now: what others put and nobody told us of is there."""
        self._overdue, owned = False, self._leases.partitions
        after = None if self._looked_to == NOTHING else self._looked_to
        with _Reader(self._readers) as written:
            rows = await self._store.due(owned, self._clock.now() - OVERDUE_S, PAGE, after=after) if owned else []
        last = rows[-1] if len(rows) == PAGE else None
        self._looked_to = NOTHING if last is None else (last.next or 0.0, last.key.text)
        self._take(rows, written)
        self._done()

    def _take(self, rows: list[Stored], written: dict[str, Stored | None]) -> None:
        for row in rows:
            key = row.key.text
            if key not in written:
                self._found(key, row)

    def __repr__(self) -> str:
        return f"<Reading: {len(self._stale)} rows again, read to {self._near.reach[0]}>"


class _Reader:
    """Notes what is written while something is read: the reader may have seen the rows before."""

    def __init__(self, readers: list[dict[str, Stored | None]]) -> None:
        self._readers = readers
        self._written: dict[str, Stored | None] = {}

    def __enter__(self) -> dict[str, Stored | None]:
        self._readers.append(self._written)
        return self._written

    def __exit__(self, *error: object) -> None:
        self._readers[:] = [one for one in self._readers if one is not self._written]
