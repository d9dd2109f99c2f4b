"""The transactional outbox through real sidecars on SQLite: what is committed is published, and nothing else.

Reference: spec `runtime.md` 7.3.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

from dapr.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType

from apps import HttpApp
from sidecars import SidecarProcess, component, eventually

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = {"pubsubname": "events", "topic": "orders", "route": "/orders"}
OUTBOX = {"outboxPublishPubsub": "events", "outboxPublishTopic": "orders"}


def resources(folder: Path, **more: str) -> dict[str, str]:
    return {
        "store.yaml": component(
            "store", "state.sqlite", connectionString=str(folder / "s.db"), timeout="60s", **{**OUTBOX, **more}
        ),
        "events.yaml": component(
            "events", "pubsub.sqlite", connectionString=str(folder / "m.db"), processingTimeout="12s",
            redeliverInterval="200ms",
        ),
    }  # fmt: skip


def transact(sidecar: SidecarProcess, *operations: dict[str, Any], **headers: str) -> Any:
    return sidecar.post_json("/v1.0/state/store/transaction", {"operations": list(operations)}, **headers)


def upsert(key: str, value: object, **rest: object) -> dict[str, Any]:
    return {"operation": "upsert", "request": {"key": key, "value": value, **rest}}


def events(app: HttpApp, count: int) -> list[dict[str, Any]]:
    calls = app.wait(lambda calls: len(calls) >= count)
    return [call.json() for call in calls]


def markers(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "s.db")) as db:
        return [key for (key,) in db.execute("SELECT key FROM state WHERE key LIKE 'outbox-%'")]


def eventually_unmarked(folder: Path) -> None:
    eventually(lambda: markers(folder) == [])


def test_a_committed_transaction_is_published(tmp_path: Path, monkeypatch: Any) -> None:
    """Each write once, as an event that its metadata shape; deletions never; a projection instead of its write."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with (
        HttpApp([ORDERS]) as app,
        SidecarProcess(tmp_path, "shop", app_port=app.port, resources=resources(tmp_path)) as shop,
    ):
        shop.wait("/v1.0/healthz")
        plain = upsert(
            "1", {"n": 1}, contentType="application/json", metadata={"colour": "red", "id": "x", "data": "y"}
        )
        gone = {"operation": "delete", "request": {"key": "0"}}
        assert transact(shop, plain, gone, traceparent=parent).status == 204
        [event] = events(app, 1)
        assert event["id"].startswith("outbox-")
        assert (event["data"], event["datacontenttype"]) == ({"n": 1}, "application/json")
        assert (event["topic"], event["pubsubname"], event["source"]) == ("orders", "events", "shop")
        assert (event["colour"], event["traceid"]) == ("red", parent)

        shown = upsert("2", {"seen": True}, metadata={"outbox.projection": "true", "contentType": "application/json"})
        assert transact(shop, upsert("2", {"kept": True}), shown).status == 204
        event = events(app, 2)[1]
        assert event["data"] == {"seen": True}
        assert shop.request("GET", "/v1.0/state/store/2").json() == {"kept": True}

        monkeypatch.setenv("DAPR_HTTP_PORT", str(shop.http_port))
        with DaprClient(f"127.0.0.1:{shop.grpc_port}") as client:
            kind = TransactionOperationType.upsert
            client.execute_state_transaction(
                "store", [TransactionalStateOperation(operation_type=kind, key="3", data="text")]
            )
        event = events(app, 3)[2]
        assert (event["data"], event["datacontenttype"]) == ("text", "text/plain")
        assert shop.post_json("/v1.0/state/store", [{"key": "4", "value": 4}]).status == 204  # no transaction
        eventually_unmarked(tmp_path)
        assert len(app.calls) == 3


def test_what_is_not_committed_is_not_published(tmp_path: Path) -> None:
    """A refused transaction, a projection without a write, a broker that is not there, a topic out of scope."""
    files = resources(tmp_path)
    with (
        HttpApp([ORDERS]) as app,
        SidecarProcess(tmp_path, "shop", app_port=app.port, resources=files) as shop,
    ):
        shop.wait("/v1.0/healthz")
        refused = transact(shop, upsert("a", 1), upsert("b", 1, etag="0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"))
        assert (refused.status, refused.json()["errorCode"]) == (500, "ERR_STATE_TRANSACTION")
        lost = transact(shop, upsert("a", 1), upsert("z", 1, metadata={"outbox.projection": "true"}))
        assert (lost.status, lost.json()["errorCode"]) == (500, "ERR_PUBLISH_OUTBOX")
        assert lost.json()["message"].startswith("error while publishing outbox message: ")
        detail = lost.json()["details"][-1]
        assert (detail["reason"], detail["metadata"]["appID"]) == ("DAPR_PUBSUB_OUTBOX", "shop")
        assert transact(shop, upsert("c", 3)).status == 204
        assert [event["data"] for event in events(app, 1)] == ["3"]
        assert shop.request("GET", "/v1.0/state/store/a").status == 204
        eventually_unmarked(tmp_path)
    files["events.yaml"] = files["events.yaml"].rstrip() + "\n    - name: publishingScopes\n      value: shop=other\n"
    with SidecarProcess(tmp_path, "shop", resources=files) as shop:
        answer = transact(shop, upsert("d", 1))
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_PUBLISH_OUTBOX")
    del files["events.yaml"]
    (tmp_path / "resources-shop" / "events.yaml").unlink()
    with SidecarProcess(tmp_path, "shop", resources=files) as shop:
        answer = transact(shop, upsert("d", 1))
        assert "pubsub events is not found" in answer.json()["message"]
        assert shop.request("GET", "/v1.0/state/store/d").status == 204


def test_an_event_waits_for_its_commit(tmp_path: Path) -> None:
    """The commit is held up by another writer's lock: the event is in the internal topic, and not public before."""
    with (
        HttpApp([ORDERS]) as app,
        SidecarProcess(tmp_path, "shop", app_port=app.port, resources=resources(tmp_path)) as shop,
    ):
        shop.wait("/v1.0/healthz")
        assert transact(shop, upsert("0", 0)).status == 204
        events(app, 1)
        eventually_unmarked(tmp_path)
        answers: list[Any] = []
        with locked(tmp_path):
            asking = threading.Thread(target=lambda: answers.append(transact(shop, upsert("1", 1))))
            asking.start()
            await_message(tmp_path, "defaultshopordersoutbox", "1")
            assert len(app.calls) == 1
        asking.join()
        assert answers[0].status == 204
        assert [event["data"] for event in events(app, 2)] == ["0", "1"]


def test_kill_between_publish_and_commit(tmp_path: Path) -> None:
    """After the kill neither state nor event is there; with discard the orphan is dropped, and later ones come."""
    files = resources(tmp_path, outboxDiscardWhenMissingState="true")
    with HttpApp([ORDERS]) as app:
        with SidecarProcess(tmp_path, "shop", app_port=app.port, resources=files) as shop:
            shop.wait("/v1.0/healthz")
            with locked(tmp_path):
                asking = threading.Thread(target=lambda: quietly(lambda: transact(shop, upsert("lost", 1))))
                asking.start()
                await_message(tmp_path, "defaultshopordersoutbox", "1")
                shop.kill()
                assert shop.process is not None
                shop.process.wait()
            asking.join()
        with SidecarProcess(tmp_path, "shop", app_port=app.port, resources=files) as shop:
            shop.wait("/v1.0/healthz")
            assert shop.request("GET", "/v1.0/state/store/lost").status == 204
            assert transact(shop, upsert("next", 2)).status == 204
            events(app, 1)
            # The orphan comes back when the dead process's lease has run out.
            eventually(lambda: "is discarded: no store has its marker" in shop.log(), 90)
            assert [call.json()["data"] for call in app.calls] == ["2"]


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Under load, then `kill -9`: afterwards the events are exactly the committed writes, each at least once."""
    files = resources(tmp_path, outboxDiscardWhenMissingState="true")
    with HttpApp([ORDERS]) as app:
        with SidecarProcess(tmp_path, "shop", app_port=app.port, resources=files) as shop:
            shop.wait("/v1.0/healthz")
            threads = [threading.Thread(target=quietly, args=(lambda n=n: write(shop, n),)) for n in range(6)]
            for thread in threads:
                thread.start()
            app.wait(lambda calls: len(calls) > 20)
            time.sleep(random.uniform(0, 0.2))  # the moment of the kill is what varies
            shop.kill()
            for thread in threads:
                thread.join()
        with SidecarProcess(tmp_path, "shop", app_port=app.port, resources=files) as shop:
            shop.wait("/v1.0/healthz")
            eventually_published(app, tmp_path)
            kept = stored(tmp_path)
            seen = [call.json() for call in app.calls]
            assert {event["data"].strip('"') for event in seen} == kept
            assert len({event["id"] for event in seen}) == len(kept)


def write(shop: SidecarProcess, number: int) -> None:
    for count in range(10_000):
        name = f"{number}-{count}"
        assert transact(shop, upsert(name, name)).status == 204


def quietly(work: Any) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        work()


def stored(folder: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(folder / "s.db")) as db:
        return {json.loads(value) for (value,) in db.execute("SELECT value FROM state WHERE key LIKE 'shop||%'")}


def eventually_published(app: HttpApp, folder: Path) -> None:
    """Every committed write has had its event, and no marker is left."""

    def told() -> set[str]:
        return {call.json()["data"].strip('"') for call in list(app.calls)}

    eventually(lambda: not markers(folder) and stored(folder) <= told(), 90)  # a dead process's leases run out


@contextlib.contextmanager
def locked(folder: Path) -> Any:
    """Hold the write lock of the state store's file."""
    with contextlib.closing(sqlite3.connect(folder / "s.db", timeout=60, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


def await_message(folder: Path, topic: str, data: str) -> None:
    """Wait until the internal topic has an event with that data."""
    deadline = time.monotonic() + 60
    with contextlib.closing(sqlite3.connect(folder / "m.db")) as db:
        while time.monotonic() < deadline:
            found = db.execute("SELECT data FROM broker_messages WHERE topic = ?", (topic,)).fetchall()
            if any(json.loads(event)["data"] == data for (event,) in found):
                return
            time.sleep(0.01)
    raise AssertionError("the event did not reach the internal topic")
