"""Limits on what runs at once and on how long what has ended is kept, in a cluster to which everything happens.

Judged at every turn and activity that a worker begins, and at every transaction (`histories.py`):
- a sidecar never has more under way in its workers than its own limits and those for all allow, whoever was terminated,
  moved or lost meanwhile; when nothing happens any more, all of them together have no more than the limits for all;
- nothing is deleted that has not ended, or before its time, whatever was its id before; what is to be kept stays;
- in the end: nobody has waited for ever, all right results, and all that was to go has gone, jobs and rows.
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
from pillion.kinds.config import Retention, Workflow
from pillion.testing.simulation import EPOCH
from pillion.testing.workflow_worker import Executor
from pillion.workflow.faults import InstanceActive, InstanceMissing
from pillion.workflow.history import nanoseconds
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from simulator.cluster import APP, Cluster
from simulator.faults import trouble
from simulator.histories import Committed, Histories
from simulator.workshop import SlowTransport, Workshop

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from pillion.testing.simulation import Host
    from pillion.testing.workflow_worker import Context
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.service import Hub
    from simulator.cluster import Sidecar

    Code = Generator[Any, Any, Any]

NAMES = ("one", "two", "three")
SKEW_S = 3.2
"""So far the clocks of the host that ended an instance and of the one that keeps the jobs may be apart."""
REST_S = 9.0


def crowd(ctx: Context, count: int) -> Code:
    """More activities at once than may run."""
    names = ("scarce", "plain")
    parts = yield ctx.all(ctx.call_activity(names[number % 2], number) for number in range(count))
    return len(parts)


def narrow(ctx: Context, count: int) -> Code:
    """One of few workflows that may be at their turns."""
    for number in range(count):
        yield ctx.call_activity("plain", number)
    return count


def fails(ctx: Context, _: Any) -> Code:
    yield ctx.call_activity("plain", 0)
    raise ValueError("as it should")


def rests(ctx: Context, _: Any) -> Code:
    """Lives longer than most are kept."""
    yield ctx.sleep(REST_S)
    return "rested"


def hangs(ctx: Context, count: int) -> Code:
    """Ends only by a termination, which finds it at its activities."""
    yield ctx.all([ctx.call_activity("scarce", count), ctx.call_activity("plain", 1), ctx.wait_for_event("never")])
    return "never"


PROGRAMS: dict[str, Callable[[Context, Any], Any]] = {one.__name__: one for one in (crowd, narrow, fails, rests, hangs)}
INPUTS: dict[str, tuple[Any, ...]] = {
    "crowd": (3, 7), "narrow": (1, 3), "fails": (None,), "rests": (None,), "hangs": (0,),
}  # fmt: skip


def expected(name: str, given: Any) -> tuple[Status, Any]:
    match name:
        case "crowd" | "narrow":
            return Status.COMPLETED, given
        case "rests":
            return Status.COMPLETED, "rested"
        case "fails":
            return Status.FAILED, None
    return Status.TERMINATED, "stop"


@dataclass(eq=False)
class Hands:
    """What one worker has in hand."""

    host: Host
    turns: Counter[str] = field(default_factory=Counter)
    activities: Counter[str] = field(default_factory=Counter)
    gone: bool = False


@dataclass
class Guest:
    """One workflow that a client wanted; `wishes` are the programs that were begun under its id, the last one last."""

    instance_id: str
    wishes: list[tuple[str, Any]]
    maybe: list[tuple[str, Any]] = field(default_factory=list)
    terminating: bool = False
    accepted: bool = False


class Limiting(Workshop):
    """The cluster, what runs in it, and the ledger of what was promised."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, dict.fromkeys(NAMES, APP), lambda host, app, stateful: _Hand(self, stateful=stateful))
        random = cluster.world.random
        self.config = Workflow(
            max_workflows=random.choice((0, 1)), max_activities=random.choice((0, 2, 3)),
            global_max_activities=random.choice((0, 5)), workflow_limits={"narrow": random.choice((1, 3))},
            activity_limits={"scarce": random.choice((1, 2, 4))},
            retention=Retention(
                random.choice((None, 0.0, 6.0)), random.choice((None, 4.0)), random.choice((None, 5.0, 12.0))
            ),
        )  # fmt: skip
        self.histories = Histories(cluster.rows, cluster.wrong.append)
        self.histories.gone, self.histories.anew = self._gone_for_good, self._anew
        cluster.rows.judges.append(self._note_ends)
        self.hands: dict[Hands, None] = {}
        self.guests: dict[str, Guest] = {}
        self.ended_at: dict[str, float] = {}
        self.calm = False
        self.purging = False

    # -- who has what in hand

    def attach(self, sidecar: Sidecar) -> None:
        self._hiring = Hands(sidecar.host)
        self.hands[self._hiring] = None
        super().attach(sidecar)

    def transport(self, hub: Hub, *, stateful: bool) -> SlowTransport:  # type: ignore[override]
        return _Counted(self, hub, stateful=stateful)

    def hired(self) -> Hands:
        """The worker that is being made."""
        return self._hiring

    def begins(self, hands: Hands, kind: str, name: str) -> None:
        """A worker begins a turn or an activity."""
        getattr(hands, kind)[name] += 1
        mine, everybody = self._under_way(kind, hands.host), self._under_way(kind, None)
        config = self.config
        own = config.max_workflows if kind == "turns" else config.max_activities
        every = config.global_max_workflows if kind == "turns" else config.global_max_activities
        named = (config.workflow_limits if kind == "turns" else config.activity_limits).get(name, 0)
        for limit, count in ((own, mine.total()), (every, mine.total()), (named, mine[name])):
            if 0 < limit < count:
                self.cluster.wrong.append(f"{hands.host.name}: {count} {kind} at once, {limit} may be: {dict(mine)}")
        for limit, count in ((every, everybody.total()), (named, everybody[name])):
            if self.calm and 0 < max(limit, len(NAMES)) < count and limit:
                self.cluster.wrong.append(f"{count} {kind} in all at once, {limit} may be: {dict(everybody)}")

    def _under_way(self, kind: str, host: Host | None) -> Counter[str]:
        found: Counter[str] = Counter()
        for hands in self.hands:
            if not hands.gone and hands.host.alive and host in (None, hands.host):
                found.update(getattr(hands, kind))
        return found

    # -- judged at every transaction

    def _note_ends(self, before: dict[str, bytes | None], value: Any) -> None:
        for instance_id in dict.fromkeys(key.split("||")[2] for key in before if key.count("||") == 3):
            found = self.histories.instances.get(instance_id)
            if found is None or found.ended is None:
                self.ended_at.pop(instance_id, None)
            else:
                self.ended_at.setdefault(instance_id, self.world.now)

    def _kept_s(self, status: Status | None) -> float | None:
        retention = self.config.retention
        kept = {
            Status.COMPLETED: retention.completed_s, Status.FAILED: retention.failed_s,
            Status.TERMINATED: retention.terminated_s,
        }  # fmt: skip
        return None if status is None else kept[status]

    def _anew(self, instance_id: str, old: Committed, new: Committed) -> None:
        """Any finished one may be begun anew: it has started nobody."""

    def _gone_for_good(self, instance_id: str, was: Committed) -> None:
        kept_s = self._kept_s(was.status)
        ends = [nanoseconds(one.timestamp) / 1e9 for one in was.events if one.HasField("executionCompleted")]
        since = EPOCH + self.world.now - max(ends, default=0.0)  # its own word: a slow store writes it later
        if was.ended is None:
            self.cluster.wrong.append(f"{instance_id} is deleted, and has not ended")
        elif kept_s is None and not self.purging:
            self.cluster.wrong.append(f"{instance_id} is deleted, and should be kept for ever")
        elif kept_s is not None and since < kept_s - SKEW_S:
            self.cluster.wrong.append(f"{instance_id} is deleted after {since:.1f} s, it was to be kept {kept_s:g} s")

    # -- clients

    async def clients(self) -> None:
        while not self.stopping:
            self.go(self._live(self._guest()))
            await asyncio.sleep(self.client.random.uniform(0.2, 2.0))

    def _guest(self) -> Guest:
        wish = self._wish()
        guest = Guest(f"{wish[0]}-{len(self.guests)}", [wish])
        self.guests[guest.instance_id] = guest
        return guest

    def _wish(self) -> tuple[str, Any]:
        name = self.client.random.choice(sorted(INPUTS))
        return name, self.client.random.choice(INPUTS[name])

    async def _live(self, guest: Guest) -> None:
        random = self.client.random
        if not await self._begin(guest, guest.wishes[0]):
            return
        guest.accepted = True
        if guest.wishes[0][0] == "hangs" or random.random() < 0.1:
            await asyncio.sleep(random.choice((0.0, 0.3, 1.5)))
            guest.terminating = True
            with suppress(InstanceMissing):
                await self.surely(partial(_terminate, guest.instance_id))
        for _ in range(0 if self.calm else 6):  # use the id again, once it may be
            await asyncio.sleep(random.uniform(0.5, 2.0))
            if guest.instance_id in self.ended_at and random.random() < 0.5:
                wish = random.choice((("rests", None), ("crowd", 3)))
                if await self._begin(guest, wish):
                    guest.wishes.append(wish)
                    return

    async def _begin(self, guest: Guest, wish: tuple[str, Any]) -> bool:
        try:
            await self.ask(lambda hub: hub.start(Start(wish[0], guest.instance_id, json.dumps(wish[1]))))
        except InstanceActive:
            return False
        except (ComponentError, TimeoutError):
            guest.maybe.append(wish)
            return False
        return True

    # -- the end

    def finish(self) -> None:
        world, wrong = self.world, self.cluster.wrong
        self.peace()
        self.stopping = False
        self.calm = True
        crowding = self.client.start(self._crowd())
        self.until(lambda: crowding.done() and not self.going, 100, lambda: f"clients go on: {list(self.going)}")
        self.stopping = True
        ending = self.client.start(self._end_all())
        world.run(ending.done, seconds=400)
        self.until(lambda: not self._unfinished(), 400, lambda: f"not over: {self._unfinished()}")
        for guest in self.guests.values():
            self._judge(guest)
        self.until(lambda: not self._overdue(), 100, lambda: f"kept too long: {self._overdue()}")
        world.run_for(5)
        for instance_id, found in self.histories.instances.items():
            if self._kept_s(found.status) is not None:
                wrong.append(f"{instance_id} is still there")
        self.until(lambda: not self.jobs(), 100, lambda: f"jobs are left: {self.jobs()}")
        self.purging = True
        purging = self.client.start(self._purge_all())
        self.until(purging.done, 400, lambda: "the purge does not end")
        if self.rows() or self.jobs():
            wrong.append(f"left after all was purged: {self.rows()[:5]}, {self.jobs()}")
        self.cluster.check()

    async def _crowd(self) -> None:
        for _ in range(10):
            self.go(self._live(self._guest()))
            await asyncio.sleep(self.client.random.choice((0.0, 0.3)))

    def _unfinished(self) -> list[str]:
        return [name for name, one in self.histories.instances.items() if one.ended is None]

    def _overdue(self) -> list[str]:
        return [name for name, one in self.histories.instances.items() if self._kept_s(one.status) is not None]

    async def _end_all(self) -> None:
        for instance_id in self._unfinished():
            guest = self.guests[instance_id]
            guest.accepted = True
            found = await self.surely(partial(_inspect, instance_id))
            if found is not None and not found.snapshot.status.terminal and not found.waiting:
                self.cluster.wrong.append(f"{instance_id} is not over, and waits for nothing")
            await self.unhang(instance_id, found)
            if guest.wishes[0][0] == "hangs":
                guest.terminating = True
                with suppress(InstanceMissing):
                    await self.surely(partial(_terminate, instance_id))

    def _judge(self, guest: Guest) -> None:
        found = self.histories.instances.get(guest.instance_id)
        if found is None:
            if guest.accepted and guest.instance_id not in self.histories.purged:
                self.cluster.wrong.append(f"{guest.instance_id} was accepted, and is not there")
            return
        came_to = (found.status, json.loads(found.result) if found.result else None)
        right = [expected(*wish) for wish in (*guest.wishes[-1:], *guest.maybe)]
        if guest.terminating:
            right += [(Status.TERMINATED, "stop"), *(expected(*wish) for wish in guest.wishes)]
        if came_to not in right:
            self.cluster.wrong.append(f"{guest.instance_id} came to {came_to}, not to {right}")

    async def _purge_all(self) -> None:
        for instance_id in list(self.histories.instances):
            with suppress(InstanceMissing):
                await self.surely(partial(_purge, instance_id))


class _Counted(SlowTransport):
    """A worker's connection: what it was given and has not answered is under way."""

    def __init__(self, story: Limiting, hub: Hub, *, stateful: bool) -> None:
        super().__init__(hub, stateful=stateful)
        self._story, self.hands = story, story.hired()
        self._names: dict[str, str] = {}

    async def next(self) -> m.WorkItem:
        item = await super().next()
        if item.HasField("workflowRequest"):
            request = item.workflowRequest
            events = (*request.pastEvents, *request.newEvents)
            known = self._names.get(request.instanceId, "")  # of a history that this worker has, only news is sent
            name = next((one.executionStarted.name for one in events if one.HasField("executionStarted")), known)
            self._names[request.instanceId] = name
            self._story.begins(self.hands, "turns", name)
        return item

    async def complete_workflow(self, answer: m.WorkflowResponse) -> None:
        try:
            await super().complete_workflow(answer)
        finally:
            self.hands.turns[self._names.get(answer.instanceId, "")] -= 1

    def close(self) -> None:
        self.hands.gone = True
        super().close()


class _Hand(Executor):
    """The code as one worker has it."""

    def __init__(self, story: Limiting, *, stateful: bool) -> None:
        super().__init__(PROGRAMS, {"plain": self._run, "scarce": self._run}, stateful=stateful)
        self._story, self._hands = story, story.hired()
        self._random: random.Random = self._hands.host.random

    async def activity(self, request: m.ActivityRequest, token: str) -> m.ActivityResponse:
        self._story.begins(self._hands, "activities", request.name)
        try:
            return await super().activity(request, token)
        finally:
            self._hands.activities[request.name] -= 1

    async def _run(self, given: Any) -> Any:
        await asyncio.sleep(self._random.choice((0.0, 0.1, 1.0)))
        return given


async def _terminate(instance_id: str, hub: Hub) -> None:
    await hub.terminate(instance_id, '"stop"')


async def _inspect(instance_id: str, hub: Hub) -> Any:
    return await hub.inspect(instance_id)


async def _purge(instance_id: str, hub: Hub) -> int:
    return await hub.purge(instance_id)


def story(seed: int, *, seconds: float = 18.0) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    cluster = Cluster(seed, failing=0.01, breaking=0.0005)
    limiting = Limiting(cluster)
    for name in NAMES:
        limiting.start(name)
    limiting.client.start(limiting.clients())
    trouble(cluster, NAMES, limiting.start, seconds, {"worker": limiting.lose_worker})
    limiting.finish()
    return cluster.world.events
