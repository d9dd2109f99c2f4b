"""The host of actors: calls find the one place where their actor lives (spec 1.4).

    invoke, tick, stream -> placement says who owns the actor
        this host   -> a claim on the instance, a turn, the handler (`residents.py`)
        another one -> its sidecar, once; a sidecar never passes on what was passed on to it

Knows: routing, chains of calls, policies. Never knows: HTTP, messages, the ring.
"""

from __future__ import annotations

import random as system_random
import uuid
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pillion.actors.away import Away
from pillion.actors.meter import Uncounted as Uncounted
from pillion.actors.residents import Residents
from pillion.actors.retrying import SAFE, Retries
from pillion.actors.streams import local_stream
from pillion.kinds.actors import (
    ActorClosed,
    ActorError,
    ConnectionLost,
    Moved,
    NoHost,
    OutcomeUnknown,
    RuntimeClosed,
)
from pillion.resiliency.builtin import BUILT_IN, BuiltIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from pillion.actors.instances import Kind
    from pillion.actors.meter import Meter
    from pillion.kinds.actors import ActorCall, ActorReply, Handler, Headers, Owner, Placement, Tick
    from pillion.resiliency.machine import Retry
    from pillion.resiliency.policies import ActorPolicies
    from pillion.resiliency.run import Policy

CHAIN = b"dapr-reentrancy-id"


class Peers(Protocol):
    """The way to the sidecars that own the other actors. All raise `ActorError`s."""

    async def invoke(self, owner: Owner, call: ActorCall) -> ActorReply: ...

    async def tick(self, owner: Owner, tick: Tick) -> None: ...

    def stream(self, owner: Owner, call: ActorCall) -> AsyncIterator[bytes]: ...


class Guards(Protocol):
    """The policies of `spec.targets.actors`."""

    def actor(self, actor_type: str, actor_id: str) -> ActorPolicies | None: ...


class ActorHost(Residents):
    """The actors that live here, and the way to all others: satisfies `kinds.actors.Actors`, and `Hosting` towards
    placement.

    `policies` None: none are configured. `retry` returns the built-in policy of routing, which applies to types without
    policies of their own, and which may change at any time. `cancelled` is told when an actor that lives here wants a
    reminder cancelled.
    """

    def __init__(
        self,
        placement: Placement,
        peers: Peers,
        *,
        policies: Guards | None = None,
        retry: Callable[[], Retry] = lambda: BUILT_IN[BuiltIn.ACTOR_NOT_FOUND],
        random: system_random.Random | None = None,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(placement, meter)
        self._peers = peers
        self._policies = policies
        self._random = random or system_random.Random()
        self._retries = Retries(retry, self._random)
        self._away = Away(placement, self._tasks)
        self.cancelled: Callable[[Tick], Awaitable[None]] | None = None

    # --- calls ---------------------------------------------------------------------------------------------------

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Call the actor wherever it lives. A call that is `remote` has been routed before: here, or `Moved`."""
        policies = self._policies
        if call.once and not call.remote:
            return await self._retries.run(partial(self._invoke_once, call), ActorError)
        found = None if policies is None else policies.actor(call.actor_type, call.actor_id)
        if found is None:
            try:
                return await self._invoke(call, None)
            except ActorError as error:
                return await self._retries.again(
                    partial(self._invoke, call, None), error, ActorClosed if call.remote else ActorError
                )
        attempt = partial(self._invoke, call, found.within)
        if found.around is None or call.remote:
            return await self._retries.run(attempt, ActorClosed if call.remote else SAFE)
        return await found.around(partial(self._retries.run, attempt, SAFE))

    async def tick(self, tick: Tick, *, remote: bool = False, still: Callable[[], bool] | None = None) -> bool:
        """Run a reminder or a timer as a turn of its actor; True: it lives here and wants no more of them.

        `still` is asked when the turn begins, where that is here; False: the tick is not wanted any more.
        """
        return await self._retries.run(partial(self._tick, tick, remote, still), ActorClosed if remote else ActorError)

    async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        """Call a method that answers many times. An actor that leaves ends the stream with an error that is
        `retryable`: the caller asks again.
        """
        owner = await self._retries.run(partial(self._owner, call.actor_type, call.actor_id), ActorError)
        if not owner.local:
            if call.remote:
                raise _moved()
            items = self._peers.stream(owner, call)
            async for item in self._away.each(owner, call.actor_type, call.actor_id, items):
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
        return await self._away.run(owner, actor_type, actor_id, self._peers.invoke(owner, call))

    async def _invoke_once(self, call: ActorCall) -> ActorReply:
        """`_invoke`, where only what has surely not begun may be tried again; policies are not asked."""
        try:
            return await self._invoke(call, None)
        except (ConnectionLost, ActorClosed) as error:
            raise OutcomeUnknown(str(error)) from error

    async def _tick(self, tick: Tick, remote: bool, still: Callable[[], bool] | None) -> bool:
        owner = await self._owner(tick.actor_type, tick.actor_id)
        if not owner.local:
            if remote:
                raise _moved()
            await self._away.run(owner, tick.actor_type, tick.actor_id, self._peers.tick(owner, tick))
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

    # --- what placement and shutdown tell --------------------------------------------------------------------------

    def settled(self, actor_types: Collection[str]) -> None:
        """Types may be looked up again: those who pause before another try go on, those who wait at a host that lost
        their actor do so soon, engines hear of it.
        """
        self._retries.wake()
        self._away.settled()
        super().settled(actor_types)

    async def close(self) -> None:
        """Let all actors come to their end within five seconds, however long their turns may run."""
        self._retries.wake()
        await super().close()


def _moved() -> Moved:
    return Moved("remote actor moved")
