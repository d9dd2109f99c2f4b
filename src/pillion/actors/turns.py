"""Whose turn it is at one actor: a queue, first come first served, and chains of calls that come back (spec 1.5).

    enter -> True: go on now | False: wait      raises `TooDeep`, `ActorClosed`
    leave -> the places whose turn begins
    close -> the places that wait, in vain now

A turn belongs to one place, or to all places of one chain: they run beside each other. A place that comes with the
chain of a turn that runs or waits joins it, up to a depth. Spec `actors-workflows-jobs.md` 1.5, invariants 1 to 3; what
the reference gets wrong (its section 6) is right here: a waiter that gives up leaves its own place and no other, and a
place refused for its depth was never counted.

Knows: places. Never knows: what is done in a turn, time, tasks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from pillion.kinds.actors import ActorClosed, TooDeep

if TYPE_CHECKING:
    from collections.abc import Sequence

UNBOUNDED = -1
"""As `max_depth`: every place runs at once, nobody waits. For handlers that keep an order of their own."""


class Place:
    """One request at an actor. `chain` is the name of its chain, "" for none."""

    __slots__ = ("chain",)

    def __init__(self, chain: str = "") -> None:
        self.chain = chain

    def __repr__(self) -> str:
        return f"<Place in {self.chain}>" if self.chain else "<Place>"


P = TypeVar("P", bound=Place)


class Turns(Generic[P]):
    """The turns of one actor. `running` are the places of the present turn, `waiting` those of each turn to come."""

    __slots__ = ("closed", "running", "waiting")

    def __init__(self) -> None:
        self.closed = False
        self.running: list[P] = []
        self.waiting: deque[list[P]] | None = None

    def enter(self, place: P, max_depth: int = 1) -> bool:
        """Take a place; True: it is its turn. `max_depth` bounds the places of one chain, the first one included.

        Raises `TooDeep`; `ActorClosed` when there are no more turns to come. A chain that runs may still be joined
        then: its first place would otherwise wait for itself.
        """
        running = self.running
        if not running and not self.closed:
            running.append(place)
            return True
        if max_depth == UNBOUNDED and not self.closed:
            running.append(place)
            return True
        chain = place.chain
        if chain:
            if running and running[0].chain == chain:
                _join(running, place, max_depth)
                return True
            for turn in self.waiting or ():
                if turn[0].chain == chain:
                    _join(turn, place, max_depth)
                    return False
        if self.closed:
            raise ActorClosed("actor is closed")
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append([place])
        return False

    def leave(self, place: P) -> Sequence[P]:
        """Give a place up, whether its turn had come or not; return the places whose turn begins by that.

        A place that `close` has sent away may leave once more.
        """
        running, waiting = self.running, self.waiting
        if place in running:
            running.remove(place)
            if running or not waiting:
                return ()
            self.running = waiting.popleft()
            if not waiting:
                self.waiting = None
            return self.running.copy()
        for turn in waiting or ():
            if place in turn:
                turn.remove(place)
                if not turn and waiting is not None:
                    waiting.remove(turn)
                    if not waiting:
                        self.waiting = None
                return ()
        return ()

    def close(self) -> list[P]:
        """No turn begins any more. Return the places that waited; they have left."""
        self.closed = True
        waiting, self.waiting = self.waiting, None
        return [place for turn in waiting or () for place in turn]

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Turns: {len(self.running)} running, {[len(turn) for turn in self.waiting or ()]} waiting, {state}>"


def _join(turn: list[P], place: P, max_depth: int) -> None:
    if len(turn) >= max_depth:
        raise TooDeep("maximum stack depth exceeded")
    turn.append(place)
