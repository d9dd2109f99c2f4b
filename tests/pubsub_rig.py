"""A publish/subscribe sidecar in miniature for tests: the real blocks and servers around a broker in memory.

`sidecar` serves the API over HTTP and delivers to a real aiohttp application; every answer the broker got is recorded.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from pillion.app.channel import AppChannel
from pillion.app.topics import HttpTopics
from pillion.blocks.broker import Broker
from pillion.blocks.publish import PublishBlock
from pillion.blocks.subscriptions import Subscriptions
from pillion.components.memory_broker import MemoryPubSub
from pillion.errors import ComponentError
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Rejected, Withheld
from pillion.net import listen
from pillion.net.exchange import Response
from pillion.net.http_client import HttpClient
from pillion.net.http_server import HttpServer
from pillion.serve.http import HttpApi, HttpSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from pillion.api.call import HttpCall
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
        async with asyncio.timeout(10):
            while not ready():
                self._changed.clear()
                await self._changed.wait()

    async def ended(self, count: int) -> list[tuple[str, str]]:
        await self.until(lambda: len(self.ends) >= count)
        return self.ends


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
        async with asyncio.timeout(10):
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


@asynccontextmanager
async def serving_app(app: App) -> AsyncIterator[int]:
    server = web.Application()
    server.router.add_route("*", "/{tail:.*}", app.handle)
    runner = web.AppRunner(server, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def sidecar(
    app: App | None = None,
    *,
    broker: WatchedBroker | None = None,
    extra: Sequence[Broker] = (),
    token: str = "",
    start: bool = True,
    resources: Sequence[Any] = (),
    max_body: int = 4 << 20,
    **settings: Any,
) -> AsyncIterator[Sidecar]:
    """Run a sidecar with the pubsub `ps`; `settings` are further fields of its `Broker`."""
    watched = broker or WatchedBroker()
    brokers = {"ps": Broker("ps", watched, **settings), **{each.name: each for each in extra}}
    block = PublishBlock(APP_ID, brokers)
    api = HttpApi(block.operations(), HttpSettings(), _nothing)
    server = HttpServer(api, max_body=max_body, max_head=8192)
    listeners = await listen.tcp(server, ["127.0.0.1"], 0)
    async with aiohttp.ClientSession() as http:
        port = 0
        if app is not None:
            context = serving_app(app)
            port = await context.__aenter__()
        channel = AppChannel("http", http=HttpClient("127.0.0.1", port), token=token, port=port) if app else None
        topics: TopicsOfApp | None = HttpTopics(channel, APP_ID, pause=_at_once) if channel is not None else None
        subscriptions = Subscriptions(brokers, topics, pause=_at_once)
        found = Sidecar(watched, brokers, subscriptions, channel, http, f"http://127.0.0.1:{listeners.port}")
        try:
            await subscriptions.declare(resources)
            if app is not None and start:
                await subscriptions.app_healthy()
                await subscriptions.started()
            yield found
        finally:
            await subscriptions.close(5)
            for each in brokers.values():
                await each.component.close()
            listeners.close()
            await server.close(1)
            if channel is not None:
                await channel.close()
            if app is not None:
                await context.__aexit__(None, None, None)


async def _at_once(seconds: float) -> None:
    await asyncio.sleep(0)
