"""Envelopes byte for byte, what becomes of payloads, and what is read of events (spec `http-api.md` 4.3 and 5.4)."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.blocks.broker import EventTime, Identifiers
from pillion.clock import FakeClock
from pillion.wire import cloudevents as ce

STAMP = ce.Stamp("ps", "t1", "app1")
TIME = "2026-01-02T03:04:05Z"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def wrapped(body: bytes, content_type: str, **more: Any) -> bytes:
    member = ce.payload_member(body, content_type)
    return STAMP.envelope(member, content_type, event_id="5f0c", time=TIME, **more)


def test_the_worked_example() -> None:
    """Spec `http-api.md` 6."""
    assert wrapped(b'{"b":1,"a":"<x>"}', "application/json", expiration="2026-01-02T03:05:05Z") == (
        rb'{"data":{"a":"\u003cx\u003e","b":1},"datacontenttype":"application/json",'
        rb'"expiration":"2026-01-02T03:05:05Z","id":"5f0c","pubsubname":"ps","source":"app1","specversion":"1.0",'
        rb'"time":"2026-01-02T03:04:05Z","topic":"t1","traceid":"","traceparent":"","tracestate":"",'
        rb'"type":"com.dapr.event.sent"}'
    )


@pytest.mark.parametrize(
    ("body", "content_type", "member"),
    [
        (b"\x00\xff", "application/octet-stream", b'"data_base64":"AP8="'),
        (b"\x01", "application/cloudevents+protobuf; a=b", b'"data_base64":"AQ=="'),
        (b"<&>", "text/plain", rb'"data":"\u003c\u0026\u003e"'),
        (b"", "", b'"data":""'),
        (b"<a/>", "application/xml", rb'"data":"\u003ca/\u003e"'),
        (b'{"a":1}', "application/vnd.x+json", rb'"data":"{\"a\":1}"'),
        (b'{"a":1}', "Application/JSON;charset=utf-8", b'"data":{"a":1}'),
        (b'{"a":1}x', "application/json", rb'"data":"{\"a\":1}x"'),
        (b"", "application/json", b'"data":""'),
        (b"null", "application/json", b'"data":null'),
        (b"9007199254740993", "application/json", b'"data":9007199254740993'),
        (b"1.0", "application/json", b'"data":1.0'),
        (b"123456789012345678901234567890", "application/json", b'"data":123456789012345678901234567890'),
        (b"1E+2", "application/json", b'"data":1E+2'),
        (b"\xff\xfea", "text/plain", '"data":"\ufffd\ufffda"'.encode()),
        ("\u2028".encode(), "text/plain", rb'"data":"\u2028"'),
    ],
)
def test_payloads(body: bytes, content_type: str, member: bytes) -> None:
    """JSON only for `application/json`, numbers as spelled; base64 for octets; everything else a string."""
    assert ce.payload_member(body, content_type) == member


def test_json_that_is_nested_too_deep_to_be_sorted_is_kept() -> None:
    body = b"[" * 300 + b"1.5" + b"]" * 300
    assert ce.payload_member(body + b"\n", "application/json") == b'"data":' + body


def test_trace_and_overrides() -> None:
    """`cloudevent.*` metadata in any case; traceparent wins for both trace fields; an absent subject stays absent."""
    event = json.loads(wrapped(b"x", "", parent=PARENT, state="a=b"))
    assert (event["traceid"], event["traceparent"], event["tracestate"]) == (PARENT, PARENT, "a=b")
    assert event["datacontenttype"] == "text/plain"
    metadata = {
        "CloudEvent.ID": "mine", "cloudevent.source": "s", "cloudevent.type": "<t>", "cloudevent.subject": "sub",
        "cloudevent.traceid": "tid", "cloudevent.tracestate": "ts", "cloudevent.unknown": "no", "other": "no",
    }  # fmt: skip
    overrides = ce.overrides_of(metadata)
    assert wrapped(b"x", "text/plain", parent=PARENT, overrides=overrides) == (
        rb'{"data":"x","datacontenttype":"text/plain","id":"mine","pubsubname":"ps","source":"s","specversion":"1.0",'
        rb'"subject":"sub","time":"2026-01-02T03:04:05Z","topic":"t1","traceid":"tid","traceparent":"tid",'
        rb'"tracestate":"ts","type":"\u003ct\u003e"}'
    )
    event = json.loads(wrapped(b"x", "", overrides={"traceid": "tid", "traceparent": "tp"}))
    assert (event["traceid"], event["traceparent"]) == ("tp", "tp")
    assert "subject" not in event


@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    topic=st.text(min_size=1),
    source=st.text(),
    state=st.text(),
)
def test_envelopes_are_sorted_json(data: Any, topic: str, source: str, state: str) -> None:
    """Whatever topic, application and data are, an envelope is one JSON object with sorted keys and exact data."""
    body = json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stamp = ce.Stamp("ps", topic, source)
    member = ce.payload_member(body, "application/json")
    event = stamp.envelope(member, "application/json", event_id="1", time=TIME, parent=PARENT, state=state)
    parsed = json.loads(event)
    assert list(parsed) == sorted(parsed)
    assert (parsed["data"], parsed["topic"], parsed["source"], parsed["tracestate"]) == (data, topic, source, state)


def test_events_of_the_publisher_are_completed() -> None:
    """Topic and pubsubname are overwritten; `id` and `datacontenttype` are not added; numbers keep their spelling."""
    body = b'{"id":"7","type":"mine","data":{"n":1.50},"topic":"other","traceparent":"kept"}'
    event = STAMP.adopt(body, time=TIME, parent=PARENT, state="s")
    assert event == (
        b'{"data":{"n":1.50},"id":"7","pubsubname":"ps","source":"Dapr","specversion":"1.0",'
        b'"time":"2026-01-02T03:04:05Z","topic":"t1","traceid":"' + PARENT.encode() + b'","traceparent":"'
        + PARENT.encode() + b'","tracestate":"s","type":"mine"}'
    )  # fmt: skip
    kept = json.loads(STAMP.adopt(b'{"traceid":"a","traceparent":"b"}', time=TIME, parent=PARENT, expiration="E"))
    assert (kept["traceid"], kept["traceparent"], kept["expiration"]) == ("a", "b", "E")
    assert "id" not in kept


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{", b'"x"', b'{"a":1}{}', b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"]
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(ce.NotAnEvent):
        STAMP.adopt(body, time=TIME)


def test_bytes_without_envelope_are_wrapped_on_arrival() -> None:
    """Spec `http-api.md` 5.4: no `time`; trace fields only where there is a trace."""
    assert ce.wrap_raw(b"hi", "ps", "t", event_id="1") == (
        b'{"data_base64":"aGk=","datacontenttype":"application/octet-stream","id":"1","pubsubname":"ps",'
        b'"source":"Dapr","specversion":"1.0","topic":"t","type":"com.dapr.event.sent"}'
    )
    traced = json.loads(ce.wrap_raw(b"", "ps", "t", event_id="1", parent=PARENT, state="a=b"))
    assert (traced["traceid"], traced["traceparent"], traced["tracestate"]) == (PARENT, PARENT, "a=b")
    assert list(traced) == sorted(traced)


def test_large_envelopes_of_ours_are_recognised_without_parsing() -> None:
    """The shortcut gives what parsing gives, and is not fooled by payloads that look like attributes."""
    plain = wrapped(b"y" * 10_000, "text/plain", parent=PARENT, state="a=b")
    assert ce.recognise(plain) == (PARENT, "a=b")
    nested = wrapped(plain, "application/json")
    assert ce.recognise(nested) == ("", "")
    assert ce.recognise(wrapped(plain, "text/plain", expiration=TIME)) is None
    foreign = orjson.dumps({"id": "1", "data": json.loads(plain)})
    assert ce.recognise(foreign) is None
    assert ce.recognise(b'{"data":' + plain + b"}") is None


def test_expiry() -> None:
    """RFC 3339 with any offset; what cannot be read never expires."""
    clock = FakeClock()
    assert not ce.expired({}, clock.now())
    assert ce.expired({"expiration": "2025-12-31T23:59:59Z"}, clock.now())
    assert not ce.expired({"expiration": "2026-01-01T00:00:00Z"}, clock.now())
    assert not ce.expired({"expiration": "2025-12-31T23:59:59-01:00"}, clock.now())
    assert ce.expired({"expiration": "2026-01-01T00:59:59.123456789+01:00"}, clock.now())
    for odd in ("soon", "", 7, None, "2020-01-01T00:00:00"):
        assert not ce.expired({"expiration": odd}, clock.now())


def test_binary_events() -> None:
    """`ce_*` metadata are attributes; without any the bytes must speak for themselves."""
    event = ce.binary_event(b"x", {"ce_ID": "1", "Ce_type": "t", "other": "o"}, "application/octet-stream")
    assert event == {
        "id": "1", "type": "t", "specversion": "1.0", "datacontenttype": "application/octet-stream",
        "data_base64": base64.b64encode(b"x").decode(),
    }  # fmt: skip
    assert ce.binary_event(b"x", {"other": "o"}, "application/octet-stream") is None


def test_parse_refuses_what_is_no_object() -> None:
    for data in (b"", b"[]", b"\xff", b"1"):
        with pytest.raises(ce.NotAnEvent):
            ce.parse(data)


def test_identifiers_are_uuids_and_differ() -> None:
    """RFC 9562 version 4, across batches of randomness."""
    new_id = Identifiers()
    ids = [new_id() for _ in range(1000)]
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids)
    assert Counter(ids).most_common(1)[0][1] == 1


def test_time_is_whole_seconds_in_the_local_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Z` where the offset is nought, else the offset; rendered once a second."""
    import time

    clock = FakeClock()
    try:
        for zone, text in (("UTC", "2026-01-01T00:00:00Z"), ("Asia/Kolkata", "2026-01-01T05:30:00+05:30")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert EventTime(clock)() == text
    finally:
        monkeypatch.undo()
        time.tzset()
    moment = EventTime(clock)
    first = moment()
    clock.advance(0.9)
    assert moment() is first
    clock.advance(0.2)
    assert moment() != first
