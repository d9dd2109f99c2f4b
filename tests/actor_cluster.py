"""Hosts of actors in one process, without sockets: placement is moved by hand, applications tell tales."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.actors.host import ActorHost
from pillion.kinds.actors import ActorCall, ActorError, ActorReply, Hosted, NoHost, Owner, Tick
from pillion.resiliency.builtin import BUILT_IN, BuiltIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from pillion.actors.host import Guards
    from pillion.actors.meter import Meter
    from pillion.resiliency.machine import Retry


class Cluster:
    """Several hosts and the table that all of them have. `owners` says which host an actor belongs to."""

    def __init__(self) -> None:
        self.hosts: dict[str, ActorHost] = {}
        self.places: dict[str, Place] = {}
        self.owner: Callable[[str, str], str] = lambda _type, _id: next(iter(self.hosts))
        self.passed_on = 0
        self.hanging: set[str] = set()
        """Hosts that answer nothing."""

    def add(
        self,
        name: str,
        *,
        policies: Guards | None = None,
        meter: Meter | None = None,
        retry: Callable[[], Retry] = lambda: BUILT_IN[BuiltIn.ACTOR_NOT_FOUND],
    ) -> ActorHost:
        place = self.places[name] = Place(self, name)
        host = self.hosts[name] = ActorHost(place, Way(self), policies=policies, meter=meter, retry=retry)
        host.store_changed(True)
        return host

    async def rebalance(self, owner: Callable[[str, str], str], types: Collection[str] = ("T",)) -> None:
        """One round of placement: everybody blocks and drains, then everybody goes on."""
        for place in self.places.values():
            place.blocked |= set(types)
            place.next = owner
        await asyncio.gather(*(host.drain(types, self.places[name].stays) for name, host in self.hosts.items()))
        self.owner = owner
        for name, place in self.places.items():
            place.version += 1
            place.blocked -= set(types)
            place.free.set()
            place.free = asyncio.Event()
            self.hosts[name].settled(types)

    async def close(self) -> None:
        for host in self.hosts.values():
            await host.close()


class Place:
    """A `Placement` as one host sees it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.version = 1
        self.blocked: set[str] = set()
        self.free = asyncio.Event()
        self.next: Callable[[str, str], str] = lambda _type, _id: name
        self.told: list[list[str]] = []

    def stays(self, actor_type: str, actor_id: str) -> bool:
        return self.next(actor_type, actor_id) == self.name

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        if actor_type in self.blocked:
            return None
        name = self.cluster.owner(actor_type, actor_id)
        if not name:
            raise NoHost(f"did not find address for actor '{actor_type}||{actor_id}'")
        return Owner(name, "app", "default", local=name == self.name)

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        while (found := self.lookup(actor_type, actor_id)) is None:
            await self.free.wait()
        return found

    def types(self, actor_types: Sequence[str]) -> None:
        self.told.append(list(actor_types))


class Way:
    """The way to the other hosts: a call arrives there as one that another sidecar passed on."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def _reach(self, owner: Owner) -> None:
        self.cluster.passed_on += 1
        if owner.address in self.cluster.hanging:
            await asyncio.Event().wait()

    async def invoke(self, owner: Owner, call: ActorCall) -> ActorReply:
        await self._reach(owner)
        return await self.cluster.hosts[owner.address].invoke(
            ActorCall(call.actor_type, call.actor_id, call.method, call.body, call.headers, remote=True)
        )

    async def tick(self, owner: Owner, tick: Tick) -> None:
        await self._reach(owner)
        await self.cluster.hosts[owner.address].tick(tick, remote=True)

    async def stream(self, owner: Owner, call: ActorCall) -> AsyncIterator[bytes]:
        again = ActorCall(call.actor_type, call.actor_id, call.method, call.body, call.headers, remote=True)
        async for item in self.cluster.hosts[owner.address].stream(again):
            yield item
        await self._reach(owner)


class Tales:
    """An application: notes what it is told; `acts` are its methods. Two turns of one actor at once are an error."""

    def __init__(self, **acts: Callable[[ActorCall], Awaitable[ActorReply | None]]) -> None:
        self.acts = acts
        self.told: list[str] = []
        self.busy: dict[str, list[str]] = {}
        self.overlaps: list[str] = []
        self.refuses: ActorError | None = None
        self.gone = asyncio.Event()
        self.wants_no_more = False

    async def invoke(self, call: ActorCall) -> ActorReply:
        chain = next((value.decode() for name, value in call.headers if name == b"dapr-reentrancy-id"), "")
        running = self.busy.setdefault(call.actor_id, [])
        if any(not chain or other != chain for other in running):
            self.overlaps.append(f"{call.actor_id}: {call.method}")
        running.append(chain)
        self.told.append(f"{call.method} {call.actor_id}")
        try:
            act = self.acts.get(call.method)
            return (await act(call) if act is not None else None) or ActorReply(b"done")
        finally:
            running.remove(chain)

    async def tick(self, tick: Tick) -> bool:
        self.told.append(f"{'timer' if tick.is_timer else 'reminder'} {tick.actor_id} {tick.name}")
        act = self.acts.get(tick.name)
        if act is not None:
            await act(ActorCall(tick.actor_type, tick.actor_id, tick.name, headers=tick.headers))
        return self.wants_no_more

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        self.told.append(f"gone {actor_id}")
        self.gone.set()
        if self.busy.get(actor_id):
            self.overlaps.append(f"{actor_id}: gone in the middle of a turn")
        if self.refuses is not None:
            raise self.refuses

    async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        for item in (b"1", b"2"):
            yield item
        if call.method == "forever":
            await asyncio.Event().wait()


def hosted(handler: Tales, actor_type: str = "T", **settings: object) -> Hosted:
    return Hosted(actor_type, handler, **settings)  # type: ignore[arg-type]
