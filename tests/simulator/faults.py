"""What happens to a cluster: hosts and processes end, stand still, are cut apart; the store is slow or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.testing.simulation import Host
    from simulator.cluster import Cluster

FAULTS = ("kill", "pause", "cut", "control", "nothing", "slow", "failing")


def trouble(
    cluster: Cluster,
    names: Sequence[str],
    start: Callable[[str], object],
    seconds: float,
    more: dict[str, Callable[[], object]] | None = None,
) -> None:
    """Let one fault follow the other for a while. `start` starts a sidecar of this name; `more` are further faults."""
    world, random = cluster.world, cluster.world.random
    further = more or {}
    end, failing = world.now + seconds, cluster.disk.failing
    while world.now < end:
        world.run_for(random.uniform(1.0, 6.0))
        up = [sidecar.host for sidecar in cluster.up]
        fault = random.choice((*FAULTS, *further))
        if fault == "kill" and up:
            cluster.kill(random.choice(up), process=random.random() < 0.5)
        elif fault == "pause" and up:
            host = random.choice(up)
            if not host.paused:
                host.pause()
                world.later(random.choice((0.5, 4.0, 12.0)), _go_on, host)
        elif fault == "cut" and len(up) > 1:
            one, other = random.sample([*up, cluster.control], 2)
            cluster.network.cut(one.name, other.name)
            world.later(random.choice((1.0, 7.0)), cluster.network.mend)
        elif fault == "control" and cluster.control.alive:
            cluster.kill(cluster.control, process=random.random() < 0.5)
            world.later(random.choice((0.2, 3.0)), cluster.start_control)
        elif fault == "slow":
            cluster.disk.delay_s = random.choice(((0.0001, 0.005), (0.001, 0.2)))
        elif fault == "failing":
            world.tell("the store fails")
            cluster.disk.failing = 0.4
            world.later(random.choice((0.5, 3.0)), _works, cluster, failing)
        elif fault in further:
            further[fault]()
        for name in names:
            if not cluster.sidecars[name].host.alive and random.random() < 0.6:
                start(name)


def heal(cluster: Cluster) -> None:
    """End every fault, for good."""
    cluster.network.mend()
    cluster.network.breaking = cluster.disk.failing = 0.0
    cluster.disk.delay_s = (0.0001, 0.005)
    for host in cluster.world.hosts.values():
        _go_on(host)
    if not cluster.control.alive:
        cluster.start_control()


def _go_on(host: Host) -> None:
    if host.paused and host.alive:
        host.resume()


def _works(cluster: Cluster, failing: float) -> None:
    if cluster.network.breaking:  # else peace has begun
        cluster.disk.failing = failing
