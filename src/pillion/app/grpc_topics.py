"""Topics of a gRPC application: which it wants, and how an event reaches it (spec `grpc-api.md` 7).

Knows: ListTopicSubscriptions, OnTopicEvent, OnBulkTopicEvent, how attributes of an event become fields of a message.
Never knows: brokers, dead letters, what happens to an event that was not processed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf.message import DecodeError

from pillion.app.topics import ASK, UNREACHABLE, insist, unreachable
from pillion.errors import Code, ConfigError
from pillion.kinds.rules import Rule, compile_rule
from pillion.kinds.topics import TopicSubscription, Unprocessed, Verdict, bulk_of
from pillion.net.exchange import RpcError
from pillion.wire import gojson, trace
from pillion.wire.cloudevents import BULK_TYPE, CLOUDEVENT, Payload, payload_kind
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.app.channel import AppChannel
    from pillion.kinds.topics import BulkItem, Event
    from pillion.net.exchange import Metadata
    from pillion.resiliency.machine import Retry
    from pillion.wire.messages import wellknown

log = logging.getLogger("pillion.app.topics")
_CALLBACK = "/dapr.proto.runtime.v1.AppCallback/"
_BULK = _CALLBACK + "OnBulkTopicEvent"
_BULK_ALPHA = "/dapr.proto.runtime.v1.AppCallbackAlpha/OnBulkTopicEventAlpha1"
_OWN_FIELDS = frozenset({"id", "source", "type", "specversion", "datacontenttype", "data", "data_base64"})
_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,256}")
_OURS = frozenset(
    {
        "connection", "content-length", "content-type", "dapr-api-token", "host", "pubsubname", "te", "traceparent",
        "tracestate", "transfer-encoding", "user-agent",
    }
)  # fmt: skip
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
_BY_STATUS = {m.TopicEventResponse.SUCCESS: Verdict.DONE, m.TopicEventResponse.DROP: Verdict.DROP}


class GrpcTopics:
    """The application beside this sidecar, when it speaks gRPC. `pause` waits between attempts, in seconds."""

    needs_fields = True

    def __init__(
        self,
        channel: AppChannel,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        retry: Callable[[], Retry] = lambda: ASK,
    ) -> None:
        self._retry = retry
        self._channel = channel
        self._pause = pause

    async def subscriptions(self) -> list[TopicSubscription]:
        """Ask the application. Raises `ComponentError` when it cannot be reached and `ConfigError` for a bad answer."""

        async def ask() -> bytes:
            try:
                reply = await self._channel.unary(_CALLBACK + "ListTopicSubscriptions", b"", with_token=False)
            except RpcError as error:
                if error.code == Code.UNIMPLEMENTED:
                    return b""
                raise
            return reply.message

        try:
            answer = m.ListTopicSubscriptionsResponse.FromString(await insist(ask, self._pause, self._retry()))
        except DecodeError as error:
            raise ConfigError(
                f"not a ListTopicSubscriptionsResponse: {error}", where="ListTopicSubscriptions"
            ) from error
        found = []
        for position, item in enumerate(answer.subscriptions):
            try:
                found.append(_subscription(item))
            except ConfigError as error:
                where = f"ListTopicSubscriptions, subscription {position}"
                raise ConfigError(error.what, where=where, mend=error.mend) from error
        return found

    def delivery(self, subscription: TopicSubscription) -> _Delivery:
        return _Delivery(self._channel, subscription)

    def bulk_delivery(self, subscription: TopicSubscription) -> _BulkDelivery:
        return _BulkDelivery(self._channel, subscription)


def _subscription(item: m.TopicSubscription) -> TopicSubscription:
    rules = [compile_rule(rule.match, rule.path) for rule in item.routes.rules]
    if item.routes.default or not rules:
        rules.append(Rule("", item.routes.default))
    bulk = item.bulk_subscribe
    return TopicSubscription(
        pubsub=item.pubsub_name,
        topic=item.topic,
        rules=tuple(rules),
        metadata=dict(item.metadata),
        dead_letter=item.dead_letter_topic,
        bulk=bulk_of(bulk.enabled, bulk.max_messages_count, bulk.max_await_duration_ms),
    )


class _Delivery:
    """Calls OnTopicEvent for single events of one subscription."""

    __slots__ = ("_channel", "_subscription")

    def __init__(self, channel: AppChannel, subscription: TopicSubscription) -> None:
        self._channel = channel
        self._subscription = subscription

    async def __call__(self, event: Event, path: str) -> Verdict:
        message = topic_event(event, self._subscription.pubsub, path).SerializeToString()
        metadata = call_metadata(event, self._subscription.pubsub)
        try:
            reply = await self._channel.unary(_CALLBACK + "OnTopicEvent", message, metadata=metadata)
            status = m.TopicEventResponse.FromString(reply.message).status
        except RpcError as error:
            if error.code == Code.UNIMPLEMENTED:
                log.warning("the application has no OnTopicEvent: events of topic %s are lost", event.topic)
                return Verdict.DONE
            raise Unprocessed(str(error), grpc_code=error.code) from error
        except (*UNREACHABLE, DecodeError) as error:
            raise unreachable(error) from error
        return judge_status(status)


def judge_status(status: int) -> Verdict:
    """Say what a TopicEventResponse means; raises `Unprocessed` for RETRY and what is unknown."""
    verdict = _BY_STATUS.get(status)
    if verdict is None:
        raise Unprocessed("the application answered RETRY" if status == 1 else f"the application answered {status}")
    return verdict


class _BulkDelivery:
    """Calls OnBulkTopicEvent, or its Alpha1 name where the application has only that."""

    __slots__ = ("_channel", "_raw", "_subscription")

    def __init__(self, channel: AppChannel, subscription: TopicSubscription) -> None:
        self._channel = channel
        self._subscription = subscription
        self._raw = subscription.raw

    async def __call__(self, items: Sequence[BulkItem], path: str, bulk_id: str) -> Mapping[str, Verdict | None]:
        pubsub, topic = self._subscription.pubsub, self._subscription.topic
        request = m.TopicEventBulkRequest(
            id=bulk_id, topic=topic, pubsub_name=pubsub, type=BULK_TYPE, path=path, metadata={"pubsubName": pubsub}
        )
        for item in items:
            try:
                request.entries.append(self._entry(item))
            except Unprocessed as error:  # one broken event does not hold up the others
                log.error("an event of topic %s is left out of its bulk: %s", topic, error)
        message = request.SerializeToString()
        for method in (_BULK, _BULK_ALPHA):
            try:
                reply = await self._channel.unary(method, message, metadata=[("pubsubname", _printable(pubsub))])
                answer = m.TopicEventBulkResponse.FromString(reply.message)
            except RpcError as error:
                if error.code == Code.UNIMPLEMENTED:
                    continue
                raise Unprocessed(str(error), grpc_code=error.code) from error
            except (*UNREACHABLE, DecodeError) as error:
                raise unreachable(error) from error
            said = {row.entry_id: row.status for row in answer.statuses}
            return {item.entry_id: _BY_STATUS.get(said.get(item.entry_id, -1)) for item in items}
        log.warning("the application has no OnBulkTopicEvent: %d events of topic %s are lost", len(items), topic)
        return {item.entry_id: Verdict.DONE for item in items}

    def _entry(self, item: BulkItem) -> m.TopicEventBulkRequestEntry:
        event = item.event
        entry = m.TopicEventBulkRequestEntry(entry_id=item.entry_id, metadata=dict(event.metadata))
        if self._raw:
            entry.bytes = event.data or b""
            entry.content_type = event.content_type or "application/octet-stream"
        else:
            fill_event(entry.cloud_event, event)
            entry.content_type = event.content_type or CLOUDEVENT
        return entry


# -- events as messages


def topic_event(event: Event, pubsub: str, path: str) -> m.TopicEventRequest:
    """Return the message of OnTopicEvent and of a streaming subscription."""
    request = m.TopicEventRequest(topic=event.topic, pubsub_name=pubsub, path=path)
    fill_event(request, event)
    return request


def fill_event(message: m.TopicEventRequest | m.TopicEventCERequest, event: Event) -> None:
    """Set what both forms of an event have in common: attributes, payload, and all else as extensions. Raises
    `Unprocessed`.
    """
    try:
        _fill_event(message, event)
    except (gojson.TooNested, RecursionError) as error:
        raise Unprocessed("the event is nested deeper than it can be written") from error


def _fill_event(message: m.TopicEventRequest | m.TopicEventCERequest, event: Event) -> None:
    fields = event.fields
    assert fields is not None
    message.id = _attribute(fields, "id")
    message.source = _attribute(fields, "source")
    message.type = _attribute(fields, "type")
    message.spec_version = _attribute(fields, "specversion")
    message.data_content_type = content_type = _attribute(fields, "datacontenttype")
    message.data = event.data if event.data is not None else payload(event, content_type)
    extensions = message.extensions
    for name, value in fields.items():
        if name not in _OWN_FIELDS:
            _fill(extensions.fields[name], value)


def _attribute(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        return value
    return "" if value is None else gojson.dumps(value).decode()


def payload(event: Event, content_type: str) -> bytes:
    """Return the bytes of an event's data: base64 decoded, text as it is, JSON encoded with its numbers as spelled.

    The reference leaves `data` empty for content types that are neither text nor JSON; here a string is its bytes.
    """
    fields = event.fields
    assert fields is not None
    encoded = fields.get("data_base64")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise Unprocessed(f"data_base64 of the event is not base64: {error}") from error
    if "data" not in fields:
        return b""
    data = fields["data"]
    if isinstance(data, str) and payload_kind(content_type) not in (Payload.JSON, Payload.EVENT):
        return data.encode("utf-8", "replace")
    if isinstance(data, (dict, list, float, int)):
        return gojson.dumps(gojson.loads_exact(event.body)["data"])
    return gojson.escaped(orjson.dumps(data))


def _fill(target: wellknown.Value, value: Any) -> None:
    """Set a google.protobuf.Value from parsed JSON."""
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, (int, float)):
        target.number_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        for item in value:
            _fill(target.list_value.values.add(), item)
    else:
        target.struct_value.SetInParent()
        for name, item in value.items():
            _fill(target.struct_value.fields[name], item)


def call_metadata(event: Event, pubsub: str) -> Metadata:
    """Return the metadata of a call: the trace, and the broker's without what a publisher cannot set."""
    found: Metadata = [("pubsubname", _printable(pubsub))]
    for key, value in event.metadata.items():
        low = key.lower()
        if low not in _OURS and _KEY.fullmatch(low) is not None and not low.endswith("-bin"):
            found.append((low, _printable(value)))
    if event.parent:
        found.append(("traceparent", event.parent))
        found.append(("grpc-trace-bin", trace.to_binary(event.parent)))
        if event.state and len(event.state) <= trace.MAX_STATE:
            found.append(("tracestate", _printable(event.state)))
    return found


def _printable(text: str) -> str:
    return _NOT_PRINTABLE.sub("?", text)
