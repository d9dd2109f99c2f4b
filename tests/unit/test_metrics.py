"""The registry: names, labels and numbers as the exposition format has them, and the bounds on series."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pillion.errors import Code
from pillion.kinds.config import LabelRule, Metric, MetricRule
from pillion.net.exchange import Request, Response, RpcError, UnaryReply
from pillion.observe import http_meters
from pillion.observe.grpc_meters import CountedChannel, client
from pillion.observe.meters import REMEMBERED, Meters, untimed
from pillion.observe.metrics import LONGEST_VALUE, OTHER, Registry
from pillion.observe.paths import Labels, fold
from pillion.observe.rows import LATENCIES_MS, ROWS, SIZES_BYTES, Kind
from pillion.resiliency.breaker import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.net.exchange import ClientStream, Metadata


def _registry(**more: object) -> Registry:
    return Registry({"app_id": "app", "namespace": "ns"}, **more)  # type: ignore[arg-type]


def _text(registry: Registry) -> list[str]:
    return "".join(registry.text()).splitlines()


def test_every_row_is_one_metric_with_its_labels() -> None:
    """Names are unique, histograms have growing bounds, and a counter that goes with a histogram has its labels."""
    for name, row in ROWS.items():
        assert row.name == name
        assert row.exposed == (f"pillion_{name}" if name.startswith("trace_spans") else f"dapr_{name}")
        assert len(set(row.labels)) == len(row.labels)
        assert row.labels[:1] == ("app_id",) or name.startswith(("scheduler_", "placement_"))
        assert list(row.bounds) == sorted(set(row.bounds))
        assert (row.kind is Kind.HISTOGRAM) == bool(row.bounds)
        for counter in row.counters:
            assert ROWS[counter].labels == row.labels, counter
            assert ROWS[counter].kind is Kind.COUNTER
    assert (len(LATENCIES_MS), SIZES_BYTES[0], SIZES_BYTES[-1]) == (34, 1024, 4 * 1024**3)


def test_counters_keep_their_names_and_fixed_labels_are_filled_in() -> None:
    """No `_total` is appended and no `_created` written; the labels stand in the table's order."""
    registry = _registry()
    registry.number("runtime_component_loaded").child().value += 2
    registry.number("component_job_success_count").child("job_trigger_op").value += 1
    assert _text(registry) == [
        "# HELP dapr_runtime_component_loaded Components that were loaded.",
        "# TYPE dapr_runtime_component_loaded counter",
        'dapr_runtime_component_loaded{app_id="app"} 2',
        "# HELP dapr_component_job_success_count Jobs that the application carried out.",
        "# TYPE dapr_component_job_success_count counter",
        'dapr_component_job_success_count{app_id="app",namespace="ns",operation="job_trigger_op"} 1',
    ]


def test_a_histogram_is_cumulative_and_shows_the_counter_that_goes_with_it() -> None:
    """`le` is inclusive; an event without a duration counts in the counter alone."""
    registry = _registry(latencies_ms=(1, 10))
    series = registry.histogram("component_state_latencies").child("store", "get", "true")
    for value in (0.5, 1, 1.5, 100):
        series.count(value)
    series.count(0)
    labels = 'app_id="app",component="store",namespace="ns",operation="get",success="true"'
    lines = [line for line in _text(registry) if not line.startswith("#")]
    assert lines == [
        f'dapr_component_state_latencies_bucket{{{labels},le="1"}} 2',
        f'dapr_component_state_latencies_bucket{{{labels},le="10"}} 3',
        f'dapr_component_state_latencies_bucket{{{labels},le="+Inf"}} 4',
        f"dapr_component_state_latencies_sum{{{labels}}} 103",
        f"dapr_component_state_latencies_count{{{labels}}} 4",
        f"dapr_component_state_count{{{labels}}} 5",
    ]


def test_label_values_are_escaped_and_cut() -> None:
    registry = _registry()
    registry.number("error_code_total").child('a"b\\c\nd', "x" * 9999).value += 1
    line = _text(registry)[-1]
    assert 'error_code="a\\"b\\\\c\\nd"' in line
    assert f'category="{"x" * LONGEST_VALUE}"' in line


def test_a_full_family_counts_the_rest_as_other(caplog: pytest.LogCaptureFixture) -> None:
    """The bound holds whatever comes, what was there goes on, and one warning says what to do."""
    registry = _registry(most=3)
    family = registry.number("error_code_total")
    with caplog.at_level(logging.WARNING):
        for number in range(5000):
            family.child(f"E{number}", "state").value += 1
    assert len(family.series) == 4
    assert family.series["app", OTHER, OTHER].value == 4997
    family.child("E1", "state").value += 1
    assert family.series["app", "E1", "state"].value == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_rules_rewrite_label_values() -> None:
    """Every match of a pattern becomes the key it stands under; values that become alike are one series."""
    rule = MetricRule("http_server_latency", (LabelRule("path", {"/orders/{id}": "/orders/[0-9]+"}),))
    registry = _registry(rules=(rule,))
    family = registry.histogram("http_server_latency")
    for number in range(10):
        family.child("GET", f"/v1.0/invoke/a/method/orders/{number}/items", "200").observe(1)
    (labels,) = family.series
    assert labels == ("app", "GET", "/v1.0/invoke/a/method/orders/{id}/items", "200")


def test_a_bad_rule_switches_rules_off(caplog: pytest.LogCaptureFixture) -> None:
    rules = (
        MetricRule("error_code_total", (LabelRule("category", {"x": "."}),)),
        MetricRule("error_code_total", (LabelRule("category", {"y": "("}),)),
    )
    family = _registry(rules=rules).number("error_code_total")
    family.child("code", "state").value += 1
    assert ("app", "code", "state") in family.series
    assert "metric.rules are off" in caplog.text


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        ("/dapr/subscribe", "/dapr/subscribe"),
        ("/v1.0/state/store/a/b", "/v1.0/state/store"),
        ("/v1.0-alpha1/state/store/query", "/v1.0-alpha1/state/store"),
        ("/v1.0/secrets/vault/key", "/v1.0/secrets/vault"),
        ("/v1.0/actors/Cat/7/method/meow", "/v1.0/actors/Cat/{id}/method"),
        ("/v1.0/actors/Cat/7/state", "/v1.0/actors/Cat/{id}/state"),
        ("/actors/Cat/7/method/meow", "actors/Cat/{id}/method/meow"),
        ("/v1.0/workflows/dapr/7", "/v1.0/workflows/dapr/{instanceId}"),
        ("/v1.0-beta1/workflows/dapr/7/pause", "/v1.0-beta1/workflows/dapr/{instanceId}/pause"),
        ("/v1.0/workflows/dapr/order/start", "/v1.0/workflows/dapr/order/start"),
        (
            "/v1.0/workflows/dapr/7/raiseEvent/paid",
            "/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}",
        ),
        ("/v1.0/invoke/app/method/orders/7", "/v1.0/invoke/app/method/orders/7"),
        ("/v1.0/publish/bus/topic", "/v1.0/publish/bus/topic"),
        ("/", "/"),
    ],
)
def test_paths_are_folded(path: str, folded: str) -> None:
    assert fold(path) == folded


def test_patterns_match_as_they_are_and_behind_invocation() -> None:
    """The most specific pattern wins; a `/` at the end is a subtree; what matches none is folded or nothing."""
    patterns = ("/orders/{id}", "/orders/new", "/files/", "/v1.0/state/{store}/{key}")
    labels = Labels(increased=False, patterns=patterns, exclude_verbs=True)
    assert labels.path(b"/orders/7?x=1") == "/orders/{id}"
    assert labels.path(b"/orders/new") == "/orders/new"
    assert labels.path(b"/v1.0/invoke/shop/method/orders/7") == "/v1.0/invoke/{app_id}/method/orders/{id}"
    assert labels.path(b"/files/a/b") == "/files/"
    assert labels.path(b"/orders/7/items") == ""
    assert labels.path(b"/v1.0/state/s/k") == "/v1.0/state/{store}/{key}"
    assert Labels(patterns=patterns).path(b"/v1.0/secrets/s/k") == "/v1.0/secrets/s"
    assert labels.method("GET") == ""
    assert Labels().method("BREW") == "UNKNOWN"


def _serve(registry: Registry, requests: list[Request], response: Response) -> None:
    async def answer(request: Request) -> Response:
        return response

    async def run() -> None:
        metered = http_meters.server(registry, Labels())(answer)
        for request in requests:
            await metered(request)

    asyncio.run(run())


def test_a_million_urls_stay_a_few_series() -> None:
    """Memory does not follow the number of distinct URLs: neither the series nor what is remembered of targets."""
    registry = _registry(most=50)
    urls = [Request("GET", b"/v1.0/invoke/a/method/%d?q=%d" % (n, n), []) for n in range(10_000)]
    _serve(registry, urls, Response(200))
    family = registry.histogram("http_server_latency")
    assert len(family.series) == 51
    assert sum(sum(series.counts) for series in family.series.values()) == 10_000


def test_sizes_of_streams_are_known_at_their_end() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        yield b"y" * 500

    registry = _registry()
    response = Response(200, [], body())
    _serve(registry, [Request("POST", b"/v1.0/invoke/a/method/b", [], b"z" * 10)], response)
    sent = registry.histogram("http_server_response_bytes").child()
    assert sent.total == 0

    async def read() -> bytes:
        assert not isinstance(response.body, bytes)
        return b"".join([piece async for piece in response.body])

    assert len(asyncio.run(read())) == 1500
    assert sent.total == 1500
    assert registry.histogram("http_server_request_bytes").child().total == 10


def test_operations_of_components_are_timed_whatever_their_end() -> None:
    registry = _registry()
    timed = Meters.of_registry(registry, Metric()).of("state")

    async def work(*, fails: bool) -> int:
        if fails:
            raise ValueError("no")
        return 7

    async def run() -> None:
        assert await timed("get", "store", work(fails=False)) == 7
        with pytest.raises(ValueError, match="no"):
            await timed("get", "store", work(fails=True))
        assert await untimed("get", "store", work(fails=False)) == 7

    asyncio.run(run())
    family = registry.histogram("component_state_latencies")
    assert sorted(labels[-1] for labels in family.series) == ["false", "true"]
    assert Meters().of("state") is untimed


def test_only_the_current_state_of_a_breaker_is_one() -> None:
    registry = _registry()
    meter = Meters.of_registry(registry, Metric()).resiliency
    assert meter is not None
    meter.loaded("policies", "prod")
    meter.changed("outbound", "app_b", "open")
    meter.changed("outbound", "app_b", "half-open")
    states = {labels[-1]: one.value for labels, one in registry.number("resiliency_cb_state").series.items()}
    assert states == {"closed": 0, "half-open": 1, "open": 0, "unknown": 0}
    assert next(iter(registry.number("resiliency_cb_state").series))[:5] == (
        "app", "policies", "circuitbreaker", "prod", "outbound",
    )  # fmt: skip


def test_calls_under_a_policy_count_under_the_policies_of_the_moment() -> None:
    registry = _registry()
    meter = Meters.of_registry(registry, Metric()).resiliency
    assert meter is not None
    for name in ("old", "new"):
        meter.loaded(name, "prod")
        for number in range(3 * REMEMBERED):
            meter.used("timeout", "outbound", f"app_{number % (REMEMBERED + 1)}", None)
        for state in (State.CLOSED, State.OPEN, State.CLOSED):
            meter.used("circuitbreaker", "outbound", "app_b", state)
    series = registry.number("resiliency_count").series
    assert sum(one.value for one in series.values()) == 2 * (3 * REMEMBERED + 3)
    breakers = {(labels[1], labels[-1]): one.value for labels, one in series.items() if "circuitbreaker" in labels}
    assert breakers == {
        (name, state): count for name in ("old", "new") for state, count in (("closed", 2), ("open", 1))
    }


def test_unary_calls_of_other_sidecars_are_counted_and_streams_are_not() -> None:
    class Peer:
        async def unary(
            self, method: str, request: bytes, *, metadata: Metadata | None = None, timeout_s: float | None = None
        ) -> UnaryReply:
            if request == b"fail":
                raise RpcError(Code.UNAVAILABLE, "gone")
            return UnaryReply(b"four")

        def stream(
            self, method: str, *, metadata: Metadata | None = None, timeout_s: float | None = None
        ) -> ClientStream:
            raise NotImplementedError(method)

        async def close(self) -> None:
            raise ConnectionError

    counts = _registry()
    channel = CountedChannel(Peer(), client(counts))
    assert asyncio.run(channel.unary("/s/CallActor", b"ask")).message == b"four"
    with pytest.raises(RpcError):
        asyncio.run(channel.unary("/s/CallActor", b"fail"))
    with pytest.raises(NotImplementedError):
        channel.stream("/s/CallLocalStream")
    with pytest.raises(ConnectionError):
        asyncio.run(channel.close())
    text = "\n".join(_text(counts))
    for status in ("OK", "Unavailable"):
        labels = f'app_id="app",grpc_client_method="/s/CallActor",grpc_client_status="{status}"'
        assert f"dapr_grpc_io_client_completed_rpcs{{{labels}}} 1" in text
    assert 'dapr_grpc_io_client_received_bytes_per_rpc_sum{app_id="app",grpc_client_method="/s/CallActor"} 4' in text
