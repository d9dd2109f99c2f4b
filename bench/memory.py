"""What a sidecar holds when much is asked of it: many subscriptions, idle connections, and addresses of methods."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from measure import Load, wait_http, wrk

if TYPE_CHECKING:
    from run import Bench

SUBSCRIPTIONS, CONNECTIONS, URLS = 1_000, 10_000, 1_000_000
BATCH_S = 10.0
DISTINCT = """\
local number = START
request = function()
  number = number + 1
  return wrk.format("GET", "/v1.0/invoke/laden/method/things/" .. number)
end
"""
SUBSCRIPTION = """\
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: s{number}}}
spec: {{pubsubname: pubsub, topic: laden-{number}, routes: {{default: /events}}}}
"""


def laden_mb(bench: Bench) -> tuple[Load, float]:
    """Return the load, and the resident megabytes of a sidecar that holds all of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CONNECTIONS * 2), hard))  # inherited by the sidecar
    documents = "---\n".join(SUBSCRIPTION.format(number=number) for number in range(SUBSCRIPTIONS))
    process, port, _ = bench.sidecar("laden", bench.app_port, resources=documents)
    held: list[socket.socket] = []
    try:
        held += (connected(port) for _ in range(CONNECTIONS))
        done = 0
        while done < URLS:  # wrk is told a time, not a number
            url = f"http://127.0.0.1:{port}/v1.0/healthz"
            load = wrk(url, seconds=BATCH_S, script=DISTINCT.replace("START", str(done)))
            done += load.requests
        wait_http(port, "/v1.0/healthz", 204, process)
        return Load(done, load.rate, load.p50_ms, load.p99_ms), process.rss_mb()
    finally:
        for one in held:
            one.close()
        bench.end(process)


def connected(port: int) -> socket.socket:
    """Return a connection that has served a request and is idle."""
    found = socket.create_connection(("127.0.0.1", port))
    found.sendall(b"GET /v1.0/healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
    assert found.recv(4096).startswith(b"HTTP/1.1 204")
    return found
