"""From the broker to an HTTP application, and back to the broker, over real sockets (spec `http-api.md` 5.3, 5.4)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from pillion.blocks.broker import Broker
from pillion.components.sqlite_broker import SqlitePubSub
from pillion.kinds.component import Context, decode
from pillion.kinds.pubsub import Publish
from pillion.kinds.resources import Route, SubscriptionResource
from pillion.security.scopes import TopicScopes
from pubsub_rig import App, ParallelBroker, Seen, WatchedBroker, sidecar

if TYPE_CHECKING:
    from pathlib import Path

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD = {"deadLetterTopic": "dead"}


def wants(topic: str = "t", **more: Any) -> list[dict[str, Any]]:
    return [{"pubsubname": "ps", "topic": topic, "route": "/h", **more}]


@pytest.mark.parametrize(
    ("answer", "dead_letter", "end", "buried"),
    [
        ('{"status":"SUCCESS"}', True, "ack", False),
        ('{"status":"DROP"}', True, "ack", True),
        ('{"status":"DROP"}', False, "ack", False),
        ('{"status":"RETRY"}', True, "ack", True),
        ('{"status":"RETRY"}', False, "reject", False),
        (404, True, "ack", True),
        (404, False, "ack", False),
        (500, True, "ack", True),
        (500, False, "reject", False),
    ],
)
def test_answers_dead_letters_and_the_broker(answer: Any, dead_letter: bool, end: str, buried: bool) -> None:
    """The table of docs/pubsub.md: what the application says, what becomes of the message, what the broker hears."""

    async def main() -> None:
        app = App(subscribe=wants(**(DEAD if dead_letter else {})), answers={"/h": answer})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b'{"id":"1"}', "x/y", {"k": "v"}))
            assert await s.broker.ended(1) == [("t", end)]
            again = s.broker.published[1:]
            assert [(m.topic, m.data, m.content_type, m.metadata) for m in again] == (
                [("dead", b'{"id":"1"}', "x/y", {"k": "v"})] if buried else []
            )

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "dead_letter", "end", "level"),
    [
        (b"hello", True, "ack", logging.WARNING),
        (b"hello", False, "reject", logging.ERROR),
        (b'{"id":"1"}', True, "ack", logging.WARNING),
        (b'{"id":"1"}', False, "reject", logging.ERROR),
        (b'{"type":"other"}', True, "ack", logging.WARNING),
        (b'{"type":"other"}', False, "ack", logging.DEBUG),
        (b'{"type":"a","expiration":"2020-01-01T00:00:00Z"}', True, "ack", logging.WARNING),
        (b'{"type":"a","expiration":"2020-01-01T00:00:00Z"}', False, "ack", logging.WARNING),
    ],
)
def test_messages_that_the_application_never_sees(
    data: bytes, dead_letter: bool, end: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Unreadable or undecidable: dead letter, else refused. Unmatched or expired: dead letter, else acknowledged.

    Rules without a default leave messages out every day: that is no warning.
    """

    async def main() -> None:
        routes = {"rules": [{"match": 'event.type == "a"', "path": "/a"}]}
        app = App(subscribe=[{"pubsubname": "ps", "topic": "t", "routes": routes, **(DEAD if dead_letter else {})}])
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", data))
            assert await s.broker.ended(1) == [("t", end)]
            assert [m.data for m in s.broker.published[1:]] == ([data] if dead_letter else [])
        assert app.seen == []

    with caplog.at_level(logging.DEBUG, "pillion.blocks.delivery"):
        asyncio.run(main())
    assert [record.levelno for record in caplog.records if record.name == "pillion.blocks.delivery"] == [level]


def test_a_dead_letter_that_cannot_be_published_leaves_the_message_with_the_broker() -> None:
    async def main() -> None:
        app = App(subscribe=wants(**DEAD), answers={"/h": 500})
        async with sidecar(app) as s:
            s.broker.failing["dead"] = "full"
            await s.broker.publish(Publish("t", b"{}"))
            assert await s.broker.ended(1) == [("t", "reject")]
        scopes = TopicScopes.parse({"publishingScopes": "app1=t"}, "app1")
        async with sidecar(App(subscribe=wants(**DEAD), answers={"/h": 500}), scopes=scopes) as s:
            await s.broker.publish(Publish("t", b"{}"))
            assert await s.broker.ended(1) == [("t", "reject")]

    asyncio.run(main())


def test_an_application_that_is_gone() -> None:
    """A transport error is a retry."""

    async def main() -> None:
        async def cut(seen: Seen) -> str:
            raise asyncio.CancelledError

        async with sidecar(App(subscribe=wants(), answers={"/h": cut})) as s:
            await s.broker.publish(Publish("t", b"{}"))
            assert await s.broker.ended(1) == [("t", "reject")]

    asyncio.run(main())


def test_headers_and_trace_of_a_delivery() -> None:
    """The event's trace is continued; the broker's metadata are headers; raw messages are wrapped."""

    async def main() -> None:
        app = App(subscribe=[*wants(), *wants("raw", metadata={"rawPayload": "true"})])
        async with sidecar(app, prefix="ns.") as s:
            headers = {"traceparent": PARENT, "tracestate": "a=b", "Content-Type": "text/plain"}
            await s.post("/v1.0/publish/ps/t?metadata.k-1=v%0Aw", b"x" * 5000, headers)
            await s.broker.ended(1)
            await s.post("/v1.0/publish/ps/raw?metadata.rawPayload=true", b"\x00", headers)
            first, second = await app.got(2)
            assert [m.topic for m in s.broker.published] == ["ns.t", "ns.raw"]
        for seen in (first, second):
            assert seen.headers["traceparent"] == PARENT
            assert seen.headers["tracestate"] == "a=b"
            assert seen.headers["Content-Type"] == "application/cloudevents+json"
        assert first.headers["K-1"] == "v w"
        event = second.json
        assert (event["data_base64"], event["topic"], event["pubsubname"]) == ("AA==", "raw", "ps")
        assert (event["traceparent"], event["tracestate"]) == (PARENT, "a=b")
        assert "time" not in event

    asyncio.run(main())


def test_rules_and_sources_of_subscriptions() -> None:
    """CEL routes; resources beside the application's; both listed in metadata, the unknown pubsub too."""

    async def main() -> None:
        rules = [{"match": "event.data.total > 100", "path": "/big"}, {"match": "", "path": "/small"}]
        app = App(
            subscribe=[
                {"pubsubname": "ps", "topic": "orders", "routes": {"rules": rules}},
                {"pubsubname": "nowhere", "topic": "x", "route": "/x"},
            ]
        )
        resources = [
            SubscriptionResource(name="a", pubsub="ps", topic="orders", rules=(Route("", "/overridden"),)),
            SubscriptionResource(
                name="b", pubsub="ps", topic="extra", rules=(Route("", "/extra"),), metadata={"m": "1"}
            ),
        ]
        async with sidecar(app, resources=resources) as s:
            for total in (7, 700):
                await s.post(
                    "/v1.0/publish/ps/orders", json.dumps({"total": total}), {"Content-Type": "application/json"}
                )
            await s.post("/v1.0/publish/ps/extra", b"x")
            seen = await app.got(3)
            rows = {(r.pubsub_name, r.topic): r for r in s.subscriptions.rows()}
        assert sorted(each.path for each in seen) == ["/big", "/extra", "/small"]
        assert sorted(rows) == [("nowhere", "x"), ("ps", "extra"), ("ps", "orders")]
        assert (rows["ps", "extra"].type, dict(rows["ps", "extra"].metadata)) == (1, {"m": "1"})
        orders = rows["ps", "orders"]
        assert orders.type == 2
        assert [(rule.match, rule.path) for rule in orders.rules.rules] == [
            ("event.data.total > 100", "/big"),
            ("", "/small"),
        ]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "status", "started"),
    [
        ("[]", 404, True),
        ("", 200, True),
        ("oops", 500, True),
        ("{}", 200, False),
        ('[{"pubsubname":"ps","topic":"t","routes":{"rules":[{"match":"event.","path":"/x"}]}}]', 200, False),
    ],
)
def test_a_bad_answer_starts_nothing(answer: str, status: int, started: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Spec `http-api.md` 5.2: not even the resources; the log says why. 404 and other statuses are "none"."""

    async def main() -> None:
        app = App(subscribe=answer, subscribe_status=status)
        resource = SubscriptionResource(name="a", pubsub="ps", topic="r", rules=(Route("", "/r"),))
        async with sidecar(app, resources=[resource]) as s:
            await s.broker.publish(Publish("r", b"{}"))
            if started:
                await app.got(1)
            assert bool(app.seen) is started

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    if not started:
        assert "NO subscription is started" in caplog.text
        assert "GET /dapr/subscribe" in caplog.text


def test_asking_is_tried_again_and_done_once() -> None:
    """Connection errors are retried; health that comes and goes does not ask again, but restarts what there was."""

    async def main() -> None:
        app = App(subscribe=wants())
        async with sidecar(app, start=False) as s:
            assert s.channel is not None
            good, s.channel.http = s.channel.http, _Refusing(2, s.channel.http)
            await s.subscriptions.app_healthy()
            s.channel.http = good
            await s.subscriptions.started()
            await s.subscriptions.app_unhealthy()
            await s.broker.publish(Publish("t", b'{"lost":1}'))
            await s.subscriptions.app_healthy()
            await s.subscriptions.started()
            await s.broker.publish(Publish("t", b'{"seen":1}'))
            (seen,) = await app.got(1)
            assert seen.json == {"seen": 1}
        assert app.asked == 1

    asyncio.run(main())


class _Refusing:
    """A transport that fails a number of times, then hands over."""

    def __init__(self, times: int, inner: Any) -> None:
        self._times, self._inner = times, inner

    async def request(self, request: Any) -> Any:
        if self._times:
            self._times -= 1
            raise ConnectionRefusedError("not yet")
        return await self._inner.request(request)

    async def close(self) -> None:
        await self._inner.close()


def test_a_start_that_fails_is_tried_until_it_works() -> None:
    """And the subscription beside it is not disturbed."""

    async def main() -> None:
        flaky = WatchedBroker("flaky")
        flaky.start_failures = 5
        app = App(subscribe=[*wants(), {"pubsubname": "flaky", "topic": "t", "route": "/flaky"}])
        async with sidecar(app, extra=[Broker("flaky", flaky)]) as s:
            await s.post("/v1.0/publish/ps/t", b"x")
            await s.post("/v1.0/publish/flaky/t", b"x")
            assert {seen.path for seen in await app.got(2)} == {"/h", "/flaky"}
        assert flaky.start_failures == 0

    asyncio.run(main())


def test_scopes_and_a_bad_boolean_keep_a_subscription_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = App(subscribe=[*wants("no"), *wants("odd", metadata={"rawPayload": "perhaps"}), *wants("t")])
        scopes = TopicScopes.parse({"subscriptionScopes": "app1=t,odd"}, "app1")
        async with sidecar(app, scopes=scopes) as s:
            for topic in ("no", "odd", "t"):
                await s.broker.publish(Publish(topic, b"{}"))
            assert await s.broker.ended(1) == [("t", "ack")]

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "scopes" in caplog.text
    assert "perhaps" in caplog.text


@pytest.mark.parametrize("announced", [True, False])
def test_a_broker_that_is_replaced(announced: bool) -> None:
    """Hot reload: the old component's subscriptions end, announced or not, and the new one's begin."""

    async def main() -> None:
        app = App(subscribe=wants())
        async with sidecar(app) as s:
            if announced:
                await s.subscriptions.broker_leaving("ps")
                await s.broker.close()
            fresh = WatchedBroker()
            s.brokers["ps"] = Broker("ps", fresh)
            await s.subscriptions.broker_changed("ps")
            await s.subscriptions.started()
            await fresh.publish(Publish("t", b"{}"))
            assert await fresh.ended(1) == [("t", "ack")]

    asyncio.run(main())


def test_the_application_is_asked_when_the_first_broker_comes() -> None:
    """`GET /dapr/subscribe` only if there is a pubsub (spec `http-api.md` 5.1); it may come by hot reload."""

    async def main() -> None:
        app = App(subscribe=wants())
        async with sidecar(app, start=False) as s:
            broker = s.brokers.pop("ps")
            await s.subscriptions.app_healthy()
            assert app.asked == 0
            s.brokers["ps"] = broker
            await s.subscriptions.broker_changed("ps")
            await s.subscriptions.started()
            await s.broker.publish(Publish("t", b"{}"))
            await app.got(1)
        assert app.asked == 1

    asyncio.run(main())


@pytest.mark.parametrize(("answer", "end"), [("", "ack"), (500, "withheld"), ('{"status":"RETRY"}', "withheld")])
def test_closing_waits_and_withholds_failures(answer: Any, end: str) -> None:
    """What arrives while the sidecar stops counts; a failure then is nobody's: not dead-lettered, not refused."""

    async def main() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow(seen: Seen) -> Any:
            begun.set()
            await go.wait()
            return answer

        app = App(subscribe=wants(**DEAD), answers={"/h": slow})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b"{}"))
            await begun.wait()
            closing = asyncio.ensure_future(s.subscriptions.close(10))
            await asyncio.sleep(0)
            go.set()
            await closing
            assert s.broker.ends == [("t", end)]
            assert len(s.broker.published) == 1

    asyncio.run(main())


def test_closing_cuts_short_what_takes_too_long() -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def forever(seen: Seen) -> Any:
            begun.set()
            await asyncio.Event().wait()

        app = App(subscribe=wants(**DEAD), answers={"/h": forever})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b"{}"))
            await begun.wait()
            await s.subscriptions.close(0)
            assert s.broker.ends == [("t", "cancelled")]
            assert len(s.broker.published) == 1

    asyncio.run(main())


def test_the_end_of_the_sidecar_is_not_held_up_by_an_unhealthy_application() -> None:
    """Subscriptions of an application that became unhealthy end patiently; the sidecar's end shortens that."""

    async def main() -> None:
        begun = asyncio.Event()

        async def forever(seen: Seen) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with sidecar(App(subscribe=wants(**DEAD), answers={"/h": forever})) as s:
            await s.broker.publish(Publish("t", b"{}"))
            await begun.wait()
            ending = asyncio.ensure_future(s.subscriptions.app_unhealthy())
            await asyncio.sleep(0)
            await s.subscriptions.close(0.01)
            await ending
            assert s.broker.ends == [("t", "cancelled")]

    asyncio.run(main())


def test_an_unhealthy_application_has_nothing_dead_lettered() -> None:
    """The health gate fails calls at once; those messages go back to the broker (P51)."""

    async def main() -> None:
        app = App(subscribe=wants(**DEAD))
        async with sidecar(app) as s:
            assert s.channel is not None
            s.channel.healthy = False
            await s.broker.publish(Publish("t", b"{}"))
            assert await s.broker.ended(1) == [("t", "reject")]
            assert len(s.broker.published) == 1

    asyncio.run(main())


def test_the_inbound_policy_decides_how_often() -> None:
    """With a policy the application gets a message again at once; only then dead letter or broker have their turn."""

    async def main() -> None:
        async def thrice(operation: Any) -> Any:
            for _ in range(2):
                try:
                    return await operation()
                except Exception:
                    continue
            return await operation()

        app = App(subscribe=wants(**DEAD), answers={"/h": 503})
        async with sidecar(app, inbound=thrice) as s:
            await s.broker.publish(Publish("t", b"{}"))
            assert await s.broker.ended(1) == [("t", "ack")]
            assert [m.topic for m in s.broker.published] == ["t", "dead"]
        assert len(app.seen) == 3

    asyncio.run(main())


def test_bulk_delivery() -> None:
    """Spec `http-api.md` 6: the envelope's bytes; one request per path; every entry has its own end."""

    async def main() -> None:
        async def half(seen: Seen) -> str:
            statuses = ["SUCCESS", "RETRY", "DROP"]
            rows = [{"entryId": e["entryId"], "status": statuses[e["event"]["n"]]} for e in seen.json["entries"]]
            return json.dumps({"statuses": rows})

        routes = {"rules": [{"match": "event.n < 10", "path": "/low"}]}
        bulk = {"enabled": True, "maxMessagesCount": 4, "maxAwaitDurationMs": 10_000}
        app = App(
            subscribe=[{"pubsubname": "ps", "topic": "t", "routes": routes, "bulkSubscribe": bulk, **DEAD}],
            answers={"/low": half},
        )
        broker = ParallelBroker()
        async with sidecar(app, broker=broker) as s:
            for n in (0, 1, 2, 99):
                await s.broker.publish(Publish("t", json.dumps({"n": n}).encode(), metadata={"k": "v"} if n else {}))
            assert [end for _, end in await s.broker.ended(4)] == ["ack"] * 4
            (seen,) = app.seen
            dead = sorted(json.loads(m.data)["n"] for m in broker.published[4:])
        assert dead == [1, 2, 99]
        ids = [entry["entryId"] for entry in seen.json["entries"]]
        assert seen.body == (
            b'{"entries":['
            b'{"entryId":"%b","event":{"n": 0},"metadata":null,"contentType":"application/cloudevents+json"},'
            b'{"entryId":"%b","event":{"n": 1},"metadata":{"k":"v"},"contentType":"application/cloudevents+json"},'
            b'{"entryId":"%b","event":{"n": 2},"metadata":{"k":"v"},"contentType":"application/cloudevents+json"}],'
            b'"id":"%b","metadata":{"pubsubName":"ps"},"pubsubname":"ps","topic":"t","type":"com.dapr.event.sent.bulk"}'
        ) % (*(entry.encode() for entry in ids), seen.json["id"].encode())
        assert seen.headers["Content-Type"] == "application/json"
        assert len(set(ids)) == 3

    asyncio.run(main())


def test_a_bulk_waits_no_longer_than_it_may_and_retries_only_what_failed() -> None:
    """The window counts from the first message; a policy sends again only the entries that failed; raw is base64."""

    async def main() -> None:
        calls: list[list[str]] = []

        async def first_one_only(seen: Seen) -> str:
            entries = seen.json["entries"]
            calls.append([entry["event"] for entry in entries])
            return json.dumps({"statuses": [{"entryId": entries[0]["entryId"], "status": "SUCCESS"}]})

        async def twice(operation: Any) -> Any:
            try:
                return await operation()
            except Exception:
                return await operation()

        bulk = {"enabled": True, "maxMessagesCount": 100, "maxAwaitDurationMs": 30}
        app = App(subscribe=wants(bulkSubscribe=bulk, metadata={"rawPayload": "true"}), answers={"/h": first_one_only})
        async with sidecar(app, broker=ParallelBroker(), inbound=twice) as s:
            for data in (b"a", b"b", b"c"):
                await s.broker.publish(Publish("t", data))
            assert sorted(await s.broker.ended(3)) == [("a", "ack"), ("b", "ack"), ("c", "reject")]
        assert calls == [["YQ==", "Yg==", "Yw=="], ["Yg==", "Yw=="]]

    asyncio.run(main())


def test_a_bulk_that_waits_is_withheld_when_the_sidecar_stops() -> None:
    async def main() -> None:
        bulk = {"enabled": True, "maxMessagesCount": 100, "maxAwaitDurationMs": 3_600_000}
        app = App(subscribe=wants(bulkSubscribe=bulk, **DEAD))
        broker = ParallelBroker()
        async with sidecar(app, broker=broker) as s:
            for _ in range(3):
                await s.broker.publish(Publish("t", b"{}"))
            await broker.until(lambda: broker.begun == 3)
            await s.subscriptions.close(5)
            assert await s.broker.ended(3) == [("{}", "withheld")] * 3
        assert app.seen == []

    asyncio.run(main())


def test_a_durable_broker_delivers_again_what_was_withheld(tmp_path: Path) -> None:
    """SIGTERM in the middle of a delivery: nothing is lost, nothing dead-lettered, the next start gets it."""

    async def main() -> None:
        begun = asyncio.Event()

        async def forever(seen: Seen) -> Any:
            begun.set()
            await asyncio.Event().wait()

        def broker() -> SqlitePubSub:
            settings = decode(SqlitePubSub.Settings, {"consumerID": "app1"}, where="test")
            return SqlitePubSub(settings, Context("sq", app_id="app1", data_dir=str(tmp_path)))

        subscribe = [{"pubsubname": "sq", "topic": "t", "route": "/h", **DEAD}]
        first = broker()
        await first.open()
        app = App(subscribe=subscribe, answers={"/h": forever})
        async with sidecar(app, extra=[Broker("sq", first)]) as s:
            assert (await s.post("/v1.0/publish/sq/t", b"precious"))[0] == 204
            await begun.wait()
            await s.subscriptions.close(0)
        second = broker()
        await second.open()
        app = App(subscribe=[*subscribe, {"pubsubname": "sq", "topic": "dead", "route": "/dead"}])
        async with sidecar(app, extra=[Broker("sq", second)]):
            (seen,) = await app.got(1)
        assert (seen.path, seen.json["data"]) == ("/h", "precious")

    asyncio.run(main())
