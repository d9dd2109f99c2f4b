"""What is added to a request by what may surround it: tracing, policies, access rules, tokens.

Each row compares two sidecars that differ in one thing only. They take turns, so that what else the machine does falls
on both, and the row is the median of the differences between neighbouring turns.
"""

from __future__ import annotations

import http.server
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from measure import Load, Process, free_port, get, wrk

if TYPE_CHECKING:
    from collections.abc import Callable

    from run import Bench

TURNS = 5
GET = "/v1.0/state/redis/k1"
FIRST = 400
"""Tokens that are verified for the first time."""

RESILIENCY = """\
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: full}
spec:
  policies:
    timeouts: {t: 5s}
    retries: {r: {policy: constant, duration: 1s, maxRetries: 3}}
    circuitBreakers: {c: {interval: 10s, timeout: 5s, trip: "consecutiveFailures > 5"}}
  targets:
    components:
      redis: {outbound: {timeout: t, retry: r, circuitBreaker: c}}
"""
TRACING = '  tracing: {samplingRate: "1", otel: {protocol: grpc, isSecure: false, endpointAddress: "127.0.0.1:PORT"}}\n'
RULES = """\
  accessControl:
    defaultAction: deny
    policies:
    - {appId: other, namespace: default, trustDomain: public, defaultAction: allow}
    - appId: two
      namespace: default
      trustDomain: public
      defaultAction: deny
      operations:
      - {name: /admin/*, httpVerb: ["*"], action: deny}
      - {name: /x, httpVerb: [GET], action: allow}
"""
ALLOWING = RULES.replace("    defaultAction: deny\n    policies", "    defaultAction: allow\n    policies")
BEARER = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: bearer}}
spec:
  type: middleware.http.bearer
  version: v1
  metadata:
    - {{name: issuer, value: "http://127.0.0.1:{port}"}}
    - {{name: audience, value: bench}}
    - {{name: jwksURL, value: "http://127.0.0.1:{port}/keys"}}
"""
PIPELINE = "  httpPipeline: {handlers: [{name: bearer, type: middleware.http.bearer}]}\n"
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


@dataclass(frozen=True, slots=True)
class Difference:
    """What a row saw: the load on the sidecar with the addition, the CPU that each request costs more, its memory."""

    load: Load
    more_us: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Side:
    """A sidecar and what drives it for some seconds."""

    process: Process
    drive: Callable[[float], Load]

    def cost(self, seconds: float) -> tuple[float, Load]:
        """Return the CPU that one request costs, microseconds."""
        before = self.process.cpu_s()
        load = self.drive(seconds)
        return (self.process.cpu_s() - before) / load.requests * 1e6, load


def compared(without: Side, added: Side, seconds: float) -> Difference:
    """Let two sidecars take turns."""
    slice_s = max(round(seconds / TURNS), 1)  # wrk counts in whole seconds
    without.drive(1)  # warm
    added.drive(1)
    differences: list[float] = []
    loads: list[Load] = []
    for turn in range(TURNS):
        if turn % 2:
            less, _ = without.cost(slice_s)
            more, load = added.cost(slice_s)
        else:
            more, load = added.cost(slice_s)
            less, _ = without.cost(slice_s)
        differences.append(more - less)
        loads.append(load)
    middle = sorted(loads, key=lambda one: one.rate)[TURNS // 2]
    return Difference(middle, statistics.median(differences), added.process.rss_mb())


def over_http(process: Process, port: int, path: str, script: str = "") -> Side:
    return Side(process, lambda seconds: wrk(f"http://127.0.0.1:{port}{path}", seconds=seconds, script=script))


def tracing(path: str) -> Callable[[Bench, float], Difference]:
    def run(bench: Bench, seconds: float) -> Difference:
        port = free_port()
        receiver = bench.start([sys.executable, "-c", RECEIVER, str(port)])
        config = bench.configuration(TRACING.replace("PORT", str(port)))
        process, http_port, _ = bench.sidecar("traced", bench.app_port, config=config)
        try:
            get(http_port, "/v1.0/state/redis", "POST", '[{"key":"k1","value":{"a":1,"b":"text"}}]')
            plain = over_http(bench.one, bench.one_http, path.replace("SELF", "one"))
            return compared(plain, over_http(process, http_port, path.replace("SELF", "traced")), seconds)
        finally:
            bench.end(process)
            bench.end(receiver)

    return run


def policy(bench: Bench, seconds: float) -> Difference:
    process, port, _ = bench.sidecar("guided", bench.app_port, resources=RESILIENCY)
    try:
        get(port, "/v1.0/state/redis", "POST", '[{"key":"k1","value":{"a":1,"b":"text"}}]')
        return compared(over_http(bench.one, bench.one_http, GET), over_http(process, port, GET), seconds)
    finally:
        bench.end(process)


def rules(bench: Bench, seconds: float) -> Difference:
    """The CPU of the callee alone; its caller is the same sidecar both times."""
    process, _, _ = bench.sidecar("ruled", bench.app_port, config=bench.configuration(ALLOWING))
    try:
        plain = over_http(bench.one, bench.two_http, "/v1.0/invoke/one/method/x")
        return compared(plain, over_http(process, bench.two_http, "/v1.0/invoke/ruled/method/x"), seconds)
    finally:
        bench.end(process)


class Issuer(http.server.BaseHTTPRequestHandler):
    """Shows the key that tokens are signed with."""

    key = RSAKey.generate_key(2048, {"kid": "bench", "use": "sig", "alg": "RS256"})

    def do_GET(self) -> None:
        body = json.dumps(KeySet([self.key]).as_dict(private=False)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    @classmethod
    def token(cls, port: int, number: int = 0) -> str:
        claims = {"iss": f"http://127.0.0.1:{port}", "aud": "bench", "sub": str(number), "exp": int(time.time()) + 3600}
        return jwt.encode({"alg": "RS256", "kid": "bench"}, claims, cls.key)


def bearer(*, first: bool) -> Callable[[Bench, float], Difference]:
    """`first`: every request has a token that was never seen before; else all have the same."""

    def run(bench: Bench, seconds: float) -> Difference:
        issuer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        at = issuer.server_port
        config = bench.configuration(PIPELINE)
        resources = BEARER.format(port=at)
        process, port, _ = bench.sidecar("bearer", bench.app_port, config=config, resources=resources, answer=401)
        try:
            plain = over_http(bench.one, bench.one_http, GET)
            if not first:
                header = f"wrk.headers['Authorization'] = 'Bearer {Issuer.token(at)}'"
                asked = get(
                    port, "/v1.0/state/redis", "POST", '[{"key":"k1","value":1}]', authorization(Issuer.token(at))
                )
                assert asked[0] == 204, asked
                return compared(plain, over_http(process, port, GET, header), seconds)
            heads = [authorization(Issuer.token(at, number)) for number in range(FIRST)]
            cost = []
            for known in (False, True):  # the second round tells what a request of this client costs without it
                before = process.cpu_s()
                began = time.perf_counter()
                for head in heads:
                    assert get(port, GET, headers=head)[0] in (200, 204)
                took = time.perf_counter() - began
                cost.append((process.cpu_s() - before) / FIRST * 1e6)
                if not known:
                    load = Load(FIRST, FIRST / took, took / FIRST * 1e3, took / FIRST * 1e3)
            return Difference(load, cost[0] - cost[1], process.rss_mb())
        finally:
            bench.end(process)
            issuer.shutdown()

    return run


def authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
