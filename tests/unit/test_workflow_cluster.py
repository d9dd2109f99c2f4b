"""Two sidecars of one application, with the real host of actors and the real scheduler: instances move and their hosts
die while they run, and every workflow comes to its right end (invariants 20, 23, 24, 30, 37).
"""

from __future__ import annotations

import asyncio
import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from actor_cluster import Cluster
from pillion.clock import SystemClock
from pillion.errors import Code, ComponentError
from pillion.jobs.engine import Engine as JobsEngine
from pillion.kinds.actors import ActorCall, RemoteFailure, Tick
from pillion.kinds.config import Workflow
from pillion.kinds.jobs import Interest, Member, Outcome
from pillion.testing.memory_jobs import Jobs, MemoryJobStore
from pillion.testing.workflow_worker import Context, Executor, InProcess, Worker
from pillion.workflow.faults import InstanceMissing
from pillion.workflow.hub import Start
from pillion.workflow.service import Hub
from pillion.workflow.snapshot import Status
from pillion.workflow.surroundings import Bounds, Names, Surroundings
from workflow_support import memory_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from pillion.actors.host import ActorHost
    from pillion.kinds.jobs import Trigger
    from pillion.workflow.snapshot import Wait

NAMES = Names("default", "app")
TYPES = (NAMES.workflow(), NAMES.activity(), NAMES.retentioner())
BOUNDS = Bounds(linger_s=0.0, first_wake_s=0.3, slow_turn_s=0.02)


def job(ctx: Context, count: int) -> Generator[Any, Any, Any]:
    total = 0
    for _ in range(count):
        total = yield ctx.call_activity("add", total)
        yield ctx.sleep(0.01)
    return total


def tree(ctx: Context, count: int) -> Generator[Any, Any, Any]:
    parts = yield ctx.all([ctx.call_child("job", n) for n in range(count)])
    go = yield ctx.wait_for_event("go")
    return [sum(parts), go]


def wide(ctx: Context, count: int) -> Generator[Any, Any, Any]:
    yield ctx.all([ctx.call_activity("rest") for _ in range(count)])
    return count


class Sidecar:
    def __init__(self, town: Town, name: str) -> None:
        self.town = town
        self.name = name
        self.host: ActorHost = town.cluster.add(name)
        self.hub = Hub(
            Surroundings(
                names=NAMES, clock=SystemClock(), random=random.Random(name), store=lambda: town.store,
                actors=self.host, scheduler=town.jobs, config=town.config, bounds=BOUNDS, address=name,
                rank=lambda _: (sorted(town.cluster.hosts).index(name), len(town.cluster.hosts)),
            )
        )  # fmt: skip
        activities = {"add": town.add, "rest": town.rest}
        self.worker = Worker(Executor({"job": job, "tree": tree, "wide": wide}, activities), InProcess(self.hub))

    async def kill(self) -> None:
        """The process ends; what it had in memory is lost and its calls break off."""
        await self.worker.close()
        await self.hub.close()
        del self.town.cluster.hosts[self.name], self.town.cluster.places[self.name]
        await self.host.close()


class Hosts(dict[str, "ActorHost"]):
    """Those that are up; a call to another one finds no server."""

    def __missing__(self, name: str) -> ActorHost:
        raise RemoteFailure(f"no connection to {name}", Code.UNAVAILABLE)


class Town:
    """The sidecars, their store and their scheduler. `rebalance` moves instances by a hash with another salt."""

    def __init__(self, config: Workflow) -> None:
        self.config = config
        self.store = memory_store()
        self.cluster = Cluster()
        self.cluster.hosts = Hosts()
        self.jobs = JobsEngine(MemoryJobStore(Jobs()), Member("s", 1, "s:1"))
        self.sidecars: dict[str, Sidecar] = {}
        self.ran = 0
        self.at_once = self.most_at_once = 0

    async def rest(self, _: object) -> None:
        """An activity that counts how many of it run at once, and takes a moment."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.005)
        self.at_once -= 1

    def add(self, value: int) -> int:
        self.ran += 1
        return value + 1

    async def open(self) -> None:
        await self.jobs.open()
        for name in ("a", "b"):
            self.sidecars[name] = Sidecar(self, name)
        self.jobs.watch(Interest("app", "default", jobs=False, actor_types=frozenset(TYPES)), self.deliver)
        await self.rebalance(1)

    async def deliver(self, trigger: Trigger) -> Outcome:
        host = next(iter(self.cluster.hosts.values()))
        try:
            await host.tick(
                Tick(trigger.key.actor_type, trigger.key.actor_id, trigger.key.name, payload=trigger.payload)
            )
        except ComponentError:
            return Outcome.FAILED
        return Outcome.SUCCESS

    async def rebalance(self, salt: int) -> None:
        names = sorted(self.cluster.hosts)
        await self.cluster.rebalance(lambda _, i: names[zlib.crc32(f"{salt}{i}".encode()) % len(names)], TYPES)

    async def close(self) -> None:
        for sidecar in self.sidecars.values():
            await sidecar.worker.close()
            await sidecar.hub.close()
        await self.cluster.close()
        await self.jobs.close()


def run(story: Callable[[Town], Awaitable[None]], config: Workflow | None = None) -> None:
    async def main() -> None:
        town = Town(config or Workflow())
        await town.open()
        try:
            async with asyncio.timeout(90):
                await story(town)
        finally:
            await town.close()

    asyncio.run(main())


async def finished(town: Town, hub: Hub, count: int) -> None:
    for number in range(count):
        done = await hub.wait_completion(f"t{number}")
        assert (done.status, done.output) == (Status.COMPLETED, '[6, "ok"]'), number
    async with asyncio.timeout(90):
        while await town.jobs.list_reminders("default", TYPES[0]):  # noqa: ASYNC110 - storage tells nobody
            await asyncio.sleep(0.01)


async def begun(town: Town, count: int) -> None:
    hubs = [sidecar.hub for sidecar in town.sidecars.values()]
    await asyncio.gather(*(hubs[n % 2].start(Start("tree", f"t{n}", input="4")) for n in range(count)))


def test_work_is_shared_and_crosses_hosts() -> None:
    async def story(town: Town) -> None:
        await begun(town, 10)
        hub = town.sidecars["a"].hub
        for number in range(10):
            await hub.raise_event(f"t{number}", "go", '"ok"')
        await finished(town, town.sidecars["b"].hub, 10)
        assert town.cluster.passed_on > 20
        assert town.ran == 60, "without failures every activity runs once"

    run(story)


def test_instances_move_while_they_run() -> None:
    async def story(town: Town) -> None:
        await begun(town, 10)
        for salt in range(2, 8):
            await town.rebalance(salt)
            await asyncio.sleep(0.02)
        for number in range(10):
            await town.sidecars["b"].hub.raise_event(f"t{number}", "go", '"ok"')
            if number % 3 == 0:
                await town.rebalance(20 + number)
        await finished(town, town.sidecars["a"].hub, 10)
        assert town.ran >= 60

    run(story)


def test_a_host_dies_and_the_other_goes_on() -> None:
    async def story(town: Town) -> None:
        await begun(town, 10)
        for number in range(10):
            await town.sidecars["b"].hub.raise_event(f"t{number}", "go", '"ok"')
        await town.sidecars.pop("b").kill()
        await town.rebalance(3)
        await finished(town, town.sidecars["a"].hub, 10)

    run(story)


def test_a_host_that_does_not_know_that_it_lost_an_instance_writes_nothing() -> None:
    """Invariant 20: two hosts believe that they own everything; each step is taken once."""

    async def story(town: Town) -> None:
        a, b = town.sidecars["a"].hub, town.sidecars["b"].hub
        await town.cluster.rebalance(lambda _t, _i: "a", TYPES)
        await a.start(Start("tree", "t0", input="4"))
        await a.wait_completion("t0:0003")
        found = await b.engine.find("t0")
        assert found is not None
        await asyncio.gather(
            a.engine.runners["t0"].add(_raised(1)), found.add(_raised(2)), return_exceptions=True,
        )  # fmt: skip
        await finished(town, a, 1)

    run(story)


def _raised(number: int) -> Any:
    from pillion.workflow import history

    return history.event_raised(number, "go", '"ok"')


def test_a_turn_and_an_activity_that_run_when_their_instance_leaves_are_not_done_twice() -> None:
    """Invariant 37: the turn comes to its end first; the activity's result goes to the next owner."""

    async def story(town: Town) -> None:
        hold = asyncio.Event()
        began = asyncio.Event()

        async def slow(value: int) -> int:
            town.ran += 1
            began.set()
            await hold.wait()
            return value + 1

        for sidecar in town.sidecars.values():
            sidecar.worker.executor.activities["add"] = slow
        await town.cluster.rebalance(lambda _t, _i: "a", TYPES)
        a, b = town.sidecars["a"].hub, town.sidecars["b"].hub
        await a.start(Start("job", "j", input="1"))
        await began.wait()
        await town.cluster.rebalance(lambda kind, _i: "b" if kind == TYPES[0] else "a", TYPES)
        while not any(run.task is not None for run in _runs(b)):  # noqa: ASYNC110 - dispatches tell nobody
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        hold.set()
        assert (await a.wait_completion("j")).output == "1"
        assert town.ran == 1

    run(story)


def _runs(hub: Hub) -> list[Any]:
    return [run for runner in hub.engine.runners.values() for run in runner.activities.values()]


def test_limits_for_all_replicas_are_shared_among_them() -> None:
    async def story(town: Town) -> None:
        hub = town.sidecars["a"].hub
        for number in range(4):
            await hub.start(Start("wide", f"w{number}", input="20"))
        for number in range(4):
            assert (await hub.wait_completion(f"w{number}")).status is Status.COMPLETED
        assert town.most_at_once == 3, "two here, one there"

        town.most_at_once = 0
        await town.sidecars.pop("b").kill()
        await town.rebalance(2)
        await hub.start(Start("wide", "alone", input="20"))
        await hub.wait_completion("alone")
        assert town.most_at_once == 3, "the one that is left has it all"

    run(story, Workflow(activity_limits={"rest": 3}))


def test_instances_are_inspected_and_mended_from_any_sidecar() -> None:
    async def story(town: Town) -> None:
        a, b = town.sidecars["a"], town.sidecars["b"]

        def by_kind(actor_type: str, actor_id: str) -> str:
            return "a" if actor_type == NAMES.workflow() else "b"

        await town.cluster.rebalance(by_kind, TYPES)
        await b.worker.close()
        await a.hub.start(Start("job", "i", input="1"))
        first = b.hub.attach()
        await first.next()
        idle = a.hub.attach()  # the types stay hosted
        await a.worker.close()
        first.close()
        await _lose(b, 2)
        await _lose(a, 2)  # it is under suspicion by now, and its owner has it tried
        a.worker = Worker(a.worker.executor, InProcess(a.hub))
        idle.close(left=True)
        keeper = b.hub.attach()
        async with asyncio.timeout(10):
            while (await _waits(a.hub, "i"))[0].kind != "quarantine":  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
        for hub in (a.hub, b.hub):
            found = await hub.inspect("i")
            assert found is not None
            assert found.owner == "a"
            [wait] = found.waiting
            assert (wait.kind, wait.name, wait.task_id, wait.attempts) == ("quarantine", "add", 0, 5)
        await b.hub.retry_activity("i", 0)
        await keeper.next()
        await b.hub.skip_activity("i", 0, "7")
        assert (await b.hub.wait_completion("i")).output == "7"
        with pytest.raises(InstanceMissing):
            await b.hub.skip_activity("i", 0)
        foreign = [(b"dapr-caller-app-id", b"other"), (b"dapr-caller-namespace", b"default")]
        with pytest.raises(RemoteFailure, match="access denied"):
            await a.host.invoke(ActorCall(NAMES.workflow(), "i", "pillion.Inspect", headers=foreign))

    run(story)


async def _lose(sidecar: Sidecar, count: int) -> None:
    """One worker of the sidecar after the other takes an activity, and is lost."""
    for _ in range(count):
        victim = sidecar.hub.attach()
        await victim.next()
        victim.close()


async def _waits(hub: Hub, instance_id: str) -> Sequence[Wait]:
    found = await hub.inspect(instance_id)
    assert found is not None
    return found.waiting


def test_an_instance_that_is_purged_and_begun_again_runs_its_activities_again() -> None:
    """They have the same names, numbers and execution ids, and run where the results of the first are remembered."""

    async def story(town: Town) -> None:
        await town.cluster.rebalance(lambda kind, _i: "b" if kind == NAMES.activity() else "a", TYPES)
        hub = town.sidecars["a"].hub
        for ran in (2, 4):
            await hub.start(Start("job", "i", input="2"))
            assert (await hub.wait_completion("i")).output == "2"
            assert town.ran == ran
            await hub.purge("i")

    run(story)
