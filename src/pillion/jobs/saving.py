"""Writing down what became of ticks: all answers of a moment in one transaction, again when storage fails.

Knows: the queue. Never knows: what the rows mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.jobs import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.jobs.consumers import Entry
    from pillion.kinds.jobs import JobStore

log = logging.getLogger("pillion.jobs")

MOST_SAVED = 5000
"""Answers in one transaction."""
PAUSE_S = (0.25, 10.0)
"""First and longest pause before what storage has failed is tried again."""


def longer(pause: float) -> float:
    """Return the pause that follows `pause` seconds."""
    first, longest = PAUSE_S
    return min(max(pause * 2, first), longest)


class Saving:
    """Entries with an answer. `epoch` tells under which epoch an entry is written, None: not any more. `saved` is told
    of each whether it was, `done` when a transaction is through.
    """

    def __init__(
        self,
        store: JobStore,
        epoch: Callable[[Entry], int | None],
        saved: Callable[[Entry, bool], None],
        done: Callable[[], None],
    ) -> None:
        self._store, self._epoch, self._saved, self._done = store, epoch, saved, done
        self._waiting: deque[Entry] = deque()
        self._some = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def add(self, entry: Entry) -> None:
        """Have `entry.saved` written in place of `entry.stored`."""
        if not self._waiting:
            self._some.set()
        self._waiting.append(entry)

    @property
    def idle(self) -> bool:
        """Whether everything has been written down."""
        return not self._waiting and not self._one_at_a_time.locked()

    async def keep(self) -> None:
        """Write for ever."""
        pause = 0.0
        while True:
            while self._waiting:
                try:
                    await self._write_some()
                    pause = 0.0
                except ComponentError as error:
                    pause = longer(pause)
                    log.warning("answers of ticks cannot be written down, again in %.1f s: %s", pause, error)
                    await asyncio.sleep(pause)
            self._some.clear()
            await self._some.wait()

    async def finish(self) -> None:
        """Write all there is. Raises `ComponentError`."""
        while not self.idle:
            await self._write_some()

    async def _write_some(self) -> None:
        """Write in one transaction what is there now. Raises `ComponentError`: then it is still there."""
        async with self._one_at_a_time:
            waiting = self._waiting
            some: list[Entry] = []
            epochs: dict[int, int] = {}
            while waiting and len(some) < MOST_SAVED:
                entry = waiting.popleft()
                epoch = self._epoch(entry)
                if epoch is not None:
                    epochs[entry.partition] = epoch
                    some.append(entry)
            if not some:
                return
            changes = [Change(entry.key, entry.stored.revision, entry.saved) for entry in some]
            try:
                written = await self._store.apply(changes, epochs)
            except BaseException:
                waiting.extendleft(reversed(some))
                raise
            for entry, done in zip(some, written, strict=True):
                self._saved(entry, done)
            self._done()

    def __repr__(self) -> str:
        return f"<Saving: {len(self._waiting)} waiting>"
