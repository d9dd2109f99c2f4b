"""Workflows that stall, that take their workers down, and that are run again: what an operator does goes on with them.

Judged at every transaction (`histories.py`), and
- one that is run again begins with what its source had before the event, that event and what was open there, and with
  nothing of what came after it; the source stays as it is;
- one that is too large says so once for each reason, in its history and to whoever looks, takes no events, and goes
  on where the limit is higher (35), with everything that came for it (23);
- what takes workers down is tried a bounded number of times, says why it waits, and goes on by an operator's word; its
  neighbours end with their right results;
- in the end: all right results, no job and no row left.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError
from pillion.workflow.faults import InstanceActive, InstanceMissing, InstanceStalled, RerunExists, RerunMissing
from pillion.workflow.hub import Rerun, Start
from pillion.workflow.losses import MOST_LOSSES
from pillion.workflow.snapshot import Status
from simulator.cluster import APP, Cluster
from simulator.faults import trouble
from simulator.histories import Committed, Histories
from simulator.repairs import INPUTS, LEAP, Dies, Patients, expected
from simulator.workshop import BOUNDS, Workshop

if TYPE_CHECKING:
    from pillion.testing.workflow_worker import Executor
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.service import Hub
    from pillion.workflow.snapshot import Inspection
    from simulator.cluster import Sidecar

NAMES = ("one", "two", "three")
SMALL, LARGE = 6000, 1 << 20
"""The largest message before and after the operator has looked at what stalled, in bytes."""
_OPEN = {
    "taskScheduled": "taskScheduledId",
    "timerCreated": "timerId",
    "childWorkflowInstanceCreated": "taskScheduledId",
}
_RESOLVES = {
    "taskCompleted": "taskScheduled", "taskFailed": "taskScheduled", "timerFired": "timerCreated",
    "childWorkflowInstanceCompleted": "childWorkflowInstanceCreated",
    "childWorkflowInstanceFailed": "childWorkflowInstanceCreated",
}  # fmt: skip


@dataclass
class Patient:
    """One workflow that a client wanted."""

    instance_id: str
    name: str
    result: Any
    accepted: bool = False
    told: bool = False
    lives: int = 0
    """How many sidecars had been started when it began."""


class Mending(Workshop):
    """The cluster, and the ledger of what was promised."""

    def __init__(self, cluster: Cluster) -> None:
        self.patients = Patients()
        super().__init__(
            cluster, dict.fromkeys(NAMES, APP),
            lambda host, app, stateful: self.patients.executor(host.random, stateful=stateful),
        )  # fmt: skip
        self.bounds = replace(BOUNDS, max_body=SMALL)
        self.patients.dying = self._dies
        self.histories = Histories(cluster.rows, cluster.wrong.append)
        cluster.rows.judges.append(self._judge_rows)
        self.cases: dict[str, Patient] = {}
        self.orders: dict[str, Rerun] = {}
        self._begun: set[str] = set()
        self.lives = 0

    # -- workers that die

    def start(self, name: str) -> None:
        self.lives += 1
        super().start(name)

    def _dies(self, executor: Executor) -> None:
        for sidecar in self.cluster.up:
            for worker in self.workers.get(sidecar.host, []):
                if worker.executor is executor:
                    self._bury(sidecar, worker)
                    return

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or not isinstance(task.exception(), Dies):
            super()._worker_ended(task)
            return
        for sidecar in self.cluster.up:
            for worker in self.workers.get(sidecar.host, []):
                if worker.ended is task:
                    self._bury(sidecar, worker)
                    return

    def _bury(self, sidecar: Sidecar, worker: Any) -> None:
        """Its process has ended; a supervisor starts another one."""
        host = sidecar.host
        self.workers[host].remove(worker)

        async def bury() -> None:
            await worker.close()
            await asyncio.sleep(host.random.choice((0.1, 0.5, 1.0)))
            self.attach(sidecar)

        host.start(bury())

    # -- judged at every transaction

    def _judge_rows(self, before: dict[str, bytes | None], value: Any) -> None:
        for instance_id in dict.fromkeys(key.split("||")[2] for key in before if key.count("||") == 3):
            found = self.histories.instances.get(instance_id)
            if found is None:
                continue
            self._judge_stalls(instance_id, found)
            if instance_id in self.orders and instance_id not in self._begun:
                self._begun.add(instance_id)
                self._judge_rerun(self.orders[instance_id], found)

    def _judge_stalls(self, instance_id: str, found: Committed) -> None:
        last = [one.executionStalled for one in found.events[-2:] if one.HasField("executionStalled")]
        if len(last) == 2 and last[0].description == last[1].description:
            self.cluster.wrong.append(f"{instance_id} stalled twice for one reason: {last[0].description}")

    def _judge_rerun(self, order: Rerun, found: Committed) -> None:
        source = self.histories.instances[order.source_id]
        at = _at(source, order.event_id)
        past = source.events[:at]
        done = {
            (_RESOLVES[kind], getattr(getattr(one, kind), _OPEN[_RESOLVES[kind]]))
            for one in past
            if (kind := one.WhichOneof("eventType") or "") in _RESOLVES
        }
        kept = [one for one in past if _key(one) is None or _key(one) in done]
        open_ = {_key(one) for one in past if _key(one) is not None} - done | {_key(source.events[at])}
        copied, anew = found.events[: len(kept)], found.events[len(kept) :]
        if sorted(_bare(one) for one in copied) != sorted(_bare(one) for one in kept):
            self.cluster.wrong.append(f"{order.new_id} does not begin with what {order.source_id} had before")
        if {_key(one) for one in anew} != open_ or len(anew) != len(open_):
            self.cluster.wrong.append(f"{order.new_id}: {[_key(one) for one in anew]} are done anew, not {open_}")

    # -- clients

    async def clients(self) -> None:
        random, number = self.client.random, 0
        while not self.stopping:
            name = random.choice(sorted(INPUTS))
            given = random.choice(INPUTS[name])
            number += 1
            case = Patient(f"{name}-{number}", name, None if name == "swallows" else expected(name, given))
            case.lives = self.lives
            self.cases[case.instance_id] = case
            self.go(self._live(case, given))
            await asyncio.sleep(random.uniform(0.3, 3.0))

    async def _live(self, case: Patient, given: Any) -> None:
        start = Start(case.name, case.instance_id, json.dumps(given))
        with suppress(InstanceActive):
            try:
                await self.ask(lambda hub: hub.start(start))
            except (ComponentError, TimeoutError) as error:
                if isinstance(error, InstanceActive):
                    raise
                return
        case.accepted = True
        if case.name in ("sums", "branches"):
            for number in range(self.client.random.choice((0, 1, 2))):
                await self._again(case, f"{case.instance_id}-again{number}", given)
        elif case.name == "hoards":
            await self._tell(case)

    async def _tell(self, case: Patient) -> None:
        """Raise its event; one that is stalled refuses it, and whoever looks hears why."""
        while not case.told and not self.stopping:
            await asyncio.sleep(self.client.random.uniform(0.1, 2.0))
            try:
                await self.ask(partial(_raise, case.instance_id))
                case.told = True
            except InstanceStalled:
                found = await self._look(case.instance_id)
                if found is not None and found.snapshot.status is Status.STALLED:
                    why = [one for one in found.waiting if one.kind == "stalled"]
                    if not why or "exceeds" not in why[0].error or why[0].name != "PAYLOAD_SIZE_EXCEEDED":
                        self.cluster.wrong.append(f"{case.instance_id} is stalled, and says {found.waiting}")
            except (ComponentError, TimeoutError):
                case.told = True  # perhaps; the end sees to the others

    async def _look(self, instance_id: str) -> Inspection | None:
        try:
            return await self.ask(partial(_inspect, instance_id))
        except (ComponentError, TimeoutError):
            return None

    async def _again(self, source: Patient, new_id: str, given: Any) -> None:
        """Run it again from one of its events, once it has ended."""
        random = self.client.random
        for _ in range(20):
            found = self.histories.instances.get(source.instance_id)
            if found is not None and found.ended is not None:
                break
            if self.stopping:
                return
            await asyncio.sleep(1.0)
        else:
            return
        events = [one for one in found.events if _key(one) is not None]
        target = random.choice(events)
        leap = target.HasField("taskScheduled") and random.random() < 0.5
        order = Rerun(source.instance_id, target.eventId, new_id, overwrite_input=leap)
        if leap:
            step = json.loads(target.taskScheduled.input.value)
            order = replace(order, input=json.dumps([new_id, step[1], step[2] + LEAP]))
        case = Patient(new_id, source.name, source.result + LEAP if leap else source.result)
        self.orders[new_id], self.cases[new_id] = order, case
        with suppress(RerunExists):
            await self.surely(partial(_rerun, order))
        case.accepted = True
        with suppress(RerunMissing):
            await self.surely(partial(_rerun, replace(order, event_id=900, new_id=f"{new_id}-never")))
            self.cluster.wrong.append(f"{new_id}-never was made of an event that is not there")

    # -- the end

    def finish(self) -> None:
        world, wrong = self.world, self.cluster.wrong
        self.peace()
        world.run_for(90)
        deaths = dict(self.patients.deaths)
        world.run_for(60)
        for instance_id, count in self.patients.deaths.items():
            if count != deaths.get(instance_id):
                wrong.append(f"{instance_id} takes workers down for ever: {count}")
            if count > MOST_LOSSES * (self.lives - self.cases[instance_id].lives + len(NAMES)):
                wrong.append(f"{instance_id} took {count} workers down, of {self.lives} sidecars")
        mending = self.client.start(self._mend_all())
        world.run(mending.done, seconds=400)
        for name in NAMES:  # an operator gives them more room
            self.bounds = replace(BOUNDS, max_body=LARGE)
            self.cluster.kill(self.cluster.sidecars[name].host, process=True)
            self.start(name)
            world.run_for(5)
        ending = self.client.start(self._tell_all())
        world.run(ending.done, seconds=400)
        self.until(lambda: not self._unfinished(), 400, lambda: f"not over: {self._unfinished()}")
        self.until(lambda: not self.jobs(), 400, lambda: f"jobs are left: {self.jobs()}")
        for case in self.cases.values():
            self._judge(case)
        purging = self.client.start(self._purge_all())
        self.until(purging.done, 400, lambda: "the purge does not end")
        world.run_for(60)
        if self.rows() or self.jobs():
            wrong.append(f"left after all was purged: {self.rows()[:5]}, {self.jobs()}")
        self.cluster.check()

    def _unfinished(self) -> list[str]:
        return [name for name, one in self.histories.instances.items() if one.ended is None]

    async def _mend_all(self) -> None:
        """What is put aside says why; it is cured and tried again, or skipped."""
        for instance_id in self._unfinished():
            found = await self.surely(partial(_inspect, instance_id))
            if found is None or found.snapshot.status.terminal:
                continue
            if not found.waiting:
                self.cluster.wrong.append(f"{instance_id} is not over, and waits for nothing")
            committed = self.histories.instances.get(instance_id)
            stalls = committed is not None and committed.events and committed.events[-1].HasField("executionStalled")
            if stalls and not any(one.kind == "stalled" for one in found.waiting):
                self.cluster.wrong.append(f"{instance_id} has stalled, and says {found.waiting}")
            aside = [one for one in found.waiting if one.kind == "quarantine"]
            if instance_id in self.patients.deaths and not any("were lost" in one.error for one in aside):
                self.cluster.wrong.append(f"{instance_id} takes workers down, and says {found.waiting}")
            for one in aside:
                await self._mend(instance_id, one.task_id, poison=one.name == "poison")

    async def _mend(self, instance_id: str, task_id: int | None, *, poison: bool) -> None:
        case, random = self.cases.get(instance_id), self.client.random
        skips = poison and random.random() < 0.5
        if case is not None and poison:  # what merely stood by may have been put aside as well
            case.result = [2, "skipped" if skips else "well"]
        with suppress(InstanceMissing):  # a command that was heard, and whose answer was lost, is not needed again
            if skips and task_id is not None:
                await self.surely(partial(_skip, instance_id, task_id))
            else:
                self.patients.cured.add(instance_id)
                await self.surely(partial(_retry, instance_id, task_id))

    async def _tell_all(self) -> None:
        for instance_id in self._unfinished():
            if instance_id.startswith("hoards"):
                await self.surely(partial(_raise, instance_id))

    def _judge(self, case: Patient) -> None:
        found, wrong = self.histories.instances.get(case.instance_id), self.cluster.wrong
        if found is None:
            if case.accepted:
                wrong.append(f"{case.instance_id} was accepted, and is not there")
        elif found.status is not Status.COMPLETED:
            wrong.append(f"{case.instance_id} ended as {found.status}: {found.ended}")
        elif json.loads(found.result or "null") != case.result:
            wrong.append(f"{case.instance_id} came to {found.result}, not {case.result}")

    async def _purge_all(self) -> None:
        """Those that were run again first: what belongs to their sources stays."""
        for instance_id in sorted(self.cases, key=lambda one: "again" not in one):
            children = [one for one in self.histories.instances if one.startswith(f"{instance_id}:")]
            source = self.orders[instance_id].source_id if instance_id in self.orders else None
            theirs = [one for one in self.histories.instances if source and one.startswith(f"{source}:")]
            with suppress(InstanceMissing):
                await self.surely(partial(_purge, instance_id))
            if gone := [one for one in theirs if one not in self.histories.instances]:
                self.cluster.wrong.append(f"{gone} went with {instance_id}, and are children of {source}")
            if left := [one for one in (instance_id, *children) if one in self.histories.instances]:
                self.cluster.wrong.append(f"{instance_id} was purged, and {left} are there")


def _key(event: m.HistoryEvent) -> tuple[str, int] | None:
    """What a scheduled event is resolved by; None for another one."""
    kind = event.WhichOneof("eventType") or ""
    return (kind, event.eventId) if kind in _OPEN else None


def _at(source: Committed, event_id: int) -> int:
    """Where the event stands that a rerun begins with."""
    return next(number for number, one in enumerate(source.events) if _key(one) is not None and one.eventId == event_id)


def _bare(event: m.HistoryEvent) -> bytes:
    """An event without what is its instance's own."""
    if not event.HasField("executionStarted"):
        return event.SerializeToString(deterministic=True)
    bare = type(event)()
    bare.CopyFrom(event)
    bare.executionStarted.ClearField("workflowInstance")
    return bare.SerializeToString(deterministic=True)


async def _raise(instance_id: str, hub: Hub) -> None:
    await hub.raise_event(instance_id, "told", '"yes"')


async def _inspect(instance_id: str, hub: Hub) -> Inspection | None:
    return await hub.inspect(instance_id)


async def _rerun(order: Rerun, hub: Hub) -> str:
    return await hub.rerun(order)


async def _retry(instance_id: str, task_id: int | None, hub: Hub) -> None:
    if task_id is None or task_id < 0:
        await hub.retry_turn(instance_id)
    else:
        await hub.retry_activity(instance_id, task_id)


async def _skip(instance_id: str, task_id: int, hub: Hub) -> None:
    await hub.skip_activity(instance_id, task_id, '"skipped"')


async def _purge(instance_id: str, hub: Hub) -> int:
    return await hub.purge(instance_id)


def story(seed: int, *, seconds: float = 14.0) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    cluster = Cluster(seed, failing=0.01, breaking=0.0005)
    mending = Mending(cluster)
    for name in NAMES:
        mending.start(name)
    mending.client.start(mending.clients())
    trouble(cluster, NAMES, mending.start, seconds, {"worker": mending.lose_worker})
    mending.finish()
    return cluster.world.events
