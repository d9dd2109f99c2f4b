"""What telemetry costs: CPU of one sidecar per request, with all of it off, with the defaults, and with all traced.

    python bench/telemetry.py [--rounds N] [--seconds S]

The variants run side by side and take turns, so that what else the machine does falls on all of them. Spans go over
OTLP to a server made from OpenTelemetry's own classes, in a process of its own. User and system time are told apart:
the kernel's share depends on how many requests wait in one read, not on what is done with them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
from measure import Process, free_port, get, wait_http, wrk

COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec: {type: state.in-memory, version: v1}
"""
CONFIGURATION = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: bench}\nspec:\n"
CARDINALITY = "  metric: {http: {increasedCardinality: true}}\n"
VARIANTS = {
    "all off": '  metric: {enabled: false}\n  tracing: {samplingRate: "0"}\n',
    "metrics off, contexts passed through": "  metric: {enabled: false}\n",
    "defaults: metrics, contexts passed through": CARDINALITY,
    "contexts made, nothing sampled": CARDINALITY + '  tracing: {samplingRate: "0.000000001"}\n',
    "every request to OTLP over gRPC": CARDINALITY
    + '  tracing: {samplingRate: "1", otel: {protocol: grpc, isSecure: false, endpointAddress: "127.0.0.1:PORT"}}\n',
}
RECEIVER = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages, trace_service_pb2_grpc as service
class Receiver(service.TraceServiceServicer):
    def Export(self, request, context):
        return messages.ExportTraceServiceResponse()
server = grpc.server(ThreadPoolExecutor(2))
service.add_TraceServiceServicer_to_server(Receiver(), server)
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""


class Variant:
    """One sidecar under one configuration."""

    def __init__(self, folder: Path, name: str, spec: str, app_port: int) -> None:
        self.name, self.port = name, free_port()
        config = folder / f"{self.port}.yaml"
        config.write_text(CONFIGURATION + spec)
        self.process = Process(
            [
                sys.executable, "-m", "pillion.sidecar.main", "--app-id", f"bench-{self.port}",
                "--app-port", str(app_port), "--dapr-http-port", str(self.port), "--dapr-grpc-port", str(free_port()),
                "--metrics-port", str(free_port()), "--dapr-internal-grpc-port", str(free_port()),
                "--resources-path", str(folder / "r"), "--config", str(config), "--dapr-listen-addresses", "127.0.0.1",
            ]
        )  # fmt: skip
        wait_http(self.port, "/v1.0/healthz/outbound", 204, self.process)
        get(self.port, "/v1.0/state/store", "POST", '[{"key":"k","value":{"a":1,"b":"text"}}]')
        self.user_us: list[float] = []
        self.all_us: list[float] = []

    def run(self, path: str, seconds: float) -> None:
        user, total = self.process.user_s(), self.process.cpu_s()
        load = wrk(f"http://127.0.0.1:{self.port}{path}", seconds=seconds)
        self.user_us.append((self.process.user_s() - user) / load.requests * 1e6)
        self.all_us.append((self.process.cpu_s() - total) / load.requests * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "r").mkdir()
        (folder / "r" / "store.yaml").write_text(COMPONENT)
        receiver_port, app_port = free_port(), free_port()
        receiver = subprocess.Popen([sys.executable, "-c", RECEIVER, str(receiver_port)])
        app = Process([sys.executable, str(Path(measure.__file__).parent / "app.py"), "http", str(app_port)])
        variants = []
        try:
            wait_http(app_port, "/", 200, app)
            for title, spec in VARIANTS.items():
                variants.append(Variant(folder, title, spec.replace("PORT", str(receiver_port)), app_port))
            for what, path in (
                ("state get, in memory", "/v1.0/state/store/k"),
                ("invoke, one sidecar", "/v1.0/invoke/bench-PORT/method/x"),
            ):
                for variant in variants:
                    variant.user_us.clear()
                    variant.all_us.clear()
                for _ in range(options.rounds):
                    for variant in variants:
                        variant.run(path.replace("PORT", str(variant.port)), options.seconds)
                base = statistics.median(variants[0].user_us)
                print(f"{what}: microseconds of user CPU for each request (median, least), with the kernel's share")
                for variant in variants:
                    middle, least = statistics.median(variant.user_us), min(variant.user_us)
                    whole = statistics.median(variant.all_us)
                    print(f"  {variant.name:44} {middle:6.1f} {least:6.1f} {middle - base:+6.1f}   {whole:6.1f}")
        finally:
            for variant in variants:
                variant.process.end()
            app.end()
            receiver.terminate()
            receiver.wait()


if __name__ == "__main__":
    main()
