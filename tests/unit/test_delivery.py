"""What becomes of a message before and after the application has seen it (spec `http-api.md` 5.4)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.app import topic_headers, topics
from pillion.app.grpc_topics import call_metadata, judge_status, topic_event
from pillion.app.subscription_list import read_subscriptions
from pillion.blocks.broker import Identifiers
from pillion.blocks.delivery import Fate, Plan, decide
from pillion.blocks.subscriptions import declared, merge
from pillion.clock import FakeClock
from pillion.errors import ConfigError
from pillion.kinds.pubsub import Delivery
from pillion.kinds.resources import BulkOptions, Route, SubscriptionResource
from pillion.kinds.rules import compile_rule
from pillion.kinds.topics import Bulk, BulkItem, Event, Origin, TopicSubscription, Unprocessed, Verdict
from pillion.wire.cloudevents import Stamp, payload_member
from pillion.wire.trace import NONE

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NEW_ID = Identifiers()
NOW = FakeClock().now()


def plan(*rules: tuple[str, str], needs_fields: bool = False, prefix: str = "", **more: Any) -> Plan:
    compiled = tuple(compile_rule(match, path) for match, path in rules or [("", "/all")])
    return Plan(TopicSubscription("ps", "t", compiled, **more), prefix=prefix, needs_fields=needs_fields)


def message(data: bytes, content_type: str = "", **metadata: str) -> Delivery:
    return Delivery("t", data, metadata, content_type)


def fate(how: Plan, delivery: Delivery) -> tuple[Fate, str]:
    found, _, what = decide(how, delivery, NOW, NEW_ID)
    return found, what


def test_one_route_takes_every_event_as_it_is() -> None:
    found, event, path = decide(plan(), message(b' {"a": 1}'), NOW, NEW_ID)
    assert (found, path) == (Fate.DELIVER, "/all")
    assert event is not None
    assert event.body == b' {"a": 1}'


def test_rules_choose() -> None:
    chain = plan(('event.type == "a"', "/a"), ('event.type == "b"', "/b"))
    assert fate(chain, message(b'{"type":"b"}')) == (Fate.DELIVER, "/b")
    assert fate(chain, message(b'{"type":"c"}'))[0] is Fate.UNWANTED
    assert fate(chain, message(b'{"id":"1"}'))[0] is Fate.BROKEN


@pytest.mark.parametrize("data", [b"", b"hello", b"[1]", b'{"a":'])
def test_what_is_no_event_is_broken(data: bytes) -> None:
    assert fate(plan(), message(data))[0] is Fate.BROKEN


@given(
    data=st.binary()
    | st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**64 - 1) | st.none()).map(orjson.dumps),
    metadata=st.dictionaries(st.sampled_from(["ce_type", "traceparent", "tracestate", "content-type", "x"]), st.text()),
    content_type=st.sampled_from(["", "application/octet-stream", "application/cloudevents+json"]),
    raw=st.booleans(),
    match=st.sampled_from(["", 'event.type == "a"', "event.n > 1"]),
)
def test_no_message_breaks_the_decision(
    data: bytes, metadata: dict[str, str], content_type: str, raw: bool, match: str
) -> None:
    """Whatever a broker hands over has one of the three fates."""
    how = plan((match, "/p"), metadata={"rawPayload": str(raw).lower()}, needs_fields=raw)
    found, event, _ = decide(how, Delivery("t", data, metadata, content_type), NOW, NEW_ID)
    assert found is Fate.BROKEN or event is not None


def test_expired_events_are_dropped_whatever_their_size() -> None:
    """Also where the shortcut for large envelopes could overlook the attribute."""
    for size in (1, 10_000):
        member = payload_member(b"y" * size, "text/plain")
        made = Stamp("ps", "t", "a").envelope(
            member, "text/plain", event_id="1", time="", expiration="2025-12-31T00:00:00Z"
        )
        assert fate(plan(), message(made))[0] is Fate.EXPIRED
        fresh = made.replace(b"2025-12", b"2026-12")
        assert fate(plan(), message(fresh))[0] is Fate.DELIVER


def test_raw_messages_are_wrapped() -> None:
    """Rules see the wrapped event; the trace comes from the broker's metadata; the topic loses the broker's prefix."""
    how = plan(('event.topic == "t"', "/raw"), metadata={"rawPayload": "true"}, prefix="ns")
    delivery = Delivery("nst", b"\x00", {"traceparent": PARENT, "tracestate": "a=b"})
    found, event, path = decide(how, delivery, NOW, NEW_ID)
    assert (found, path) == (Fate.DELIVER, "/raw")
    assert event is not None
    assert event.data == b"\x00"
    assert (event.parent, event.state) == (PARENT, "a=b")
    assert json.loads(event.body)["data_base64"] == "AA=="
    with pytest.raises(ValueError, match="not a boolean"):
        plan(metadata={"rawPayload": "perhaps"})


def test_binary_events_are_matched_by_their_metadata() -> None:
    how = plan(('event.type == "x"', "/x"))
    found, event, path = decide(how, message(b"\x00", "application/octet-stream", ce_type="x"), NOW, NEW_ID)
    assert (found, path) == (Fate.DELIVER, "/x")
    assert event is not None
    assert event.body == b"\x00"
    assert fate(how, message(b"\x00", "application/octet-stream"))[0] is Fate.BROKEN


def test_the_trace_of_an_event_is_continued_when_it_is_one() -> None:
    for traceid, expected in ((PARENT, PARENT), ("0af7651916cd43dd8448eb211c80319c", ""), ("", ""), (7, "")):
        body = json.dumps({"traceid": traceid, "tracestate": "a=b"}).encode()
        _, event, _ = decide(plan(), message(body), NOW, NEW_ID)
        assert event is not None
        assert (event.parent, event.state) == (expected, "a=b" if expected else "")


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b"", Verdict.DONE),
        (204, b"", Verdict.DONE),
        (299, b"{}", Verdict.DONE),
        (200, b'{"status":"SUCCESS"}', Verdict.DONE),
        (200, b'{ "Status" : "SUCCESS" }', Verdict.DONE),
        (200, b'{"status":""}', Verdict.DONE),
        (200, b"OK", Verdict.DONE),
        (200, b'["RETRY"]', Verdict.DONE),
        (200, b'{"status":5}', Verdict.DONE),
        (200, b'{"status":"RETRY"}', None),
        (200, b'{"status":"success"}', None),
        (200, b'{"status":"drop"}', None),
        (200, b'{"status":"DROP"}', Verdict.DROP),
        (404, b"", Verdict.DROP),
        (404, b'{"status":"SUCCESS"}', Verdict.DROP),
        (301, b"", None),
        (400, b"", None),
        (500, b'{"status":"SUCCESS"}', None),
        (503, b"busy", None),
    ],
)
def test_answers_of_an_http_application(status: int, body: bytes, verdict: Verdict | None) -> None:
    """The table of spec `http-api.md` 5.4; None is "again"."""
    if verdict is not None:
        assert topics.judge(status, body) is verdict
        return
    with pytest.raises(Unprocessed) as caught:
        topics.judge(status, body)
    assert caught.value.http_status == status


def items(*ids: str) -> list[BulkItem]:
    return [BulkItem(entry_id, Event(b"{}", None, {})) for entry_id in ids]


def test_answers_to_a_bulk() -> None:
    """Missing, empty and unknown statuses are "again"; unknown ids count for nothing; 404 drops all."""
    answer = {
        "statuses": [
            {"entryId": "1", "status": "SUCCESS"}, {"entryId": "2", "status": "DROP"},
            {"entryId": "3", "status": "RETRY"},
            {"entryId": "4", "status": ""}, {"entryId": "5"}, {"entryId": "9", "status": "SUCCESS"},
            {"entryId": "6", "status": ["DROP"]},
        ]
    }  # fmt: skip
    said = topics.judge_bulk(200, json.dumps(answer).encode(), items(*"1234567"))
    assert said == {"1": Verdict.DONE, "2": Verdict.DROP, "3": None, "4": None, "5": None, "6": None, "7": None}
    assert set(topics.judge_bulk(404, b"", items("1", "2")).values()) == {Verdict.DROP}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"{}"),
        (200, b'{"statuses":5}'),
        (200, b'{"statuses":[5]}'),
        (200, b"x"),
        (500, b"{}"),
        (302, b""),
    ],
)
def test_a_bulk_without_a_usable_answer_is_tried_again(status: int, body: bytes) -> None:
    with pytest.raises(Unprocessed):
        topics.judge_bulk(status, body, items("1"))


def test_answers_of_a_grpc_application() -> None:
    assert judge_status(0) is Verdict.DONE
    assert judge_status(2) is Verdict.DROP
    for status in (1, 3, -1):
        with pytest.raises(Unprocessed):
            judge_status(status)


def test_a_publisher_cannot_set_headers_of_the_connection() -> None:
    """Metadata of a message comes from anybody who may publish: no smuggling, no token, no second line."""
    headers: list[tuple[bytes, bytes]] = []
    topic_headers.add_metadata(
        headers,
        {
            "Transfer-Encoding": "chunked", "content-length": "5", "Host": "x", "dapr-api-token": "stolen",
            "bad name": "x", "": "x", "x\r\ny": "z", "ok": "a\r\nb: c", "Über": "x", "TraceParent": "x",
            "pubsubName": "x",
        },
    )  # fmt: skip
    assert headers == [(b"ok", b"a  b: c")]
    event = Event(b"{}", {}, {"grpc-timeout": "1n", "a b": "c", "x-bin": "y", "k": "é\n", ":path": "x"}, PARENT, "a=b")
    assert [name for name, _ in call_metadata(event, "ps")] == [
        "pubsubname", "k", "traceparent", "grpc-trace-bin", "tracestate",
    ]  # fmt: skip


def test_routes_become_targets() -> None:
    for path, target in (("orders", b"/orders"), ("/a/b?x=1&y=%20", b"/a/b?x=1&y=%20"), ("/a b\r\n", b"/a%20b%0D%0A")):
        assert topic_headers.target_of(path) == target
    assert NONE.count("0") == 52


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"datacontenttype": "application/json", "data": {"b": 1.50, "a": "<"}}, rb'{"a":"\u003c","b":1.50}'),
        ({"datacontenttype": "application/json", "data": "x"}, b'"x"'),
        ({"datacontenttype": "application/json", "data": None}, b"null"),
        ({"datacontenttype": "text/plain", "data": "ä"}, "ä".encode()),
        ({"datacontenttype": "application/xml", "data": "<a/>"}, b"<a/>"),
        ({"datacontenttype": "application/vnd.x+json", "data": "{}"}, b"{}"),
        ({"datacontenttype": "application/cloudevents+json", "data": True}, b"true"),
        ({"datacontenttype": "image/png", "data_base64": "AAE="}, b"\x00\x01"),
        ({"datacontenttype": "application/json"}, b""),
    ],
)
def test_data_of_a_grpc_event(fields: dict[str, Any], data: bytes) -> None:
    """Spec `grpc-api.md` 7; a string of any other content type is its bytes, where the reference leaves it empty."""
    body = json.dumps(fields).encode().replace(b"1.5", b"1.50")
    event = Event(body, json.loads(body), {}, topic="t")
    assert topic_event(event, "ps", "/p").data == data


@pytest.mark.parametrize("name", ["data", "source", "extension"])
def test_an_event_that_is_nested_too_deeply_is_not_processed(name: str) -> None:
    """Wherever in it: it is refused like any other event that cannot be handed over."""
    deep: list[Any] = []
    for _ in range(1010):
        deep = [deep]
    body = b'{"%b":%b}' % (name.encode(), b"[" * 1011 + b"]" * 1011)
    with pytest.raises(Unprocessed, match="nested deeper"):
        topic_event(Event(body, {name: deep}, {}, topic="t"), "ps", "/p")


def test_attributes_of_a_grpc_event() -> None:
    """Own fields for the known attributes; all others are extensions, of any JSON type."""
    fields = {
        "id": "1", "source": "s", "type": "t", "specversion": "1.0", "datacontenttype": "text/plain", "data": "x",
        "topic": "t", "traceid": "", "n": 1.5, "flag": True, "none": None, "list": [1, "a"], "map": {"k": {}},
    }  # fmt: skip
    found = topic_event(Event(b"", fields, {}, topic="t"), "ps", "/p")
    assert (found.id, found.source, found.type, found.spec_version) == ("1", "s", "t", "1.0")
    assert (found.data_content_type, found.topic, found.pubsub_name, found.path) == ("text/plain", "t", "ps", "/p")
    extensions = found.extensions.fields
    assert sorted(extensions) == ["flag", "list", "map", "n", "none", "topic", "traceid"]
    assert extensions["n"].number_value == 1.5
    assert extensions["flag"].bool_value is True
    assert extensions["none"].WhichOneof("kind") == "null_value"
    assert [v.WhichOneof("kind") for v in extensions["list"].list_value.values] == ["number_value", "string_value"]
    assert extensions["map"].struct_value.fields["k"].WhichOneof("kind") == "struct_value"


def test_forms_of_programmatic_subscriptions() -> None:
    """v1, v2 and mixed; keys in any case; an element without a route is left out (spec `http-api.md` 5.3)."""
    rules = [{"match": 'event.type == "x"', "path": "/x"}]
    asked: list[dict[str, Any]] = [
        {"topic": "a", "route": "/a", "deadLetterTopic": "dead", "metadata": {"rawPayload": "true"}},
        {"Topic": "b", "Routes": {"Rules": [{"Match": "", "Path": "/r"}], "Default": "/d"}},
        {"topic": "c", "routes": {"rules": rules}, "route": "/v1"},
        {"topic": "d"},
        {"topic": "e", "route": "/e", "bulkSubscribe": {"enabled": True, "maxAwaitDurationMs": 40}},
        {"topic": "f", "route": "/f", "bulkSubscribe": {"enabled": False}},
    ]
    body = json.dumps([{"PubsubName": "ps", **item} for item in asked]).encode()
    a, b, c, e, f = read_subscriptions(body)
    assert ([r.path for r in a.rules], a.dead_letter, a.raw) == (["/a"], "dead", True)
    assert [r.path for r in b.rules] == ["/r", "/d"]
    assert [(r.match, r.path) for r in c.rules] == [('event.type == "x"', "/x"), ("", "/v1")]
    assert e.bulk == Bulk(100, 0.04)
    assert f.bulk is None
    assert read_subscriptions(b"") == read_subscriptions(b"null") == read_subscriptions(b"[]") == []


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        (b"{}", "JSON array"),
        (b"[", "not JSON"),
        (b"[5]", "element 0"),
        (b'[{"topic":"t","route":"/"},{"topic":7}]', "element 1"),
        (b'[{"topic":"t","routes":{"rules":[{"match":"event.","path":"/x"}]}}]', "'event.'"),
        (b'[{"topic":"t","metadata":{"a":1}}]', "metadata"),
    ],
)
def test_a_bad_answer_is_named(body: bytes, culprit: str) -> None:
    with pytest.raises(ConfigError, match="GET /dapr/subscribe") as caught:
        read_subscriptions(body)
    assert culprit in str(caught.value)


def test_precedence() -> None:
    """Same pubsub and topic: the first resource wins, any word of the application beats it, its last word counts."""

    def resource(topic: str, path: str) -> SubscriptionResource:
        return SubscriptionResource(name=path, pubsub="ps", topic=topic, rules=(Route("", path),))

    def asked(topic: str, path: str) -> TopicSubscription:
        return TopicSubscription("ps", topic, (compile_rule("", path),))

    resources = declared([resource("a", "/r1"), resource("a", "/r2"), resource("b", "/r3")])
    found = merge(resources, [asked("b", "/p1"), asked("b", "/p2"), asked("c", "/p3")])
    assert [(s.topic, s.rules[0].path, s.origin) for s in found] == [
        ("a", "/r1", Origin.DECLARATIVE), ("b", "/p2", Origin.PROGRAMMATIC), ("c", "/p3", Origin.PROGRAMMATIC),
    ]  # fmt: skip


def test_a_resource_with_a_bad_rule_is_named() -> None:
    rules = (Route("event.", "/x"),)
    resource = SubscriptionResource(name="orders", pubsub="ps", topic="t", rules=rules, where="subs.yaml:3")
    with pytest.raises(ConfigError, match=r"subs\.yaml:3"):
        declared([resource])
    bulk = BulkOptions(enabled=True, max_messages=7, max_wait_ms=20)
    (found,) = declared([SubscriptionResource(name="o", pubsub="ps", topic="t", rules=(Route("", "/x"),), bulk=bulk)])
    assert found.bulk == Bulk(7, 0.02)
    assert declared([SubscriptionResource(name="o", pubsub="ps", topic="t")]) == []
