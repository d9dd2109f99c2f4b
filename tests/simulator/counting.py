"""Actors that count: what a cluster of them may never show, whatever happens to it.

Each method reads a number, waits a little, and writes the next one. Clients on every host call them at random. Judged:
- no two turns of one actor at once, except beside a host that stood still too long to be waited for (invariant 1);
- every write adds one to what is there: no host that lost its place overwrites another's (fencing, invariant 9);
- in the end every actor can be called, and has counted exactly what was written (invariant 8);
- every reminder that was acknowledged fires, never early (invariant 11).
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, ActorReply, Hosted, Tick
from pillion.kinds.state import Set
from simulator.calls import Calls
from simulator.cluster import APP, Cluster
from simulator.faults import heal, trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.testing.simulation import Host
    from simulator.cluster import Sidecar

TYPE = "counter"
THINKS_S = (0.0, 0.002, 0.3) * 12 + (9.0,)
"""How long a turn may take. The longest does not end within any time that it is given to leave; in some stories there
are many of them."""
NOTICES_S = 0.5
"""A host that goes on hears within this time what happened meanwhile; it may begin turns until then."""


class Counting:
    """The application, on all hosts, and the ledger of what it did. `pauses_s`: those of each client between calls."""

    def __init__(self, cluster: Cluster, actors: int = 6, pauses_s: tuple[float, float] = (0.05, 0.6)) -> None:
        self.cluster, self.pauses_s = cluster, pauses_s
        self.ids = [f"a{number}" for number in range(actors)]
        self.written = dict.fromkeys(self.ids, 0)
        self.running: dict[str, list[tuple[Host, float]]] = {actor_id: [] for actor_id in self.ids}
        self.reminded: dict[str, tuple[float, bool]] = {}
        """Name to due time (true, of the world) and whether it fired."""
        self.calls = self.answers = 0
        self.stopping = False
        self.drain_s = cluster.world.random.choice((1.0, 1.0, 6.0))
        self.thinks_s = cluster.world.random.choice((THINKS_S, THINKS_S, (0.0, 0.3, 9.0)))
        self.idle_s = cluster.world.random.choice((0.5, 8.0))
        self.made = Calls(cluster, self.stood_still)
        cluster.rows.judges.append(self._judge)

    def types(self, sidecar: Sidecar) -> list[Hosted]:
        return [Hosted(TYPE, _OnHost(self, sidecar), idle_timeout_s=self.idle_s, drain_timeout_s=self.drain_s)]

    def leave(self) -> None:
        """Let a sidecar end in order."""
        if up := [sidecar for sidecar in self.cluster.up if sidecar.booted.is_set() and not sidecar.host.paused]:
            sidecar = self.cluster.world.random.choice(up)
            sidecar.host.start(sidecar.leave())

    def part(self) -> None:
        """Cut a sidecar off from placement for longer than it is counted on."""
        if self.cluster.up:
            one = self.cluster.world.random.choice(self.cluster.up)
            self.cluster.network.cut(one.name, "control")
            self.cluster.world.later(16.0, self.cluster.network.mend)

    def start(self, name: str) -> None:
        sidecar = self.cluster.start(name, self.types)
        sidecar.host.start(self._client(sidecar))

    def _judge(self, before: dict[str, bytes | None], value: Callable[[str], bytes | None]) -> None:
        for key, old in before.items():
            if key.endswith("||n"):
                was, now = int(old or b"0"), int(value(key) or b"0")
                self.written[key.split("||")[2]] += 1
                if now != was + 1:
                    self.cluster.wrong.append(f"{key} went from {was} to {now}: somebody wrote who had lost his place")

    # -- turns

    def begin(self, actor_id: str, host: Host) -> tuple[Host, float]:
        world = self.cluster.world
        for other, since in self.running[actor_id]:
            if other.alive and not self.stood_still(other, since) and not self.stood_still(host, world.now):
                self.cluster.wrong.append(f"two turns of {actor_id}: on {other.name} since {since:.3f}, on {host.name}")
        turn = (host, world.now)
        self.running[actor_id].append(turn)
        return turn

    def end(self, actor_id: str, turn: tuple[Host, float]) -> None:
        self.running[actor_id].remove(turn)

    def stood_still(self, host: Host, since: float) -> bool:
        """Whether a host that had a turn at `since`, or begins it then, has stood still and may not have noticed."""
        return host.still_since is not None or host.went_on >= since - NOTICES_S

    # -- clients

    async def _client(self, sidecar: Sidecar) -> None:
        random, world = sidecar.host.random, self.cluster.world
        await sidecar.booted.wait()
        while not self.stopping:
            await asyncio.sleep(random.uniform(*self.pauses_s))
            actor_id = random.choice(self.ids)
            self.calls += 1
            try:
                async with asyncio.timeout(20):
                    if random.random() < 0.1:
                        await self._remind(sidecar, actor_id)
                    else:
                        await sidecar.actors.invoke(self.made.make(TYPE, actor_id, "count"))
                        self.answers += 1
            except (ComponentError, TimeoutError) as error:
                world.tell(f"{sidecar.name}: {actor_id}: {str(error) or type(error).__name__}")

    async def _remind(self, sidecar: Sidecar, actor_id: str) -> None:
        world, due_s = self.cluster.world, sidecar.host.random.choice((0.0, 0.5, 3.0))
        name = f"r{len(self.reminded)}-{sidecar.host.random.getrandbits(16)}"
        asked = world.now
        await sidecar.reminders.create(TYPE, actor_id, name, due_time=f"{due_s}s")
        self.reminded.setdefault(name, (asked + due_s, False))

    def fired(self, name: str) -> None:
        due, _ = self.reminded.get(name, (0.0, False))
        if self.cluster.world.now < due - 4.5:  # clocks of hosts differ by up to four seconds
            self.cluster.wrong.append(f"reminder {name} fired {due - self.cluster.world.now:.3f} s early")
        self.reminded[name] = (due, True)

    # -- the end

    def finish(self) -> None:
        """Heal everything, let it come to rest, and judge what is left."""
        cluster = self.cluster
        world = cluster.world
        self.stopping = True
        heal(cluster)
        if not cluster.up:
            self.start("last")
        done = [0]

        async def ask(sidecar: Sidecar) -> None:
            await sidecar.booted.wait()
            for actor_id in self.ids:
                await sidecar.actors.invoke(self.made.make(TYPE, actor_id, "look"))
            done[0] += 1

        world.run_for(15)
        asked = cluster.up
        for sidecar in asked:
            sidecar.host.start(ask(sidecar))
        world.run(lambda: done[0] == len(asked), seconds=120)
        world.run(lambda: all(fired for _, fired in self.reminded.values()), seconds=120)
        if len(asked) > 1 and world.random.random() < 0.5:
            self.made.one_ends(TYPE, self.ids, world.random.choice(asked), process=world.random.random() < 0.7)
        for actor_id in self.ids:
            value = int(cluster.rows.value(f"{APP}||{TYPE}||{actor_id}||n") or b"0")
            if value != self.written[actor_id]:
                cluster.wrong.append(f"{actor_id} is {value}, but {self.written[actor_id]} writes were made")
        cluster.check()


class _OnHost:
    """The application beside one sidecar: a `Handler`."""

    def __init__(self, counting: Counting, sidecar: Sidecar) -> None:
        self.counting, self.sidecar = counting, sidecar

    async def invoke(self, call: ActorCall) -> ActorReply:
        state, host = self.sidecar.state, self.sidecar.host
        turn = self.counting.begin(call.actor_id, host)
        run, error = self.counting.made.begin(call, host), None
        try:
            found = await state.get(TYPE, call.actor_id, "n")
            await asyncio.sleep(host.random.choice(self.counting.thinks_s))
            if call.method == "count":
                number = int(found.value or b"0") + 1
                await state.transact(TYPE, call.actor_id, [Set("n", b"%d" % number)])
            return ActorReply(json.dumps(found.value is not None).encode())
        except BaseException as failure:
            error = failure
            raise
        finally:
            self.counting.made.end(run, error)
            self.counting.end(call.actor_id, turn)

    async def tick(self, tick: Tick) -> bool:
        turn = self.counting.begin(tick.actor_id, self.sidecar.host)
        try:
            self.counting.fired(tick.name)
            await asyncio.sleep(0.01)
        finally:
            self.counting.end(tick.actor_id, turn)
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        host = self.sidecar.host
        if any(other is host for other, _ in self.counting.running[actor_id]):
            self.counting.cluster.wrong.append(f"{actor_id} is deactivated in the middle of a turn on {host.name}")
        await asyncio.sleep(host.random.choice((0.001, 0.001, 0.3)))


def story(seed: int, *, seconds: float = 40.0) -> int:
    """Run one seed: a cluster under faults, then at peace. Returns the number of events; raises `AssertionError` with
    its story.
    """
    cluster = Cluster(seed, failing=0.01, breaking=0.002)
    world = cluster.world
    counting = Counting(cluster)
    names = ["one", "two", "three"]
    for name in names:
        counting.start(name)
    trouble(cluster, names, counting.start, seconds, {"leave": counting.leave, "part": counting.part})
    counting.finish()
    return world.events
