"""Ports for driving the workflow engine without a cluster: one host that owns everything, a scheduler in memory.

They keep the promises of `kinds.actors.Actors` and `kinds.jobs.Scheduler` that the engine relies on, no more. What they
hold outlives a hub, so that a new one on the same rig is what a restarted process is.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, cast

from pillion.clock import SystemClock
from pillion.jobs.validate import check_key
from pillion.kinds.actors import ActorReply, NoHost, Owner, Tick
from pillion.kinds.config import Workflow
from pillion.kinds.jobs import JobExists
from pillion.workflow.service import Hub
from pillion.workflow.surroundings import Bounds, Names, Surroundings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.actors import ActorCall, Actors, Hosted, StreamHandler
    from pillion.kinds.jobs import Job, JobKey, Scheduler
    from pillion.kinds.state import TransactionalStore


class OneHost:
    """Actors of a host that owns every instance of the types it hosts."""

    def __init__(self) -> None:
        self.types: dict[str, Hosted] = {}
        self._others: dict[str, Hosted] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def _found(self, actor_type: str) -> Hosted:
        hosted = self.types.get(actor_type) or self._others.get(actor_type)
        if hosted is None:
            raise NoHost(f"did not find address for actor '{actor_type}'")
        return hosted

    def join(self, other: OneHost) -> None:
        """Reach the types of another application's host, too."""
        self._others = other.types

    async def invoke(self, call: ActorCall) -> ActorReply:
        return await self._found(call.actor_type).handler.invoke(call)

    async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        handler = cast("StreamHandler", self._found(call.actor_type).handler)
        async for item in handler.stream(call):
            yield item

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        self._found(actor_type)
        return Owner("127.0.0.1:1", "app", "default", actor_type in self.types)

    def host(self, by: str, types: Sequence[Hosted]) -> None:
        gone = {name: hosted for name, hosted in self.types.items() if name not in {one.actor_type for one in types}}
        self.types.clear()
        self.types.update({one.actor_type: one for one in types})
        for hosted in types:
            if hosted.settled is not None:
                asyncio.get_running_loop().call_soon(hosted.settled)
        del gone

    async def halt(self, actor_type: str, actor_id: str) -> None:
        pass

    def hosts(self, actor_type: str) -> bool:
        return actor_type in self.types

    def active(self) -> dict[str, int]:
        return dict.fromkeys(self.types, 0)


class JobsInMemory:
    """One-shot jobs of actors, fired when due as long as somebody takes them. Everything else is not offered."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jobs: dict[JobKey, Job] = {}
        self.deliver: Callable[[Tick], object] | None = None
        self._handles: dict[JobKey, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.scheduled = 0

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        check_key(key)
        if key in self.jobs and not overwrite:
            raise JobExists(f"job {key.text} exists")
        self.scheduled += 1
        self.jobs[key] = job
        self._arm(key, job)

    def _arm(self, key: JobKey, job: Job) -> None:
        if (handle := self._handles.pop(key, None)) is not None:
            handle.cancel()
        due = datetime.fromisoformat(job.due_time.replace("Z", "+00:00")).timestamp()
        loop = asyncio.get_running_loop()
        self._handles[key] = loop.call_later(max(0.0, due - self.clock.now()), self._fire, key, job)

    def _fire(self, key: JobKey, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._tick(key, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self, key: JobKey, job: Job) -> None:
        tick = Tick(key.actor_type, key.actor_id, key.name, payload=job.payload)
        host = self.host
        try:
            if host is None or key.actor_type not in host.types:
                raise NoHost("nobody takes it")
            await host.types[key.actor_type].handler.tick(tick)
        except Exception:
            if self.jobs.get(key) is job:
                self._handles[key] = asyncio.get_running_loop().call_later(1.0, self._fire, key, job)
        else:
            if self.jobs.get(key) is job:
                del self.jobs[key]

    host: OneHost | None = None

    async def fire(self, key: JobKey) -> None:
        """Fire a job now, whatever its due time."""
        await self._tick(key, self.jobs[key])

    async def get(self, key: JobKey) -> Job | None:
        return self.jobs.get(key)

    async def delete(self, key: JobKey) -> None:
        self.jobs.pop(key, None)
        if (handle := self._handles.pop(key, None)) is not None:
            handle.cancel()

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        for key in keys:
            await self.delete(key)

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        return [
            (key, job)
            for key, job in self.jobs.items()
            if key.actor_type == actor_type and actor_id in (None, key.actor_id)
        ]

    def stop(self) -> None:
        """The process ends: nothing fires until `start`."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
        for task in self._tasks:
            task.cancel()

    def start(self) -> None:
        for key, job in self.jobs.items():
            self._arm(key, job)


@dataclass
class Rig:
    """What a sidecar gives the engine. `hub` makes a new process on the same store and jobs."""

    store: TransactionalStore
    clock: Clock = field(default_factory=SystemClock)
    app_id: str = "app"
    config: Workflow = field(default_factory=Workflow)
    bounds: Bounds = field(default_factory=lambda: Bounds(linger_s=0.01))
    seed: int = 1

    def __post_init__(self) -> None:
        self.jobs = JobsInMemory(self.clock)
        self.random = random.Random(self.seed)
        self.actors = OneHost()

    def hub(self) -> Hub:
        self.actors = OneHost()
        self.jobs.host = self.actors
        return Hub(
            Surroundings(
                names=Names("default", self.app_id), clock=self.clock, random=self.random, store=lambda: self.store,
                actors=cast("Actors", self.actors), scheduler=cast("Scheduler", self.jobs), config=self.config,
                bounds=self.bounds,
            )
        )  # fmt: skip
