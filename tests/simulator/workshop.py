"""Sidecars that host workflows, workers beside them, and a client that asks any of them: what the stories share.

Clients of one application ask sidecars of that application, as workers do. Knows: who runs where. Never
knows: programs, what is promised.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from pillion.errors import ComponentError
from pillion.kinds.config import Workflow
from pillion.testing.simulation import Broken, Wire
from pillion.testing.workflow_worker import InProcess, Worker
from pillion.workflow.faults import (
    InstanceMissing,
    NotCompleted,
    RerunExists,
    RerunMissing,
    RerunRefused,
)
from pillion.workflow.service import Hub
from pillion.workflow.surroundings import Bounds, Names, Surroundings
from simulator.cluster import APP, NAMESPACE
from simulator.faults import heal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.kinds.actors import Hosted
    from pillion.testing.simulation import Host
    from pillion.testing.workflow_worker import Executor
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.snapshot import Inspection
    from simulator.cluster import Cluster, Sidecar

T = TypeVar("T")
CALL_S = 8.0
"""How long a client waits for an answer."""
BOUNDS = Bounds(linger_s=0.5, first_wake_s=20.0, last_wake_s=40.0, near_timer_s=30.0, idle_instances=3)
ANSWERS = (InstanceMissing, NotCompleted, RerunExists, RerunMissing, RerunRefused)
"""Faults that say how it is; others go away when a client asks again."""


class SlowTransport(InProcess):
    """A worker that takes its time to answer a turn."""

    random: Any = None

    async def complete_workflow(self, answer: m.WorkflowResponse) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.005, 0.5)))
        await super().complete_workflow(answer)


class Workshop:
    """`homes` names the sidecars and the application of each; `made` makes the code that a worker on a host has."""

    config = Workflow()
    bounds = BOUNDS
    transport = SlowTransport

    def __init__(
        self,
        cluster: Cluster,
        homes: Mapping[str, str],
        made: Callable[[Host, str, bool], Executor],
        *,
        loss: float = 0.01,
    ) -> None:
        self.cluster, self.world, self.homes = cluster, cluster.world, homes
        self._made = made
        self.hubs: dict[Host, Hub] = {}
        self.workers: dict[Host, list[Worker]] = {}
        self.client = cluster.world.host("client")
        self.wire = Wire(cluster.world, loss=loss)
        self.stopping = False
        self.going: dict[asyncio.Task[None], None] = {}

    # -- sidecars and workers

    def start(self, name: str) -> None:
        sidecar = self.cluster.start(name, self._types, app=self.homes[name])
        sidecar.host.start(self._work(sidecar))

    def _types(self, sidecar: Sidecar) -> list[Hosted]:
        host = sidecar.host
        self.hubs[host] = Hub(
            Surroundings(
                names=Names(NAMESPACE, sidecar.app), clock=host.clock, random=host.random,
                store=lambda: sidecar.store, actors=sidecar.actors, scheduler=sidecar.scheduler,
                address=sidecar.address, config=self.config, bounds=self.bounds, rank=sidecar.seat.rank,
            )
        )  # fmt: skip
        return []

    async def _work(self, sidecar: Sidecar) -> None:
        await sidecar.booted.wait()
        host = sidecar.host
        self.workers[host] = []
        for _ in range(host.random.choice((1, 2))):
            self.attach(sidecar)

    def attach(self, sidecar: Sidecar) -> None:
        """A worker connects."""
        host = sidecar.host
        stateful = host.random.random() < 0.5
        transport = self.transport(self.hubs[host], stateful=stateful)
        transport.random = host.random
        worker = Worker(self._made(host, sidecar.app, stateful), transport)
        worker.ended.add_done_callback(self._worker_ended)
        self.workers[host].append(worker)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.cluster.wrong.append(f"a worker failed: {error!r}")

    def lose_worker(self) -> None:
        """A worker is killed; another comes a while later."""
        random = self.world.random
        sidecars = [sidecar for sidecar in self.cluster.up if self.workers.get(sidecar.host)]
        if not sidecars:
            return
        sidecar = random.choice(sidecars)
        self.world.tell(f"{sidecar.name} loses a worker")

        async def replace() -> None:
            host = sidecar.host
            if not self.workers[host]:
                return
            worker = self.workers[host].pop(0)
            await worker.close()
            await asyncio.sleep(host.random.choice((0.0, 0.3, 3.0)))
            self.attach(sidecar)

        sidecar.host.start(replace())

    # -- clients

    async def ask(self, act: Callable[[Hub], Awaitable[T]], *, app: str = APP) -> T:
        """Ask some sidecar. Raises its fault, `Broken` and `TimeoutError`: then it may have been done or not."""
        ready = [
            one for one in self.cluster.up if one.app == app and one.booted.is_set() and not one.host.paused
        ]  # fmt: skip
        if not ready:
            await asyncio.sleep(0.5)
            raise Broken("no sidecar is up")
        host = self.client.random.choice(ready).host
        async with asyncio.timeout(CALL_S):
            return await self.wire.call(self.client, host, lambda: act(self.hubs[host]))

    async def surely(self, act: Callable[[Hub], Awaitable[T]], *, app: str = APP) -> T:
        """Ask until there is an answer; only for what may be done twice."""
        while True:
            try:
                return await self.ask(act, app=app)
            except ANSWERS:
                raise
            except (ComponentError, TimeoutError):
                await asyncio.sleep(0.5)

    def go(self, work: Any) -> None:
        """Let a client's work go its way beside all others; it has to end when peace has come."""
        task = asyncio.get_running_loop().create_task(work)
        self.going[task] = None
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        del self.going[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.cluster.wrong.append(f"a client failed: {error!r}")

    async def unhang(self, instance_id: str, found: Inspection | None, *, app: str = APP) -> None:
        """Activities that lost too many workers are put aside, for an operator to look at."""
        for one in () if found is None else found.waiting:
            if one.kind == "quarantine" and found is not None and one.task_id is not None:
                host = next(sidecar.host for sidecar in self.cluster.up if sidecar.address == found.owner)
                task_id = one.task_id

                async def retry(hub: Hub = self.hubs[host], task_id: int = task_id) -> None:
                    await hub.retry_activity(instance_id, task_id)

                await self.wire.call(self.client, host, retry)

    # -- the end

    def peace(self) -> None:
        """Heal everything, have every sidecar run, and let what clients began come to its end."""
        self.stopping = True
        heal(self.cluster)
        self.wire.loss = 0.0
        for name in self.homes:
            if not self.cluster.sidecars[name].host.alive:
                self.start(name)
        self.world.run_for(20)
        self.until(lambda: not self.going, 100, lambda: f"clients go on: {list(self.going)}")

    def until(self, done: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
        world = self.world
        end = world.now + seconds
        while not done() and world.now < end:
            world.run_for(1.0)
        if not done():
            raise AssertionError(world.told(why()))

    def jobs(self) -> list[str]:
        """Jobs of workflows that are there."""
        return [key for key in self.cluster.jobs.rows if "dapr.internal." in key]

    def rows(self) -> list[str]:
        """Rows of workflows that are there."""
        return [key for key in self.cluster.rows.keys() if "||dapr.internal." in key]  # noqa: SIM118
