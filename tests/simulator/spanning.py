"""Workflows that span two applications, each on hosts of its own that die: what one began is the other's to end.

Judged, with the numbers of `actors-workflows-jobs.md` 5: every transaction of both applications (`histories.py`), and
- an id is not used again while anything that its former owner started goes on (28), at the moment of the write;
- nothing is deleted but what was purged, or belongs to such a tree (29); who merely has the name that a workflow wanted
  for its child is neither ended nor deleted with it;
- histories handed down are those that were committed, of the ancestors in their order;
- results are those of the generation that asked (24, 27, 31); who ended without waiting has its children, too (26);
- in the end: all right results, all below a termination ended (30), no job and no row left.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError
from pillion.workflow.faults import InstanceActive, InstanceMissing
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from simulator.cluster import Cluster
from simulator.faults import trouble
from simulator.histories import Committed, Histories
from simulator.travels import APPS, KEEPER, LINEAGE, Travels, expected, inputs, other
from simulator.workshop import Workshop

if TYPE_CHECKING:
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.service import Hub

HOMES = {"one": "app", "two": "app", "three": "shop", "four": "shop"}
NAMES = ("errand", "family", "heirs", "renew", "legacy", "legacy", "squat", "forever")


@dataclass
class Journey:
    """One workflow that a client wanted."""

    app: str
    instance_id: str
    name: str
    given: list[Any]
    accepted: bool = False
    terminating: bool = False
    purging: bool = False
    numbers: list[int] = field(default_factory=list)
    """Of a `legacy`: those that were accepted."""
    maybe: list[int] = field(default_factory=list)
    """Those whose client heard nothing: they may come at any time."""


class Spanning(Workshop):
    """Both applications, and the ledger of what was promised."""

    def __init__(self, cluster: Cluster) -> None:
        self.travels = Travels(cluster.wrong.append)
        super().__init__(
            cluster, HOMES, lambda host, app, stateful: self.travels.executor(host.random, app, stateful=stateful)
        )
        self.travels.carried = self._carried
        self.histories = {app: Histories(cluster.rows, cluster.wrong.append, app) for app in APPS}
        for histories in self.histories.values():
            histories.anew, histories.gone = self._anew, self._gone_for_good
        self.journeys: dict[str, Journey] = {}
        self.ended_anew: Counter[str] = Counter()

    def committed(self, instance_id: str) -> Committed | None:
        """An instance of either application: ids are of one alone."""
        return next(
            (one.instances[instance_id] for one in self.histories.values() if instance_id in one.instances), None
        )

    # -- judged at every transaction

    def _anew(self, instance_id: str, old: Committed, new: Committed) -> None:
        self.ended_anew[instance_id] += 1
        for child_id, found in self._below(instance_id, old):
            if found is None and not self._was_there(child_id):
                self.cluster.wrong.append(f"{instance_id} begins anew, and {child_id} has never begun")
            elif found is not None and found.ended is None:
                self.cluster.wrong.append(f"{instance_id} begins anew, and {child_id} goes on")

    def _below(self, instance_id: str, one: Committed) -> list[tuple[str, Committed | None]]:
        """All that an instance has started, by its history and theirs."""
        below: list[tuple[str, Committed | None]] = []
        for event in one.events:
            if event.HasField("childWorkflowInstanceCreated"):
                child_id = event.childWorkflowInstanceCreated.instanceId
                found = self.committed(child_id)
                if found is None or _parent_of(found) == instance_id:
                    below.append((child_id, found))
                    below += [] if found is None else self._below(child_id, found)
        return below

    def _was_there(self, instance_id: str) -> bool:
        return any(instance_id in one.purged for one in self.histories.values())

    def _gone_for_good(self, instance_id: str, was: Committed) -> None:
        """What goes was asked to go, or its parent was."""
        at, parent = instance_id, _parent_of(was)
        for _ in range(10):
            journey = self.journeys.get(at)
            if journey is not None and journey.purging:
                return
            if parent is None:
                break
            found = self.committed(parent)
            at, parent = parent, None if found is None else _parent_of(found)
        if not self.stopping:
            self.cluster.wrong.append(f"{instance_id} is deleted, and nobody asked for that")

    def _carried(self, instance_id: str, activity: bool, carried: m.PropagatedHistory | None) -> None:
        """An heir is told what was committed of those before it."""
        wrong = self.cluster.wrong
        root, *steps = instance_id.split(".")
        journey = self.journeys[root]
        lines = [".".join([root, *steps[:count]]) for count in range(len(steps) + 1)]
        lines = lines if activity else lines[:-1]
        if journey.given[2] != LINEAGE:
            lines = lines[-1:]
        chunks = [] if carried is None else list(carried.chunks)
        if [chunk.instanceId for chunk in chunks] != lines:
            wrong.append(f"{instance_id} is handed down {[chunk.instanceId for chunk in chunks]}, not {lines}")
            return
        for chunk in chunks:
            app = journey.app if chunk.instanceId.count(".") % 2 == 0 else other(journey.app)
            found = self.histories[app].instances.get(chunk.instanceId)
            if chunk.appId != app or chunk.workflowName != "heirs":
                wrong.append(f"{instance_id}: the history of {chunk.instanceId} is said to be of {chunk.appId}")
            if found is not None and list(chunk.rawEvents) != found.raw[: len(chunk.rawEvents)]:
                wrong.append(f"{instance_id} is handed down a history of {chunk.instanceId} that is not committed")

    # -- clients

    async def clients(self) -> None:
        random, number = self.client.random, 0
        for app in APPS:
            keeper = self._journey(app, f"{KEEPER}-{app}", "keep", [app])
            await self._start_surely(keeper)
        while not self.stopping:
            app, name = random.choice(APPS), random.choice(NAMES)
            number += 1
            self.go(self._live(self._journey(app, f"{name}-{number}", name, inputs(name, app, random))))
            await self._pause(0.3, 3.0)

    def _journey(self, app: str, instance_id: str, name: str, given: list[Any]) -> Journey:
        made = self.journeys[instance_id] = Journey(app, instance_id, name, given)
        return made

    async def _pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.client.random.uniform(least, most))

    async def _start_surely(self, journey: Journey) -> None:
        """Start it until it is there; whoever finds it there was heard before."""
        start = Start(journey.name, journey.instance_id, json.dumps(journey.given))
        while not journey.accepted:
            try:
                with suppress(InstanceActive):
                    await self.ask(lambda hub: hub.start(start), app=journey.app)
            except (ComponentError, TimeoutError):
                journey.maybe.append(1)
            else:
                journey.accepted = True

    async def _live(self, journey: Journey) -> None:
        random = self.client.random
        await self._start_surely(journey)
        if journey.name == "legacy":
            await self._again(journey)
        elif journey.name == "forever" or random.random() < 0.2:
            await self._pause(0.0, 4.0)
            journey.terminating = True
            with suppress(InstanceMissing):
                await self.surely(partial(_terminate, journey.instance_id), app=journey.app)
        if random.random() < 0.3:
            await self._purge(journey)

    async def _again(self, journey: Journey) -> None:
        """Use the id again and again, whatever is said to it."""
        journey.numbers.append(journey.given[1])
        for number in range(2, 6):
            await self._pause(0.2, 2.5)
            given = [journey.given[0], number, *journey.given[2:]]
            start = Start("legacy", journey.instance_id, json.dumps(given))
            try:
                await self.ask(lambda hub, start=start: hub.start(start), app=journey.app)  # type: ignore[misc]
            except InstanceActive:
                continue
            except (ComponentError, TimeoutError):
                journey.maybe.append(number)
            else:
                journey.numbers.append(number)

    async def _purge(self, journey: Journey) -> None:
        """Delete it, when it is over."""
        for _ in range(4):
            await self._pause(0.5, 3.0)
            found = self.committed(journey.instance_id)
            if found is not None and found.ended is not None and not journey.purging and self._judge(journey):
                journey.purging = True
            if journey.purging:
                with suppress(ComponentError, TimeoutError):
                    await self.ask(partial(_purge, journey.instance_id), app=journey.app)

    # -- the end

    def finish(self) -> None:
        world = self.world
        self.peace()
        ending = self.client.start(self._end_all())
        world.run(ending.done, seconds=400)
        self.until(lambda: not self._unfinished(KEEPER), 400, lambda: f"not over: {self._unfinished(KEEPER)}")
        ending = self.client.start(self._end_keepers())
        world.run(ending.done, seconds=400)
        self.until(lambda: not self._unfinished(), 400, lambda: f"not over: {self._unfinished()}")
        self.until(lambda: not self.jobs(), 400, lambda: f"jobs are left: {self.jobs()}")
        for journey in self.journeys.values():
            if not journey.purging:
                self._judge(journey, final=True)
        purging = self.client.start(self._purge_all())
        self.until(purging.done, 400, lambda: "the purge does not end")
        world.run_for(60)
        if self.rows() or self.jobs():
            self.cluster.wrong.append(f"left after all was purged: {self.rows()[:5]}, {self.jobs()}")
        self.cluster.check()

    def _unfinished(self, but: str = "nobody") -> list[str]:
        return [
            instance_id
            for histories in self.histories.values()
            for instance_id, one in histories.instances.items()
            if one.ended is None and not instance_id.startswith(but)
        ]

    async def _end_all(self) -> None:
        for histories, app in ((self.histories[app], app) for app in APPS):
            for instance_id, committed in list(histories.instances.items()):
                if committed.ended is not None:
                    continue
                found = await self.surely(partial(_inspect, instance_id), app=app)
                if found is not None and not found.snapshot.status.terminal and not found.waiting:
                    self.cluster.wrong.append(f"{instance_id} is not over, and waits for nothing")
                await self.unhang(instance_id, found, app=app)
                if (journey := self.journeys.get(instance_id)) is not None and journey.name == "forever":
                    # Of a client's tries to start it one was heard late, when another one had been and ended.
                    journey.terminating = True
                    await self.surely(partial(_terminate, instance_id), app=app)

    async def _end_keepers(self) -> None:
        for app in APPS:
            await self.surely(partial(_raise, f"{KEEPER}-{app}"), app=app)

    def _judge(self, journey: Journey, *, final: bool = False) -> bool:
        """Judge one that is over, before it may be purged; False when something is wrong with it."""
        wrong, found = self.cluster.wrong, self.committed(journey.instance_id)
        before = len(wrong)
        if found is None:
            wrong.append(f"{journey.instance_id} was accepted, and is not there")
            return False
        result: Any = json.loads(found.result) if found.result else None
        if found.status is Status.TERMINATED and journey.terminating:
            if final:
                for child_id, child in self._below(journey.instance_id, found):
                    if child is not None and child.status is not Status.TERMINATED and child.ended is None:
                        wrong.append(f"{child_id} goes on, and was terminated with {journey.instance_id}")
        elif found.status is not Status.COMPLETED:
            wrong.append(f"{journey.instance_id} ended as {found.status}: {found.ended}")
        elif journey.name == "renew":
            if any(number != said for number, said in result):
                wrong.append(f"{journey.instance_id}: children of other generations were heard: {result}")
        elif journey.name == "legacy":
            self._judge_legacy(journey, found, result, final=final)
        elif result != expected(journey.name, journey.given):
            wrong.append(f"{journey.instance_id} of {journey.given} came to {result}")
        return len(wrong) == before

    def _judge_legacy(self, journey: Journey, found: Committed, result: int, *, final: bool) -> None:
        wrong = self.cluster.wrong
        if result != journey.numbers[-1] and result not in journey.maybe:
            wrong.append(f"{journey.instance_id} is {result}, and {journey.numbers} were accepted")
        if final:
            for child_id, child in self._below(journey.instance_id, found):
                if child is None:
                    wrong.append(f"{journey.instance_id} started {child_id}, which is not there")

    async def _purge_all(self) -> None:
        for journey in self.journeys.values():
            journey.purging = True
            with suppress(InstanceMissing):
                await self.surely(partial(_purge, journey.instance_id), app=journey.app)
            if self.committed(journey.instance_id) is not None:
                self.cluster.wrong.append(f"{journey.instance_id} was purged, and is there")
        for app in APPS:  # children of generations that are no more
            for instance_id in list(self.histories[app].instances):
                with suppress(InstanceMissing):
                    await self.surely(partial(_purge, instance_id), app=app)


def _parent_of(one: Committed) -> str | None:
    """The id of the parent, as its history says; None where it has none, or has not begun."""
    for event in one.events[:3]:
        if event.HasField("executionStarted") and event.executionStarted.HasField("parentInstance"):
            return event.executionStarted.parentInstance.workflowInstance.instanceId
    return None


async def _terminate(instance_id: str, hub: Hub) -> None:
    await hub.terminate(instance_id, '"stop"')


async def _raise(instance_id: str, hub: Hub) -> None:
    await hub.raise_event(instance_id, "end", '"kept"')


async def _inspect(instance_id: str, hub: Hub) -> Any:
    return await hub.inspect(instance_id)


async def _purge(instance_id: str, hub: Hub) -> int:
    return await hub.purge(instance_id)


def story(seed: int, *, seconds: float = 14.0) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    cluster = Cluster(seed, failing=0.01, breaking=0.0005)
    spanning = Spanning(cluster)
    for name in HOMES:
        spanning.start(name)
    spanning.client.start(spanning.clients())
    trouble(cluster, tuple(HOMES), spanning.start, seconds, {"worker": spanning.lose_worker})
    spanning.finish()
    return cluster.world.events
