"""A publish/subscribe sidecar in miniature for tests: the real blocks and servers around a broker in memory.

`sidecar` serves the API over HTTP and delivers to a real aiohttp application; every answer the broker got is recorded.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import grpc.aio
from aiohttp import web

from pillion.app.channel import AppChannel
from pillion.app.grpc_topics import GrpcTopics
from pillion.app.topics import HttpTopics
from pillion.blocks.broker import Broker
from pillion.blocks.publish import PublishBlock
from pillion.blocks.streaming import StreamingBlock
from pillion.blocks.subscriptions import Subscriptions
from pillion.components.memory_broker import MemoryPubSub
from pillion.errors import ComponentError
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Rejected, Withheld
from pillion.net import listen
from pillion.net.exchange import Response, RpcError
from pillion.net.grpc_client import Channel
from pillion.net.h2_server import H2Server
from pillion.net.http_client import HttpClient
from pillion.net.http_server import HttpServer
from pillion.serve.grpc import GrpcApi
from pillion.serve.http import HttpApi, HttpSettings
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from pillion.api.call import HttpCall
    from pillion.blocks.holding import Holdings
    from pillion.kinds.pubsub import Delivery, Publish
    from pillion.kinds.topics import TopicsOfApp

APP_ID = "app1"


class WatchedBroker(MemoryPubSub):
    """The in-memory broker, remembering what was published and how each delivery ended."""

    def __init__(self, name: str = "ps", features: frozenset[Any] | None = None) -> None:
        super().__init__(self.Settings(), Context(name))
        if features is not None:
            self.features = features
        self.published: list[Publish] = []
        self.ends: list[tuple[str, str]] = []
        self.failing: dict[str, str] = {}
        """Topics whose publish fails, with the error."""
        self.start_failures = 0
        self._changed = asyncio.Event()

    async def publish(self, message: Publish) -> None:
        if message.topic in self.failing:
            raise ComponentError(self.failing[message.topic])
        self.published.append(message)
        await super().publish(message)
        self._changed.set()

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> Any:
        if self.start_failures:
            self.start_failures -= 1
            raise ComponentError("no broker there")

        async def watched(delivery: Delivery) -> None:
            end = "ack"
            try:
                await handler(delivery)
            except Rejected:
                end = "reject"
                raise
            except Withheld:
                end = "withheld"
                raise
            except asyncio.CancelledError:
                end = "cancelled"
                raise
            finally:
                self.ends.append((delivery.topic, end))
                self._changed.set()

        return await super().subscribe(topic, metadata, watched)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until a publish or the end of a delivery makes `ready` true."""
        async with asyncio.timeout(90):
            while not ready():
                self._changed.clear()
                await self._changed.wait()

    async def ended(self, count: int) -> list[tuple[str, str]]:
        await self.until(lambda: len(self.ends) >= count)
        return self.ends


class ParallelBroker(WatchedBroker):
    """Hands every message to a handler at once, as brokers with several messages in flight do.

    `ends` has the bodies of messages instead of their topics.
    """

    begun = 0

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> Any:
        running: set[asyncio.Task[None]] = set()

        async def spread(delivery: Delivery) -> None:
            task = asyncio.ensure_future(self._one(handler, delivery))
            running.add(task)
            task.add_done_callback(running.discard)
            self.begun += 1
            asyncio.get_running_loop().call_soon(self._changed.set)

        inner = await super(WatchedBroker, self).subscribe(topic, metadata, spread)
        return _Waiting(inner, running)

    async def _one(self, handler: Callable[[Delivery], Awaitable[None]], delivery: Delivery) -> None:
        end = "ack"
        try:
            await handler(delivery)
        except Rejected:
            end = "reject"
        except asyncio.CancelledError:
            end = "withheld"
        self.ends.append((delivery.data.decode(), end))
        self._changed.set()


class _Waiting:
    """A subscription whose end waits for the handlers at work, as its contract asks."""

    def __init__(self, inner: Any, running: set[asyncio.Task[None]]) -> None:
        self._inner, self._running = inner, running

    async def pause(self) -> None:
        await self._inner.pause()

    async def close(self) -> None:
        await self._inner.close()
        if self._running:
            await asyncio.wait(self._running)


@dataclass
class Seen:
    """One request that the application got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class App:
    """A real HTTP application. `answers` says what a path answers: body, status or a coroutine function."""

    subscribe: Any = field(default_factory=list)
    subscribe_status: int = 200
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.path == "/dapr/subscribe":
            self.asked += 1
            text = self.subscribe if isinstance(self.subscribe, str) else json.dumps(self.subscribe)
            return web.Response(text=text, status=self.subscribe_status)
        self.seen.append(Seen(request.path_qs, dict(request.headers), await request.read()))
        self.arrived.set()
        answer = self.answers.get(request.path, "")
        if callable(answer):
            answer = await answer(self.seen[-1])
        if isinstance(answer, int):
            return web.Response(status=answer)
        return web.Response(text=answer, content_type="application/json")

    async def got(self, count: int) -> list[Seen]:
        async with asyncio.timeout(90):
            while len(self.seen) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.seen


@dataclass
class GrpcApp:
    """A real grpcio application. `answers` says what a method answers: a message, a status code or a function."""

    subscribe: m.ListTopicSubscriptionsResponse | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[tuple[str, bytes, dict[str, str | bytes]]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        name = details.method.rpartition("/")[2]
        if name == "ListTopicSubscriptions" and self.subscribe is not None:
            return grpc.unary_unary_rpc_method_handler(self._subscriptions)
        if name not in self.answers:
            return None

        async def serve(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            self.seen.append((name, request, dict(context.invocation_metadata() or ())))
            self.arrived.set()
            answer = self.answers[name]
            if callable(answer):
                answer = await answer(request)
            if isinstance(answer, grpc.StatusCode):
                await context.abort(answer, "as told")
            return bytes(answer.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(serve)

    async def _subscriptions(self, request: bytes, context: Any) -> bytes:
        assert self.subscribe is not None
        return bytes(self.subscribe.SerializeToString())

    async def got(self, count: int) -> list[tuple[str, bytes, dict[str, str | bytes]]]:
        async with asyncio.timeout(90):
            while len(self.seen) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.seen


@dataclass
class Sidecar:
    """What a test holds of the miniature."""

    broker: WatchedBroker
    brokers: dict[str, Broker]
    subscriptions: Subscriptions
    channel: AppChannel | None
    http: aiohttp.ClientSession
    url: str
    streaming: StreamingBlock
    grpc: grpc.aio.Channel

    async def call(self, method: str, request: Any, reply: Any, metadata: Sequence[tuple[str, Any]] = ()) -> Any:
        """Call a unary method of the API with a grpcio client."""
        unary = self.grpc.unary_unary(
            f"/dapr.proto.runtime.v1.Dapr/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return await unary(request, metadata=tuple(metadata), timeout=60)

    def stream(self) -> Any:
        """Open SubscribeTopicEventsAlpha1 with a grpcio client."""
        return self.grpc.stream_stream(
            "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=m.SubscribeTopicEventsResponseAlpha1.FromString,
        )()

    async def post(
        self, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        data = body.encode() if isinstance(body, str) else body
        async with self.http.post(
            self.url + path, data=data, headers=headers, skip_auto_headers=["Content-Type"]
        ) as response:
            return response.status, await response.read(), response.headers


async def _nothing(call: HttpCall) -> Response:
    return Response(404)


async def _unknown(call: Any) -> None:
    raise RpcError(2, "no such method")


@asynccontextmanager
async def serving_app(app: App | GrpcApp) -> AsyncIterator[int]:
    """Run the application on a free port."""
    if isinstance(app, GrpcApp):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((app,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(0)
        return
    web_app = web.Application()
    web_app.router.add_route("*", "/{tail:.*}", app.handle)
    runner = web.AppRunner(web_app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def sidecar(
    app: App | GrpcApp | None = None,
    *,
    broker: WatchedBroker | None = None,
    extra: Sequence[Broker] = (),
    token: str = "",
    start: bool = True,
    resources: Sequence[Any] = (),
    max_body: int = 4 << 20,
    holdings: Callable[[Mapping[str, Broker]], Holdings] | None = None,
    **settings: Any,
) -> AsyncIterator[Sidecar]:
    """Run a sidecar with the pubsub `ps`; `settings` are further fields of its `Broker`, `holdings` makes what keeps
    delayed messages.
    """
    watched = broker or WatchedBroker()
    brokers = {"ps": Broker("ps", watched, **settings), **{each.name: each for each in extra}}
    async with AsyncExitStack() as stack:
        channel: AppChannel | None = None
        topics: TopicsOfApp | None = None
        if app is not None:
            port = await stack.enter_async_context(serving_app(app))
            if isinstance(app, GrpcApp):
                channel = AppChannel("grpc", grpc=Channel(f"127.0.0.1:{port}"), token=token, port=port)
                topics = GrpcTopics(channel, pause=_at_once)
            else:
                channel = AppChannel("http", http=HttpClient("127.0.0.1", port), token=token, port=port)
                topics = HttpTopics(channel, APP_ID, pause=_at_once)
            stack.push_async_callback(channel.close)
        held = None if holdings is None else holdings(brokers)
        if held is not None:
            held.resume()
            stack.push_async_callback(held.close)
        block = PublishBlock(APP_ID, brokers, holdings=held)
        subscriptions = Subscriptions(brokers, topics, pause=_at_once)
        streaming = StreamingBlock(brokers, subscriptions)
        operations = [*block.operations(), *streaming.operations()]
        server = HttpServer(HttpApi(operations, HttpSettings(), _nothing), max_body=max_body, max_head=8192)
        listeners = await listen.tcp(server, ["127.0.0.1"], 0)
        stack.push_async_callback(server.close, 1)
        stack.callback(listeners.close)
        h2 = H2Server(grpc=GrpcApi(operations, proxy=_unknown))
        h2_listeners = await listen.tcp(h2, ["127.0.0.1"], 0)
        stack.push_async_callback(h2.close, 1)
        stack.callback(h2_listeners.close)
        for each in brokers.values():
            stack.push_async_callback(each.component.close)
        stack.push_async_callback(subscriptions.close, 5)
        stack.push_async_callback(streaming.close, 5)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{h2_listeners.port}"))
        await subscriptions.declare(resources)
        if app is not None and start:
            await subscriptions.app_healthy()
            await subscriptions.started()
        url = f"http://127.0.0.1:{listeners.port}"
        yield Sidecar(watched, brokers, subscriptions, channel, http, url, streaming, client)


async def _at_once(seconds: float) -> None:
    await asyncio.sleep(0)
