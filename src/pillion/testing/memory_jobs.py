"""Jobs kept in memory, for tests and simulations: one `Jobs` is the database, each `MemoryJobStore` a client of it.

It passes the same kit as the stores that keep. Every call takes effect at once, between two steps of the loop; whoever
wants delay, loss or failure puts something between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.clock import Clock, SystemClock
from pillion.kinds.jobs import PARTITIONS, Change, Member, Share, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence


class _Lease:
    """Who has a partition. `leaving`: its owner has been told to go, and has not yet said that it has."""

    def __init__(self) -> None:
        self.owner: tuple[str, int] | None = None
        self.epoch = 0
        self.until = 0.0
        self.leaving = False


class Jobs:
    """The database. `clock` is its own, by which leases lapse."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.rows: dict[str, tuple[int, Stored]] = {}
        self.members: dict[str, tuple[Member, float]] = {}
        self.leases = [_Lease() for _ in range(PARTITIONS)]
        self.stores: dict[MemoryJobStore, None] = {}

    def lease(self, member: Member, seconds: float) -> tuple[Share, bool]:
        """Return the share, and whether others should look at theirs."""
        now, me = self.clock.now(), (member.id, member.incarnation)
        before = list(self.members)
        self.members = {id: found for id, found in self.members.items() if found[1] > now}
        other = self.members.get(member.id)
        if other is not None and other[0].incarnation != member.incarnation:
            return Share(members=self._present()), False
        self.members[member.id] = (member, now + seconds)
        stirred = list(self.members) != before
        for lease in self.leases:
            if (lease.owner == me and lease.leaving) or lease.until <= now:
                stirred = stirred or lease.owner == me
                lease.owner, lease.leaving, lease.until = None, False, 0.0
        place = sorted(self.members).index(member.id)
        fair = PARTITIONS // len(self.members) + (place < PARTITIONS % len(self.members))
        mine = [number for number, lease in enumerate(self.leases) if lease.owner == me]
        for number in mine[fair:]:
            self.leases[number].leaving = True
        free = [number for number, lease in enumerate(self.leases) if lease.owner is None]
        for number in free[: max(0, fair - len(mine))]:
            self.leases[number].owner = me
            self.leases[number].epoch += 1
        for number in (kept := self._owned(me)):
            self.leases[number].until = now + seconds
        epochs = {number: self.leases[number].epoch for number in kept}
        return Share(frozenset(kept), epochs, self._present(), now + seconds), stirred

    def leave(self, member: Member) -> None:
        me = (member.id, member.incarnation)
        found = self.members.get(member.id)
        if found is not None and found[0].incarnation == member.incarnation:
            del self.members[member.id]
        for lease in self.leases:
            if lease.owner == me:
                lease.owner, lease.leaving, lease.until = None, False, 0.0

    def _owned(self, owner: tuple[str, int]) -> list[int]:
        return [number for number, lease in enumerate(self.leases) if lease.owner == owner and not lease.leaving]

    def _present(self) -> tuple[Member, ...]:
        return tuple(member for _, (member, _) in sorted(self.members.items()))


class MemoryJobStore:
    """Satisfies `JobStore`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._tell: Callable[[Sequence[str]], None] | None = None
        self._me: tuple[str, int] | None = None

    async def open(self) -> None:
        self._jobs.stores[self] = None

    async def close(self) -> None:
        self._jobs.stores.pop(self, None)

    async def put(self, partition: int, stored: Stored, *, overwrite: bool) -> bool:
        key = stored.key.text
        if not overwrite and key in self._jobs.rows:
            return False
        self._jobs.rows[key] = (partition, stored)
        self._ring([(partition, key)])
        return True

    async def get(self, key: str) -> Stored | None:
        found = self._jobs.rows.get(key)
        return None if found is None else found[1]

    async def remove(self, keys: Sequence[str]) -> int:
        return self._removed(keys)

    async def remove_prefix(self, prefix: str) -> int:
        return self._removed([key for key in self._jobs.rows if key.startswith(prefix)])

    async def page(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Stored]:
        keys = sorted(key for key in self._jobs.rows if key.startswith(prefix) and key > after)
        return [self._jobs.rows[key][1] for key in keys[:limit]]

    async def due(
        self, partitions: Collection[int], until: float, limit: int, *, after: tuple[float, str] | None = None
    ) -> list[Stored]:
        found = [
            (row.next, key, row)
            for key, (partition, row) in self._jobs.rows.items()
            if partition in partitions and row.next is not None and row.next <= until and not row.paused
        ]
        found.sort(key=lambda one: one[:2])
        return [row for at, key, row in found if after is None or (at, key) > after][:limit]

    async def apply(self, changes: Sequence[Change], epochs: dict[int, int]) -> list[bool]:
        done, rung = [], []
        for change in changes:
            partition, row = self._jobs.rows.get(change.key, (0, None))
            wanted = epochs.get(partition)
            mine = wanted is None or self._jobs.leases[partition].epoch == wanted
            if row is None or row.revision != change.revision or not mine:
                done.append(False)
                continue
            if change.stored is None:
                del self._jobs.rows[change.key]
            else:
                self._jobs.rows[change.key] = (partition, change.stored)
            rung.append((partition, change.key))
            done.append(True)
        self._ring(rung)
        return done

    async def lease(self, member: Member, seconds: float) -> Share:
        share, stirred = self._jobs.lease(member, seconds)
        self._me = (member.id, member.incarnation)
        if stirred:
            self._tell_others(())
        return share

    async def leave(self, member: Member) -> None:
        self._jobs.leave(member)
        self._tell_others(())

    def changed(self, tell: Callable[[Sequence[str]], None]) -> None:
        self._tell = tell

    def _removed(self, keys: Iterable[str]) -> int:
        rung = [(self._jobs.rows.pop(key)[0], key) for key in keys if key in self._jobs.rows]
        self._ring(rung)
        return len(rung)

    def _owns(self, partition: int) -> bool:
        lease = self._jobs.leases[partition]
        return lease.owner == self._me and not lease.leaving

    def _ring(self, changed: Sequence[tuple[int, str]]) -> None:
        if keys := [key for partition, key in changed if not self._owns(partition)]:
            self._tell_others(keys)

    def _tell_others(self, keys: Sequence[str]) -> None:
        for store in list(self._jobs.stores):
            if store is not self and store._tell is not None:
                store._tell(keys)
