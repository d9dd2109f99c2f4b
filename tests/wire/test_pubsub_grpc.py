"""Publishing over gRPC, delivery to gRPC applications and streams; grpcio is at the other end (spec `grpc-api.md`)."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import grpc
import pytest

from pillion.components.memory_broker import MemoryPubSub
from pillion.kinds.component import Context
from pillion.kinds.pubsub import BulkEntry, Feature, Publish
from pillion.security.scopes import TopicScopes
from pillion.wire.messages import rpc, wellknown
from pillion.wire.messages import runtime as m
from pubsub_rig import GrpcApp, ParallelBroker, Sidecar, sidecar

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RETRY = m.TopicEventResponse(status=m.TopicEventResponse.RETRY)
DROP = m.TopicEventResponse(status=m.TopicEventResponse.DROP)
ONE = '{"id":"1"}'
DONE = m.TopicEventResponse()


def event(data: bytes = b'{"a":1}', **more: Any) -> m.PublishEventRequest:
    fields = {"pubsub_name": "ps", "topic": "t", "data_content_type": "application/json", **more}
    return m.PublishEventRequest(data=data, **fields)


async def refused(s: Sidecar, method: str, request: Any) -> tuple[int, str, list[Any]]:
    """The status and the details of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await s.call(method, request, wellknown.Empty)
    trailers = dict(caught.value.trailing_metadata() or ())
    status = rpc.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    kinds: dict[str, Any] = {"ErrorInfo": rpc.ErrorInfo, "ResourceInfo": rpc.ResourceInfo}
    details = [kinds[packed.type_url.rpartition(".")[2]].FromString(packed.value) for packed in status.details]
    return caught.value.code().value[0], caught.value.details() or "", details


def test_publish() -> None:
    """The same envelope as over HTTP; raw bytes with the trace in metadata."""

    async def main() -> None:
        async with sidecar() as s:
            await s.call("PublishEvent", event(), wellknown.Empty, [("traceparent", PARENT), ("tracestate", "a=b")])
            await s.call("PublishEvent", event(b"plain", data_content_type=""), wellknown.Empty)
            raw = event(b"\x00", metadata={"rawPayload": "true"})
            await s.call("PublishEvent", raw, wellknown.Empty, [("traceparent", PARENT)])
        first, second, third = s.broker.published
        envelope = json.loads(first.data)
        assert (envelope["data"], envelope["traceid"], envelope["tracestate"]) == ({"a": 1}, PARENT, "a=b")
        assert json.loads(second.data)["datacontenttype"] == "text/plain"
        assert (third.data, third.metadata) == (b"\x00", {"rawPayload": "true", "traceparent": PARENT})

    asyncio.run(main())


def test_gate_and_errors() -> None:
    """Gate P in its order, with its details; then scope and broker."""

    async def main() -> None:
        async with sidecar(scopes=TopicScopes.parse({"allowedTopics": "t,bad"}, "app1")) as s:
            s.broker.failing["bad"] = "disk full"
            for request, code, text, reason, about, resource in (
                (event(pubsub_name=""), 3, "pubsub name is empty", "NAME_EMPTY", {}, True),
                (event(pubsub_name="no", topic=""), 3, "pubsub no is not found", "NOT_FOUND", {}, False),
                (event(topic="", metadata={"k": "v"}), 3, "topic is empty in pubsub ps", "TOPIC_NAME_EMPTY",
                 {"k": "v"}, True),
                (event(metadata={"rawPayload": "X"}), 3,
                 "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is 'X'",
                 "METADATA_DESERIALIZATION", {"rawPayload": "X"}, True),
                (event(b"[]", data_content_type="application/cloudevents+json"), 3, "cannot create cloudevent",
                 "CLOUD_EVENT_CREATION", {"appID": "app1", "error": "the body is not a JSON object"}, True),
                (event(topic="no"), 7, "topic no is not allowed for app id app1", "FORBIDDEN",
                 {"topic": "no", "error": "topic no is not allowed for app id app1"}, True),
                (event(topic="bad"), 13, "error when publishing to topic bad in pubsub ps: disk full",
                 "PUBLISH_MESSAGE", {"topic": "bad", "error": "disk full"}, True),
            ):  # fmt: skip
                found, message, details = await refused(s, "PublishEvent", request)
                assert (found, message) == (code, text)
                assert (details[-1].reason, dict(details[-1].metadata)) == ("DAPR_PUBSUB_" + reason, about)
                assert len(details) == (2 if resource else 1)
                if resource:
                    assert (details[0].resource_type, details[0].description) == ("pubsub", text)

    asyncio.run(main())


def bulk(*rows: m.BulkPublishRequestEntry, **more: Any) -> m.BulkPublishRequest:
    return m.BulkPublishRequest(**{"pubsub_name": "ps", "topic": "t", "entries": rows, **more})


def entry(entry_id: str, data: bytes = b"x", **more: Any) -> m.BulkPublishRequestEntry:
    return m.BulkPublishRequestEntry(entry_id=entry_id, event=data, content_type="text/plain", **more)


def test_bulk_publish() -> None:
    """Both names; metadata of the request only for entries with their own; ids checked; one failure fails the call."""

    async def main() -> None:
        async with sidecar() as s:
            rows = [entry("1"), entry("2", metadata={"k": "own"})]
            reply = await s.call("BulkPublishEvent", bulk(*rows, metadata={"l": "shared"}), m.BulkPublishResponse)
            assert list(reply.failedEntries) == []
            await s.call("BulkPublishEventAlpha1", bulk(*rows, topic="other"), m.BulkPublishResponse)
            assert [message.metadata for message in s.broker.published[:2]] == [{}, {"k": "own", "l": "shared"}]
            for broken in ([entry("")], [entry("1"), entry("1")]):
                code, text, details = await refused(s, "BulkPublishEvent", bulk(*broken))
                assert code == 3
                assert text.endswith("error: entryId is duplicated or not present for entry")
                assert details[1].reason == "DAPR_PUBSUB_MARSHAL_EVENTS"
            s.broker.failing["t"] = "full"
            code, text, details = await refused(s, "BulkPublishEvent", bulk(*rows))
            assert (code, text) == (13, "error when publishing to topic t in pubsub ps: full")

    asyncio.run(main())


class _Native(MemoryPubSub):
    """A broker with a bulk of its own that refuses an entry a number of times."""

    features = frozenset({Feature.BULK_PUBLISH})
    refusals = 0

    def __init__(self) -> None:
        super().__init__(self.Settings(), Context("native"))
        self.bulks: list[tuple[str, list[str], dict[str, str]]] = []

    async def bulk_publish(
        self, topic: str, entries: list[BulkEntry], metadata: dict[str, str]
    ) -> list[tuple[str, str]]:
        self.bulks.append((topic, [each.entry_id for each in entries], metadata))
        if self.refusals:
            self.refusals -= 1
            return [(entries[-1].entry_id, "not now")]
        return []


def test_a_broker_with_its_own_bulk() -> None:
    """Failures it reports are told entry by entry; a policy sends again only those."""

    async def main() -> None:
        from pillion.blocks.broker import Broker

        async def twice(operation: Any) -> Any:
            try:
                return await operation()
            except Exception:
                return await operation()

        native = _Native()
        once, again = Broker("once", native, prefix="ns-"), Broker("again", native, outbound=twice)
        async with sidecar(extra=[once, again]) as s:
            native.refusals = 1
            rows = [entry("1"), entry("2")]
            reply = await s.call(
                "BulkPublishEvent", bulk(*rows, pubsub_name="once", metadata={"k": "v"}), m.BulkPublishResponse
            )
            assert [(row.entry_id, row.error) for row in reply.failedEntries] == [("2", "not now")]
            native.refusals = 1
            reply = await s.call("BulkPublishEvent", bulk(*rows, pubsub_name="again"), m.BulkPublishResponse)
            assert list(reply.failedEntries) == []
        assert native.bulks == [("ns-t", ["1", "2"], {"k": "v"}), ("t", ["1", "2"], {}), ("t", ["2"], {})]

    asyncio.run(main())


def wants(**more: Any) -> m.ListTopicSubscriptionsResponse:
    fields = {"pubsub_name": "ps", "topic": "t", **more}
    return m.ListTopicSubscriptionsResponse(subscriptions=[m.TopicSubscription(**fields)])


@pytest.mark.parametrize(
    ("answer", "dead_letter", "end", "buried"),
    [
        (DONE, "dead", "ack", False),
        (DROP, "dead", "ack", True),
        (DROP, "", "ack", False),
        (RETRY, "dead", "ack", True),
        (RETRY, "", "reject", False),
        (m.TopicEventResponse(status=9), "", "reject", False),
        (grpc.StatusCode.INTERNAL, "dead", "ack", True),
        (grpc.StatusCode.UNAVAILABLE, "", "reject", False),
        (grpc.StatusCode.UNIMPLEMENTED, "dead", "ack", False),
    ],
)
def test_answers_of_an_application(answer: Any, dead_letter: str, end: str, buried: bool) -> None:
    """Spec `grpc-api.md` 7, the table of TopicEventResponse; UNIMPLEMENTED acknowledges without dead letter."""

    async def main() -> None:
        app = GrpcApp(wants(dead_letter_topic=dead_letter), {"OnTopicEvent": answer})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", ONE.encode()))
            assert await s.broker.ended(1) == [("t", end)]
            assert [message.topic for message in s.broker.published[1:]] == (["dead"] if buried else [])

    asyncio.run(main())


def test_an_event_at_the_application() -> None:
    """Fields, extensions, route, metadata, trace and token of OnTopicEvent."""

    async def main() -> None:
        routes = m.TopicRoutes(rules=[m.TopicRule(match='event.type == "a"', path="/a")], default="/d")
        app = GrpcApp(wants(routes=routes), {"OnTopicEvent": DONE})
        async with sidecar(app, token="secret") as s:
            request = event(b'{"n":1.50}', metadata={"cloudevent.type": "a", "K": "v"})
            await s.call("PublishEvent", request, wellknown.Empty, [("traceparent", PARENT)])
            await s.call("PublishEvent", event(b"\x00", data_content_type="application/octet-stream"), wellknown.Empty)
            (_, first, metadata), (_, second, _) = await app.got(2)
        found = m.TopicEventRequest.FromString(first)
        assert (found.path, found.type, found.data, found.topic, found.pubsub_name) == (
            "/a",
            "a",
            b'{"n":1.50}',
            "t",
            "ps",
        )
        assert (found.source, found.spec_version, found.data_content_type) == ("app1", "1.0", "application/json")
        assert found.extensions.fields["traceid"].string_value == PARENT
        assert {"pubsubname", "topic", "time"} <= set(found.extensions.fields)
        assert (metadata["k"], metadata["dapr-api-token"], metadata["traceparent"]) == ("v", "secret", PARENT)
        found = m.TopicEventRequest.FromString(second)
        assert (found.path, found.data) == ("/d", b"\x00")

    asyncio.run(main())


def test_an_application_without_subscriptions() -> None:
    """UNIMPLEMENTED means none; resources still start."""

    async def main() -> None:
        from pillion.kinds.resources import Route, SubscriptionResource

        resource = SubscriptionResource(name="a", pubsub="ps", topic="t", rules=(Route("", "/r"),))
        app = GrpcApp(None, {"OnTopicEvent": DONE})
        async with sidecar(app, resources=[resource]) as s:
            await s.broker.publish(Publish("t", b"{}"))
            ((_, message, _),) = await app.got(1)
        assert m.TopicEventRequest.FromString(message).path == "/r"

    asyncio.run(main())


@pytest.mark.parametrize("method", ["OnBulkTopicEvent", "OnBulkTopicEventAlpha1", ""])
def test_bulk_delivery(method: str) -> None:
    """The Alpha1 name where the application has only that; neither means that everything is acknowledged."""

    async def main() -> None:
        async def some(request: bytes) -> m.TopicEventBulkResponse:
            entries = m.TopicEventBulkRequest.FromString(request).entries
            return m.TopicEventBulkResponse(
                statuses=[
                    m.TopicEventBulkResponseEntry(entry_id=entries[0].entry_id),
                    m.TopicEventBulkResponseEntry(entry_id="unknown"),
                ]
            )

        config = m.BulkSubscribeConfig(enabled=True, max_messages_count=1)
        app = GrpcApp(wants(bulk_subscribe=config), {method: some} if method else {})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b'{"id":"7","data":"x"}', metadata={"k": "v"}))
            assert await s.broker.ended(1) == [("t", "ack")]
        if method:
            ((name, message, _),) = app.seen
            assert name == method
            found = m.TopicEventBulkRequest.FromString(message)
            assert (found.topic, found.pubsub_name, found.type) == ("t", "ps", "com.dapr.event.sent.bulk")
            (row,) = found.entries
            assert (row.cloud_event.id, row.cloud_event.data, dict(row.metadata)) == ("7", b"x", {"k": "v"})

    asyncio.run(main())


def test_raw_bulk_delivery() -> None:
    async def main() -> None:
        config = m.BulkSubscribeConfig(enabled=True, max_messages_count=1)
        subscribe = wants(bulk_subscribe=config, metadata={"rawPayload": "true"})
        app = GrpcApp(subscribe, {"OnBulkTopicEvent": m.TopicEventBulkResponse()})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b"\x00\x01"))
            assert await s.broker.ended(1) == [("t", "reject")]
        (row,) = m.TopicEventBulkRequest.FromString(app.seen[0][1]).entries
        assert (row.bytes, row.content_type) == (b"\x00\x01", "application/octet-stream")

    asyncio.run(main())


# -- streams


def initial(topic: str = "t", pubsub: str = "ps", **more: Any) -> m.SubscribeTopicEventsRequestAlpha1:
    request = m.SubscribeTopicEventsRequestInitialAlpha1(pubsub_name=pubsub, topic=topic, **more)
    return m.SubscribeTopicEventsRequestAlpha1(initial_request=request)


def processed(event_id: str, status: m.TopicEventResponse = DONE) -> m.SubscribeTopicEventsRequestAlpha1:
    answer = m.SubscribeTopicEventsRequestProcessedAlpha1(id=event_id, status=status)
    return m.SubscribeTopicEventsRequestAlpha1(event_processed=answer)


async def opened(s: Sidecar, **more: Any) -> Any:
    stream = s.stream()
    await stream.write(initial(**more))
    assert (await stream.read()).HasField("initial_response")
    return stream


async def ending(stream: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    return caught.value.code(), caught.value.details() or ""


def test_a_stream() -> None:
    """Many events are outstanding; each is answered by its id, in any order; an unknown id is ignored."""

    async def main() -> None:
        async with sidecar(broker=ParallelBroker()) as s:
            stream = await opened(s, dead_letter_topic="dead", metadata={"m": "1"})
            (row,) = s.subscriptions.rows()
            assert (row.topic, row.type, dict(row.metadata), row.dead_letter_topic) == ("t", 3, {"m": "1"}, "dead")
            for number in "1234":
                await s.broker.publish(Publish("t", json.dumps({"id": number, "data": "x"}).encode()))
            got = [(await stream.read()).event_message for _ in range(4)]
            assert [(e.id, e.path, e.data, e.pubsub_name) for e in got] == [(n, "/", b"x", "ps") for n in "1234"]
            await stream.write(processed("9"))
            for number, status in (("4", DONE), ("2", DROP), ("3", RETRY), ("1", DONE)):
                await stream.write(processed(number, status))
            assert [end for _, end in await s.broker.ended(4)] == ["ack"] * 4
            assert sorted(json.loads(message.data)["id"] for message in s.broker.published[4:]) == ["2", "3"]
            stream.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "code", "text"),
    [
        (processed("1"), "UNKNOWN", "initial request is required"),
        (initial(pubsub=""), "UNKNOWN", "pubsubName is required"),
        (initial(topic=""), "UNKNOWN", "topic is required"),
        (initial(pubsub="no"), "INVALID_ARGUMENT", "pubsub no is not found"),
        (initial(topic="closed"), "UNKNOWN", "failed to create subscription for ps: "),
        (initial(topic="t", metadata={"rawPayload": "perhaps"}), "UNKNOWN", "failed to create subscription for ps: "),
    ],
)
def test_streams_that_do_not_begin(first: Any, code: str, text: str) -> None:
    async def main() -> None:
        async with sidecar(scopes=TopicScopes.parse({"allowedTopics": "t"}, "app1")) as s:
            stream = s.stream()
            await stream.write(first)
            found, details = await ending(stream)
            assert (found.name, details[: len(text)]) == (code, text)
            assert s.subscriptions.rows() == []

    asyncio.run(main())


def test_a_second_initial_request_ends_the_stream() -> None:
    async def main() -> None:
        async with sidecar() as s:
            stream = await opened(s)
            await stream.write(initial())
            assert await ending(stream) == (grpc.StatusCode.UNKNOWN, "duplicate initial request received")

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cancel", "half-close"])
def test_a_client_that_leaves_loses_nothing(how: str) -> None:
    """What it did not acknowledge is withheld, neither refused nor dead-lettered; the other stream goes on."""

    async def main() -> None:
        async with sidecar(broker=ParallelBroker()) as s:
            other = await opened(s)
            leaving = await opened(s, dead_letter_topic="dead")
            assert len(s.subscriptions.rows()) == 2
            await s.broker.publish(Publish("t", ONE.encode()))
            await leaving.read()
            await other.read()
            if how == "cancel":
                leaving.cancel()
            else:
                await leaving.done_writing()
                assert (await ending(leaving))[0] is grpc.StatusCode.UNKNOWN
            assert await s.broker.ended(1) == [(ONE, "withheld")]
            await other.write(processed("1"))
            assert (await s.broker.ended(2))[1] == (ONE, "ack")
            assert len(s.broker.published) == 1
            other.cancel()

    asyncio.run(main())


def test_the_sidecar_drains_its_streams() -> None:
    """Shutdown: no new events, outstanding acknowledgements still count, then UNKNOWN `stream closed`."""

    async def main() -> None:
        async with sidecar(broker=ParallelBroker()) as s:
            stream = await opened(s)
            waiting = s.stream()
            await waiting.wait_for_connection()
            await s.broker.publish(Publish("t", ONE.encode()))
            await stream.read()
            closing = asyncio.ensure_future(s.streaming.close(10))
            assert await ending(waiting) == (grpc.StatusCode.UNKNOWN, "api server closed")
            await stream.write(processed("1"))
            assert await s.broker.ended(1) == [(ONE, "ack")]
            assert await ending(stream) == (grpc.StatusCode.UNKNOWN, "stream closed")
            await closing

    asyncio.run(main())


def test_a_stream_that_does_not_answer_holds_up_the_end_no_longer_than_allowed() -> None:
    async def main() -> None:
        async with sidecar(broker=ParallelBroker()) as s:
            stream = await opened(s, dead_letter_topic="dead")
            await s.broker.publish(Publish("t", ONE.encode()))
            await stream.read()
            await s.streaming.close(0)
            assert await ending(stream) == (grpc.StatusCode.UNKNOWN, "stream closed")
            assert await s.broker.ended(1) == [(ONE, "withheld")]
            assert len(s.broker.published) == 1

    asyncio.run(main())


def test_a_component_that_leaves_ends_its_streams() -> None:
    async def main() -> None:
        async with sidecar() as s:
            stream = await opened(s)
            await s.streaming.broker_leaving("other")
            await s.streaming.broker_leaving("ps")
            assert await ending(stream) == (grpc.StatusCode.UNKNOWN, "stream closed")
            assert s.subscriptions.rows() == []

    asyncio.run(main())


def test_base64_of_an_event_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """An event whose `data_base64` is broken is refused like any that the application did not process."""

    async def main() -> None:
        app = GrpcApp(wants(), {"OnTopicEvent": DONE})
        async with sidecar(app) as s:
            await s.broker.publish(Publish("t", b'{"data_base64":"?"}'))
            await s.broker.publish(Publish("t", b'{"data_base64":"%b"}' % base64.b64encode(b"ok")))
            assert await s.broker.ended(2) == [("t", "reject"), ("t", "ack")]

    asyncio.run(main())
