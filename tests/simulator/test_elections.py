"""What the story of several placement servers found, one fact at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pillion.actors.placement_link import METHOD
from pillion.components.leadership_file import APART
from pillion.components.leadership_postgresql import PostgresLock
from pillion.control.placement import PlacementService
from pillion.control.terms import Terms
from pillion.testing.simulated_grpc import Network
from pillion.testing.simulation import EPOCH, World, tell
from pillion.wire.messages import placement as m
from simulator.elections import Postgres

if TYPE_CHECKING:
    from pillion.testing.simulation import Host


@pytest.mark.parametrize("fate", ["ends", "is cut off"])
def test_a_candidate_notices_that_its_database_has_gone_without_a_word(fate: str) -> None:
    """It waits in the server for its turn, on a connection over which nobody would ever have told it."""

    def story() -> None:
        world = World(1)
        network = Network(world)
        engine = Postgres(world, network)
        store, (one, two) = engine.start(), (world.host("one"), world.host("two"))
        elected: list[str] = []

        def candidate(host: Host) -> None:
            lock = PostgresLock("host=store", host.clock, connect=engine.connect(host))

            async def stand() -> None:
                await lock.open()
                await lock.elected()
                elected.append(host.name)

            host.start(stand())

        candidate(one)
        world.run_for(1.0)
        candidate(two)
        world.run_for(30.0)
        assert elected == ["one"]
        if fate == "ends":
            store.kill()
            engine.start()
        else:
            network.cut("two", "store")
            world.run_for(60.0)
            network.mend()
        one.kill()
        world.run(lambda: elected == ["one", "two"], seconds=60)
        world.run_for(1.0)

    tell(story)


class _Always:
    def holds(self) -> bool:
        return True


def test_versions_grow_from_the_term_whatever_the_clock_says() -> None:
    """The leader before may have led for longer than terms are apart, with a clock that is ahead of the next one's."""

    def story() -> None:
        world = World(1)
        network = Network(world)
        first = world.host("first", offset_s=3600.0)
        service = PlacementService(Terms(), clock=first.clock, silence=lambda call: 0.0)
        term = int(EPOCH * 1000) + 3_600_000
        service.lead(_Always(), term, inherited=False)
        network.serve("first:1", first, service)
        world.run_for(1.5 * APART / 1000)
        versions: list[int] = []

        async def report() -> None:
            stream: Any = network.channel(world.hosts["two"], "first:1").stream(METHOD)
            await stream.send(
                m.Host(name="1:1", id="app", namespace="ns", entities=["t"], operation=m.REPORT).SerializeToString()
            )
            versions.append(m.PlacementOrder.FromString(await stream.receive()).version)

        world.host("two").start(report())
        world.run(lambda: bool(versions), seconds=10)
        assert term < versions[0] < term + APART

    tell(story)
