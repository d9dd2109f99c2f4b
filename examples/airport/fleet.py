"""The fleet: an actor for each aircraft, by its tail number, that follows it through the days.

Official SDK; the actors are called over a gRPC stream that this application opens, so it needs no web server. The
sidecars let one turn at a time run for an aircraft, on whichever instance of this service it lives, and write its state
after the turn. A flight may be told more than once: it is entered in the log under its name.

An aircraft that arrives much too late is chased: a reminder, which outlives this process, fires a moment later, is
noted once and goes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta
from typing import Any

from dapr.actor import Actor, ActorInterface, Remindable, actormethod
from dapr.actor.runtime.config import ActorRuntimeConfig
from dapr.actor.runtime.grpc_host import ActorGrpcHost
from dapr.actor.runtime.runtime import ActorRuntime

import logbook

CHASE_AFTER = timedelta(seconds=1)
IDLE = timedelta(hours=1)
EMPTY: logbook.Log = {"flights": {}, "chased": []}


class AircraftInterface(ActorInterface):
    """What can be asked of an aircraft."""

    @actormethod(name="Follow")
    async def follow(self, flight: object) -> object: ...

    @actormethod(name="Report")
    async def report(self) -> object: ...


class Aircraft(Actor, AircraftInterface, Remindable):
    """Its log: flights by name, and the names of those for which it was chased."""

    async def follow(self, flight: Any) -> object:
        """Enter a flight."""
        before = await self._log()
        after = logbook.entered(before, flight)
        if after == before:
            return {"entered": False}
        if logbook.is_to_be_chased(flight):  # before the log is written: what is told again registers it again
            await self.register_reminder(flight["name"], b"", CHASE_AFTER)
        await self._state_manager.set_state("log", after)
        return {"entered": True}

    async def report(self) -> object:
        """Say how things stand."""
        return logbook.summary(await self._log())

    async def receive_reminder(
        self, name: str, state: bytes, due_time: timedelta, period: timedelta | None, ttl: timedelta | None = None
    ) -> None:
        """Chase the aircraft for a flight."""
        before = await self._log()
        after = logbook.chased(before, name)
        if after != before:
            await self._state_manager.set_state("log", after)

    async def _log(self) -> logbook.Log:
        there, found = await self._state_manager.try_get_state("log")
        return found if there else EMPTY


async def main() -> None:
    ActorRuntime.set_actor_config(ActorRuntimeConfig(actor_idle_timeout=IDLE))
    host = ActorGrpcHost(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}", app_port=int(os.environ["APP_PORT"]))
    await host.register_actor(Aircraft)
    await host.run_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main())
