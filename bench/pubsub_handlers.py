"""CPU of the publish handler and of one delivery, without sockets: what this house adds to broker and transports.

python bench/pubsub_handlers.py
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from pillion.api.call import HttpCall
from pillion.app.channel import AppChannel
from pillion.app.grpc_topics import GrpcTopics
from pillion.app.topics import HttpTopics
from pillion.blocks.active import activate
from pillion.blocks.broker import Broker
from pillion.blocks.publish import PublishBlock
from pillion.kinds.pubsub import Delivery
from pillion.kinds.rules import compile_rule
from pillion.kinds.topics import TopicSubscription
from pillion.net.exchange import Request, Response, UnaryReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.topics import TopicsOfApp

ROUNDS = 10_000
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = b'{"orderId":17,"customer":"anna","total":25,"items":[{"sku":"a","n":2}]}'
LONG = b'{"x":"' + b"y" * 10_000 + b'"}'


class Sink:
    """A broker and an application that do nothing."""

    features: frozenset[Any] = frozenset()
    last: Any = None

    async def publish(self, message: Any) -> None:
        self.last = message

    async def request(self, request: Request) -> Response:
        return Response(200)

    async def unary(self, *args: Any, **options: Any) -> UnaryReply:
        return UnaryReply(b"")


async def measure(name: str, work: Callable[[], Awaitable[Any]]) -> None:
    """Print the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(ROUNDS):
            await work()
        best = min(best, (time.process_time() - started) / ROUNDS * 1e6)
    print(f"{name:36}{best:8.2f} us")


async def main() -> None:
    sink: Any = Sink()
    broker = Broker("ps", sink)
    block = PublishBlock("app1", {"ps": broker})
    head = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]

    def call(body: bytes, query: bytes = b"", *more: tuple[bytes, bytes]) -> HttpCall:
        return HttpCall(Request("POST", b"", [*head, *more], body), b"", query, ("ps", "t"), "")

    await measure("nothing", lambda: sink.publish(None))
    await measure("publish 70 bytes", lambda: block.publish(call(BODY)))
    await measure("publish with a trace", lambda: block.publish(call(BODY, b"", (b"traceparent", PARENT))))
    await measure("publish with a ttl", lambda: block.publish(call(BODY, b"metadata.ttlInSeconds=60")))
    await measure("publish 10 kB", lambda: block.publish(call(LONG)))
    await block.publish(call(BODY))
    event = sink.last.data
    await block.publish(call(LONG))
    long_event = sink.last.data

    async def deliver(name: str, app: TopicsOfApp, data: bytes, match: str = "", **metadata: str) -> None:
        subscription = TopicSubscription("ps", "t", (compile_rule(match, "/h"),))
        carrier: Any = activate(broker, subscription, app).carrier
        delivery = Delivery("t", data, metadata)
        await measure(name, lambda: carrier.handle(delivery))

    http = HttpTopics(AppChannel("http", http=sink), "app1")
    await deliver("deliver 70 bytes to HTTP", http, event)
    await deliver("deliver with three metadata", http, event, a="b", c="d", e="f")
    await deliver("deliver by a plain rule", http, event, 'event.type == "com.dapr.event.sent"')
    await deliver("deliver by a CEL rule", http, event, "event.data.total > 7")
    await deliver("deliver 10 kB to HTTP", http, long_event)
    await deliver("deliver 70 bytes to gRPC", GrpcTopics(AppChannel("grpc", grpc=sink)), event)


if __name__ == "__main__":
    asyncio.run(main())
