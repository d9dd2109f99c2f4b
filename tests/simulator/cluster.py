"""A cluster in a simulated world: a control host with placement and scheduler, and sidecars that host actors.

Everything between the application and the store is the real thing: membership, rounds, hosts, turns, fences, reminders,
the scheduler's engine and both ends of its protocol. Invented are time, the network, the disk and the applications.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pillion.actors.host import ActorHost, Uncounted
from pillion.actors.membership import SILENCE_S
from pillion.actors.placement import Placement
from pillion.actors.placement_link import METHOD, GrpcLink
from pillion.actors.reminders import SchedulerReminders
from pillion.actors.seat import Seat
from pillion.actors.state import ActorState
from pillion.components.leadership_file import APART
from pillion.control.placement import PlacementService
from pillion.control.scheduler import SchedulerService
from pillion.control.scheduler_hosts import Hosts
from pillion.control.terms import Terms
from pillion.errors import ComponentError
from pillion.jobs.engine import Engine
from pillion.jobs.remote import RemoteScheduler
from pillion.kinds.jobs import Member
from pillion.peers.actors import PeerActors
from pillion.peers.pool import Pool
from pillion.serve.internal_actors import InternalActors
from pillion.sidecar.scheduling import Scheduling
from pillion.testing.memory_jobs import Jobs
from pillion.testing.simulated_grpc import Network
from pillion.testing.simulation import EPOCH, Disk, Host, World
from simulator.stores import Rows, SimulatedJobs, SimulatedState, WorldClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.kinds.actors import Hosted
    from pillion.net.exchange import Metadata, Method

APP, NAMESPACE = "app", "default"
PLACEMENT, SCHEDULER = "control:50005", "control:50006"
GRACE_S = 10.0


class Cluster:
    """One world with everything in it. `placements` are where sidecars look for placement; the control host has it
    where its address is among them.
    """

    def __init__(
        self, seed: int, *, failing: float = 0.0, breaking: float = 0.0, placements: Sequence[str] = (PLACEMENT,)
    ) -> None:
        self.world = World(seed)
        self.network = Network(self.world, breaking=breaking)
        # Server and sidecar notice silence on this stream after five seconds, neither earlier (`Terms`, `SILENCE_S`).
        self.network.notices[METHOD] = (SILENCE_S, SILENCE_S)
        self.disk = Disk(self.world, failing=failing)
        self.rows = Rows(self.world)
        self.jobs = Jobs(WorldClock(self.world))
        self.sidecars: dict[str, Sidecar] = {}
        self.wrong: list[str] = []
        self.world.checks.append(self.check)
        listen(self.wrong)
        self.placements = placements
        self._terms = 0
        self.control = self.start_control()

    def check(self) -> None:
        if self.wrong:
            raise AssertionError(self.world.told("; ".join(self.wrong)))

    # -- hosts

    def start_control(self) -> Host:
        """Start placement and scheduler on a host of their own, with nothing in memory; not beside those that run."""
        if self._terms and self.control.alive:
            return self.control
        world = self.world
        host = self.control = world.host("control", offset_s=world.random.uniform(-2, 2))
        inherited, self._terms = self._terms > 0, self._terms + 1

        async def boot() -> None:
            if PLACEMENT in self.placements:
                placement = self.placement_service(host)
                placement.lead(_Always(), int(EPOCH * 1000) + self._terms * APART, inherited=inherited)
                self.network.serve(PLACEMENT, host, placement)
            store = SimulatedJobs(self.jobs, self.disk, host)
            engine = Engine(
                store,
                Member("scheduler-0", self._terms, SCHEDULER),
                clock=host.clock,
                chance=host.random,
            )
            await patiently(engine.open)
            self.network.serve(SCHEDULER, host, SchedulerService(engine, Hosts([SCHEDULER])))

        host.start(boot())
        return host

    def placement_service(self, host: Host) -> PlacementService:
        """Return a service of placement that runs on `host` and leads nobody yet."""

        async def dead(address: str) -> bool:
            """What `probing.refuses` finds out."""
            target = self.world.hosts[address.partition(":")[0]]
            if self.network.cut_since(host, target) is not None:
                await asyncio.sleep(1.0)
                return False
            await asyncio.sleep(0.01)
            return self.network.refuses(address)

        return PlacementService(
            Terms(grace_s=GRACE_S),
            clock=host.clock,
            node=host.name,
            silence=lambda call: call.silence(),  # type: ignore[attr-defined]
            dead=dead,
        )

    def kill(self, host: Host, *, process: bool) -> None:
        """End a sidecar or the control host: its process alone, whose connections its system closes, or the machine."""
        host.kill()
        if process:
            self.world.tell(f"{host.name}: that was the process, its machine is there")
            self.network.ended(host)

    def start(self, name: str, host_types: Callable[[Sidecar], Sequence[Hosted]], *, app: str = APP) -> Sidecar:
        """Start a sidecar on a new machine; one of this name that was killed before has left nothing behind."""
        random = self.world.random
        host = self.world.host(name, offset_s=random.uniform(-1, 1), rate=1 + random.uniform(-1e-3, 1e-3))
        self.world.tell(f"{name} starts")
        sidecar = self.sidecars[name] = Sidecar(self, host, host_types, app)
        host.start(sidecar.boot())
        return sidecar

    @property
    def up(self) -> list[Sidecar]:
        return [sidecar for sidecar in self.sidecars.values() if sidecar.host.alive and not sidecar.leaving]


class Sidecar:
    """The actor runtime of one machine. `ready` is set when its types are placed."""

    def __init__(
        self, cluster: Cluster, host: Host, host_types: Callable[[Sidecar], Sequence[Hosted]], app: str
    ) -> None:
        self.cluster, self.host, self.name, self.app = cluster, host, host.name, app
        self.address = f"{host.name}:50002"
        self._host_types = host_types
        self.booted = asyncio.Event()
        self.leaving = False

    async def boot(self) -> None:
        cluster, host = self.cluster, self.host
        network = cluster.network
        self.store = SimulatedState(cluster.rows, cluster.disk, host)
        self.scheduler = RemoteScheduler(
            [SCHEDULER], lambda address: network.channel(host, address), host.clock, host.random, streams=1
        )
        self.scheduler.open()
        self.scheduling = Scheduling(self.scheduler, self.app, NAMESPACE)
        self.seat = Seat(self.scheduling.types, lambda: None)
        pool = Pool(lambda address, target: network.channel(host, address))
        self.actors = ActorHost(self.seat, PeerActors(pool), random=host.random)
        self.seat.host = self.actors
        self.state = ActorState(self.app, self.actors, lambda: self.store, address=self.address, random=host.random)
        self.reminders = SchedulerReminders(self.actors, self.scheduler, self.app, NAMESPACE, Uncounted())
        self.actors.cancelled = self.reminders.cancelled
        self.scheduling.reminders = self.reminders.deliver
        network.serve(self.address, host, _Methods(InternalActors(self.actors).methods()))
        self.placement = Placement(
            cluster.placements, host_name=self.address, app_id=self.app, namespace=NAMESPACE, hosting=self.seat,
            dial=self._dial, clock=host.clock, random=host.random,
        )  # fmt: skip
        self.seat.placement = self.placement
        self.actors.store_changed(True)
        self.actors.host("app", self._host_types(self))
        await self.placement.open()
        self.booted.set()

    async def leave(self) -> None:
        """End in order, as `sidecar/actors.py` does: turns end, then the place is left, then the process ends."""
        if not self.leaving:
            self.leaving = True
            self.cluster.world.tell(f"{self.name} leaves")
            await self.actors.close()
            await self.placement.close()
            await asyncio.sleep(self.host.random.uniform(0.0, 2.0))  # all else that a sidecar closes
            self.cluster.kill(self.host, process=True)

    async def _dial(self, address: str) -> GrpcLink:
        channel = self.cluster.network.channel(self.host, address)
        stream: Any = channel.stream(METHOD)
        return GrpcLink(stream, lambda: stream.silence_s, channel.close)


class _Methods:
    def __init__(self, methods: dict[str, Method]) -> None:
        self._methods = methods

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return self._methods.get(method)


class _Always:
    """A leadership that nobody disputes: there is one control host at a time."""

    def holds(self) -> bool:
        return True


class _Defects(logging.Handler):
    """What is logged with a traceback is a defect: nothing that a world does may lead to it."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._wrong = wrong

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._wrong.append(self.format(record))


def listen(wrong: list[str]) -> None:
    """Hear of defects from now on, and have nothing written."""
    log = logging.getLogger("pillion")
    log.handlers[:] = [_Defects(wrong)]
    log.setLevel(logging.ERROR)
    log.propagate = False


async def patiently(act: Callable[[], Awaitable[None]]) -> None:
    """Do what is done at the start until it succeeds, as a supervisor would."""
    while True:
        try:
            return await act()
        except ComponentError:
            await asyncio.sleep(0.2)
