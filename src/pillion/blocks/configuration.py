"""Configuration: get, subscribe and unsubscribe (spec `http-api.md` 4.4, 5.2; `grpc-api.md` 2, 3 and 4).

A subscription made over HTTP outlives its request: changes are POSTed to the application. One made over gRPC is the
stream itself. An application that is slower than the changes gets the last item of each key: what waits for it is
bounded by the number of keys. Knows: how subscriptions begin, tell and end. Never knows: stores.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson
from google.protobuf.message import DecodeError

from pillion.api.call import EMPTY
from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.app.config_updates import tell
from pillion.blocks import configuration_faults as faults
from pillion.errors import ApiError, Code, ComponentError
from pillion.kinds.topics import Unprocessed
from pillion.net.exchange import Response, RpcError
from pillion.observe.meters import untimed
from pillion.tasks import Tasks
from pillion.wire.gojson import escaped
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.app.channel import AppChannel
    from pillion.kinds.configuration import ConfigurationStore, Item, Watch
    from pillion.observe.meters import Timed

T = TypeVar("T")
log = logging.getLogger("pillion.blocks.configuration")

MAX_SUBSCRIPTIONS = 10_000
"""Of one application at a time: a subscription over HTTP costs its maker nothing and stays."""
MAX_KEYS = 10_000
"""Of one subscription."""
LAST_WORD_S = 1.0
"""How long streams may take to end when the sidecar does."""


class Store(Protocol):
    """A loaded configuration store."""

    @property
    def component(self) -> ConfigurationStore: ...


class Policy(Protocol):
    """What surrounds the delivery of a change to the application."""

    async def __call__(self, operation: Callable[[], Awaitable[T]]) -> T: ...


class _Subscription:
    """One subscription: the changes that wait for the application, and its end. The `Watcher` of its store."""

    def __init__(self, store: str) -> None:
        self.id = str(uuid.uuid4())
        self.store = store
        self.watch: Watch | None = None
        self._waiting: dict[str, Item] = {}
        self._over = False
        self._stirred = asyncio.Event()

    def changed(self, items: Mapping[str, Item]) -> None:
        self._waiting.update(items)
        self._stirred.set()

    def lost(self) -> None:
        self._over = True
        self._stirred.set()

    async def next(self) -> dict[str, Item] | None:
        """Return what changed since the last call, at least one item; None at the end."""
        while not self._waiting and not self._over:
            self._stirred.clear()
            await self._stirred.wait()
        if self._over:
            return None
        items, self._waiting = self._waiting, {}
        return items

    def __repr__(self) -> str:
        return f"<subscription {self.id} to {self.store}, {len(self._waiting)} items wait>"


class ConfigurationBlock:
    """The handlers. `stores` is the live registry, `inbound` the policies of their changes, by name of the store."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        app: Callable[[], AppChannel | None],
        inbound: Mapping[str, Policy] | None = None,
        *,
        timed: Timed = untimed,
    ) -> None:
        self._stores = stores
        self._app = app
        self._timed = timed
        self._inbound = {} if inbound is None else inbound
        self._subscriptions: dict[str, _Subscription] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._tasks = Tasks("configuration subscriptions")
        self._closed = False

    def operations(self) -> list[Operation]:
        """The rows of this block; each is offered under its alpha name too."""
        found = []
        for name, tail, serve, rpc in (
            ("GetConfiguration", "", self.get, {"takes": m.GetConfigurationRequest, "unary": self.rpc_get}),
            ("SubscribeConfiguration", "/subscribe", self.subscribe, {"stream": self.rpc_subscribe}),
            (
                "UnsubscribeConfiguration", "/{id}/unsubscribe", self.unsubscribe,
                {"takes": m.UnsubscribeConfigurationRequest, "unary": self.rpc_unsubscribe},
            ),
        ):  # fmt: skip
            for group, version, suffix in (("v1", "v1.0", ""), ("v1alpha1", "v1.0-alpha1", "Alpha1")):
                route = Http(("GET",), f"{version}/configuration/{{store}}{tail}", serve)
                row = Rpc((name + suffix,), **rpc)
                found.append(Operation(name + suffix, "configuration", group, http=(route,), rpc=row))
        return found

    async def close(self, grace_s: float = LAST_WORD_S) -> None:
        """End all subscriptions, streams with status OK; what is with the application has `grace_s` seconds."""
        self._closed = True
        for subscription in list(self._subscriptions.values()):
            subscription.lost()
        if self._streams:
            await asyncio.wait(set(self._streams), timeout=LAST_WORD_S)
        await self._tasks.drain(grace_s)
        await self._tasks.close()

    # -- what both protocols share

    def _find(self, name: str) -> Store:
        store = self._stores.get(name)
        if store is None:
            raise ApiError(faults.NOT_FOUND, store=name) if self._stores else ApiError(faults.NOT_CONFIGURED)
        return store

    async def _get(self, name: str, keys: Sequence[str], metadata: Mapping[str, str]) -> dict[str, Item]:
        store = self._find(name)
        try:
            return await self._timed("get", name, store.component.get(keys, metadata))
        except ComponentError as error:
            raise ApiError(faults.GET, keys=_listed(keys), store=name, error=error) from error

    async def _subscribe(self, name: str, keys: Sequence[str], metadata: Mapping[str, str]) -> _Subscription:
        store = self._find(name)
        keys = sorted(set(keys))
        subscription = _Subscription(name)
        try:
            if self._closed:
                raise ComponentError("the sidecar is closing")
            if len(keys) > MAX_KEYS:
                raise ComponentError(f"a subscription has {MAX_KEYS} keys at most")
            if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
                raise ComponentError(f"there are {MAX_SUBSCRIPTIONS} subscriptions already")
            self._subscriptions[subscription.id] = subscription
            work = store.component.subscribe(keys, metadata, subscription)
            subscription.watch = await self._timed("subscribe", name, work)
        except ComponentError as error:
            self._subscriptions.pop(subscription.id, None)
            raise ApiError(faults.SUBSCRIBE, keys=_listed(keys), store=name, error=error) from error
        except BaseException:
            self._subscriptions.pop(subscription.id, None)
            raise
        return subscription

    async def _finish(self, subscription: _Subscription) -> None:
        """Forget a subscription and tell its store; raises `ComponentError`."""
        self._subscriptions.pop(subscription.id, None)
        subscription.lost()
        watch, subscription.watch = subscription.watch, None
        if watch is not None:
            await self._timed("unsubscribe", subscription.store, watch.close())

    # -- HTTP

    async def get(self, call: HttpCall) -> Response:
        found = await self._get(call.params[0], _keys(call), _metadata(call))
        if not found:
            return Response(204)
        return Response(200, [JSON], _document({key: _plain(found[key]) for key in sorted(found)}))

    async def subscribe(self, call: HttpCall) -> Response:
        name = call.params[0]
        self._find(name)
        app = self._app()
        if app is None:
            raise ApiError(faults.NO_APP)
        subscription = await self._subscribe(name, _keys(call), _metadata(call))
        self._tasks.start(self._post(subscription, app), f"updates from {name}")
        return Response(200, [JSON], _document({"id": subscription.id}))

    async def unsubscribe(self, call: HttpCall) -> Response:
        name, identifier = call.params
        self._find(name)
        subscription = self._subscriptions.get(identifier)
        try:
            if subscription is None or subscription.store != name:
                raise ComponentError(faults.UNKNOWN_ID)
            await self._finish(subscription)
        except ComponentError as error:
            # The one failure of the API without an error code.
            text = faults.UNSUBSCRIBE.format(id=identifier, error=error)
            return Response(500, [JSON], _document({"message": text}))
        return Response(200, [JSON], _document({"ok": True}))

    async def _post(self, subscription: _Subscription, app: AppChannel) -> None:
        """Hand changes to the application until the subscription ends."""
        try:
            while (items := await subscription.next()) is not None:
                event = _document({"id": subscription.id, "items": {key: _plain(items[key]) for key in sorted(items)}})
                for key in sorted(items):
                    await self._tell(subscription, app, key, event)
        finally:
            try:
                await self._finish(subscription)
            except ComponentError as error:
                log.warning("ending a subscription to %s: %s", subscription.store, error)

    async def _tell(self, subscription: _Subscription, app: AppChannel, key: str, event: bytes) -> None:
        """One POST for one changed key; what the application does not take is dropped, and said so in the log."""
        store = subscription.store
        policy = self._inbound.get(store)
        try:
            if policy is None:
                await tell(app, store, key, event)
            else:
                await policy(lambda: tell(app, store, key, event))
        except (Unprocessed, ComponentError) as error:
            log.error("the change of %r in configuration store %s was not taken and is dropped: %s", key, store, error)
        except Exception:
            log.exception("the change of %r in configuration store %s could not be told and is dropped", key, store)

    # -- gRPC

    async def rpc_get(self, call: RpcCall, request: m.GetConfigurationRequest) -> Message:
        found = await self._get(request.store_name, list(request.keys), dict(request.metadata))
        reply = m.GetConfigurationResponse()
        _fill(reply.items, found)
        return reply

    async def rpc_subscribe(self, call: RpcCall) -> None:
        """Serve one stream: the id first, then changes, until unsubscribed, cancelled, or the store or sidecar ends."""
        message = await call.stream.receive()
        if message is None:
            raise RpcError(Code.INTERNAL, "the request message is missing")
        try:
            request = m.SubscribeConfigurationRequest.FromString(message)
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
        subscription = await self._subscribe(request.store_name, list(request.keys), dict(request.metadata))
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await call.stream.send(m.SubscribeConfigurationResponse(id=subscription.id).SerializeToString())
            while (items := await subscription.next()) is not None:
                event = m.SubscribeConfigurationResponse(id=subscription.id)
                _fill(event.items, items)
                await call.stream.send(event.SerializeToString())
        except BaseException:
            self._abandon(subscription)
            raise
        finally:
            self._streams.discard(task)
        await self._finish(subscription)

    def _abandon(self, subscription: _Subscription) -> None:
        """End a subscription apart from its call, which was cancelled."""
        self._subscriptions.pop(subscription.id, None)
        if not self._closed:
            self._tasks.start(self._finish(subscription), f"leave {subscription.store}")

    async def rpc_unsubscribe(self, call: RpcCall, request: m.UnsubscribeConfigurationRequest) -> Message:
        subscription = self._subscriptions.pop(request.id, None)
        if subscription is None:
            text = faults.UNSUBSCRIBE.format(id=request.id, error=faults.UNKNOWN_ID)
            return m.UnsubscribeConfigurationResponse(ok=False, message=text)
        subscription.lost()
        return m.UnsubscribeConfigurationResponse(ok=True)

    def __repr__(self) -> str:
        return f"<ConfigurationBlock: {len(self._subscriptions)} subscriptions>"


def _keys(call: HttpCall) -> list[str]:
    return [value for name, value in call.query if name == "key"] if call.query_text else []


def _metadata(call: HttpCall) -> Mapping[str, str]:
    return call.metadata() if b"metadata." in call.query_text or b"%" in call.query_text else EMPTY


def _listed(keys: Sequence[str]) -> str:
    return f"[{' '.join(keys)}]"


def _plain(item: Item) -> dict[str, object]:
    found: dict[str, object] = {"value": item.value}
    if item.version:
        found["version"] = item.version
    if item.metadata:
        found["metadata"] = dict(sorted(item.metadata.items()))
    return found


def _document(value: object) -> bytes:
    return escaped(orjson.dumps(value)) + b"\n"


def _fill(items: Any, found: Mapping[str, Item]) -> None:
    for key, item in found.items():
        row = items[key]
        row.value, row.version = item.value, item.version
        row.metadata.update(item.metadata)
