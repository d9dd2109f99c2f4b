"""How many triggers of one kind may be under way at once (spec `actors-workflows-jobs.md` 2.7).

A gate exists while a consumer states a limit for its key. A trigger passes every existing gate among its keys, all at
once, or waits at the first full one, first come first served. The limit holds for all schedulers together; each lets
through its share.

Knows: counts. Never knows: triggers, consumers; `ticket` and `owner` are anything that can be a dictionary's key.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from pillion.kinds.jobs import Limit

T = TypeVar("T", bound="Hashable")

MOST_WAITING = 100_000
"""Tickets that wait at one gate; further ones are refused (2.7)."""


class Entry(Enum):
    """The answer at the gates."""

    PASSED = auto()
    WAITS = auto()
    REFUSED = auto()


class _Gate(Generic[T]):
    """One gate: the limits that consumers state, the newest last, who is inside, who waits."""

    __slots__ = ("inside", "limits", "most", "waiting")

    def __init__(self) -> None:
        self.limits: dict[Hashable, int] = {}
        self.most = 0
        self.inside = 0
        self.waiting: deque[T] = deque()


class Gates(Generic[T]):
    """All gates of one scheduler, which is number `index` of `count`."""

    def __init__(self) -> None:
        self._gates: dict[str, _Gate[T]] = {}
        self._inside: dict[T, tuple[str, ...]] = {}
        self._waiting: dict[T, tuple[str, ...]] = {}
        self._index, self._count = 0, 1

    def __bool__(self) -> bool:
        return bool(self._gates)

    def limit(self, owner: Hashable, limits: Iterable[Limit]) -> list[T]:
        """Take the limits that a consumer states; return the tickets that pass now."""
        for one in limits:
            gate = self._gates.setdefault(one.key, _Gate())
            gate.limits.pop(owner, None)
            gate.limits[owner] = one.most
        return self._again()

    def drop(self, owner: Hashable) -> list[T]:
        """Forget the limits of a consumer that has gone; return the tickets that pass now."""
        for key, gate in list(self._gates.items()):
            if gate.limits.pop(owner, None) is not None and not gate.limits:
                del self._gates[key]
        return self._again()

    def share(self, index: int, count: int) -> list[T]:
        """Take our place among all schedulers; return the tickets that pass now."""
        if (index, count) == (self._index, self._count):
            return []
        self._index, self._count = index, count
        return self._again()

    def enter(self, ticket: T, keys: Sequence[str]) -> Entry:
        """Ask for passage. What `PASSED` must `leave`; what `WAITS` is returned by a later call, or withdrawn."""
        gates = [key for key in dict.fromkeys(keys) if key in self._gates]
        full = self._full(gates)
        if full is None:
            self._admit(ticket, tuple(gates))
            return Entry.PASSED
        if len(full.waiting) >= MOST_WAITING:
            return Entry.REFUSED
        self._waiting[ticket] = tuple(keys)
        full.waiting.append(ticket)
        return Entry.WAITS

    def leave(self, ticket: T) -> list[T]:
        """The trigger has ended, or is withdrawn; return the tickets that pass now."""
        if self._waiting.pop(ticket, None) is not None:
            return []  # its place in the queue is skipped when it comes up
        freed = self._inside.pop(ticket, ())
        passed: list[T] = []
        for key in freed:
            if (gate := self._gates.get(key)) is not None:
                gate.inside -= 1
        for key in freed:
            if (gate := self._gates.get(key)) is not None:
                self._advance(gate, passed)
        return passed

    def standing(self) -> dict[str, tuple[int, int]]:
        """Return how many are inside and how many wait, by key."""
        return {key: (gate.inside, len(gate.waiting)) for key, gate in self._gates.items()}

    def _again(self) -> list[T]:
        """Count anew after a change of gates: who waited at a gate that is gone moves on."""
        for gate in self._gates.values():
            total = next(reversed(gate.limits.values()))
            gate.most = max(1, total // self._count + (self._index < total % self._count))
            gate.inside = 0
            gate.waiting = deque()
        inside, self._inside = self._inside, {}
        for ticket, keys in inside.items():
            if kept := tuple(key for key in keys if key in self._gates):
                self._admit(ticket, kept)
        passed: list[T] = []
        waiting, self._waiting = self._waiting, {}
        for ticket, keys in waiting.items():
            if self.enter(ticket, keys) is Entry.PASSED:
                passed.append(ticket)
        return passed

    def _advance(self, gate: _Gate[T], passed: list[T]) -> None:
        while gate.waiting and gate.inside < gate.most:
            ticket = gate.waiting.popleft()
            keys = self._waiting.get(ticket)
            if keys is None:
                continue
            gates = [key for key in dict.fromkeys(keys) if key in self._gates]
            other = self._full(gates)
            if other is not None:
                other.waiting.append(ticket)
                continue
            del self._waiting[ticket]
            self._admit(ticket, tuple(gates))
            passed.append(ticket)

    def _full(self, gates: Sequence[str]) -> _Gate[T] | None:
        for key in gates:
            gate = self._gates[key]
            if gate.inside >= gate.most:
                return gate
        return None

    def _admit(self, ticket: T, gates: tuple[str, ...]) -> None:
        if gates:
            self._inside[ticket] = gates
        for key in gates:
            self._gates[key].inside += 1
