"""A real Zipkin shows one trace across three sidecars; all the applications do is to hand a header on."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from apps import HttpApp
from servers import ServerMissing
from sidecars import SidecarProcess, eventually, sidecars
from telemetry_servers import ZipkinServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from apps import Call

pytestmark = pytest.mark.java
CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: traced}
spec:
  nameResolution:
    component: sqlite
    configuration: {connectionString: "FOLDER/names.db"}
  tracing: {samplingRate: "1", zipkin: {endpointAddress: "http://127.0.0.1:PORT/api/v2/spans"}}
"""


@pytest.fixture(scope="module")
def zipkin() -> Iterator[ZipkinServer]:
    """A Zipkin; starting it takes about ten seconds."""
    server = ZipkinServer()
    try:
        server.__enter__()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        server.close()


def test_one_trace_across_three_sidecars(tmp_path: Path, zipkin: ZipkinServer) -> None:
    """front calls middle, whose application goes on through its own sidecar: four spans, each under the one before."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATION.replace("FOLDER", str(tmp_path)).replace("PORT", str(zipkin.port)))
    where = ("--config", str(config))
    ports: dict[str, int] = {}

    def forward(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path != "/first":
            return 200, {}, b""
        connection = http.client.HTTPConnection("127.0.0.1", ports["middle"], timeout=60)
        try:
            connection.request(
                "GET", "/v1.0/invoke/back/method/second", headers={"traceparent": call.headers["traceparent"]}
            )
            answer = connection.getresponse()
            return answer.status, {}, answer.read()
        finally:
            connection.close()

    with HttpApp(answer=forward) as middle_app, HttpApp() as back_app:
        front = SidecarProcess(tmp_path, "front", arguments=where)
        middle = SidecarProcess(tmp_path, "middle", app_port=middle_app.port, arguments=where)
        back = SidecarProcess(tmp_path, "back", app_port=back_app.port, arguments=where)
        ports["middle"] = middle.http_port
        with sidecars(front, middle, back):
            middle.wait("/v1.0/healthz")
            back.wait("/v1.0/healthz")
            answer = front.request("GET", "/v1.0/invoke/middle/method/first")
            assert answer.status == 200
            trace_id = answer.headers["traceparent"].split("-")[1]
            eventually(lambda: len(zipkin.trace(trace_id)) >= 4)
            rows = zipkin.trace(trace_id)
    rows.sort(key=lambda row: row["timestamp"])
    assert [(row["localEndpoint"]["serviceName"], row["kind"], row["name"]) for row in rows] == [
        ("front", "CLIENT", "calllocal/middle/first"),
        ("middle", "SERVER", "calllocal/middle/first"),
        ("middle", "CLIENT", "calllocal/back/second"),
        ("back", "SERVER", "calllocal/back/second"),
    ]
    assert [row.get("parentId") for row in rows] == [None, *(row["id"] for row in rows[:3])]
    assert rows[0]["tags"]["dapr.status_code"] == "200"
