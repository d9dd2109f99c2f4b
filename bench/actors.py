"""What actors cost: calls here and through two sidecars, many instances, an idle one's memory.

    python bench/actors.py [--seconds 5] [--actors 20000] [--json]

Starts a placement service, an application that hosts actors of one type, its sidecar, and a sidecar without an
application that calls them. CPU is that of the sidecars, in microseconds for each call. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console
from rich.table import Table

from app import Http
from measure import Load, Process, free_port, get, wait_http, wrk
from pillion.net.exchange import Request
from pillion.net.http_client import HttpClient

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
STORE = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: store}}
spec:
  type: state.sqlite
  version: v1
  metadata:
    - {{name: connectionString, value: "{folder}/state.db"}}
    - {{name: actorStateStore, value: "true"}}
"""
SPREAD = """\
wrk.body = "x"
request = function() return wrk.format("PUT", "/v1.0/actors/Cat/" .. math.random({actors}) .. "/method/meow") end
"""
TARGETS = {"a method, here": 70, "a method, through two sidecars (both counted)": 150}
MOST_BYTES, MOST_S = 2048, 30.0


class Cats(Http):
    """The application: hosts Cat, answers every turn."""

    def on_message_complete(self) -> None:
        if self.url == b"/dapr/config":
            self.answer(self.document({"entities": ["Cat"]}))
        else:
            super().on_message_complete()


async def serve(port: int) -> None:
    await asyncio.get_running_loop().create_server(Cats, HOST, port, backlog=1024)
    await asyncio.Event().wait()


class Bench:
    """Everything that runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        (folder / "resources").mkdir()
        (folder / "resources" / "store.yaml").write_text(STORE.format(folder=folder))
        (folder / "empty").mkdir()
        self.placement, port = free_port(), free_port()
        self.start("-m", "pillion.control.placement_main", "--port", self.placement, "--healthz-port", free_port(),
                   "--metrics-port", free_port())  # fmt: skip
        app = self.start(__file__, "--serve", port)
        wait_http(port, "/", 200, app)
        self.one, self.one_http = self.sidecar("one", "resources", "--app-port", port)
        self.two, self.two_http = self.sidecar("two", "empty")

    def start(self, *arguments: object) -> Process:
        process = Process([sys.executable, *map(str, arguments)], cwd=self.folder)
        self.processes.append(process)
        return process

    def sidecar(self, app_id: str, resources: str, *more: object) -> tuple[Process, int]:
        http = free_port()
        process = self.start(
            "-m", "pillion.sidecar.main", "--app-id", app_id, "--dapr-http-port", http,
            "--dapr-grpc-port", free_port(), "--dapr-internal-grpc-port", free_port(),
            "--metrics-port", free_port(), "--resources-path", self.folder / resources,
            "--placement-host-address", f"{HOST}:{self.placement}", *more,
        )  # fmt: skip
        wait_http(http, "/v1.0/healthz", 204, process)
        return process, http

    def close(self) -> None:
        for process in reversed(self.processes):
            process.end()


def calls(port: int, actors: int, seconds: float, watched: Sequence[Process]) -> tuple[float, Load]:
    """Return microseconds of CPU for a call and what the driver saw."""
    script = SPREAD.format(actors=actors)
    wrk(f"http://{HOST}:{port}", seconds=1.0, script=script)
    before = sum(process.cpu_s() for process in watched)
    load = wrk(f"http://{HOST}:{port}", seconds=seconds, script=script)
    if load.errors:
        raise RuntimeError(f"{load.errors} calls failed")
    return (sum(process.cpu_s() for process in watched) - before) / load.requests * 1e6, load


async def activate(port: int, count: int, first: int) -> None:
    """Call `count` actors once, 64 at a time."""
    client = HttpClient(HOST, port)
    numbers = iter(range(first, first + count))

    async def caller() -> None:
        for number in numbers:
            reply = await client.request(Request("PUT", b"/v1.0/actors/Cat/many-%d/method/meow" % number, [], b"x"))
            if reply.status != 200:
                raise RuntimeError(f"actor {number}: {reply.status} {reply.body!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(64):
            group.create_task(caller())
    await client.close()


def many(bench: Bench, count: int) -> tuple[float, float]:
    """Return the seconds in which `count` instances become active, and the bytes that each then costs the sidecar."""
    asyncio.run(activate(bench.one_http, count // 10, 1_000_000_000))  # what any number of them needs once
    before = bench.one.rss_mb()
    began = time.perf_counter()
    asyncio.run(activate(bench.one_http, count, 0))
    took = time.perf_counter() - began
    active = json.loads(get(bench.one_http, "/v1.0/metadata")[1])["actorRuntime"]["activeActors"][0]["count"]
    if active < count:
        raise RuntimeError(f"only {active} instances are active")
    return took, (bench.one.rss_mb() - before) * 1024 * 1024 / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--actors", type=int, default=20_000, help="instances of the last two rows")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    table = Table("", "CPU us", "target", "calls/s", "p50 ms", "p99 ms")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pillion-bench-") as folder:
        bench = Bench(Path(folder))
        try:
            for (name, target), port, watched in zip(
                TARGETS.items(), (bench.one_http, bench.two_http), ([bench.one], [bench.one, bench.two]), strict=True
            ):
                cost, load = calls(port, 1000, options.seconds, watched)
                found[name] = cost
                table.add_row(name, f"{cost:.0f}", str(target), f"{load.rate:.0f}", f"{load.p50_ms:.2f}",
                              f"{load.p99_ms:.2f}")  # fmt: skip
            took, size = many(bench, options.actors)
            found["activation s"], found["instance bytes"] = took, size
        finally:
            bench.close()
    if options.json:
        print(json.dumps(found))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"{options.actors} instances active in {took:.1f} s (target {MOST_S:g} s)")
    console.print(f"an idle instance costs {size:.0f} bytes (target {MOST_BYTES})")


if __name__ == "__main__":
    main()
