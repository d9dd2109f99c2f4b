"""The host of actors: calls find the one place where their actor lives, and its turn there (spec 1.4, 1.5).

    invoke, tick, stream -> placement says who owns the actor
        this host   -> a claim on the instance, a turn, the handler
        another one -> its sidecar, once; a sidecar never passes on what was passed on to it

A call that runs here costs no task and no timer: it runs in its caller's task, which the host cancels, and tells so,
when the actor has to leave. What placement asks of the host (`Hosting`) and what the edges ask (`Actors`) are both
here. Knows: routing, what is tried again, who hosts which types. Never knows: HTTP, messages, the ring.
"""

from __future__ import annotations

import asyncio
import logging
import random as system_random
import uuid
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.actors import draining
from pillion.actors.instances import Claim, Kind
from pillion.actors.membership import HALT_S
from pillion.actors.streams import local_stream
from pillion.kinds.actors import (
    ActorClosed,
    ActorError,
    LostPlace,
    Moved,
    NoHost,
    RuntimeClosed,
)
from pillion.resiliency.builtin import BUILT_IN, BuiltIn
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from pillion.actors.instances import Instance
    from pillion.kinds.actors import ActorCall, ActorReply, Handler, Headers, Hosted, Owner, Placement, Tick
    from pillion.resiliency.machine import Retry
    from pillion.resiliency.policies import ActorPolicies
    from pillion.resiliency.run import Policy

T = TypeVar("T")
log = logging.getLogger("pillion.actors")

CHAIN = b"dapr-reentrancy-id"
SHUTDOWN_S = 5.0
"""For all actors to come to their end at shutdown."""
LAST_TURNS_S = 0.75 * HALT_S
"""What turns get when the place is lost, or at shutdown; the rest is for those that are cut."""
MOST_CLOSED = 8
"""So often a call may find its actor closed and try again at once; then it pauses as after other failures."""
_SAFE = (ActorClosed, Moved, LostPlace)
"""Failures of routing: the call had not begun, or was cut because its actor left. Policies of users do not see them."""


class Peers(Protocol):
    """The way to the sidecars that own the other actors. All raise `ActorError`s."""

    async def invoke(self, owner: Owner, call: ActorCall) -> ActorReply: ...

    async def tick(self, owner: Owner, tick: Tick) -> None: ...

    def stream(self, owner: Owner, call: ActorCall) -> AsyncIterator[bytes]: ...


class Guards(Protocol):
    """The policies of `spec.targets.actors`."""

    def actor(self, actor_type: str, actor_id: str) -> ActorPolicies | None: ...


class Meter(draining.Meter, Protocol):
    """What is counted of actors (spec 1.13)."""

    def pending(self, actor_type: str, change: int) -> None: ...

    def timers(self, actor_type: str, change: int) -> None: ...

    def timer_fired(self, actor_type: str, *, success: bool) -> None: ...

    def reminder_fired(self, actor_type: str, *, success: bool) -> None: ...


class Uncounted:
    """A `Meter` for when nothing is counted."""

    def rebalanced(self, actor_type: str) -> None: ...

    def deactivated(self, actor_type: str, *, success: bool) -> None: ...

    def pending(self, actor_type: str, change: int) -> None: ...

    def timers(self, actor_type: str, change: int) -> None: ...

    def timer_fired(self, actor_type: str, *, success: bool) -> None: ...

    def reminder_fired(self, actor_type: str, *, success: bool) -> None: ...


class ActorHost:
    """Satisfies `kinds.actors.Actors` and, towards placement, `kinds.actors.Hosting`.

    `policies` None: none are configured. `retry` is the built-in policy of routing, which applies to types without
    policies of their own. `cancelled` is told when an actor that lives here wants a reminder cancelled.
    """

    def __init__(
        self,
        placement: Placement,
        peers: Peers,
        *,
        policies: Guards | None = None,
        retry: Retry = BUILT_IN[BuiltIn.ACTOR_NOT_FOUND],
        random: system_random.Random | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._placement = placement
        self._peers = peers
        self._policies = policies
        self._retry = retry
        self._random = random or system_random.Random()
        self.meter: Meter = meter or Uncounted()
        self.cancelled: Callable[[Tick], Awaitable[None]] | None = None
        self._wanted: dict[str, dict[str, Hosted]] = {}
        self._has_store = False
        self._kinds: dict[str, Kind] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._round = asyncio.Event()
        self._closed = False
        self._tasks = Tasks("actors")

    # --- calls ---------------------------------------------------------------------------------------------------

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Call the actor wherever it lives. A call that is `remote` has been routed before: here, or `Moved`."""
        policies = self._policies
        found = None if policies is None else policies.actor(call.actor_type, call.actor_id)
        if found is None:
            try:
                return await self._invoke(call, None)
            except ActorError as error:
                return await self._again(
                    partial(self._invoke, call, None), error, ActorClosed if call.remote else ActorError
                )
        attempt = partial(self._invoke, call, found.within)
        if found.around is None or call.remote:
            return await self._routed(attempt, ActorClosed if call.remote else _SAFE)
        return await found.around(partial(self._routed, attempt, _SAFE))

    async def tick(self, tick: Tick, *, remote: bool = False, still: Callable[[], bool] | None = None) -> bool:
        """Run a reminder or a timer as a turn of its actor; True: it lives here and wants no more of them.

        `still` is asked when the turn begins, where that is here; False: the tick is not wanted any more.
        """
        return await self._routed(partial(self._tick, tick, remote, still), ActorClosed if remote else ActorError)

    async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        """Call a method that answers many times. An actor that leaves ends the stream with an error that is
        `retryable`: the caller asks again.
        """
        owner = await self._routed(partial(self._owner, call.actor_type, call.actor_id), ActorError)
        if not owner.local:
            if call.remote:
                raise _moved()
            async for item in self._peers.stream(owner, call):
                yield item
            return
        async for item in local_stream(call, partial(self._stream_turn, call), self._tasks):
            yield item

    async def _stream_turn(self, call: ActorCall, read: Callable[[Handler], Awaitable[None]]) -> None:
        owner = await self._owner(call.actor_type, call.actor_id)
        if not owner.local:
            raise _moved()
        kind = self._kind(call.actor_type, call.actor_id, remote=call.remote)
        await self.turn(kind, call.actor_id, call.method, "", read)

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        return await self._owner(actor_type, actor_id)

    # --- routing ---------------------------------------------------------------------------------------------------

    async def _invoke(self, call: ActorCall, within: Policy | None) -> ActorReply:
        actor_type, actor_id = call.actor_type, call.actor_id
        owner = None if self._closed else self._placement.lookup(actor_type, actor_id)
        if owner is None:
            kind = self._chained(call)
            if kind is None:
                owner = await self._owner(actor_type, actor_id)
        if owner is None or owner.local:
            kind = self._kind(actor_type, actor_id, remote=call.remote)
            chain = ""
            hosted = kind.hosted
            if hosted is not None and hosted.reentrancy is not None:
                call.headers, chain = self._chain(call.headers)
            return await self.turn(kind, actor_id, call.method, chain, lambda handler: handler.invoke(call), within)
        if call.remote:
            raise _moved()
        return await self._peers.invoke(owner, call)

    async def _tick(self, tick: Tick, remote: bool, still: Callable[[], bool] | None) -> bool:
        owner = await self._owner(tick.actor_type, tick.actor_id)
        if not owner.local:
            if remote:
                raise _moved()
            await self._peers.tick(owner, tick)
            return False
        kind = self._kind(tick.actor_type, tick.actor_id, remote=remote)
        chain = ""
        if kind.hosted is not None and kind.hosted.reentrancy is not None:
            tick.headers, chain = self._chain([pair for pair in tick.headers if pair[0] != CHAIN])
        policies = None if self._policies is None else self._policies.actor(tick.actor_type, tick.actor_id)
        within = None if policies is None else policies.within

        async def run(handler: Handler) -> bool:
            return (still is None or still()) and await handler.tick(tick)

        cancel = await self.turn(kind, tick.actor_id, tick.name, chain, run, within)
        if cancel and not tick.is_timer and self.cancelled is not None:
            await self.cancelled(tick)
        return cancel

    async def _owner(self, actor_type: str, actor_id: str) -> Owner:
        """Return who owns the actor at this moment; nothing has run since placement said so."""
        while True:
            if self._closed:
                raise RuntimeClosed("the actor runtime is closed")
            owner = self._placement.lookup(actor_type, actor_id)
            if owner is not None:
                return owner
            await self._placement.owner(actor_type, actor_id)

    def _kind(self, actor_type: str, actor_id: str, *, remote: bool) -> Kind:
        kind = self._kinds.get(actor_type)
        if kind is None or kind.hosted is None:  # withdrawn; placement has yet to say so
            raise _moved() if remote else NoHost(f"did not find address for actor '{actor_type}||{actor_id}'")
        return kind

    def _chained(self, call: ActorCall) -> Kind | None:
        """Return the type of an actor that waits, in the turn that runs here, for this very call: while its type is
        being placed anew nobody else may come, but without this call the turn would not end.
        """
        kind = self._kinds.get(call.actor_type)
        if kind is None or kind.hosted is None or kind.hosted.reentrancy is None:
            return None
        instance = kind.instances.get(call.actor_id)
        if instance is None or not instance.running:
            return None
        chain = instance.running[0].chain
        return kind if any(name == CHAIN and value == chain.encode() for name, value in call.headers) else None

    def _chain(self, headers: Headers) -> tuple[Headers, str]:
        """Return the chain that a call belongs to; one that belongs to none begins one."""
        for name, value in headers:
            if name == CHAIN and value:
                return headers, value.decode("latin-1")
        chain = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return [*headers, (CHAIN, chain.encode())], chain

    async def _routed(
        self, attempt: Callable[[], Awaitable[T]], again: type[ActorError] | tuple[type[ActorError], ...]
    ) -> T:
        try:
            return await attempt()
        except ActorError as error:
            return await self._again(attempt, error, again)

    async def _again(
        self,
        attempt: Callable[[], Awaitable[T]],
        error: ActorError,
        again: type[ActorError] | tuple[type[ActorError], ...],
    ) -> T:
        """Try again what failed with `error`, where that is among `again` and another try may help.

        An instance that was closed is gone when its calls are told, or its type is being placed: the next try waits by
        itself. Otherwise there is a pause, which a new round of placement ends.
        """
        loop = asyncio.get_running_loop()
        retries, closed, began = 0, 0, loop.time()
        while True:
            if not error.retryable or not isinstance(error, again):
                raise error
            closed += isinstance(error, ActorClosed)
            if not isinstance(error, ActorClosed) or closed > MOST_CLOSED:
                wait_s = self._retry.wait(retries, loop.time() - began, self._random.random)
                if wait_s is None:
                    raise error
                retries += 1
                log.debug("trying again in %g s: %s", wait_s, error)
                await self._pause(wait_s)
            try:
                return await attempt()
            except ActorError as another:
                error = another

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._round.wait()
        except TimeoutError:
            pass

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
        if kind.actor_type not in self._timers:
            self._watch(kind)
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
        self._wanted.pop(by, None)
        if types:
            self._wanted[by] = {hosted.actor_type: hosted for hosted in types}
        self._refresh()

    def store_changed(self, there: bool) -> None:
        """Whether there is an actor state store: without one nothing is hosted (1.1)."""
        if there is not self._has_store:
            self._has_store = there
            self._refresh()

    def _refresh(self) -> None:
        if self._closed:
            return
        effective: dict[str, Hosted] = {}
        if self._has_store:
            for types in self._wanted.values():
                effective |= types
        withdrawn = []
        for actor_type, kind in self._kinds.items():
            if kind.hosted is not None and actor_type not in effective:
                withdrawn.append((kind, kind.hosted))
                kind.host(None)
        for actor_type, hosted in effective.items():
            kind = self._kinds.get(actor_type) or Kind(actor_type)
            self._kinds[actor_type] = kind
            kind.host(hosted)
            self._watch(kind)
        self._placement.types(sorted(effective))
        for kind, hosted in withdrawn:
            self._tasks.start(self._withdraw(kind, hosted), f"withdraw {kind.actor_type}")

    async def _withdraw(self, kind: Kind, hosted: Hosted) -> None:
        await self._end(kind, hosted, list(kind.instances.values()))
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
        leaving = []
        for actor_type in actor_types:
            kind = self._kinds.get(actor_type)
            if kind is not None:
                gone = [one for one in kind.instances.values() if not stays(actor_type, one.actor_id)]
                if gone:
                    leaving.append((kind, gone))
        await self._end_all(leaving)

    async def halt_all(self) -> None:
        """The place is lost: every actor of every type comes to its end, and soon, for others may take over."""
        await self._end_all([(kind, list(kind.instances.values())) for kind in self._kinds.values()], LAST_TURNS_S)

    def settled(self, actor_types: Collection[str]) -> None:
        """Types may be looked up again: those who pause before another try go on, engines hear of it."""
        self._round.set()
        self._round = asyncio.Event()
        for actor_type in actor_types:
            kind = self._kinds.get(actor_type)
            if kind is not None and kind.hosted is not None and kind.hosted.settled is not None:
                kind.hosted.settled()

    async def _end_all(self, leaving: Sequence[tuple[Kind, list[Instance]]], most_s: float | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, instances in leaving:
                if kind.hosted is not None:
                    group.create_task(self._end(kind, kind.hosted, instances, most_s))
                else:  # withdrawn: their end has begun
                    group.create_task(_gone(instances, most_s))

    async def _end(self, kind: Kind, hosted: Hosted, instances: list[Instance], most_s: float | None = None) -> None:
        limit_s = hosted.drain_timeout_s if hosted.drain else 0.0
        if most_s is not None:
            limit_s = min(limit_s, most_s)
        await draining.end(kind, hosted, instances, self.meter, limit_s=limit_s)

    # --- idleness, shutdown ----------------------------------------------------------------------------------------

    def _watch(self, kind: Kind) -> None:
        """Look at the type again when its first instance may be idle; one timer for all of a type."""
        due = kind.next_check()
        timer = self._timers.pop(kind.actor_type, None)
        if timer is not None:
            timer.cancel()
        if due is not None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timers[kind.actor_type] = loop.call_at(due, self._look, kind)

    def _look(self, kind: Kind) -> None:
        if not self._closed:
            self._tasks.start(self._sweep(kind), f"idle {kind.actor_type}")

    async def _sweep(self, kind: Kind) -> None:
        hosted = kind.hosted
        if hosted is not None:
            await draining.deactivate_all(kind, hosted, iter(kind.take_idle, None), self.meter)
        self._watch(kind)

    async def close(self) -> None:
        """Let all actors come to their end within five seconds, however long their turns may run."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._round.set()
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await self.halt_all()
        except TimeoutError:
            log.warning("actors had not come to their end after %g s", SHUTDOWN_S)
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<ActorHost {list(self._kinds.values())}{' closed' if self._closed else ''}>"


def _moved() -> Moved:
    return Moved("remote actor moved")


async def _gone(instances: Sequence[Instance], most_s: float | None) -> None:
    if most_s is not None:
        await draining.quieten(instances, most_s, ActorClosed("actor is closed"))
    for instance in instances:
        if instance.closing is not None:
            await instance.closing.gone.wait()
