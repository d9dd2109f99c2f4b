"""Events from outside, while calls between sidecars break all the time: sidecars try again, nobody hears twice.

As `working.py`, whose judges see everything here, too, with those workflows alone that take events: in one generation,
and one in each. Every third call that carries an event breaks on its way or back, so that many are sent again - to the
same host, which may be writing them down at that moment, or to the next one, after a generation or a host has ended.
"""

from __future__ import annotations

import asyncio
from functools import partial

from pillion.errors import ComponentError
from pillion.peers.actors import CALL_ACTOR
from simulator.cluster import Cluster
from simulator.faults import trouble
from simulator.working import NAMES, Case, Working, raise_event

BREAKING = 0.12
"""The chance of each of the messages of a call that carries an event: there and back, head and end."""


class Hearing(Working):
    """Clients that raise many events."""

    async def clients(self) -> None:
        random, number = self.client.random, 0
        while not self.stopping:
            name = random.choice(("collect", "collect_anew"))
            case = Case(f"{name}-{number}", name, None if name == "collect" else [])
            number += 1
            self.cases.append(case)
            self.go(self._live(case))
            await asyncio.sleep(random.uniform(0.3, 3.0))

    async def _raise_events(self, case: Case) -> None:
        random = self.client.random
        for number in range(random.choice((4, 12))):
            if self.stopping:
                return
            await asyncio.sleep(random.choice((0.0, 0.01, 0.3, 1.5)))
            case.sent.append(number)
            try:
                await self.ask(partial(raise_event, case.instance_id, "go", number))
            except (ComponentError, TimeoutError):
                continue
            case.acknowledged.append(number)

    def fall(self) -> None:
        """The store is away; calls that wait for it break, and are made again; and a host ends before the store is
        back, with what it has not written."""
        world, disk = self.world, self.cluster.disk
        world.tell("the store is away, and somebody ends")
        disk.down = True

        def end() -> None:
            if self.cluster.up and not self.stopping:
                self.cluster.kill(world.random.choice(self.cluster.up).host, process=True)
            disk.down = False

        world.later(world.random.uniform(0.3, 1.5), self.cluster.network.tear, CALL_ACTOR)
        world.later(world.random.uniform(1.0, 6.0), end)


def story(seed: int, *, seconds: float = 20.0) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    cluster = Cluster(seed, failing=0.02, breaking=0.0005)
    cluster.network.breaks[CALL_ACTOR] = BREAKING
    hearing = Hearing(cluster)
    for name in NAMES:
        hearing.start(name)
    hearing.client.start(hearing.clients())
    trouble(
        cluster, NAMES, hearing.start, seconds, {"fall": hearing.fall, "another": hearing.fall, "third": hearing.fall}
    )
    hearing.finish()
    return cluster.world.events
