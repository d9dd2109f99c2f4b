"""How many turns and activities run at once (spec 3.11). Pure: counts and queues, no clock, no tasks.

What wants to run needs a place at each of its gates; the first that is full holds it in its queue. A gate without a
limit is not made at all.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Gated(Protocol):
    """What waits at gates. `gates` are those at which it has a place; `gone` when it is no longer wanted."""

    gates: list[Gate]
    gone: bool


class Gate:
    """One limit. `held` have a place."""

    __slots__ = ("held", "most", "name", "queue")

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.held = 0
        self.queue: deque[tuple[Gated, tuple[Gate, ...]]] = deque()

    def __repr__(self) -> str:
        return f"<Gate {self.name!r} {self.held}/{self.most}, {len(self.queue)} wait>"


class Gates:
    """The gates of one kind of work: one for all of it and one for each name that is limited."""

    def __init__(self, kind: str, most: int, by_name: Mapping[str, int]) -> None:
        self._all = Gate(kind, most) if most > 0 else None
        self._named = {name: Gate(f"{kind}:{name}", limit) for name, limit in by_name.items() if limit > 0}

    @property
    def limited(self) -> bool:
        return self._all is not None or bool(self._named)

    def enter(self, item: Gated, name: str) -> bool:
        """Take a place at every gate of `name`; False: one is full, the item waits there and comes out of `leave`."""
        wanted = tuple(gate for gate in (self._named.get(name), self._all) if gate is not None)
        return _enter(item, wanted)

    def change(self, most: int, by_name: Mapping[str, int]) -> list[Gated]:
        """Have other limits from now on; return those who may run now. Which gates there are does not change."""
        gates = [(self._all, most), *((gate, by_name[name]) for name, gate in self._named.items())]
        known = [(gate, limit) for gate, limit in gates if gate is not None]
        for gate, limit in known:
            gate.most = limit
        return _admitted([gate for gate, _ in known])

    def leave(self, item: Gated) -> list[Gated]:
        """Give the places back; return those who may run now."""
        gates, item.gates = item.gates, []
        for gate in gates:
            gate.held -= 1
        return _admitted(gates)


def share(limit: int, index: int, count: int) -> int:
    """What one of `count` hosts has of a limit for all of them, at least 1 (spec 2.7); 0 when there is no limit."""
    return max(1, limit // count + (index < limit % count)) if limit > 0 else 0


def _admitted(gates: list[Gate]) -> list[Gated]:
    """Let in those who wait where there is room; return the ones that are through all their gates."""
    ready: list[Gated] = []
    for gate in gates:
        while gate.queue and gate.held < gate.most:
            waiting, left = gate.queue.popleft()
            if not waiting.gone and _enter(waiting, left):
                ready.append(waiting)
    return ready


def _enter(item: Gated, wanted: tuple[Gate, ...]) -> bool:
    for number, gate in enumerate(wanted):
        if gate.held >= gate.most:
            gate.queue.append((item, wanted[number:]))
            return False
        gate.held += 1
        item.gates.append(gate)
    return True
