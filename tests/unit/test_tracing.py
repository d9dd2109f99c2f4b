"""Spans, their contexts, their two formats, and what becomes of them on the way out."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from pillion.net.exchange import Request, Response
from pillion.observe import export, spans
from pillion.observe.export import BATCH, QUEUE, Batches, NotTaken
from pillion.observe.metrics import Registry
from pillion.observe.tracing import Span, SpanKind, Tracer
from pillion.serve.tracing import traced_http
from pillion.wire import otlp, zipkin
from pillion.wire.messages import runtime as m
from pillion.wire.trace import split_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def _tracer(rate: float = 1.0) -> tuple[Tracer, list[Span]]:
    ended: list[Span] = []
    return Tracer("app", rate, ended.append), ended


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (SAMPLED, True),
        (f"01-{TRACE}-{PARENT}-01-more", True),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (SAMPLED.upper(), False),
        ("", False),
    ],
)
def test_contexts_that_are_usable(text: str, usable: bool) -> None:
    """Four parts in version 00, more only in later ones; identifiers that are not zero (spec `runtime.md` 6.2)."""
    assert (split_parent(text) is not None) == usable


def test_a_span_continues_a_trace_and_its_decision() -> None:
    """The parent decides about sampling, whatever the rate is here; a broken context starts a new trace."""
    tracer, ended = _tracer(0.0)
    span = tracer.start(SpanKind.SERVER, SAMPLED, "vendor=1")
    assert (span.trace_id, span.parent_id, span.tracestate, span.sampled) == (TRACE, PARENT, "vendor=1", True)
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-01"
    assert not _tracer(1.0)[0].start(SpanKind.SERVER, UNSAMPLED).sampled
    root = tracer.start(SpanKind.SERVER, "nonsense", "vendor=1")
    assert (root.parent_id, root.tracestate, root.sampled) == ("", "", False)
    tracer.end(root)
    tracer.end(span)
    assert ended == [span]


def test_the_rate_is_the_share_of_new_traces() -> None:
    tracer, _ = _tracer(0.25)
    begun = [tracer.start(SpanKind.CLIENT) for _ in range(4000)]
    assert len({span.trace_id for span in begun}) == 4000
    assert 800 < sum(span.sampled for span in begun) < 1200
    assert all(_tracer(1.0)[0].start(SpanKind.CLIENT).sampled for _ in range(100))


def _request(headers: list[tuple[bytes, bytes]], target: bytes = b"/v1.0/state/s/k") -> Request:
    return Request("GET", target, headers, peer=("127.0.0.1", 4711))


def _through(request: Request, rate: float = 1.0, status: int = 200) -> tuple[Response, list[Span]]:
    tracer, ended = _tracer(rate)

    async def serve(request: Request) -> Response:
        return Response(status)

    return asyncio.run(traced_http(serve, tracer)(request)), ended  # type: ignore[arg-type]


def test_a_request_goes_on_under_its_span() -> None:
    """Handler and client see the new span's context; the span is the child of the one that came."""
    request = _request([(b"x", b"1"), (b"traceparent", SAMPLED.encode()), (b"tracestate", b"a=b")])
    response, (span,) = _through(request)
    context = [(b"traceparent", span.traceparent.encode()), (b"tracestate", b"a=b")]
    assert request.headers == [(b"x", b"1"), *context]
    assert response.headers == context
    assert (span.parent_id, span.kind, span.name, span.error) == (PARENT, SpanKind.CLIENT, "/v1.0/state/s/k", None)
    assert dict(span.attributes) == {
        "dapr.protocol": "http",
        "dapr.api": "GET /v1.0/state/s/k",
        "http.request.method": "GET",
        "url.full": "/v1.0/state/s/k",
        "db.system": "state",
        "db.name": "s",
        "db.statement": "GET /v1.0/state/s/k",
        "db.connection_string": "state",
        "dapr.status_code": "200",
        "server.address": "127.0.0.1",
        "server.port": "4711",
    }


def test_health_probes_make_no_spans_and_errors_say_so() -> None:
    """A token never becomes an attribute; other `dapr-` headers do."""
    assert _through(_request([], b"/v1.0/healthz/outbound"))[1] == []
    secret = [(b"dapr-api-token", b"secret"), (b"dapr-caller", b"me")]
    _, (span,) = _through(_request(secret), status=404)
    assert span.error == "Code(404): Not Found"
    assert ("dapr-caller", "me") in span.attributes
    assert "secret" not in repr(span.attributes)
    assert _through(_request([(b"baggage", b"=;=")]))[0].status == 400
    response, ended = _through(_request([]), rate=0.0)
    assert ended == []
    assert response.headers[0][1].endswith(b"-00")


@pytest.mark.parametrize(
    ("verb", "target", "name", "attributes"),
    [
        ("POST", b"/v1.0/publish/bus/a/b", "/v1.0/publish/bus/a/b", {"messaging.destination.name": "a/b"}),
        ("POST", b"/v1.0/publish/bulk/bus/t", "/v1.0/publish/bulk/bus/t", {"messaging.destination.name": "t"}),
        ("GET", b"/v1.0/invoke/b.ns/method/x/y?z=1", "CallLocal/b.ns/x/y",
         {"rpc.service": "ServiceInvocation", "net.peer.name": "b.ns", "dapr.invoke_method": "x/y"}),
        ("PUT", b"/v1.0/actors/Cat/7/method/meow", "CallActor/Cat/meow", {"dapr.actor": "Cat.7"}),
        ("GET", b"/v1.0/actors/Cat/7/state/k", "/v1.0/actors/Cat/7/state/k",
         {"db.name": "actor", "dapr.actor": "Cat.7"}),
        ("GET", b"/v1.0/secrets/vault/k", "/v1.0/secrets/vault/k", {"db.system": "secrets", "db.name": "vault"}),
        ("POST", b"/v1.0/bindings/out", "/v1.0/bindings/out", {"db.system": "bindings"}),
        ("POST", b"/v1.0-alpha1/conversation/model/converse", "/v1.0-alpha1/conversation/model/converse",
         {"rpc.system": "model"}),
        ("GET", b"/v1.0/metadata", "/v1.0/metadata", {}),
        ("GET", b"/\xff\xfe", "/\\xff\\xfe", {}),
    ],
)  # fmt: skip
def test_names_and_attributes_of_http(verb: str, target: bytes, name: str, attributes: dict[str, str]) -> None:
    found, pairs = spans.http_span(verb, target)
    assert found == name
    assert attributes.items() <= dict(pairs).items()


def test_names_and_attributes_of_grpc() -> None:
    dapr = "/dapr.proto.runtime.v1.Dapr/"
    invoke = m.InvokeServiceRequest(id="b")
    invoke.message.method = "x"
    assert spans.rpc_span(dapr + "InvokeService", invoke)[0] == "CallLocal/b/x"
    for method, message, expected in (
        ("GetState", m.GetStateRequest(store_name="s"), ("db.name", "s")),
        ("ExecuteStateTransaction", m.ExecuteStateTransactionRequest(storeName="s"), ("db.name", "s")),
        ("GetActorState", m.GetActorStateRequest(actor_type="Cat", actor_id="7"), ("dapr.actor", "Cat.7")),
        ("GetSecret", m.GetSecretRequest(store_name="v"), ("db.system", "secrets")),
        ("PublishEvent", m.PublishEventRequest(topic="t"), ("messaging.destination.name", "t")),
        ("InvokeBinding", m.InvokeBindingRequest(name="out"), ("db.name", "out")),
        ("GetMetadata", m.GetMetadataRequest(), ("rpc.service", "Dapr")),
    ):
        name, pairs = spans.rpc_span(dapr + method, message)
        assert name == dapr + method
        assert expected in pairs


_TEXT = st.text(max_size=300)


@given(_TEXT, st.lists(st.tuples(st.text(min_size=1, max_size=40), _TEXT), max_size=20), st.none() | _TEXT, _TEXT)
def test_otlp_is_what_the_official_classes_read(
    name: str, attributes: list[tuple[str, str]], error: str | None, state: str
) -> None:
    """The oracle is opentelemetry-proto: nothing is lost, and nothing unknown is left over."""
    one = otlp.span(TRACE, PARENT, "", state, name, 3, 2**60, 2**60 + 5, attributes, error)
    sender = otlp.resource([("service.name", "app"), ("empty", "")])
    request = trace_service_pb2.ExportTraceServiceRequest.FromString(otlp.request(sender, "scope", [one, one]))
    (rows,) = request.resource_spans
    assert [(pair.key, pair.value.WhichOneof("value")) for pair in rows.resource.attributes] == [
        ("service.name", "string_value"), ("empty", "string_value"),
    ]  # fmt: skip
    span = rows.scope_spans[0].spans[1]
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id) == (TRACE, PARENT, b"")
    assert (span.name, span.kind, span.trace_state) == (name, 3, state)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (2**60, 2**60 + 5)
    assert [(pair.key, pair.value.string_value) for pair in span.attributes] == attributes
    assert (span.status.code, span.status.message) == ((2, error) if error is not None else (0, ""))
    again = trace_service_pb2.ExportTraceServiceRequest.FromString(request.SerializeToString())
    assert again == request


def test_what_a_receiver_refused_is_told() -> None:
    reply = trace_service_pb2.ExportTraceServiceResponse()
    reply.partial_success.rejected_spans = 3
    reply.partial_success.error_message = "too old"
    assert otlp.rejected(reply.SerializeToString()) == (3, "too old")
    assert otlp.rejected(b"") == (0, "")


def test_zipkin_spans_have_times_in_microseconds_and_errors_as_tags() -> None:
    row = zipkin.span(TRACE, PARENT, "", "n", 3, 1_000_500, 1_000_900, [("a", "b\udcff")], "bad", "app")
    (found,) = json.loads(zipkin.body([row]))
    assert (found["timestamp"], found["duration"], found["kind"]) == (1000, 1, "CLIENT")
    assert found["tags"] == {"a": "b\\udcff", "otel.status_code": "ERROR", "error": "bad"}
    assert "parentId" not in found


class _Exporter:
    """Takes what it is given, after `fails`, once `open` is set."""

    name = "test"

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)
        self.batches: list[int] = []
        self.open = asyncio.Event()
        self.closed = False

    async def send(self, spans: Sequence[Span]) -> int:
        await self.open.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.batches.append(len(spans))
        return len(spans)

    async def close(self) -> None:
        self.closed = True


def _counts(registry: Registry) -> tuple[float, float]:
    taken, dropped = (registry.number(f"trace_spans_{what}_total").child("test") for what in ("exported", "dropped"))
    return taken.value, dropped.value


def _span() -> Span:
    return Tracer("app", 1.0).start(SpanKind.CLIENT)


def test_a_receiver_that_hangs_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """`offer` never waits; the queue is bounded; every span is exported or counted as dropped."""
    monkeypatch.setattr(export, "LAST_WORD_S", 0.05)

    async def run() -> None:
        registry, exporter = Registry({}), _Exporter()
        batches = Batches(exporter, registry)
        span = _span()
        for _ in range(3 * QUEUE):
            batches.offer(span)
        assert _counts(registry) == (0, 2 * QUEUE)
        await batches.close()
        assert exporter.closed
        taken, dropped = _counts(registry)
        assert taken + dropped == 3 * QUEUE

    asyncio.run(run())


def test_batches_are_whole_and_the_rest_goes_at_the_end() -> None:
    async def run() -> None:
        registry, exporter = Registry({}), _Exporter()
        exporter.open.set()
        batches = Batches(exporter, registry)
        for _ in range(BATCH + 10):
            batches.offer(_span())
        await batches.close()
        assert exporter.batches == [BATCH, 10]
        assert _counts(registry) == (BATCH + 10, 0)

    asyncio.run(run())


def test_a_batch_is_sent_again_where_that_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAUSES_S", (0.0, 0.0))

    async def run(*fails: Exception) -> tuple[float, float]:
        registry, exporter = Registry({}), _Exporter(*fails)
        exporter.open.set()
        batches = Batches(exporter, registry, delay_s=0.0)
        batches.offer(_span())
        while _counts(registry) == (0, 0):  # noqa: ASYNC110 - the exporter tells nobody
            await asyncio.sleep(0)
        await batches.close()
        return _counts(registry)

    unavailable = NotTaken("unavailable", again=True)
    assert asyncio.run(run(unavailable, unavailable)) == (1, 0)
    assert asyncio.run(run(unavailable, unavailable, unavailable)) == (0, 1)
    assert asyncio.run(run(NotTaken("bad request", again=False))) == (0, 1)
    assert asyncio.run(run(RuntimeError("a fault of ours"))) == (0, 1)
