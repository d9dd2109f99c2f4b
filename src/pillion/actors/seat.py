"""Between a host of actors and its membership in placement, which needs the address that is known last.

`Placement` to the one, `Hosting` to the other. Knows: who asks whom. Never knows: tables, turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.kinds.actors import NoPlacement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pillion.actors.host import ActorHost
    from pillion.actors.placement import Placement
    from pillion.kinds.actors import Owner


class Seat:
    """`host` and `placement` are set once they are there. `follow` is told the types whose owners are known: reminders
    of those may be taken; `placed` hears of every table in force.
    """

    def __init__(self, follow: Callable[[Collection[str]], None], placed: Callable[[], None]) -> None:
        self.placement: Placement | None = None
        self.host: ActorHost | None = None
        self.hosted: frozenset[str] = frozenset()
        self._settled: set[str] = set()
        self._follow, self._told = follow, placed

    # towards the host

    @property
    def version(self) -> int:
        return 0 if self.placement is None else self.placement.version("")

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        if self.placement is None:
            raise NoPlacement("placement is not configured")
        return self.placement.lookup(actor_type, actor_id)

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        if self.placement is None:
            raise NoPlacement("placement is not configured")
        return await self.placement.owner(actor_type, actor_id)

    def rank(self, actor_type: str) -> tuple[int, int]:
        """As of placement; alone where there is none."""
        return (0, 1) if self.placement is None else self.placement.rank(actor_type)

    def types(self, actor_types: Sequence[str]) -> None:
        self.hosted = frozenset(actor_types)
        self._settled &= self.hosted
        self._follow(frozenset(self._settled))
        if self.placement is not None:
            self.placement.types(self.hosted)

    # towards placement

    async def drain(self, types: Collection[str], is_local: Callable[[str, str], bool]) -> None:
        assert self.host is not None
        await self.host.drain(sorted(types), is_local)

    async def halt_all(self) -> None:
        assert self.host is not None
        await self.host.halt_all()

    def settled(self, types: Collection[str]) -> None:
        assert self.host is not None
        self._settled |= self.hosted.intersection(types)
        self._follow(frozenset(self._settled))
        self.host.settled(sorted(types))
        self._told()
