"""What becomes of calls: none is run again that was answered, none waits where its actor does not live any more.

A call that was under way when a connection broke, or its host fell silent, may have run, and runs again at the next
owner: nobody can know better. Judged is the other side of it:
- a call whose turn ended by itself, whatever it said, is not run again, unless a connection broke since it was made, or
  a host stood still: its answer has got through, and so has word to those who were asked before and are not any more;
- a call does not wait longer than `LATE_S` for a host that lost the actor by a table that is in force for the caller;
- in peace the end of one host costs no call its answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.actors.away import LATE_S
from pillion.kinds.actors import ActorCall, LostPlace
from pillion.peers.actors import CALL_ACTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.actors.away import Errand
    from pillion.testing.simulation import Host
    from simulator.cluster import Cluster, Sidecar

LOOK_S = 0.25
"""How often it is looked whether calls wait in vain."""
ALLOWED_S = LATE_S + 3 * LOOK_S


@dataclass
class Run:
    """One turn of a call. `answered`: it ended by itself."""

    host: Host
    since: float
    answered: bool = False


class Calls:
    """The calls of a cluster. `stood_still(host, since)` tells of hosts for which nothing holds."""

    def __init__(self, cluster: Cluster, stood_still: Callable[[Host, float], bool]) -> None:
        self.cluster, self._stood_still = cluster, stood_still
        self._runs: dict[bytes, list[Run]] = {}
        self._breaks: dict[bytes, int] = {}
        """How much was broken when a call was made."""
        self._late: dict[Errand, float] = {}
        self._looked = 0.0
        self._number = 0
        cluster.world.checks.append(self._look)
        # Some connections notice silence later than placement does.
        if cluster.world.random.random() < 0.5:
            cluster.network.notices[CALL_ACTOR] = (20.0, 30.0)

    def make(self, actor_type: str, actor_id: str, method: str) -> ActorCall:
        """Return a call that is known by its body."""
        self._number += 1
        body = b"%d" % self._number
        self._breaks[body] = self.cluster.network.broken
        return ActorCall(actor_type, actor_id, method, body=body)

    # -- runs

    def begin(self, call: ActorCall, host: Host) -> Run:
        runs = self._runs.setdefault(call.body, [])
        whole = self._breaks[call.body] == self.cluster.network.broken
        for one in runs:
            if whole and one.answered and not self._stood_still(one.host, one.since):
                self.cluster.wrong.append(
                    f"a call of {call.actor_id} ran on {one.host.name} at {one.since:.3f}, was answered, and runs again"
                )
        run = Run(host, self.cluster.world.now)
        runs.append(run)
        return run

    def end(self, run: Run, error: BaseException | None) -> None:
        run.answered = not isinstance(error, asyncio.CancelledError | LostPlace)

    # -- waits

    def _look(self) -> None:
        now = self.cluster.world.now
        if now < self._looked + LOOK_S:
            return
        still, self._looked = now - self._looked > 2 * LOOK_S, now
        late: dict[Errand, float] = {}
        for sidecar in self.cluster.up:
            if still or not sidecar.booted.is_set() or self._stood_still(sidecar.host, now):
                continue
            away = sidecar.actors._away
            for errand in away._errands:
                if away._elsewhere(errand.address, errand.actor_type, errand.actor_id):
                    since = late[errand] = self._late.get(errand, now)
                    if now - since > ALLOWED_S:
                        self.cluster.wrong.append(
                            f"{sidecar.name} waits at {errand.address} for {errand.actor_id} since {since:.3f}"
                        )
        self._late = late

    # -- the end of one host

    def one_ends(self, actor_type: str, ids: list[str], victim: Sidecar, *, process: bool) -> None:
        """Call every actor from everywhere else while a host ends; every call has to be answered."""
        cluster, world = self.cluster, self.cluster.world
        others = [sidecar for sidecar in cluster.up if sidecar is not victim]
        open_ = [0]

        async def ask(sidecar: Sidecar, actor_id: str) -> None:
            open_[0] += 1
            await asyncio.sleep(sidecar.host.random.uniform(0.0, 0.5))
            await sidecar.actors.invoke(self.make(actor_type, actor_id, "look"))
            open_[0] -= 1

        for sidecar in others:
            for actor_id in ids:
                sidecar.host.start(ask(sidecar, actor_id))
        world.run_for(world.random.uniform(0.0, 0.5))
        cluster.kill(victim.host, process=process)
        world.run(lambda: not open_[0], seconds=120)
