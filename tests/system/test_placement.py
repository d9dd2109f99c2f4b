"""`pillion-placement` as a process: the protocol by bare messages, our own sidecar's side, outages."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from pillion.actors.placement import Placement
from pillion.actors.placement_link import grpc_dial, resolve
from pillion.clock import SystemClock
from pillion.kinds.actors import NoHost, NoPlacement
from pillion.wire.messages import placement as m
from placements import PlacementProcess, bare, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[PlacementProcess]:
    """A server alone."""
    with PlacementProcess("--metadata-enabled") as running:
        yield running


class Host:
    """A `Hosting` that takes notes."""

    def __init__(self) -> None:
        self.drained: list[frozenset[str]] = []
        self.halts = 0
        self.settlements = 0
        self.changed = asyncio.Event()

    async def drain(self, types: frozenset[str], is_local: Callable[[str, str], bool]) -> None:
        self.drained.append(types)

    async def halt_all(self) -> None:
        self.halts += 1
        self.changed.set()

    def settled(self, types: frozenset[str]) -> None:
        self.settlements += 1
        self.changed.set()


def sidecar(*addresses: str, name: str, namespace: str, hosting: Host, app_id: str = "app") -> Placement:
    return Placement(
        addresses,
        host_name=name,
        app_id=app_id,
        namespace=namespace,
        hosting=hosting,
        dial=grpc_dial(),
        clock=SystemClock(),
        random=random.Random(1),
        resolve=resolve,
    )


async def changed(host: Host, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not holds():
            host.changed.clear()
            await host.changed.wait()


def test_a_round_as_another_sidecar_sees_it(server: PlacementProcess) -> None:
    """Spec 1.2: lock, update with load_map, unlock; then a second host; then one that hosts nothing."""
    mine: dict[str, Any] = {"namespace": "raw", "entities": ["cart", "user"]}
    with bare(server.address) as first, bare(server.address) as second, bare(server.address) as third:
        first.say(**mine)
        tables = first.round(**mine).tables
        assert tables.replication_factor == 100
        assert set(tables.entries) == {"cart", "user"}
        host = tables.entries["cart"].load_map["10.9.9.9:1"]
        assert (host.name, host.id) == ("10.9.9.9:1", "bare")
        assert not tables.entries["cart"].hosts
        assert not tables.entries["cart"].sorted_set
        other: dict[str, Any] = {"namespace": "raw", "name": "10.9.9.8:1", "entities": ["cart"]}
        second.say(**other)
        lock = first.next()
        assert (lock.operation, second.next().operation) == ("lock", "lock")
        assert lock.version > int(tables.version)
        first.say(m.LOCK, lock.version, **mine)
        second.say(m.LOCK, lock.version, **other)
        update = first.next()
        assert set(update.tables.entries["cart"].load_map) == {"10.9.9.9:1", "10.9.9.8:1"}
        assert second.next() == update
        for client, fields in ((first, mine), (second, other)):
            client.say(m.UPDATE, lock.version, **fields)
        for client, fields in ((first, mine), (second, other)):
            assert client.next().operation == "unlock"
            client.say(m.UNLOCK, lock.version, **fields)
        third.say(name="10.9.9.7:1", namespace="raw")
        assert third.round(name="10.9.9.7:1", namespace="raw").version == lock.version
        state = json.loads(server.get("/placement/state")[1])["tables"]["raw"]
        assert state["version"] == lock.version
        assert [host["name"] for host in state["hosts"]] == ["10.9.9.8:1", "10.9.9.9:1"]
        metrics = server.get("/", server.metrics_port)[1].decode()
        assert 'dapr_placement_runtimes_total{host_namespace="raw"} 3' in metrics
        assert 'dapr_placement_actor_runtimes_total{host_namespace="raw"} 2' in metrics
        assert "\ndapr_placement_leader_status 1\n" in metrics
        second.close()
        assert first.next().version == lock.version + 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"namespace": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"operation": m.UNKNOWN, "version": 3}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"operation": 99}, grpc.StatusCode.OK),
        ({"name": "x" * 600}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"entities": ["dapr.internal.default.other.workflow"]}, grpc.StatusCode.PERMISSION_DENIED),
        ({"entities": ["dapr.internal.default.bare.workflow"]}, grpc.StatusCode.OK),
    ],
)
def test_admission(server: PlacementProcess, fields: dict[str, Any], code: grpc.StatusCode) -> None:
    """Spec 1.2, server admission; OK: it is taken."""
    with bare(server.address) as client:
        client.say(**{"namespace": "default", **fields})
        if code is grpc.StatusCode.OK:
            assert client.next().operation == "lock"
        else:
            assert client.code() is code


def test_a_slow_sidecar_is_ended_and_nobody_else() -> None:
    """Invariant 6: the others wait for its time-out at most."""
    with (
        PlacementProcess("--disseminate-timeout", "3s") as server,
        bare(server.address) as slow,
        bare(server.address) as quick,
    ):
        slow.say(namespace="slow", entities=["A"], name="slow:1")
        slow.round(namespace="slow", entities=["A"], name="slow:1")
        fields: dict[str, Any] = {"namespace": "slow", "entities": ["A"], "name": "quick:1"}
        quick.say(**fields)
        lock = quick.next()
        quick.say(m.LOCK, lock.version, **fields)
        assert slow.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        tables = quick.round(**fields).tables
        assert set(tables.entries["A"].load_map) == {"quick:1"}


def test_two_sidecars_agree_and_follow_changes(server: PlacementProcess) -> None:
    """Invariants 4 and 7; look-ups wait for the first table; unknown types have no host."""

    async def play() -> None:
        hosts = [Host(), Host()]
        ones = [
            sidecar(server.address, name=f"10.0.0.{number}:50002", namespace="agree", hosting=host)
            for number, host in enumerate(hosts)
        ]
        try:
            for one in ones:
                one.types(frozenset(("cart",)))
                assert one.lookup("cart", "1") is None
                await one.open()
            async with asyncio.timeout(90):
                await asyncio.gather(*(one.owner("cart", "1") for one in ones))
            await changed(hosts[0], lambda: all(len(one._machine.table.rings["cart"].members) == 2 for one in ones))
            await changed(hosts[0], lambda: ones[0].lookup("cart", "1") is not None)
            ids = [str(number) for number in range(50)]
            answers = [[(await one.owner("cart", actor)).address for actor in ids] for one in ones]
            assert answers[0] == answers[1]
            assert len(set(answers[0])) == 2
            assert ones[0].version("cart") == ones[1].version("cart") >= 2**32
            with pytest.raises(NoHost, match="did not find address for actor 'other/1'"):
                ones[0].lookup("other", "1")
            ones[1].types(frozenset())
            await changed(hosts[0], lambda: len(ones[0]._machine.table.rings["cart"].members) == 1)
            assert (await ones[1].owner("cart", "7")).address == "10.0.0.0:50002"
            assert hosts[0].halts == hosts[1].halts == 0
        finally:
            for one in ones:
                await one.close()
        with pytest.raises(NoPlacement):
            ones[0].lookup("cart", "1")

    asyncio.run(play())


def test_a_restart_of_placement_interrupts_nothing(tmp_path: Path) -> None:
    """Cached tables survive an outage: look-ups go on, nothing is halted, the new leader asks before its table."""
    engine = ("--pillion-leadership", "file", "--pillion-leadership-file", str(tmp_path / "lock"))

    async def play(server: PlacementProcess) -> None:
        host = Host()
        one = sidecar(server.address, name="10.0.0.1:50002", namespace="default", hosting=host)
        one.types(frozenset(("cart",)))
        try:
            await one.open()
            async with asyncio.timeout(90):
                await one.owner("cart", "1")
            version = one.version("cart")
            await asyncio.to_thread(server.kill)
            assert (await one.owner("cart", "1")).local
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(until, lambda: one.connected)
            assert (await one.owner("cart", "1")).local
            await changed(host, lambda: one.version("cart") > version)  # after the wait that the promise asks for
            assert host.halts == 0
            await asyncio.to_thread(server.kill)
            await changed(host, lambda: host.halts == 1)  # nobody came back in time
            assert one.lookup("cart", "1") is None
        finally:
            await one.close()

    with PlacementProcess(*engine, "--pillion-outage-grace", "10s") as server:
        asyncio.run(play(server))


def test_without_a_promise_everything_is_halted(tmp_path: Path) -> None:
    """The rules of the reference, for a server that promises nothing."""

    async def play(server: PlacementProcess) -> None:
        host = Host()
        one = sidecar(server.address, name="10.0.0.1:50002", namespace="default", hosting=host)
        one.types(frozenset(("cart",)))
        try:
            await one.open()
            async with asyncio.timeout(90):
                await one.owner("cart", "1")
            await asyncio.to_thread(server.kill)
            await changed(host, lambda: host.halts == 1)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(90):
                assert (await one.owner("cart", "1")).local
        finally:
            await one.close()

    with PlacementProcess() as server:
        asyncio.run(play(server))


# --- leadership ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--keepalive-time", "11s"), "--keepalive-time: must be from 1s to 10s"),
        (("--initial-cluster", "x=127.0.0.1:1"), "--initial-cluster: does not name this server"),
        (("--initial-cluster", "dapr-placement-0=a:1,b=b:1"), "need an engine"),
        (("--pillion-leadership", "zoo"), "unknown engine"),
        (("--pillion-outage-grace", "5s"), "nobody remembers"),
        (("--tls-enabled",), "mutual TLS"),
    ],
)
def test_flags_that_cannot_be_followed(flags: tuple[str, ...], text: str) -> None:
    command = PlacementProcess(*flags)
    try:
        done = subprocess.run(command.command(), capture_output=True, text=True, timeout=90)
    finally:
        command.close()
    assert done.returncode == 1
    assert text in done.stderr


def test_a_signal_ends_it_in_order(server: PlacementProcess) -> None:
    with PlacementProcess("--max-api-level", "5", "-replicationFactor", "10") as one, bare(one.address) as client:
        client.say()
        assert client.round().tables.replication_factor == 10
        assert one.process is not None
        one.process.send_signal(signal.SIGTERM)
        assert client.code() is grpc.StatusCode.UNAVAILABLE
        assert one.process.wait(60) == 0
