"""Instances that are to begin and wait in the store, for there is more to do than workers take: what has begun ends
first.

Knows: how much is in progress. Never knows: how an instance begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine


class Admission:
    """Lets them in, the one that came first first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outside: dict[str, None] = {}
        self._coming: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether instances that begin wait in the store: the queue of work is long, or as much is in progress here as
        the workers' streams may hold."""
        engine = self._engine
        bounds, workers = engine.surroundings.bounds, engine.workers
        in_progress = len(engine.runners) - len(engine.idle) + len(self._coming)
        return workers.queued >= bounds.queued_items or in_progress >= bounds.in_progress * max(1, workers.count)

    def wait(self, instance_id: str) -> None:
        """This one waits in the store."""
        self._outside[instance_id] = None

    def room(self) -> None:
        """A worker took an item, or an instance came to rest: there may be room for some."""
        engine = self._engine
        while self._outside and len(self._coming) < engine.surroundings.bounds.resuming and not self.full:
            instance_id = next(iter(self._outside))
            del self._outside[instance_id]
            if instance_id not in engine.runners and not engine.closed:
                self._coming.add(instance_id)
                engine.tasks.start(self._admit(instance_id), "admit")

    async def _admit(self, instance_id: str) -> None:
        engine = self._engine
        try:
            with engine.later.reading(instance_id):
                await engine.find(instance_id)
        finally:
            self._coming.discard(instance_id)
            self.room()

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._outside

    def __len__(self) -> int:
        return len(self._outside)

    def __repr__(self) -> str:
        return f"<Admission {len(self._outside)} outside, {len(self._coming)} coming>"
