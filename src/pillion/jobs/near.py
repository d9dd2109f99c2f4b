"""The jobs that are due soon, in memory: a heap by time over a part of what is stored.

`reach` is how far storage has been read: every job of ours that comes before it, by time and key, is here or parked.
What is put nearer than that goes straight in. Knows: order, bounds. Never knows: storage, the clock, consumers.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pillion.jobs.consumers import Entry
    from pillion.kinds.jobs import Stored

NOTHING = (float("-inf"), "")
"""The reach of what has read nothing yet."""
LAST_KEY = "\U0010ffff"
"""No key comes after it."""
_TIDY = 1024
"""Places in the heap that are no longer valid are cleared away when there are so many, and more than valid ones."""


class Near:
    """Entries by key, and the heap of those that wait for their time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.reach: tuple[float, str] = NOTHING
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = 0
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def holds(self, entry: Entry) -> bool:
        """Whether this very entry still stands for its job."""
        return self._entries.get(entry.key) is entry

    def within_reach(self, stored: Stored, key: str) -> bool:
        return stored.next is not None and not stored.paused and (stored.next, key) <= self.reach

    @property
    def room(self) -> int:
        """How many more may be read; 0 until it is worth while."""
        room = self.most - len(self._entries)
        return room if room * 8 >= self.most else 0

    def add(self, entry: Entry) -> None:
        """Take an entry; one of the same key that was here must have been forgotten."""
        self._entries[entry.key] = entry

    def forget(self, entry: Entry) -> None:
        """Drop an entry, wherever it stands."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
        self.unplace(entry)

    def place(self, entry: Entry, at: float) -> None:
        """Give an entry its place in the heap, instead of the one it had."""
        if not entry.order:
            self._waiting += 1
        self._order += 1
        entry.order = self._order
        heapq.heappush(self._heap, (at, self._order, entry))
        if len(self._heap) > _TIDY and len(self._heap) > 2 * self._waiting:
            self._heap = [place for place in self._heap if place[2].order == place[1]]
            heapq.heapify(self._heap)

    def unplace(self, entry: Entry) -> None:
        if entry.order:
            entry.order = 0
            self._waiting -= 1

    def first(self) -> float | None:
        """Return the time of the earliest place."""
        heap = self._heap
        while heap and heap[0][2].order != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now: float) -> Entry | None:
        """Take the earliest entry out of the heap if its time has come."""
        heap = self._heap
        while heap:
            at, order, entry = heap[0]
            if entry.order != order:
                heapq.heappop(heap)
                continue
            if at > now:
                return None
            heapq.heappop(heap)
            entry.order = 0
            self._waiting -= 1
            return entry
        return None

    def shrink(self, spare: int) -> list[Entry]:
        """Return the latest of the waiting entries, so that no more than `most` - `spare` are left, and draw the reach
        back to before them; the caller forgets them. Storage has them all.
        """
        excess = len(self._entries) - (self.most - spare)
        waiting = sorted((at, order, entry) for at, order, entry in self._heap if entry.order == order)
        dropped = waiting[max(0, len(waiting) - excess) :] if excess > 0 else []
        if dropped:
            self.reach = min(self.reach, (dropped[0][0], ""))  # before every job of that instant
        return [entry for _, _, entry in dropped]

    def clear(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.forget(entry)

    def __repr__(self) -> str:
        return f"<Near {len(self._entries)} jobs, {self._waiting} waiting, read to {self.reach[0]}>"
