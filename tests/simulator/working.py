"""Workflows on a cluster to which everything happens: what a client was promised comes true, once.

Sidecars host the engine over the simulated actors, scheduler and store; workers run beside them and die now and then.
Clients start programs (`programs.py`), raise events, suspend, terminate and purge, through whichever sidecar answers.
Judged, with the numbers of `actors-workflows-jobs.md` 5: every transaction (`histories.py`), and in the end
- every accepted start has ended once with its one right result, every activity has run (23, 24, 25, 26, 31, 33, 34);
- acknowledged events were delivered once, in order; others at most once (23, 32);
- what was terminated is, with all that it started; what was purged is gone (25, 29, 30);
- what is not over names a wait; what is over has no job any more (27); reading shows what is committed alone (36).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pillion.errors import ComponentError
from pillion.testing.simulation import EPOCH
from pillion.workflow.faults import InstanceActive, InstanceMissing
from pillion.workflow.history import nanoseconds
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from simulator.cluster import APP, Cluster
from simulator.faults import trouble
from simulator.histories import Histories
from simulator.programs import INPUTS, Activities, expected, steps
from simulator.workshop import Workshop

if TYPE_CHECKING:
    from pillion.workflow.service import Hub
    from pillion.workflow.snapshot import Inspection

T = TypeVar("T")
CALL_S = 8.0
"""How long a client waits for an answer."""
NAMES = ("one", "two", "three")


@dataclass
class Case:
    """One workflow that a client wanted: what it is known to have been promised."""

    instance_id: str
    name: str
    given: Any
    accepted: bool = False
    start_at: float | None = None
    sent: list[int] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    ending: bool = False
    terminating: bool = False
    shown: Status | None = None
    purged: bool = False


class Working(Workshop):
    """The cluster with its workflows, and the ledger of what was promised."""

    def __init__(self, cluster: Cluster) -> None:
        self.activities = Activities()
        super().__init__(
            cluster, dict.fromkeys(NAMES, APP),
            lambda host, app, stateful: self.activities.executor(host.random, stateful=stateful),
        )  # fmt: skip
        self.histories = Histories(cluster.rows, cluster.wrong.append)
        self.cases: list[Case] = []

    # -- clients

    async def clients(self) -> None:
        """Begin one case after the other; each goes its way beside the others."""
        random, number = self.client.random, 0
        while not self.stopping:
            name = random.choice(sorted(INPUTS))
            case = Case(f"{name}-{number}", name, random.choice(INPUTS[name]))
            number += 1
            self.cases.append(case)
            self.go(self._live(case))
            await asyncio.sleep(random.uniform(0.2, 2.5))

    async def _live(self, case: Case) -> None:
        random = self.client.random
        if random.random() < 0.15:
            case.start_at = EPOCH + self.cluster.world.now + random.choice((1.0, 6.0))
        start = Start(case.name, case.instance_id, json.dumps(case.given), start_at=case.start_at)
        try:
            await self.ask(lambda hub: hub.start(start))
        except InstanceActive as error:
            # The first of two tries on the way was heard.
            self.cluster.world.tell(f"client: {case.instance_id}: {error}")
        except (ComponentError, TimeoutError) as error:
            self.cluster.world.tell(f"client: {case.instance_id} may have begun: {error or type(error).__name__}")
            return
        self.cluster.world.tell(f"client: {case.instance_id} is accepted")
        case.accepted = True
        if case.name.startswith("collect"):
            await self._raise_events(case)
        elif random.random() < 0.3:
            await self._interfere(case)
        await self._look(case)

    async def _raise_events(self, case: Case) -> None:
        random = self.client.random
        for number in range(random.choice((0, 2, 6))):
            await asyncio.sleep(random.choice((0.0, 0.01, 1.5)))
            case.sent.append(number)
            try:
                await self.ask(partial(raise_event, case.instance_id, "GO", number))
            except (ComponentError, TimeoutError):
                continue
            case.acknowledged.append(number)

    async def _interfere(self, case: Case) -> None:
        """Suspend it and let it go on, or terminate it."""
        random = self.client.random
        await asyncio.sleep(random.choice((0.0, 0.5, 2.0)))
        if random.random() < 0.5:
            try:
                await self.surely(lambda hub: hub.suspend(case.instance_id, "wait"))
                await asyncio.sleep(random.choice((0.1, 3.0)))
                await self.surely(lambda hub: hub.resume(case.instance_id, "go on"))
            except InstanceMissing:
                self.cluster.wrong.append(f"{case.instance_id} is missing")
        else:
            case.terminating = True
            await self.surely(partial(_terminate, case.instance_id))

    async def _look(self, case: Case) -> None:
        """What reading shows never goes back from an end."""
        for _ in range(3):
            await asyncio.sleep(self.client.random.uniform(0.1, 3.0))
            try:
                found = await self.ask(lambda hub: hub.get(case.instance_id))
            except (ComponentError, TimeoutError):
                continue
            if found is None:
                self.cluster.wrong.append(f"{case.instance_id} was accepted, and is not there")
            elif case.shown is not None and found.status is not case.shown:
                self.cluster.wrong.append(f"{case.instance_id} was shown {case.shown.name}, then {found.status.name}")
            elif found.status.terminal:
                case.shown = found.status
                if self.histories.instances[case.instance_id].status is not found.status:
                    self.cluster.wrong.append(
                        f"{case.instance_id} is shown {found.status.name}, which is not committed"
                    )

    # -- the end

    def finish(self) -> None:
        """Heal everything, bring every workflow to its end, and judge."""
        cluster, world = self.cluster, self.world
        self.peace()
        ending = self.client.start(self._end_all())
        world.run(ending.done, seconds=400)
        self.until(lambda: not self._unfinished(), 400, lambda: f"not over: {self._unfinished()}")
        self.until(lambda: not self.jobs(), 400, lambda: f"jobs are left: {self.jobs()}")
        for case in self.cases:
            self._judge(case)
        purging = self.client.start(self._purge())
        self.until(purging.done, 400, lambda: "the purge does not end")
        world.run_for(60)
        if rows := self.rows():
            cluster.wrong.append(f"rows are left after all was purged: {rows[:5]}")
        if self.jobs():
            cluster.wrong.append(f"jobs are left after all was purged: {self.jobs()}")
        cluster.check()

    def _unfinished(self) -> list[str]:
        return [name for name, one in self.histories.instances.items() if one.ended is None]

    async def _end_all(self) -> None:
        """See that everybody names a wait, and give what waits for us its end."""
        for case in self.cases:
            committed = self.histories.instances.get(case.instance_id)
            if committed is None:
                continue
            case.accepted = True
            if committed.ended is not None:
                continue
            found = await self.surely(partial(_inspect, case.instance_id))
            if found is not None and not found.snapshot.status.terminal and not found.waiting:
                self.cluster.wrong.append(f"{case.instance_id} is not over, and waits for nothing")
            await self.unhang(case.instance_id, found)
            if found is not None and found.snapshot.status is Status.SUSPENDED:
                # Of a client's tries to suspend one was heard late, after it had been resumed.
                await self.surely(partial(_resume, case.instance_id))
            if case.name.startswith("collect"):
                await self.surely(partial(raise_event, case.instance_id, "go", "end"))
            elif case.name == "forever":
                case.terminating = True
                await self.surely(partial(_terminate, case.instance_id))

    def _judge(self, case: Case) -> None:
        found = self.histories.instances.get(case.instance_id)
        wrong = self.cluster.wrong
        if found is None:
            if case.accepted:
                wrong.append(f"{case.instance_id} was accepted, and is not there")
            return
        if found.status is Status.TERMINATED and case.terminating:
            self._judge_children(case)
            return
        result = json.loads(found.result) if found.result else None
        if found.status is not Status.COMPLETED:
            wrong.append(f"{case.instance_id} ended as {found.status}: {found.ended}")
        elif case.name.startswith("collect"):
            self._judge_events(case, result or [])
        elif case.name == "forever" or result != expected(case.name, case.given):
            wrong.append(f"{case.instance_id} of {case.given} came to {result}")
        ran = self.activities.ran.get(case.instance_id, Counter())
        if len(ran) < steps(case.name, case.given):
            wrong.append(f"{case.instance_id} is over, and only {sorted(map(str, ran))} of its activities have run")
        begun = nanoseconds(found.events[0].timestamp) / 1e9
        if case.start_at is not None and found.generation == 1 and begun < case.start_at - 1e-6:
            wrong.append(f"{case.instance_id} began {case.start_at - begun:.3f} s before its time")

    def _judge_events(self, case: Case, result: list[int]) -> None:
        there = [number for number in result if number in set(case.acknowledged)]
        if there != case.acknowledged or len(set(result)) != len(result):
            self.cluster.wrong.append(
                f"{case.instance_id}: of {case.sent}, {case.acknowledged} were acknowledged, {result} were delivered"
            )

    def _judge_children(self, case: Case) -> None:
        for instance_id, one in self.histories.instances.items():
            below = case.name == "forever" and instance_id.startswith(f"{case.instance_id}-")
            if below and one.status is not Status.TERMINATED:
                self.cluster.wrong.append(f"{instance_id} is {one.status}, its parent was terminated with all below")

    async def _purge(self) -> None:
        """Delete every tree of workflows; once more finds nothing."""
        for case in self.cases:
            if case.instance_id not in self.histories.instances:
                continue
            with suppress(InstanceMissing):
                await self.surely(partial(_purge, case.instance_id))
            if case.instance_id in self.histories.instances:
                self.cluster.wrong.append(f"{case.instance_id} was purged, and is there")
        for instance_id in list(self.histories.instances):  # children of a generation that is no more
            await self.surely(partial(_purge, instance_id))


async def raise_event(instance_id: str, name: str, data: Any, hub: Hub) -> None:
    await hub.raise_event(instance_id, name, json.dumps(data))


async def _resume(instance_id: str, hub: Hub) -> None:
    await hub.resume(instance_id)


async def _terminate(instance_id: str, hub: Hub) -> None:
    await hub.terminate(instance_id, '"stop"')


async def _inspect(instance_id: str, hub: Hub) -> Inspection | None:
    return await hub.inspect(instance_id)


async def _purge(instance_id: str, hub: Hub) -> int:
    return await hub.purge(instance_id)


def story(seed: int, *, seconds: float = 25.0) -> int:
    """Run one seed: workflows under faults, then at peace. Returns the number of events; raises `AssertionError` with
    its story.
    """
    cluster = Cluster(seed, failing=0.01, breaking=0.0005)
    working = Working(cluster)
    for name in NAMES:
        working.start(name)
    working.client.start(working.clients())
    trouble(
        cluster, NAMES, working.start, seconds, {"worker": working.lose_worker, "worker again": working.lose_worker}
    )
    working.finish()
    return cluster.world.events
