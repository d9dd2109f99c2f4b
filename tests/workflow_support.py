"""A hub with a worker on a store, for tests of the workflow engine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context as ComponentContext
from pillion.testing.workflow_rig import Rig
from pillion.testing.workflow_worker import Executor, InProcess, Worker
from pillion.wire.messages import taskhub as m
from pillion.workflow.faults import NotReady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from pillion.kinds.state import TransactionalStore
    from pillion.workflow.service import Hub

WAIT_S = 90.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test, for so long at most."""

    async def limited() -> None:
        async with asyncio.timeout(WAIT_S):
            await work

    asyncio.run(limited())


def memory_store() -> MemoryState:
    return MemoryState(MemoryStateSettings(), ComponentContext(name="store"))


class Bench:
    """A rig, the hub of the moment and its workers. `restart` drops the hub as a killed process is dropped."""

    def __init__(
        self,
        workflows: Mapping[str, Callable[..., Any]],
        activities: Mapping[str, Callable[..., Any]] | None = None,
        *,
        store: TransactionalStore | None = None,
        rig: Rig | None = None,
        stateful: bool = False,
        patches: list[str] | None = None,
    ) -> None:
        self.rig = rig or Rig(store or memory_store())
        self.workflows, self.activities = dict(workflows), dict(activities or {})
        self.stateful = stateful
        self.patches = patches
        self.executor = self._executor()
        self.hub: Hub = self.rig.hub()
        self.worker: Worker | None = None

    def _executor(self) -> Executor:
        return Executor(self.workflows, self.activities, stateful=self.stateful, patches=self.patches)

    def connect(self) -> Worker:
        """A worker connects."""
        self.executor = self._executor()
        self.worker = Worker(self.executor, InProcess(self.hub, stateful=self.stateful))
        return self.worker

    async def disconnect(self) -> None:
        if self.worker is not None:
            await self.worker.close()
            self.worker = None

    async def kill(self) -> None:
        """Everything in memory is lost, and nobody says a last word; store and jobs stay."""
        self.rig.jobs.stop()
        await self.disconnect()
        engine = self.hub.engine
        for runner in list(engine.runners.values()):
            engine.discard(runner, NotReady("the process is killed"))
        await self.hub.close()

    async def stop(self) -> None:
        """The process ends in order."""
        self.rig.jobs.stop()
        await self.disconnect()
        await self.hub.close()

    async def restart(self, *, gently: bool = False) -> None:
        await (self.stop() if gently else self.kill())
        self.hub = self.rig.hub()
        self.rig.jobs.start()
        self.connect()

    async def done(self, instance_id: str) -> Any:
        """The snapshot of the finished instance."""
        async with asyncio.timeout(WAIT_S):
            return await self.hub.wait_completion(instance_id)

    async def history(self, instance_id: str) -> list[m.HistoryEvent]:
        return [m.HistoryEvent.FromString(raw) for raw in await self.hub.history(instance_id) or []]

    async def kinds(self, instance_id: str) -> list[str]:
        return [event.WhichOneof("eventType") or "" for event in await self.history(instance_id)]

    async def quiet(self) -> None:
        """Wait until no duty is left: no instance in memory is finished, no job of a finished one is registered."""
        async with asyncio.timeout(WAIT_S):
            engine = self.hub.engine
            while any(one.finishing is not None for one in engine.runners.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)


@asynccontextmanager
async def bench(
    workflows: Mapping[str, Callable[..., Any]], activities: Mapping[str, Callable[..., Any]] | None = None, **more: Any
) -> AsyncIterator[Bench]:
    made = Bench(workflows, activities, **more)
    made.connect()
    try:
        yield made
    finally:
        await made.kill()
