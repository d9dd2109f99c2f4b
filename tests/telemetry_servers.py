"""Receivers of telemetry for tests: Prometheus, Zipkin, and OTLP made from the official message classes.

    with OtlpReceiver() as receiver:       # also: OtlpHttpReceiver
        receiver.wait(lambda spans: len(spans) > 2)

Zipkin's server comes from Maven Central into a cache folder; without Java or Maven its tests are skipped.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from servers import Server, ServerMissing, program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from servers import Certificates

ZIPKIN_VERSION = "3.5.1"
CACHE = Path(os.environ.get("PILLION_TEST_CACHE", str(Path.home() / ".cache" / "pillion-tests")))
WAIT_S = 90.0


class Received:
    """One span as a receiver got it. `attributes` and `resource` by key; identifiers in hexadecimal."""

    def __init__(self, span: Any, resource: dict[str, str], scope: str) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.state: str = span.trace_state
        self.attributes = {pair.key: pair.value.string_value for pair in span.attributes}
        self.error: str | None = span.status.message if span.status.code == 2 else None
        self.took_ns: int = span.end_time_unix_nano - span.start_time_unix_nano
        self.resource, self.scope = resource, scope

    @property
    def service(self) -> str:
        return self.resource["service.name"]

    def __repr__(self) -> str:
        return f"<{self.service} {self.name} {self.trace_id[:6]} {self.span_id[:6]} of {self.parent_id[:6] or 'none'}>"


class _Receiver:
    """Keeps every span. `metadata` has what came with the requests."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.metadata: list[dict[str, str]] = []
        self._changed = threading.Condition()

    def take(self, request: Any, metadata: dict[str, str]) -> None:
        with self._changed:
            self.metadata.append(metadata)
            for sender in request.resource_spans:
                about = {pair.key: pair.value.string_value for pair in sender.resource.attributes}
                for scoped in sender.scope_spans:
                    self.spans += [Received(span, about, scoped.scope.name) for span in scoped.spans]
            self._changed.notify_all()

    def wait(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """Wait until `enough` says so of all spans so far; return them."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self.spans), WAIT_S):
                raise AssertionError(f"these spans came in {WAIT_S:g} s: {self.spans}")
            return list(self.spans)


class OtlpReceiver(_Receiver):
    """The official service over gRPC, with `certificates` over TLS. `refusals` answer the first requests."""

    def __init__(self, refusals: Sequence[grpc.StatusCode] = (), certificates: Certificates | None = None) -> None:
        super().__init__()
        self._refusals = list(refusals)
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        if certificates is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (certificates.server_key.read_bytes(), certificates.server.read_bytes())
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.address = f"127.0.0.1:{self.port}"

    def Export(self, request: Any, context: Any) -> Any:
        """Take the spans of a request."""
        if self._refusals:
            context.abort(self._refusals.pop(0), "not now")
        self.take(request, {key: str(value) for key, value in context.invocation_metadata()})
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


class OtlpHttpReceiver(_Receiver):
    """The same over HTTP. `refusals` are statuses that the first requests are answered with."""

    def __init__(self, refusals: Sequence[int] = ()) -> None:
        super().__init__()
        self.paths: list[str] = []
        left = list(refusals)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                status = left.pop(0) if left else 200
                if status == 200:
                    request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                    receiver.take(request, {key.lower(): value for key, value in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class PrometheusServer(Server):
    """Prometheus, scraping `target` (host:port) every 500 ms."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def command(self) -> Sequence[str]:
        config = self.folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f"scrape_configs: [{{job_name: sidecar, static_configs: [{{targets: ['{self.target}']}}]}}]\n"
        )
        return (
            program("prometheus", "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={self.address}", "--log.level=warn",
        )  # fmt: skip

    def answers(self) -> bool:
        return _get(self.port, "/-/ready") is not None

    def query(self, expression: str) -> list[Any]:
        """Return what an expression gives now."""
        data = _get(self.port, "/api/v1/query?query=" + expression.replace(" ", "%20"))
        return list(json.loads(data or b"{}").get("data", {}).get("result", []))


class ZipkinServer(Server):
    """Zipkin, with its spans in memory."""

    def command(self) -> Sequence[str]:
        java = program("java", "openjdk-17-jre-headless")
        return (
            java, "-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar", str(zipkin_jar()),
            "--armeria.ports[0].port=" + str(self.port), "--armeria.ports[0].protocols[0]=http",
        )  # fmt: skip

    def answers(self) -> bool:
        return _get(self.port, "/health") is not None

    def trace(self, trace_id: str) -> list[Any]:
        """Return the spans of a trace, none while there is no such trace."""
        data = _get(self.port, f"/api/v2/trace/{trace_id}")
        return [] if data is None else list(json.loads(data))


def zipkin_jar() -> Path:
    """Return Zipkin's server, fetched once into the cache. Raises `ServerMissing`."""
    jar = CACHE / f"zipkin-server-{ZIPKIN_VERSION}-exec.jar"
    if not jar.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise ServerMissing("mvn", "maven")
        CACHE.mkdir(parents=True, exist_ok=True)
        artifact = f"io.zipkin:zipkin-server:{ZIPKIN_VERSION}:jar:exec"
        run = subprocess.run(
            (maven, "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={CACHE}"),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        if run.returncode or not jar.exists():
            raise ServerMissing(artifact, "a Maven repository that has it")
    return jar


def _get(port: int, path: str) -> bytes | None:
    """Return the body of a 200, None for anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
