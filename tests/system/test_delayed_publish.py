"""Held messages outlive processes: `kill -9`, several sidecars of one application, both kinds of holding area."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
import time
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest
from dapr.clients import DaprClient
from dapr.conf import settings

from apps import HttpApp
from pillion import tasks
from pillion.blocks import holding
from pillion.components.holding_postgresql import PostgresHolding
from pillion.components.holding_sqlite import SqliteHolding
from pillion.kinds.holding import HeldMessage
from sidecars import SidecarProcess, component, sidecars

if TYPE_CHECKING:
    from pathlib import Path

    from apps import Call
    from pillion.kinds.holding import Holding, Leased
    from servers import RedisServer


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A connection string."""
    if request.param == "sqlite":
        return str(tmp_path / "held.db")
    url: str = request.getfixturevalue("postgres_server").url
    return url


def store(place: str) -> Holding:
    return PostgresHolding(place, "test") if place.startswith("postgres") else SqliteHolding(place)


def test_what_is_held_is_leased_to_one(place: str) -> None:
    """Two processes share an area: each message goes to one of them, a lease ends with its time or its owner."""

    async def run() -> None:
        area = secrets.token_hex(4)
        rung = asyncio.Event()
        one, two, other = store(place), store(place), store(place)
        await one.open(area, lambda: None)
        await two.open(area, rung.set)
        await other.open(area + "-other", lambda: None)
        rung.clear()
        now = time.time()
        messages = [HeldMessage("t", b"%d" % n, "text/plain", {"k": "ü"}, now - 10 + n) for n in range(3)]
        await one.hold([*messages, HeldMessage("t", b"later", "", {}, now + 1000)])
        await asyncio.wait_for(rung.wait(), 90)
        first, _ = await one.lease(30, 2)
        assert [each.message for each in first] == messages[:2]
        second, _ = await two.lease(30, 10)
        assert [each.message.data for each in second] == [b"2"]
        assert (await other.lease(30, 10)) == ([], None)
        nothing, wait_s = await two.lease(30, 10)
        assert nothing == []
        assert wait_s is not None
        assert 0 < wait_s <= 30
        await one.done([first[0].id])
        await one.close()
        [again], _ = await two.lease(0, 10)
        assert (again.message.data, again.attempts) == (b"1", 2)
        await two.again(again.id, 0)
        [once_more], _ = await two.lease(30, 10)
        assert (once_more.message.data, once_more.attempts) == (b"1", 3)
        await two.done([again.id, second[0].id])
        nothing, wait_s = await two.lease(30, 10)
        assert nothing == []
        assert wait_s is not None
        assert wait_s > 900
        await two.close()
        await two.close()
        await other.close()

    asyncio.run(run())


@pytest.mark.parametrize("metadata", ["{", "[]", '{"k": 1}'])
def test_a_message_whose_metadata_nobody_can_read(place: str, metadata: str) -> None:
    """It comes without them, and keeps no other message from its time."""

    async def run() -> None:
        area = secrets.token_hex(4)
        held = store(place)
        await held.open(area, lambda: None)
        now = time.time()
        await held.hold([HeldMessage("t", b"%d" % n, "", {"k": "v"}, now - 10 + n) for n in range(2)])
        await damage(place, area, metadata)
        found, _ = await held.lease(30, 10)
        assert [(each.message.data, each.message.metadata) for each in found] == [(b"0", {}), (b"1", {"k": "v"})]
        await held.close()

    asyncio.run(run())


async def damage(place: str, area: str, metadata: str) -> None:
    """Write other metadata to the first message of an area, as an operator's hand may."""
    if place.startswith("postgres"):
        first = "(SELECT min(id) FROM pillion_held_messages WHERE area = $2)"
        connection = await asyncpg.connect(place)
        await connection.execute(f"UPDATE pillion_held_messages SET metadata = $1 WHERE id = {first}", metadata, area)
        await connection.close()
        return
    first = "(SELECT min(id) FROM held_messages WHERE area = ?)"
    with contextlib.closing(sqlite3.connect(place)) as db, db:
        db.execute(f"UPDATE held_messages SET metadata = ? WHERE id = {first}", (metadata, area))


def bodies(calls: list[Call]) -> set[str]:
    return {call.json()["data"] for call in calls}


@pytest.mark.redis
def test_kill_nine(place: str, tmp_path: Path, redis_server: RedisServer) -> None:
    """What was answered with 204 is published, though its sidecar was killed: by another one, or after a start."""
    topic, name = secrets.token_hex(4), secrets.token_hex(4)
    pubsub = component(
        "ps", "pubsub.redis", redisHost=redis_server.address, **{"pillion.holding": place}, consumerID="c"
    )
    route = [{"pubsubname": "ps", "topic": topic, "route": "/in"}]
    with HttpApp(route) as app:
        first, second = (SidecarProcess(tmp_path, name, resources={"ps.yaml": pubsub}) for _ in range(2))
        reader = SidecarProcess(tmp_path, name + "-r", app_port=app.port, resources={"ps.yaml": pubsub})
        with sidecars(first, second, reader):
            due = time.time() + 5
            for number in range(20):
                path = f"/v1.0/publish/ps/{topic}?metadata.pillion.delay=5s"
                assert first.post_json(path, f"{number:02}").status == 204
            first.kill()
            app.wait(lambda calls: len(bodies(calls)) >= 20)
            assert time.time() >= due
            assert bodies(app.calls) == {f"{number:02}" for number in range(20)}
            assert second.post_json(f"/v1.0/publish/ps/{topic}?metadata.pillion.delay=1s", "last").status == 204
            second.kill()
            assert second.process is not None
            second.process.wait()
            second.start()
            app.wait(lambda calls: "last" in bodies(calls))
            assert second.stop() == 0


@pytest.mark.redis
def test_the_official_client(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata of the Python SDK, to a broker of ours that delays by itself and to one that does not."""
    resources = {
        "a.yaml": component("held", "pubsub.redis", redisHost=redis_server.address, **{"pillion.holding": "held.db"}),
        "b.yaml": component("own", "pubsub.sqlite", connectionString=str(tmp_path / "messages.db")),
    }
    topic = secrets.token_hex(4)
    routes = [{"pubsubname": name, "topic": topic, "route": f"/{name}"} for name in ("held", "own")]
    with HttpApp(routes) as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        monkeypatch.setattr(settings, "DAPR_HTTP_ENDPOINT", f"http://127.0.0.1:{sidecar.http_port}")
        with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
            due = time.time() + 6
            for name in ("held", "own"):
                client.publish_event(name, topic, "late", publish_metadata={"pillion.delay": "6s"})
                client.publish_event(name, topic, "soon")
        app.wait(lambda calls: len(calls) == 4)
        assert time.time() >= due
        for name in ("/held", "/own"):
            assert [call.json()["data"] for call in app.calls if call.path == name] == ["soon", "late"]


@pytest.mark.redis
def test_invalid_place(tmp_path: Path, redis_server: RedisServer) -> None:
    """A holding area that cannot be opened is an error of each delayed publish, not of the others."""
    metadata = {"redisHost": redis_server.address, "pillion.holding": "/proc/none/held.db"}
    resources = {"ps.yaml": component("ps", "pubsub.redis", **metadata)}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        assert sidecar.post_json("/v1.0/publish/ps/t", "x").status == 204
        reply = sidecar.post_json("/v1.0/publish/ps/t?metadata.pillion.delay=1s", "x")
        assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_PUBSUB_PUBLISH_MESSAGE")
        assert "cannot be held" in json.dumps(reply.json())


def test_what_cannot_be_published_for_an_unexpected_reason_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours are not published twice for it, and looking after the area goes on whatever fails."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(holding, "FIRST_PAUSE_S", 0.001)
    published: list[bytes] = []

    async def run() -> None:
        done = asyncio.Event()
        area = store(str(tmp_path / "held.db"))
        leasing, leases = area.lease, 0

        async def lease(lease_s: float, limit: int) -> tuple[list[Leased], float | None]:
            nonlocal leases
            leases += 1
            if leases == 1:
                raise RuntimeError("nobody expects this")
            return await leasing(lease_s, limit)

        monkeypatch.setattr(area, "lease", lease)

        class Broker:
            name = "ps"
            failed = False

            async def publish(self, topic: str, data: bytes, content_type: str, metadata: object) -> None:
                if data == b"1" and not self.failed:
                    self.failed = True
                    raise RuntimeError("nor this")
                published.append(data)
                if len(published) == 3:
                    done.set()

        broker = Broker()
        holdings = holding.Holdings("app", cast("Any", {"ps": broker}), lambda _: area)
        now = time.time()
        await holdings.hold(cast("Any", broker), [HeldMessage("t", b"%d" % n, "", {}, now) for n in range(3)])
        async with asyncio.timeout(90):
            await done.wait()
        await holdings.close()

    asyncio.run(run())
    assert sorted(published) == [b"0", b"1", b"2"]
