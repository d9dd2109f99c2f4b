"""Telemetry of real sidecars, judged by Prometheus and by receivers made from OpenTelemetry's own classes."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
from typing import TYPE_CHECKING

import grpc
import pytest

from apps import HttpApp
from pillion.net.grpc_client import Channel
from pillion.wire.messages import runtime as m
from pillion.wire.trace import NONE, to_binary
from ports import free_port
from servers import ServerMissing, program
from sidecars import SidecarProcess, component, eventually, sidecars
from telemetry_servers import OtlpHttpReceiver, OtlpReceiver, PrometheusServer

if TYPE_CHECKING:
    from pathlib import Path

    from pillion.net.exchange import Metadata
    from servers import Certificates

CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: telemetry}
spec:
  nameResolution:
    component: sqlite
    configuration: {connectionString: "FOLDER/names.db"}
"""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
RESOURCES = {
    "store.yaml": component("store", "state.in-memory"),
    "bus.yaml": component("bus", "pubsub.in-memory"),
}
KNOWN_LINT = re.compile(
    r'dapr_\S+ (counter metrics should have "_total" suffix'
    r"|metric names should not contain abbreviated units"
    r'|non-histogram and non-summary metrics should not have "_count" suffix)'
)
"""The reference's names break these rules of style; nothing else may be said of them."""


def _sidecar(folder: Path, name: str, spec: str = "", **more: object) -> tuple[SidecarProcess, int]:
    """Return a sidecar that is not started yet, and the port of its metrics."""
    config = folder / f"{name}.yaml"
    config.write_text(CONFIGURATION.replace("FOLDER", str(folder)) + spec)
    port = free_port()
    arguments = (
        "--config", str(config), "--enable-metrics=true", "--metrics-port", str(port),
        "--metrics-listen-address", "127.0.0.1", *more.pop("arguments", ()),  # type: ignore[misc]
    )  # fmt: skip
    resources = more.pop("resources", RESOURCES)
    return SidecarProcess(folder, name, resources=resources, arguments=arguments, **more), port  # type: ignore[arg-type]


def _scrape(port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
        return answer.read().decode()
    finally:
        connection.close()


def _value(text: str, series: str) -> float:
    """Return the value of one series, labels in any order; 0 when it is not there."""
    name, _, labels = series.partition("{")
    wanted = set(re.findall(r'\w+="[^"]*"', labels))
    for line in text.splitlines():
        if line.startswith(name + "{") and set(re.findall(r'\w+="[^"]*"', line)) == wanted:
            return float(line.rpartition(" ")[2])
    return 0.0


def test_metrics_of_a_busy_pair(tmp_path: Path) -> None:
    """Every meter that has work counts it, under the names and labels of spec `runtime.md` 6.1; promtool reads it."""
    spec = "  metric: {recordErrorCodes: true, http: {increasedCardinality: true}}\n"
    subscription = [{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]
    with HttpApp(subscription) as app:
        caller, caller_metrics = _sidecar(tmp_path, "caller", spec)
        callee, callee_metrics = _sidecar(
            tmp_path, "callee", spec, app_port=app.port,
            arguments=("--enable-app-health-check", "--app-health-probe-interval", "1"),
        )  # fmt: skip
        with sidecars(caller, callee):
            callee.wait("/v1.0/healthz")
            caller.post_json("/v1.0/state/store", [{"key": "k", "value": 1}])
            assert caller.request("GET", "/v1.0/state/store/k").status == 200
            assert caller.request("GET", "/v1.0/state/missing/k").status == 400
            assert caller.request("POST", "/v1.0/invoke/callee/method/hello?x=1", b"12345").status == 200
            with grpc.insecure_channel(f"127.0.0.1:{caller.grpc_port}") as channel:
                get = channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetState")
                get(m.GetStateRequest(store_name="store", key="k").SerializeToString())
                with pytest.raises(grpc.RpcError):
                    get(m.GetStateRequest(store_name="missing", key="k").SerializeToString())
            eventually(lambda: "orders" in callee.request("GET", "/v1.0/metadata").body.decode())
            assert callee.post_json("/v1.0/publish/bus/orders", {"a": 1}).status == 204
            app.wait(lambda calls: any(call.path == "/orders" for call in calls))
            ingress = (
                'dapr_component_pubsub_ingress_count{app_id="callee",component="bus",namespace="",'
                'process_status="success",topic="orders",status=""}'
            )
            eventually(lambda: _value(_scrape(callee_metrics), ingress) == 1)
            mine, theirs = _scrape(caller_metrics, "/any/path?at=all"), _scrape(callee_metrics)

        state = 'dapr_component_state_count{app_id="caller",component="store",namespace="",success="true"'
        assert _value(mine, state + ',operation="get"}') == 2
        assert _value(mine, state + ',operation="set"}') == 1
        request = 'dapr_http_server_%s_count{app_id="caller",method="GET",path="/v1.0/state/store",status="200"}'
        assert _value(mine, request % "request") == 1
        assert _value(mine, request % "response") == 1
        assert _value(mine, request.replace("_%s", "_latency")) == 1
        invoked = '{app_id="caller",method="POST",path="/v1.0/invoke/callee/method/hello",status="200"}'
        assert _value(mine, "dapr_http_server_request_count" + invoked) == 1
        code = 'dapr_error_code_total{app_id="caller",error_code="ERR_STATE_STORE_NOT_FOUND",category="state"}'
        assert _value(mine, code) == 2
        method = 'grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState"'
        rpc = 'dapr_grpc_io_server_completed_rpcs{app_id="caller",' + method
        assert _value(mine, rpc + ',grpc_server_status="OK"}') == 1
        assert _value(mine, rpc + ',grpc_server_status="InvalidArgument"}') == 1
        between = "dapr_runtime_service_invocation_"
        assert _value(mine, between + 'req_sent_total{app_id="caller",dst_app_id="callee",type="streaming"}') == 1
        answered = 'res_recv_total{app_id="caller",src_app_id="callee",status="200",type="streaming"}'
        assert _value(mine, between + answered) == 1
        assert _value(theirs, between + 'req_recv_total{app_id="callee",src_app_id="caller"}') == 1
        assert _value(theirs, between + 'res_sent_total{app_id="callee",dst_app_id="caller",status="200"}') == 1
        assert (
            _value(theirs, 'dapr_http_client_completed_count{app_id="callee",method="POST",path="/hello",status="200"}')
            == 1
        )
        egress = 'dapr_component_pubsub_egress_count{app_id="callee",component="bus",namespace="",topic="orders"'
        assert _value(theirs, egress + ',success="true"}') == 1
        assert _value(theirs, 'dapr_http_healthprobes_completed_count{app_id="callee",status="200"}') >= 1
        assert _value(theirs, 'dapr_runtime_component_loaded{app_id="callee"}') == 2
        assert "_created" not in mine + theirs
        _lint(mine)
        _lint(theirs)


def _lint(text: str) -> None:
    try:
        promtool = program("promtool", "prometheus")
    except ServerMissing:
        return
    run = subprocess.run((promtool, "check", "metrics"), input=text, capture_output=True, text=True, check=False)
    assert [line for line in run.stderr.splitlines() + run.stdout.splitlines() if not KNOWN_LINT.fullmatch(line)] == []


def test_prometheus_scrapes_it(tmp_path: Path) -> None:
    """A real Prometheus finds the target up and answers questions about its series."""
    sidecar, port = _sidecar(tmp_path, "scraped", "  metric: {http: {increasedCardinality: true}}\n")
    try:
        program("prometheus", "prometheus")
    except ServerMissing as missing:
        pytest.skip(str(missing))
    with sidecar, PrometheusServer(f"127.0.0.1:{port}") as prometheus:
        for _ in range(7):
            sidecar.request("GET", "/v1.0/state/store/k")
        question = 'dapr_http_server_request_count{path="/v1.0/state/store"}'
        eventually(lambda: [row["value"][1] for row in prometheus.query(question)] == ["7"])
        eventually(lambda: [row["value"][1] for row in prometheus.query("up")] == ["1"])
        quantile = "histogram_quantile(0.9,dapr_component_state_latencies_bucket)"
        eventually(lambda: [row["metric"]["operation"] for row in prometheus.query(quantile)] == ["get"])
        eventually(lambda: bool(prometheus.query("process_resident_memory_bytes")))


def test_metrics_can_be_off(tmp_path: Path) -> None:
    """`metric.enabled: false` leaves the process's own metrics on the port; a port that is taken stops nothing."""
    sidecar, port = _sidecar(tmp_path, "silent", "  metric: {enabled: false}\n")
    with sidecar:
        sidecar.request("GET", "/v1.0/state/store/k")
        text = _scrape(port)
        assert "process_cpu_seconds_total" in text
        assert "dapr_" not in text
        second = SidecarProcess(tmp_path, "second", arguments=("--enable-metrics=true", "--metrics-port", str(port)))
        with second:
            assert second.request("GET", "/v1.0/healthz/outbound").status == 204


def _otlp(protocol: str, address: str, rate: str = "1") -> str:
    return (
        f'  tracing: {{samplingRate: "{rate}", otel: {{protocol: {protocol}, endpointAddress: "{address}", '
        'isSecure: false, headers: ["x-key=secret"]}}\n'
    )


def test_one_trace_through_publish_and_delivery(tmp_path: Path) -> None:
    """The event carries the publisher's span, delivery continues it, and the application gets delivery's span. The
    first export is refused with UNAVAILABLE and sent again.
    """
    subscription = [{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]
    with OtlpReceiver((grpc.StatusCode.UNAVAILABLE,)) as receiver, HttpApp(subscription) as app:
        sidecar, port = _sidecar(tmp_path, "pub", _otlp("grpc", receiver.address), app_port=app.port)
        with sidecar:
            eventually(lambda: "orders" in sidecar.request("GET", "/v1.0/metadata").body.decode())
            answer = sidecar.post_json("/v1.0/publish/bus/orders", {"a": 1}, traceparent=SAMPLED, tracestate="v=1")
            rows = [{"entryId": str(n), "event": {"n": n}, "contentType": "application/json"} for n in range(2)]
            sidecar.post_json("/v1.0/publish/bulk/bus/orders", rows, traceparent=SAMPLED)
            calls = app.wait(lambda calls: len([call for call in calls if call.path == "/orders"]) == 3)
            delivered = [call for call in calls if call.path == "/orders"]
            found = receiver.wait(lambda spans: len([s for s in spans if s.name == "pubsub/orders"]) == 3)
            eventually(
                lambda: (
                    _value(_scrape(port), 'pillion_trace_spans_dropped_total{app_id="pub",exporter="otlp-grpc"}') == 0
                )
            )
        by_id = {span.span_id: span for span in found if span.trace_id == TRACE}
        assert {span.service for span in found} == {"pub"}
        assert receiver.metadata[0]["x-key"] == "secret"

        publish = by_id[answer.headers["traceparent"].split("-")[2]]
        assert (publish.parent_id, publish.name, publish.kind, publish.state) == (
            PARENT,
            "/v1.0/publish/bus/orders",
            3,
            "v=1",
        )
        assert publish.attributes["messaging.destination.name"] == "orders"
        first = delivered[0]
        assert first.json()["traceparent"] == answer.headers["traceparent"]
        delivery = by_id[first.headers["traceparent"].split("-")[2]]
        assert (delivery.name, delivery.kind, delivery.parent_id) == ("pubsub/orders", 3, publish.span_id)
        assert first.headers["tracestate"] == "v=1"

        entries = [span for span in by_id.values() if span.kind == 4]
        assert {span.name for span in entries} == {"/v1.0/publish/bulk/bus/orders"}
        bulk = next(span for span in by_id.values() if span.name == "/v1.0/publish/bulk/bus/orders" and span.kind == 3)
        assert [span.parent_id for span in entries] == [bulk.span_id] * 2
        last = {call.json()["traceparent"].split("-")[2] for call in delivered[1:]}
        assert last == {span.span_id for span in entries}


def test_one_trace_through_grpc_and_a_second_sidecar(tmp_path: Path) -> None:
    """`grpc-trace-bin` in and out; the callee's span is the server's side; a failure is an error with its message. OTLP
    goes over HTTP, after a 503.
    """
    with OtlpHttpReceiver((503,)) as receiver, HttpApp() as app:
        spec = _otlp("http", receiver.address, "0.0001")
        caller, _ = _sidecar(tmp_path, "caller", spec)
        callee, _ = _sidecar(tmp_path, "callee", spec, app_port=app.port)
        with sidecars(caller, callee), grpc.insecure_channel(f"127.0.0.1:{caller.grpc_port}") as channel:
            callee.wait("/v1.0/healthz")
            dapr = "/dapr.proto.runtime.v1.Dapr/"
            context: Metadata = [("grpc-trace-bin", to_binary(SAMPLED))]
            request = m.InvokeServiceRequest(id="callee")
            request.message.method = "hello"
            request.message.http_extension.verb = 1
            channel.unary_unary(dapr + "InvokeService")(request.SerializeToString(), metadata=context)
            get = channel.unary_unary(dapr + "GetState")
            get_request = m.GetStateRequest(store_name="store", key="k").SerializeToString()
            returned = asyncio.run(_initial_metadata(caller.grpc_port, dapr + "GetState", get_request, context))
            with pytest.raises(grpc.RpcError):
                get(m.GetStateRequest(store_name="missing", key="k").SerializeToString(), metadata=context)
            found = receiver.wait(lambda spans: len(spans) == 4)
        assert all(path == "/v1/traces" for path in receiver.paths)
        assert {span.trace_id for span in found} == {TRACE}
        client = next(span for span in found if span.service == "caller" and span.name == "CallLocal/callee/hello")
        server = next(span for span in found if span.service == "callee")
        assert (client.kind, client.parent_id) == (3, PARENT)
        assert (server.name, server.kind, server.parent_id) == ("CallLocal/callee/hello", 2, client.span_id)
        call = next(call for call in app.calls if call.path == "/hello")
        assert call.headers["traceparent"] == f"00-{TRACE}-{server.span_id}-01"
        good, bad = (span for span in found if span.name == dapr + "GetState")
        assert returned["grpc-trace-bin"] == to_binary(f"00-{TRACE}-{good.span_id}-01")
        assert (good.error, good.attributes["db.name"], good.attributes["dapr.protocol"]) == (None, "store", "grpc")
        assert bad.error == "state store missing is not found"


async def _initial_metadata(port: int, method: str, request: bytes, metadata: Metadata) -> dict[str, str | bytes]:
    """Call with our own client: grpcio keeps `grpc-trace-bin` of an answer to itself."""
    channel = Channel(f"127.0.0.1:{port}")
    try:
        reply = await channel.unary(method, request, metadata=metadata, timeout_s=60)
        return dict(reply.initial_metadata)
    finally:
        await channel.close()


def test_events_of_input_bindings_are_spans(tmp_path: Path) -> None:
    """`bindings/<name>`, with the application under it; failures are counted and told."""
    resources = {**RESOURCES, "tick.yaml": component("tick", "bindings.cron", schedule="@every 1s")}
    with OtlpReceiver() as receiver, HttpApp() as app:
        sidecar, port = _sidecar(
            tmp_path, "ticking", _otlp("grpc", receiver.address), app_port=app.port, resources=resources
        )
        with sidecar:
            calls = app.wait(lambda calls: any(call.method == "POST" and call.path == "/tick" for call in calls))
            found = receiver.wait(lambda spans: any(span.name == "bindings/tick" for span in spans))
            counted = (
                'dapr_component_input_binding_count{app_id="ticking",component="tick",namespace="",success="true"}'
            )
            eventually(lambda: _value(_scrape(port), counted) >= 1)
    span = next(span for span in found if span.name == "bindings/tick")
    call = next(call for call in calls if call.method == "POST" and call.path == "/tick")
    assert (span.kind, span.attributes["db.name"], span.parent_id) == (3, "tick", "")
    assert call.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"


def test_nothing_configured_passes_contexts_through(tmp_path: Path) -> None:
    """The reference makes no spans then, and neither do we: the context that came is answered, or zeros."""
    sidecar, _ = _sidecar(tmp_path, "plain")
    with sidecar:
        answer = sidecar.request("GET", "/v1.0/state/store/k", headers={"traceparent": SAMPLED})
        assert answer.headers["traceparent"] == SAMPLED
        assert sidecar.request("GET", "/v1.0/state/store/k").headers["traceparent"] == NONE


def test_a_rate_without_an_exporter_makes_contexts(tmp_path: Path) -> None:
    sidecar, _ = _sidecar(tmp_path, "rated", '  tracing: {samplingRate: "1"}\n')
    off, _ = _sidecar(tmp_path, "off", '  tracing: {samplingRate: "0", stdout: true}\n')
    with sidecars(sidecar, off):
        answer = sidecar.request("GET", "/v1.0/state/store/k", headers={"traceparent": SAMPLED})
        version, trace, span, flags = answer.headers["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert span != PARENT
        assert "traceparent" not in off.request("GET", "/v1.0/state/store/k").headers


def test_spans_in_the_log(tmp_path: Path) -> None:
    """`tracing.stdout`: a line each; those of the last second are written when the sidecar stops."""
    sidecar, _ = _sidecar(
        tmp_path, "told", '  tracing: {samplingRate: "1", stdout: true}\n', env={"OTEL_SERVICE_NAME": "n"}
    )
    with sidecar:
        sidecar.request("GET", "/v1.0/secrets/none/k")
        assert sidecar.stop() == 0
    (line,) = [line for line in sidecar.log().splitlines() if "span /v1.0/secrets/none/k" in line]
    assert "scope=dapr.runtime.trace" in line
    assert "db.system=secrets" in line


def test_otlp_is_secure_unless_told_otherwise(tmp_path: Path, certificates: Certificates) -> None:
    """Without `isSecure` the receiver must show a certificate that the machine trusts. OTEL variables name it."""
    with OtlpReceiver(certificates=certificates) as receiver:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{receiver.address}", "OTEL_SERVICE_NAME": "named",
            "OTEL_RESOURCE_ATTRIBUTES": "stage=test", "SSL_CERT_FILE": str(certificates.authority),
        }  # fmt: skip
        sidecar, _ = _sidecar(tmp_path, "secure", env=env)
        with sidecar:
            sidecar.request("GET", "/v1.0/state/store/k")
            (span,) = receiver.wait(lambda spans: len(spans) == 1)
    assert (span.service, span.resource["stage"], span.scope) == ("named", "test", "pillion")


def test_a_receiver_that_is_gone_is_no_burden(tmp_path: Path) -> None:
    """Requests are answered, the log says so once, and the end is not held up."""
    sidecar, _ = _sidecar(tmp_path, "lonely", _otlp("http", f"127.0.0.1:{free_port()}"))
    with sidecar:
        assert {sidecar.request("GET", "/v1.0/state/store/k").status for _ in range(20)} == {204}
        assert sidecar.stop() == 0


def test_profiles(tmp_path: Path) -> None:
    """Collapsed stacks, allocations, tasks: text on the profiling port; nonsense is a 400, a second profile a 409."""
    port = free_port()
    sidecar, _ = _sidecar(tmp_path, "profiled", arguments=("--enable-profiling", "--profile-port", str(port)))

    def ask(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    with sidecar:
        status, text = ask("/debug/pprof/profile?seconds=0.2")
        assert status == 200
        assert any(re.fullmatch(r"MainThread(;[^;]+)+ \d+", line) for line in text.splitlines()), text
        status, text = ask("/debug/pprof/goroutine")
        assert (status, "tasks\n" in text, "thread MainThread" in text) == (200, True, True)
        status, text = ask("/debug/pprof/heap?seconds=0.1")
        assert (status, "bytes in" in text) == (200, True)
        assert ask("/debug/pprof/profile?seconds=x")[0] == 400
        assert ask("/debug/pprof/profile?seconds=1e9")[0] == 400
        assert ask("/debug/pprof/unknown")[0] == 404
        assert "goroutine" in ask("/debug/pprof/")[1]
    assert json.dumps(text)
