"""Topics of an HTTP application: which it wants, and how an event reaches it (spec `http-api.md` 5.2 to 5.4 and 6).

Knows: `GET /dapr/subscribe`, the POST of an event or of many, what an answer means. Never knows: brokers, dead letters,
what happens to an event that was not processed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from random import random
from typing import TYPE_CHECKING, TypeVar

import orjson

from pillion.app.channel import AppUnhealthy
from pillion.app.subscription_list import read_subscriptions
from pillion.app.topic_headers import add_metadata, header_value, read_all, target_of, with_trace
from pillion.errors import ComponentError
from pillion.kinds.topics import Unprocessed, Verdict
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, RpcError
from pillion.net.http_client import HttpError
from pillion.resiliency.builtin import BUILT_IN, BuiltIn
from pillion.wire import gojson, trace
from pillion.wire.cloudevents import BULK_TYPE, CLOUDEVENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.app.channel import AppChannel
    from pillion.kinds.topics import BulkItem, Event, TopicSubscription
    from pillion.net.exchange import Headers
    from pillion.resiliency.machine import Retry

T = TypeVar("T")
log = logging.getLogger("pillion.app.topics")
ASK = BUILT_IN[BuiltIn.INITIALIZATION]
"""How often an application is asked, unless a Resiliency says otherwise (spec `runtime.md` 4.3)."""
ASK_BUDGET_S = 10.0
"""For one answer."""
UNREACHABLE = (HttpError, RpcError, OSError, ComponentError, BodyIncomplete, BodyTooLarge, ValueError)
"""What a call to the application fails with when there is no answer; TimeoutError is an OSError."""
_NO_TRACE = (b"traceparent", trace.NONE.encode())
_CLOUDEVENT = (b"content-type", CLOUDEVENT.encode())
_JSON = (b"content-type", b"application/json")
_SUCCESS = frozenset({b"", b"{}", b'{"status":"SUCCESS"}', b'{"status": "SUCCESS"}'})


class HttpTopics:
    """The application beside this sidecar, when it speaks HTTP. `pause` waits between attempts, in seconds."""

    needs_fields = False

    def __init__(
        self,
        channel: AppChannel,
        app_id: str,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        retry: Callable[[], Retry] = lambda: ASK,
    ) -> None:
        self._retry = retry
        self._channel = channel
        self._app_id = app_id
        self._pause = pause

    async def subscriptions(self) -> list[TopicSubscription]:
        """Ask the application. Raises `ComponentError` when it cannot be reached and `ConfigError` for a bad answer."""
        headers = [_JSON, (b"dapr-app-id", self._app_id.encode())]

        async def ask() -> tuple[int, bytes]:
            response = await self._channel.request(Request("GET", b"/dapr/subscribe", list(headers)))
            return response.status, await read_all(response)

        status, body = await insist(ask, self._pause, self._retry())
        if status == 404:
            return []
        if status != 200:
            log.error("the application answered GET /dapr/subscribe with status %d: no subscriptions are read", status)
            return []
        return read_subscriptions(body)

    def delivery(self, subscription: TopicSubscription) -> _Delivery:
        return _Delivery(self._channel, subscription)

    def bulk_delivery(self, subscription: TopicSubscription) -> _BulkDelivery:
        return _BulkDelivery(self._channel, subscription)

    def __repr__(self) -> str:
        return f"<HttpTopics of {self._app_id}>"


async def insist(
    ask: Callable[[], Awaitable[T]],
    pause: Callable[[float], Awaitable[None]],
    retry: Retry,
    what: str = "its subscriptions",
) -> T:
    """Run `ask` until it succeeds, as often as `retry` says; raises `ComponentError` with the last reason."""
    now = asyncio.get_running_loop().time
    retries, began = 0, now()
    while True:
        try:
            async with asyncio.timeout(ASK_BUDGET_S):
                return await ask()
        except UNREACHABLE as error:
            reason = str(error) or type(error).__name__
            wait_s = retry.wait(retries, now() - began, random)
            if wait_s is None:
                raise ComponentError(f"the application did not tell {what}: {reason}") from error
            log.warning("asking the application for %s failed, trying again: %s", what, reason)
            retries += 1
            await pause(wait_s)


class _Delivery:
    """Posts single events of one subscription; everything that does not change from event to event is made once."""

    __slots__ = ("_channel", "_fixed", "_plain")

    def __init__(self, channel: AppChannel, subscription: TopicSubscription) -> None:
        self._channel = channel
        self._fixed: Headers = [_CLOUDEVENT, (b"pubsubname", header_value(subscription.pubsub))]
        self._plain: Headers = [*self._fixed, _NO_TRACE]

    async def __call__(self, event: Event, path: str) -> Verdict:
        headers = with_trace(self._fixed, event) if event.parent else self._plain.copy()
        if event.metadata:
            add_metadata(headers, event.metadata)
        try:
            response = await self._channel.request(Request("POST", target_of(path), headers, event.body))
            body = response.body
            if not isinstance(body, bytes):
                body = await read_all(response)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        return judge(response.status, body)


def unreachable(error: Exception) -> Unprocessed:
    """Say that a call had no answer."""
    reason = str(error) or type(error).__name__
    return Unprocessed(f"the application could not be reached: {reason}", held=isinstance(error, AppUnhealthy))


def judge(status: int, body: bytes) -> Verdict:
    """Say what an application's answer to one event means; raises `Unprocessed` when it wants the event again."""
    if 200 <= status < 300:
        if body in _SUCCESS:
            return Verdict.DONE
        said = _status_of(body)
        if said in (None, "", "SUCCESS"):
            return Verdict.DONE
        if said == "DROP":
            return Verdict.DROP
        raise Unprocessed(f"the application answered {said[:64]!r}", http_status=status)
    if status == 404:
        return Verdict.DROP
    detail = body[:200].decode("utf-8", "replace")
    raise Unprocessed(
        f"the application answered with status {status}" + (f": {detail}" if detail else ""), http_status=status
    )


def _status_of(body: bytes) -> str | None:
    try:
        answer = orjson.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    said = next((value for key, value in answer.items() if key.lower() == "status"), None)
    return said if isinstance(said, str) else None


class _BulkDelivery:
    """Posts many events of one subscription in one request."""

    __slots__ = ("_channel", "_fixed", "_head", "_tail")

    def __init__(self, channel: AppChannel, subscription: TopicSubscription) -> None:
        self._channel = channel
        self._fixed: Headers = [_JSON, (b"pubsubname", header_value(subscription.pubsub)), _NO_TRACE]
        pubsub, topic = gojson.dumps(subscription.pubsub), gojson.dumps(subscription.topic)
        self._head = b'],"id":'
        self._tail = b',"metadata":{"pubsubName":%b},"pubsubname":%b,"topic":%b,"type":"%b"}' % (
            pubsub, pubsub, topic, BULK_TYPE.encode(),
        )  # fmt: skip

    async def __call__(self, items: Sequence[BulkItem], path: str, bulk_id: str) -> Mapping[str, Verdict | None]:
        entries = b",".join([bulk_entry(item) for item in items])
        body = b'{"entries":[' + entries + self._head + gojson.dumps(bulk_id) + self._tail
        try:
            response = await self._channel.request(Request("POST", target_of(path), self._fixed.copy(), body))
            answer = await read_all(response)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        return judge_bulk(response.status, answer, items)


def bulk_entry(item: BulkItem) -> bytes:
    """Return one element of `entries`: a CloudEvent as it is, or base64 of bytes without an envelope."""
    event = item.event
    if event.data is None:
        content, kind = event.body, event.content_type or CLOUDEVENT
    else:
        content, kind = b'"' + base64.b64encode(event.data) + b'"', event.content_type or "application/octet-stream"
    return b'{"entryId":%b,"event":%b,"metadata":%b,"contentType":%b}' % (
        gojson.dumps(item.entry_id),
        content,
        gojson.dumps(dict(event.metadata)) if event.metadata else b"null",
        gojson.dumps(kind),
    )


def judge_bulk(status: int, body: bytes, items: Sequence[BulkItem]) -> Mapping[str, Verdict | None]:
    """Say what an application's answer means for each entry id; None is "again". Raises `Unprocessed`."""
    if status == 404:
        return {item.entry_id: Verdict.DROP for item in items}
    if not 200 <= status < 300:
        raise Unprocessed(f"the application answered a bulk with status {status}", http_status=status)
    try:
        answer = orjson.loads(body)
        rows = answer["statuses"]
        said = {row["entryId"]: row.get("status") for row in rows}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Unprocessed("the application's answer to a bulk has no statuses", http_status=status) from None
    meaning = {"SUCCESS": Verdict.DONE, "DROP": Verdict.DROP}
    return {item.entry_id: meaning.get(_hashable(said.get(item.entry_id))) for item in items}


def _hashable(value: object) -> str:
    return value if isinstance(value, str) else ""
