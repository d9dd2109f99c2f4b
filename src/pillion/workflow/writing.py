"""Writing one instance: one writer, through one lock, for as long as the store takes.

Knows: steps, and what a store's failures mean. Never knows: where a step comes from.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import LostPlace, Moved
from pillion.workflow.faults import StoreUnfit
from pillion.workflow.losses import Losses
from pillion.workflow.rows import Step

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.instance import Instance

log = logging.getLogger("pillion.workflow")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0


@dataclass(slots=True)
class Trouble:
    """Why the instance does not get on: since when (seconds since 1970), how often it was tried."""

    kind: str
    since: float
    error: str
    attempts: int = 1


class Gone(Exception):
    """The runner was closed while it waited: another host, or nobody, has the instance now."""


class Writing:
    """An instance that is written here. `dropped` and `failed` are for who drives it."""

    __slots__ = ("closed", "engine", "instance", "lock", "losses", "trouble")

    def __init__(self, engine: Engine, instance: Instance) -> None:
        self.engine = engine
        self.instance = instance
        self.losses = Losses.unpack(instance.losses)
        self.lock = asyncio.Lock()
        """Whoever writes holds it."""
        self.trouble: Trouble | None = None
        self.closed = False

    @property
    def instance_id(self) -> str:
        return self.instance.instance_id

    def dropped(self, error: Exception) -> None:
        """The instance was written by another host, or has moved."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """Something went wrong that should not."""
        raise NotImplementedError

    async def record(self, *, always: bool = False) -> bool:
        """See that what was lost is written down, with all that others lost meanwhile; False: the instance has gone."""
        try:
            async with self.lock:
                if not self.closed and (always or self.losses.pack() != self.instance.losses):
                    await self._write(Step(self.instance.inbox, self.instance.generation))
        except (Gone, LostPlace) as error:
            self.dropped(error)
        return not self.closed

    async def tries(self, task_id: int) -> bool:
        """Write that a suspect is about to be given to a worker; False: the instance has gone."""
        self.losses.trying(task_id)
        return await self.record()

    async def _write(self, step: Step) -> None:
        """Write a step, for as long as it takes; only the store's own failures are tried again.

        Raises `LostPlace`, `StoreUnfit`, and `Gone` when the runner is closed meanwhile.
        """
        if self.losses.tallies or self.instance.losses:
            step.losses = self.losses.pack()
        prepared = self.engine.rows.prepare(self.instance, step)
        pause_s = FIRST_PAUSE_S
        while True:
            if self.closed:
                raise Gone
            try:
                await self.engine.rows.write(self.instance, step, prepared)
            except (LostPlace, StoreUnfit):
                raise
            except ComponentError as error:
                now = self.engine.surroundings.clock.now()
                if self.trouble is None:
                    self.trouble = Trouble("store", now, str(error))
                    log.warning("workflow '%s': the state store fails, trying again: %s", self.instance_id, error)
                else:
                    self.trouble.attempts += 1
                    self.trouble.error = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self.trouble = None
                return

    async def begin(self, step: Step) -> None:
        """Write the step that creates the instance; the caller holds `lock`. Raises `Moved` when it has to leave."""
        self.losses = Losses()
        try:
            await self._write(step)
        except Gone:
            raise Moved(f"workflow '{self.instance_id}' has moved while it was created") from None
