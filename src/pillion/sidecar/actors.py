"""The actor runtime of one sidecar, put together: placement, host, state, timers, reminders and their edges.

    actors = ActorRuntime(ground)               when the surface is built
    actors.open("10.0.0.7:50002")               when the internal port is known
    await actors.ask()                          when the application is well, before anything is delivered to it
    actors.application(True)                    each time the application becomes well, or unwell
    await actors.release(2.0)                   the application is about to end
    await actors.halt()                         no more turns: instances are deactivated, while the application listens

Knows: who is told what when something changes. Never knows: how any of it works.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from pillion.actors.host import ActorHost, Uncounted
from pillion.actors.placement import HEALTH_TARGET, Placement
from pillion.actors.placement_link import grpc_dial, resolve
from pillion.actors.reminders import SchedulerReminders
from pillion.actors.seat import Seat
from pillion.actors.settings import from_json
from pillion.actors.state import ActorState
from pillion.actors.timers import Timers
from pillion.app.actor_stream import ActorStreams
from pillion.app.actors import HttpActors
from pillion.blocks.actor_access import TTL_FEATURE, ActorAccess, ActorParts, Gate
from pillion.blocks.actor_stream import ActorStreamBlock
from pillion.blocks.actors import ActorsBlock
from pillion.blocks.metadata import ActorFacts
from pillion.clock import SystemClock
from pillion.errors import ConfigError
from pillion.observe.actor_meters import ActorMeter, PlacementMeter
from pillion.peers.actors import PeerActors
from pillion.resiliency.builtin import BuiltIn
from pillion.serve.internal_actors import InternalActors
from pillion.sidecar.actor_store import ActorStore
from pillion.sidecar.app_configuration import AppConfiguration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.api.operation import Operation
    from pillion.kinds.actors import Hosted
    from pillion.net.exchange import Method
    from pillion.sidecar.components import Loaded
    from pillion.sidecar.ground import Ground

log = logging.getLogger("pillion.sidecar.actors")
APP = "app"
"""In whose name the types of the application are hosted."""


class ActorRuntime:
    """Made when a placement service is named.

    `host` is there for whoever else hosts actors here, `store` is the store of their state.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        options, namespace, channel, meters = ground.options, ground.namespace, ground.channel, ground.meters
        policies, scheduler, scheduling = ground.policies, ground.scheduler, ground.scheduling
        self._question = AppConfiguration(ground)
        self._types: list[Hosted] = []
        self._released = False
        registry = meters.registry
        meter = ActorMeter(registry) if registry is not None else Uncounted()
        self._place = Seat(scheduling.types, self._placed)
        self.host = ActorHost(
            self._place, PeerActors(ground.pool), policies=policies,
            retry=lambda: policies.retry(BuiltIn.ACTOR_NOT_FOUND), meter=meter,
        )  # fmt: skip
        self._place.host = self.host
        self.store = ActorStore(policies, meters.of("state"))
        app_id = options.app_id
        self.state = ActorState(app_id, self.host, self.store.find, address=ground.address)
        self._timers = Timers(self.host, SystemClock(), meter)
        self.reminders = SchedulerReminders(self.host, scheduler, app_id, namespace, meter)
        self.host.cancelled = self.reminders.cancelled
        scheduling.reminders = self.reminders.deliver

        # The edges.
        self.gate = Gate()
        parts = ActorParts(
            app_id, namespace, self.host, self.state, self._timers, self.reminders, scheduler,
            ttl=ground.config.enabled(TTL_FEATURE),
        )  # fmt: skip
        self._streams = ActorStreams()
        self._http = HttpActors(channel) if channel is not None and channel.http is not None else None
        self._stream_block = ActorStreamBlock(
            self.gate, self._streams, self._host_streams,
            disseminate_timeout_s=options.actors_disseminate_timeout, allowed=self._http is None,
        )  # fmt: skip
        self._block = ActorsBlock(ActorAccess(self.gate, parts))
        self._internal = InternalActors(self.host, tracer=ground.tracer)

    def operations(self) -> list[Operation]:
        """The rows of the API."""
        return [*self._block.operations(), *self._stream_block.operations()]

    def methods(self) -> dict[str, Method]:
        """What other sidecars call."""
        return self._internal.methods()

    def rank(self, actor_type: str) -> tuple[int, int]:
        """Where this sidecar stands among the hosts of a type, and how many they are."""
        return self._place.rank(actor_type)

    def facts(self) -> ActorFacts:
        """What the metadata API tells."""
        placement = self._place.placement
        connected = placement is not None and placement.connected
        ready = self.gate.is_open and placement is not None and placement.ready
        return ActorFacts(
            "RUNNING" if self.gate.is_open else "INITIALIZING", self.host.active(), ready,
            f"placement: {'connected' if connected else 'disconnected'}",
        )  # fmt: skip

    # --- life ----------------------------------------------------------------------------------------------------

    async def open(self, address: str) -> None:
        """Take a place among the hosts under `address`, `host:port` of the internal server."""
        ground, options = self._ground, self._ground.options
        ground.readiness.expect(HEALTH_TARGET)
        registry = ground.meters.registry
        self._place.placement = placement = Placement(
            options.placement_host_address,
            host_name=address,
            app_id=options.app_id,
            namespace=ground.namespace,
            hosting=self._place,
            dial=grpc_dial(),
            clock=SystemClock(),
            random=random.Random(),
            disseminate_timeout_s=options.actors_disseminate_timeout,
            resolve=resolve,
            meter=PlacementMeter(registry) if registry is not None else None,
        )
        self.store_changed()
        self._place.types(sorted(self._place.hosted))
        await placement.open()

    def _placed(self) -> None:
        """A table is in force."""
        self._ground.readiness.ready(HEALTH_TARGET)

    async def release(self, most_s: float) -> None:
        """The application is about to end: its timers and its actors come to their end, and none lives here any more.
        Turns that run get `most_s` seconds at the most. What the sidecar itself hosts, and calls of others, go on.
        """
        self._released = True
        await self._timers.close()
        await self.host.release(APP, most_s)

    async def halt(self) -> None:
        """No more turns. Those that run may end, and save, within five seconds; then this host leaves the table."""
        await self._timers.close()
        await self.host.close()
        if self._place.placement is not None:
            await self._place.placement.close()
        self.gate.close()
        self._stream_block.close()

    # --- what changes --------------------------------------------------------------------------------------------

    def component_changed(self) -> None:
        """Some state store came or went."""
        if self._place.placement is not None:
            self.store_changed()

    def store_changed(self) -> None:
        """Use the store that is marked now; the same one under new policies is no change for those who run."""
        self.store.use(self._ground.components.actor_store)
        self.host.store_changed(self.store.find() is not None)

    async def component_leaving(self, loaded: Loaded) -> None:
        """A component is about to go. Without a store nothing is hosted: first the turns that run come to an end."""
        if self.store.is_of(loaded) and self._ground.components.actor_store is loaded:
            types = sorted(self._place.hosted)
            self.host.store_changed(False)
            await self.host.drain(types, lambda actor_type, actor_id: False)

    async def ask(self) -> None:
        """Ask an HTTP application, which is well, what it hosts, unless it has answered before. One that does not speak
        HTTP dials when it hosts something, and until then hosts nothing.
        """
        body = await self._question.ask()
        if body is not None and self._http is not None:
            self._types = self._read(body, self._http)

    def application(self, healthy: bool) -> None:
        """The application became well, or unwell."""
        self._host_types(self._types if healthy else [])
        if healthy:
            self.gate.open()

    def _read(self, body: bytes, handler: HttpActors) -> list[Hosted]:
        """Return what the application hosts; what it says wrongly is logged, and then it hosts nothing."""
        if not body.strip():
            return []
        try:
            limit_s = self._ground.options.actors_disseminate_timeout
            settings = from_json(body, disseminate_timeout_s=limit_s, warn=log.warning)
        except ConfigError as error:
            log.error("the application hosts no actors, because its configuration cannot be used: %s", error)
            return []
        found = [one.hosted(handler) for one in settings]
        if found:
            log.info("the application hosts actors of the types %s", ", ".join(one.actor_type for one in found))
            if self.store.find() is None:
                log.warning("no state store is marked as actorStateStore: no actors are hosted")
        return found

    def _host_streams(self, types: Sequence[Hosted]) -> None:
        self._types = list(types)
        self._host_types(self._types)

    def _host_types(self, types: list[Hosted]) -> None:
        if not self._released:
            self.host.host(APP, types)

    def __repr__(self) -> str:
        return f"<ActorRuntime {self.gate!r} {self.host!r}>"
