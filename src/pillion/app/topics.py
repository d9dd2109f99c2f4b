"""Topics of an HTTP application: which it wants, and how an event reaches it (spec `http-api.md` 5.2 to 5.4 and 6).

Knows: `GET /dapr/subscribe`, the POST of an event or of many, what an answer means. Never knows: brokers, dead letters,
what happens to an event that was not processed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import orjson

from pillion.app.channel import AppUnhealthy
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.rules import Rule, compile_rule
from pillion.kinds.topics import TopicSubscription, Unprocessed, Verdict, bulk_of
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request, Response, RpcError
from pillion.net.http_client import HttpError
from pillion.wire import gojson, trace
from pillion.wire.cloudevents import BULK_TYPE, CLOUDEVENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.app.channel import AppChannel
    from pillion.kinds.topics import BulkItem, Event
    from pillion.net.exchange import Headers

T = TypeVar("T")
log = logging.getLogger("pillion.app.topics")
PAUSES_S = (0.5, 0.75, 1.0)
"""Between the attempts to ask for subscriptions (spec `runtime.md` 4.3, DaprBuiltInInitializationRetries)."""
ASK_BUDGET_S = 10.0
LARGEST_ANSWER = 4 * 1024 * 1024
UNREACHABLE = (HttpError, RpcError, OSError, ComponentError, BodyIncomplete, BodyTooLarge, ValueError)
"""What a call to the application fails with when there is no answer; TimeoutError is an OSError."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS = frozenset(
    {
        "connection", "content-length", "content-type", "dapr-api-token", "expect", "host", "keep-alive",
        "proxy-connection", "pubsubname", "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that are the sidecar's or the connection's to set; a publisher's metadata cannot."""
_NO_TRACE = (b"traceparent", trace.NONE.encode())
_CLOUDEVENT = (b"content-type", CLOUDEVENT.encode())
_JSON = (b"content-type", b"application/json")
_SUCCESS = frozenset({b"", b"{}", b'{"status":"SUCCESS"}', b'{"status": "SUCCESS"}'})


class HttpTopics:
    """The application beside this sidecar, when it speaks HTTP. `pause` waits between attempts, in seconds."""

    needs_fields = False

    def __init__(
        self, channel: AppChannel, app_id: str, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._channel = channel
        self._app_id = app_id
        self._pause = pause

    async def subscriptions(self) -> list[TopicSubscription]:
        """Ask the application. Raises `ComponentError` when it cannot be reached and `ConfigError` for a bad answer."""
        headers = [_JSON, (b"dapr-app-id", self._app_id.encode())]

        async def ask() -> tuple[int, bytes]:
            response = await self._channel.request(Request("GET", b"/dapr/subscribe", list(headers)))
            return response.status, await read_all(response)

        status, body = await insist(ask, self._pause)
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


async def insist(ask: Callable[[], Awaitable[T]], pause: Callable[[float], Awaitable[None]]) -> T:
    """Run `ask` until it succeeds, a few times and within ten seconds; raises `ComponentError` with the last reason."""
    try:
        async with asyncio.timeout(ASK_BUDGET_S):
            for wait_s in PAUSES_S:
                try:
                    return await ask()
                except UNREACHABLE as error:
                    log.warning("asking the application for its subscriptions failed, trying again: %s", error)
                    await pause(wait_s)
            return await ask()
    except UNREACHABLE as error:
        reason = str(error) or type(error).__name__
        raise ComponentError(f"the application did not tell its subscriptions: {reason}") from error


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


# -- subscriptions as JSON


def read_subscriptions(body: bytes) -> list[TopicSubscription]:
    """Parse the answer to `GET /dapr/subscribe`; an empty body asks for nothing.

    Raises `ConfigError` that names the element at fault.
    """
    if not body.strip():
        return []
    try:
        items = gojson.loads(body)
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", where="GET /dapr/subscribe") from error
    if items is None:
        return []
    if not isinstance(items, list):
        raise ConfigError("the answer must be a JSON array of subscriptions", where="GET /dapr/subscribe")
    found = []
    for position, item in enumerate(items):
        where = f"GET /dapr/subscribe, element {position}"
        try:
            subscription = _subscription(_object(item))
        except ConfigError as error:
            raise ConfigError(error.what, where=where, mend=error.mend) from error
        except ValueError as error:
            raise ConfigError(str(error), where=where) from error
        if subscription.rules:
            found.append(subscription)
        else:
            log.warning("%s: %s has no route and is left out", where, subscription)
    return found


def _subscription(fields: Mapping[str, Any]) -> TopicSubscription:
    routes = _object(fields.get("routes") or {})
    rows = routes.get("rules") or []
    if not isinstance(rows, list):
        raise ValueError("routes.rules must be an array")
    rules = [compile_rule(_text(row, "match"), _text(row, "path")) for row in map(_object, rows)]
    default = _text(routes, "default") or _text(fields, "route")
    if default:
        rules.append(Rule("", default))
    bulk = _object(fields.get("bulksubscribe") or {})
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata must be an object of strings")
    return TopicSubscription(
        pubsub=_text(fields, "pubsubname"),
        topic=_text(fields, "topic"),
        rules=tuple(rules),
        metadata=metadata,
        dead_letter=_text(fields, "deadlettertopic"),
        bulk=bulk_of(
            bulk.get("enabled") is True, _number(bulk, "maxmessagescount"), _number(bulk, "maxawaitdurationms")
        ),
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a JSON object is needed")
    return {key.lower(): item for key, item in value.items()}


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value or ""


def _number(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key) or 0
    if not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number")
    return value


# -- headers and targets


@lru_cache(maxsize=1024)
def target_of(path: str) -> bytes:
    """Return a route as a request target: it starts with a slash, and what cannot stand in a target is escaped."""
    return quote("/" + path.lstrip("/"), safe="/?&=%:@!$'()*+,;~-._").encode()


@lru_cache(maxsize=1024)
def _header_name(key: str) -> bytes | None:
    low = key.lower()
    return None if low in _OURS or _TOKEN.fullmatch(low) is None else low.encode()


def header_value(text: str) -> bytes:
    """Return a header value; control characters, which would end the line, become blanks."""
    return _NOT_IN_VALUE.sub(" ", text).encode("utf-8", "surrogateescape")


def add_metadata(headers: Headers, metadata: Mapping[str, str]) -> None:
    """Add the broker's metadata as headers, without what is not a header name or not a publisher's to set."""
    for key, value in metadata.items():
        name = _header_name(key)
        if name is not None:
            headers.append((name, header_value(value)))


def with_trace(fixed: Headers, event: Event) -> Headers:
    """Return headers that continue the trace of an event."""
    headers = [*fixed, (b"traceparent", header_value(event.parent))]
    if event.state and len(event.state) <= trace.MAX_STATE:
        headers.append((b"tracestate", header_value(event.state)))
    return headers


async def read_all(response: Response) -> bytes:
    """Return the whole body of an answer; raises `BodyTooLarge` beyond 4 MiB."""
    body = response.body
    if isinstance(body, bytes):
        return body
    parts, size = [], 0
    try:
        async for part in body:
            size += len(part)
            if size > LARGEST_ANSWER:
                raise BodyTooLarge
            parts.append(part)
    finally:
        closing = getattr(body, "aclose", None)
        if closing is not None:
            await closing()
    return b"".join(parts)
