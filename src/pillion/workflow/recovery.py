"""What a host does when it may have become the owner of instances: list their jobs, and resume those that are its own.

The jobs of the type are the index of unfinished instances (each has a `wake`, or a reminder that a reference sidecar
left). Knows: jobs and owners. Never knows: what resuming means.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import NoHost

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine

log = logging.getLogger("pillion.workflow")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class Recovery:
    """Runs one recovery at a time; a round of placement during one leads to another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wanted = False
        self._running = False
        self.trouble = ""
        """Why the last attempt failed, "" when it did not."""

    def settled(self) -> None:
        """The owners may have changed."""
        self._wanted = True
        if not self._running:
            self._running = True
            self._engine.tasks.keep(self._run, "recovery")

    async def _run(self) -> None:
        """Until nobody wants another recovery. After a surprise it is still running: then this is called again."""
        pause_s = FIRST_PAUSE_S
        while self._wanted:
            self._wanted = False
            try:
                await self._recover()
            except NoHost:
                break  # our types were withdrawn: the next round calls again
            except ComponentError as error:
                self.trouble = str(error)
                log.warning("workflows cannot be resumed, trying again: %s", error)
                self._wanted = True
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except Exception as error:
                self.trouble, self._wanted = repr(error), True
                raise
            else:
                self.trouble = ""
                pause_s = FIRST_PAUSE_S
        self._running = False

    async def _recover(self) -> None:
        engine = self._engine
        actors, actor_type = engine.surroundings.actors, engine.workflow_type
        for instance_id in list(engine.runners):
            owner = await actors.owner(actor_type, instance_id)
            if not owner.local:
                engine.moved(instance_id)
        names = engine.surroundings.names
        jobs = await engine.surroundings.scheduler.list_reminders(names.namespace, actor_type)
        found = dict.fromkeys(key.actor_id for key, _ in jobs)
        waiting: list[asyncio.Task[None]] = []
        places = asyncio.Semaphore(engine.surroundings.bounds.resuming)
        for instance_id in found:
            if instance_id in engine.runners or instance_id in engine.creating:
                continue
            owner = await actors.owner(actor_type, instance_id)
            if owner.local:
                await places.acquire()
                waiting.append(engine.tasks.start(self._resume(instance_id, places), "resume"))
        if waiting:
            await asyncio.wait(waiting)

    async def _resume(self, instance_id: str, places: asyncio.Semaphore) -> None:
        engine = self._engine
        try:
            with engine.later.reading(instance_id, "cannot be resumed, trying again"):
                owner = await engine.surroundings.actors.owner(engine.workflow_type, instance_id)
                # Nothing is awaited in between: the place may have been lost since the job was listed.
                runner = await engine.find(instance_id) if owner.local else None
                if runner is not None and runner.instance.facts.completed is not None:
                    engine.finish(runner)
        finally:
            places.release()
