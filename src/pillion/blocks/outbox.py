"""The transactional outbox: an event is published exactly when its transaction is committed (spec `runtime.md` 7.3).

Each write of a transaction is first published to an internal topic; a marker key goes into the transaction itself. The
sidecar listens to its internal topics: an event whose marker is in the store becomes public and its marker is deleted.
Whatever is killed in between, a state without its event and an event without its state are both impossible; an event
may come twice, under the same id. Knows: markers and the order of things. Never knows: brokers, stores, clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pillion.blocks import state_faults as faults
from pillion.blocks.broker import EventTime, Identifiers, described
from pillion.blocks.subscriptions import Subscriptions
from pillion.errors import ApiError, ComponentError, EtagInvalid, EtagMismatch
from pillion.kinds.component import truthy
from pillion.kinds.resources import Route, SubscriptionResource
from pillion.kinds.state import Delete, Get, Set
from pillion.kinds.topics import Unprocessed, Verdict
from pillion.records import record
from pillion.tasks import Tasks
from pillion.wire import gojson
from pillion.wire.cloudevents import CLOUDEVENT, Stamp, payload_member

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.broker import Broker
    from pillion.kinds.state import Operation, StateStore
    from pillion.kinds.topics import Deliver, DeliverBulk, Event, TopicSubscription

log = logging.getLogger("pillion.blocks.outbox")
PROJECTION = "outbox.projection"
MARKER = "outbox-"
PAUSES_S = (1.0, 0.5, 1.5, 3.0, 3.0, 1.0)
"""Between one look for a marker and the next: a second first, then growing threefold up to 3, 10 in all."""
READY_S = 5.0
"""How long a transaction waits for the internal subscription, without which a lossy broker would keep no event."""
REMEMBERED = 10_000
"""Transactions of this process whose end is remembered until their events come."""


@record
class Settings:
    """The outbox of one store."""

    store: str
    pubsub: str
    topic: str
    through: str
    """The broker of the internal topic."""
    discard: bool

    @classmethod
    def of(cls, store: str, metadata: Mapping[str, str]) -> Settings | None:
        """Read a state store's metadata; None when it has no outbox."""
        values = {key.lower(): value for key, value in metadata.items() if key.lower().startswith("outbox")}
        pubsub, topic = values.get("outboxpublishpubsub", ""), values.get("outboxpublishtopic", "")
        if not pubsub or not topic:
            if pubsub or topic:
                log.warning("%s: an outbox needs both outboxPublishPubsub and outboxPublishTopic; it has none", store)
            return None
        discard = truthy(values.get("outboxdiscardwhenmissingstate"))
        return cls(store, pubsub, topic, values.get("outboxpubsub") or pubsub, discard)


class Store(Protocol):
    """A loaded store."""

    @property
    def component(self) -> StateStore: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...


class Outbox:
    """The outboxes of all stores of one application; both registries are live. `reconcile` follows the stores."""

    def __init__(
        self,
        app_id: str,
        namespace: str,
        stores: Mapping[str, Store],
        brokers: Mapping[str, Broker],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._app_id, self._namespace = app_id, namespace
        self._stores, self._brokers = stores, brokers
        self._pause = pause
        self._known: dict[str, tuple[Store, Settings | None]] = {}
        self._ends: dict[str, asyncio.Future[bool | None]] = {}
        """By marker: whether the transaction was committed, None when nobody can tell."""
        self._time, self._new_id = EventTime(), Identifiers()
        self._started = False
        self._tasks = Tasks(f"outbox of {app_id}")
        self._inner = Subscriptions(_Unscoped(brokers), _Receiver(self), ask=False)

    async def reconcile(self) -> None:
        """Listen to the internal topics of the stores there are now."""
        wanted = {}
        for name in list(self._stores):
            settings = self.settings(name)
            if settings is not None:
                topic = self._internal(settings)
                wanted[settings.through, topic] = SubscriptionResource(
                    name=f"outbox of {name}", pubsub=settings.through, topic=topic, rules=(Route("", topic),)
                )
        self._started = True
        await self._inner.declare(wanted.values())
        await self._inner.app_healthy()

    def changed(self) -> None:
        """A store or a broker came or went."""
        if self._started:
            self._tasks.keep(self.reconcile, "following components")

    async def close(self, grace_s: float) -> None:
        """End the subscriptions; events on their way may still become public."""
        self._started = False
        await self._tasks.close()
        await self._inner.close(grace_s)

    def settings(self, name: str) -> Settings | None:
        """Return the outbox of a store, None when it has none."""
        store = self._stores[name]
        known = self._known.get(name)
        if known is None or known[0] is not store:
            known = self._known[name] = (store, Settings.of(name, store.metadata))
        return known[1]

    def _internal(self, settings: Settings) -> str:
        return f"{self._namespace}{self._app_id}{settings.topic}outbox"

    # -- a transaction

    @asynccontextmanager
    async def around(
        self, name: str, operations: Sequence[Operation], call: HttpCall | RpcCall
    ) -> AsyncIterator[Sequence[Operation]]:
        """Publish the events of a transaction, and give what is to be committed in the body. Raises `ApiError`."""
        settings = self.settings(name)
        if settings is None:
            yield operations
            return
        markers: list[str] = []
        committed: bool | None = None
        try:
            try:
                writes = await self._publish(settings, operations, markers, call)
            except (ComponentError, TimeoutError, ValueError) as error:
                committed = False
                about = {"appID": self._app_id, "error": described(error)}
                raise ApiError(faults.OUTBOX, error=described(error), metadata=about) from error
            try:
                yield writes
                committed = True
            except ApiError as error:
                if isinstance(error.__cause__, (EtagMismatch, EtagInvalid)):
                    committed = False
                raise
        finally:
            for marker in markers:
                end = self._ends.get(marker)
                if end is not None and not end.done():
                    end.set_result(committed)

    async def _publish(
        self, settings: Settings, operations: Sequence[Operation], markers: list[str], call: HttpCall | RpcCall
    ) -> list[Operation]:
        """Publish every write to the internal topic; return the operations with their markers."""
        broker = self._broker(settings.through)
        if not self._broker(settings.pubsub).may_publish(settings.topic):
            raise ComponentError(f"topic {settings.topic} is not allowed for app id {self._app_id}")
        async with asyncio.timeout(READY_S):
            await self._inner.started()
        projected: dict[str, Set] = {}
        writes: list[Operation] = []
        for operation in operations:
            if isinstance(operation, Set) and truthy(operation.metadata.get(PROJECTION)):
                projected[operation.key] = operation
            else:
                writes.append(operation)
        sets = [operation for operation in writes if isinstance(operation, Set)]
        lost = projected.keys() - {operation.key for operation in sets}
        if lost:
            raise ComponentError(f"the projection of key {min(lost)} has no write of the same key in its transaction")
        events = []
        for operation in sets:
            marker = MARKER + self._new_id()
            markers.append(marker)
            self._remember(marker)
            events.append(self._event(settings, projected.get(operation.key, operation), operation, marker, call))
            writes.append(Set(marker, b"0"))
        topic = self._internal(settings)
        await asyncio.gather(*(broker.publish(topic, event, CLOUDEVENT, {}) for event in events))
        return writes

    def _remember(self, marker: str) -> None:
        if len(self._ends) >= REMEMBERED:
            oldest = self._ends.pop(next(iter(self._ends)))
            if not oldest.done():
                oldest.set_result(None)
        self._ends[marker] = asyncio.get_running_loop().create_future()

    def _event(self, settings: Settings, shown: Set, written: Set, marker: str, call: HttpCall | RpcCall) -> bytes:
        """Return the event of one write, as it waits in the internal topic."""
        metadata = {**written.metadata, **shown.metadata}
        content_type = shown.content_type or metadata.get("contentType") or metadata.get("datacontenttype", "")
        event = Stamp(settings.through, "", self._app_id).envelope(
            payload_member(shown.value, content_type), content_type, event_id=marker, time=self._time(),
            parent=call.traceparent, state=call.tracestate,
        )  # fmt: skip
        further = {key: text for key, text in metadata.items() if key not in ("data", "id", PROJECTION)}
        return gojson.dumps({**gojson.loads_exact(event), **further}) if further else event

    def _broker(self, name: str) -> Broker:
        broker = self._brokers.get(name)
        if broker is None:
            raise ComponentError(f"pubsub {name} is not found")
        return broker

    # -- an event of the internal topic

    async def release(self, event: Event, path: str) -> Verdict:
        """Make an event public when its transaction is committed; `path` is the internal topic.

        Raises `Unprocessed` when the event must come again.
        """
        try:
            fields: dict[str, Any] = gojson.loads_exact(event.body)
        except ValueError as error:
            raise Unprocessed(f"not an event of an outbox: {error}") from error
        marker = fields.get("id")
        if not isinstance(marker, str) or not marker.startswith(MARKER):
            log.error("a message of topic %s is no event of an outbox and is dropped", path)
            return Verdict.DROP
        candidates = self._sources(path)
        try:
            source = await self._committed(marker, candidates)
            if source is None:
                return self._orphan(marker, candidates)
            await self._make_public(fields, source)
        except (ComponentError, TimeoutError) as error:
            raise Unprocessed(f"outbox event {marker}: {described(error)}") from error
        await self._forget(marker, source)
        return Verdict.DONE

    def _sources(self, topic: str) -> list[Settings]:
        found = [self.settings(name) for name in list(self._stores)]
        return [settings for settings in found if settings is not None and self._internal(settings) == topic]

    async def _committed(self, marker: str, candidates: list[Settings]) -> Settings | None:
        """Return the outbox whose store has the marker, looking again until its transaction must have ended."""
        end = self._ends.get(marker)
        for wait_s in (0.0, *PAUSES_S):
            if end is not None and not end.done():
                await asyncio.wait([end], timeout=wait_s or sum(PAUSES_S))
            elif wait_s:
                await self._pause(wait_s)
            if end is not None and end.done() and end.result() is False:
                return None
            for settings in candidates:
                store = self._stores.get(settings.store)
                if store is not None and (await store.component.get(Get(marker, "strong"))).value is not None:
                    return settings
        return None

    def _orphan(self, marker: str, candidates: list[Settings]) -> Verdict:
        """No marker: the transaction failed, has not ended yet, or its event became public before."""
        end = self._ends.pop(marker, None)
        if end is not None and end.done() and end.result() is False:
            log.info("outbox event %s is dropped: the store refused its transaction", marker)
            return Verdict.DONE
        if candidates and all(settings.discard for settings in candidates):
            log.warning("outbox event %s is discarded: no store has its marker", marker)
            return Verdict.DONE
        raise Unprocessed(f"outbox event {marker}: no store has its marker")

    async def _make_public(self, fields: dict[str, Any], source: Settings) -> None:
        for name in [name for name in fields if name.startswith("cloudevent.")]:
            if (own := name.removeprefix("cloudevent.")) != "data":
                fields[own] = fields.pop(name)
        fields["topic"], fields["pubsubname"] = source.topic, source.pubsub
        await self._broker(source.pubsub).publish(source.topic, gojson.dumps(fields), CLOUDEVENT, {})

    async def _forget(self, marker: str, source: Settings) -> None:
        """Delete a marker. If that fails the event is public all the same: a row stays behind, nothing comes twice."""
        self._ends.pop(marker, None)
        try:
            await self._stores[source.store].component.delete(Delete(marker))
        except (ComponentError, KeyError, TimeoutError) as error:
            log.warning("the outbox marker %s stays in store %s: %s", marker, source.store, error)

    def __repr__(self) -> str:
        return f"<Outbox of {self._app_id}: {len(self._ends)} transactions remembered>"


class _Receiver:
    """The outbox in the place of an application: it takes events one by one, with all their attributes."""

    needs_fields = True

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def subscriptions(self) -> list[TopicSubscription]:
        return []

    def delivery(self, subscription: TopicSubscription) -> Deliver:
        return self._outbox.release

    def bulk_delivery(self, subscription: TopicSubscription) -> DeliverBulk:
        raise NotImplementedError("internal topics are never taken in bulk")


class _Unscoped(Mapping[str, "Broker"]):
    """The live brokers without their scopes: those are about the application's topics, not about internal ones."""

    def __init__(self, brokers: Mapping[str, Broker]) -> None:
        self._brokers = brokers
        self._made: dict[str, tuple[Broker, Broker]] = {}

    def __getitem__(self, name: str) -> Broker:
        broker = self._brokers[name]
        made = self._made.get(name)
        if made is None or made[0] is not broker:
            made = self._made[name] = (broker, replace(broker, scopes=None))
        return made[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._brokers)

    def __len__(self) -> int:
        return len(self._brokers)
