"""What is in memory of the jobs in storage, and how it follows them.

    begin(key); a write; end(key, what it left)      what this process writes
    found(key, row)                                  what reading says
    settle(entry, after)                             the answer of a tick, written with many others

Memory follows what is durable. What a write left is certain only when no other write of that row was under way; what
another process changed is read again. An answer that is refused because its row has changed is looked at once more
with the row that is there.

Knows: entries, rows, whether they still belong together. Never knows: when something fires, who takes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.jobs import machine
from pillion.jobs.consumers import Entry, target_of
from pillion.jobs.near import Near
from pillion.jobs.partition import partition_of
from pillion.jobs.reading import Reading
from pillion.jobs.saving import Saving

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pillion.clock import Clock
    from pillion.jobs.flights import Flights
    from pillion.jobs.leases import Leases
    from pillion.kinds.jobs import JobStore, Stored


class Memory:
    """The jobs that are due soon, of our partitions. `arm` is called when the earliest may be another."""

    flights: Flights
    """What is under way; set once it is there."""

    def __init__(
        self, store: JobStore, leases: Leases, clock: Clock, window_s: float, most: int, arm: Callable[[], None]
    ) -> None:
        self.near = Near(most)
        self.reading = Reading(store, self.near, leases, clock, window_s, self._found, arm)
        self.saving = Saving(store, self._writable, self._saved, arm)
        self._leases, self._arm = leases, arm
        self._writing: dict[str, int] = {}
        self._overlapping: set[str] = set()

    # -- what this process writes

    def begin(self, key: str) -> None:
        self._writing[key] = self._writing.get(key, 0) + 1

    def end(self, key: str, stored: Stored | None, *, certain: bool) -> None:
        """A write of our own has come back. What it left is only certain when no other write was under way."""
        under_way = self._writing[key] - 1
        if under_way:
            self._writing[key] = under_way
            self._overlapping.add(key)
            certain = False
        else:
            del self._writing[key]
            if self._overlapping and key in self._overlapping:
                self._overlapping.remove(key)
                certain = False
        if certain:
            self._written(key, stored)
        elif not under_way:
            self.read_again((key,))

    def _written(self, key: str, stored: Stored | None) -> None:
        """The row of `key` is now `stored`."""
        self.reading.wrote(key, stored)
        old = self.near.get(key)
        if old is not None:
            if self._follows(old, stored):
                return
            self.drop(old)
        if stored is not None and self.near.within_reach(stored, key):
            self._admit(key, stored)
            self._arm()

    def _found(self, key: str, row: Stored | None) -> None:
        """Storage has this row (None: none) for `key`."""
        old = self.near.get(key)
        if old is not None:
            if self._follows(old, row):
                return
            self.drop(old)
        if row is not None and self.near.within_reach(row, key) and not self.flights.parked(target_of(row.key)):
            self._admit(key, row)

    def _follows(self, entry: Entry, row: Stored | None) -> bool:
        """Tell whether `entry` has been seen to now that `row` is its row; else it is to be dropped.

        A pause or a resumption while its tick is under way changes nothing about the tick: the answer is written down
        on top of it, and the tick does not come again.
        """
        stored, revision = entry.stored, None if row is None else row.revision
        if revision == stored.revision:
            if entry.refused:  # not for what is in the row: the partition is another's
                self.drop(entry)
                self._leases.look()
            return True
        if entry.settling and not entry.refused:
            entry.doubted = entry.doubted or revision != (None if entry.saved is None else entry.saved.revision)
            return True  # what is being written will tell
        held = machine.carried(stored, row) if row is not None and (entry.settling or entry.watch is not None) else None
        if held is None:
            return False
        entry.stored = held
        if entry.refused:
            after, entry.refused = entry.saved, False
            self.settle(entry, after and replace(after, revision=held.revision + 1, paused=held.paused))
        return True

    def _admit(self, key: str, stored: Stored) -> None:
        """Take a job that is due soon into memory, if it is ours."""
        partition = partition_of(key)
        if partition not in self._leases.partitions or stored.next is None:
            return
        entry = Entry(key, partition, stored)
        self.near.add(entry)
        self.near.place(entry, stored.next)
        if len(self.near) > self.near.most * 5 // 4:
            self.reading.outdated()
            for one in self.near.shrink(self.near.most // 4):
                self.drop(one)

    def drop(self, entry: Entry) -> None:
        """Forget a job. If it is under way its answer will find nothing."""
        self.near.forget(entry)
        self.flights.drop(entry)

    def keep_only(self, partitions: Collection[int]) -> None:
        """Forget what belongs to others now."""
        for entry in self.near:
            if entry.partition not in partitions:
                self.drop(entry)

    # -- writing down what became of ticks

    def settle(self, entry: Entry, after: Stored | None) -> None:
        entry.settling, entry.saved = True, after
        self.saving.add(entry)

    def _writable(self, entry: Entry) -> int | None:
        """Return the epoch to write an entry under; None when its job was overwritten or taken over."""
        return self._leases.epochs.get(entry.partition) if self.near.holds(entry) else None

    def _saved(self, entry: Entry, done: bool) -> None:
        if done:
            self.reading.wrote(entry.key, entry.saved)
        if not self.near.holds(entry):
            return
        if not done:  # it was paused, overwritten, deleted or taken over
            entry.refused = True
            self.read_again((entry.key,))
            return
        after, entry.saved, entry.settling = entry.saved, None, False
        if entry.doubted:
            self.drop(entry)
            self.read_again((entry.key,))
        elif after is None or after.next is None or not self.near.within_reach(after, entry.key):
            self.near.forget(entry)
        else:
            entry.stored = after
            self.near.place(entry, after.next)

    # -- what memory does not know

    def read_again(self, keys: Iterable[str]) -> None:
        """Read these rows once more: memory does not know what they are now."""
        for key in keys:
            if partition_of(key) not in self._leases.partitions:
                continue
            entry = self.near.get(key)
            if entry is not None and not entry.settling and entry.watch is None:
                self.drop(entry)
            if not self.reading.again(key):
                self.doubt_all()

    def doubt_all(self) -> None:
        """Trust nothing that is in memory; what is under way is checked when it is written down."""
        for entry in self.near:
            if not entry.settling and entry.watch is None:
                self.drop(entry)
        self.reading.anew()

    def __repr__(self) -> str:
        return f"<Memory: {self.near!r}, {self.saving!r}>"
