"""Delayed and scheduled publish on a broker that cannot hold messages back: HTTP, bulk and gRPC."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from pillion.blocks.holding import Holdings
from pillion.components.holding_sqlite import SqliteHolding
from pillion.kinds.pubsub import Feature
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown
from pubsub_rig import Sidecar, WatchedBroker, sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pillion.blocks.broker import Broker

PUBLISH = "/v1.0/publish/ps/t?metadata."


def in_file(path: Path) -> Callable[[Mapping[str, Broker]], Holdings]:
    return lambda brokers: Holdings("app1", brokers, lambda broker: SqliteHolding(str(path / "held.db"), shared=False))


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


async def arrived(s: Sidecar, count: int) -> list[dict[str, Any]]:
    await s.broker.until(lambda: len(s.broker.published) >= count)
    return [json.loads(message.data) for message in s.broker.published]


def test_a_delayed_message_comes_at_its_time(tmp_path: Path) -> None:
    """The broker sees neither the message before its time nor, then, what would delay it again."""

    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            before = time.time()
            assert (await s.post(PUBLISH + "pillion.delay=3s&metadata.k=v", "late"))[0] == 204
            assert s.broker.published == []
            assert (await s.post("/v1.0/publish/ps/t", "now"))[0] == 204
            assert (await s.post(PUBLISH + f"pillion.deliverAt={instant(before - 5)}", "past"))[0] == 204
            [now, past, late] = await arrived(s, 3)
            assert time.time() >= before + 3
            assert [now["data"], past["data"], late["data"]] == ["now", "past", "late"]
            assert [message.metadata for message in s.broker.published] == [{}, {}, {"k": "v"}]

    asyncio.run(run())


def test_messages_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            due = time.time() + 3
            for number in (3, 1, 2, 0):
                query = f"pillion.deliverAt={instant(due + number / 100)}"
                assert (await s.post(PUBLISH + query, str(number), {"Content-Type": "application/json"}))[0] == 204
            assert [event["data"] for event in await arrived(s, 4)] == [0, 1, 2, 3]

    asyncio.run(run())


def test_a_life_counts_from_the_due_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            due = int(time.time()) + 3
            assert (await s.post(PUBLISH + f"pillion.deliverAt={instant(due)}&metadata.ttl=60", "x"))[0] == 204
            [event] = await arrived(s, 1)
            assert event["expiration"] == instant(due + 60)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("pillion.delay=soon", "pillion.delay: "),
        ("pillion.deliverAt=tomorrow", "pillion.deliverAt: not an RFC 3339 time"),
        ("pillion.deliverAt=2030-01-01T00:00:00", "pillion.deliverAt: not an RFC 3339 time"),
        ("pillion.delay=1s&metadata.pillion.deliverAt=2030-01-01T00:00:00Z", "not both"),
        ("pillion.delay=9000h", "at most 366 days ahead"),
    ],
)
def test_what_cannot_be_is_the_callers_fault(tmp_path: Path, query: str, text: str) -> None:
    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            status, body, _ = await s.post(PUBLISH + query, "x")
            error = json.loads(body)
            assert (status, error["errorCode"]) == (400, "ERR_PUBSUB_REQUEST_METADATA")
            assert error["message"].startswith("failed deserializing metadata. Error: ")
            assert text in error["message"]
            assert "DAPR_PUBSUB_METADATA_DESERIALIZATION" in [detail.get("reason") for detail in error["details"]]
            bulk = json.dumps([{"entryId": "1", "event": "x", "contentType": "text/plain"}])
            status, body, _ = await s.post(PUBLISH.replace("publish/", "publish/bulk/") + query, bulk)
            assert (status, json.loads(body)["errorCode"]) == (400, "ERR_PUBSUB_REQUEST_METADATA")
            assert s.broker.published == []

    asyncio.run(run())


def test_without_a_place_to_hold_messages() -> None:
    async def run() -> None:
        async with sidecar(holdings=lambda brokers: Holdings("app1", brokers, lambda broker: None)) as s:
            status, body, _ = await s.post(PUBLISH + "pillion.delay=1s", "x")
            assert (status, json.loads(body)["errorCode"]) == (400, "ERR_PUBSUB_REQUEST_METADATA")
            assert b"pillion.holding" in body
            assert (await s.post(PUBLISH + "pillion.delay=0s", "x"))[0] == 204

    asyncio.run(run())


def test_scopes_are_checked_when_the_message_is_given(tmp_path: Path) -> None:
    class Nothing:
        def may_publish(self, topic: str) -> bool:
            return False

        may_subscribe = may_publish

    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path), scopes=Nothing()) as s:
            assert (await s.post(PUBLISH + "pillion.delay=1s", "x"))[0] == 403
        assert not (tmp_path / "held.db").exists()

    asyncio.run(run())


def test_bulk(tmp_path: Path) -> None:
    """What the request says about the time holds for entries that say nothing."""

    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            text = {"contentType": "text/plain"}
            entries = [
                {"entryId": "1", "event": "later", **text, "metadata": {"pillion.delay": "2s"}},
                {"entryId": "2", "event": "now", **text},
            ]
            assert (await s.post("/v1.0/publish/bulk/ps/t", json.dumps(entries)))[0] == 204
            assert [event["data"] for event in await arrived(s, 2)] == ["now", "later"]
            entries = [
                {"entryId": "1", "event": "shared", **text},
                {"entryId": "2", "event": "own", **text, "metadata": {"pillion.delay": "0s"}},
            ]
            path = "/v1.0/publish/bulk/ps/t?metadata.pillion.delay=2s"
            assert (await s.post(path, json.dumps(entries)))[0] == 204
            assert [event["data"] for event in await arrived(s, 4)][2:] == ["own", "shared"]

    asyncio.run(run())


def test_grpc(tmp_path: Path) -> None:
    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            request = m.PublishEventRequest(
                pubsub_name="ps", topic="t", data=b"x", metadata={"pillion.delay": "2s", "rawPayload": "true"}
            )
            await s.call("PublishEvent", request, wellknown.Empty)
            assert s.broker.published == []
            await s.broker.until(lambda: len(s.broker.published) == 1)
            assert (s.broker.published[0].data, s.broker.published[0].metadata) == (b"x", {"rawPayload": "true"})
            request.metadata["pillion.delay"] = "?"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await s.call("PublishEvent", request, wellknown.Empty)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            bulk = m.BulkPublishRequest(pubsub_name="ps", topic="t", metadata={"pillion.delay": "2s"})
            bulk.entries.add(entry_id="1", event=b"y", content_type="text/plain")
            reply = await s.call("BulkPublishEvent", bulk, m.BulkPublishResponse)
            assert not reply.failedEntries
            assert len(s.broker.published) == 1
            await s.broker.until(lambda: len(s.broker.published) == 2)

    asyncio.run(run())


def test_a_broker_that_delays_gets_it_as_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        broker = WatchedBroker(features=frozenset({Feature.DELAY, Feature.MESSAGE_TTL}))
        async with sidecar(broker=broker, holdings=in_file(tmp_path)) as s:
            assert (await s.post(PUBLISH + "pillion.delay=1h", "x"))[0] == 204
            entries = [{"entryId": "1", "event": "x", "contentType": "text/plain"}]
            assert (await s.post("/v1.0/publish/bulk/ps/t?metadata.pillion.delay=1h", json.dumps(entries)))[0] == 204
            assert [message.metadata for message in broker.published] == [{"pillion.delay": "1h"}] * 2
        assert not (tmp_path / "held.db").exists()

    asyncio.run(run())


def test_what_the_broker_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillion.blocks.holding.FIRST_PAUSE_S", 0.05)

    async def run() -> None:
        async with sidecar(holdings=in_file(tmp_path)) as s:
            refused = asyncio.Event()
            failing = s.broker.failing

            class Failing(dict[str, str]):
                def __getitem__(self, topic: str) -> str:
                    refused.set()
                    return super().__getitem__(topic)

            s.broker.failing = Failing({"t": "the broker is down"})
            assert (await s.post(PUBLISH + "pillion.delay=100ms", "x"))[0] == 204
            await asyncio.wait_for(refused.wait(), 90)
            s.broker.failing = failing
            assert [event["data"] for event in await arrived(s, 1)] == ["x"]

    asyncio.run(run())
