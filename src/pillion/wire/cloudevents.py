"""CloudEvents 1.0 in their JSON form, byte for byte as the reference writes them (spec `http-api.md` 4.3 and 5.4).

Knows: the order of keys, what becomes `data` and what `data_base64`, the attributes a publisher may set, when an event
has expired. Never knows: brokers, clocks, where identifiers come from; they are arguments. An envelope is assembled
from fragments that are built once for a topic: the payload is canonicalised, everything around it is copied.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from pillion.wire import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOUDEVENT = "application/cloudevents+json"
EVENT_TYPE = "com.dapr.event.sent"
BULK_TYPE = "com.dapr.event.sent.bulk"
_DEFAULT_SOURCE = "Dapr"
_PREFIX = "cloudevent."
_OVERRIDES = frozenset({"id", "source", "type", "subject", "traceid", "tracestate", "traceparent"})
_SURROGATE = re.compile("[\udc80-\udcff]")
CHEAP_PARSE = 4096
"""Up to this many bytes, parsing an event (1-2 us) is cheaper than finding out whether it must be parsed."""
_TAIL = re.compile(
    rb'"datacontenttype":"[^"\\]*","id":"[^"\\]*","pubsubname":"[^"\\]*","source":"[^"\\]*","specversion":"1\.0"'
    rb'(?:,"subject":"[^"\\]*")?,"time":"[^"\\]*","topic":"[^"\\]*","traceid":"([^"\\]*)","traceparent":"[^"\\]*",'
    rb'"tracestate":"([^"\\]*)","type":"[^"\\]*"\}\Z'
)
_TAIL_SIZE = 2048


class NotAnEvent(ValueError):
    """The bytes are not a CloudEvent in JSON."""


class Payload(Enum):
    """What a content type makes of a body."""

    JSON = "json"
    BINARY = "binary"
    TEXT = "text"
    EVENT = "event"


@lru_cache(maxsize=512)
def payload_kind(content_type: str) -> Payload:
    """Sort a content type; parameters and case do not count, and `+json` is not JSON."""
    base = content_type.partition(";")[0].strip().lower()
    if base == "application/json":
        return Payload.JSON
    if base in ("application/octet-stream", "application/cloudevents+protobuf"):
        return Payload.BINARY
    return Payload.EVENT if base == CLOUDEVENT else Payload.TEXT


def readable(text: str) -> str:
    """Return `text` with U+FFFD for every byte of a request's path or query that is not UTF-8."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


@lru_cache(maxsize=512)
def _quoted(text: str) -> bytes:
    return gojson.escaped(orjson.dumps(readable(text)))


def _string(body: bytes) -> bytes:
    """A body as a JSON string; each byte that is not UTF-8 becomes U+FFFD, as in Go."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = readable(body.decode("utf-8", "surrogateescape"))
    return gojson.escaped(orjson.dumps(text))


def payload_member(body: bytes, content_type: str, *, is_canonical: bool = False) -> bytes:
    """Return the first member of an envelope: `"data":…` or `"data_base64":"…"`. `is_canonical`: JSON needs no work."""
    kind = payload_kind(content_type)
    if is_canonical and kind is Payload.JSON:
        return b'"data":' + gojson.escaped(body)
    if kind is Payload.BINARY:
        return b'"data_base64":"%b"' % base64.b64encode(body)
    if kind is Payload.JSON:
        try:
            return b'"data":' + gojson.escaped(gojson.canonical(body, exact=True))
        except gojson.TooNested:  # what cannot be sorted stays in its order
            return b'"data":' + gojson.escaped(body.strip())
        except ValueError:
            pass
    return b'"data":' + _string(body)


def overrides_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that `cloudevent.*` request metadata sets, keys in any case."""
    found: dict[str, str] = {}
    for key, value in metadata.items():
        low = key.lower()
        if low.startswith(_PREFIX) and low[11:] in _OVERRIDES and value:
            found[low[11:]] = value
    return found


def rfc3339_local(seconds: float) -> str:
    """Return whole seconds since 1970 as RFC 3339 in the machine's zone: `2026-01-02T04:04:05+01:00`."""
    text = datetime.fromtimestamp(int(seconds), UTC).astimezone().isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


class Stamp:
    """What all events of one publisher on one topic have in common."""

    __slots__ = ("_pubsub", "_source", "_to_time", "_to_trace", "_topic", "pubsub", "source", "topic")

    def __init__(self, pubsub: str, topic: str, source: str) -> None:
        self.pubsub, self.topic, self.source = pubsub, topic, source
        self._pubsub, self._topic, self._source = _quoted(pubsub), _quoted(topic), _quoted(source)
        self._to_time = b'","pubsubname":%b,"source":%b,"specversion":"1.0","time":"' % (self._pubsub, self._source)
        self._to_trace = b'","topic":%b,"traceid":' % self._topic

    def envelope(
        self,
        member: bytes,
        content_type: str,
        *,
        event_id: str,
        time: str,
        parent: str = "",
        state: str = "",
        expiration: str = "",
        overrides: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the envelope around a `payload_member`. `time` and `expiration` are RFC 3339, "" means none."""
        if overrides:
            return self._overridden(member, content_type, event_id, time, parent, state, expiration, overrides)
        to_id, behind = self.around(content_type, time=time, parent=parent, state=state, expiration=expiration)
        return b"{%b%b%b%b" % (member, to_id, event_id.encode(), behind)

    def around(
        self, content_type: str, *, time: str, parent: str = "", state: str = "", expiration: str = ""
    ) -> tuple[bytes, bytes]:
        """Return what an envelope has before its id, its member of data excepted, and behind it."""
        trace = b'"","traceparent":"","tracestate":'
        if parent:
            quoted = _quoted(parent)
            trace = b'%b,"traceparent":%b,"tracestate":' % (quoted, quoted)
        to_id = b',"datacontenttype":%b%b,"id":"' % (
            _quoted(content_type or "text/plain"),
            b',"expiration":"%b"' % expiration.encode() if expiration else b"",
        )
        behind = b'%b%b%b%b%b,"type":"com.dapr.event.sent"}' % (
            self._to_time,
            time.encode(),
            self._to_trace,
            trace,
            _quoted(state) if state else b'""',
        )
        return to_id, behind

    def _overridden(
        self, member: bytes, content_type: str, event_id: str, time: str, parent: str, state: str, expiration: str,
        overrides: Mapping[str, str],
    ) -> bytes:  # fmt: skip
        parent = overrides.get("traceparent") or overrides.get("traceid") or parent
        members: list[tuple[str, str]] = [
            ("datacontenttype", content_type or "text/plain"),
            ("expiration", expiration),
            ("id", overrides.get("id", event_id)),
            ("pubsubname", self.pubsub),
            ("source", overrides.get("source", self.source)),
            ("specversion", "1.0"),
            ("subject", overrides.get("subject", "")),
            ("time", time),
            ("topic", self.topic),
            ("traceid", parent),
            ("traceparent", parent),
            ("tracestate", overrides.get("tracestate", state)),
            ("type", overrides.get("type", EVENT_TYPE)),
        ]
        optional = ("expiration", "subject")
        parts = [b'"%b":%b' % (name.encode(), _quoted(text)) for name, text in members if text or name not in optional]
        return b"{%b,%b}" % (member, b",".join(parts))

    def adopt(self, body: bytes, *, time: str, parent: str = "", state: str = "", expiration: str = "") -> bytes:
        """Return an event that the publisher made itself, with topic and broker set and what is missing filled in.

        `id` and `datacontenttype` are the publisher's business. Raises `NotAnEvent` when it is no JSON object.
        """
        try:
            event = gojson.loads_exact(body)
        except ValueError as error:
            raise NotAnEvent(f"the body is not JSON: {error}") from error
        if not isinstance(event, dict):
            raise NotAnEvent("the body is not a JSON object")
        event["topic"] = self.topic
        event["pubsubname"] = self.pubsub
        for name, text in (("time", time), ("source", _DEFAULT_SOURCE), ("type", EVENT_TYPE), ("specversion", "1.0")):
            event.setdefault(name, text)
        if "traceid" not in event:
            event["traceid"] = event["traceparent"] = parent
        event.setdefault("tracestate", state)
        if expiration:
            event["expiration"] = expiration
        try:
            return gojson.dumps(event)
        except ValueError as error:
            raise NotAnEvent(f"the event cannot be encoded: {error}") from error


def wrap_raw(data: bytes, pubsub: str, topic: str, *, event_id: str, parent: str = "", state: str = "") -> bytes:
    """Return the event around bytes that were published without an envelope."""
    trace = b""
    if parent:
        quoted = _quoted(parent)
        trace = b',"traceid":%b,"traceparent":%b' % (quoted, quoted)
    if state:
        trace += b',"tracestate":' + _quoted(state)
    return (
        b'{"data_base64":"%b","datacontenttype":"application/octet-stream","id":"%b","pubsubname":%b,"source":"Dapr",'
        b'"specversion":"1.0","topic":%b%b,"type":"com.dapr.event.sent"}'
    ) % (base64.b64encode(data), event_id.encode(), _quoted(pubsub), _quoted(topic), trace)


def parse(data: bytes) -> dict[str, Any]:
    """Return the attributes of an event from a broker; raises `NotAnEvent`."""
    try:
        event = orjson.loads(data)
    except ValueError as error:
        raise NotAnEvent(f"not a CloudEvent: {error}") from error
    if not isinstance(event, dict):
        raise NotAnEvent(f"not a CloudEvent: a JSON {type(event).__name__} where an object is needed")
    return event


def recognise(data: bytes) -> tuple[str, str] | None:
    """Return traceid and tracestate of an event that needs no parsing, None when it must be parsed.

    That is an envelope of ours by its first and last bytes without any expiry: its payload is nobody's business here.
    """
    if not data.startswith((b'{"data":', b'{"data_base64":')) or b'"expiration"' in data:
        return None
    match = _TAIL.search(data, max(0, len(data) - _TAIL_SIZE))
    return None if match is None else (match[1].decode("utf-8", "replace"), match[2].decode("utf-8", "replace"))


def binary_event(data: bytes, metadata: Mapping[str, str], content_type: str) -> dict[str, Any] | None:
    """Return the attributes of an event in binary mode, `ce_*` beside the payload; None when there are none."""
    event: dict[str, Any] = {key[3:].lower(): text for key, text in metadata.items() if key[:3].lower() == "ce_"}
    if not event:
        return None
    event.setdefault("specversion", "1.0")
    event.setdefault("datacontenttype", content_type)
    event["data_base64"] = base64.b64encode(data).decode()
    return event


def expired(event: Mapping[str, Any], now: float) -> bool:
    """Whether `expiration` lies before `now`, seconds since 1970; what is not RFC 3339 never expires."""
    text = event.get("expiration")
    if not text or not isinstance(text, str):
        return False
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return moment.tzinfo is not None and moment.timestamp() < now
