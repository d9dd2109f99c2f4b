"""The actors that live here: their turns, their idleness, their end; and which types live here at all (spec 1.1, 1.5).

A call costs no task and no timer: it runs in its caller's task, which is cancelled, and told why, when the actor has to
leave. Satisfies `kinds.actors.Hosting`. Knows: instances and the handlers of their types. Never knows: where the other
actors live, what is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pillion.actors import draining
from pillion.actors.idle import Idle
from pillion.actors.instances import Claim, Kind
from pillion.actors.membership import HALT_S
from pillion.actors.meter import Uncounted
from pillion.actors.roster import Roster
from pillion.kinds.actors import ActorClosed, ActorError, LostPlace
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from pillion.actors.instances import Instance
    from pillion.actors.meter import Meter
    from pillion.kinds.actors import Handler, Hosted, Placement
    from pillion.resiliency.run import Policy

T = TypeVar("T")
log = logging.getLogger("pillion.actors")

SHUTDOWN_S = 5.0
"""For all actors to come to their end at shutdown."""
LAST_TURNS_S = 0.75 * HALT_S
"""What turns get when the place is lost, or at shutdown; the rest is for those that are cut."""


class Residents:
    """The instances of this host by type, and who runs them."""

    def __init__(self, placement: Placement, meter: Meter | None = None) -> None:
        self._placement = placement
        self.meter: Meter = meter or Uncounted()
        self._roster = Roster()
        self._kinds: dict[str, Kind] = {}
        self._lacking: frozenset[str] = frozenset()
        self._closed = False
        self._tasks = Tasks("actors")
        self._idle = Idle(self._sweep, self._tasks)

    # --- turns -----------------------------------------------------------------------------------------------------

    async def turn(
        self,
        kind: Kind,
        actor_id: str,
        method: str,
        chain: str,
        work: Callable[[Handler], Awaitable[T]],
        within: Policy | None = None,
    ) -> T:
        """Run `work` as a turn of an actor that lives here. Nothing may have been awaited since placement said so."""
        instance = kind.instances.get(actor_id)
        if instance is None:
            instance = self._activate(kind, actor_id)
        task = asyncio.current_task()
        assert task is not None, "actors are called from tasks"
        claim = Claim(chain, task)
        try:
            runs = instance.enter(claim, kind.depth)
        except ActorClosed:
            assert instance.closing is not None
            await instance.closing.gone.wait()
            raise
        instance.leaving = False
        try:
            if not runs:
                await self._wait(kind, claim, method)
            hosted = kind.hosted
            if hosted is None:
                raise ActorClosed(f"actor is closed, cannot handle {method}")
            handler = hosted.handler
            result = await (work(handler) if within is None else within(partial(work, handler)))
        except asyncio.CancelledError:
            if claim.was_cut():
                assert claim.cut is not None
                raise claim.cut from None
            raise
        finally:
            kind.leave(instance, claim)
        if claim.cut is not None:
            task.uncancel()
        return result

    async def _wait(self, kind: Kind, claim: Claim, method: str) -> None:
        claim.wake = asyncio.get_running_loop().create_future()
        self.meter.pending(kind.actor_type, 1)
        try:
            closed = await claim.wake
        finally:
            self.meter.pending(kind.actor_type, -1)
        if closed is not None:
            raise ActorClosed(f"{closed}, cannot handle {method}")

    def _activate(self, kind: Kind, actor_id: str) -> Instance:
        instance = kind.activate(actor_id, self._placement.version)
        self._idle.begin(kind)
        return instance

    def instance(self, actor_type: str, actor_id: str) -> Instance | None:
        """Return the instance when it is active here."""
        kind = self._kinds.get(actor_type)
        return None if kind is None else kind.instances.get(actor_id)

    async def halt(self, actor_type: str, actor_id: str) -> None:
        await self._halt(actor_type, actor_id, ActorClosed("actor is closed"))

    def lost(self, actor_type: str, instance: Instance, error: LostPlace) -> None:
        """Another host owns the actor: end its turn here, whose caller finds the new owner, and the instance."""
        kind = self._kinds.get(actor_type)
        if kind is not None and kind.instances.get(instance.actor_id) is instance and not self._closed:
            self._tasks.start(self._finish(kind, instance, error), f"{actor_type}||{instance.actor_id} is lost")

    async def _halt(self, actor_type: str, actor_id: str, error: ActorError) -> None:
        kind = self._kinds.get(actor_type)
        instance = None if kind is None else kind.instances.get(actor_id)
        if kind is None or instance is None:
            return
        if kind.hosted is not None and not kind.hosted.locked:
            if instance.running:
                instance.leaving = True
            elif instance.closing is None:
                kind.forget(instance)
            return
        mine = asyncio.current_task()
        if any(claim.task is mine for claim in instance.running):
            instance.begin_to_close()
            self._tasks.start(self._finish(kind, instance, None), f"{actor_type}||{actor_id} halts")
            return
        await self._finish(kind, instance, error)

    async def _finish(self, kind: Kind, instance: Instance, error: ActorError | None) -> None:
        """End one instance: cut its turn with `error`, with None let it come to its end."""
        hosted = kind.hosted
        already = not instance.begin_to_close() and error is not None
        assert instance.closing is not None
        if error is None:
            await instance.closing.quiet.wait()
        else:
            await draining.quieten([instance], 0, error)
        if already or hosted is None:
            await instance.closing.gone.wait()
        else:
            await draining.deactivate(kind, hosted, instance, self.meter)

    # --- who hosts what --------------------------------------------------------------------------------------------

    def host(self, by: str, types: Sequence[Hosted]) -> None:
        """Host exactly these `types` in the name of `by`. Of a type that several name, the one who came last runs it.

        A type that is named again keeps its instances, with new settings and a new handler for what comes.
        """
        self._roster.host(by, types)
        self._refresh()

    async def release(self, by: str, most_s: float) -> None:
        """Host nothing in the name of `by`, and return when its actors have come to their end. Their turns get `most_s`
        seconds at the most.
        """
        self._roster.host(by, ())
        ending = self._refresh(most_s)
        if ending:
            await asyncio.wait(ending)

    def store_changed(self, there: bool) -> None:
        """Whether there is an actor state store: without one nothing is hosted (1.1)."""
        if self._roster.store_changed(there):
            self._refresh()

    def _refresh(self, most_s: float | None = None) -> list[asyncio.Task[None]]:
        """Host what the roster says; return the tasks in which actors of other types come to their end."""
        if self._closed:
            return []
        lacking = self._roster.lacking()
        if news := lacking - self._lacking:
            names = ", ".join(sorted(news))
            log.warning('actors of %s are not hosted until a state store here has actorStateStore "true"', names)
        self._lacking = lacking
        effective = self._roster.effective()
        withdrawn = []
        for actor_type, kind in self._kinds.items():
            if kind.hosted is not None and actor_type not in effective:
                withdrawn.append((kind, kind.hosted))
                kind.host(None)
        for actor_type, hosted in effective.items():
            kind = self._kinds.get(actor_type) or Kind(actor_type)
            self._kinds[actor_type] = kind
            kind.host(hosted)
            self._idle.watch(kind)
        self._placement.types(sorted(effective))
        return [
            self._tasks.start(self._withdraw(kind, hosted, most_s), f"withdraw {kind.actor_type}")
            for kind, hosted in withdrawn
        ]

    async def _withdraw(self, kind: Kind, hosted: Hosted, most_s: float | None) -> None:
        await self._end(kind, hosted, list(kind.instances.values()), most_s)
        if hosted.leaving is not None:
            await draining.leave(hosted.leaving, lambda _: False, None)
        if kind.hosted is None and not kind.instances and self._kinds.get(kind.actor_type) is kind:
            del self._kinds[kind.actor_type]

    def hosts(self, actor_type: str) -> bool:
        kind = self._kinds.get(actor_type)
        return kind is not None and kind.hosted is not None

    def active(self) -> dict[str, int]:
        return {name: len(kind.instances) for name, kind in self._kinds.items() if kind.hosted is not None}

    # --- what placement asks ---------------------------------------------------------------------------------------

    async def drain(self, actor_types: Collection[str], stays: Callable[[str, str], bool]) -> None:
        """Let the actors of these types that do not stay come to their end. Those that stay are not touched: they had
        no other owner before, and have none afterwards.
        """
        leaving: list[tuple[Kind, list[Instance]]] = []
        for actor_type in actor_types:
            kind = self._kinds.get(actor_type)
            if kind is not None:
                gone = [one for one in kind.instances.values() if not stays(actor_type, one.actor_id)]
                if gone or (kind.hosted is not None and kind.hosted.leaving is not None):
                    leaving.append((kind, gone))
        await self._end_all(leaving, stays=stays)

    async def halt_all(self) -> None:
        """The place is lost: every actor of every type comes to its end, and soon, for others may take over."""
        await self._end_all([(kind, list(kind.instances.values())) for kind in self._kinds.values()], LAST_TURNS_S)

    def settled(self, actor_types: Collection[str]) -> None:
        """Types may be looked up again: engines hear of it."""
        for actor_type in actor_types:
            kind = self._kinds.get(actor_type)
            if kind is not None and kind.hosted is not None and kind.hosted.settled is not None:
                kind.hosted.settled()

    async def _end_all(
        self,
        leaving: Sequence[tuple[Kind, list[Instance]]],
        most_s: float | None = None,
        stays: Callable[[str, str], bool] = lambda _type, _id: False,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, instances in leaving:
                if kind.hosted is not None:
                    group.create_task(self._end(kind, kind.hosted, instances, most_s))
                    if kind.hosted.leaving is not None:
                        group.create_task(draining.leave(kind.hosted.leaving, partial(stays, kind.actor_type), most_s))
                else:  # withdrawn: their end has begun
                    group.create_task(draining.gone(instances, most_s))

    async def _end(self, kind: Kind, hosted: Hosted, instances: list[Instance], most_s: float | None = None) -> None:
        limit_s = hosted.drain_timeout_s if hosted.drain else 0.0
        if most_s is not None:
            limit_s = min(limit_s, most_s)
        await draining.end(kind, hosted, instances, self.meter, limit_s=limit_s)

    # --- idleness, shutdown ----------------------------------------------------------------------------------------

    async def _sweep(self, kind: Kind) -> None:
        hosted = kind.hosted
        if hosted is not None:
            await draining.deactivate_all(kind, hosted, iter(kind.take_idle, None), self.meter)

    async def close(self) -> None:
        """Let all actors come to their end within five seconds, however long their turns may run."""
        if self._closed:
            return
        self._closed = True
        self._idle.close()
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await self.halt_all()
        except TimeoutError:
            log.warning("actors had not come to their end after %g s", SHUTDOWN_S)
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self._kinds.values())}{' closed' if self._closed else ''}>"
