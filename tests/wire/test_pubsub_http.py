"""Publishing over HTTP, over real sockets (spec `http-api.md` 3.2, 4.3 and 6)."""

from __future__ import annotations

import asyncio
import json
import re

from yarl import URL

from pillion.errors import ComponentError
from pillion.kinds.pubsub import Feature, Publish
from pillion.security.scopes import TopicScopes
from pubsub_rig import App, WatchedBroker, sidecar

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
JSON = {"Content-Type": "application/json"}


def test_the_worked_example() -> None:
    """Spec `http-api.md` 6: the bytes on the broker, and the same bytes with the same headers at the application."""

    async def main() -> None:
        app = App(subscribe=[{"pubsubname": "ps", "topic": "t1", "route": "/t1-handler"}])
        async with sidecar(app, token="secret") as s:
            answer = await s.post("/v1.0/publish/ps/t1?metadata.ttlInSeconds=60", b'{"b":1,"a":"<x>"}', JSON)
            assert answer[:2] == (204, b"")
            (seen,) = await app.got(1)
            assert await s.broker.ended(1) == [("t1", "ack")]
        (message,) = s.broker.published
        stable = re.sub(rb'"(expiration|id|time)":"[^"]+"', rb'"\1":"*"', message.data)
        assert stable == (
            rb'{"data":{"a":"\u003cx\u003e","b":1},"datacontenttype":"application/json","expiration":"*","id":"*",'
            rb'"pubsubname":"ps","source":"app1","specversion":"1.0","time":"*","topic":"t1","traceid":"",'
            rb'"traceparent":"","tracestate":"","type":"com.dapr.event.sent"}'
        )
        assert seen.body == message.data
        assert seen.path == "/t1-handler"
        headers = {k.title(): v for k, v in seen.headers.items() if k not in ("Host", "Content-Length")}
        assert headers == {
            "Content-Type": "application/cloudevents+json",
            "Pubsubname": "ps",
            "Traceparent": "00-00000000000000000000000000000000-0000000000000000-00",
            "Ttlinseconds": "60",
            "Dapr-Api-Token": "secret",
        }

    asyncio.run(main())


def test_errors_of_publish() -> None:
    """Spec `http-api.md` 3.2 and 6, byte for byte."""

    async def main() -> None:
        async with sidecar() as s:
            status, body, _ = await s.post("/v1.0/publish/nope/t?metadata.a=b", b"x")
            assert status == 404
            assert body == (
                b'{"errorCode":"ERR_PUBSUB_NOT_FOUND","message":"pubsub nope is not found","details":[{"@type":'
                b'"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"a":"b"},'
                b'"reason":"DAPR_PUBSUB_NOT_FOUND"}]}'
            )
            status, body, _ = await s.post("/v1.0/publish/ps/t?metadata.rawPayload=x", b"x")
            text = "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is 'x'"
            assert status == 400
            assert json.loads(body) == {
                "errorCode": "ERR_PUBSUB_REQUEST_METADATA",
                "message": text,
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ResourceInfo", "description": text, "owner": "",
                        "resource_name": "ps", "resource_type": "pubsub",
                    },
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "dapr.io",
                        "metadata": {"rawPayload": "x"}, "reason": "DAPR_PUBSUB_METADATA_DESERIALIZATION",
                    },
                ],
            }  # fmt: skip

    asyncio.run(main())


def test_forms_of_publishing() -> None:
    """Topics with slashes and escapes, PUT, content types, raw bytes with the trace beside them."""

    async def main() -> None:
        trace = {"traceparent": PARENT, "tracestate": "a=b"}
        async with sidecar() as s:
            assert (await s.post("/v1.0/publish/ps/a/b%2Fc+d/", b"x"))[0] == 204
            assert (await s.post("/v1.0/publish/ps/t", b"{", {**JSON, **trace}))[0] == 204
            raw = "/v1.0/publish/ps/t?metadata.rawPayload=true&metadata.k=v&metadata.k=w"
            assert (await s.post(raw, b"\x00raw", trace))[0] == 204
            event = b'{"id":"mine","data":1}'
            kind = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
            assert (await s.post("/v1.0/publish/ps/t?metadata.cloudevent.id=no", event, kind))[0] == 204
            assert (await s.post("/v1.0/publish/ps/t?metadata.cloudevent.ID=yes", b"x"))[0] == 204
        first, second, third, fourth, fifth = s.broker.published
        assert first.topic == "a/b/c d"
        assert json.loads(first.data)["topic"] == "a/b/c d"
        assert json.loads(second.data)["data"] == "{"
        assert json.loads(second.data)["traceparent"] == PARENT
        assert third.data == b"\x00raw"
        assert third.metadata == {"rawPayload": "true", "k": "v", "traceparent": PARENT, "tracestate": "a=b"}
        assert json.loads(fourth.data)["id"] == "mine"
        assert json.loads(fourth.data)["source"] == "Dapr"
        assert json.loads(fifth.data)["id"] == "yes"

    asyncio.run(main())


def test_bytes_that_are_no_text() -> None:
    """A topic or metadata with bytes that are not UTF-8 has U+FFFD in their place, as JSON has it everywhere."""

    async def main() -> None:
        async with sidecar() as s:
            for path in ("publish/ps/a%FF?metadata.k%FE=v%FD", "publish/bulk/ps/a%FF?metadata.k%FE=v%FD"):
                url = URL(f"{s.url}/v1.0/{path}", encoded=True)
                async with s.http.post(url, data=b'[{"entryId":"1","event":"x","contentType":"text/plain"}]') as answer:
                    assert answer.status == 204
        for message in s.broker.published:
            assert message.topic == "a\ufffd"
            assert json.loads(message.data)["topic"] == "a\ufffd"
        assert s.broker.published[0].metadata == {"k\ufffd": "v\ufffd"}

    asyncio.run(main())


def test_refused_publishes() -> None:
    """Not an event, not allowed, not accepted by the broker, too large: each with its code and status."""

    async def main() -> None:
        scopes = TopicScopes.parse({"allowedTopics": "t,bad"}, "app1")
        async with sidecar(scopes=scopes, max_body=100) as s:
            s.broker.failing["bad"] = "disk full"
            kind = {"Content-Type": "application/cloudevents+json"}
            for path, body, headers, status, code, text, reason in (
                ("ps/t", b"[]", kind, 500, "ERR_PUBSUB_CLOUD_EVENTS_SER",
                 "cannot create cloudevent", "CLOUD_EVENT_CREATION"),
                ("ps/no", b"", {}, 403, "ERR_PUBSUB_FORBIDDEN", "topic no is not allowed for app id app1", "FORBIDDEN"),
                ("ps/bad", b"", {}, 500, "ERR_PUBSUB_PUBLISH_MESSAGE",
                 "error when publishing to topic bad in pubsub ps: disk full", "PUBLISH_MESSAGE"),
                ("ps/t", b"y" * 101, {}, 500, "ERR_PUBSUB_PUBLISH_MESSAGE",
                 "error when publishing to topic t in pubsub ps: stream too large", "PUBLISH_MESSAGE"),
            ):  # fmt: skip
                found, answer, _ = await s.post("/v1.0/publish/" + path, body, headers)
                error = json.loads(answer)
                assert (found, error["errorCode"], error["message"]) == (status, code, text)
                resource, info = error["details"]
                assert (resource["resource_name"], resource["description"]) == ("ps", text)
                assert info["reason"] == "DAPR_PUBSUB_" + reason
        assert s.broker.published == []

    asyncio.run(main())


def test_the_broker_that_keeps_ttl_itself() -> None:
    """No `expiration` where the component says that it expires messages; a life that cannot be read is ignored."""

    async def main() -> None:
        async with sidecar(broker=WatchedBroker(features=frozenset({Feature.MESSAGE_TTL}))) as s:
            await s.post("/v1.0/publish/ps/t?metadata.ttl=1h", b"x")
        async with sidecar() as other:
            for value in ("soon", "-1", "0", "1h", "-1h"):
                await other.post(f"/v1.0/publish/ps/t?metadata.TTL={value}", b"x")
        assert "expiration" not in json.loads(s.broker.published[0].data)
        has = ["expiration" in json.loads(message.data) for message in other.broker.published]
        assert has == [False, False, True, True, True]

    asyncio.run(main())


def test_bulk_publish() -> None:
    """Every entry has its own envelope; the request's metadata reaches only entries that have some of their own."""

    async def main() -> None:
        entries = [
            {"entryId": "1", "event": {"b": 2, "a": 1}, "contentType": "application/json"},
            {"entryId": "2", "event": "hi", "contentType": "text/plain", "metadata": {"k": "own"}},
            {"entryId": "3", "event": "AAE=", "contentType": "application/octet-stream", "metadata": {}},
            {"EntryId": "4", "Event": {"id": "x"}, "ContentType": "application/cloudevents+json"},
        ]
        async with sidecar() as s:
            path = "/v1.0-alpha1/publish/bulk/ps/a/b?metadata.k=shared&metadata.l=shared"
            assert (await s.post(path, json.dumps(entries)))[:2] == (204, b"")
            assert (await s.post("/v1.0/publish/bulk/ps/a/b", "[]"))[:2] == (204, b"")
            assert (await s.post("/v1.0/publish/bulk/ps/raw?metadata.rawPayload=1", json.dumps(entries[2:3])))[0] == 204
            assert (await s.post("/v1.0/publish/bulk/x", b"y"))[0] == 404
        one, two, three, four, raw = s.broker.published
        assert [m.topic for m in s.broker.published] == ["a/b"] * 4 + ["raw"]
        assert json.loads(one.data)["data"] == {"a": 1, "b": 2}
        assert (one.metadata, two.metadata) == ({}, {"k": "own", "l": "shared"})
        assert json.loads(two.data)["data"] == "hi"
        assert json.loads(three.data)["data_base64"] == "AAE="
        assert three.metadata == {"k": "shared", "l": "shared"}
        assert json.loads(four.data)["id"] == "x"
        assert raw.data == b"\x00\x01"

    asyncio.run(main())


def test_refused_bulks() -> None:
    """Nothing of a malformed bulk is published; the texts that clients match are there."""

    async def main() -> None:
        row = {"entryId": "1", "event": "x", "contentType": "text/plain"}
        octets = {**row, "contentType": "application/octet-stream", "event": "?"}
        no_array = "json: cannot unmarshal object into Go value of type []http.bulkPublishMessageEntry"
        no_id = "entryId is duplicated or not present for entry"
        async with sidecar() as s:
            for body, text, reason in (
                ("{}", no_array, "UNMARSHAL_EVENTS"),
                ('[{"entryId":', "unexpected EOF", "UNMARSHAL_EVENTS"),
                ("[5]", "number", "UNMARSHAL_EVENTS"),
                ('[{"entryId":5}]', "entryId", "UNMARSHAL_EVENTS"),
                (json.dumps([row, row]), no_id, "MARSHAL_EVENTS"),
                (json.dumps([{**row, "entryId": ""}]), no_id, "MARSHAL_EVENTS"),
                (json.dumps([{**row, "event": 5}]), "text/plain", "MARSHAL_ENVELOPE"),
                (json.dumps([{**row, "contentType": ""}]), "content type", "MARSHAL_ENVELOPE"),
                (json.dumps([octets]), "base64", "MARSHAL_ENVELOPE"),
            ):  # fmt: skip
                status, answer, _ = await s.post("/v1.0/publish/bulk/ps/t", body)
                error = json.loads(answer)
                assert (status, error["errorCode"]) == (400, "ERR_PUBSUB_EVENTS_SER")
                assert text.lower() in error["message"].lower()
                assert error["details"][1]["reason"] == "DAPR_PUBSUB_" + reason
                assert error["details"][1]["metadata"]["appID"] == "app1"
        assert s.broker.published == []

    asyncio.run(main())


def test_a_bulk_that_fails_in_part() -> None:
    """Spec `http-api.md` 4.3: 500 with the failed entries in body and headers; a scope answers for the whole bulk."""

    async def main() -> None:
        rows = [{"entryId": str(i), "event": "x" * i, "contentType": "text/plain"} for i in range(150)]
        async with sidecar(scopes=TopicScopes.parse({"allowedTopics": "t"}, "app1")) as s:
            publish = s.broker.publish

            async def picky(message: Publish) -> None:
                if len(json.loads(message.data)["data"]) % 50 == 7:
                    raise ComponentError("odd\nlength")
                await publish(message)

            s.broker.publish = picky  # type: ignore[method-assign]
            status, body, headers = await s.post("/v1.0/publish/bulk/ps/t", json.dumps(rows))
            failed = [{"entryId": entry, "error": "odd\nlength"} for entry in ("7", "57", "107")]
            assert status == 500
            assert json.loads(body) == {"failedEntries": failed, "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE"}
            assert headers["metadata.error"] == "error when publishing to topic t in pubsub ps: odd length"
            assert headers["metadata.responseData"].encode() == body
            assert len(s.broker.published) == 147
            status, body, _ = await s.post("/v1.0/publish/bulk/ps/no", json.dumps(rows))
            assert (status, json.loads(body)["details"][1]["reason"]) == (403, "DAPR_PUBSUB_FORBIDDEN")

    asyncio.run(main())
