"""The benchmark: CPU of the sidecars per request, rate, latencies and memory, beside a floor in the same run.

    bench/run                 the whole table, five seconds for each row
    bench/run --write         the same, and writes bench/RESULTS.md
    bench/run --check         short; fails when a row costs more than four times its known ratio to the floor
    bench/run --only NAME     rows whose name contains NAME, those included that take minutes; with --write they take
                              their places among those of the last whole run

The floor is the smallest possible HTTP server on the same loop and parser. CPU is that of the sidecar processes alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import additions
import measure
import memory
import results
import workflows
from additions import Difference
from measure import Load, Process, free_port, get, wait_http, wrk
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
SAVE = '[{"key":"k1","value":{"a":1,"b":"text"}}]'
EVENT = '{"a":1,"b":"text"}'
COMPONENTS = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: redis}}
spec: {{type: state.redis, version: v1, metadata: [{{name: redisHost, value: "127.0.0.1:{redis}"}}]}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: pubsub}}
spec: {{type: pubsub.redis, version: v1, metadata: [{{name: redisHost, value: "127.0.0.1:{redis}"}}]}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: settings}}
spec: {{type: configuration.redis, version: v1, metadata: [{{name: redisHost, value: "127.0.0.1:{redis}"}}]}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: sqlite}}
spec: {{type: state.sqlite, version: v1, metadata: [{{name: connectionString, value: "{folder}/state.db"}}]}}
"""
CONFIG = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: bench}}
spec:
  nameResolution: {{component: pillion, version: v1, configuration: {{connectionString: "{folder}/names.db"}}}}
"""


@dataclass(slots=True)
class Result:
    """One row: microseconds of sidecar CPU for each request, and what the driver saw."""

    name: str
    target_us: float | None
    cpu_us: float
    load: Load
    rss_mb: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured. `target_us` is the figure promised, `ratio` what it costs in floors on a quiet machine."""

    name: str
    target_us: float | None
    ratio: float
    run: Callable[[Bench, float], tuple[Load, list[Process]] | Difference]
    note: str = ""
    each: int = 1
    """How much one request carries: the cost is that of one of them."""
    adds: bool = False
    """The cost is what the row's request costs more than one without."""
    is_long: bool = False
    """Run when its name is asked for."""


class Bench:
    """Everything that runs: Redis, the applications, two sidecars, the floor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = 0
        redis = free_port()
        self.processes: list[Process] = []
        self.start(["redis-server", "--port", str(redis), "--save", "", "--appendonly", "no", "--dir", str(folder)])
        resources = folder / "resources"
        resources.mkdir()
        (resources / "components.yaml").write_text(COMPONENTS.format(redis=redis, folder=folder))
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG.format(folder=folder))
        self.resources = resources
        self.floor_port, self.app_port, self.grpc_app_port, self.topic_port = (free_port() for _ in range(4))
        self.floor = self.app("http", self.floor_port)
        self.app("http", self.app_port)
        self.app("grpc", self.grpc_app_port)
        self.app("http", self.topic_port, "bench")
        for port in (self.floor_port, self.app_port, self.topic_port):
            wait_http(port, "/", 200, self.floor)
        self.ready_s = 0.0
        self.one, self.one_http, self.one_grpc = self.sidecar("one", self.app_port)
        self.two, self.two_http, self.two_grpc = self.sidecar("two")
        self.three, _, _ = self.sidecar("three", self.topic_port)
        self.four, _, _ = self.sidecar("four", self.grpc_app_port, "--app-protocol", "grpc")
        self.idle_mb = self.two.rss_mb()
        get(self.one_http, "/v1.0/state/redis", "POST", SAVE)
        subprocess.run(["redis-cli", "-p", str(redis), "SET", "colour", "blue||1"], check=True, capture_output=True)

    def start(self, command: list[str]) -> Process:
        process = Process(command, cwd=self.folder)
        self.processes.append(process)
        return process

    def app(self, *arguments: object) -> Process:
        return self.start([sys.executable, str(HERE / "app.py"), *map(str, arguments)])

    def configuration(self, spec: str) -> Path:
        """Return a configuration file with more in it."""
        self._files += 1
        path = self.folder / f"config-{self._files}.yaml"
        path.write_text(self.config.read_text() + spec)
        return path

    def end(self, process: Process) -> None:
        self.processes.remove(process)
        process.end()

    def sidecar(
        self,
        app_id: str,
        app_port: int = 0,
        *more: str,
        config: Path | None = None,
        resources: str = "",
        answer: int = 204,
    ) -> tuple[Process, int, int]:
        """Start a sidecar; `resources` are documents besides those that all have, `answer` is that of its health."""
        http, grpc = free_port(), free_port()
        folders = ["--resources-path", str(self.resources)]
        if resources:
            own = self.folder / f"resources-{app_id}"
            own.mkdir(exist_ok=True)
            (own / "own.yaml").write_text(resources)
            folders += ["--resources-path", str(own)]
        began = time.perf_counter()
        process = self.start(
            [
                sys.executable, "-m", "pillion.sidecar.main", "--app-id", app_id, "--app-port", str(app_port),
                "--dapr-http-port", str(http), "--dapr-grpc-port", str(grpc), "--dapr-internal-grpc-port",
                str(free_port()), "--metrics-port", str(free_port()), *folders,
                "--config", str(config or self.config), *more,
            ]
        )  # fmt: skip
        wait_http(http, "/v1.0/healthz", answer, process)
        self.ready_s = time.perf_counter() - began
        return process, http, grpc

    def close(self) -> None:
        for process in reversed(self.processes):
            process.end()

    def http(self, port: int, path: str, seconds: float, body: str = "", connections: int = 16) -> Load:
        return wrk(f"http://127.0.0.1:{port}{path}", seconds=seconds, body=body, connections=connections)


BULK = 100
ENTRIES = json.dumps(
    [{"entryId": str(number), "event": json.loads(EVENT), "contentType": "application/json"} for number in range(BULK)]
)


def bulk(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    return bench.http(bench.one_http, "/v1.0/publish/bulk/pubsub/bulk", seconds, ENTRIES), [bench.one]


def laden(bench: Bench, seconds: float) -> Difference:
    load, rss_mb = memory.laden_mb(bench)
    return Difference(load, 0.0, rss_mb)


def floor(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    return bench.http(bench.floor_port, "/", seconds), [bench.floor]


def http_row(path: str, body: str = "", connections: int = 16) -> Callable[[Bench, float], tuple[Load, list[Process]]]:
    def run(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
        return bench.http(bench.one_http, path, seconds, body, connections), [bench.one]

    return run


def grpc_get(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    message = m.GetStateRequest(store_name="redis", key="k1").SerializeToString()
    return measure.grpc(bench.one_grpc, "/dapr.proto.runtime.v1.Dapr/GetState", message, seconds=seconds), [bench.one]


def invoke_two(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    return bench.http(bench.two_http, "/v1.0/invoke/one/method/x", seconds), [bench.one, bench.two]


def proxy_two(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    load = measure.grpc(bench.two_grpc, "/bench.Echo/Say", b"hello", seconds=seconds, metadata={"dapr-app-id": "four"})
    return load, [bench.two, bench.four]


def delivered(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
    """Publishing and delivering together: the row counts delivered messages and waits for the last of them."""
    before = json.loads(get(bench.topic_port, "/count")[1])["events"]
    began = time.perf_counter()
    load = wrk(
        f"http://127.0.0.1:{bench.one_http}/v1.0/publish/pubsub/bench", seconds=seconds, body=EVENT, connections=16
    )
    count = 0
    while time.perf_counter() - began < seconds + 60:
        count = json.loads(get(bench.topic_port, "/count")[1])["events"] - before
        if count >= load.requests:
            break
        time.sleep(0.05)
    else:
        raise RuntimeError(f"only {count} of {load.requests} messages were delivered")
    took = time.perf_counter() - began
    return Load(count, count / took, load.p50_ms, load.p99_ms), [bench.one, bench.three]


WORKFLOW = "30 at once; placement, scheduler and sidecar together; the latency is that of a whole workflow"
ROWS = (
    Row("floor: HTTP server, same loop and parser", None, 1.0, floor),
    Row("HTTP state get, Redis", 30, 6, http_row("/v1.0/state/redis/k1")),
    Row("HTTP state save, Redis", 33, 7, http_row("/v1.0/state/redis", SAVE)),
    Row("gRPC GetState, Redis", 38, 8, grpc_get),
    Row("HTTP configuration get, Redis", 30, 5, http_row("/v1.0/configuration/settings?key=colour")),
    Row("HTTP invoke, one sidecar", 55, 9, http_row("/v1.0/invoke/one/method/x")),
    Row("HTTP invoke, two sidecars (both counted)", 120, 24, invoke_two),
    Row("gRPC proxy unary, two sidecars (both counted)", 150, 30, proxy_two),
    Row("HTTP bulk publish of 100, Redis, per message", 6, 1, bulk, each=BULK),
    Row("HTTP publish, Redis", 40, 7, http_row("/v1.0/publish/pubsub/quiet", EVENT)),
    Row("publish to delivered, Redis, per message (both counted)", 90, 18, delivered, "latencies are of publishing"),
    Row("HTTP state save, SQLite, durable, 64 connections", None, 12, http_row("/v1.0/state/sqlite", SAVE, 64),
        "to reach: 20,000/s, p99 under 15 ms"),
    Row("added by OTLP tracing of all: state get", 20, 3, additions.tracing(additions.GET), adds=True),
    Row("added by OTLP tracing of all: invoke", 20, 3, additions.tracing("/v1.0/invoke/SELF/method/x"), adds=True),
    Row("added by timeout, retry and breaker: state get", 5, 1, additions.policy, adds=True),
    Row("added by access rules: invoke, callee", 3, 1, additions.rules, adds=True),
    Row("added by bearer, token seen before: state get", 25, 3, additions.bearer(first=False), adds=True),
    Row("added by bearer, token new: state get", None, 60, additions.bearer(first=True), adds=True),
    Row("workflow of 5 activities, Python SDK, its messages alone", None, 150, workflows.row("", "sdk", 600),
        "30 at once; carried, with neither engine nor store: the SDK's rows below cannot cost less"),
    Row("workflow of 5 activities, Python SDK, SQLite", 1500, 450, workflows.row("sqlite", "sdk", 600), WORKFLOW),
    Row("workflow of 5 activities, Python SDK, Redis", 1500, 420, workflows.row("redis", "sdk", 600), WORKFLOW),
    Row("workflow of 5 activities, bare worker, SQLite", 1500, 180, workflows.row("sqlite", "raw", 1500), WORKFLOW),
    Row("workflow of 5 activities, bare worker, Redis", 1500, 170, workflows.row("redis", "raw", 1500), WORKFLOW),
    Row("memory: 1,000 subscriptions, 10,000 connections, 1,000,000 URLs", None, 1, laden, "to reach: RSS under 150 MB",
        is_long=True),
)  # fmt: skip


KNOWN = {row.name: row.ratio for row in ROWS}


def main() -> int:
    options = arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    measurements: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="pillion-bench-") as folder:
        bench = Bench(Path(folder))
        try:
            only = options.only.lower()
            rows = [row for row in ROWS if row is ROWS[0] or (only in row.name.lower() and (only or not row.is_long))]
            with Progress(console=console, transient=True, disable=not sys.stdout.isatty()) as progress:
                for row in progress.track(rows, description="measuring"):
                    if not (row.adds or row.is_long):  # those warm themselves
                        row.run(bench, min(1.0, options.seconds))
                    result = measured(row, bench, options.seconds)
                    if options.check and measurements and gross(result, measurements[0]):
                        result = measured(row, bench, options.seconds)  # a neighbour's load is not a regression
                    measurements.append(result)
            memory = [f"ready in {bench.ready_s * 1000:.0f} ms", f"idle RSS {bench.idle_mb:.1f} MB"]
            each = shared_mb(bench)
            memory.append(f"each further sidecar of a shared host {each:.1f} MB")
        finally:
            bench.close()
    show(console, measurements, memory)
    if options.json:
        print(json.dumps([{**row_dict(row)} for row in measurements]))
    if options.write:
        write(measurements, memory, only=bool(only))
    return check(measurements) if options.check else 0


def measured(row: Row, bench: Bench, seconds: float) -> Result:
    watched = bench.processes
    before = {id(process): process.cpu_s() for process in watched}
    found = row.run(bench, seconds)
    if isinstance(found, Difference):
        return Result(row.name, row.target_us, found.more_us, found.load, found.rss_mb, row.note)
    load, processes = found
    spent = sum(process.cpu_s() - before[id(process)] for process in processes)
    if load.errors:
        raise RuntimeError(f"{row.name}: {load.errors} requests failed")
    rss = max(process.rss_mb() for process in processes)
    return Result(row.name, row.target_us, spent / load.requests / row.each * 1e6, load, rss, row.note)


def shared_mb(bench: Bench) -> float:
    """Megabytes that each of nine further sidecars adds to a process that has one."""
    text = subprocess.run(
        [sys.executable, str(HERE / "shared_host.py"), "10", str(bench.resources)],
        capture_output=True, text=True, check=True, cwd=bench.folder,
    ).stdout  # fmt: skip
    first, last = map(int, text.split()[-2:])
    return (last - first) / 9 / 1024


def row_dict(row: Result) -> dict[str, object]:
    return {
        "name": row.name, "target_us": row.target_us, "cpu_us": round(row.cpu_us, 1), "rate": round(row.load.rate),
        "p50_ms": row.load.p50_ms, "p99_ms": row.load.p99_ms, "rss_mb": round(row.rss_mb, 1),
    }  # fmt: skip


def show(console: Console, results: list[Result], memory: list[str]) -> None:
    table = Table(title="CPU of the sidecars for each request")
    for name, side in (
        ("work", "left"), ("to reach", "right"), ("CPU us", "right"), ("floors", "right"), ("rate /s", "right"),
        ("p50 ms", "right"), ("p99 ms", "right"), ("RSS MB", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in results:
        met = row.target_us is None or row.cpu_us <= row.target_us
        table.add_row(*cells(row, results[0]), style=None if met else "red")
    console.print(table)
    console.print(", ".join(memory))


def cells(row: Result, base: Result) -> list[str]:
    costs = [f"{row.cpu_us:.1f}", f"{row.cpu_us / base.cpu_us:.1f}"] if row.cpu_us else ["", ""]  # memory has none
    return [
        row.name, f"{row.target_us:g}" if row.target_us else "", *costs,
        f"{row.load.rate:,.0f}", f"{row.load.p50_ms:.2f}", f"{row.load.p99_ms:.2f}", f"{row.rss_mb:.0f}",
    ]  # fmt: skip


def write(rows: list[Result], memory: list[str], *, only: bool) -> None:
    """Write bench/RESULTS.md. What was not measured stays: long rows, and all others where `only` some were wanted."""
    git = shutil.which("git") or "git"
    commit = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    machine = f"Python {platform.python_version()}, {platform.system()}, {cpu or platform.machine()}"
    intro = [
        "# What a request costs",
        "",
        f"`bench/run --write` at commit {commit}, {machine}; drivers and Redis run on the same cores.",
        "CPU is that of the sidecar processes alone, in microseconds for each request; 16 connections unless the row",
        "says otherwise. The floor is the smallest HTTP server on the same loop and parser, in the same run: ratios to",
        "it hold when the machine's speed drifts.",
    ]
    base, apart = rows[0], f"measured apart, at commit {commit}"
    shown = rows[1:] if only else rows
    now = results.Page("\n".join(intro), {row.name: cells(row, base) for row in shown}, ", ".join(memory) + ".")
    for row in shown:
        said = [row.note, apart if only else ""]
        if any(said):
            now.notes[row.name] = "; ".join(filter(None, said)) + "."
    path, notes, names = HERE / "RESULTS.md", HERE / "NOTES.md", list(KNOWN)
    before = results.read(path.read_text() if path.exists() else "", names)
    long = [row.name for row in ROWS if row.is_long]
    page = results.part(before, now) if only and before.rows else results.whole(before, now, long)
    path.write_text(results.render(page, names, notes.read_text() if notes.exists() else ""))


def check(results: list[Result]) -> int:
    """Fail on a gross regression of a ratio; times depend on the machine and are never judged."""
    base = results[0]
    bad = [row for row in results if gross(row, base)]
    for row in bad:
        print(f"{row.name}: {row.cpu_us / base.cpu_us:.1f} floors, known are {KNOWN[row.name]:g}", file=sys.stderr)
    return 1 if bad else 0


def gross(row: Result, base: Result) -> bool:
    """Whether a row costs more than four times its known ratio to the floor."""
    return row.cpu_us / base.cpu_us > 4 * KNOWN[row.name]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--check", action="store_true", help="one second a row; fail on a gross regression of a ratio")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON too")
    options = parser.parse_args()
    if options.check:
        options.seconds = min(options.seconds, 1.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
