"""Who takes triggers: the consumers of each target, in turn, and the jobs that wait for one.

A target is an application's jobs or a type of actor, in a namespace. Knows: rings, what is under way. Never knows:
time, storage, how a trigger gets to its consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator

    from pillion.kinds.jobs import Interest, JobKey, Outcome, Stored, Trigger

Target = tuple[str, str, str]
"""Actor type ("" for jobs), namespace, application ("" for reminders)."""

MOST_UNDER_WAY = 4096
"""Triggers that one consumer has at once; the others wait until it answers."""


def target_of(key: JobKey) -> Target:
    if key.actor_type:
        return (key.actor_type, key.namespace, "")
    return ("", key.namespace, key.app_id)


class Entry:
    """A job in memory. Compared by identity: a job that was overwritten has a new entry, so old answers find nothing.

    `order` names its valid place in the heap, 0 when it has none; `fired` is the wall clock at the present try;
    `refusals` counts how often a consumer in place has handed it back. `settling`: `saved` is to be written in place of
    `stored`; `refused`: that was tried, the row is another one; `doubted`: it is another one behind what is written.
    """

    __slots__ = (
        "doubted", "fired", "key", "order", "partition", "refusals", "refused", "saved", "settling", "stored", "target",
        "task", "watch",
    )  # fmt: skip

    def __init__(self, key: str, partition: int, stored: Stored) -> None:
        self.key = key
        self.partition = partition
        self.stored = stored
        self.target = target_of(stored.key)
        self.order = 0
        self.fired = 0.0
        self.watch: Consumer | None = None
        self.task: asyncio.Future[Outcome] | None = None
        self.settling = False
        self.saved: Stored | None = None
        self.refused = self.doubted = False
        self.refusals = 0

    def __repr__(self) -> str:
        state = "settling" if self.settling else "under way" if self.watch else "waiting" if self.order else "aside"
        return f"<Entry {self.key}, {state}, next {self.stored.next}>"


class Consumer:
    """One `watch`. What is under way is in `flights`, in the order of its departure."""

    __slots__ = ("_gone", "deliver", "flights", "interest", "targets")

    def __init__(
        self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]], gone: Callable[[Consumer], None]
    ) -> None:
        self.interest = interest
        self.deliver = deliver
        self.flights: dict[Entry, None] = {}
        self.targets: list[Target] = [(kind, interest.namespace, "") for kind in sorted(interest.actor_types)]
        if interest.jobs:
            self.targets.append(("", interest.namespace, interest.app_id))
        self._gone = gone

    def close(self) -> None:
        """Take nothing any more; closing twice is no error."""
        self._gone(self)

    def __repr__(self) -> str:
        return f"<Consumer {self.interest.namespace}/{self.interest.app_id}, {len(self.flights)} under way>"


class Ring:
    """The consumers of one target, asked in turn."""

    __slots__ = ("_at", "members")

    def __init__(self) -> None:
        self.members: list[Consumer] = []
        self._at = 0

    def pick(self) -> Consumer | None:
        """Return the next one that has room."""
        members = self.members
        for _ in members:
            self._at = (self._at + 1) % len(members)
            if len((found := members[self._at]).flights) < MOST_UNDER_WAY:
                return found
        return None


class Rings:
    """All consumers, by target."""

    def __init__(self) -> None:
        self._rings: dict[Target, Ring] = {}
        self.consumers: dict[Consumer, None] = {}

    def add(self, consumer: Consumer) -> None:
        self.consumers[consumer] = None
        for target in consumer.targets:
            self._rings.setdefault(target, Ring()).members.append(consumer)

    def remove(self, consumer: Consumer) -> bool:
        """Return False when it has gone before."""
        if consumer not in self.consumers:
            return False
        del self.consumers[consumer]
        for target in consumer.targets:
            ring = self._rings[target]
            ring.members.remove(consumer)
            if not ring.members:
                del self._rings[target]
        return True

    def pick(self, target: Target) -> Consumer | None:
        ring = self._rings.get(target)
        return None if ring is None else ring.pick()


class Staged:
    """Entries that nobody takes at present, by target, oldest first. Past `most` they are given back to storage:
    `parked` then has the targets of which some are only there.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_target: dict[Target, dict[Entry, None]] = {}
        self.parked: set[Target] = set()
        self.count = 0

    def add(self, entry: Entry) -> bool:
        """Return False when there is no room: it is parked, and to be forgotten."""
        if self.count >= self._most:
            self.parked.add(entry.target)
            return False
        self._by_target.setdefault(entry.target, {})[entry] = None
        self.count += 1
        return True

    def remove(self, entry: Entry) -> None:
        """Take out an entry; what is not there is no error."""
        mine = self._by_target.get(entry.target)
        if mine is not None and entry in mine:
            del mine[entry]
            self.count -= 1
            if not mine:
                del self._by_target[entry.target]

    def take(self, target: Target, most: int | None = None) -> list[Entry]:
        """Take out the oldest entries of a target, at most `most`."""
        mine = self._by_target.get(target, {})
        found = list(mine) if most is None else [entry for entry, _ in zip(mine, range(most), strict=False)]
        for entry in found:
            self.remove(entry)
        return found

    def __iter__(self) -> Iterator[Entry]:
        for mine in list(self._by_target.values()):
            yield from list(mine)

    def has(self, target: Target) -> bool:
        return target in self._by_target

    def __len__(self) -> int:
        return self.count
