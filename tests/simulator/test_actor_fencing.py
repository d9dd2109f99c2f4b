"""State of actors when hosts disagree about who owns them: paused hosts, stale tables, a store whose answers get lost.

Placement is made worse here than it is: a new table reaches each host at a time of its own, nobody waits for anybody,
some hosts do not even drain. The fence alone has to keep writes apart.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import orjson
import pytest

from pillion.actors.fence import COMPARABLE
from pillion.actors.host import ActorHost
from pillion.actors.state import ActorState
from pillion.errors import ComponentError
from pillion.kinds.actors import (
    ActorCall,
    ActorError,
    ActorReply,
    AppRefused,
    Hosted,
    LostPlace,
    Moved,
    NotActive,
    Owner,
    RemoteFailure,
    Tick,
)
from pillion.kinds.state import Set
from pillion.testing.simulation import Broken, Disk, Wire, World
from simulator.stores import Rows, SimulatedState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pillion.testing.simulation import Host

KEY = "app||T||1||x"
CHAOS_S = 120.0


class Place:
    """The table as one host knows it, which may be long out of date."""

    def __init__(self, name: str, version: int, owner: str) -> None:
        self.name, self.version, self._owner = name, version, owner

    def learn(self, version: int, owner: str) -> None:
        if version > self.version:
            self.version, self._owner = version, owner

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        return Owner(self._owner, "app", "default", local=self._owner == self.name)

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        raise AssertionError("nothing is ever blocked here")

    def types(self, actor_types: Sequence[str]) -> None: ...


class Way:
    """Calls to other sidecars over a wire that loses messages."""

    def __init__(self, sim: Sim, source: Host) -> None:
        self._sim, self._source = sim, source

    async def invoke(self, owner: Owner, call: ActorCall) -> ActorReply:
        target = self._sim.hosts[owner.address]
        again = ActorCall(call.actor_type, call.actor_id, call.method, remote=True)
        try:
            return await self._sim.wire.call(
                self._source, self._sim.world.hosts[owner.address], lambda: target.invoke(again)
            )
        except Broken as error:
            failure = RemoteFailure(str(error), 14)
            failure.retryable = True
            raise failure from error
        except LostPlace as error:
            raise Moved(str(error)) from error

    async def tick(self, owner: Owner, tick: Tick) -> None:
        raise AssertionError("no ticks here")

    def stream(self, owner: Owner, call: ActorCall) -> AsyncIterator[bytes]:
        raise AssertionError("no streams here")


class Appender:
    """An application: each call reads the list, thinks, and writes it with one entry more."""

    def __init__(self, sim: Sim, host: Host) -> None:
        self._sim, self._host = sim, host
        self.state: ActorState | None = None

    async def invoke(self, call: ActorCall) -> ActorReply:
        assert self.state is not None
        sim = self._sim
        sim.attempts += 1
        mine = f"{self._host.name}{sim.attempts}"
        try:
            found = await self.state.get("T", "1", "x")
            await asyncio.sleep(self._host.random.choice([0.0, 0.01, 0.5]))
            entries = orjson.loads(found.value or b"[]")
            await self.state.transact("T", "1", [Set("x", orjson.dumps([*entries, mine]), is_json=True)])
        except LostPlace:
            sim.lost += 1
            raise AppRefused("the sidecar refused the state") from None
        except (NotActive, ComponentError) as error:
            raise AppRefused(str(error)) from error
        sim.written.append(mine)
        return ActorReply(mine.encode())

    async def tick(self, tick: Tick) -> bool:
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        await asyncio.sleep(0.05)


class Sim:
    def __init__(self, seed: int, first_version: int) -> None:
        self.world = World(seed)
        self.rng = random.Random(seed)
        self.wire = Wire(self.world, loss=0.02)
        self.disk = Disk(self.world, failing=0.05)
        self.rows = Rows(self.world)
        self.rows.judges.append(self.judge)
        self.hosts: dict[str, ActorHost] = {}
        self.places: dict[str, Place] = {}
        self.version, self.owner = first_version, "a"
        self.written: list[str] = []
        self.attempts = self.lost = 0
        self.answered = 0
        for name in ("a", "b", "c"):
            self.add(name)

    def judge(self, before: dict[str, bytes | None], after: Callable[[str], bytes | None]) -> None:
        """Every write continues what was there: none was made on what somebody has replaced meanwhile."""
        if KEY in before:
            old, new = orjson.loads(before[KEY] or b"[]"), orjson.loads(after(KEY) or b"[]")
            assert new[:-1] == old, self.world.told(f"{old[-3:]} was followed by {new[-3:]}")

    def add(self, name: str) -> None:
        host = self.world.host(name, rate=self.rng.uniform(0.9, 1.1))
        app = Appender(self, host)
        place = self.places[name] = Place(name, self.version, self.owner)

        def begin() -> None:
            runtime = self.hosts[name] = ActorHost(place, Way(self, host), random=host.random)
            store = SimulatedState(self.rows, self.disk, host)
            app.state = ActorState("app", runtime, lambda: store, address=name, random=host.random)
            runtime.store_changed(True)
            runtime.host("app", [Hosted("T", app, idle_timeout_s=3.0)])

        host.call(begin)

    def move(self) -> None:
        """A new table, which each host hears of when it hears of it."""
        self.version += self.rng.choice([1, 2])
        self.owner = self.rng.choice("abc")
        self.world.tell(f"table {self.version}: {self.owner}")
        for name in self.hosts:
            delay_s = self.rng.choice([0.0, 0.05, 1.0, 6.0])
            self.world.later(delay_s, self.world.hosts[name].call, self.learn, name, self.version, self.owner)

    def learn(self, name: str, version: int, owner: str) -> None:
        place, host = self.places[name], self.hosts[name]
        place.learn(version, owner)
        if self.rng.random() < 0.5:
            stays = lambda _type, _id: place.lookup("T", "1").local  # type: ignore[union-attr]  # noqa: E731
            self.world.hosts[name].start(host.drain(["T"], stays))
        host.settled(["T"])

    def disturb(self) -> None:
        """Something happens, and again a while later."""
        if self.world.now > CHAOS_S:
            return
        what = self.rng.random()
        if what < 0.5:
            self.move()
        else:
            host = self.world.hosts[self.rng.choice("abc")]
            if not host.paused:
                host.pause()
                self.world.later(self.rng.choice([0.1, 1.0, 8.0]), host.resume)
        self.world.later(self.rng.uniform(0.1, 3.0), self.disturb)

    async def caller(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < CHAOS_S:
            await asyncio.sleep(self.world.hosts[name].random.uniform(0.0, 1.0))
            try:
                await self.hosts[name].invoke(ActorCall("T", "1", "append"))
                self.answered += 1
            except (ActorError, Broken):
                continue


@pytest.mark.parametrize("first_version", [COMPARABLE + 1, 1], ids=["ours", "reference"])
@pytest.mark.parametrize("seed", range(8))
def test_no_write_is_lost_or_made_on_what_was_replaced(seed: int, first_version: int) -> None:
    """Invariants 9 and 20 for actors, whichever placement service makes the versions."""
    sim = Sim(seed, first_version)
    world = sim.world
    world.run(until=lambda: len(sim.hosts) == 3)
    callers = [world.hosts[name].start(sim.caller(name)) for name in "aabbcc"]
    world.later(0.5, sim.disturb)
    world.run(until=lambda: all(task.done() for task in callers), seconds=600, events=3_000_000)
    sim.wire.loss = sim.disk.failing = 0.0
    for name, host in world.hosts.items():
        host.call(sim.learn, name, sim.version + 1, "a")
    last = world.hosts["c"].start(sim.hosts["c"].invoke(ActorCall("T", "1", "append")))
    world.run(until=last.done, seconds=60)
    kept = orjson.loads(sim.rows.value(KEY) or b"[]")
    assert len(set(kept)) == len(kept)
    missing = [entry for entry in sim.written if entry not in kept]
    assert not missing, world.told(f"acknowledged, and gone: {missing}")
    assert last.result().body.decode() == kept[-1]
    assert sim.answered > 40
    ends = [world.hosts[name].start(sim.hosts[name].close()) for name in "abc"]
    world.run(until=lambda: all(end.done() for end in ends))
