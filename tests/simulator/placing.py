"""Several placement servers, of which one leads: what sidecars may never see, whoever leads, believes to, or did.

Three servers with the real candidacy, before a simulated PostgreSQL or etcd (`elections.py`); three sidecars whose
actors count (`counting.py`), that know all three addresses. Servers die, leave in order, stand still and go on, are cut
from the store of the engine and not from the sidecars, and the other way round; the store itself ends and comes back;
clocks of servers are an hour apart. Judged after every event, besides what counting judges:
- one server at most vouches for its leadership;
- versions grow: each table that a sidecar takes up is newer than all it had, and no fence is taken with an older one;
- a version has one table, whoever takes it up, and nobody has it before all of its hosts were told of the round, unless
  it says what the one before said: a round that came to nothing takes a number, too.
In the end, also after whoever leads has gone for good, one server leads, every actor answers, and all reminders fire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pillion.actors.fence import KEY, read
from pillion.components.leadership_etcd import EtcdLease
from pillion.components.leadership_postgresql import PostgresLock
from pillion.control.candidacy import Candidacy
from simulator.cluster import Cluster
from simulator.counting import Counting
from simulator.elections import Etcd, Postgres
from simulator.faults import heal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.actors.table import Table
    from pillion.control.placement import PlacementService
    from pillion.kinds.leadership import Leadership
    from pillion.testing.simulation import Host

SERVERS = ("p1", "p2", "p3")
SIDECARS = ("one", "two", "three")
FAULTS = ("end", "leave", "pause", "cut from the store", "cut from a sidecar", "cut from all", "store") * 2 + (
    "sidecar ends", "sidecar pauses", "nothing", "slow", "long", "asleep", "asleep",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a sidecar was seen to know: its table, the newest order on its stream, the newest table that it ever had."""

    table: Table | None = None
    order: int = 0
    newest: int = 0


_NOTHING = _Seen()
Members = dict[str, frozenset[str]]


class Server:
    """One placement server, as `control/placement_server.py` wires it."""

    def __init__(self, cluster: Placed, name: str) -> None:
        random = cluster.world.random
        self.cluster, self.name = cluster, name
        self.host = cluster.world.host(name, offset_s=cluster.ahead[name], rate=1 + random.uniform(-1e-3, 1e-3))
        self.service: PlacementService = cluster.placement_service(self.host)
        self.leadership = cluster.leadership(self.host)
        candidacy = Candidacy(self.leadership, self.service, node=name, led=self._led)
        self._work = self.host.start(self._boot(candidacy))

    async def _boot(self, candidacy: Candidacy) -> None:
        await self.leadership.open()
        self.cluster.network.serve(f"{self.name}:50005", self.host, self.service)
        await candidacy.run()

    def _led(self, leads: bool) -> None:
        self.cluster.world.tell(f"{self.name} {'leads' if leads else 'leads no more'}")

    def leave(self) -> None:
        """End it as it ends by itself: the sidecars are told, and the next one may follow at once."""

        async def close() -> None:
            self.service.close()
            self._work.cancel()
            await self.leadership.close()
            self.cluster.kill(self.host, process=True)

        self.cluster.world.tell(f"{self.name} leaves")
        self.host.start(close())


class Placed(Cluster):
    """A cluster whose placement is three servers of their own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, failing=0.01, breaking=0.001, placements=[f"{name}:50005" for name in SERVERS])
        random = self.world.random
        apart_s = random.choice((2.0, 2.0, 3600.0))
        self.ahead = {name: random.uniform(-apart_s, apart_s) for name in SERVERS}
        self._engine = random.choice((Postgres, Etcd))(self.world, self.network)
        self.store = self._engine.start()
        self.servers: dict[str, Server] = {}
        self.calm = False
        """Whether there are no faults any more."""
        self.agreed: dict[int, Members] = {}
        self._told: dict[int, set[str]] = {}
        self._seen: dict[str, _Seen] = {}
        self.rows.judges.append(self._judge_fences)
        self.world.checks.append(self._judge)
        for name in SERVERS:
            self.start_server(name)

    def leadership(self, host: Host) -> Leadership:
        if isinstance(self._engine, Postgres):
            return PostgresLock("host=store", host.clock, connect=self._engine.connect(host))
        client: Any = self._engine.client(host)
        return EtcdLease(["store"], host.clock, identity=host.name, client=client)

    def start_server(self, name: str) -> None:
        if name not in self.servers or not self.servers[name].host.alive:
            self.world.tell(f"{name} starts")
            self.servers[name] = Server(self, name)

    def kill_process(self, host: Host) -> None:
        if host.alive and not self.calm:
            self.kill(host, process=True)

    def start_store(self) -> None:
        if not self.store.alive:
            self.world.tell("the store starts")
            self.store = self._engine.start()

    @property
    def leaders(self) -> list[Server]:
        """Those who vouch for themselves at this moment."""
        return [server for server in self.servers.values() if server.host.alive and server.leadership.holds()]

    # -- judges

    def _judge(self) -> None:
        vouching = 0
        for server in self.servers.values():
            vouching += server.host.alive and server.leadership.holds()
        if vouching > 1:
            leaders = self.leaders
            self.wrong.append(f"{' and '.join(server.name for server in leaders)} lead at once")
        for name, sidecar in self.sidecars.items():
            if not sidecar.booted.is_set():
                continue
            machine = sidecar.placement._machine
            seen = self._seen.get(name, _NOTHING)
            if (machine.table is seen.table and machine._order == seen.order) or not sidecar.host.alive:
                continue
            self._seen[name] = _Seen(machine.table, machine._order, max(seen.newest, machine.table.version))
            if machine._order:
                self._told.setdefault(machine._order, set()).add(sidecar.address)
            if machine.table is not seen.table and machine.table.version:
                self._taken_up(name, seen.newest, machine.table)
        if self.wrong:
            self.check()

    def _taken_up(self, name: str, newest: int, table: Table) -> None:
        version, members = table.version, {kind: frozenset(ring.members) for kind, ring in table.rings.items()}
        self.world.tell(f"{name} takes up {version} {[sorted(hosts) for hosts in members.values()]}")
        if version < newest:
            self.wrong.append(f"{name} takes up version {version} after {newest}")
        if self.agreed.setdefault(version, members) != members:
            self.wrong.append(f"{name} has another table {version} than {self.agreed[version]}: {members}")
        before = self.agreed.get(max((one for one in self.agreed if one < version), default=0))
        if members != before and (untold := set().union(*members.values()) - self._told[version]):
            self.wrong.append(f"{name} takes up version {version}, of which {untold} have not been told")

    def _judge_fences(self, before: dict[str, bytes | None], value: Callable[[str], bytes | None]) -> None:
        for key, old in before.items():
            if key.endswith(KEY) and old is not None and (new := value(key)) is not None:
                was, now = read(old), read(new)
                if now.epoch < was.epoch:
                    self.wrong.append(f"{key}: {now.host} takes it with {now.epoch} after {was.host} with {was.epoch}")


def trouble(cluster: Placed, counting: Counting, seconds: float) -> None:
    """Let one fault follow the other; most of them meet whoever leads."""
    world, random, network = cluster.world, cluster.world.random, cluster.network
    end, failing = world.now + seconds, cluster.disk.failing
    while world.now < end:
        world.run_for(random.uniform(1.0, 8.0))
        fault = random.choice(FAULTS)
        servers = [server for server in cluster.servers.values() if server.host.alive]
        leaders = [server for server in servers if server.leadership.holds()]
        server = random.choice(leaders if leaders and random.random() < 0.7 else servers) if servers else None
        sidecar = random.choice(cluster.up).host if cluster.up else None
        down_s, still_s = random.choice((0.2, 3.0, 30.0)), random.choice((0.5, 4.5, 7.0, 14.0, 40.0))
        if fault == "store" and cluster.store.alive:
            cluster.kill(cluster.store, process=random.random() < 0.7)
            world.later(random.choice((0.1, 3.0, 12.0)), cluster.start_store)
        elif fault == "slow":
            cluster.disk.delay_s = random.choice(((0.0001, 0.005), (0.001, 0.2)))
        elif fault == "long":
            world.run_for(random.uniform(20.0, 60.0))
        elif fault == "sidecar ends" and sidecar is not None:
            cluster.kill(sidecar, process=random.random() < 0.5)
        elif fault == "asleep" and sidecar is not None and leaders:
            # It wakes to hear of the end of a leader that had given its actors away by then.
            still_s = random.uniform(10.0, 13.0)
            _pause(cluster, sidecar, still_s)
            world.later(still_s - random.uniform(0.05, 1.0), cluster.kill_process, leaders[0].host)
            world.later(still_s + down_s, cluster.start_server, leaders[0].name)
        elif fault == "sidecar pauses" and sidecar is not None:
            _pause(cluster, sidecar, still_s)
        elif server is None or server.host.paused:
            pass
        elif fault == "end":
            cluster.kill(server.host, process=random.random() < 0.5)
            world.later(down_s, cluster.start_server, server.name)
        elif fault == "leave":
            server.leave()
            world.later(5.0 + down_s, cluster.start_server, server.name)
        elif fault == "pause":
            _pause(cluster, server.host, still_s)
        elif fault.startswith("cut"):
            others = {"cut from the store": ["store"], "cut from a sidecar": [random.choice(SIDECARS)]}
            for other in others.get(fault, list(SIDECARS)):
                network.cut(server.name, other)
            world.later(still_s, network.mend)
        cluster.disk.failing = failing
        for name in SIDECARS:
            if not cluster.sidecars[name].host.alive and random.random() < 0.6:
                counting.start(name)


def _pause(cluster: Placed, host: Host, seconds: float) -> None:
    if not host.paused:
        host.pause()
        cluster.world.later(seconds, lambda: host.resume() if host.paused and host.alive else None)


def peace(cluster: Placed) -> None:
    """End every fault, and wait until one server leads and all sidecars are with it."""
    world = cluster.world
    cluster.calm = True
    heal(cluster)
    cluster.start_store()
    for name in SERVERS:
        cluster.start_server(name)
    world.run(lambda: _at_rest(cluster), seconds=240)
    if world.random.random() < 0.5:
        if world.random.random() < 0.5:
            cluster.kill(cluster.store, process=False)
            cluster.start_store()
            world.run_for(30.0)
            world.run(lambda: _at_rest(cluster), seconds=240)
        leader = cluster.leaders[0]
        cluster.kill(leader.host, process=world.random.random() < 0.5)
        world.run_for(10.0)
        world.run(lambda: _at_rest(cluster), seconds=240)


def _at_rest(cluster: Placed) -> bool:
    """Whether one server leads, and has given a table: until then nobody takes over from a host that ends."""
    leaders = cluster.leaders
    if len(leaders) != 1 or any(room.untouched for room in leaders[0].service._rooms.values()):
        return False
    return all(
        sidecar.booted.is_set() and sidecar.placement.connected and sidecar.placement.ready for sidecar in cluster.up
    )


def story(seed: int, *, seconds: float = 70.0) -> int:
    """Run one seed. Returns the number of events; raises `AssertionError` with its story."""
    cluster = Placed(seed)
    world = cluster.world
    world.run_for(world.random.choice((0.0, 10.0, 10.0, 1500.0)))
    counting = Counting(cluster, actors=4, pauses_s=(0.1, 3.0))
    for name in SIDECARS:
        counting.start(name)
    trouble(cluster, counting, seconds)
    counting.stopping = True
    peace(cluster)
    counting.finish()
    return world.events
