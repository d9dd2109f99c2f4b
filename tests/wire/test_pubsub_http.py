"""Publishing over HTTP and delivery to HTTP applications, over real sockets (spec `http-api.md` 4.3, 5.3, 5.4, 6)."""

from __future__ import annotations

import asyncio
import json
import re

from pubsub_rig import App, sidecar

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
