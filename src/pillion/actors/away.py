"""Calls that are under way at other hosts, and their end when the actor lives elsewhere by now.

Before a table is in force, a host that stays has answered every call of what it loses. One that hangs answers nothing,
and the connection to it says so only after its keepalive. Placement knows earlier: what has no answer soon after it
gave the actor to another host is given up, and goes there.

Knows: who was asked for which actor. Never knows: messages, what is tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from pillion.actors.instances import Claim
from pillion.kinds.actors import ActorClosed, NoHost, NoPlacement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence
    from typing import Any

    from pillion.kinds.actors import Owner, Placement
    from pillion.tasks import Tasks

T = TypeVar("T")

LATE_S = 1.0
"""How long the answer of a former owner may still be on its way when a table is in force."""


class Errand(Claim):
    """One call at another host, in the task of its caller."""

    __slots__ = ("actor_id", "actor_type", "address")

    def __init__(self, address: str, actor_type: str, actor_id: str, task: asyncio.Task[Any]) -> None:
        super().__init__("", task)
        self.address, self.actor_type, self.actor_id = address, actor_type, actor_id


class Away:
    """All errands of a host. `settled` is to be called for every table that comes into force."""

    def __init__(self, placement: Placement, tasks: Tasks) -> None:
        self._placement = placement
        self._tasks = tasks
        self._errands: dict[Errand, None] = {}

    async def run(self, owner: Owner, actor_type: str, actor_id: str, work: Awaitable[T]) -> T:
        """Await `work`, which asks `owner`. Raises `ActorClosed` when the actor has moved and no answer came."""
        task = asyncio.current_task()
        assert task is not None, "actors are called from tasks"
        errand = Errand(owner.address, actor_type, actor_id, task)
        self._errands[errand] = None
        try:
            result = await work
        except asyncio.CancelledError:
            if errand.was_cut():
                assert errand.cut is not None
                raise errand.cut from None
            raise
        finally:
            del self._errands[errand]
        if errand.cut is not None:
            task.uncancel()
        return result

    async def each(self, owner: Owner, actor_type: str, actor_id: str, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield `items`, which come from `owner`. Raises as `run`, also when the actor moved between two items."""
        while True:
            if self._elsewhere(owner.address, actor_type, actor_id):
                raise _left(owner.address)
            try:
                item = await self.run(owner, actor_type, actor_id, anext(items))
            except StopAsyncIteration:
                return
            yield item

    def settled(self) -> None:
        """A table is in force: find those who wait at a host that has lost their actor."""
        if late := [one for one in self._errands if self._elsewhere(one.address, one.actor_type, one.actor_id)]:
            self._tasks.start(self._end(late), "calls of actors that moved")

    async def _end(self, late: Sequence[Errand]) -> None:
        await asyncio.sleep(LATE_S)
        for errand in late:
            if errand in self._errands and await self._moved(errand) and errand in self._errands:
                errand.end(_left(errand.address))

    async def _moved(self, errand: Errand) -> bool:
        """Whether the actor lives elsewhere, as soon as that is known: placement may be unsure now, and no table that
        says so need follow."""
        try:
            owner = await self._placement.owner(errand.actor_type, errand.actor_id)
        except NoHost:
            return True
        except NoPlacement:  # this host has left
            return False
        return owner.address != errand.address

    def _elsewhere(self, address: str, actor_type: str, actor_id: str) -> bool:
        """Whether the actor lives elsewhere, or nowhere; False while it is being placed: another table follows."""
        try:
            owner = self._placement.lookup(actor_type, actor_id)
        except NoHost:
            return True
        return owner is not None and owner.address != address

    def __repr__(self) -> str:
        return f"<Away: {len(self._errands)} calls>"


def _left(address: str) -> ActorClosed:
    return ActorClosed(f"actor is closed: it has left {address}, which did not answer")
