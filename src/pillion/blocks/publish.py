"""Publishing: one event or many, over HTTP and gRPC (spec `http-api.md` 4.3, `grpc-api.md` 2 gate P and 3).

Knows: the order of checks, which failure is whose. Never knows: which broker, or how bytes travel, or what an envelope
looks like. The payload of one JSON event is canonicalised once; nothing else of it is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.call import EMPTY
from pillion.api.operation import Http, Operation, Rpc
from pillion.blocks import pubsub_faults as faults
from pillion.blocks.broker import described
from pillion.blocks.bulk_body import bulk_failure, event_bytes, merged, read_rows
from pillion.blocks.bulk_publish import Failures, publish_all
from pillion.blocks.envelopes import Envelopes, is_raw, traced
from pillion.blocks.holding import MOST_LEAD_S, NotHeld
from pillion.clock import SystemClock
from pillion.errors import ApiError, ComponentError
from pillion.kinds.holding import HeldMessage
from pillion.kinds.message_timing import delay_entries, delay_given, due_time_of, undelayed
from pillion.kinds.pubsub import BulkEntry
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.observe.spans import topic_span
from pillion.observe.tracing import Span, SpanKind
from pillion.records import record
from pillion.wire.cloudevents import CLOUDEVENT, readable
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.broker import Broker, Meter
    from pillion.blocks.envelopes import Traced
    from pillion.blocks.holding import Holdings
    from pillion.clock import Clock
    from pillion.errors import Fault
    from pillion.observe.tracing import Tracer

EMPTY_REPLY = wellknown.Empty()


class PublishBlock:
    """The handlers. `brokers` is the live registry: components come and go while the sidecar runs."""

    def __init__(
        self,
        app_id: str,
        brokers: Mapping[str, Broker],
        *,
        clock: Clock | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        """`holdings` keeps messages that a broker cannot hold back itself; without it those are refused."""
        self._tracer = tracer
        self._holdings = holdings
        self._app_id = app_id
        self._brokers = brokers
        self._clock = clock or SystemClock()
        self._envelopes = Envelopes(app_id, self._clock)
        self._meter = meter

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        write = ("POST", "PUT")
        bulk, alpha = "v1.0/publish/bulk/{pubsub}/{topic*}", "v1.0-alpha1/publish/bulk/{pubsub}/{topic*}"
        return [
            Operation(
                "PublishEvent", "publish", http=(Http(write, "v1.0/publish/{pubsub}/{topic*}", self.publish),),
                rpc=Rpc(("PublishEvent",), m.PublishEventRequest, self.rpc_publish),
            ),
            Operation(
                "BulkPublishEvent", "publish", http=(Http(write, bulk, self.bulk),),
                rpc=Rpc(("BulkPublishEvent",), m.BulkPublishRequest, self.rpc_bulk),
            ),
            Operation(
                "BulkPublishEventAlpha1", "publish", "v1alpha1", http=(Http(write, alpha, self.bulk),),
                rpc=Rpc(("BulkPublishEventAlpha1",), m.BulkPublishRequest, self.rpc_bulk),
            ),
        ]  # fmt: skip

    # -- what both protocols share

    def _due(self, broker: Broker, metadata: Mapping[str, str]) -> float | None:
        """Return when a message is to be delivered, None when at once; raises `ApiError` for what cannot be."""
        now = self._clock.now()
        try:
            due = due_time_of(metadata, now)
            if due is not None and due - now > MOST_LEAD_S:
                raise ComponentError(f"a message may be published at most {MOST_LEAD_S / 86_400:.0f} days ahead")
        except ComponentError as error:
            raise ApiError(faults.DELAY, error=error, resource=broker.name, metadata=metadata) from error
        return due

    async def _hold(self, broker: Broker, messages: Sequence[HeldMessage], metadata: Mapping[str, str]) -> str:
        """Keep messages until they are due; return the error's text, "" when they are safe. Raises `ApiError`."""
        try:
            if self._holdings is None:
                raise NotHeld(f"pubsub {broker.name} cannot delay messages")
            await self._holdings.hold(broker, messages)
        except NotHeld as error:
            raise ApiError(faults.DELAY, error=error, resource=broker.name, metadata=metadata) from error
        except (ComponentError, TimeoutError) as error:
            return f"the message cannot be held: {described(error)}"
        return ""

    def _admit(self, broker: Broker, topic: str) -> None:
        if not broker.may_publish(topic):
            raise self._failed(faults.FORBIDDEN, broker, topic, "")

    def _failed(self, fault: Fault, broker: Broker, topic: str, error: str) -> ApiError:
        text = f"topic {topic} is not allowed for app id {self._app_id}" if fault is faults.FORBIDDEN else error
        about = {"topic": topic, "error": text}
        return ApiError(
            fault, topic=topic, pubsub=broker.name, error=error, app=self._app_id, resource=broker.name, metadata=about
        )

    async def _publish_one(
        self,
        broker: Broker,
        topic: str,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        call: HttpCall | RpcCall,
        *,
        raw: bool,
    ) -> None:
        """Publish one message, in an envelope unless it is `raw`; raises `ApiError`."""
        timed = bool(metadata) and delay_given(metadata)
        due = self._due(broker, metadata) if timed else None
        if raw:
            metadata = traced(metadata, call)
        else:
            data = self._envelopes.event(broker, topic, data, content_type, metadata, call, due)
            content_type = CLOUDEVENT
        self._admit(broker, topic)
        if timed:
            await self._publish_timed(broker, topic, data, content_type, metadata, due)
        else:
            await self._publish(broker, topic, data, content_type, metadata)

    async def _publish_timed(
        self, broker: Broker, topic: str, data: bytes, content_type: str, metadata: Mapping[str, str], due: float | None
    ) -> None:
        """Publish a message whose publisher says when; raises `ApiError`."""
        if broker.delays:
            await self._publish(broker, topic, data, content_type, metadata)
            return
        plain = undelayed(metadata)
        if due is None:
            await self._publish(broker, topic, data, content_type, plain)
            return
        started = self._clock.monotonic()
        error = await self._hold(broker, [HeldMessage(topic, data, content_type, plain, due)], metadata)
        self._count(broker, topic, not error, started)
        if error:
            raise self._failed(faults.PUBLISH, broker, topic, error)

    async def _publish(
        self, broker: Broker, topic: str, data: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        started = self._clock.monotonic() if self._meter is not None else 0.0
        try:
            await broker.publish(topic, data, content_type, metadata)
        except (ComponentError, TimeoutError) as error:
            self._count(broker, topic, False, started)
            raise self._failed(faults.PUBLISH, broker, topic, described(error)) from error
        self._count(broker, topic, True, started)

    def _count(self, broker: Broker, topic: str, success: bool, started: float) -> None:
        if self._meter is not None:
            self._meter.egress(broker.name, topic, success, (self._clock.monotonic() - started) * 1000)

    # -- HTTP

    async def publish(self, call: HttpCall) -> Response:
        name, topic = call.params
        broker = self._brokers.get(name)
        if broker is None:
            raise ApiError(faults.NOT_FOUND, pubsub=name, metadata=call.metadata())
        try:
            body = call.body()
        except (BodyTooLarge, BodyIncomplete) as error:
            raise self._failed(faults.PUBLISH, broker, topic, str(error)) from error
        topic = readable(topic)
        metadata: Mapping[str, str] = _metadata(call) if call.query_text else EMPTY
        content_type = call.header(b"content-type")
        raw = bool(metadata) and is_raw(broker, metadata)
        await self._publish_one(broker, topic, body, content_type, metadata, call, raw=raw)
        return Response(204)

    async def bulk(self, call: HttpCall) -> Response:
        name, topic = call.params[0], readable(call.params[1])
        metadata = _metadata(call)
        broker = self._brokers.get(name)
        if broker is None:
            raise ApiError(faults.NOT_FOUND, pubsub=name, metadata=metadata)
        about = {"appID": self._app_id}
        try:
            body = call.body()
        except (BodyTooLarge, BodyIncomplete) as error:
            raise self._failed(faults.PUBLISH, broker, topic, str(error)) from error
        raw = is_raw(broker, metadata)
        try:
            rows = read_rows(body)
        except ValueError as error:
            raise ApiError(
                faults.UNMARSHAL,
                topic=topic,
                pubsub=name,
                error=error,
                resource=name,
                metadata={**about, "error": str(error)},
            ) from error
        entries = []
        for entry_id, content_type, event, own in rows:
            try:
                data = event_bytes(event, content_type)
            except ValueError as error:
                raise ApiError(
                    faults.ENVELOPE, entry=entry_id, topic=topic, pubsub=name, error=error, resource=name,
                    metadata={**about, "error": str(error)},
                ) from error  # fmt: skip
            entries.append(BulkEntry(entry_id, data, content_type, merged(own, metadata)))
        self._check_ids(entries, broker, topic)
        due = self._timed_entries(broker, entries, metadata)
        spans = self._begin_entries(call, entries)
        self._enclose(entries, broker, topic, spans, due, raw=raw, are_canonical=True)
        self._admit(broker, topic)
        started = self._clock.monotonic()
        failed, _ = await self._publish_entries(broker, topic, entries, metadata, due)
        self._end_entries(spans, entries, failed, call.path.decode("latin-1"), topic)
        self._count_bulk(broker, topic, not failed, started)
        return (
            bulk_failure(self._failed(faults.PUBLISH, broker, topic, failed[0][1]), failed) if failed else Response(204)
        )

    # -- gRPC

    def _gate(self, name: str, topic: str, metadata: Mapping[str, str]) -> tuple[Broker, bool]:
        """Gate P of the specification; returns the broker and whether the payload is raw."""
        if not name:
            raise ApiError(faults.NAME_EMPTY, metadata=metadata)
        broker = self._brokers.get(name)
        if broker is None:
            raise ApiError(faults.NOT_FOUND, pubsub=name)
        if not topic:
            raise ApiError(faults.TOPIC_EMPTY, pubsub=name, resource=name, metadata=metadata)
        return broker, is_raw(broker, metadata)

    async def rpc_publish(self, call: RpcCall, request: m.PublishEventRequest) -> Message:
        metadata: Mapping[str, str] = dict(request.metadata)
        topic, data, content_type = request.topic, request.data, request.data_content_type
        broker, raw = self._gate(request.pubsub_name, topic, metadata)
        await self._publish_one(broker, topic, data, content_type, metadata, call, raw=raw)
        return EMPTY_REPLY

    async def rpc_bulk(self, call: RpcCall, request: m.BulkPublishRequest) -> Message:
        metadata = dict(request.metadata)
        topic = request.topic
        broker, raw = self._gate(request.pubsub_name, topic, metadata)
        entries = [
            BulkEntry(e.entry_id, e.event, e.content_type, merged(dict(e.metadata) or None, metadata))
            for e in request.entries
        ]
        self._check_ids(entries, broker, topic)
        due = self._timed_entries(broker, entries, metadata)
        spans = self._begin_entries(call, entries)
        self._enclose(entries, broker, topic, spans, due, raw=raw)
        self._admit(broker, topic)
        started = self._clock.monotonic()
        failed, partial = await self._publish_entries(broker, topic, entries, metadata, due)
        self._end_entries(spans, entries, failed, call.method.rpartition("/")[2], topic)
        self._count_bulk(broker, topic, not failed, started)
        if failed and not partial:
            raise self._failed(faults.PUBLISH, broker, topic, failed[0][1])
        reply = m.BulkPublishResponse()
        for entry_id, error in failed:
            reply.failedEntries.add(entry_id=entry_id, error=error)
        return reply

    # -- bulk, both protocols

    def _check_ids(self, entries: Sequence[BulkEntry], broker: Broker, topic: str) -> None:
        seen: set[str] = set()
        for entry in entries:
            if not entry.entry_id or entry.entry_id in seen:
                text = "entryId is duplicated or not present for entry"
                raise ApiError(
                    faults.ENTRY_IDS, topic=topic, pubsub=broker.name, resource=broker.name,
                    metadata={"appID": self._app_id, "error": text},
                )  # fmt: skip
            seen.add(entry.entry_id)

    def _timed_entries(
        self, broker: Broker, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> dict[str, float]:
        """Return when entries are due, by their ids; those due at once are missing. Raises `ApiError`.

        What the request says about the time holds for all entries that do not say it themselves.
        """
        shared = delay_entries(metadata)
        due = {}
        for entry in entries:
            if not (shared or (entry.metadata and delay_given(entry.metadata))):
                continue
            said = {**shared, **entry.metadata}
            when = self._due(broker, said)
            if broker.delays:
                entry.metadata = said
            else:
                entry.metadata = undelayed(entry.metadata)
            if when is not None:
                due[entry.entry_id] = when
        return due

    async def _publish_entries(
        self,
        broker: Broker,
        topic: str,
        entries: Sequence[BulkEntry],
        metadata: Mapping[str, str],
        due: Mapping[str, float],
    ) -> tuple[Failures, bool]:
        """Hold what is due later, in one go, and publish the rest; the answer is that of `publish_all`."""
        if not due or broker.delays:
            return await publish_all(broker, topic, entries, metadata)
        later = [entry for entry in entries if entry.entry_id in due]
        held = [HeldMessage(topic, one.data, one.content_type, one.metadata, due[one.entry_id]) for one in later]
        error = await self._hold(broker, held, metadata)
        now = [entry for entry in entries if entry.entry_id not in due]
        failed, partial = await publish_all(broker, topic, now, undelayed(metadata))
        if error:
            failed = [*((entry.entry_id, error) for entry in later), *failed]
        return failed, partial or 0 < len(failed) < len(entries)

    def _enclose(
        self,
        entries: Sequence[BulkEntry],
        broker: Broker,
        topic: str,
        contexts: Sequence[Traced],
        due: Mapping[str, float],
        *,
        raw: bool,
        are_canonical: bool = False,
    ) -> None:
        if raw:
            for entry, context in zip(entries, contexts, strict=True):
                entry.metadata = traced(entry.metadata, context)
            return
        usual = None
        if are_canonical and not due and self._tracer is None and entries:
            usual = self._envelopes.alike(broker, topic, contexts[0])
        for entry, context in zip(entries, contexts, strict=True):
            data = None
            if usual is not None and not entry.metadata:
                data = usual(entry.data, entry.content_type)
            if data is None:
                data = self._envelopes.event(
                    broker, topic, entry.data, entry.content_type, entry.metadata, context, due.get(entry.entry_id),
                    is_canonical=are_canonical,
                )  # fmt: skip
            entry.data, entry.content_type = data, CLOUDEVENT

    def _begin_entries(self, call: HttpCall | RpcCall, entries: Sequence[BulkEntry]) -> Sequence[Traced]:
        """Return the trace context of each entry: a span of its own where spans are made, else the request's."""
        if self._tracer is None:
            return [_Context(call.traceparent, call.tracestate)] * len(entries)
        parent, state = call.traceparent, call.tracestate
        return [self._tracer.start(SpanKind.PRODUCER, parent, state) for _ in entries]

    def _end_entries(
        self, spans: Sequence[Traced], entries: Sequence[BulkEntry], failed: Sequence[tuple[str, str]], name: str,
        topic: str,
    ) -> None:  # fmt: skip
        if self._tracer is None:
            return
        errors = dict(failed)
        for span, entry in zip(spans, entries, strict=True):
            if isinstance(span, Span) and span.sampled:
                span.name, span.attributes, span.error = name, topic_span(topic)[1], errors.get(entry.entry_id)
                self._tracer.end(span)

    def _count_bulk(self, broker: Broker, topic: str, success: bool, started: float) -> None:
        if self._meter is not None:
            self._meter.egress_bulk(broker.name, topic, success, (self._clock.monotonic() - started) * 1000)


@record
class _Context:
    """The trace context of a request, read once for all of its entries."""

    traceparent: str
    tracestate: str


def _metadata(call: HttpCall) -> dict[str, str]:
    """The request's metadata as text that any broker can store."""
    return {readable(key): readable(value) for key, value in call.metadata().items()}
