"""Instances that could not be read, or went wrong: they are read anew after a while, later and later.

Knows: how often. Never knows: what went wrong.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import NoHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillion.workflow.engine import Engine

log = logging.getLogger("pillion.workflow")


class Later:
    """One for each engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._failures: dict[str, int] = {}

    def well(self, instance_id: str) -> None:
        """It got on: the next failure is a first one again."""
        self._failures.pop(instance_id, None)

    def resume(self, instance_id: str) -> None:
        if self._engine.closed:
            return
        count = self._failures[instance_id] = self._failures.get(instance_id, 0) + 1
        pause_s = min(0.5 * 2 ** min(count, 10), 60.0)
        self._engine.tasks.start(self._resume(instance_id, pause_s), "resume")

    @contextmanager
    def reading(self, instance_id: str, what: str = "cannot be read") -> Iterator[None]:
        """Whatever fails inside is logged, and the instance is read anew after a while."""
        try:
            yield
        except ComponentError as error:
            log.warning("workflow '%s' %s: %s", instance_id, what, error)
            self.resume(instance_id)
        except Exception:
            log.exception("workflow '%s' %s", instance_id, what)
            self.resume(instance_id)

    async def _resume(self, instance_id: str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        with self.reading(instance_id):
            try:
                owner = await self._engine.surroundings.actors.owner(self._engine.workflow_type, instance_id)
                if owner.local:
                    await self._engine.find(instance_id)
            except NoHost:
                self._failures.pop(instance_id, None)

    def __repr__(self) -> str:
        return f"<Later: {len(self._failures)} instances>"
